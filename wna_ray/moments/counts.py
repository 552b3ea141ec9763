"""Sums of later passes and of trials: exact integers that merge in any order, as the moments of a
run do.

Of passes:

r, rr_high, rr_low    (m,)              sum of the residual responses of m units; sum of their
                                        squares, in two halves of 32 bits
rxx                   (m, 1 + B, d, d)  sum r x x' with the run's own noise, and with B streams
                                        that the responses have never seen
rqx                   (c, d)            sum r (x'q) x for the c columns q of a block, of one unit
count, y, yy_high, yy_low  (c, b)       images by their projection x'q, in b bins; sums of the
                                        responses of the column's unit, and of squares

Of trials:
answers               (c, s, k)       trials under c conditions by class of signal and by response
noise                 (g, s, k, d)    sum of the noise for each signal weight, class and response
by_signal             (g, n, k)       trials by weight, signal and response
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.moments.moments import Ints, Moments, add


def shapes(
    units: int, d: int, null: int, columns: int, bins: int = 0
) -> dict[str, tuple[int, ...]]:
    """Shapes of all sums of a pass: with bins it is a profile, with columns alone a block, else
    dense.
    """
    base: dict[str, tuple[int, ...]] = {"r": (units,), "rr_high": (units,), "rr_low": (units,)}
    if bins:
        return base | {name: (columns, bins) for name in ("count", "y", "yy_high", "yy_low")}
    return base | ({"rqx": (columns, d)} if columns else {"rxx": (units, 1 + null, d, d)})


@dataclass(frozen=True)
class PassSums:
    """Sums of a pass over some images; merging is exact in any order.

    Attributes
    ----------
    images
        Images counted in.
    out_of_range
        Images not counted in: the run left them out, or they are of the other half.
    sums
        int64 arrays by name (see the module's text, and `wna_ray.kinds.trials.shard`).
    nonfinite
        Images not counted in because an output was not finite, where a network answers.
    """

    images: int
    out_of_range: int
    sums: Mapping[str, Ints]
    nonfinite: int = 0

    @staticmethod
    def zeros(units: int, d: int, null: int, columns: int, bins: int = 0) -> dict[str, Ints]:
        """The sums of no images."""
        return {
            name: np.zeros(shape, dtype=np.int64)
            for name, shape in shapes(units, d, null, columns, bins).items()
        }

    @property
    def seen(self) -> int:
        """Images looked at."""
        return self.images + self.nonfinite + self.out_of_range

    def merge(self, other: PassSums) -> PassSums:
        """Sum of both."""
        sums = {name: add(mine, other.sums[name]) for name, mine in self.sums.items()}
        out_of_range, nonfinite = (
            self.out_of_range + other.out_of_range,
            self.nonfinite + other.nonfinite,
        )
        return PassSums(self.images + other.images, out_of_range, sums, nonfinite)

    def arrays(self) -> dict[str, Ints]:
        """Flat dict of int64 arrays."""
        return {
            "counts": np.array([self.images, self.nonfinite, self.out_of_range], dtype=np.int64),
            **self.sums,
        }

    @classmethod
    def from_arrays(cls, flat: Mapping[str, NDArray[Any]]) -> PassSums:
        """Back from `arrays`; `ValueError` where they are none."""
        if (
            "counts" not in flat
            or flat["counts"].shape != (3,)
            or any(a.dtype != np.int64 for a in flat.values())
        ):
            raise ValueError(f"expected int64 arrays with counts, got {sorted(flat)}")
        images, nonfinite, out_of_range = (int(n) for n in flat["counts"])
        return cls(
            images,
            out_of_range,
            {name: array for name, array in flat.items() if name != "counts"},
            nonfinite,
        )

    def squares(self, unit: int) -> int:
        """Sum of r^2 of a unit, exactly."""
        return (int(self.sums["rr_high"][unit]) << 32) + int(self.sums["rr_low"][unit])


def sums_of(flat: Mapping[str, NDArray[Any]]) -> Moments | PassSums:
    """The sums that arrays were taken from; `ValueError` where they are none."""
    return Moments.from_arrays(flat) if "sum_x" in flat else PassSums.from_arrays(flat)


def trial_shapes(
    conditions: int, classes: int, responses: int, gammas: int, d: int, signals: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all sums of trials; with `d` and `signals` 0 only answers are counted."""
    base: dict[str, tuple[int, ...]] = {"answers": (conditions, classes, responses)}
    more: dict[str, tuple[int, ...]] = {
        "noise": (gammas, classes, responses, d),
        "by_signal": (gammas, signals, responses),
    }
    return base | more if d else base
