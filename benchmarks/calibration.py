"""Family-wise error of every test at nominal 0.05, by simulation: how often does it call something
significant where nothing is?

    python benchmarks/calibration.py [--runs 1000] [--only maps]

Prints one row a test, size and response: null runs, how many were rejected, their rate and its 95 %
interval, and "ok", "below" (fewer than 5 %: a bound, not an equality) or "OFF" (more). Of a hundred
rows a few look off by chance, so a case with a row whose interval lies above 5 % is simulated again
with other seeds and twice the runs, and only those count. Exit code 1 if a row is OFF.

Responses: rare (1 for 2 % of the images), skewed (rectified), normal; they ignore the noise. Runs
that get no p-value (too few images) are left out. Where gradients are averaged, their values are
independent over the image, with mean 0. "second axis, w": the response has one axis, w times its
square beside noise of sd 1, and only what is found beyond it counts.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest
from torch import nn

from wna_ray.geometry import Box, Patches
from wna_ray.kinds.average.result import read_outs
from wna_ray.kinds.covariance.job import whole
from wna_ray.kinds.covariance.passes import (
    BLOCK_BITS,
    Pass,
    Residual,
    effective_images,
    null_seeds,
    run_pass,
    strongest,
)
from wna_ray.moments.kept import Stored
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import Dense, FixedPoint, Response, Selected
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.job import Job
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.shards.shard import run_shard
from wna_ray.specs.response import ResponseKind
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.statistics.covariance import Krylov, held_out, matrices, nested_axes
from wna_ray.statistics.maps import Floats, z_threshold
from wna_ray.statistics.nulls import KnownNoise
from wna_ray.statistics.readouts import read_out
from wna_ray.statistics.significance import Shape, cluster_test, fdr_threshold, field_threshold
from wna_ray.stimuli.stimulus import Stimulus, make_stimulus
from wna_ray.storage.store import Place

Outcomes = Iterator[tuple[str, str, bool]]  # test, response, whether it was rejected

ALPHA, AGAIN, FRESH, COLUMNS, SKEW = 0.05, 2, 39, 4, 0.175
RESPONSES = ("rare", "skewed", "normal")
KINDS: tuple[ResponseKind, ...] = ("label", "rectified", "activation")
ONE, THREE = FixedPoint((-12,), (0,)), FixedPoint((-12,) * 3, (0,) * 3)
HOW: Callable[..., Pass] = partial(Pass, Place("nowhere"), "", "activation", batch=64)


def steps(y: Floats) -> Dense:
    return Dense(np.rint(4096 * y).astype(np.int64))


def top(y: Floats) -> Floats:
    """1 for the largest 2 %."""
    return (y >= np.quantile(y, 0.98)).astype(np.float64)


def responses(n: int, seed: int) -> Floats:
    """``(n, 3)``: as in `RESPONSES`."""
    u = np.random.default_rng(seed).standard_normal((3, n))
    return np.stack([top(u[0]), np.maximum(u[1], 0), u[2]], axis=1)


def stimulus(
    shape: Shape, seed: int, kind: str = "gaussian", patches: Patches | None = None
) -> Stimulus:
    spec = {"kind": kind, "shape": shape, "scale": 1.0} | (
        {"density": 0.1} if kind == "sparse" else {}
    )
    return make_stimulus(
        StimulusSpec.model_validate(spec), seed, np.zeros((1, 1, 1), np.float32), patches=patches
    )


def maps(shape: Shape, n: int, kind: str, seed: int) -> Outcomes:
    noise, y = stimulus(shape, seed, kind or "gaussian"), responses(n, seed)
    label = Selected(y[:, 0].astype(np.int64), np.ones(n, np.int64))
    answers: dict[str, Response] = {
        "label": label,
        "rectified": steps(y[:, 1:2]),
        "activation": steps(y[:, 2:]),
    }
    moments = Moments.identity(noise.pixels, answers).update(noise.noise.grid(0, n), answers)
    for what, response in zip(KINDS, RESPONSES, strict=True):
        found = read_out(
            moments,
            what,
            ONE,
            KnownNoise(noise.noise.table, 1.0),
            ["no", "yes"] if what == "label" else ["0"],
        )
        if found.note[-1]:
            continue
        z = found.z[-1]
        yield "whole map (chi-square)", response, found.p_value[-1] <= ALPHA
        yield "largest value (Sidak)", response, np.abs(z).max() > z_threshold(z.size)
        yield "false discovery rate", response, fdr_threshold(z) < np.inf
        for sd in (1.0, 2.0) if shape[1] >= 8 else ():
            clusters = cluster_test(z.reshape(shape), sd)
            yield (
                f"smoothed, sd {sd:.0f}: largest",
                response,
                np.abs(clusters.map).max() > field_threshold(shape, sd),
            )
            yield (
                f"smoothed, sd {sd:.0f}: clusters",
                response,
                bool(clusters.significant(ALPHA).any()),
            )


def pooled(shape: Shape, n: int, positions: int, seed: int) -> Outcomes:
    """Responses resemble their neighbours in the map, as those of a network do."""
    (channels, *sides), count = shape, positions**2
    patches = Patches(Box(0, 0, *sides), positions, positions)
    noise = stimulus(
        (channels, sides[0] + positions - 1, sides[1] + positions - 1), seed, patches=patches
    )
    u = gaussian_filter(
        np.random.default_rng(seed).standard_normal((3, n, positions, positions)), (0, 0, 1.5, 1.5)
    ).reshape(3, -1)
    answers = {"activation": steps(np.stack([top(u[0]), np.maximum(u[1], 0), u[2]], axis=1))}
    moments = Moments.identity(math.prod(shape), answers).update(
        noise.keep(noise.noise.grid(0, n)), answers, count
    )
    found = read_out(
        moments, "activation", THREE, KnownNoise(noise.noise.table, 1.0, count), RESPONSES
    )
    yield from (
        ("pooled positions (Sidak)", *row)
        for row in zip(RESPONSES, found.p_value <= ALPHA, strict=True)
    )


class Pairs(nn.Module):
    """Three outputs whose gradients have mean 0 everywhere: 0 but for a few images, half of them
    with a skewness of 1, and normal.

    Of logits of the bundled digit network a tenth of the gradient's values are more skewed than
    that, of MobileNet-V2's features.4 few.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.flatten(1).unfold(1, 2, 2).unbind(2)
        return torch.stack(
            [a.sign() * (a.abs() - 2).relu() * b, (a + SKEW * (a.square() - 1)) * b, a * b], dim=1
        ).sum(2)


