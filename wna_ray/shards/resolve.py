"""From a spec and its loaded network to a job: fixed points, receptive fields, the canary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import CanaryError, ModelError, NumericsError, SpecError
from wna_ray.moments.responses import FixedPoint, calibrate, is_rounded
from wna_ray.networks.field import Field
from wna_ray.networks.tuning import CANDIDATES, Tuned, choose_batch
from wna_ray.shards.aim import aim, look_for_field
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.gradients import exponents, first_gradient
from wna_ray.shards.job import Job, stimulus_of
from wna_ray.shards.look import assumptions, choose_output, reading_of, require_finite, settle
from wna_ray.shards.names import names_of
from wna_ray.specs.run import Spec
from wna_ray.stimuli.offsets import content_digest, load_basis, load_offset
from wna_ray.stimuli.pictures import Pictures
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.text import first_line

PILOT_IMAGES = 64  # at least so many images choose the fixed points, where there are any
QUANTILE_IMAGES = 4096
"""And so many patches a quantile: it is off by less than 1 % of all patches (2 sd, at the median
1.6 %).
"""


@dataclass(frozen=True, eq=False)
class Resolved:
    """What looking at a model gives.

    Attributes
    ----------
    job
        All that shards share.
    network
        The network in the job's batch, aimed at its units.
    tuned
        How the batch was chosen; None where the spec gives it.
    """

    job: Job
    network: FedNetwork
    tuned: Tuned | None


def resolve(spec: Spec, network: FedNetwork) -> Resolved:
    """Look at the model through the run's first images and fix everything that shards share.

    Parameters
    ----------
    network
        What `wna_ray.shards.loading.load_network` gives for the spec.
    """
    offset, basis = load_offset(spec.stimulus), load_basis(spec.stimulus)
    content, batch = content_digest(spec.stimulus, basis), network.batch

    def stimulus(field: Field | None) -> Stimulus:
        return stimulus_of(spec, offset, field, basis, content)

    try:
        seen = _see(spec, network, stimulus)
    except (ModelError, SpecError):
        raise
    except Exception as error:
        # Whatever the network's own code raises; in later batches it is a shard's failure.
        if spec.numerics.tune:
            raise _no_such_batches(network, error) from error
        raise ModelError(
            f"model: {spec.model} does not take a {spec.numerics.dtype} batch of shape"
            f" {(batch, *network.feed.shape)} on {network.device.type}"
            f" ({type(error).__name__}: {first_line(error)}); see stimulus.shape and numerics.batch"
        ) from error
    spec, network, outputs = seen.spec, seen.network, seen.outputs
    model, decoder = network.model, network.feed.decoder
    names = names_of(spec, model, outputs.shape[1], seen.field)
    require_finite(spec.model, outputs, names)
    assumed = assumptions(spec, network, network.reading)
    points: dict[str, FixedPoint] = {r.kind: calibrate(r, outputs) for r in spec.responses}
    constant = tuple(row for point in points.values() for row in point.uncentred)
    network = network.read_as(replace(network.reading, constant=constant))
    spec = spec.in_format(network.network.memory_format)
    job = Job(
        spec=spec,
        device=network.device.type,  # type: ignore[arg-type]
        offset=offset,
        source=model.source,
        digest=model.digest,
        names=names,
        normalise=network.feed.normalise,
        points=points,
        canary=_canary(spec, seen.stimulus, network, seen.first),
        gradients=exponents(spec, seen.stimulus, network) if spec.estimator == "gradient" else {},
        field=seen.field,
        whole=seen.whole,
        basis=basis,
        content=content,
        decoder=None if decoder is None else decoder.record,
        reading=network.reading,
        assumed=assumed,
    )
    return Resolved(job, network, seen.tuned)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the first images have shown: the stimulus as the units see it, outputs of the first
    batch, and one row of outputs a patch of all of the pilot's.
    """

    spec: Spec
    network: FedNetwork
    field: Field | None
    whole: str
    stimulus: Stimulus
    tuned: Tuned | None
    first: NDArray[np.float32]
    outputs: NDArray[np.float32]


def _see(
    spec: Spec, network: FedNetwork, stimulus_for: Callable[[Field | None], Stimulus]
) -> _Seen:
    """Show the network its first images, in a memory format and a batch that it takes."""
    image, tuned = stimulus_for(None), None
    if spec.numerics.tune:  # what a larger batch would take is still to be seen
        network = network.with_batch(CANDIDATES[0])
    network, output = settle(spec, network, image)
    if spec.target is None:
        network = choose_output(spec, network, image, output)
    field, whole = look_for_field(spec, image, network)
    network = aim(network, field, spec.stimulus.shape)
    stimulus = stimulus_for(field)
    _enough(spec, stimulus)
    if spec.numerics.tune:
        tuned = _tune(network, stimulus.shown_shape)
        spec, network = spec.with_batch(tuned.batch), network.with_batch(tuned.batch)
    known = output if field is None and tuned is None else None
    first, outputs = _pilot(spec, stimulus, network, known)
    if spec.target is None:
        network = network.read_as(reading_of(spec, network, outputs))
        if network.reading.kind != "scores":
            first, outputs = _pilot(spec, stimulus, network, known)
    rows = outputs.reshape(len(outputs) * stimulus.patches_an_image, -1)
    return _Seen(spec, network, field, whole, stimulus, tuned, first, rows)


