"""What a run is asked to do: one frozen model for YAML, Python and the command line.

`Spec` is what a person writes. `Job` (in `wna_ray.shard`) is what becomes of it once the model has been looked at;
the fingerprint is taken there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from wna_ray.datasets import SHAPES, DatasetName
from wna_ray.errors import SpecError
from wna_ray.noise import table
from wna_ray.parse import parse_yaml, read_text
from wna_ray.wavelets import SIDE, wavelets

ResponseKind = Literal["label", "confidence", "logits", "probabilities", "activation", "rectified", "spikes"]
DIFFERENTIABLE: tuple[ResponseKind, ...] = ("logits", "probabilities", "activation", "rectified")
StimulusKind = Literal["gaussian", "uniform", "binary", "sparse", "images"]
UNIT_KINDS: tuple[ResponseKind, ...] = ("activation", "rectified", "spikes")
MOST_FEATURES = 4096  # values whose covariance is taken apart for principal components
MOST_FAULTS = 12  # of a spec, that an error names
MOST_BASIS = 1 << 25  # whole numbers of a basis: 128 MB


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, data: Any) -> Any:
        """Python takes true for 1, so ``samples: yes`` would be a run of one image."""
        for name, value in data.items() if isinstance(data, Mapping) else ():
            if isinstance(name, str) and name in _numeric(cls) and _holds_truth(value):
                raise ValueError(f"{name}: expected no truth value (YAML reads yes, no, on and off as such; put words in quotes)")
        return data


@cache
def _numeric(model: type[BaseModel]) -> frozenset[str]:
    """Fields of a model that take no truth values."""
    return frozenset(name for name, field in model.model_fields.items() if not _takes_truth(field.annotation))


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(part) for part in get_args(annotation))


def _holds_truth(value: Any, levels: int = 4) -> bool:
    """Whether a number, or a list of them (a few levels deep, as any field is), is a truth value."""
    if isinstance(value, list | tuple) and levels:
        return any(_holds_truth(part, levels - 1) for part in value)
    return isinstance(value, bool)


def _number(value: Any) -> Any:
    """Numbers such as 1.0e3 are strings to YAML 1.1, which wants a sign in the exponent."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _units(value: Any) -> Any:
    return [value] if type(value) is int else value


def _classes(value: Any) -> Any:
    if not isinstance(value, str):
        return _units(value)
    parts = value.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.isdecimal() and len(part) < 6 for part in parts) or int(parts[-1]) == 0:
        raise ValueError(f"'{value}' is no range; give numbers, or START:STOP or START:STOP:STEP")
    return tuple(range(*map(int, parts)))


