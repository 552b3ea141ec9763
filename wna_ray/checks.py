"""What a run may say of itself: bounds and types of ``spec.json``, ``MANIFEST.json`` and all that they describe.

A run directory may come from anybody. Nothing here trusts it: text is bounded before it is parsed, numbers before they
become sizes, sizes before they become memory, names before they become paths or reach a terminal.
"""

from __future__ import annotations

import json
import math
import re
import resource
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from wna_ray.datasets import SHAPES
from wna_ray.errors import RunError, SpecError
from wna_ray.memory import available, size
from wna_ray.moments import Moments
from wna_ray.responses import LIMIT, is_dense
from wna_ray.shard import stimulus_of
from wna_ray.spec import ResponseKind, Spec, StcSpec
from wna_ray.stimuli import Box
from wna_ray.stored import most_bytes, width
from wna_ray.sums import PassSums, shapes, trial_shapes
from wna_ray.text import plain
from wna_ray.trial_spec import MOST_CONDITIONS, TrialSpec
from wna_ray.trials import conditions
from wna_ray.units import Field as UnitField

MOST_JSON = 16 << 20
MOST_NAMES, MOST_NAME = 1_000_000, 1_000  # outputs of a network, and characters of a name
MOST_OTHER = 1 << 30  # bytes of a figure, or of an object that this version does not know
ARCHIVE_BYTES = 1 << 17  # of a packed object beside its arrays
NPY_BYTES = 1 << 10  # of a .npy beside its array
MOST_GRID = 128  # magnitude of a grid value: noise has 127, bytes less 128 one more
NO_OFFSET = np.zeros((1, 1, 1), dtype=np.float32)  # sizes do not depend on it
TOP = ("spec.json", "environment.json", "offset.npy", "basis.npy", "block.npy", "MANIFEST.json")
EVALUATION = "evaluation/classifier.json"
FOLDERS = ("segments", "result", "result/figures", "responses", "evaluation")

_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}")
_FIGURE = re.compile(r"result/figures/[a-z0-9_-]{1,60}\.png")
_SHA256 = re.compile("[0-9a-f]{64}")


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object; `RunError` where it is none, or holds numbers that JSON does not have."""

    def refuse(text: str) -> float:
        raise ValueError(f"{text} is no number")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text[:20])

    try:
        value = json.loads(data, parse_constant=refuse, parse_float=finite)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except RecursionError:
        raise RunError(f"{where} is damaged (nested too deeply)") from None
    except ValueError as error:
        raise RunError(f"{where} is damaged ({plain(str(error), 200)})") from None
    return value


def require_memory(needed: int, what: str) -> None:
    """`RunError` where this process cannot have so many bytes more."""
    there = available()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
        there = limit - taken if there is None else min(there, limit - taken)
    if there is not None and needed > there:
        raise RunError(f"{what} needs {size(needed)} of memory, but this machine has {size(there)} free; take a larger machine")


class _Loose(BaseModel):
    """Types are strict, keys that a later version may add are not."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


