"""The one pure function: ``run_shard(job, network, start, stop) -> moments``.

A `Job` is a spec whose model has been looked at: it knows the outputs, the fixed points and the canary, and its
fingerprint names everything that can change a result. A `Network` is a model on its device. Neither knows about
Ray or storage.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wna_ray import device_noise, models
from wna_ray.answered import AnsweredSet, add
from wna_ray.beside import Beside
from wna_ray.device_moments import DEPTH, DeviceMoments
from wna_ray.device_responses import Responder
from wna_ray.errors import CanaryError, ModelError, SpecError
from wna_ray.gradients import add_gradients, exponents, first_gradient
from wna_ray.moments import MAX_CHUNK, Moments
from wna_ray.noise import STREAM, Noise
from wna_ray.phases import Phases
from wna_ray.pictures import Pictures
from wna_ray.responses import FixedPoint, calibrate, is_rounded
from wna_ray.spec import NormaliseSpec, Spec, canonical
from wna_ray.stimuli import Stimulus, content_digest, load_basis, load_offset
from wna_ray.stored import Stored
from wna_ray.tuning import CANDIDATES, Compiled, Tuned, choose_batch
from wna_ray.units import Field, Tap, as_maps, find_field

Device = Literal["cpu", "cuda"]

PENDING_VALUES = 32 << 20  # grid values a shard keeps before it adds them to its moments (32 MB)
DEVICE_PENDING_VALUES = 1 << 30  # the same where they stay on a CUDA device: the more, the rarer large sums are added up (DECISIONS.md),
DEVICE_SHARE = 1 / 8  # but no more than this part of the memory that is free; half a dozen copies are made, some of them wider
DEVICE_PENDING_OUTPUTS = 32 << 20  # and so many outputs, of which several copies are made in float64 (256 MB each)
BLOCK_VALUES = 1 << 20  # grid values made in one go, for several small batches (1 MB)
LARGE_IMAGE = 1 << 16  # values of an image that is better made ready alone, in the cache, than with others (DECISIONS.md)
PILOT_IMAGES = 64  # at least so many images choose the fixed points, where there are any
QUANTILE_IMAGES = 4096  # and so many patches a quantile: it is off by less than 1 % of all patches (2 sd, at the median 1.6 %)
FIELD_IMAGES = 8  # of noise, on which a receptive field is put to the test


@dataclass(frozen=True)
class Decoder:
    """What makes pictures of codes.

    Attributes
    ----------
    source, digest
        What it is, and the digest of its weights.
    shape
        ``(C, H, W)`` of a picture.
    """

    source: str
    digest: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Job:
    """A resolved spec: all that a shard needs besides the model itself.

    Attributes
    ----------
    spec
        What was asked for.
    device
        Kind of device that the forward pass runs on.
    offset
        ``(C, H, W)`` or ``(1, 1, 1)`` float32.
    source, digest
        What the network is, and the digest of its weights.
    names
        One name a response row (k of them).
    normalise
        Applied between stimulus (or its picture) and network; None where the noise lives in the network's input space.
    points
        Fixed point by response kind.
    canary
        SHA-256 of the outputs of the first batch (and of gradients, where they are used): the same bits mean the same network and the
        same arithmetic.
    gradients
        With ``estimator: gradient``: by response kind, log2 of each row's step; else empty.
    field
        Where the units look; None where the network's output is asked.
    whole
        Why the whole image is shown to units, or "" where only a window is.
    basis
        Of the stimulus, where it has one (see `wna_ray.bases.build`).
    content
        SHA-256 of what a data set has given to the stimulus, its basis or its images; "" where nothing.
    decoder
        What makes pictures of the stimuli first; None where they are shown as they are.
    """

    spec: Spec
    device: Device
    offset: NDArray[np.float32]
    source: str
    digest: str
    names: tuple[str, ...]
    normalise: NormaliseSpec | None
    points: Mapping[str, FixedPoint]
    canary: str
    gradients: Mapping[str, tuple[int, ...]]
    field: Field | None = None
    whole: str = ""
    basis: NDArray[np.int32] | None = None
    content: str = ""
    decoder: Decoder | None = None

    @cached_property
    def stimulus(self) -> Stimulus:
        """The noise as images."""
        return stimulus_of(self.spec, self.offset, self.field, self.basis, self.content)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a result, as plain JSON values."""
        spec = self.spec
        identity: dict[str, Any] = {
            "stream": STREAM,
            "seed": spec.seed,
            "stimulus": spec.stimulus.identity() | {"offset": self.stimulus.offset_digest},
            "model": {
                "source": self.source,
                "digest": self.digest,
                "outputs": len(self.names),
                "normalise": self.normalise.model_dump(mode="json") if self.normalise else None,
            },
            "responses": [r.identity() for r in spec.responses],
            "fixed_point": {kind: p.identity() for kind, p in self.points.items()},
            "moments": spec.moments.identity(),
            "numerics": spec.numerics.identity() | {"device": self.device},
            "canary": self.canary,
        }
        # What only some runs have is left out of all others, so that their fingerprints stay what they were.
        if spec.target is not None and self.field is not None:
            identity["target"] = {"layer": spec.target.layer, **self.field.identity()}
        if self.content:
            identity["stimulus"]["content"] = self.content
        if self.decoder is not None:
            shape = list(self.decoder.shape)
            identity["decoder"] = {"source": self.decoder.source, "digest": self.decoder.digest, "shape": shape}
        if spec.keep_responses:
            identity["keep_responses"] = True
        if spec.estimator == "gradient":
            identity["gradient_exponent"] = {kind: list(e) for kind, e in self.gradients.items()}
        return identity

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical identity. A result is a function of this and N alone."""
        return hashlib.sha256(canonical(self.identity).encode()).hexdigest()

    def no_images(self) -> Moments:
        """The moments of no images, in this job's shape."""
        kinds = [r.kind for r in self.spec.responses]
        return Moments.identity(self.stimulus.pixels, kinds, self.spec.keeps_squares, self.spec.moments.halves)