class BasisSpec(_Frozen):
    """Pictures of which each image is a mixture with independent weights, instead of independent pixels (see `wna_ray.bases`).

    Attributes
    ----------
    kind
        ``gabor``: wavelets on tiles of several sizes. ``stripes``: columns of one value each. ``pca``: principal components of the training
        images of a data set.
        ``gabor-pca``: those of the weights with which wavelets make up each training image (Borji & Lin 2020).
    dataset
        Which one; ``gabor`` and ``stripes`` need none.
    components
        How many principal components; in colour ``gabor-pca`` has so many for each channel.
    spread
        What a weight of 1 is: its standard deviation over the training images (``sd``, usual for gaussian noise), or half its range there
        (``range``, usual for uniform noise, which then is as wide as the data; the middle of the range goes into the offset).
    centre
        Whether images lie around the mean training image; else around 0, as the authors' do.
    grey
        Make one basis for the mean of the channels, and show it in all.
    rescale
        ``minmax``: each channel of each image is stretched to [0, 1] and rounded to 8 bits (the authors' noise). Moments are then those of
        what is shown, and nothing is designed any more: its mean and variance are measured.
    """

    kind: Literal["gabor", "stripes", "pca", "gabor-pca"]
    dataset: DatasetName | None = None
    components: int | None = Field(default=None, ge=1, le=1 << 16)
    spread: Literal["sd", "range"] = "sd"
    centre: bool = True
    grey: bool = False
    rescale: Literal["minmax"] | None = None

    @model_validator(mode="after")
    def _check(self) -> BasisSpec:
        given = [name for name in ("dataset", "components") if getattr(self, name) is not None]
        if self.kind in ("gabor", "stripes"):
            if given or self.spread == "range":
                raise ValueError(f"basis.{(given or ['spread'])[0]}: {self.kind} come from no data set; leave it out, or take gabor-pca")
        elif len(given) < 2:
            raise ValueError(f"basis: {self.kind} needs a dataset and a number of components")
        return self

    def features(self, shape: tuple[int, int, int]) -> int:
        """Most components that there can be (of each channel, where each has its own)."""
        c, h, w = shape
        return (1 if self.grey else c) * h * w if self.kind == "pca" else min(h * w, self._drawn(h, w))

    def coefficients(self, shape: tuple[int, int, int]) -> int:
        """d: independent weights of an image ``(C, H, W)``."""
        c, h, w = shape
        each = self._drawn(h, w) if self.kind in ("gabor", "stripes") else int(self.components or 0)
        return each if self.grey or self.kind == "pca" else each * c

    def _drawn(self, h: int, w: int) -> int:
        """Pictures that come from no data set: columns, or wavelets."""
        return w if self.kind == "stripes" else wavelets(h, w)

    def check(self, shape: tuple[int, int, int]) -> None:
        """`ValueError` where images ``(C, H, W)`` cannot have this basis."""
        c, h, w = shape
        if self.dataset is not None and SHAPES[self.dataset] != shape:
            raise ValueError(f"basis.dataset: images of {self.dataset} are {SHAPES[self.dataset]}, but shape is {shape}")
        if "gabor" in self.kind and min(h, w) < SIDE:
            raise ValueError(f"basis: the smallest wavelets are {SIDE} pixels wide, but shape is {shape}")
        if self.grey and c == 1:
            raise ValueError("basis.grey: pictures of one channel are grey already; leave it out")
        features = self.features(shape)
        if self.components is not None and features > MOST_FEATURES:
            raise ValueError(f"basis: principal components are for up to {MOST_FEATURES:,} values, but these pictures have {features:,}")
        if self.components is not None and self.components > features:
            raise ValueError(f"basis.components: {self.components} of {features} values; there are no more components than values")
        if self.coefficients(shape) * c * h * w > MOST_BASIS:
            raise ValueError(
                f"basis: {self.coefficients(shape):,} pictures of {c * h * w:,} values are more than {MOST_BASIS:,} numbers; "
                "take smaller images"
            )

    def identity(self) -> dict[str, Any]:
        """What decides a result, as plain JSON values."""
        return self.model_dump(mode="json", exclude_none=True)