@lru_cache
def differentiable(shape: Shape, batch: int) -> tuple[Job, FedNetwork]:
    spec: dict[str, Any] = {
        "model": "python:calibration:Pairs",
        "responses": ["activation"],
        "estimator": "gradient",
        "samples": batch,
        "seed": 1,
    }
    noise: dict[str, Any] = {
        "kind": "gaussian",
        "shape": list(shape),
        "scale": 1.0,
        "space": "input",
    }
    parsed = Spec.parse(
        spec | {"stimulus": noise, "numerics": {"batch": batch, "threads": 1, "device": "cpu"}}
    )
    network = load_network(parsed, "cpu")
    return resolve(parsed, network).job, network


def gradients(shape: Shape, n: int, _: float, seed: int) -> Outcomes:
    job, network = differentiable(shape, min(n, 128))
    (found,) = read_outs(
        job.spec,
        job.stimulus,
        run_shard(job, network, seed * n, (seed + 1) * n)[0],
        job.identity,
        list(job.names),
    )
    yield from (
        ("mean gradient (Sidak)", *row)
        for row in zip(RESPONSES, found.p_value <= ALPHA, strict=True)
    )


def kept(noise: Stimulus, y: Floats) -> Any:
    """A run whose responses were kept, as far as passes look at it."""
    answers = {"activation": steps(y)}
    stored = Stored.of(np.ones(len(y), dtype=bool), answers)
    moments = Moments.identity(noise.pixels, answers).update(noise.noise.grid(0, len(y)), answers)
    run = SimpleNamespace(
        stimulus=noise,
        moments=moments,
        names=RESPONSES,
        spec=SimpleNamespace(numerics=SimpleNamespace(batch=64)),
    )
    run.readouts = [
        read_out(moments, "activation", THREE, KnownNoise(noise.noise.table, 1.0), RESPONSES)
    ]
    run.stored_spans, run.stored_part, run.stored = (
        [(0, len(y))],
        lambda *_: stored,
        lambda: [(0, stored)],
    )
    return run


def nested(shape: Shape, n: int, weight: float, seed: int) -> Outcomes:
    noise, y = stimulus(shape, seed), responses(n, seed)
    variance, name = (
        float(noise.noise.table.variance),
        f"second axis, {weight:g} (nested)" if weight else "first axis (nested)",
    )
    if weight:
        y += (
            weight
            * noise.noise.grid(0, n).sum(axis=(1, 2, 3), keepdims=True)[:, 0, 0] ** 2.0
            / (noise.pixels * variance)
        )
        y[:, 0] = top(y[:, 2])
    run = kept(noise, y)
    units = tuple(Residual.of(run, "activation", row, True) for row in range(3))
    sums, _ = run_pass(HOW(units, null_seeds("calibration", seed, FRESH)), run, 0, n)
    for row, response in enumerate(RESPONSES):
        yield (
            name,
            response,
            nested_axes(matrices(sums, row, variance), 1 + (weight > 0)).significant(ALPHA)
            > (weight > 0),
        )


