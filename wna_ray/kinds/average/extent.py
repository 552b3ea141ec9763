"""How large the objects of a run of noise may be, and what its ``spec.json`` must say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from wna_ray.errors import SpecError
from wna_ray.geometry import Box
from wna_ray.moments.counts import PassSums
from wna_ray.moments.kept import most_bytes, width
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import LIMIT, FixedPoint, is_dense
from wna_ray.networks.field import Field as UnitField
from wna_ray.networks.reading import Kind, Reading
from wna_ray.runs.manifest import expected_objects
from wna_ray.runs.names import BASIS, OFFSET
from wna_ray.specs.response import ResponseKind
from wna_ray.specs.run import Spec
from wna_ray.stimuli.bases import digest
from wna_ray.stimuli.geometry import geometry_of
from wna_ray.stimuli.offsets import offset_digest
from wna_ray.storage.arrays import from_npy
from wna_ray.storage.bounds import (
    ARCHIVE_BYTES,
    MOST_JSON,
    MOST_OTHER,
    NPY_BYTES,
    Loose,
    agree,
    is_digest,
    require_same,
    unlike_spec,
    validated,
    within,
)

MOST_NAMES, MOST_NAME = 1_000_000, 1_000  # outputs of a network, and characters of a name
MOST_GRID = 128  # magnitude of a grid value: noise has 127, bytes less 128 one more


class Point(Loose):
    """How a kind of response is rounded, as an identity has it."""

    exponent: list[Annotated[int, Field(ge=-256, le=256)]]
    centre: list[Annotated[int, Field(gt=-(1 << 62), lt=1 << 62)]]
    threshold: list[float] = Field(default_factory=list)
    uncentred: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(default_factory=list)

    @property
    def fixed(self) -> FixedPoint:
        """The fixed point itself."""
        return FixedPoint(
            tuple(self.exponent), tuple(self.centre), tuple(self.threshold), tuple(self.uncentred)
        )


_Place = Annotated[int, Field(ge=0, le=1 << 31)]
_Size = Annotated[int, Field(ge=1, le=1 << 31)]


class _Box(Loose):
    top: _Place
    left: _Place
    height: _Size
    width: _Size


class _Patches(Loose):
    first: _Box
    rows: _Size
    columns: _Size
    step: Annotated[list[_Size], Field(min_length=2, max_length=2)]


class _Target(Loose):
    layer: str
    units: Annotated[list[_Place], Field(min_length=1, max_length=MOST_NAMES)]
    pooling: Literal["single", "mean", "pooled"]
    at: Annotated[list[_Place], Field(min_length=2, max_length=2)]
    shown: _Box
    patches: _Patches


class _Outputs(Loose):
    outputs: int
    normalise: dict[str, Any] | None = None


class _Decoder(Loose):
    shape: Annotated[
        list[Annotated[int, Field(ge=1, le=1 << 16)]], Field(min_length=3, max_length=3)
    ]


class _Read(Loose):
    field: Annotated[str, Field(max_length=MOST_NAME)] = ""
    read: Kind = "scores"


class Identity(Loose):
    """What the result of a run of noise is a function of."""

    keep_responses: bool = False
    seed: int
    stimulus: dict[str, Any]
    model: _Outputs
    target: _Target | None = None
    decoder: _Decoder | None = None
    output: _Read = _Read()
    responses: list[dict[str, Any]]
    fixed_point: dict[str, Point]
    moments: dict[str, Any]
    numerics: dict[str, Any]
    gradient_exponent: dict[str, list[Annotated[int, Field(ge=-1100, le=1100)]]] = Field(
        default_factory=dict
    )

    @property
    def reading(self) -> Reading:
        """How the network's output is read."""
        return Reading(self.output.field, self.output.read)


class _Described(Loose):
    identity: Identity
    samples: Annotated[int, Field(ge=1, le=1 << 40)]
    names: Annotated[
        list[Annotated[str, Field(max_length=MOST_NAME)]],
        Field(min_length=1, max_length=MOST_NAMES),
    ]
    spec: dict[str, Any]