class StimulusSpec(_Frozen):
    """The noise: ``offset + scale * unit * grid`` (see ``docs/noise.md``); or pictures as they are.

    Attributes
    ----------
    kind
        Noise family. For ``gaussian`` ``scale`` is the standard deviation, for ``uniform`` the half-width, for
        ``binary`` and ``sparse`` the step away from the offset. ``images``: no noise, but the images of a data set in their order.
    shape
        ``(C, H, W)`` of one image.
    offset
        The mean of the noise: a number, a ``.npy`` file with a ``(C, H, W)`` image, ``bundled:mnist-mean``, or ``mean:DATASET`` (the mean
        training image of a data set; of ``imagenet-sample`` the usual means of the channels). With a basis, it is added to the basis's own.
    scale
        Size of the noise, in the units of ``space``. Pictures, whose pixels are in [0, 1], are multiplied by it; it is 1 for ``images``.
    cell
        Side, in pixels, of the square cells that share one value (1: white noise). ``images`` are shown whole, and moments are kept of the
        means over cells, rounded to bytes.
    density
        ``sparse`` only: share of cells that differ from the offset.
    spectrum
        ``gaussian`` only: values correlate over space; amplitudes fall as ``1 / f^spectrum`` (natural images: about 1). White by default.
    basis
        Each image is a mixture of pictures, whose weights are the independent values of the noise (see `BasisSpec`).
    dataset, split, classes
        ``images`` only: which data set, its ``train`` or ``test`` images, and of which classes (all by default; numbers, or a range as
        Python cuts lists: ``"0:1000:2"`` is every other one of a thousand).
    space
        Where the noise lives: ``pixel`` ([0, 1], before the model's own normalisation) or ``input`` (what the network
        itself is fed).
    """

    kind: StimulusKind
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    offset: Annotated[float | str, BeforeValidator(_number)] = 0.0
    scale: float = Field(gt=1e-30, lt=1e30)
    cell: int = Field(default=1, ge=1)
    density: float | None = None
    spectrum: float | None = Field(default=None, gt=0, le=3)
    basis: BasisSpec | None = None
    dataset: DatasetName | None = None
    split: Literal["train", "test"] | None = None
    classes: Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 16)], ...], BeforeValidator(_classes), Field(min_length=1)] | None = None
    space: Literal["pixel", "input"] = "pixel"

    @model_validator(mode="before")
    @classmethod
    def _scale_of_pictures(cls, data: Any) -> Any:
        return {"scale": 1.0, "split": "train", **data} if isinstance(data, Mapping) and data.get("kind") == "images" else data

    @model_validator(mode="after")
    def _check(self) -> StimulusSpec:
        if self.kind == "images":
            self._check_images()
        else:
            try:
                table(self.kind, self.density)
            except SpecError as error:
                raise ValueError(str(error)) from error
            for name in ("dataset", "split", "classes"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: only kind images shows a data set, {self.kind} is noise; leave it out")
        if isinstance(self.offset, float) and not abs(self.offset) < 1e30:
            raise ValueError(f"offset: {self.offset} is not finite, or beyond 1e30")
        if self.cell > max(self.shape[1:]):
            raise ValueError(f"cell: {self.cell} pixels are more than the image's {self.shape[1]} x {self.shape[2]}")
        if self.spectrum is not None and self.kind != "gaussian":
            raise ValueError(f"spectrum: only gaussian noise keeps its distribution where it is filtered, {self.kind} noise does not")
        if self.basis is not None:
            if self.spectrum is not None or self.cell > 1:
                raise ValueError("basis: says how pixels depend on each other, as spectrum and cell do; leave those out")
            self.basis.check(self.shape)
        return self

    def _check_images(self) -> None:
        if self.dataset is None:
            raise ValueError(f"dataset: kind images needs one of {', '.join(SHAPES)}")
        if SHAPES[self.dataset] != self.shape:
            raise ValueError(f"dataset: images of {self.dataset} are {SHAPES[self.dataset]}, but shape is {self.shape}")
        given = [name for name in ("density", "spectrum", "basis") if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{given[0]}: is of noise, but kind images shows pictures as they are; leave it out")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: each may stand once")

    @property
    def measured(self) -> bool:
        """Whether moments are kept of bytes whose distribution nobody designed, so that their variance is measured."""
        return self.kind == "images" or (self.basis is not None and self.basis.rescale is not None)

    @property
    def mixed(self) -> bool:
        """Whether each pixel is a mixture of many noise values, of which moments are kept instead."""
        return self.spectrum is not None or (self.basis is not None and not self.measured)

    def identity(self) -> dict[str, Any]:
        """What decides a result, as plain JSON values: all but the offset, whose digest does; white noise needs no word for it."""
        absent = {name for name in ("spectrum", "basis", "dataset", "split", "classes") if getattr(self, name) is None}
        found = self.model_dump(mode="json", exclude={"offset", *absent})
        return found if self.basis is None else found | {"basis": self.basis.identity()}


class ResponseSpec(_Frozen):
    """What is kept of the network's answer.

    Attributes
    ----------
    kind
        ``label``: one-hot of the largest logit. ``confidence``: the same, weighted by the label's probability.
        ``logits``, ``probabilities``: one real number a class. ``activation``: one real number a unit, as it is;
        ``rectified``: ``max(activation, 0)``; ``spikes``: 1 where the activation is above a threshold, else 0.
    centred
        ``logits`` only: subtract the mean over the outputs first. Softmax, and so every decision, sees only these
        differences. With one output nothing is subtracted.
    threshold
        ``spikes`` only: the threshold of every unit. 0 where neither it nor a quantile is given.
    quantile
        ``spikes`` only: each unit's threshold is this quantile of its own activation in a pilot (the run's first images).
    """

    kind: ResponseKind
    centred: bool = True
    threshold: FiniteFloat | None = None
    quantile: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> ResponseSpec:
        given = [name for name in ("threshold", "quantile") if getattr(self, name) is not None]
        if given and self.kind != "spikes":
            raise ValueError(f"{given[0]}: only spikes have one, not {self.kind}")
        if len(given) == 2:
            raise ValueError("spikes: give a threshold or a quantile, not both")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides a result, as plain JSON values."""
        return self.model_dump(mode="json", exclude_none=True)


def _response(value: Any) -> Any:
    value = {"kind": value} if isinstance(value, str) else value
    plain = isinstance(value, Mapping) and value.get("kind") == "spikes" and value.get("threshold") is value.get("quantile") is None
    return {**value, "threshold": 0.0} if plain else value


def _names(value: Any) -> Any:
    return tuple(str(name) for name in value) if isinstance(value, list) else value


class TargetSpec(_Frozen):
    """Units inside the network, instead of its output.

    Attributes
    ----------
    layer
        Dotted name of a module, as ``named_modules()`` has it; its output is looked at.
    units
        Channels (of maps) or neurons, counted from 0; ``all`` of them by default.
    position
        Where in the layer's map: ``centre``, a coordinate ``[row, column]``, ``mean`` (over all positions), or ``pooled`` (all
        positions whose receptive field is whole, each with its own patch of the stimulus). Layers of neurons have none.
    evaluate
        What is shown: ``image`` (the whole), ``window`` (only what the units can see, where the network allows it), or ``auto``
        (the window where the network allows it). The two show different noise.
    """

    layer: str = Field(min_length=1, max_length=1000)
    units: Literal["all"] | Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...], BeforeValidator(_units)] = "all"
    position: Literal["centre", "mean", "pooled"] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = "centre"
    evaluate: Literal["auto", "window", "image"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> TargetSpec:
        if self.units != "all" and (not self.units or len(set(self.units)) < len(self.units)):
            raise ValueError("units: give 'all', or a list of numbers, each once")
        if self.evaluate == "window" and self.position in ("mean", "pooled"):
            raise ValueError(f"evaluate: one window cannot hold all positions; with position: {self.position} leave it out")
        return self


class NumericsSpec(_Frozen):
    """What decides the last bits of a response. All of it is part of the fingerprint.

    Attributes
    ----------
    dtype
        Arithmetic of the forward pass.
    batch
        Images in a forward pass. Batches are aligned to the image index and always full.
    threads
        CPU threads of a forward pass.
    device
        ``auto`` is ``cuda`` where the workers have it, else ``cpu``.
    compile
        Compile the network (``torch.compile``): half a minute for each worker, which a long run gets back (``wna plan`` tells when).
        ``max-autotune`` also tries out kernels, and on CUDA records graphs; which ones win may differ from worker to worker, and then their
        bits do, which is found out before they compute anything. Not compiled by default.
    tune
        Choose the batch by timing a few on the first worker, once: it is written into the run, which from then on has that batch.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(default=128, ge=1, le=1 << 16)
    threads: int = Field(default=1, ge=1, le=256)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: Literal["default", "max-autotune"] | None = None
    tune: bool = False

    def identity(self) -> dict[str, Any]:
        """What decides a result, as plain JSON values; what only some runs have is left out of all others."""
        return self.model_dump(mode="json", exclude={"tune"} if self.compile else {"tune", "compile"})


