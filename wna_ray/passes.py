"""Later passes over a finished run: its kept responses, paired with noise made again. No network, no forward pass.

A response is first freed of its linear part, ``r = y - mean y - b'x`` with the run's own STA b (which explains that part, and
would only add noise to what comes after), and rounded once. Then a pass sums, exactly,

    dense   sum r x x'          (d, d) for each unit, and the same for noise of other seeds, which the responses have never seen
    block   sum r (x'q) x       (c, d) for the c columns q of a block: what the matrix above does to them, without the matrix

Both are sums of integers, so merging is exact in any order, and a pass is cut, retried and resumed like any run.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import NumericsError, RunError
from wna_ray.moments import MAX_CHUNK, Ints
from wna_ray.responses import LIMIT, is_dense
from wna_ray.results import Run
from wna_ray.shard import Phases
from wna_ray.spec import ResponseKind
from wna_ray.stimuli import Stimulus
from wna_ray.store import Place
from wna_ray.stored import Stored
from wna_ray.sums import PassSums

Floats = NDArray[np.float64]

SLOPE_BITS = 18  # of the largest value of a slope: x'b is then a whole number below 2^43
BLOCK_BITS = 24  # log2 of the length of a block's columns: x'q is a whole number below 2^41
GRID_BITS = 5  # about log2 of the standard deviation of a grid value
WEIGHT_BITS = 18  # of the standard deviation of r (x'q), as it is rounded
MOST_WEIGHT = float(1 << 32)  # with which 2^14 products with grid values stay below 2^53
CHUNK_VALUES = 1 << 22  # grid values turned into float64 at a time (32 MB)
LEAST_CHUNK = 64  # images at a time, however large they are


@dataclass(frozen=True)
class Residual:
    """How the integer response y of a unit becomes its residual ``rint(2^fine * (y - mean - 2^-coarse * x'slope))``.

    Attributes
    ----------
    row
        The unit's row in the responses.
    mean
        Mean response, in steps of its fixed point.
    slope
        ``(d,)`` whole numbers, as float64: the linear part, in ``2^-coarse`` steps per grid unit; zeros where it is not taken out.
    coarse, fine
        Exponents. The residual is at most 2^23 in size, whatever the image.
    size
        log2 of the response's standard deviation, in steps of the residual.
    """

    row: int
    mean: float
    slope: Floats
    coarse: int
    fine: int
    size: int

    @classmethod
    def of(cls, run: Run, kind: ResponseKind, row: int, linear: bool) -> Residual:
        """From the moments of a run; `RunError` where the unit has no response to speak of."""
        moments, name = run.moments, run.names[row]
        sums, n, variance = moments.responses[kind], moments.images, float(run.stimulus.noise.table.variance)
        at = int(np.searchsorted(sums.rows, row))
        if at == len(sums.rows) or sums.rows[at] != row or not sums.variation(n)[at]:
            raise RunError(
                f"'{run.directory.url}': the {kind} of '{name}' never varied, so there is nothing to explain; choose other units"
            )
        mean = int(sums.sum_y[at]) / n
        slope = np.zeros(moments.sum_x.size)
        if linear:
            slope = (sums.sum_yx[at] - mean * moments.sum_x) / (n * variance)
        largest = float(np.abs(slope).max())
        coarse = SLOPE_BITS - math.frexp(largest)[1] if largest else 0
        slope = np.rint(np.ldexp(slope, coarse))
        lowest, highest = run.stimulus.noise.table.range
        bound = float(sums.peak[at]) + abs(mean) + float(np.ldexp(np.abs(slope).sum() * max(-lowest, highest), -coarse)) + 1
        fine = math.frexp(LIMIT / bound)[1] - 1
        return cls(row, mean, slope, coarse, fine, math.frexp(math.sqrt(sums.variation(n)[at] / n))[1] + fine)

    @property
    def shift(self) -> int:
        """log2 of the step to which ``r (x'q)`` is rounded."""
        return self.size + GRID_BITS + BLOCK_BITS - WEIGHT_BITS

    def __call__(self, y: NDArray[np.int64], x: Floats) -> Floats:
        """Residuals ``(n,)``, whole numbers, of responses ``(n,)`` to grid values ``(n, d)``."""
        linear = np.ldexp(x @ self.slope, -self.coarse) if self.slope.any() else 0.0
        return np.asarray(np.rint(np.ldexp(y - self.mean - linear, self.fine)))


@dataclass(frozen=True)
class Pass:
    """What one pass sums up.

    Attributes
    ----------
    source
        Where the run lies.
    fingerprint
        Names everything that can change its sums.
    kind, units
        Which responses, and how they become residuals.
    seeds
        ``dense``: seeds of noise that the responses have never seen.
    block
        ``block``: ``(d, c)`` whole numbers as float64, columns of length 2^24; one unit only.
    half
        Take the images of even (0) or odd (1) batches only; None: all.
    batch
        Images in a batch of the run.
    """

    source: Place
    fingerprint: str
    kind: ResponseKind
    units: tuple[Residual, ...]
    seeds: tuple[int, ...] = ()
    block: Floats | None = None
    half: int | None = None
    batch: int = 1

    @property
    def shape(self) -> dict[str, int]:
        """What the shapes of its sums follow from."""
        columns = 0 if self.block is None else self.block.shape[1]
        return {"units": len(self.units), "d": len(self.units[0].slope), "null": len(self.seeds), "columns": columns}


def null_seeds(run: str, seed: int, count: int) -> tuple[int, ...]:
    """Seeds of noise that has nothing to do with a run's: hashes of its fingerprint, a seed and a number."""
    words = (hashlib.sha256(f"wna-null/1|{run}|{seed}|{i}".encode()).digest() for i in range(count))
    return tuple(int.from_bytes(word[:8], "little") for word in words)


def run_pass(job: Pass, run: Run, start: int, stop: int) -> tuple[PassSums, dict[str, float]]:
    """Sums of the images ``start ... stop - 1``, and seconds by phase (read, noise, moments)."""
    d, phase = run.stimulus.pixels, Phases()
    sums, images = PassSums.zeros(**job.shape), 0
    chunk = min(MAX_CHUNK, max(LEAST_CHUNK, CHUNK_VALUES // d))
    streams = [Stimulus(run.stimulus.spec, s, run.stimulus.offset, run.stimulus.shown, run.stimulus.patches) for s in job.seeds]
    for low, high in run.stored_spans:
        for a in range(max(low, start), min(high, stop), chunk):
            b = min(a + chunk, high, stop)
            with phase("read"):
                keep, values = _part(run.stored_part(low, high), job, low, a, b)
            images += int(keep.sum())
            if not keep.any():
                continue
            with phase("noise"):
                x = _grid(run.stimulus, a, b, keep)
            with phase("moments"):
                residuals = np.stack([unit(y[keep], x) for unit, y in zip(job.units, values, strict=True)])
                whole = residuals.astype(np.int64)
                sums["r"] += whole.sum(axis=1)
                sums["rr_high"] += (whole**2 >> 32).sum(axis=1)
                sums["rr_low"] += (whole**2 & 0xFFFFFFFF).sum(axis=1)
                if job.block is not None:
                    sums["rqx"] += _block(residuals[0], x, job.block, job.units[0])
                    continue
                _dense(sums["rxx"][:, 0], residuals, x)
            for i, other in enumerate(streams):
                with phase("noise"):
                    x = _grid(other, a, b, keep)
                with phase("moments"):
                    _dense(sums["rxx"][:, 1 + i], residuals, x)
    return PassSums(images, stop - start - images, sums), phase.seconds


def residuals(run: Run, kind: ResponseKind, unit: Residual, images: int) -> Floats:
    """Residual responses of the first images that are counted, at most so many."""
    low, high = run.stored_spans[0]
    job, found = Pass(run.directory.store.place, "", kind, (unit,)), list[Floats]()
    for a in range(low, min(high, images), MAX_CHUNK):
        b = min(a + MAX_CHUNK, high, images)
        keep, values = _part(run.stored_part(low, high), job, low, a, b)
        step = max(LEAST_CHUNK, CHUNK_VALUES // run.stimulus.pixels)
        for c in range(a, b, step):
            part = slice(c - a, min(c + step, b) - a)
            x = _grid(run.stimulus, c, min(c + step, b), keep[part])
            found.append(unit(values[0][part][keep[part]], x))
    return np.concatenate(found)


def _part(stored: Stored, job: Pass, low: int, start: int, stop: int) -> tuple[NDArray[np.bool_], list[NDArray[np.int64]]]:
    """Which of the images ``start ... stop - 1`` take part, and each unit's responses to all of them; `stored` begins at image `low`."""
    counted = stored.counted[start - low : stop - low]
    if job.half is not None:
        counted = counted & (np.arange(start, stop) // job.batch % 2 == job.half)
    values = stored.values[job.kind][start - low : stop - low]
    if is_dense(job.kind):
        return counted, [values[:, unit.row].astype(np.int64) for unit in job.units]
    weight = values[:, 1].astype(np.int64) if job.kind == "confidence" else np.ones(len(values), dtype=np.int64)
    return counted, [np.where(values[:, 0] == unit.row, weight, 0) for unit in job.units]


def _grid(stimulus: Stimulus, start: int, stop: int, keep: NDArray[np.bool_]) -> Floats:
    grid = stimulus.keep(stimulus.noise.grid(start, stop)).reshape(stop - start, -1)
    return (grid if keep.all() else grid[keep]).astype(np.float64)


def _dense(out: Ints, residuals: Floats, x: Floats) -> None:
    """Add ``sum r x x'`` of every unit: one matrix product each, of whole numbers below 2^53."""
    right = torch.from_numpy(x)
    for j, r in enumerate(residuals):
        out[j] += ((right * torch.from_numpy(r)[:, None]).T @ right).numpy().astype(np.int64)


def _block(r: Floats, x: Floats, block: Floats, unit: Residual) -> Ints:
    """``sum w x`` with ``w = rint(r (x'q) / 2^shift)``: two thin products, each of whole numbers below 2^53."""
    right = torch.from_numpy(x)
    weights = np.rint(np.ldexp(r[:, None] * (right @ torch.from_numpy(block)).numpy(), -unit.shift))
    if not np.abs(weights).max(initial=0.0) < MOST_WEIGHT:
        raise NumericsError(f"the weighted projections of unit {unit.row} are too large to be summed exactly; take another response")
    return (torch.from_numpy(np.ascontiguousarray(weights.T)) @ right).numpy().astype(np.int64)