def check_described(described: Mapping[str, Any], where: str) -> Extent:
    """Types and consistency of ``spec.json``; how large the run's objects may be."""
    parsed = validated(_Described, described, where)
    try:
        spec = Spec.parse(parsed.spec, where)
    except SpecError as error:
        raise unlike_spec(error) from None
    identity, kinds = parsed.identity, [r.kind for r in spec.responses]
    same = {
        "samples": spec.samples == parsed.samples,
        "seed": spec.seed == identity.seed,
        "stimulus": (
            spec.stimulus.identity()
            == {k: v for k, v in identity.stimulus.items() if k not in ("offset", "content")}
            and _digest_where(
                spec.stimulus.kind == "images" or spec.stimulus.basis is not None,
                identity.stimulus.get("content"),
            )
        ),
        "stimulus.offset": _digest_of_offset(spec, identity.stimulus.get("offset")),
        "numerics": agree(spec.numerics.identity(), identity.numerics, ("device",)),
        "normalise": _is_normalise(spec, identity.model.normalise),
        "target": _fits(identity.target, spec, parsed.names),
        "decoder": (spec.decoder is None) == (identity.decoder is None),
        "output": spec.output is None or spec.output.field in (None, identity.output.field),
        "responses": [r.identity() for r in spec.responses] == identity.responses,
        "gradient_exponent": (
            set(identity.gradient_exponent) == set(kinds if spec.estimator == "gradient" else ())
            and all(len(e) == len(parsed.names) for e in identity.gradient_exponent.values())
        ),
        "keep_responses": spec.keep_responses == identity.keep_responses,
        "moments": spec.moments.identity() == identity.moments,
        "names": len(parsed.names) == identity.model.outputs,
        "fixed_point": set(identity.fixed_point) == {r.kind for r in spec.responses},
    }
    points = identity.fixed_point.values()
    same["fixed_point"] &= all(
        len(p.exponent) == len(p.centre) == len(parsed.names)
        and max(p.uncentred, default=0) < len(parsed.names)
        for p in points
    )
    same["fixed_point"] &= all(
        len(p.threshold) == len(parsed.names) * (kind == "spikes")
        for kind, p in identity.fixed_point.items()
    )
    require_same(where, same)
    field = None if identity.target is None else UnitField.parse(identity.target.model_dump())
    stimulus, extent = identity.stimulus, Extent.of(spec, parsed.names, field)
    extent = replace(extent, offset=stimulus["offset"], content=stimulus.get("content") or "")
    if identity.decoder is None:
        return extent
    c, h, w = identity.decoder.shape
    return replace(extent, decoded=(c, h, w))


def _digest_where(expected: bool, content: Any) -> bool:
    """Whether there is a digest of what a data set gave exactly where something of it is shown."""
    return is_digest(content) if expected else content is None


def _digest_of_offset(spec: Spec, digest: Any) -> bool:
    """Whether a digest can be the offset's: of an image any, of a number its own."""
    offset = spec.stimulus.offset
    if isinstance(offset, str):
        return is_digest(digest)
    number = np.full((1, 1, 1), offset, dtype=np.float32)
    return bool(offset_digest(number) == digest)


def _is_normalise(spec: Spec, recorded: Mapping[str, Any] | None) -> bool:
    """Whether what was applied is what a spec asks for; nothing is where the network is fed
    noise.
    """
    if spec.normalise is None or recorded is None:
        return True
    return bool(spec.normalise.model_dump(mode="json") == recorded)