class MomentsSpec(_Frozen):
    """Which sums are kept beside counts and first moments.

    Attributes
    ----------
    second
        Also keep the per-pixel second moments ``sum y x^2`` (variance maps, RMS maps).
    halves
        Also keep the moments of every second batch alone: how well the maps of two halves agree tells their reliability without any
        theory.
    """

    second: bool = False
    halves: bool = False

    def identity(self) -> dict[str, Any]:
        """What decides a result, as plain JSON values; what only some runs have is left out of all others."""
        return self.model_dump(mode="json", exclude=None if self.halves else {"halves"})


class NormaliseSpec(_Frozen):
    """Per-channel ``(pixel - mean) / std`` between pixel space and the network's input."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class ExecutionSpec(_Frozen):
    """How the work is cut. Nothing here changes a result, so nothing here is in the fingerprint.

    Attributes
    ----------
    shard
        Images in a shard (one call to a worker), rounded up to whole batches; by default about two seconds of work.
    segments
        Segments (commits) of a whole run; by default 64, fewer where they would take over 16 GiB together.
    attempts
        How often a shard is tried before it is named and left out.
    patience
        Seconds without any worker after which a run stops and says how to go on.
    endpoint
        URL of the S3 server, where it is not AWS; by default ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``.
    """

    shard: int | None = Field(default=None, ge=1)
    segments: int | None = Field(default=None, ge=1)
    attempts: int = Field(default=4, ge=1)
    patience: float = Field(default=600.0, gt=0, le=1e6)
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+$")


class StopSpec(_Frozen):
    """When a run has seen enough: looks at a schedule of prefixes, fixed before anything is computed.

    After ``first``, ``2 first``, ``4 first``, ... images the maps are read out, and the run ends at the first look at which they are
    reliable enough, or at ``samples``. So where it ends follows from the spec and the noise, not from machines or timing.

    Attributes
    ----------
    reliability
        What maps must reach (expected squared cosine with the true map).
    share
        Which share of the rows of a response must reach it; 1 by default.
    response
        The kind of response that is looked at; by default all.
    first
        Images before the first look, rounded up to whole batches.
    """

    reliability: float = Field(gt=0, lt=1)
    share: float = Field(default=1.0, gt=0, le=1)
    response: ResponseKind | None = None
    first: int = Field(default=1 << 16, ge=1, le=1 << 40)


def _dataset(value: Any) -> Any:
    return {"dataset": value} if isinstance(value, str) else value


class EvaluationSpec(_Frozen):
    """Images that maps are scored on as classifiers; in YAML also the name of the data set alone.

    Attributes
    ----------
    dataset
        Which one (see `wna_ray.datasets`); ``none``: maps are not scored.
    split
        ``test``; or ``validation``: the last sixth of the training images, on which noise and score are chosen.
    images
        The first so many of them; all by default.
    """

    dataset: Literal[DatasetName, "none"]
    split: Literal["test", "validation"] = "test"
    images: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> EvaluationSpec:
        if self.dataset == "imagenet-sample" and self.split == "validation":
            raise ValueError("split: imagenet-sample has one image a class, for testing; leave split out")
        return self

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        """As it is written: the name alone where that says all."""
        return self.dataset if (self.split, self.images) == ("test", None) else handler(self)


class PassNumerics(_Frozen):
    """What a pass over kept responses runs on: processors.

    Attributes
    ----------
    threads
        CPU threads of a worker.
    """

    threads: int = Field(default=1, ge=1, le=256)

    @property
    def device(self) -> Literal["cpu"]:
        """Where a worker computes."""
        return "cpu"


class _Written(_Frozen):
    """What a person writes as a YAML file."""

    @classmethod
    def parse(cls, data: Mapping[str, Any], source: str = "spec") -> Self:
        """Validate a mapping; every fault found is one line of a `SpecError` that starts with `source`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = []
            faults = error.errors()
            for fault in faults:
                if fault["type"] == "too_short" and _has_faults(fault["loc"], faults):
                    continue  # pydantic drops faulty items, then finds too few of them
                where = ".".join(str(part) for part in fault["loc"] if not isinstance(part, str) or "[" not in part)
                message = fault["msg"].removeprefix("Value error, ")
                if fault["type"] == "extra_forbidden":
                    message = f"unknown key; known here are {', '.join(_keys(cls, fault['loc'][:-1]))}"
                lines.append(f"{source}: {where + ': ' if where else ''}{message}")
            if len(lines) > MOST_FAULTS:
                lines[MOST_FAULTS:] = [f"{source}: and {len(lines) - MOST_FAULTS:,} more faults"]
            raise SpecError("\n".join(lines)) from None
        except UnicodeEncodeError:
            raise SpecError(f"{source}: holds half a character (a lone surrogate), which is no text") from None

    @classmethod
    def load(cls, path: str | Path, changes: Mapping[str, Any] | None = None, full: bool = False) -> Self:
        """Read a YAML file (see `read_yaml`)."""
        return cls.parse(read_yaml(path, changes, full), str(path))


