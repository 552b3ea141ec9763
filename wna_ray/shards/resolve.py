"""From a spec and its loaded network to a job: fixed points, receptive fields, the canary."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import CanaryError, ModelError, SpecError
from wna_ray.moments.responses import calibrate, is_rounded
from wna_ray.networks.field import Field
from wna_ray.networks.units import find_field
from wna_ray.shards.gradients import exponents, first_gradient
from wna_ray.shards.job import Job, stimulus_of
from wna_ray.shards.network import Network
from wna_ray.specs.run import Spec
from wna_ray.stimuli.offsets import content_digest, load_basis, load_offset
from wna_ray.stimuli.pictures import Pictures
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.text import first_line

PILOT_IMAGES = 64  # at least so many images choose the fixed points, where there are any
# and so many patches a quantile: it is off by less than 1 % of all patches (2 sd, at the median 1.6
# %)
QUANTILE_IMAGES = 4096
FIELD_IMAGES = 8  # of noise, on which a receptive field is put to the test


def resolve(spec: Spec, network: Network) -> Job:
    """Look at the model through the run's first images and fix everything that shards share."""
    offset, basis, batch = (
        load_offset(spec.stimulus),
        load_basis(spec.stimulus),
        spec.numerics.batch,
    )
    content = content_digest(spec.stimulus, basis)
    try:
        field, whole = _aim(
            spec, Stimulus(spec.stimulus, spec.seed, offset, basis=basis, content=content), network
        )
        stimulus = stimulus_of(spec, offset, field, basis, content)
        _enough(spec, stimulus)
        if spec.numerics.tune:
            batch = network.tune(stimulus.shown_shape)
            spec = network.spec
        first = _first_outputs(stimulus, network)
        pilot = PILOT_IMAGES if any(is_rounded(r.kind) for r in spec.responses) else 0
        if any(r.quantile is not None for r in spec.responses):
            pilot = max(PILOT_IMAGES, -(-QUANTILE_IMAGES // stimulus.patches_an_image))
        more = [
            stimulus.images(stimulus.noise.grid(a, a + batch), network.device)
            for a in range(batch, pilot, batch)
        ]
        outputs = np.concatenate([first, *(network(images) for images in more)])
    except (ModelError, SpecError):
        raise
    except (
        Exception
    ) as error:  # whatever the network's own code raises; in later batches it is a shard's failure
        raise ModelError(
            f"model: {spec.model} does not take a {spec.numerics.dtype} batch of shape"
            f" {(batch, *network.seen)} on {network.device.type} ({type(error).__name__}:"
            f" {first_line(error)}); see stimulus.shape and numerics.batch"
        ) from error
    outputs = outputs.reshape(len(outputs) * stimulus.patches_an_image, -1)
    k = outputs.shape[1]
    known = (
        network.model.names if len(network.model.names) == k else tuple(str(i) for i in range(k))
    )
    return Job(
        spec=spec,
        device=network.device.type,  # type: ignore[arg-type]
        offset=offset,
        source=network.model.source,
        digest=network.model.digest,
        names=known if field is None else tuple(str(unit) for unit in field.units),
        normalise=network.normalise,
        points={r.kind: calibrate(r, outputs) for r in spec.responses},
        canary=_canary(spec, stimulus, network, first),
        gradients=exponents(spec, stimulus, network) if spec.estimator == "gradient" else {},
        field=field,
        whole=whole,
        basis=basis,
        content=content,
        decoder=network.decoder,
    )


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


def _aim(spec: Spec, stimulus: Stimulus, network: Network) -> tuple[Field | None, str]:
    """Find what the target's units see, and aim the network at them."""
    field, whole = None, ""
    if spec.target is not None:
        image = torch.from_numpy(
            np.broadcast_to(stimulus.shown_offset, spec.stimulus.shape).copy()
        ).to(network.device)
        noise = stimulus.images(stimulus.noise.grid(0, FIELD_IMAGES), network.device)
        rounding = torch.finfo(network.dtype).eps
        field, whole = find_field(
            spec.target, network.maps, image, noise, spec.stimulus.cell, rounding
        )
    network.aim(field)
    return field, whole


def check_canary(job: Job, network: Network) -> None:
    """Aim `network` as the job says, and make sure that it answers the first batch with the
    bits on record; else `CanaryError`.
    """
    network.aim(job.field)
    if (
        _canary(job.spec, job.stimulus, network, _first_outputs(job.stimulus, network))
        != job.canary
    ):
        raise CanaryError(
            "this worker answers the first batch with other bits than the run has on record, so"
            " its sums would not be the run's; use the machine type and library versions that"
            f" began the run (here: {network.device.type}, torch {torch.__version__},"
            f" {torch.backends.cpu.get_cpu_capability()}), or start a new run"
        )


def _first_outputs(stimulus: Stimulus, network: Network) -> NDArray[np.float32]:
    grid = torch.from_numpy(stimulus.noise.grid(0, network.spec.numerics.batch))
    return np.asarray(network.answer_shown(network.shown(stimulus, grid)).cpu().numpy())


def _canary(spec: Spec, stimulus: Stimulus, network: Network, outputs: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(outputs, dtype="<f4").tobytes())
    if spec.estimator == "gradient":
        digest.update(
            np.ascontiguousarray(first_gradient(spec, stimulus, network), dtype="<f8").tobytes()
        )
    return digest.hexdigest()