def halves(shape: Shape, n: int, _: float, seed: int) -> Outcomes:
    noise = stimulus(shape, seed)
    run, table = kept(noise, responses(n, seed)), noise.noise.table
    for row, response in enumerate(RESPONSES):
        unit = Residual.of(run, "activation", row, True)
        start = np.random.default_rng(seed).standard_normal((noise.pixels, COLUMNS))
        start[:, :2] = strongest(run, "activation", row, 2).T
        krylov = Krylov(start)
        block = whole(krylov.next)
        krylov.add(
            block / 2.0**BLOCK_BITS,
            run_pass(HOW((unit,), block=block, half=0), run, 0, n)[0].sums["rqx"].T
            / 2.0**BLOCK_BITS,
        )
        block = whole(krylov.axes(COLUMNS)[1].T)
        sums = run_pass(HOW((unit,), block=block, half=1), run, 0, n)[0]
        axes = held_out(
            sums,
            block,
            unit.shift,
            float(table.variance),
            float(table.moment(4)),
            effective_images(run, "activation", unit) / 2,
        )
        if not np.isnan(axes.p_value[0]):
            yield "an axis (other half)", response, axes.significant(ALPHA) > 0


CASES: dict[
    Callable[..., Outcomes], list[tuple[int, int, int, Any]]
] = {  # test: channels, side, N, more
    maps: [
        (1, 4, 500, ""),
        (1, 4, 5000, ""),
        (3, 8, 2000, ""),
        (1, 28, 2000, ""),
        (1, 28, 10_000, ""),
        (1, 16, 12_000, "sparse"),
    ],
    pooled: [(1, 4, 20, 8), (1, 4, 200, 8), (3, 8, 40, 10), (1, 28, 20, 10)],
    gradients: [(1, 4, 2048, 0), (1, 14, 4096, 0), (1, 28, 2048, 0)],
    nested: [
        (1, 4, 200, 0),
        (1, 4, 2000, 0),
        (1, 8, 1000, 0),
        (1, 4, 500, 0.3),
        (1, 4, 500, 2),
        (1, 8, 2000, 1),
    ],
    halves: [(1, 4, 1000, 0), (1, 4, 12_000, 0), (1, 14, 2000, 0), (1, 28, 2000, 0)],
}


def simulate(
    case: Callable[[int], Outcomes], seeds: range
) -> dict[tuple[str, str], tuple[int, int]]:
    """Rejections and runs, by test and response."""
    made, rejected = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for seed in seeds:
        for test, response, found in case(seed):
            made[test, response] += 1
            rejected[test, response] += bool(found)
    return {key: (rejected[key], n) for key, n in made.items()}


def judge(rejected: int, runs: int) -> tuple[float, float, str]:
    """Interval of the rate (Clopper & Pearson), and what it means."""
    low, high = binomtest(rejected, runs).proportion_ci()
    return low, high, "OFF" if low > ALPHA else "below" if high < ALPHA else "ok"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--only", choices=[test.__name__ for test in CASES])
    asked, words = parser.parse_args(), Counter[str]()
    torch.set_num_threads(1)
    print(
        f"{'test':<27}{'d':>5}{'N':>8}  {'response':<9}{'runs':>5}{'rejected':>10}{'rate':>8}  95 %"
        " interval"
    )
    for test, (channels, side, n, more) in (
        (t, size)
        for t, sizes in CASES.items()
        for size in sizes
        if asked.only in (None, t.__name__)
    ):
        costly = channels * side**2 * n > {nested: 60_000, halves: 300_000}.get(test, 1_500_000)
        case, runs = partial(test, (channels, side, side), n, more), asked.runs // (1 + costly)
        found = simulate(case, range(runs))
        if any(judge(*counts)[2] == "OFF" for counts in found.values()):
            found = simulate(case, range(runs, (1 + AGAIN) * runs))
        for (name, response), (rejected, made) in found.items():
            low, high, word = judge(rejected, made)
            words[word] += 1
            row = (
                f"{name:<27}{channels * side**2:>5}{n:>8,} "
                f" {response:<9}{made:>5}{rejected:>10}{rejected / made:>8.3f}"
            )
            print(f"{row}  {low:.3f} to {high:.3f}  {word}", flush=True)
    print(", ".join(f"{count} rows {word}" for word, count in words.items()))
    sys.exit(words["OFF"] > 0)


if __name__ == "__main__":
    main()
