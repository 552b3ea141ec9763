"""Sums of a pass over a finished run: naive loops, residuals as integers, any cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import networks_for_tests
import numpy as np
import pytest
from quadratic_run import grid, responses

from wna_ray import StcSpec, run, run_stc
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.covariance.passes import (
    BLOCK_BITS,
    Pass,
    Residual,
    null_seeds,
    run_pass,
    strongest,
)
from wna_ray.specs.run import Spec
from wna_ray.statistics.covariance import matrices, spread

MakeSpec = Callable[..., Spec]


def test_sums_against_a_naive_loop(quadratic: Run) -> None:
    """Residuals are rounded to 2^-fine steps, so each sum may be off by half a step for each
    image and |x x'|.
    """
    unit = Residual.of(quadratic, "activation", 0, linear=True)
    seeds = null_seeds(quadratic.fingerprint, 1, 2)
    job = Pass(quadratic.directory.store.place, "", "activation", (unit,), seeds)
    sums, _ = run_pass(job, quadratic, 1000, 5001)
    x, y = grid(quadratic)[1000:5001], responses(quadratic)[1000:5001, 0]
    everything = grid(quadratic)
    mean = responses(quadratic)[:, 0].mean()
    slope = (
        everything.T
        @ (responses(quadratic)[:, 0] - mean)
        / len(everything)
        / float(quadratic.stimulus.noise.table.variance)
    )
    r = np.ldexp(y - mean - x @ (slope * quadratic.readouts[0].reliability[0]), unit.fine)
    assert np.abs(sums.sums["r"][0] - r.sum()) < 4001
    assert sums.squares(0) == pytest.approx(np.square(r).sum(), rel=1e-4)
    for i, seed in enumerate([None, *seeds]):
        z = grid(quadratic, seed)[1000:5001]
        naive = sum(r[j] * np.outer(z[j], z[j]) for j in range(4001))
        # half a step of rounding, and 2^-18 of the slope's largest value in each of 16 values
        error = 1 + 2.0**-17 * 16 * 127 * np.abs(slope).max() * 2.0**unit.fine
        assert (
            np.abs(sums.sums["rxx"][0, i] - naive).max() < error * (np.abs(z).T @ np.abs(z)).max()
        )
    assert len({*seeds, quadratic.spec.seed}) == 3


def test_residuals_fit_their_integers(quadratic: Run) -> None:
    unit = Residual.of(quadratic, "activation", 0, linear=True)
    r = unit(responses(quadratic)[:, 0], grid(quadratic))
    assert 2**10 < r.std() < np.abs(r).max() <= 2**23
    assert np.array_equal(r, np.rint(r))


def test_clipped_residuals(quadratic: Run, tmp_path: Path) -> None:
    """By hand: at most 1.5 standard deviations of the response; the axes stay, and the test
    with them.
    """
    unit = Residual.of(quadratic, "activation", 0, linear=True)
    short = Residual.of(quadratic, "activation", 0, linear=True, clip=1.5)
    y, x = responses(quadratic)[:, 0], grid(quadratic)
    most = math.ceil(1.5 * y.std() * 2.0**unit.fine)
    assert short.limit == most
    assert np.array_equal(short(y, x), np.clip(unit(y, x), -most, most))
    assert 0.01 < (np.abs(short(y, x)) == most).mean() < 0.2
    found = run_stc(
        StcSpec(run=quadratic.directory.url, axes=3, clip=1.5),
        str(tmp_path / "stc"),
        executor="local",
    )
    truth = networks_for_tests.quadratic_axes(16).numpy()
    assert (np.abs((found.pictures[:2].reshape(2, 16) * truth[:2]).sum(axis=1)) > 0.99).all()
    assert [p <= 0.05 for p in found.axes["p_value"].to_pylist()] == [True, True, False]


def test_a_map_that_is_all_noise_is_not_taken_out(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The linear part is shrunk by its reliability: of a deaf unit next to nothing is left."""
    spec = make_spec(
        model="python:networks_for_tests:deaf",
        responses=["activation"],
        keep_responses=True,
        samples=600,
    )
    deaf = run(spec, str(tmp_path / "deaf"), executor="local")
    for row in range(2):
        known = deaf.readouts[0].reliability[row]
        slope = Residual.of(deaf, "activation", row, linear=True)
        expected = (
            known
            * (deaf.readouts[0].bias[row] / deaf.points["activation"].step[row])
            * deaf.stimulus.unit
        )
        assert np.ldexp(slope.slope, -slope.coarse) == pytest.approx(
            expected, abs=1e-4 * np.abs(expected).max() + 1e-12
        )
        assert known < 0.5


def test_the_strongest_images(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Of even batches, furthest from the mean first, against a sort of all."""
    finished = run(
        make_spec(keep_responses=True, responses=["logits"]),
        str(tmp_path / "run"),
        executor="local",
    )
    y, x = responses(finished, "logits")[:, 1], grid(finished)
    even = np.arange(2000) // 64 % 2 == 0
    order = sorted(np.flatnonzero(even), key=lambda i: -abs(y[i] - y.mean()))[:5]
    assert np.array_equal(strongest(finished, "logits", 1, 5), x[order])
    assert len(strongest(finished, "logits", 1, 3000)) == even.sum()


def test_any_cut_of_a_pass_gives_the_same_sums(quadratic: Run) -> None:
    unit = Residual.of(quadratic, "activation", 0, linear=True)
    for how in (
        {"seeds": (5,)},
        {"block": np.rint(np.eye(16)[:, :3] * 2.0**BLOCK_BITS), "half": 1},
    ):
        job = Pass(quadratic.directory.store.place, "", "activation", (unit,), batch=64, **how)
        whole, _ = run_pass(job, quadratic, 0, 20_000)
        parts = [
            run_pass(job, quadratic, a, b)[0] for a, b in ((0, 64), (64, 10_001), (10_001, 20_000))
        ]
        joined = parts[0].merge(parts[1]).merge(parts[2])
        assert joined.seen == whole.seen == 20_000
        assert {k: v.tolist() for k, v in joined.arrays().items()} == {
            k: v.tolist() for k, v in whole.arrays().items()
        }


def test_matrix_free_is_the_dense_matrix_to_six_digits(quadratic: Run) -> None:
    """On the same images: C q for a whole basis q, and the eigenvalues of both."""
    unit = Residual.of(quadratic, "activation", 0, linear=True)
    place = quadratic.directory.store.place
    dense, _ = run_pass(Pass(place, "", "activation", (unit,)), quadratic, 0, 20_000)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    block = np.rint(np.ldexp(basis, BLOCK_BITS))
    free, _ = run_pass(Pass(place, "", "activation", (unit,), block=block), quadratic, 0, 20_000)
    variance = float(quadratic.stimulus.noise.table.variance)
    matrix = matrices(dense, 0, variance)[0]
    mean, sd = spread(free, 0)
    image = (
        np.ldexp(free.sums["rqx"].T, unit.shift - BLOCK_BITS) / (free.images * variance * sd)
        - mean / sd * basis
    )
    assert np.abs(image - matrix @ basis).max() < 1e-6 * np.abs(matrix).max()
    values = np.linalg.eigvalsh(basis.T @ image)
    assert np.abs(values - np.linalg.eigvalsh(matrix)).max() < 1e-6 * np.abs(values).max()