class StcSpec(_Written):
    """Spike-triggered covariance of a finished run, from its kept responses and regenerated noise; or, of a run of gradients, the average
    Hessian, through its network.

    Attributes
    ----------
    run
        The run directory: a path or any fsspec URL. It was made with ``keep_responses: true``, or with ``estimator: gradient``.
    model
        Of a run of gradients: the URI of its model. A run directory may be anybody's, so no model is loaded because it says so.
    response
        Which of its responses; the first by default.
    units
        Which of its units (or classes), by their names; ``all`` by default.
    method
        ``dense``: all eigenvalues of the (d, d) matrix, d <= 4096, with a test against fresh noise. ``matrix-free``: the strongest axes for
        any d, without the matrix: found on the even batches of images, tested on the odd ones.
    linear
        Take the linear part out of the responses first (the STA explains it, here it would be noise).
    clip
        Count residual responses beyond so many standard deviations of the response as that many. Rare large ones fill the spectrum with
        single images, and hide all axes where d is not small beside N: without clipping where it is not given.
    fresh
        ``dense``: how many streams of fresh noise the responses are paired with. The smallest p-value is 2 / (fresh + 1).
    axes
        How many axes are kept, at most; for ``matrix-free`` also the columns of the block.
    passes
        ``matrix-free``: passes over the noise, each of which adds a block to the space in which axes are looked for.
    seed
        Of the fresh noise, and of the first block.
    numerics, execution
        See their classes. A run of gradients brings its own numerics.
    """

    run: str = Field(min_length=1)
    model: str | None = None
    response: ResponseKind | None = None
    units: Literal["all"] | Annotated[tuple[str, ...], BeforeValidator(_names)] = "all"
    method: Literal["dense", "matrix-free"] = "dense"
    linear: bool = True
    clip: float | None = Field(default=None, gt=0, le=1e6)
    fresh: int = Field(default=39, ge=0, le=1000)
    axes: int = Field(default=8, ge=1, le=64)
    passes: int = Field(default=6, ge=1, le=64)
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    numerics: PassNumerics = PassNumerics()
    execution: ExecutionSpec = ExecutionSpec()


