"""Read-outs against analytic truths, and the calibration of everything that is called a
probability.

Tolerances are standard errors: z = 6 for a whole map of 16 values (false alarm 3e-8), z = 5 for
single numbers (6e-7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networks_for_tests
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import Dense, FixedPoint, Selected, calibrate, respond
from wna_ray.noise.stream import Kind, Noise
from wna_ray.shards.job import Job
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.shards.shard import run_shard
from wna_ray.specs.response import ResponseSpec
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import (
    Readout,
    chi_square_p,
    explained_variance,
    fewest_images,
    images_for,
    reliability,
    variance_maps,
    z_threshold,
)
from wna_ray.statistics.nulls import KnownNoise
from wna_ray.statistics.readouts import read_out

MakeSpec = Callable[..., Spec]


def readouts(spec: Spec) -> tuple[Job, Moments, dict[str, Readout]]:
    network = load_network(spec, "cpu")
    job = resolve(spec, network).job
    moments, _ = run_shard(job, network, 0, spec.samples)
    null = KnownNoise(job.stimulus.noise.table, job.stimulus.unit)
    return (
        job,
        moments,
        {
            r.kind: read_out(moments, r.kind, job.points[r.kind], null, job.names)
            for r in spec.responses
        },
    )


def synthetic(y: NDArray[np.float64], grid: NDArray[np.int8]) -> tuple[Moments, FixedPoint]:
    """Moments of made-up dense responses ``(n, k)``."""
    spec = ResponseSpec(kind="logits", centred=False)
    point = calibrate(spec, y.astype(np.float32))
    response, within = respond(spec, point, y.astype(np.float32))
    assert within.all()
    return Moments.identity(grid[0].size, ["logits"]).update(grid, {"logits": response}), point


@pytest.mark.parametrize(
    "kind, density", [("gaussian", None), ("uniform", None), ("binary", None), ("sparse", 0.2)]
)
def test_logit_maps_of_a_linear_network_are_its_weights(
    make_spec: MakeSpec, kind: str, density: float | None
) -> None:
    """Truth: ``w``. Standard error of each map value: sqrt(Var y) / (sigma sqrt N),
    times sqrt(1 + |kurtosis|).
    """
    job, _, found = readouts(
        make_spec(samples=40_000, stimulus={"kind": kind, "density": density, "scale": 0.5})
    )
    w = networks_for_tests.weights().numpy()
    truth = w
    table = job.stimulus.noise.table
    sd_y = job.stimulus.sd * np.linalg.norm(truth, axis=1, keepdims=True)
    error = sd_y / (job.stimulus.sd * np.sqrt(40_000)) * np.sqrt(2 + abs(table.excess_kurtosis))
    worst = (np.abs(found["logits"].bias - truth) / error).max()
    assert worst < 6, f"{worst} standard errors"
    # all of a linear response is linear: rho2 = 1 (sd of the estimate about 2 / sqrt(N) for one
    # map)
    assert found["logits"].rho2 == pytest.approx(
        1.0, abs=5 * np.sqrt((4 + abs(table.excess_kurtosis)) / 40_000) + 1e-3
    )


def test_linear_threshold_unit(make_spec: MakeSpec) -> None:
    """Gaussian noise, label 1 where w.x > 0: class mean = sigma sqrt(2 / pi) w / |w|, rho^2 = 2
    / pi, share 1/2.
    """
    n = 40_000
    job, _, found = readouts(
        make_spec(model="python:networks_for_tests:threshold", samples=n, responses=["label"])
    )
    label = found["label"]
    w = networks_for_tests.weights(1).numpy()[0]
    truth = job.stimulus.sd * np.sqrt(2 / np.pi) * w / np.linalg.norm(w)
    assert abs(label.share[1] - 0.5) < 5 * 0.5 / np.sqrt(n)
    # the noise's grid (1/29 sd) makes ties w.x = 0, which go to label 0: P(tie) < 0.01 shifts the
    # mean by < 1 % of itself
    for row, sign in ((1, 1), (0, -1)):
        error = job.stimulus.sd / np.sqrt(label.count[row])
        worst = (np.abs(label.bias[row] - sign * truth) / (error + 0.01 * np.abs(truth))).max()
        assert worst < 6, f"{worst} standard errors"
    assert label.rho2[1] == pytest.approx(2 / np.pi, abs=5 * 2 / np.sqrt(n) + 0.01)
    assert label.p_value[1] == 0.0
    assert label.reliability[1] > 0.999


def test_bias_maps_and_z_are_their_definitions(make_spec: MakeSpec) -> None:
    """From raw noise and labels, by the formulas of the field, in float64."""
    job, _, found = readouts(make_spec(responses=["label", "confidence"]))
    network = load_network(job.spec, "cpu")
    grid = job.stimulus.noise.grid(0, 2048)
    outputs = np.concatenate(
        [network(job.stimulus.images(grid[a : a + 64])) for a in range(0, 2048, 64)]
    )[:2000]
    x, labels = grid[:2000].reshape(2000, 16) * job.stimulus.unit, outputs.argmax(axis=1)
    p = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    p = np.rint((p / p.sum(axis=1, keepdims=True)).max(axis=1) * 65536) / 65536
    for k in range(3):
        for kind, weight in (("label", np.ones(2000)), ("confidence", p)):
            y = np.where(labels == k, weight, 0.0)
            mean = (y[:, None] * x).sum(axis=0) / y.sum() - x.mean(axis=0)
            z = ((y - y.mean())[:, None] * x).sum(axis=0) / (
                job.stimulus.sd * np.sqrt(((y - y.mean()) ** 2).sum())
            )
            assert found[kind].bias[k] == pytest.approx(mean, rel=1e-4, abs=1e-7)
            assert found[kind].z[k] == pytest.approx(z, rel=1e-4, abs=1e-4)
            assert found[kind].count[k] == (labels == k).sum()
            assert found[kind].p_value[k] == pytest.approx(
                stats.chi2.sf((z**2).sum(), 16), rel=1e-2
            )


def test_variance_maps_are_those_of_the_class(make_spec: MakeSpec) -> None:
    job, moments, _ = readouts(make_spec(responses=["label"], moments={"second": True}))
    network = load_network(job.spec, "cpu")
    grid = job.stimulus.noise.grid(0, 2048)
    labels = np.concatenate(
        [network(job.stimulus.images(grid[a : a + 64])) for a in range(0, 2048, 64)]
    )[:2000].argmax(axis=1)
    got = variance_maps(moments, "label", job.stimulus.unit, 3)
    for k in range(3):
        x = grid[:2000].reshape(2000, 16)[labels == k] * job.stimulus.unit
        assert got[k] == pytest.approx(x.var(axis=0), rel=1e-9)


def test_p_values_are_uniform_for_a_network_that_ignores_its_input(make_spec: MakeSpec) -> None:
    """300 whole null runs of different seeds: Kolmogorov-Smirnov, for labels and for logits.
    Fixed seeds, p > 0.001.
    """
    p: dict[str, list[float]] = {"label": [], "logits": []}
    rho2 = []
    for seed in range(300):
        spec = make_spec(
            model="python:networks_for_tests:deaf", seed=seed, samples=1024, numerics={"batch": 512}
        )
        _, _, found = readouts(spec)
        p["label"].append(float(found["label"].p_value[0]))
        p["logits"].append(float(found["logits"].p_value[0]))
        rho2.append(float(found["logits"].rho2[0]))
    for kind, values in p.items():
        test = stats.kstest(values, "uniform")
        assert test.pvalue > 0.001, f"{kind}: KS distance {test.statistic} of 300 null p-values"
    # unbiased: E rho2 = 0, sd of one run's sqrt(2 d) / N
    assert abs(np.mean(rho2)) < 5 * np.sqrt(2 * 16) / 1024 / np.sqrt(300)


@pytest.mark.parametrize(
    "kind, density, few",
    [("gaussian", None, 30), ("uniform", None, 30), ("binary", None, 50), ("sparse", 0.05, 832)],
)
def test_rare_labels_get_a_p_value_only_where_it_is_true(
    kind: Kind, density: float | None, few: int
) -> None:
    """Just above the least number of images, 1,000 null maps: the tail beyond 0.05 within 5
    binomial errors; below: no p-value.

    By hand: 30; kurtosis 2 / 0.04; kurtosis 17 x (3.47^3 - 3 x 3.47) / 24 x 3.73 / 0.1, with 3.73
    the density over the tail.
    """
    rng, noise = np.random.default_rng(1), Noise(kind, (1, 10, 10), 5, density)
    table = noise.table
    n, below, above = 20 * few, int(0.9 * few), int(1.15 * few) + 2
    assert fewest_images(table.excess_kurtosis, 100) == pytest.approx(few, rel=0.01)

    def null(grid: NDArray[np.int8], count: int) -> Readout:
        rows = np.zeros(n, dtype=np.int64)
        rows[rng.choice(n, count, replace=False)] = 1
        m = Moments.identity(100, ["label"]).update(
            grid, {"label": Selected(rows, np.ones(n, np.int64))}
        )
        return read_out(m, "label", FixedPoint((0, 0), (0, 0)), KnownNoise(table, 1.0), ["a", "b"])

    p = [null(noise.grid(trial * n, (trial + 1) * n), above).p_value[1] for trial in range(1000)]
    share = np.mean(np.array(p) < 0.05)
    assert abs(share - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 1000), (
        f"{share} of null p-values below 0.05"
    )
    rare = null(noise.grid(0, n), below)
    assert rare.note[1] == "too few images"
    assert np.isnan(rare.p_value[1])


def test_reliability_is_the_squared_cosine_with_the_truth() -> None:
    """400 maps of a weakly linear response: mean reliability = mean cos^2 with the true map,
    within 5 standard errors.
    """
    rng, d, n, trials = np.random.default_rng(2), 64, 2000, 400
    noise, truth = Noise("gaussian", (1, 8, 8), 9), np.random.default_rng(3).standard_normal(64)
    truth /= np.linalg.norm(truth)
    difference = []
    for trial in range(trials):
        grid = noise.grid(trial * n, (trial + 1) * n)
        x = grid.reshape(n, d) / 29
        moments, point = synthetic((0.3 * x @ truth + rng.standard_normal(n))[:, None], grid)
        found = read_out(moments, "logits", point, KnownNoise(noise.table, 1 / 29), ["y"])
        cosine = found.bias[0] @ truth / np.linalg.norm(found.bias[0])
        difference.append(found.reliability[0] - cosine**2)
    # The plug-in is a ratio: its bias is O(1 / ||z||^2) (about 1 / 240 here, Jensen), below which
    # it is not tested.
    error = np.std(difference) / np.sqrt(trials)
    assert abs(np.mean(difference)) < 5 * error + 1 / 240, f"{np.mean(difference)} +- {error}"


def test_closed_forms() -> None:
    z2 = np.array([784.0, 1000.0, 100.0])
    assert explained_variance(z2, 784, 1000).tolist() == [0.0, 0.216, -0.684]
    assert reliability(z2, 784).tolist() == [0.0, pytest.approx(0.216), 0.0]
    assert chi_square_p(np.array([2.0]), 2)[0] == pytest.approx(
        np.exp(-1.0)
    )  # two degrees of freedom: exp(-x / 2)
    t = z_threshold(784)
    assert 1 - (1 - 2 * stats.norm.sf(t)) ** 784 == pytest.approx(0.05)
    n = images_for(0.8, 1e-3, 784)
    assert n * 1e-3 / (n * 1e-3 + 784) == pytest.approx(0.8)
    assert images_for(0.8, -1.0, 784) == np.inf


def test_rows_without_a_map() -> None:
    """No images, every image, and no images at all: NaN and a note, never a number."""
    grid = Noise("gaussian", (1, 2, 2), 0).grid(0, 100)
    point = FixedPoint((0, 0, 0), (0, 0, 0))
    null = KnownNoise(Noise("gaussian", (1, 2, 2), 0).table, 1.0)
    m = Moments.identity(4, ["label"]).update(
        grid, {"label": Selected(np.ones(100, np.int64), np.ones(100, np.int64))}
    )
    got = read_out(m, "label", point, null, "abc")
    assert got.note == ("no images", "constant", "no images")
    for values in (got.rho2, got.p_value, got.reliability, got.z, got.bias[[0, 2]]):
        assert np.isnan(values).all()
    empty = read_out(
        Moments.identity(4, ["label"]).skip(nonfinite=100), "label", point, null, "abc"
    )
    assert empty.note == ("no images",) * 3
    assert np.isnan(empty.bias).all()


def test_probability_shares_are_mean_probabilities() -> None:
    grid = Noise("binary", (1, 2, 2), 0).grid(0, 4)
    values = np.array([[1, 3], [2, 2], [3, 1], [4, 0]]) << 20
    m = Moments.identity(4, ["probabilities"]).update(grid, {"probabilities": Dense(values)})
    got: Any = read_out(
        m,
        "probabilities",
        FixedPoint((-22, -22), (0, 0)),
        KnownNoise(Noise("binary", (1, 2, 2), 0).table, 1.0),
        "ab",
    )
    assert got.share.tolist() == [0.625, 0.375]
