"""Response-weighted moments of noise, as exact integers that merge in any order.

For grid values ``x_i`` (d small integers) and integer responses ``y_i`` this keeps, per response
row,

    count  sum 1      sum_y   sum y       sum_yy  sum y^2
    peak   max |y|    sum_yx  sum y x     sum_yxx sum y x^2

and of the stimuli ``images``, ``sum_x`` and ``sum_xx``. Everything later (bias maps, z-maps,
significance) is read out of these. The members, always the same:

    identity(d)     the moments of no images
    update(x, y)    those of some more images
    merge(other)    those of both; associative and commutative to the last bit
    arrays()        a flat dict of arrays, which is also the storage format

One-hot responses keep only the rows that occurred, so a thousand classes of which noise reaches six
cost six maps. Moments of no images are ordinary moments, never a special case. Second moments are
optional (width 0 where they are not kept).

Why it is exact: |x| <= 128 and |y| <= 2^23, so sums of ``y x^2`` over a chunk of up to 2^14 images
are at most 2^51, and below 2^53 every float64 operation on integers is exact in any order. Masters
are int64; ``sum_yy`` is a pair (high, low 32 bits) because 2^17 images can already fill one. Should
another sum ever leave int64, merging raises instead of wrapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.errors import NumericsError
from wna_ray.moments.kept import Stored
from wna_ray.moments.responses import Response, Selected

Ints = NDArray[np.int64]

CHUNK_VALUES = 1 << 18  # grid values turned into float64 at a time (2 MB)
ROUND_VALUES = 1 << 20  # grid values added in one round, whatever their size
MAX_CHUNK = 1 << 14  # images at a time: the bound of exactness above
ADD_VALUES = 1 << 20  # sums checked at a time (8 MB)
ODD = "odd_"  # before the names of arrays of odd batches
MIN_CHUNK = 256  # images at a time, however large they are: adding to the masters must stay rare
_LOW = np.int64((1 << 32) - 1)


@dataclass(frozen=True)
class ResponseMoments:
    """Sums over images for one kind of response; ``m`` rows, ``d`` grid values.

    Attributes
    ----------
    rows
        ``(m,)`` int64, sorted: which responses (classes, units) the rows stand for.
    count
        ``(m,)``: images that fed the row.
    sum_y
        ``(m,)``.
    sum_yy
        ``(m, 2)``: high and low 32 bits.
    sum_yx, sum_yxx
        ``(m, d)``; ``sum_yxx`` is ``(m, 0)`` where second moments are not kept.
    peak
        ``(m,)``: largest magnitude of a response.
    """

    rows: Ints
    count: Ints
    peak: Ints
    sum_y: Ints
    sum_yy: Ints
    sum_yx: Ints
    sum_yxx: Ints

    @classmethod
    def identity(cls, d: int, second: bool = False) -> ResponseMoments:
        """No rows: the moments of no images."""
        none = np.zeros(0, dtype=np.int64)
        pair, maps, squares = (np.zeros((0, n), dtype=np.int64) for n in (2, d, d if second else 0))
        return cls(none, none, none, none, pair, maps, squares)

    def merge(self, other: ResponseMoments) -> ResponseMoments:
        """Sum of both (the larger peak), on the union of their rows."""
        rows = (
            self.rows
            if np.array_equal(self.rows, other.rows)
            else np.union1d(self.rows, other.rows)
        )
        a, b = self._on(rows), other._on(rows)
        sums = {
            f.name: add(getattr(a, f.name), getattr(b, f.name))
            for f in fields(self)
            if f.name.startswith(("count", "sum"))
        }
        sums["sum_yy"] = _carried(sums["sum_yy"])
        return ResponseMoments(rows=rows, peak=np.maximum(a.peak, b.peak), **sums)

    def _on(self, rows: Ints) -> ResponseMoments:
        """The same sums on more rows."""
        if len(rows) == len(self.rows):
            return self
        wider: dict[str, Ints] = {"rows": rows}
        for f in fields(self)[1:]:
            mine = getattr(self, f.name)
            wider[f.name] = np.zeros((len(rows), *mine.shape[1:]), dtype=np.int64)
            wider[f.name][np.searchsorted(rows, self.rows)] = mine
        return ResponseMoments(**wider)

    def variation(self, images: int) -> NDArray[np.float64]:
        """``(m,)``: ``sum (y - mean y)^2`` over all `images`, or patches (those that did not feed a
        row have ``y = 0``).

        Computed in whole numbers, then rounded once, so no digit is lost to cancellation.
        """
        squares = [(int(high) << 32) + int(low) for high, low in self.sum_yy]
        exact = [
            (yy * images - int(y) ** 2) / images for yy, y in zip(squares, self.sum_y, strict=True)
        ]
        return np.array(exact, dtype=np.float64)


@dataclass(frozen=True)
class Moments:
    """All sums of a set of images.

    Attributes
    ----------
    images
        Images counted in the sums (each once, however many patches of it are in the sums).
    nonfinite
        Images left out because an output of the network was NaN or infinite.
    out_of_range
        Images left out because a response did not fit its fixed point.
    sum_x, sum_xx
        ``(d,)`` int64 over the images counted in (``sum_xx`` is ``(0,)`` where second moments are
        not kept).
    responses
        `ResponseMoments` by kind.
    odd
        The same of the images of odd batches alone, where halves are kept.
    """

    images: int
    nonfinite: int
    out_of_range: int
    sum_x: Ints
    sum_xx: Ints
    responses: Mapping[str, ResponseMoments]
    odd: Moments | None = None

    @classmethod
    def identity(
        cls, d: int, kinds: Iterable[str], second: bool = False, halves: bool = False
    ) -> Moments:
        """The moments of no images, for responses of the given kinds."""
        kinds = list(kinds)
        return cls(
            0,
            0,
            0,
            np.zeros(d, dtype=np.int64),
            np.zeros(d if second else 0, dtype=np.int64),
            {kind: ResponseMoments.identity(d, second) for kind in kinds},
            cls.identity(d, kinds, second) if halves else None,
        )

    @property
    def seen(self) -> int:
        """Images shown, whether counted in or left out."""
        return self.images + self.nonfinite + self.out_of_range

    def update(
        self, grid: NDArray[np.int8], responses: Mapping[str, Response], patches: int = 1
    ) -> Moments:
        """Add images.

        Parameters
        ----------
        grid
            ``(n, ...)`` int8 grid values, d a patch.
        responses
            One response of ``n`` entries for every kind.
        patches
            Entries in an image, which then counts once.
        """
        x = grid.reshape(len(grid), self.sum_x.size)
        step = min(MAX_CHUNK, max(MIN_CHUNK, ROUND_VALUES // max(self.sum_x.size, 1)))
        total = self
        for a in range(0, len(x), step):
            part = slice(a, a + step)
            total = total.merge(
                _sums(
                    x[part],
                    {k: weights_of(r, part) for k, r in responses.items()},
                    self.sum_xx.size > 0,
                )
            )
        return replace(total, images=self.images + len(x) // patches, odd=self.odd)

    def update_odd(
        self, grid: NDArray[np.int8], responses: Mapping[str, Response], patches: int = 1
    ) -> Moments:
        """Add images of odd batches to those, where halves are kept."""
        assert self.odd is not None, "asked only where halves are kept"
        return replace(self, odd=self.odd.update(grid, responses, patches))

    def skip(self, nonfinite: int = 0, out_of_range: int = 0) -> Moments:
        """Count images that are left out."""
        return replace(
            self,
            nonfinite=self.nonfinite + nonfinite,
            out_of_range=self.out_of_range + out_of_range,
        )

    def merge(self, other: Moments) -> Moments:
        """Sum of both."""
        return Moments(
            self.images + other.images,
            self.nonfinite + other.nonfinite,
            self.out_of_range + other.out_of_range,
            add(self.sum_x, other.sum_x),
            add(self.sum_xx, other.sum_xx),
            {kind: mine.merge(other.responses[kind]) for kind, mine in self.responses.items()},
            self.odd if self.odd is None or other.odd is None else self.odd.merge(other.odd),
        )

    def arrays(self) -> dict[str, Ints]:
        """Flat dict of int64 arrays: ``counts`` (images, nonfinite, out_of_range), ``sum_x``,
        ``label/rows``, ...
        """
        flat = {
            "counts": np.array([self.images, self.nonfinite, self.out_of_range], dtype=np.int64),
            "sum_x": self.sum_x,
            "sum_xx": self.sum_xx,
        }
        for kind, moments in self.responses.items():
            flat |= {f"{kind}/{f.name}": getattr(moments, f.name) for f in fields(moments)}
        if self.odd is not None:
            flat |= {f"{ODD}{name}": array for name, array in self.odd.arrays().items()}
        return flat

    @classmethod
    def from_arrays(cls, flat: Mapping[str, NDArray[np.generic]]) -> Moments:
        """Back from `arrays`.

        Raises
        ------
        ValueError
            An array is missing, is not int64, or does not fit the others.
        """
        odd = {
            name.removeprefix(ODD): array for name, array in flat.items() if name.startswith(ODD)
        }
        flat = {name: array for name, array in flat.items() if not name.startswith(ODD)}
        names = [f.name for f in fields(ResponseMoments)]
        kinds = [key.removesuffix("/rows") for key in flat if key.endswith("/rows")]
        expected = {"counts", "sum_x", "sum_xx"} | {
            f"{kind}/{name}" for kind in kinds for name in names
        }
        if set(flat) != expected or any(a.dtype != np.int64 for a in flat.values()):
            raise ValueError(f"expected the int64 arrays {sorted(expected)}, got {sorted(flat)}")
        arrays: dict[str, Ints] = {key: np.asarray(a, dtype=np.int64) for key, a in flat.items()}
        d, d2 = arrays["sum_x"].size, arrays["sum_xx"].size
        responses = {
            kind: ResponseMoments(*(arrays[f"{kind}/{name}"] for name in names)) for kind in kinds
        }
        for kind, r in responses.items():
            m = r.rows.size
            shapes = [getattr(r, name).shape for name in names]
            ordered = (np.diff(r.rows, prepend=-1) > 0).all()
            if shapes != [(m,), (m,), (m,), (m,), (m, 2), (m, d), (m, d2)] or not ordered:
                raise ValueError(f"the arrays of '{kind}' do not fit each other: shapes {shapes}")
        images, nonfinite, out_of_range = (int(n) for n in arrays["counts"])
        half = cls.from_arrays(odd) if odd else None
        if half is not None and (half.sum_x.size, half.sum_xx.size, set(half.responses)) != (
            d,
            d2,
            set(responses),
        ):
            raise ValueError("the moments of odd batches do not fit those of all")
        return cls(
            images, nonfinite, out_of_range, arrays["sum_x"], arrays["sum_xx"], responses, half
        )


def _carried(pairs: Ints) -> Ints:
    """Pairs ``(m, 2)`` of high and low bits whose low part has 32 bits again."""
    high, low = pairs[:, 0], pairs[:, 1]
    return np.stack([high + (low >> 32), low & _LOW], axis=1)


def add(a: Ints, b: Ints) -> Ints:
    """``a + b``, or `NumericsError` where int64 would wrap."""
    c = a + b
    flat = [np.reshape(x, -1) for x in (a, b, c)]
    for at in range(
        0, c.size, ADD_VALUES
    ):  # in blocks: the check would take three times the memory of the sum
        x, y, z = (part[at : at + ADD_VALUES] for part in flat)
        if (((x ^ z) & (y ^ z)) < 0).any():
            raise NumericsError(
                "a sum has left the range of int64, so the moments would no longer be exact; take"
                " fewer samples, or centred responses"
            )
    return c


@dataclass(frozen=True)
class Weights:
    """A response of a chunk as a matrix: ``values (m, n)`` int64 for the sorted ``rows (m,)``;
    ``fed (m,)`` images; whether these are `labels`, so that each image has a 1 in one row, and
    nothing else.
    """

    rows: Ints
    fed: Ints
    values: Ints
    labels: bool = False


def weights_of(response: Response, part: slice) -> Weights:
    """The responses of some images as a matrix; of one-hot kinds only of the rows that occurred."""
    if not isinstance(response, Selected):
        values = response.values[part].T
        k, n = values.shape
        return Weights(np.arange(k), np.full(k, n, dtype=np.int64), values)
    rows, inverse = np.unique(response.rows[part], return_inverse=True)
    values = np.zeros((len(rows), len(inverse)), dtype=np.int64)
    values[inverse, np.arange(len(inverse))] = response.weights[part]
    labels = bool((response.weights[part] == 1).all())
    return Weights(rows, np.bincount(inverse, minlength=len(rows)).astype(np.int64), values, labels)


def _sums(x: NDArray[np.int8], weights: Mapping[str, Weights], second: bool) -> Moments:
    """Moments of one chunk, its images not counted.

    Where each image has one row with a weight of 1 (labels), images of a row are added as they are.
    Of all other responses there is one matrix product with the grid, and a row of ones.
    """
    grouped = {
        kind: _group_sums(x, w.values == 1, second) for kind, w in weights.items() if w.labels
    }
    others = [w.values for kind, w in weights.items() if kind not in grouped]
    if others or not grouped:
        first, squares = _products(
            x, np.concatenate([np.ones((1, len(x)), dtype=np.int64), *others]), second
        )
        sum_x, sum_xx = first[0], squares[0]
    else:
        sum_x, sum_xx = (sums.sum(axis=0) for sums in next(iter(grouped.values())))
    responses, at = {}, 1
    for kind, w in weights.items():
        if kind in grouped:
            yx, yxx = grouped[kind]
        else:
            block, at = slice(at, at + len(w.rows)), at + len(w.rows)
            yx, yxx = first[block], squares[block]
        yy = np.square(w.values).sum(axis=1)
        responses[kind] = ResponseMoments(
            rows=w.rows,
            count=w.fed,
            peak=np.abs(w.values).max(axis=1, initial=0),
            sum_y=w.values.sum(axis=1),
            sum_yy=np.stack([yy >> 32, yy & _LOW], axis=1),
            sum_yx=yx,
            sum_yxx=yxx,
        )
    return Moments(0, 0, 0, sum_x, sum_xx, responses)


def _group_sums(x: NDArray[np.int8], members: NDArray[np.bool_], second: bool) -> tuple[Ints, Ints]:
    """Sums ``(m, d)`` of grid values, and of their squares, of the images in each row; in
    int32, which 2^14 squares of 2^14 do not fill.
    """
    m, d = len(members), x.shape[1]
    first, squares = (
        np.empty((m, d), dtype=np.int64),
        np.empty((m, d if second else 0), dtype=np.int64),
    )
    for row, among in enumerate(members):
        chosen = x[among]
        first[row] = chosen.sum(axis=0, dtype=np.int32)
        if second:
            squares[row] = np.square(chosen.astype(np.int16)).sum(axis=0, dtype=np.int32)
    return first, squares


def _products(x: NDArray[np.int8], left: Ints, second: bool) -> tuple[Ints, Ints]:
    """Sums ``(m, d)`` of grid values, and of their squares, weighted by the rows of `left`: float64
    products, some columns at a time so that they stay in the cache.
    """
    import torch  # late: moments are read, added and compared without it

    (m, n), d = left.shape, x.shape[1]
    first, squares = (
        np.empty((m, d), dtype=np.int64),
        np.empty((m, d if second else 0), dtype=np.int64),
    )
    weights, grid, step = (
        torch.from_numpy(left.astype(np.float64)),
        torch.from_numpy(x),
        max(1, CHUNK_VALUES // max(n, 1)),
    )
    for a in range(0, d, step):
        right = grid[:, a : a + step].to(torch.float64)
        first[:, a : a + step] = (weights @ right).numpy()
        if second:
            squares[:, a : a + step] = (weights @ right.square_()).numpy()
    return first, squares


@dataclass(frozen=True)
class Partial:
    """Moments of the images ``start ... stop - 1``, all of them, and their responses where
    those are kept.
    """

    start: int
    stop: int
    moments: Any
    stored: Stored | None = None

    def __post_init__(self) -> None:
        if self.moments.seen != self.stop - self.start:
            raise ValueError(
                f"moments of {self.moments.seen} images for the range [{self.start}, {self.stop})"
            )

    def merge(self, other: Partial) -> Partial:
        """Moments of this range and the one right after it."""
        if self.stop != other.start:
            raise ValueError(
                f"[{other.start}, {other.stop}) does not follow [{self.start}, {self.stop})"
            )
        stored = (
            None
            if self.stored is None or other.stored is None
            else Stored.join([self.stored, other.stored])
        )
        return Partial(self.start, other.stop, self.moments.merge(other.moments), stored)