class Spec(_Written):
    """A whole run.

    Attributes
    ----------
    model
        Model URI (see ``wna_ray.models``).
    decoder
        URI of a network whose pictures are shown to the model: the noise is its input, a code, and so are the maps. Of a trained
        autoencoder its decoder is taken.
    target
        Units inside the network, instead of its output; their default response is their activation.
    stimulus, responses, moments, numerics, execution
        See their classes.
    samples
        N: images 0 ... N - 1 of the seed are shown; at most so many where `stop` is given.
    stop
        End earlier, at a look at which the maps are reliable enough.
    seed
        Chooses the noise stream, 0 <= seed < 2**64.
    estimator
        ``noise``: cov(y, x) / sigma^2, from responses alone. ``gradient``: the mean gradient of the response, which for Gaussian noise
        is the same map (Stein's identity) from far fewer images; needs a network that can be differentiated. Over ``images`` it is the
        mean gradient, and no more than that.
    keep_responses
        Also keep the responses of every image (``responses/*.parquet``), for passes that come later.
    normalise
        Overrides the normalisation that the model's source declares.
    evaluation
        Data set on which the bias maps are scored as classifiers, if it is at hand (see `EvaluationSpec`); by default ``mnist`` for
        bundled MNIST models, for ``trained:`` ones what they were trained on, and none for others. Not part of the fingerprint.
    """

    model: str
    decoder: str | None = None
    target: TargetSpec | None = None
    stimulus: StimulusSpec
    responses: tuple[Annotated[ResponseSpec, BeforeValidator(_response)], ...] = Field(
        default=(ResponseSpec(kind="label"), ResponseSpec(kind="logits")), min_length=1
    )
    samples: int = Field(ge=1, le=1 << 40)
    stop: StopSpec | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    moments: MomentsSpec = MomentsSpec()
    numerics: NumericsSpec = NumericsSpec()
    estimator: Literal["noise", "gradient"] = "noise"
    keep_responses: bool = False
    normalise: NormaliseSpec | None = None
    evaluation: Annotated[EvaluationSpec | None, BeforeValidator(_dataset)] = None
    execution: ExecutionSpec = ExecutionSpec()

    @model_validator(mode="before")
    @classmethod
    def _default_responses(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "responses" in data:
            return data
        if data.get("target") is not None:
            return {**data, "responses": ["activation"]}
        return {**data, "responses": ["logits"]} if data.get("estimator") == "gradient" else data

    @model_validator(mode="after")
    def _check(self) -> Spec:
        kinds = [r.kind for r in self.responses]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"responses: each kind may stand once, got {', '.join(kinds)}")
        foreign = [kind for kind in kinds if kind not in UNIT_KINDS]
        if self.target is not None and foreign:
            raise ValueError(f"responses: {foreign[0]} is of the network's output; units (target:) have {', '.join(UNIT_KINDS)}")
        if self.decoder is not None and self.stimulus.space != "input":
            raise ValueError("decoder: the noise is what it is fed, not pixels; give stimulus.space: input")
        if self.decoder is not None and self.target is not None and self.target.evaluate != "image":
            raise ValueError("decoder: it takes whole codes only; give target.evaluate: image")
        if self.estimator == "gradient":
            self._check_gradient()
        if self.stop is not None and self.stop.response not in (None, *kinds):
            raise ValueError(f"stop.response: {self.stop.response} is none of the responses ({', '.join(kinds)})")
        if self.numerics.compile is not None and (self.target is not None or self.estimator == "gradient"):
            other = "target" if self.target is not None else "estimator: gradient"
            raise ValueError(f"numerics.compile: a compiled network gives its outputs, no more, but {other} looks inside; leave one out")
        if self.numerics.tune and self.estimator == "gradient":
            raise ValueError("numerics.tune: times forward passes, but estimator: gradient goes backward, too; give numerics.batch instead")
        if self.numerics.tune and any(uri.startswith("export:") for uri in (self.model, self.decoder or "")):
            raise ValueError("numerics.tune: a program saved by torch.export has its batch built in; give numerics.batch instead")
        if self.target is not None and self.target.position == "pooled" and self.stimulus.cell > 1:
            raise ValueError("target.position: pooled needs noise of single pixels; leave stimulus.cell out")
        correlates = next((name for name in ("spectrum", "basis") if getattr(self.stimulus, name) is not None), None)
        if self.moments.second and self.stimulus.mixed:
            raise ValueError(
                f"moments.second: variances of single values say nothing where values correlate; leave stimulus.{correlates} out"
            )
        if self.target is not None and self.target.position == "pooled":
            if correlates is not None:
                raise ValueError(f"target.position: pooled needs patches of white noise; leave stimulus.{correlates} out, or take centre")
            if self.stimulus.measured:
                raise ValueError("target.position: patches of one picture are no independent samples, so pooled needs noise; take centre")
        return self

    def with_batch(self, batch: int) -> Self:
        """The same with a batch that has been chosen."""
        return self.model_copy(update={"numerics": self.numerics.model_copy(update={"batch": batch, "tune": False})})

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of images after which a run may end, in order; the last is `samples`."""
        if self.stop is None:
            return (self.samples,)
        first, looks = -(-self.stop.first // self.numerics.batch) * self.numerics.batch, list[int]()
        while first < self.samples:
            looks.append(first)
            first *= 2
        return (*looks, self.samples)

    @property
    def keeps_squares(self) -> bool:
        """Whether sums of squares are kept for every value: of the noise (or of pictures) by response, or of the gradient."""
        return self.moments.second or self.estimator == "gradient" or self.stimulus.measured

    def _check_gradient(self) -> None:
        rough = [r.kind for r in self.responses if r.kind not in DIFFERENTIABLE]
        if rough:
            raise ValueError(f"estimator: {rough[0]} has no gradient; with estimator: gradient take {', '.join(DIFFERENTIABLE)}")
        if self.stimulus.kind not in ("gaussian", "images"):
            raise ValueError(
                f"estimator: the mean gradient is the map for gaussian noise only (Stein's identity), not {self.stimulus.kind}"
            )
        for name in ("spectrum", "basis"):
            if getattr(self.stimulus, name) is not None:
                raise ValueError(f"estimator: gradient has the map of white noise; leave stimulus.{name} out")
        if self.target is not None and self.target.position == "pooled":
            raise ValueError("estimator: gradient has no pooled positions; take target.position: centre or mean")
        if self.moments.second or self.keep_responses:
            raise ValueError("estimator: gradient keeps neither second moments nor single responses; leave them out")


def read_yaml(path: str | Path, changes: Mapping[str, Any] | None = None, full: bool = False) -> dict[str, Any]:
    """Read the YAML file of a spec. Its key ``full``, where it has one, is no part of the spec.

    Parameters
    ----------
    path
        The file. A relative ``stimulus.offset`` or ``weights=`` path stays relative to the working directory.
    changes
        ``{"stimulus.scale": 0.5}``: dotted keys set after reading.
    full
        First make the changes that the file keeps under ``full`` (dotted keys: what its full size is).
    """
    data = parse_yaml(read_text(path), str(path))
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected a mapping (model:, stimulus:, samples:, ...), got {type(data).__name__}")
    larger = data.pop("full", None)
    if full and not isinstance(larger, dict):
        raise SpecError(f"--full: {path} does not say what its full size is; give it a key full: {{samples: ...}}, or leave --full out")
    apply(data, larger if full else {}, "full:", str(path))
    apply(data, changes or {}, "--set", str(path))
    return data


def apply(data: dict[str, Any], changes: Mapping[str, Any], told: str, source: str) -> None:
    """Make changes of dotted keys in nested mappings; `told` is what an error calls them, in `source`."""
    for key, value in changes.items():
        _set(data, str(key), value, told, source)


def _has_faults(where: tuple[int | str, ...], faults: Sequence[Any]) -> bool:
    """Whether a list has faults in it."""
    return any(len(fault["loc"]) > len(where) and fault["loc"][: len(where)] == where for fault in faults)


def _keys(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Keys that a spec knows at a place."""
    for part in where:
        nested = _models(model.model_fields[part].annotation) if isinstance(part, str) and part in model.model_fields else ()
        model = next(iter(nested), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _set(data: dict[str, Any], key: str, value: Any, told: str, source: str) -> None:
    *path, last = key.split(".")
    node = data
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise SpecError(f"{told} {key}: '{part}' is not a mapping in {source}")
    node[last] = value


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spare blanks: one text for one meaning (floats as Python's shortest ``repr``)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
