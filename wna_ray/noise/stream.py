"""Addressable noise: ``(seed, image index) -> image`` on an integer grid, as a pure function.

Image ``i`` of a seed is made of the Philox4x64-10 blocks ``i * B + 1 ... (i + 1) * B`` (``B``
blocks of four 64-bit words each hold the image's values, 16 bits a value); every 16-bit value goes
through a table of 65,536 small integers. So any image can be made again anywhere, in any order, by
anyone: ``docs/noise.md`` specifies it to the bit, and ``tests/golden`` holds it.

The integers fit in 8 bits on purpose. Sums of them are exact in int64, in float64, and (in blocks)
in float32 and on tensor cores, which is what makes a run's result independent of who computed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from wna_ray.errors import SpecError

Kind = Literal["gaussian", "uniform", "binary", "sparse"]
KINDS: tuple[Kind, ...] = ("gaussian", "uniform", "binary", "sparse")

STREAM = "wna-noise/1"
"""Version of the words, the tables and the layout; part of every run's fingerprint."""

LEVELS = 1 << 16
PER_BLOCK = 16  # values in one Philox block: four 64-bit words of four 16-bit values
GAUSSIAN_STEPS = (
    29  # grid units in one standard deviation: the largest of which the tails still fit in 8 bits
)
UNIFORM_STEPS = 127  # grid units in the half-width


@dataclass(frozen=True)
class Table:
    """A noise family: 65,536 equally likely grid values, and what they are in units of ``scale``.

    Attributes
    ----------
    values
        ``(65536,)`` int8, sorted, symmetric about 0: ``values[65535 - u] == -values[u]``.
    unit
        Length of one grid unit when ``scale`` is 1: a pixel is ``offset + scale * unit * grid``.
    """

    values: NDArray[np.int8]
    unit: float

    def moment(self, order: int) -> Fraction:
        """Exact ``E[grid ** order]``, in grid units: a sum over the table, not the family's
        textbook value.
        """
        levels, counts = np.unique(self.values, return_counts=True)
        return Fraction(
            sum(int(n) * int(v) ** order for v, n in zip(levels, counts, strict=True)), LEVELS
        )

    @property
    def variance(self) -> Fraction:
        """Exact variance of a grid value (the mean is exactly 0 by symmetry)."""
        return self.moment(2)

    @property
    def excess_kurtosis(self) -> float:
        """``E[g^4] / E[g^2]^2 - 3``."""
        return float(self.moment(4) / self.moment(2) ** 2) - 3.0

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest grid value."""
        return int(self.values[0]), int(self.values[-1])


@lru_cache(maxsize=32)
def table(kind: Kind, density: float | None = None) -> Table:
    """The table of a noise family.

    Parameters
    ----------
    kind
        ``gaussian``: ``scale`` is the standard deviation (rounded to 1/29 of it, cut at 4.3);
        ``uniform``: ``scale`` is the half-width (255 levels, both ends included);
        ``binary``: ``offset - scale`` or ``offset + scale``, equally often;
        ``sparse``: ``offset +- scale`` with probability ``density`` (half each), else ``offset``.
    density
        Only for ``sparse``: share of values that are not 0, in (0, 1]; rounded to 1/32768.

    Raises
    ------
    SpecError
        Unknown kind, or a density where none belongs, or none where one does.
    """
    if kind not in KINDS:
        raise SpecError(
            f"stimulus.kind: unknown noise family '{kind}'; the families are {', '.join(KINDS)}"
        )
    if (density is not None) != (kind == "sparse"):
        raise SpecError(
            "stimulus.density: needed by kind 'sparse' (share of blocks that are on) and by no"
            " other"
        )
    u = np.arange(
        LEVELS // 2, LEVELS, dtype=np.int64
    )  # the upper half; the lower one is its mirror image
    if kind == "gaussian":
        upper, unit = np.rint(GAUSSIAN_STEPS * ndtri((u + 0.5) / LEVELS)), 1 / GAUSSIAN_STEPS
    elif kind == "uniform":
        levels = 2 * UNIFORM_STEPS + 1
        upper, unit = (2 * u + 1) * levels // (2 * LEVELS) - UNIFORM_STEPS, 1 / UNIFORM_STEPS
    elif kind == "binary":
        upper, unit = np.ones_like(u), 1.0
    else:
        on = round(float(density or 0) * LEVELS / 2)
        if not 1 <= on <= LEVELS // 2:
            raise SpecError(
                f"stimulus.density: {density} is not in (0, 1] (to a resolution of"
                f" {2 / LEVELS:.1e})"
            )
        upper, unit = (u >= LEVELS - on).astype(np.int64), 1.0
    upper = np.asarray(upper, dtype=np.int8)
    values = np.concatenate([-upper[::-1], upper])
    values.setflags(write=False)
    return Table(values, unit)


class Words:
    """The 16-bit values of consecutive images, before the table.

    Parameters
    ----------
    seed
        0 <= seed < 2**64: the first half of the Philox key (the second half is 0).
    start
        Index of the first image, 0 <= start <= 2**48.
    values
        Values in an image; its last block is cut short where ``values`` is no multiple of 16.
    """

    def __init__(self, seed: int, start: int, values: int) -> None:
        self._values, self._blocks = values, -(-values // PER_BLOCK)
        # NumPy raises the counter before it makes a block, so a counter of c gives block c + 1
        # first.
        self._generator = np.random.Philox(
            key=np.array([seed, 0], dtype=np.uint64), counter=start * self._blocks
        )

    def take(self, images: int) -> NDArray[np.uint16]:
        """The next images: ``(images, values)`` uint16."""
        raw = self._generator.random_raw(images * self._blocks * (PER_BLOCK // 4))
        halves = raw.astype("<u8", copy=False).view("<u2").reshape(images, self._blocks * PER_BLOCK)
        return halves[:, : self._values]


@dataclass(frozen=True)
class Noise:
    """One stream of noise images.

    Attributes
    ----------
    kind, density
        The family (see `table`).
    shape
        ``(C, h, w)`` of the grid of independent values.
    seed
        Chooses the stream, 0 <= seed < 2**64.
    """

    kind: Kind
    shape: tuple[int, int, int]
    seed: int
    density: float | None = None
    _chunk: int = field(
        default=1 << 15, repr=False, compare=False
    )  # values made at a time: fits the cache

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise SpecError(f"seed: {self.seed} is not in [0, 2**64)")
        table(self.kind, self.density)

    @property
    def table(self) -> Table:
        """The family's table."""
        return table(self.kind, self.density)

    @property
    def pixels(self) -> int:
        """d: independent values in one image."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def grid(self, start: int, stop: int) -> NDArray[np.int8]:
        """Grid values of images ``start ... stop - 1``.

        Parameters
        ----------
        start, stop
            Image indices, ``0 <= start <= stop``. How a range is cut into calls does not change a
            value.

        Returns
        -------
        numpy.ndarray
            ``(stop - start, C, h, w)`` int8.
        """
        d, values, n = self.pixels, self.table.values, stop - start
        words, out = Words(self.seed, start, d), np.empty((n, d), dtype=np.int8)
        step = max(1, self._chunk // d)
        # Indices of the platform's own width and 'wrap' (which cannot occur) spare NumPy its range
        # check and a copy.
        index = np.empty((min(step, n), d), dtype=np.intp)
        for a in range(0, n, step):
            b = min(a + step, n)
            index[: b - a] = words.take(b - a)
            np.take(values, index[: b - a], out=out[a:b], mode="wrap")
        return out.reshape(n, *self.shape)