_M = TypeVar("_M", bound=BaseModel)
_Count = Annotated[int, Field(ge=0, le=1 << 41)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Entry(_Loose):
    bytes: Annotated[int, Field(ge=0, le=1 << 62)]
    sha256: _Digest


class _Segment(_Entry):
    name: str
    start: _Count
    stop: _Count
    images: _Count
    nonfinite: _Count
    out_of_range: _Count
    responses: _Entry | None = None

    @model_validator(mode="after")
    def _check(self) -> _Segment:
        if self.name != f"segments/{self.start:015d}-{self.stop:015d}.npz":
            raise ValueError(f"{plain(self.name, 80)!r} is not the segment of images [{self.start}, {self.stop})")
        return self


class _Counts(BaseModel):
    """No other key: whatever is added up has to be compared with the segments."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    images: _Count
    nonfinite: _Count
    out_of_range: _Count


class _Manifest(_Loose):
    format: str
    fingerprint: str
    samples: _Count
    counts: _Counts
    segments: list[_Segment]
    objects: dict[str, _Entry]

    @model_validator(mode="after")
    def _check(self) -> _Manifest:
        names = [s.name for s in self.segments] + list(self.objects)
        for name in self.objects:
            if not safe(name) or name.startswith("segments/") or name == "MANIFEST.json":
                raise ValueError(f"{plain(name, 80)!r} is no name of an object of a run")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two of its names are the same to some file systems")
        return self


class _Point(_Loose):
    exponent: list[Annotated[int, Field(ge=-256, le=256)]]
    centre: list[Annotated[int, Field(gt=-(1 << 62), lt=1 << 62)]]
    threshold: list[float] = []


_Place = Annotated[int, Field(ge=0, le=1 << 31)]
_Size = Annotated[int, Field(ge=1, le=1 << 31)]


class _Box(_Loose):
    top: _Place
    left: _Place
    height: _Size
    width: _Size


class _Patches(_Loose):
    first: _Box
    rows: _Size
    columns: _Size
    step: Annotated[list[_Size], Field(min_length=2, max_length=2)]


class _Target(_Loose):
    layer: str
    units: Annotated[list[_Place], Field(min_length=1, max_length=MOST_NAMES)]
    pooling: Literal["single", "mean", "pooled"]
    at: Annotated[list[_Place], Field(min_length=2, max_length=2)]
    shown: _Box
    patches: _Patches


class _Outputs(_Loose):
    outputs: int
    normalise: dict[str, Any] | None = None


class _Decoder(_Loose):
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 16)]], Field(min_length=3, max_length=3)]


class _Identity(_Loose):
    keep_responses: bool = False
    seed: int
    stimulus: dict[str, Any]
    model: _Outputs
    target: _Target | None = None
    decoder: _Decoder | None = None
    responses: list[dict[str, Any]]
    fixed_point: dict[str, _Point]
    moments: dict[str, Any]
    numerics: dict[str, Any]
    gradient_exponent: dict[str, list[Annotated[int, Field(ge=-1100, le=1100)]]] = {}


class _Described(_Loose):
    identity: _Identity
    samples: Annotated[int, Field(ge=1, le=1 << 40)]
    names: Annotated[list[Annotated[str, Field(max_length=MOST_NAME)]], Field(min_length=1, max_length=MOST_NAMES)]
    spec: dict[str, Any]


_ByScore = dict[Literal["dot", "correlation", "cosine", "centred"], float]


class _Control(_Loose):
    mean: float
    sd: float


class _Template(_Loose):
    accuracy: _ByScore
    interval: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = {}
    p_value: _ByScore = {}
    control: dict[str, _Control] = {}
    mean_rank: _ByScore = {}
    top5: _ByScore = {}


class _Rank(_Loose):
    mean: float
    standard_error: float


class _Self(_Loose):
    own: int
    maps: int


class _Evaluation(_Loose):
    dataset: str
    split: str = "test"
    images: int
    chance: float
    majority_class: float
    chance_rank: _Rank | None = None
    note: str = ""
    templates: Annotated[dict[str, _Template], Field(max_length=16)]
    self: Annotated[dict[str, _Self], Field(max_length=16)] = {}


def _line(most: int) -> AfterValidator:
    """One line of a text, made plain."""
    return AfterValidator(lambda text: plain(text, most))


def _moment(text: str) -> str:
    if len(text) > 40 or datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no time with its zone")
    return text


_Word = Annotated[str, _line(100)]
_Sentence = Annotated[str, _line(1_000)]
_Seconds = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
_Moment = Annotated[str, AfterValidator(_moment)]


class _DriverProgress(_Loose):
    samples: _Count | None = None
    done: _Count
    workers: _Count
    retried: _Count
    failed: _Count
    stage: _Word
    committed: _Count = 0
    images_per_second: Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]


class _DriverStorage(_Loose):
    commits: _Count
    seconds: _Seconds
    bytes: Annotated[int, Field(ge=0, le=1 << 62)]
    retries: _Count


class _Driver(_Loose):
    id: _Word
    host: _Word
    pid: Annotated[int, Field(ge=0, lt=1 << 31)]
    process: Annotated[str, _line(200)]
    state: _Word
    reason: _Sentence
    beat: Annotated[int, Field(ge=0, le=1 << 62)]
    began: _Moment
    time: _Moment
    every_seconds: _Seconds
    progress: _DriverProgress
    phase_seconds: Annotated[dict[_Word, _Seconds], Field(max_length=100)]
    storage: _DriverStorage


def safe(name: str) -> bool:
    """Whether a name may be an object of a run: known folders, known names at the top, nothing that leads elsewhere."""
    folder, _, last = name.rpartition("/")
    return bool(_PART.fullmatch(last)) and (folder in FOLDERS or name in TOP)


def check_described(described: Mapping[str, Any], where: str) -> Extent:
    """Types and consistency of ``spec.json``; how large the run's objects may be."""
    found = _validated(_Described, described, where)
    try:
        spec = Spec.parse(found.spec, where)
    except SpecError as error:
        raise _unlike(error) from None
    identity, kinds = found.identity, [r.kind for r in spec.responses]
    same = {
        "samples": spec.samples == found.samples,
        "seed": spec.seed == identity.seed,
        "stimulus": spec.stimulus.identity() == {k: v for k, v in identity.stimulus.items() if k not in ("offset", "content")}
        and _digest_where(spec.stimulus.kind == "images" or spec.stimulus.basis is not None, identity.stimulus.get("content")),
        "stimulus.offset": _digest_of_offset(spec, identity.stimulus.get("offset")),
        "numerics": _agree(spec.numerics.identity(), identity.numerics, ("device",)),
        "normalise": _is_normalise(spec, identity.model.normalise),
        "target": _fits(identity.target, spec, found.names),
        "decoder": (spec.decoder is None) == (identity.decoder is None),
        "responses": [r.identity() for r in spec.responses] == identity.responses,
        "gradient_exponent": set(identity.gradient_exponent) == set(kinds if spec.estimator == "gradient" else ())
        and all(len(e) == len(found.names) for e in identity.gradient_exponent.values()),
        "keep_responses": spec.keep_responses == identity.keep_responses,
        "moments": spec.moments.identity() == identity.moments,
        "names": len(found.names) == identity.model.outputs,
        "fixed_point": set(identity.fixed_point) == {r.kind for r in spec.responses},
    }
    points = identity.fixed_point.values()
    same["fixed_point"] &= all(len(p.exponent) == len(p.centre) == len(found.names) for p in points)
    same["fixed_point"] &= all(len(p.threshold) == len(found.names) * (kind == "spikes") for kind, p in identity.fixed_point.items())
    _require_same(where, same)
    field = None if identity.target is None else UnitField.parse(identity.target.model_dump())
    extent = Extent.of(spec, found.names, field)
    if identity.decoder is None:
        return extent
    c, h, w = identity.decoder.shape
    return replace(extent, decoded=(c, h, w))


def _digest_where(expected: bool, content: Any) -> bool:
    """Whether there is a digest of what a data set gave exactly where something of it is shown."""
    return _is_digest(content) if expected else content is None


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _digest_of_offset(spec: Spec, digest: Any) -> bool:
    """Whether a digest can be the offset's: of an image any, of a number its own."""
    offset = spec.stimulus.offset
    if isinstance(offset, str):
        return _is_digest(digest)
    number = np.full((1, 1, 1), offset, dtype=np.float32)
    return bool(stimulus_of(spec, number, None).offset_digest == digest)


def _is_normalise(spec: Spec, recorded: Mapping[str, Any] | None) -> bool:
    """Whether what was applied is what a spec asks for; nothing is where the network is fed noise."""
    if spec.normalise is None or recorded is None:
        return True
    return bool(spec.normalise.model_dump(mode="json") == recorded)


def _agree(a: Mapping[str, Any], b: Mapping[str, Any], but: Collection[str] = ()) -> bool:
    """Whether two mappings say the same where both say anything: versions know different keys."""
    return all(a[key] == b[key] for key in a.keys() & b.keys() if key not in but)


def _fits(target: _Target | None, spec: Spec, names: list[str]) -> bool:
    """Whether the units of an identity are those that a spec asks for, and their places lie in its images."""
    if target is None or spec.target is None:
        return target is None and spec.target is None
    field, (_, height, width), cell = UnitField.parse(target.model_dump()), spec.stimulus.shape, spec.stimulus.cell
    p, shown = field.patches, field.shown
    last = Box(p.first.top + (p.rows - 1) * p.step[0], p.first.left + (p.columns - 1) * p.step[1], p.first.height, p.first.width)
    return (
        target.layer == spec.target.layer
        and field.units == (tuple(range(len(names))) if spec.target.units == "all" else spec.target.units)
        and len(field.units) == len(names)
        and shown.within(Box(0, 0, height, width))
        and p.first.within(Box(0, 0, shown.height, shown.width))
        and last.within(Box(0, 0, shown.height, shown.width))
        and (p.count == 1 or (field.pooling == "pooled" and cell == 1))
        and not any(n % cell for n in (shown.top, shown.left, p.first.top, p.first.left))
    )


class _PassShape(_Loose):
    units: Annotated[int, Field(ge=1, le=MOST_NAMES)]
    d: Annotated[int, Field(ge=1, le=1 << 40)]
    null: Annotated[int, Field(ge=0, le=1000)]
    columns: Annotated[int, Field(ge=0, le=1 << 20)]
    bins: Annotated[int, Field(ge=0, le=1 << 10)] = 0


class _PassIdentity(_Loose):
    """A pass in the folder of another is ``of`` it, and the other says what was asked."""

    of: str | None = None
    shape: _PassShape
    run: str | None = None
    kind: ResponseKind | None = None
    units: list[int] | None = None
    samples: int | None = None
    seed: str | None = None
    estimator: str | None = None


class _PassDescribed(_Loose):
    identity: _PassIdentity
    spec: dict[str, Any]
    samples: Annotated[int, Field(ge=1, le=1 << 40)]
    names: Annotated[list[Annotated[str, Field(max_length=MOST_NAME)]], Field(min_length=1, max_length=MOST_NAMES)]


def check_pass(described: Mapping[str, Any], where: str) -> PassExtent:
    """Types of the ``spec.json`` of a pass over kept responses; how large its objects may be."""
    found = _validated(_PassDescribed, described, where)
    identity, shape = found.identity, found.identity.shape
    if shape.units != len(found.names):
        raise RunError(f"{where} is damaged: it names {len(found.names)} units, not {shape.units}")
    try:
        spec = StcSpec.parse(found.spec, where)
    except SpecError as error:
        raise _unlike(error) from None
    if identity.of is not None:
        return PassExtent(found.samples, shape.model_dump(), inner=True)
    free = (spec.fresh, 0, 0) if spec.method == "dense" else (0, min(spec.axes, shape.d), 0)
    asked = spec.model_dump(mode="json", exclude={"run", "units", "seed"})
    _require_same(
        where,
        {
            "run": identity.run is not None,
            "samples": identity.samples == found.samples,
            "response": identity.kind is not None and spec.response in (None, identity.kind),
            "units": spec.units in ("all", tuple(found.names)) and len(identity.units or ()) == len(found.names),
            "model": (spec.model is None) == (identity.estimator is None),
            "seed": identity.seed == str(spec.seed),
            "shape": (shape.null, shape.columns, shape.bins) == free,
            "method": _agree(asked, described["identity"]),
        },
    )
    return PassExtent(found.samples, shape.model_dump())


class _TrialShape(_Loose):
    conditions: Annotated[int, Field(ge=1, le=MOST_CONDITIONS)]
    classes: Annotated[int, Field(ge=1, le=MOST_NAMES)]
    responses: Annotated[int, Field(ge=1, le=MOST_NAMES)]
    gammas: Annotated[int, Field(ge=0, le=MOST_CONDITIONS)]
    d: Annotated[int, Field(ge=0, le=1 << 40)]
    signals: Annotated[int, Field(ge=0, le=1 << 40)]


class _Signals(_Loose):
    count: Annotated[int, Field(ge=1, le=1 << 40)]


class _TrialIdentity(_Loose):
    shape: _TrialShape
    signals: _Signals
    attack: dict[str, Any] | None = None
    stimulate: dict[str, Any] | None = None
    classes: Annotated[list[Annotated[str, Field(max_length=MOST_NAME)]], Field(min_length=1, max_length=MOST_NAMES)]
    correct: Annotated[list[Annotated[int, Field(ge=-1, le=MOST_NAMES)]], Field(min_length=1, max_length=MOST_NAMES)]


class _TrialsDescribed(_Loose):
    identity: _TrialIdentity
    samples: Annotated[int, Field(ge=1, le=1 << 40)]
    names: Annotated[list[Annotated[str, Field(max_length=MOST_NAME)]], Field(min_length=1, max_length=MOST_NAMES)]
    spec: dict[str, Any]


def check_trials(described: Mapping[str, Any], where: str) -> TrialExtent:
    """Types and consistency of the ``spec.json`` of a run of trials; how large its objects may be."""
    found = _validated(_TrialsDescribed, described, where)
    shape, identity = found.identity.shape, found.identity
    try:
        spec = TrialSpec.parse(found.spec, where)
        expected = conditions(spec, found.names)
    except (SpecError, ValueError) as error:
        raise _unlike(error) from None
    shown = spec.shown(SHAPES[spec.signals.dataset], found.samples)
    pixels, signals = stimulus_of(shown, NO_OFFSET, None).pixels, identity.signals.count
    asked = spec.model_dump(mode="json")
    counted = {key: asked[key] for key in ("gammas", "transforms", "moments", "repeats")}
    kept = (len(spec.gammas), pixels, signals) if spec.moments else (0, 0, 0)
    chosen = spec.signals.classes
    _require_same(
        where,
        {
            "names": shape.responses == len(found.names),
            "classes": shape.classes == len(identity.classes) == len(identity.correct)
            and max(identity.correct) < shape.responses
            and (chosen == "all" or len(chosen) == shape.classes),
            "conditions": shape.conditions == len(expected),
            "moments": (shape.gammas, shape.d, shape.signals) == kept,
            "samples": found.samples == spec.repeats * signals,
            "what was shown": _agree(counted, described["identity"]),
            "attack": _is_part(asked["attack"], identity.attack),
            "stimulate": _is_part(asked["stimulate"], identity.stimulate),
        },
    )
    return TrialExtent(found.samples, shape.model_dump(), spec.moments)


def _is_part(asked: Mapping[str, Any] | None, recorded: Mapping[str, Any] | None) -> bool:
    """Whether what is done to stimuli is what was asked for; digests are of no part of a spec."""
    if asked is None or recorded is None:
        return asked is recorded
    return _agree(asked, recorded, ("run", "templates", "profiles"))


def _require_same(where: str, same: Mapping[str, bool]) -> None:
    """`RunError` where something in a spec is not as its identity says."""
    if not all(same.values()):
        raise RunError(f"{where} is damaged: its spec and its identity differ in {', '.join(k for k, v in same.items() if not v)}")


def _unlike(error: Exception) -> RunError:
    """What is wrong with a spec that lies in a run directory; its first fault in full."""
    lines = str(error).splitlines() or ["its spec is damaged"]
    return RunError(plain(lines[0], 300) + f" (and {len(lines) - 1} more)" * (len(lines) > 1))


def check_manifest(manifest: Mapping[str, Any], where: str) -> None:
    """Types and names of ``MANIFEST.json``."""
    _validated(_Manifest, manifest, where)


def check_driver(driver: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a driver says of itself: numbers within bounds, texts made plain.

    Raises
    ------
    RunError
        It says anything else.
    """
    return _validated(_Driver, driver, where).model_dump()


def check_evaluation(evaluation: dict[str, Any], where: str) -> None:
    """Types of ``evaluation/classifier.json``, which has no digest; its words are made plain."""
    _validated(_Evaluation, evaluation, f"{where} (which is no part of the result)")
    evaluation["dataset"] = plain(evaluation["dataset"], 40)
    for key, most in (("split", 40), ("note", 300)):
        evaluation[key] = plain(evaluation.get(key, ""), most)
    for key in ("templates", "self"):
        evaluation[key] = {plain(kind, 40): entry for kind, entry in evaluation.get(key, {}).items()}


def _validated(model: type[_M], value: Mapping[str, Any], where: str) -> _M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        at = plain(".".join(str(part) for part in first["loc"]), 100)
        raise RunError(f"{where} is damaged ({at + ': ' if at else ''}{first['msg'].removeprefix('Value error, ')})") from None


@dataclass(frozen=True)
class Extent:
    """How large the objects of a run may be, as its spec says.

    Attributes
    ----------
    samples
        N.
    kinds
        Responses, in the spec's order.
    outputs
        k, the outputs of the network.
    text
        Bytes of their names.
    d
        Noise values of an image.
    shape
        ``(C, H, W)`` of a map.
    second
        Whether second moments are kept.
    halves
        Whether the moments of odd batches are kept, too.
    whole
        ``(C, H, W)`` of a whole image.
    looks
        Numbers of images after which it may have ended.
    field
        Where the units look; None where the network's output is asked.
    filtered
        Whether maps are also kept freed of the noise's correlations, as they are where it has a spectrum or a basis.
    basis
        Whole numbers of the basis, and of its centre.
    decoded
        ``(C, H, W)`` of a decoder's picture; None without a decoder.
    pictured
        Whether the offset is an image.
    stops
        Whether it may end early, and so has a curve of its looks.
    kept
        Whether the responses of every image are kept.
    """

    samples: int
    kinds: tuple[ResponseKind, ...]
    outputs: int
    text: int
    d: int
    shape: tuple[int, int, int]
    second: bool
    halves: bool
    whole: tuple[int, int, int]
    looks: tuple[int, ...]
    field: UnitField | None = None
    filtered: bool = False
    basis: int = 0
    decoded: tuple[int, int, int] | None = None
    pictured: bool = False
    stops: bool = False
    kept: bool = False

    @classmethod
    def of(cls, spec: Spec, names: list[str], field: UnitField | None = None) -> Extent:
        """Of a spec, the names of the network's outputs, and where units look."""
        text = sum(len(name.encode(errors="surrogatepass")) for name in names)
        kinds, stimulus, basis = tuple(r.kind for r in spec.responses), stimulus_of(spec, NO_OFFSET, field), spec.stimulus.basis
        return cls(
            spec.samples,
            kinds,
            len(names),
            text,
            stimulus.pixels,
            stimulus.shape,
            spec.keeps_squares,
            spec.moments.halves,
            spec.stimulus.shape,
            spec.looks,
            field,
            spec.stimulus.mixed,
            0 if basis is None else (1 + basis.coefficients(spec.stimulus.shape)) * math.prod(spec.stimulus.shape),
            pictured=isinstance(spec.stimulus.offset, str),
            stops=spec.stop is not None,
            kept=spec.keep_responses,
        )

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished run beside segments, responses and figures; whether it must have them."""
        one_hot = any(not is_dense(kind) for kind in self.kinds)
        return _objects(
            {
                "offset.npy": self.pictured,
                "basis.npy": self.basis > 0,
                "result/classes.parquet": True,
                "result/bias_maps.npy": True,
                "result/z_maps.npy": True,
                "result/map_outputs.npy": True,
                "result/whitened_maps.npy": self.filtered,
                "result/variance_maps.npy": self.second and one_hot,
                "result/decoded_maps.npy": self.decoded is not None,
                "result/reliability.parquet": self.stops,
            },
            {"result/filters.npy": self.field is not None},  # where any unit is linear
        )

    @property
    def rows(self) -> int:
        """R: rows of the maps and of the table."""
        return len(self.kinds) * self.outputs

    def most(self, name: str) -> int:
        """Most bytes that an object can have."""
        row, pictures = 8 * self.d * (1 + self.second), 4 * self.rows * math.prod(self.shape)
        moments = (row * (self.rows + 1) + 48 * self.rows) * (1 + self.halves) + ARCHIVE_BYTES
        known = {
            "spec.json": MOST_JSON,
            "environment.json": MOST_JSON,
            "offset.npy": 4 * math.prod(self.whole) + NPY_BYTES,
            "basis.npy": 4 * self.basis + NPY_BYTES,
            "result/moments.npz": moments,
            "result/bias_maps.npy": pictures + NPY_BYTES,
            "result/z_maps.npy": pictures + NPY_BYTES,
            "result/whitened_maps.npy": pictures + NPY_BYTES,
            "result/variance_maps.npy": pictures + NPY_BYTES,
            "result/decoded_maps.npy": 4 * self.rows * math.prod(self.decoded or (0,)) + NPY_BYTES,
            "result/map_outputs.npy": 4 * self.rows * self.outputs + NPY_BYTES,
            "result/filters.npy": 8 * self.outputs * self.d + NPY_BYTES,
            "result/classes.parquet": self.table,
            "result/reliability.parquet": self.table * (2 + len(self.looks)),
        }
        if name.startswith("responses/"):
            return self.responses(self.samples)
        return moments if name.startswith("segments/") else known.get(name, MOST_OTHER)

    @property
    def widths(self) -> dict[str, int]:
        """Integers that are kept of an image, by response."""
        patches = 1 if self.field is None else self.field.patches.count
        return {kind: width(kind, self.outputs, patches) for kind in self.kinds}

    def responses(self, images: int) -> int:
        """Most bytes of the responses of so many images."""
        return most_bytes(images, list(self.widths.values()))

    @property
    def table(self) -> int:
        """Most bytes of the table, packed or not."""
        return (1 << 20) + 256 * self.rows + 16 * len(self.kinds) * self.text

    def report_bytes(self, moments: int) -> int:
        """Memory that making the result again takes from so many bytes of moments; measured, to about a tenth."""
        pixels = math.prod(self.shape)
        maps, pictures, drawn = (8 * n for n in (self.rows * self.d, self.rows * pixels, min(self.rows, 30 * len(self.kinds)) * pixels))
        whitened = (15 * maps + (200 * self.basis + 320 * self.d**2) * (self.basis > 0)) if self.filtered else 0
        decoded = 16 * self.rows * math.prod(self.decoded or (0,))  # the file, the array, the file made again, and some on the sheet
        return decoded + (whitened + 20 * maps + 23 * moments + 15 * pictures + 23 * drawn) // 10 + 24 * self.rows * self.outputs

    def check(self, moments: Moments | PassSums) -> None:
        """`ValueError` where no images can have such moments."""
        if isinstance(moments, PassSums):
            raise ValueError("sums of a later pass")
        if (moments.odd is not None) != self.halves:
            raise ValueError("moments of odd batches, which its spec does not ask for, or none")
        if moments.odd is not None:
            replace(self, halves=False).check(moments.odd)
            if moments.odd.seen > moments.images:
                raise ValueError("more images in odd batches than in all")
        if set(moments.responses) != set(self.kinds):
            raise ValueError(f"moments of {', '.join(moments.responses)}, not of {', '.join(self.kinds)}")
        if (moments.sum_x.size, moments.sum_xx.size) != (self.d, self.d * self.second):
            raise ValueError(f"moments of {moments.sum_x.size} noise values an image, not {self.d}")
        n = moments.images * (1 if self.field is None else self.field.patches.count)
        largest = {"rows": self.outputs - 1, "count": n, "peak": LIMIT, "sum_y": n * LIMIT, "sum_yx": n * LIMIT * MOST_GRID}
        lowest = {"rows": 0, "count": 0, "peak": 0}
        within = [
            min(n, moments.nonfinite, moments.out_of_range) >= 0,
            _within(moments.sum_x, MOST_GRID * n),
            _within(moments.sum_xx, MOST_GRID**2 * n, 0),
        ]
        for r in moments.responses.values():
            within += [_within(getattr(r, key), most, lowest.get(key)) for key, most in largest.items()]
            within += [_within(r.sum_yxx, n * LIMIT * MOST_GRID**2), _within(r.sum_yy, max(n * LIMIT**2 >> 32, (1 << 32) - 1), 0)]
        if not all(within):
            raise ValueError("sums that no images can have")


@dataclass(frozen=True)
class PassExtent:
    """How large the objects of a pass over kept responses may be.

    Attributes
    ----------
    samples
        N.
    shape
        Units, values an image, fresh noises and columns (see `wna_ray.sums`).
    inner
        Whether it is one of several passes that a covariance takes, and has sums only.
    """

    samples: int
    shape: Mapping[str, int]
    inner: bool = False
    kept: ClassVar[bool] = False

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished pass beside segments and figures, and whether it must have them."""
        whole, block = not self.inner, self.shape["columns"] > 0
        return _objects(
            {
                "block.npy": whole and block,
                "result/axes.parquet": whole,
                "result/axes.npy": whole,
                "result/profiles.parquet": whole,
                "result/spectra.npy": whole and not block,
            }
        )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of images after which it may have ended."""
        return (self.samples,)

    def most(self, name: str) -> int:
        """Most bytes that an object can have."""
        sums = 8 * sum(math.prod(s) for s in shapes(**self.shape).values()) + ARCHIVE_BYTES
        columns = 8 * self.shape["d"] * self.shape["columns"] + NPY_BYTES
        known = {"spec.json": MOST_JSON, "environment.json": MOST_JSON, "block.npy": columns, "result/moments.npz": sums}
        return sums if name.startswith("segments/") else known.get(name, MOST_OTHER)

    def check(self, moments: PassSums) -> None:
        """`ValueError` where a pass cannot have such sums."""
        expected, found = shapes(**self.shape), {name: array.shape for name, array in moments.sums.items()}
        if found != expected:
            raise ValueError(f"sums of shapes {found}, not {expected}")


@dataclass(frozen=True)
class TrialExtent:
    """How large the objects of a run of trials may be.

    Attributes
    ----------
    samples
        N.
    shape
        Conditions, classes, responses, and what moments are kept of (see `wna_ray.sums`).
    moments
        Whether moments are kept.
    """

    samples: int
    shape: Mapping[str, int]
    moments: bool = False
    kept: ClassVar[bool] = False

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished run beside segments and figures, and whether it must have them."""
        return _objects(
            {
                "result/trials.parquet": True,
                "result/detection.parquet": self.moments,
                "result/classification_images.npy": self.moments,
                "result/classification_z_maps.npy": self.moments,
            }
        )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of trials after which it may have ended."""
        return (self.samples,)

    @property
    def cells(self) -> int:
        """Numbers of trials that are told: by condition, class and response."""
        return self.shape["conditions"] * self.shape["classes"] * self.shape["responses"]

    def most(self, name: str) -> int:
        """Most bytes that an object can have."""
        sums = 8 * sum(math.prod(s) for s in trial_shapes(**self.shape).values()) + ARCHIVE_BYTES
        known = {"spec.json": MOST_JSON, "environment.json": MOST_JSON, "result/moments.npz": sums, "result/trials.parquet": self.table}
        return sums if name.startswith("segments/") else known.get(name, MOST_OTHER)

    @property
    def table(self) -> int:
        """Most bytes of the table of conditions, packed or not."""
        return (1 << 20) + 512 * self.shape["conditions"]

    def check(self, moments: PassSums) -> None:
        """`ValueError` where no trials can have such sums."""
        expected, found = trial_shapes(**self.shape), {name: array.shape for name, array in moments.sums.items()}
        if found != expected:
            raise ValueError(f"sums of shapes {found}, not {expected}")
        n, answers = moments.images, moments.sums["answers"]
        noise, by_signal = (moments.sums.get(name, np.zeros(0, dtype=np.int64)) for name in ("noise", "by_signal"))
        if (
            not (_within(answers, n, 0) and _within(noise, MOST_GRID * n) and _within(by_signal, n, 0))
            or (answers.sum(axis=(1, 2)) != n).any()
        ):
            raise ValueError("sums that no trials can have")


AnyExtent = Extent | PassExtent | TrialExtent


def _objects(there: Mapping[str, bool], may: Mapping[str, bool] | None = None) -> dict[str, bool]:
    """What every finished run has, what of `there` this one has, and what of `may` it may have."""
    always = ("spec.json", "environment.json", "result/moments.npz")
    optional = {name: False for name, possible in (may or {}).items() if possible}
    return dict.fromkeys(always, True) | {name: True for name, has in there.items() if has} | optional


def listing_faults(manifest: Mapping[str, Any], extent: AnyExtent) -> list[str]:
    """What a manifest does not list though its run must have it, or lists though its run cannot.

    Figures may be any: versions draw different ones. Responses are those that the segments name,
    of every segment or of none.
    """
    known, listed = extent.objects, manifest["objects"]
    spans = {(s["start"], s["stop"]): s.get("responses") for s in manifest["segments"]}
    beside = {f"responses/{a:015d}-{b:015d}.parquet": said for (a, b), said in spans.items()}
    must = [name for name in known if known[name]] + list(beside) * extent.kept
    missing = [name for name in must if name not in listed]
    faults = [f"it does not list {name}, which every run of this spec has" for name in missing]
    for name, said in beside.items():
        if said is not None and not extent.kept:
            faults.append(f"a segment has {name}, but its spec keeps no responses")
        elif extent.kept and name in listed and said != listed[name]:
            faults.append(f"{name} is not listed with the digest that its segment has")
    figures = not (isinstance(extent, PassExtent) and extent.inner)
    return faults + [
        f"it lists {plain(name, 200)}, which no run of this spec has"
        for name in listed
        if name not in known and not (extent.kept and name in beside) and not (figures and _FIGURE.fullmatch(name))
    ]


def _within(values: NDArray[np.int64], most: int, least: int | None = None) -> bool:
    if not values.size:
        return True
    return (-most if least is None else least) <= int(values.min()) and int(values.max()) <= most
