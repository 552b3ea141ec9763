"""What a run is asked to do: one frozen model for YAML, Python and the command line.

`Spec` is what a person writes. `Job` (in `wna_ray.shard`) is what becomes of it once the model has been looked at;
the fingerprint is taken there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from wna_ray.errors import SpecError
from wna_ray.noise import Kind, table

ResponseKind = Literal["label", "confidence", "logits", "probabilities"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _number(value: Any) -> Any:
    """Numbers such as 1.0e3 are strings to YAML 1.1, which wants a sign in the exponent."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


class StimulusSpec(_Frozen):
    """The noise: ``offset + scale * unit * grid`` (see ``docs/noise.md``).

    Attributes
    ----------
    kind
        Noise family. For ``gaussian`` ``scale`` is the standard deviation, for ``uniform`` the half-width, for
        ``binary`` and ``sparse`` the step away from the offset.
    shape
        ``(C, H, W)`` of one image.
    offset
        The mean of the noise: a number, a ``.npy`` file with a ``(C, H, W)`` image, or ``bundled:mnist-mean``.
    scale
        Size of the noise, in the units of ``space``.
    cell
        Side, in pixels, of the square cells that share one value (1: white noise).
    density
        ``sparse`` only: share of cells that differ from the offset.
    space
        Where the noise lives: ``pixel`` ([0, 1], before the model's own normalisation) or ``input`` (what the network
        itself is fed).
    """

    kind: Kind
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    offset: Annotated[float | str, BeforeValidator(_number)] = 0.0
    scale: float = Field(gt=1e-30, lt=1e30)
    cell: int = Field(default=1, ge=1)
    density: float | None = None
    space: Literal["pixel", "input"] = "pixel"

    @model_validator(mode="after")
    def _check(self) -> StimulusSpec:
        try:
            table(self.kind, self.density)
        except SpecError as error:
            raise ValueError(str(error)) from error
        if isinstance(self.offset, float) and not abs(self.offset) < 1e30:
            raise ValueError(f"offset: {self.offset} is not finite, or beyond 1e30")
        if self.cell > max(self.shape[1:]):
            raise ValueError(f"cell: {self.cell} pixels are more than the image's {self.shape[1]} x {self.shape[2]}")
        return self


class ResponseSpec(_Frozen):
    """What is kept of the network's answer.

    Attributes
    ----------
    kind
        ``label``: one-hot of the largest logit. ``confidence``: the same, weighted by the label's probability.
        ``logits``, ``probabilities``: one real number a class.
    centred
        ``logits`` only: subtract the mean over the outputs first. Softmax, and so every decision, sees only these
        differences. With one output nothing is subtracted.
    """

    kind: ResponseKind
    centred: bool = True


def _response(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


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
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(default=128, ge=1, le=1 << 16)
    threads: int = Field(default=1, ge=1, le=256)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class MomentsSpec(_Frozen):
    """Which sums are kept beside counts and first moments.

    Attributes
    ----------
    second
        Also keep the per-pixel second moments ``sum y x^2`` (variance maps, RMS maps).
    """

    second: bool = False


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


class Spec(_Frozen):
    """A whole run.

    Attributes
    ----------
    model
        Model URI (see ``wna_ray.models``).
    stimulus, responses, moments, numerics, execution
        See their classes.
    samples
        N: images 0 ... N - 1 of the seed are shown.
    seed
        Chooses the noise stream, 0 <= seed < 2**64.
    normalise
        Overrides the normalisation that the model's source declares.
    evaluation
        Data set on which the bias maps are scored as classifiers, if it is at hand; by default ``mnist`` for bundled
        MNIST models and none for others. Not part of the fingerprint.
    """

    model: str
    stimulus: StimulusSpec
    responses: tuple[Annotated[ResponseSpec, BeforeValidator(_response)], ...] = Field(
        default=(ResponseSpec(kind="label"), ResponseSpec(kind="logits")), min_length=1
    )
    samples: int = Field(ge=1, le=1 << 40)
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    moments: MomentsSpec = MomentsSpec()
    numerics: NumericsSpec = NumericsSpec()
    normalise: NormaliseSpec | None = None
    evaluation: Literal["mnist", "fashion-mnist", "none"] | None = None
    execution: ExecutionSpec = ExecutionSpec()

    @model_validator(mode="after")
    def _check(self) -> Spec:
        kinds = [r.kind for r in self.responses]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"responses: each kind may stand once, got {', '.join(kinds)}")
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any], source: str = "spec") -> Spec:
        """Validate a mapping; every fault found is one line of a `SpecError` that starts with `source`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = []
            faults = error.errors()
            deeper = {fault["loc"][0] for fault in faults if len(fault["loc"]) > 1}
            for fault in faults:
                if fault["type"] == "too_short" and fault["loc"][0] in deeper:
                    continue  # pydantic drops faulty items, then finds too few of them
                where = ".".join(str(part) for part in fault["loc"] if not isinstance(part, str) or "[" not in part)
                message = fault["msg"].removeprefix("Value error, ")
                if fault["type"] == "extra_forbidden":
                    message = f"unknown key; known here are {', '.join(_keys(fault['loc'][:-1]))}"
                lines.append(f"{source}: {where + ': ' if where else ''}{message}")
            raise SpecError("\n".join(lines)) from None

    @classmethod
    def load(cls, path: str | Path, changes: Mapping[str, Any] | None = None) -> Spec:
        """Read a YAML file.

        Parameters
        ----------
        path
            The file. A relative ``stimulus.offset`` or ``weights=`` path stays relative to the working directory.
        changes
            ``{"stimulus.scale": 0.5}``: dotted keys set after reading.
        """
        try:
            data = yaml.safe_load(Path(path).read_text())
        except FileNotFoundError:
            raise SpecError(f"{path}: no such file; give a YAML spec such as those in jobs/") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: cannot be read as text ({error})") from None
        except yaml.YAMLError as error:
            raise SpecError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
        if not isinstance(data, dict):
            raise SpecError(f"{path}: expected a mapping (model:, stimulus:, samples:, ...), got {type(data).__name__}")
        for key, value in (changes or {}).items():
            _set(data, key, value, str(path))
        return cls.parse(data, str(path))


def _keys(where: tuple[int | str, ...]) -> list[str]:
    """Keys that a spec knows at a place."""
    places: dict[str, type[BaseModel]] = {
        "stimulus": StimulusSpec,
        "responses": ResponseSpec,
        "moments": MomentsSpec,
        "numerics": NumericsSpec,
        "normalise": NormaliseSpec,
        "execution": ExecutionSpec,
    }
    return list(places.get(str(where[0]) if where else "", Spec).model_fields)


def _set(data: dict[str, Any], key: str, value: Any, source: str) -> None:
    *path, last = key.split(".")
    node = data
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise SpecError(f"--set {key}: '{part}' is not a mapping in {source}")
    node[last] = value


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spare blanks: one text for one meaning (floats as Python's shortest ``repr``)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