def stimulus_of(
    spec: Spec, offset: NDArray[np.float32], field: Field | None, basis: NDArray[np.int32] | None = None, content: str = ""
) -> Stimulus:
    """The noise as images, whole or as units see it. Of correlated noise all that is shown is kept: each value depends on all others."""
    shown, patches = (None, None) if field is None else (field.shown, None if spec.stimulus.mixed else field.patches)
    return Stimulus(spec.stimulus, spec.seed, offset, shown, patches, basis, content)


class Network:
    """A model on its device, in its arithmetic, with the decoder before it, if any. One whose spec has a target answers once it is aimed
    at a `Field`.

    Parameters
    ----------
    spec
        Gives model, numerics and normalisation.
    device
        Where it runs.
    """

    def __init__(self, spec: Spec, device: Device) -> None:
        self.spec, self.device = spec, torch.device(device)
        self.beside = Beside(self.device)
        self.model = models.load(spec.model)
        self.dtype: torch.dtype = getattr(torch, spec.numerics.dtype)
        if device == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.decoder: Decoder | None = None
        if spec.decoder is not None:
            self.decoder = self._load_decoder(spec.decoder)
        self.seen = spec.stimulus.shape if self.decoder is None else self.decoder.shape
        """``(C, H, W)`` of what is shown to the model."""
        self.normalise = self._normalise()
        if self.model.shape is not None and self.model.shape != self.seen:
            given = f"stimulus.shape: {self.seen}" if self.decoder is None else f"decoder: {spec.decoder} gives pictures {self.seen}"
            raise ModelError(f"{given}, but {spec.model} takes {self.model.shape}")
        self.field: Field | None = None
        self.tuned: Tuned | None = None
        module = self.model.module
        if spec.target is not None:
            if isinstance(module, Tap):
                raise ModelError("target.layer: the model's URI already takes a layer; leave layer= out of it")
            module = Tap(module, spec.target.layer, "target.layer").eval()
        self.module = self._here(module, spec.model)
        mode = spec.numerics.compile
        if mode is not None and isinstance(module, Tap):
            raise ModelError("numerics.compile: a compiled network gives its outputs, no more, but layer= looks inside; leave one out")
        self._compiled = None if mode is None else Compiled(self.module, mode, spec.model)
        if self.normalise is not None:
            channels = (1, -1, 1, 1)
            self._mean, self._std = (
                torch.tensor(v, dtype=torch.float32, device=self.device).view(channels) for v in (self.normalise.mean, self.normalise.std)
            )

    def _here(self, module: nn.Module, uri: str) -> nn.Module:
        """A module on the device, in its arithmetic."""
        module = module.to(self.device, self.dtype)
        return module if uri.startswith("export:") else module.to(memory_format=torch.channels_last)  # a program has a format built in

    def _load_decoder(self, uri: str) -> Decoder:
        """Load the decoder, and look at its picture of a code."""
        loaded, shape = models.load_decoder(uri), self.spec.stimulus.shape
        if loaded.shape not in (None, shape):
            raise ModelError(f"stimulus.shape: {shape}, but {uri} takes codes {loaded.shape}")
        self._decoding = self._here(loaded.module, uri)
        codes = torch.zeros((self.spec.numerics.batch, *shape), device=self.device)
        try:
            with torch.inference_mode():
                pictures = self._pictures(codes)
        except Exception as error:  # whatever the decoder's own code raises
            reason = f"{type(error).__name__}: {models.first_line(error)}"
            raise ModelError(f"decoder: {uri} does not take codes {shape} ({reason}); see stimulus.shape") from error
        if pictures.ndim != 4 or len(pictures) != len(codes) or not pictures.numel():
            raise ModelError(f"decoder: {uri} gave {tuple(pictures.shape)} for {len(codes)} codes; expected pictures (n, C, H, W)")
        _, c, h, w = pictures.shape
        return Decoder(loaded.source, loaded.digest, (c, h, w))

    def _normalise(self) -> NormaliseSpec | None:
        spec = self.spec
        if spec.stimulus.space == "input" and self.decoder is None:
            return None
        normalise = spec.normalise or self.model.normalise
        if normalise is None:
            given, way = "stimulus.space: pixel", ", or space: input if the noise is what the network itself is fed"
            if self.decoder is not None:
                given, way = "decoder: it makes pictures in pixels", " (of 0 and 1 if they are what the network itself is fed)"
            raise ModelError(f"{given}, but {spec.model} declares no normalisation; give normalise: {{mean: [...], std: [...]}}{way}")
        channels = self.seen[0]
        if {len(normalise.mean), len(normalise.std)} - {1, channels}:
            raise ModelError(
                f"normalise: {len(normalise.mean)} means and {len(normalise.std)} stds for {channels} channels; "
                "give one each, or one for all"
            )
        return normalise

    def tune(self, shape: tuple[int, int, int]) -> int:
        """Choose the batch for images ``(C, H, W)`` by the network as it is, not compiled, and keep to it; `tuned` has all rates."""

        def prepared(n: int) -> Callable[[], None]:
            images = torch.rand((n, *shape), device=self.device)

            def forward() -> None:
                with torch.inference_mode():
                    self._pass(images)
                if self.device.type == "cuda":
                    torch.cuda.synchronize()

            return forward

        try:
            self.tuned = choose_batch(prepared)
        except Exception as error:  # whatever the network's own code raises
            raise ModelError(
                f"numerics.tune: {self.spec.model} does not take batches of {CANDIDATES[0]} images and more of {shape} here "
                f"({type(error).__name__}: {models.first_line(error)}); give numerics.batch instead"
            ) from error
        self.spec = self.spec.with_batch(self.tuned.batch)
        return self.tuned.batch

    def aim(self, field: Field | None) -> None:
        """Answer for the units of a field."""
        self.field = field
        if isinstance(self.module, Tap) and not self.module.counted:  # by a whole image: a window may not reach the network's end
            self.maps(torch.zeros((1, *self.spec.stimulus.shape), device=self.device))

    def __call__(self, images: torch.Tensor) -> NDArray[np.float32]:
        """What `answer` gives, in the CPU's memory."""
        return np.asarray(self.answer(images).cpu().numpy())

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """Outputs ``(n, k)`` float32 of images ``(n, C, H, W)`` float32, on the device; ``n`` is at most the fixed batch.

        Of units that are pooled, ``(n, patches * k)``. The forward pass always has the same shape: fewer images are padded with
        copies of the last.
        """
        with torch.inference_mode():
            return self._outputs(self.forward(self._fed(self._whole_batch(images))))[: len(images)]

    def answer_shown(self, shown: torch.Tensor) -> torch.Tensor:
        """The same of what `shown` gives, a whole batch."""
        with torch.inference_mode():
            return self._outputs(self.forward(shown if self.decoder is None else self._fed(shown)))

    def forward(self, fed: torch.Tensor) -> torch.Tensor:
        """What the network gives for a whole batch of what `ready` gives: the forward pass, compiled where it is, and nothing else."""
        found: torch.Tensor = (self._compiled or self.module)(fed)
        return found

    def _outputs(self, y: Any) -> torch.Tensor:
        batch = self.spec.numerics.batch
        if not isinstance(y, torch.Tensor) or y.ndim < 1 or len(y) != batch or y.numel() < batch:
            found = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ModelError(f"model: {self.spec.model} gave {found}; expected one row of outputs for each of {batch} images")
        if self.field is not None:
            y = self.field.responses(self._maps_of(y))
        return torch.as_tensor(y.reshape(batch, -1).float())

    def _whole_batch(self, images: torch.Tensor) -> torch.Tensor:
        missing = self.spec.numerics.batch - len(images)
        return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])]) if missing > 0 else images

    def pictures(self, codes: torch.Tensor) -> NDArray[np.float32]:
        """The decoder's pictures ``(n, C, H, W)`` float32 of codes ``(n, C', H', W')``, as the model is shown them; at most a batch."""
        with torch.inference_mode():
            return np.asarray(self._pictures(self._whole_batch(codes))[: len(codes)].cpu().numpy())

    def _pictures(self, codes: torch.Tensor) -> torch.Tensor:
        pictures: torch.Tensor = self._decoding(codes.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return pictures.float()

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The target layer's maps ``(n, C', H', W')`` for images of any number and size."""
        with torch.inference_mode():
            return self._maps_of(self._pass(images)).float().clone()

    def tracked(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``(n, C, H, W)`` and outputs ``(n, k)`` float32 that gradients can be taken of; of pooled positions the middle one's."""
        with torch.inference_mode(False), torch.enable_grad():
            x = images.clone().requires_grad_()
            y = self._pass(x)
            y = y.reshape(len(x), -1) if self.field is None else self.field.middle(self._maps_of(y))
            return x, y.float()

    def levels(self, stimulus: Stimulus) -> torch.Tensor:
        """``(C, 256)``: what the network is fed in each channel for grid values of -128 ... 127, of a stimulus that is `pointwise`."""
        values = torch.arange(-128, 128, dtype=torch.int8, device=self.device).view(-1, 1, 1, 1)
        fed = self.ready(stimulus.images(values.expand(-1, stimulus.shown_shape[0], 1, 1), self.device))
        return fed[:, :, 0, 0].T.contiguous()

    def shown(self, stimulus: Stimulus, grid: torch.Tensor) -> torch.Tensor:
        """What can be made of grid values ``(n, C, h, w)`` int8 before a network runs: what a decoder is shown, or what `ready` gives for
        their images. Large ones are made one by one on a CPU, in its cache.
        """
        if self.decoder is not None:
            return stimulus.images(grid, self.device)
        if self.device.type != "cpu" or not stimulus.pointwise or math.prod(stimulus.shown_shape) < LARGE_IMAGE:
            return self.ready(stimulus.images(grid, self.device))
        out = device_noise.room((len(grid), *stimulus.shown_shape), self.dtype, self.device)
        for image, values in zip(torch.split(out, 1), torch.split(grid, 1), strict=True):
            image.copy_(self._normalised(stimulus.images(values)))
        return out

    def ready(self, images: torch.Tensor) -> torch.Tensor:
        """What the model itself is fed for images ``(n, C, H, W)`` float32: normalised, in its arithmetic and memory format."""
        return self._normalised(images).to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        if self.normalise is None or (self.normalise.mean, self.normalise.std) == ((0.0,), (1.0,)):
            return images
        return images.sub(self._mean).div_(self._std)

    def _fed(self, images: torch.Tensor) -> torch.Tensor:
        return self.ready(images if self.decoder is None else self._pictures(images))

    def _pass(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.module(self._fed(images))
        return output

    def _maps_of(self, output: torch.Tensor) -> torch.Tensor:
        return as_maps(output, self.spec.target.layer if self.spec.target is not None else "")


def resolve(spec: Spec, network: Network) -> Job:
    """Look at the model through the run's first images and fix everything that shards share."""
    offset, basis, batch = load_offset(spec.stimulus), load_basis(spec.stimulus), spec.numerics.batch
    content = content_digest(spec.stimulus, basis)
    try:
        field, whole = _aim(spec, Stimulus(spec.stimulus, spec.seed, offset, basis=basis, content=content), network)
        stimulus = stimulus_of(spec, offset, field, basis, content)
        _enough(spec, stimulus)
        if spec.numerics.tune:
            batch = network.tune(stimulus.shown_shape)
            spec = network.spec
        first = _first_outputs(stimulus, network)
        pilot = PILOT_IMAGES if any(is_rounded(r.kind) for r in spec.responses) else 0
        if any(r.quantile is not None for r in spec.responses):
            pilot = max(PILOT_IMAGES, -(-QUANTILE_IMAGES // stimulus.patches_an_image))
        more = [stimulus.images(stimulus.noise.grid(a, a + batch), network.device) for a in range(batch, pilot, batch)]
        outputs = np.concatenate([first, *(network(images) for images in more)])
    except (ModelError, SpecError):
        raise
    except Exception as error:  # whatever the network's own code raises; in later batches it is a shard's failure
        raise ModelError(
            f"model: {spec.model} does not take a {spec.numerics.dtype} batch of shape {(batch, *network.seen)} on "
            f"{network.device.type} ({type(error).__name__}: {models.first_line(error)}); see stimulus.shape and numerics.batch"
        ) from error
    outputs = outputs.reshape(len(outputs) * stimulus.patches_an_image, -1)
    k = outputs.shape[1]
    known = network.model.names if len(network.model.names) == k else tuple(str(i) for i in range(k))
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
    """`SpecError` where a run asks for more pictures than there are: showing one twice tells nothing new, but would look as if it did."""
    source = stimulus.noise
    if isinstance(source, Pictures) and spec.samples > source.count:
        raise SpecError(f"samples: {spec.samples:,}, but there are only {source.count:,} such images; take at most so many")


def _aim(spec: Spec, stimulus: Stimulus, network: Network) -> tuple[Field | None, str]:
    """Find what the target's units see, and aim the network at them."""
    field, whole = None, ""
    if spec.target is not None:
        image = torch.from_numpy(np.broadcast_to(stimulus.shown_offset, spec.stimulus.shape).copy()).to(network.device)
        noise = stimulus.images(stimulus.noise.grid(0, FIELD_IMAGES), network.device)
        rounding = torch.finfo(network.dtype).eps
        field, whole = find_field(spec.target, network.maps, image, noise, spec.stimulus.cell, rounding)
    network.aim(field)
    return field, whole


def check_canary(job: Job, network: Network) -> None:
    """Aim `network` as the job says, and make sure that it answers the first batch with the bits on record; else `CanaryError`."""
    network.aim(job.field)
    if _canary(job.spec, job.stimulus, network, _first_outputs(job.stimulus, network)) != job.canary:
        raise CanaryError(
            "this worker answers the first batch with other bits than the run has on record, so its sums would not be "
            f"the run's; use the machine type and library versions that began the run (here: {network.device.type}, "
            f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}), or start a new run"
        )


def _first_outputs(stimulus: Stimulus, network: Network) -> NDArray[np.float32]:
    grid = torch.from_numpy(stimulus.noise.grid(0, network.spec.numerics.batch))
    return np.asarray(network.answer_shown(network.shown(stimulus, grid)).cpu().numpy())


def _canary(spec: Spec, stimulus: Stimulus, network: Network, outputs: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(outputs, dtype="<f4").tobytes())
    if spec.estimator == "gradient":
        digest.update(np.ascontiguousarray(first_gradient(spec, stimulus, network), dtype="<f8").tobytes())
    return digest.hexdigest()


def run_shard(job: Job, network: Network, start: int, stop: int, stored: list[Stored] | None = None) -> tuple[Moments, dict[str, float]]:
    """Moments of images ``start ... stop - 1``.

    Parameters
    ----------
    start
        A multiple of the batch.
    stop
        A multiple of the batch, or N. The last batch is filled up with the noise that would come next, and those
        images are not counted.
    stored
        Gets the responses, part by part.

    Returns
    -------
    moments
        Exact; any cut of [0, N) into shards merges to the same.
    seconds
        By phase: noise, forward, responses, moments; and fetch, of sums that were on a CUDA device.
    """
    batch = job.spec.numerics.batch
    if start % batch:
        raise ValueError(f"a shard starts at a multiple of the batch ({batch}), got {start}")
    phase, total = Phases(), job.no_images()
    if job.spec.estimator == "gradient":
        return add_gradients(job, network, start, stop, phase), phase.seconds
    there, beside = stays_on_device(job, network.device), network.beside
    with beside():
        sums: Moments | DeviceMoments = DeviceMoments(total, network.device) if there else total
    responder = Responder.of(job.spec.responses, job.points, network.device) if there else None
    most, block = _set_there(job, network.device) if there else _set_here(job)
    late = 1 if there else 0
    show = _showing(job, network)
    sets: deque[AnsweredSet] = deque()
    blocks: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    ahead = _blocks(job, network.device, start, stop, beside, block)
    at = start
    while at < stop:
        with phase("noise"):
            made = next(ahead)
        for grid in torch.split(made, batch):
            with phase("noise"), torch.inference_mode():
                shown = show(grid)
            with phase("forward"):
                outputs.append(network.answer_shown(shown))
        blocks.append(made)
        at += len(made)
        if sum(map(len, blocks)) + block > most or at >= stop:
            with phase("responses"):
                sets.append(AnsweredSet.of(job, blocks, outputs, min(at, stop), responder))
            blocks, outputs = [], []
        while len(sets) > (late if at < stop else 0):
            some = sets.popleft()
            with beside(some.grid, *some.values):
                sums = add(job, sums, some, phase, stored)
    if isinstance(sums, DeviceMoments):
        with phase("moments"):
            beside.wait()
        with phase("fetch"), beside():
            sums = sums.fetched()
    return sums, phase.seconds


def _set_here(job: Job) -> tuple[int, int]:
    """Most images that are added to moments together on the CPU (or one batch), and how many of them have their noise made in one go."""
    batch, stimulus = job.spec.numerics.batch, job.stimulus
    most = max(1, PENDING_VALUES // max(stimulus.noise.pixels, stimulus.pixels * stimulus.patches_an_image))
    return most, batch * max(1, min(BLOCK_VALUES // stimulus.noise.pixels, most) // batch)


def _set_there(job: Job, device: torch.device) -> tuple[int, int]:
    """The same on a CUDA device: all of a set in one go. Whole tiles of a product, where batches make them up."""
    batch, values = job.spec.numerics.batch, DEVICE_PENDING_VALUES
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        values = min(values, int(DEVICE_SHARE * free))
    batches = max(1, min(values // job.stimulus.noise.pixels, DEVICE_PENDING_OUTPUTS // len(job.names), MAX_CHUNK) // batch)
    whole = DEPTH // math.gcd(DEPTH, batch)
    if batches > whole:
        batches -= batches % whole
    return batches * batch, batches * batch


def _blocks(job: Job, device: torch.device, start: int, stop: int, beside: Beside, block: int) -> Iterator[torch.Tensor]:
    """Grid values of so many images after others, the last batch filled up. On a CUDA device the next are made while the last are shown."""
    source, end = job.stimulus.noise, stop + -stop % job.spec.numerics.batch

    def started(a: int) -> Callable[[], torch.Tensor]:
        return beside.start(lambda: device_noise.grid(source, a, min(a + block, end), device))

    coming = started(start)
    for a in range(start, end, block):
        here = coming()
        if a + block < end:
            coming = started(a + block)
        yield here


def _showing(job: Job, network: Network) -> Callable[[torch.Tensor], torch.Tensor]:
    """`Network.shown` for the job's stimulus, or the look-up that gives the same."""
    stimulus = job.stimulus
    if not looks_up(job, network.device):
        return lambda grid: network.shown(stimulus, grid.contiguous())
    levels = network.levels(stimulus)
    return lambda grid: device_noise.fed(grid, levels, stimulus)


def looks_up(job: Job, device: torch.device) -> bool:
    """Whether what the network is fed is looked up, value by value of the grid, by one kernel."""
    return device_noise.has_kernels(device) and job.stimulus.pointwise and job.decoder is None


def stays_on_device(job: Job, device: torch.device) -> bool:
    """Whether grid values are made on the device, and the large sums of moments kept there, so that no image ever travels."""
    return device.type == "cuda" and isinstance(job.stimulus.noise, Noise) and job.stimulus.patches is None