def _enough(spec: Spec, stimulus: Stimulus) -> None:
    """`SpecError` where a run asks for more pictures than there are: showing one twice tells
    nothing new, but would look as if it did.
    """
    source = stimulus.noise
    if isinstance(source, Pictures) and spec.samples > source.count:
        raise SpecError(
            f"samples: {spec.samples:,}, but there are only {source.count:,} such images; take at"
            " most so many"
        )


def _tune(network: FedNetwork, shape: tuple[int, int, int]) -> Tuned:
    """Choose the batch for images ``(C, H, W)`` by the network as it is, not compiled."""

    def prepared(n: int) -> Callable[[], None]:
        images = torch.rand((n, *shape), device=network.device)

        def forward() -> None:
            with torch.inference_mode():
                network.plain(images)
            if network.device.type == "cuda":
                torch.cuda.synchronize()

        return forward

    try:
        return choose_batch(prepared)
    except Exception as error:  # whatever the network's own code raises
        raise _no_such_batches(network, error) from error


def _no_such_batches(network: FedNetwork, error: Exception) -> ModelError:
    return ModelError(
        f"numerics.tune: {network.uri} does not take batches of {CANDIDATES[0]} images and more"
        f" of {network.feed.shape} here ({type(error).__name__}: {first_line(error)}); give"
        " numerics.batch instead"
    )


def check_canary(job: Job, network: FedNetwork) -> FedNetwork:
    """The network in the job's batch, aimed at its units, once it has answered the first batch
    with the bits on record; else `CanaryError`.
    """
    if network.model.digest != job.digest:
        raise NumericsError(
            f"model: {job.spec.model} has other weights on this worker than where the run began"
            f" (SHA-256 {network.model.digest[:12]}, not {job.digest[:12]}); are they drawn by a"
            " generator that nobody seeds, such as NumPy's? Seed it in the function, or give"
            " weights=PATH"
        )
    numerics = job.spec.numerics
    network = network.with_batch(numerics.batch).in_format(
        "contiguous" if numerics.memory_format == "contiguous" else "channels_last"
    )
    network = aim(network.read_as(job.reading), job.field, job.spec.stimulus.shape)
    first = _first_outputs(job.stimulus, network)
    if _canary(job.spec, job.stimulus, network, first) != job.canary:
        raise CanaryError(
            "this worker answers the first batch with other bits than the run has on record, so"
            " its sums would not be the run's; use the machine type and library versions that"
            f" began the run (here: {network.device.type}, torch {torch.__version__},"
            f" {torch.backends.cpu.get_cpu_capability()}), or start a new run"
        )
    return network


def _pilot(
    spec: Spec, stimulus: Stimulus, network: FedNetwork, seen: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Outputs of the first batch, and of all images that fixed points are read off.

    Parameters
    ----------
    seen
        What the network itself has given for the first batch; None where that was another batch.
    """
    first = _first_outputs(stimulus, network) if seen is None else network.read(seen)
    return first, np.concatenate([first, *_more_outputs(spec, stimulus, network)])


def _first_outputs(stimulus: Stimulus, network: FedNetwork) -> NDArray[np.float32]:
    """Outputs of the run's first batch, in the CPU's memory."""
    grid = torch.from_numpy(stimulus.noise.grid(0, network.batch))
    begun = network.feed.begin(stimulus, grid)
    return np.asarray(network.answer_begun(begun).cpu().numpy())


def _more_outputs(
    spec: Spec, stimulus: Stimulus, network: FedNetwork
) -> Iterator[NDArray[np.float32]]:
    """Outputs of the batches after the first that fixed points are read off; none where all are
    fixed by their kind.
    """
    batch = network.batch
    pilot = PILOT_IMAGES if any(is_rounded(r.kind) for r in spec.responses) else 0
    if any(r.quantile is not None for r in spec.responses):
        pilot = max(PILOT_IMAGES, -(-QUANTILE_IMAGES // stimulus.patches_an_image))
    for a in range(batch, pilot, batch):
        yield network(stimulus.images(stimulus.noise.grid(a, a + batch), network.device))


def _canary(
    spec: Spec, stimulus: Stimulus, network: FedNetwork, outputs: NDArray[np.float32]
) -> str:
    """SHA-256 of the first batch's outputs, and of its gradients where they are used."""
    digest = hashlib.sha256(np.ascontiguousarray(outputs, dtype="<f4").tobytes())
    if spec.estimator == "gradient":
        digest.update(
            np.ascontiguousarray(first_gradient(spec, stimulus, network), dtype="<f8").tobytes()
        )
    return digest.hexdigest()