def _fits(target: _Target | None, spec: Spec, names: list[str]) -> bool:
    """Whether the units of an identity are those that a spec asks for, and their places lie in
    its images.
    """
    if target is None or spec.target is None:
        return target is None and spec.target is None
    field, (_, height, width), cell = (
        UnitField.parse(target.model_dump()),
        spec.stimulus.shape,
        spec.stimulus.cell,
    )
    p, window = field.patches, field.shown
    last = Box(
        p.first.top + (p.rows - 1) * p.step[0],
        p.first.left + (p.columns - 1) * p.step[1],
        p.first.height,
        p.first.width,
    )
    return (
        target.layer == spec.target.layer
        and field.units
        == (tuple(range(len(names))) if spec.target.units == "all" else spec.target.units)
        and len(field.units) == len(names)
        and window.within(Box(0, 0, height, width))
        and p.first.within(Box(0, 0, window.height, window.width))
        and last.within(Box(0, 0, window.height, window.width))
        and (p.count == 1 or (field.pooling == "pooled" and cell == 1))
        and not any(n % cell for n in (window.top, window.left, p.first.top, p.first.left))
    )


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
        Whether maps are also kept freed of the noise's correlations, as they are where it has a
        spectrum or a basis.
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
    offset, content
        Digests of the offset, and of what a data set gave to the stimulus ("" where nothing).
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
    offset: str = ""
    content: str = ""
    figures: ClassVar[bool] = True

    @classmethod
    def of(cls, spec: Spec, names: list[str], field: UnitField | None = None) -> Extent:
        """Of a spec, the names of the network's outputs, and where units look."""
        text = sum(len(name.encode(errors="surrogatepass")) for name in names)
        kinds, geometry, basis = (
            tuple(r.kind for r in spec.responses),
            geometry_of(spec.stimulus, field),
            spec.stimulus.basis,
        )
        return cls(
            spec.samples,
            kinds,
            len(names),
            text,
            geometry.pixels,
            geometry.shape,
            spec.keeps_squares,
            spec.moments.halves,
            spec.stimulus.shape,
            spec.looks,
            field,
            spec.stimulus.mixed,
            (
                0
                if basis is None
                else (1 + basis.coefficients(spec.stimulus.shape)) * math.prod(spec.stimulus.shape)
            ),
            pictured=isinstance(spec.stimulus.offset, str),
            stops=spec.stop is not None,
            kept=spec.keep_responses,
        )

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished run beside segments, responses and figures; whether it must
        have them.
        """
        one_hot = any(not is_dense(kind) for kind in self.kinds)
        return expected_objects(
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
    def arrays(self) -> tuple[str, ...]:
        """Objects that stimuli are made of: the offset and the basis, where it has such."""
        return (OFFSET,) * self.pictured + (BASIS,) * (self.basis > 0)

    def until(self, samples: int) -> Extent:
        """Of the run as it ended, after so many images."""
        return replace(self, samples=samples)

    def holds(self, name: str, data: bytes) -> bool:
        """Whether the bytes of the offset or the basis have the digest that the identity has."""
        try:
            array = from_npy(data)
        except ValueError:
            return False
        if name == BASIS:
            return array.dtype == np.int32 and digest(array) == self.content
        if array.shape != self.whole or array.dtype != np.float32:
            return False
        return offset_digest(array) == self.offset

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
        """Memory that making the result again takes from so many bytes of moments; measured, to
        about a tenth.
        """
        pixels = math.prod(self.shape)
        maps, pictures, drawn = (
            8 * n
            for n in (
                self.rows * self.d,
                self.rows * pixels,
                min(self.rows, 30 * len(self.kinds)) * pixels,
            )
        )
        whitened = (
            (15 * maps + (200 * self.basis + 320 * self.d**2) * (self.basis > 0))
            if self.filtered
            else 0
        )
        decoded = (
            16 * self.rows * math.prod(self.decoded or (0,))
        )  # the file, the array, the file made again, and some on the sheet
        return (
            decoded
            + (whitened + 20 * maps + 23 * moments + 15 * pictures + 23 * drawn) // 10
            + 24 * self.rows * self.outputs
        )

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
            raise ValueError(
                f"moments of {', '.join(moments.responses)}, not of {', '.join(self.kinds)}"
            )
        if (moments.sum_x.size, moments.sum_xx.size) != (self.d, self.d * self.second):
            raise ValueError(f"moments of {moments.sum_x.size} noise values an image, not {self.d}")
        n = moments.images * (1 if self.field is None else self.field.patches.count)
        largest = {
            "rows": self.outputs - 1,
            "count": n,
            "peak": LIMIT,
            "sum_y": n * LIMIT,
            "sum_yx": n * LIMIT * MOST_GRID,
        }
        lowest = {"rows": 0, "count": 0, "peak": 0}
        possible = [
            min(n, moments.nonfinite, moments.out_of_range) >= 0,
            within(moments.sum_x, MOST_GRID * n),
            within(moments.sum_xx, MOST_GRID**2 * n, 0),
        ]
        for r in moments.responses.values():
            possible += [
                within(getattr(r, key), most, lowest.get(key)) for key, most in largest.items()
            ]
            possible += [
                within(r.sum_yxx, n * LIMIT * MOST_GRID**2),
                within(r.sum_yy, max(n * LIMIT**2 >> 32, (1 << 32) - 1), 0),
            ]
        if not all(possible):
            raise ValueError("sums that no images can have")
