"""Later passes over a finished run: its kept responses, paired with noise made again. No network,
no forward pass.

A response is first freed of its linear part, ``r = y - mean y - R b'x`` with the run's own STA b
(which explains that part, and would only add noise to what comes after), shrunk by its reliability
R, so that a map that is all noise adds none. It may be clipped: one image of response r alone has
an eigenvalue of r d / N, so a few large ones fill the spectrum. Rounded once, a pass sums, exactly,

    dense    sum r x x'       (d, d) for each unit, and the same for noise of other seeds, which the
                              responses have never seen
    block    sum r (x'q) x    (c, d) for the c columns q of a block: what the matrix above does to
                              them, without the matrix
    profile  sum y by x'q     (c, bins): the mean response along each column, as it is

All are sums of integers, so merging is exact in any order, and a pass is cut, retried and resumed
like any run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import NumericsError, RunError
from wna_ray.kinds.average.run import Run
from wna_ray.moments.counts import PassSums
from wna_ray.moments.moments import MAX_CHUNK, Ints, Partial
from wna_ray.moments.responses import LIMIT
from wna_ray.shards.timing import Phases
from wna_ray.shards.work import Host
from wna_ray.specs.response import ResponseKind
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.storage.store import Place

Floats = NDArray[np.float64]

SLOPE_BITS = 18  # of the largest value of a slope: x'b is then a whole number below 2^43
BLOCK_BITS = 24  # log2 of the length of a block's columns: x'q is a whole number below 2^41
GRID_BITS = 5  # about log2 of the standard deviation of a grid value
WEIGHT_BITS = 18  # of the standard deviation of r (x'q), as it is rounded
MOST_WEIGHT = float(1 << 32)  # with which 2^14 products with grid values stay below 2^53
CHUNK_VALUES = 1 << 22  # grid values turned into float64 at a time (32 MB)
LEAST_CHUNK = 256  # images at a time, however large they are
EDGES = np.linspace(
    -3.25, 3.25, 27
)  # of the bins of a profile, in standard deviations of the noise; the outer ones are open
TILE = 1024  # values of an image at a time, as float64


@dataclass(frozen=True)
class Residual:
    """How the integer response y of a unit becomes its residual ``rint(2^fine * (y - mean -
    2^-coarse * x'slope))``, at most `limit`.

    Attributes
    ----------
    row
        The unit's row in the responses.
    mean
        Mean response, in steps of its fixed point.
    slope
        ``(d,)`` whole numbers, as float64: the linear part, in ``2^-coarse`` steps per grid unit;
        zeros where it is not taken out.
    coarse, fine
        Exponents. The residual is at most 2^23 in size, whatever the image.
    size
        log2 of the response's standard deviation, in steps of the residual.
    limit
        Largest size of a residual: those beyond are clipped.
    """

    row: int
    mean: float
    slope: Floats
    coarse: int
    fine: int
    size: int
    limit: float = float(LIMIT)

    @classmethod
    def of(
        cls, run: Run, kind: ResponseKind, row: int, linear: bool, clip: float | None = None
    ) -> Residual:
        """From the moments of a run; `RunError` where the unit has no response to speak of.

        Parameters
        ----------
        linear
            Take the linear part out.
        clip
            Largest size of a residual, in standard deviations of the response.
        """
        moments, name = run.moments, run.names[row]
        sums, n, variance = (
            moments.responses[kind],
            moments.images,
            float(run.stimulus.noise.table.variance),
        )
        at = int(np.searchsorted(sums.rows, row))
        if at == len(sums.rows) or sums.rows[at] != row or not sums.variation(n)[at]:
            raise RunError(
                f"'{run.directory.url}': the {kind} of '{name}' never varied, so there is nothing"
                " to explain; choose other units"
            )
        mean = int(sums.sum_y[at]) / n
        slope = np.zeros(moments.sum_x.size)
        if linear:
            shrink = float(next(r for r in run.readouts if r.kind == kind).reliability[row])
            slope = shrink * (sums.sum_yx[at] - mean * moments.sum_x) / (n * variance)
        largest = float(np.abs(slope).max())
        coarse = SLOPE_BITS - math.frexp(largest)[1] if largest else 0
        slope = np.rint(np.ldexp(slope, coarse))
        lowest, highest = run.stimulus.noise.table.range
        bound = (
            float(sums.peak[at])
            + abs(mean)
            + float(np.ldexp(np.abs(slope).sum() * max(-lowest, highest), -coarse))
            + 1
        )
        fine = math.frexp(LIMIT / bound)[1] - 1
        sd = math.sqrt(sums.variation(n)[at] / n)
        limit = LIMIT if clip is None else min(LIMIT, math.ceil(math.ldexp(clip * sd, fine)))
        return cls(row, mean, slope, coarse, fine, math.frexp(sd)[1] + fine, float(limit))

    @property
    def shift(self) -> int:
        """log2 of the step to which ``r (x'q)`` is rounded."""
        return self.size + GRID_BITS + BLOCK_BITS - WEIGHT_BITS

    def __call__(self, y: NDArray[np.int64], x: Floats) -> Floats:
        """Residuals ``(n,)``, whole numbers, of responses ``(n,)`` to grid values ``(n, d)``."""
        return self.without(y, x @ self.slope)

    def without(self, y: NDArray[np.int64], linear: Floats) -> Floats:
        """The same, where ``x'slope (n,)`` is known."""
        whole = np.rint(np.ldexp(y - self.mean - np.ldexp(linear, -self.coarse), self.fine))
        return np.asarray(np.clip(whole, -self.limit, self.limit))


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
        ``block``, ``profile``: ``(d, c)`` whole numbers as float64, columns of length 2^24; a
        ``block`` is of one unit only.
    owners
        ``profile``: which unit each column of the block belongs to.
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
    owners: tuple[int, ...] = ()
    half: int | None = None
    batch: int = 1

    @property
    def shape(self) -> dict[str, int]:
        """What the shapes of its sums follow from."""
        return pass_shape(
            len(self.units), len(self.units[0].slope), self.seeds, self.block, self.owners
        )

    def shard(self, host: Host, start: int, stop: int) -> tuple[Partial, dict[str, float]]:
        """Sums of the kept responses of some images, and seconds by phase."""
        sums, seconds = run_pass(self, host.source(self.source, Run), start, stop)
        return Partial(start, stop, sums), seconds


def pass_shape(
    units: int, d: int, seeds: Sequence[int], block: Floats | None, owners: Sequence[int]
) -> dict[str, int]:
    """What the shapes of a pass's sums follow from."""
    shape = {
        "units": units,
        "d": d,
        "null": len(seeds),
        "columns": 0 if block is None else block.shape[1],
    }
    return shape | ({"bins": len(EDGES) + 1} if owners else {})


def null_seeds(run: str, seed: int, count: int) -> tuple[int, ...]:
    """Seeds of noise that has nothing to do with a run's: hashes of its fingerprint, a seed and
    a number.
    """
    words = (hashlib.sha256(f"wna-null/1|{run}|{seed}|{i}".encode()).digest() for i in range(count))
    return tuple(int.from_bytes(word[:8], "little") for word in words)


def streams_of(stimulus: Stimulus, seeds: Sequence[int]) -> list[Stimulus]:
    """The same stimulus with noise of other seeds."""
    return [stimulus.with_seed(seed) for seed in seeds]


def run_pass(job: Pass, run: Run, start: int, stop: int) -> tuple[PassSums, dict[str, float]]:
    """Sums of the images ``start ... stop - 1``, and seconds by phase (read, noise, moments)."""
    d, phase = run.stimulus.pixels, Phases()
    sums, images = PassSums.zeros(**job.shape), 0
    columns = (
        None
        if job.block is None or job.owners
        else np.concatenate([job.units[0].slope[:, None], job.block], axis=1)
    )
    streams = streams_of(run.stimulus, job.seeds)
    for low, high in run.stored_spans:
        for index in _chunks(max(low, start), min(high, stop), d, job.batch, job.half):
            with phase("read"):
                stored = run.stored_part(low, high).part(index - low)
                keep, values = (
                    stored.counted,
                    [stored.row(job.kind, unit.row) for unit in job.units],
                )
            images += int(keep.sum())
            if not keep.any():
                continue
            with phase("noise"):
                grid = _grid(run.stimulus, index[keep])
            with phase("moments"):
                if job.owners and job.block is not None:
                    profile(
                        sums, grid, job.block, [y[keep] for y in values], job.owners, run.stimulus
                    )
                    continue
                if columns is not None:
                    along = _project(grid, columns)
                    residuals = job.units[0].without(values[0][keep], along[:, 0])[None]
                    sums["rqx"] += _back(grid, _weights(residuals[0], along[:, 1:], job.units[0]))
                else:
                    x = grid.astype(np.float64)
                    residuals = np.stack(
                        [unit(y[keep], x) for unit, y in zip(job.units, values, strict=True)]
                    )
                    _dense(sums["rxx"][:, 0], residuals, x)
                whole = residuals.astype(np.int64)
                sums["r"] += whole.sum(axis=1)
                sums["rr_high"] += (whole**2 >> 32).sum(axis=1)
                sums["rr_low"] += (whole**2 & 0xFFFFFFFF).sum(axis=1)
            for i, other in enumerate(streams):
                with phase("noise"):
                    grid = _grid(other, index[keep])
                with phase("moments"):
                    _dense(sums["rxx"][:, 1 + i], residuals, grid.astype(np.float64))
    return PassSums(images, stop - start - images, sums), phase.seconds


def residuals(run: Run, kind: ResponseKind, unit: Residual, images: int) -> Floats:
    """Residual responses of the first images that are counted, at most so many."""
    (low, high), d, parts = run.stored_spans[0], run.stimulus.pixels, list[Floats]()
    for index in _chunks(low, min(high, images), d):
        stored = run.stored_part(low, high).part(index - low)
        along = _project(_grid(run.stimulus, index[stored.counted]), unit.slope[:, None])[:, 0]
        parts.append(unit.without(stored.row(kind, unit.row)[stored.counted], along))
    return np.concatenate(parts)


def strongest(run: Run, kind: ResponseKind, row: int, count: int) -> Floats:
    """The images of even batches with the responses furthest from the mean, at most so many:
    ``(c, d)`` grid values, furthest first.
    """
    at, size, batch = np.zeros(0, dtype=np.int64), np.zeros(0), run.spec.numerics.batch
    sums = run.moments.responses[kind]
    mean = int(sums.sum_y[np.searchsorted(sums.rows, row)]) / run.moments.images
    for low, stored in run.stored():
        index = np.arange(low, low + len(stored.counted))
        taken = stored.counted & (index // batch % 2 == 0)
        at = np.concatenate([at, index[taken]])
        size = np.concatenate([size, np.abs(stored.row(kind, row)[taken] - mean)])
        best = np.argsort(-size, kind="stable")[:count]
        at, size = at[best], size[best]
    return np.array(
        [_grid(run.stimulus, at[i : i + 1])[0] for i in range(len(at))], dtype=np.float64
    ).reshape(len(at), run.stimulus.pixels)


def effective_images(run: Run, kind: ResponseKind, unit: Residual) -> float:
    """``(sum r^2)^2 / sum r^4``: how many images of equal weight the responses are worth, with
    their linear part still in.
    """
    square = fourth = 0.0
    for _, stored in run.stored():
        y = stored.row(kind, unit.row)[stored.counted]
        r = np.square(unit.without(y, np.zeros(len(y))) / 2.0**unit.size)
        square, fourth = square + float(r.sum()), fourth + float(np.square(r).sum())
    return square**2 / fourth if fourth else 0.0


def stimulus_products(run: Run) -> Floats:
    """``sum x x'`` over all images that are counted: ``(d, d)`` whole numbers."""
    d = run.stimulus.pixels
    total = np.zeros((1, d, d), dtype=np.int64)
    for low, high in run.stored_spans:
        for index in _chunks(low, high, d):
            keep = run.stored_part(low, high).counted[index - low]
            if keep.any():
                x = _grid(run.stimulus, index[keep]).astype(np.float64)
                _dense(total, np.ones((1, len(x))), x)
    return np.asarray(total[0], dtype=np.float64)


def _chunks(
    start: int, stop: int, d: int, batch: int = 1, half: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Numbers of the images of d values that take part, some at a time: all, or those of even
    (0) or odd (1) batches.
    """
    index, step = np.arange(start, stop), min(MAX_CHUNK, max(LEAST_CHUNK, CHUNK_VALUES // d))
    if half is not None:
        index = index[index // batch % 2 == half]
    for a in range(0, len(index), step):
        yield index[a : a + step]


def _grid(stimulus: Stimulus, index: NDArray[np.int64]) -> NDArray[np.int8]:
    """Grid values ``(n, d)`` of images in order; only they are made, in runs of neighbours."""
    runs = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)
    grids = [stimulus.keep(stimulus.noise.grid(int(r[0]), int(r[-1]) + 1)) for r in runs]
    whole = grids[0] if len(grids) == 1 else np.concatenate(grids)
    return whole.reshape(len(index), -1)


def _dense(out: Ints, residuals: Floats, x: Floats) -> None:
    """Add ``sum r x x'`` of every unit: one matrix product each, of whole numbers below 2^53."""
    right = torch.from_numpy(x)
    for j, r in enumerate(residuals):
        out[j] += ((right * torch.from_numpy(r)[:, None]).T @ right).numpy().astype(np.int64)


def _project(grid: NDArray[np.int8], columns: Floats) -> Floats:
    """``x'q``: ``(n, c)`` whole numbers. Tile by tile: as float64 the grid would not fit a
    cache, and memory is slower.
    """
    left, right = torch.from_numpy(grid), torch.from_numpy(columns)
    total = torch.zeros((len(grid), columns.shape[1]), dtype=torch.float64)
    for a in range(0, grid.shape[1], TILE):
        total += left[:, a : a + TILE].to(torch.float64) @ right[a : a + TILE]
    return np.asarray(total.numpy())


def _weights(r: Floats, along: Floats, unit: Residual) -> Floats:
    """``rint(r (x'q) / 2^shift)``: ``(n, c)`` whole numbers, the one rounding of a pass."""
    weights = np.rint(np.ldexp(r[:, None] * along, -unit.shift))
    if not np.abs(weights).max(initial=0.0) < MOST_WEIGHT:
        raise NumericsError(
            f"the weighted projections of unit {unit.row} are too large to be summed exactly; take"
            " another response"
        )
    return weights


def profile(
    sums: dict[str, Ints],
    grid: NDArray[np.int8],
    block: Floats,
    values: Sequence[NDArray[np.int64]],
    owners: Sequence[int],
    stimulus: Stimulus,
) -> None:
    """Add images ``(n, d)``, with the responses of each unit, by the bin of their projections
    on each column; all numbers are whole.
    """
    along = _project(grid, block)
    edges = np.ldexp(EDGES * math.sqrt(float(stimulus.noise.table.variance)), BLOCK_BITS)
    for column, owner in enumerate(owners):
        at, y = np.searchsorted(edges, along[:, column]), values[owner]
        for name, weights in (
            ("count", np.ones_like(y)),
            ("y", y),
            ("yy_high", y**2 >> 32),
            ("yy_low", y**2 & 0xFFFFFFFF),
        ):
            sums[name][column] += np.bincount(at, weights, len(edges) + 1).astype(np.int64)


def _back(grid: NDArray[np.int8], weights: Floats) -> Ints:
    """``sum w x``: ``(c, d)``, tile by tile."""
    left, right = torch.from_numpy(np.ascontiguousarray(weights.T)), torch.from_numpy(grid)
    out = np.empty((weights.shape[1], grid.shape[1]), dtype=np.int64)
    for a in range(0, grid.shape[1], TILE):
        out[:, a : a + TILE] = (left @ right[:, a : a + TILE].to(torch.float64)).numpy()
    return out
