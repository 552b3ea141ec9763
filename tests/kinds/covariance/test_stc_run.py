"""Covariances of finished runs: analytic axes, naive loops, a peer library; cut, resumed,
damaged.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks_for_tests
import numpy as np
import pyret.filtertools
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from started import start

from wna_ray import StcSpec, open_run, open_stc, run, run_stc
from wna_ray.canonical import canonical, sha256
from wna_ray.errors import RunError, SpecError
from wna_ray.events import Event, RunStarted, ShardDone, Stage
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.covariance.passes import (
    BLOCK_BITS,
    Pass,
    Residual,
    null_seeds,
    run_pass,
    strongest,
)
from wna_ray.moments.counts import PassSums
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.parse import read_spec
from wna_ray.specs.run import Spec
from wna_ray.statistics.covariance import held_out, matrices, spread
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.storage.arrays import to_npy
from wna_ray.storage.store import Place

MakeSpec = Callable[..., Spec]
QUADRATIC = {
    "model": "python:networks_for_tests:quadratic",
    "responses": ["activation"],
    "keep_responses": True,
}


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """20,000 images of the quadratic form, d = 16."""
    stimulus = {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0}
    spec = Spec.parse(
        QUADRATIC | {"stimulus": stimulus, "samples": 20_000, "seed": 3, "numerics": {"batch": 64}}
    )
    return run(spec, str(tmp_path_factory.mktemp("quadratic") / "run"), executor="local")


def grid(run: Run, seed: int | None = None) -> NDArray[np.float64]:
    """Noise of a run ``(N, d)``, or of another seed."""
    stimulus = (
        run.stimulus if seed is None else Stimulus(run.stimulus.spec, seed, run.stimulus.offset)
    )
    return (
        stimulus.noise.grid(0, run.moments.images)
        .reshape(run.moments.images, -1)
        .astype(np.float64)
    )


def responses(run: Run, kind: str = "activation") -> NDArray[np.int64]:
    return np.concatenate([stored.values[kind] for _, stored in run.stored()]).astype(np.int64)


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


def test_heavy_tails_hide_an_axis_that_clipping_shows(tmp_path: Path) -> None:
    """d = 784 values, 3,000 images, of which half are looked at (c = 0.52): the axis of a squared
    projection is inside the spectrum of the noise, which a few images stretch, and stands out where
    residuals are clipped: with a squared cosine of 0.36 in theory for many values.
    """
    stimulus = {"kind": "gaussian", "shape": [1, 28, 28], "space": "input", "scale": 1.0}
    asked = {
        "model": "python:networks_for_tests:squared",
        "responses": ["activation"],
        "keep_responses": True,
        "seed": 3,
    }
    spec = Spec.parse(asked | {"stimulus": stimulus, "samples": 3000, "numerics": {"batch": 50}})
    run(spec, str(tmp_path / "run"), executor="local")
    axis, p = networks_for_tests.quadratic_axes(784)[0].numpy(), {}
    for clip in (None, 2.0):
        ask = StcSpec(run=str(tmp_path / "run"), method="matrix-free", axes=4, passes=16, clip=clip)
        found = run_stc(ask, str(tmp_path / f"{clip}"), executor="local")
        cosines = np.square(found.pictures.reshape(-1, 784) @ axis)
        p[clip] = found.axes["p_value"].to_pylist()[0]
        assert (cosines.max() > 0.25) == (clip is not None), cosines
        assert (cosines.max() < 0.2) == (clip is None), cosines
    assert p[2.0] < 1e-12


def test_axes_of_few_answers_get_no_p_value(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Spikes of 2 % of 4,000 images are 40 in the half that tests: too few for a normal
    approximation; of half of them, enough.
    """
    for quantile, deserved in ((0.98, False), (0.5, True)):
        spikes = {"kind": "spikes", "quantile": quantile}
        spec = make_spec(
            model="python:networks_for_tests:direction",
            responses=[spikes],
            keep_responses=True,
            samples=4000,
        )
        run(spec, str(tmp_path / f"{quantile}"), executor="local")
        ask = StcSpec(run=str(tmp_path / f"{quantile}"), method="matrix-free", axes=2, passes=2)
        found = run_stc(ask, str(tmp_path / f"stc-{quantile}"), executor="local")
        assert [p is not None for p in found.axes["p_value"].to_pylist()] == [deserved] * 2
        assert None not in found.axes["distance"].to_pylist()
    rare = Residual.of(open_run(str(tmp_path / "0.98")), "spikes", 0, linear=False)
    block = np.rint(np.ldexp(np.eye(16)[:, :2], BLOCK_BITS))
    silent = held_out(
        PassSums(10, 0, PassSums.zeros(1, 16, 0, 2)), block, rare.shift, 1.0, 3.0, 0.0
    )
    assert np.isnan(silent.p_value).all(), "a half in which the response never varied"
    assert np.array_equal(silent.vectors, np.eye(16)[:2])


def test_a_half_without_answers(make_spec: MakeSpec, tmp_path: Path) -> None:
    """One batch of 64 leaves no odd half to test on; one spike of an odd batch leaves no even
    half to look in.
    """
    base = {"model": "python:networks_for_tests:direction", "keep_responses": True}
    run(
        make_spec(**base, responses=["activation"], samples=64),
        str(tmp_path / "one"),
        executor="local",
    )
    ask = {"method": "matrix-free", "axes": 2, "passes": 2}
    found = run_stc(
        StcSpec.parse(ask | {"run": str(tmp_path / "one")}), str(tmp_path / "stc"), executor="local"
    )
    assert found.axes["p_value"].null_count == found.axes["eigenvalue"].null_count == 2
    spikes = make_spec(**base, responses=[{"kind": "spikes", "threshold": 3.8}], samples=2000)
    rare = run(spikes, str(tmp_path / "rare"), executor="local")
    at = np.flatnonzero(responses(rare, "spikes")[:, 0])
    assert (at // 64 % 2).tolist() == [1], "one spike, of an odd batch"
    with pytest.raises(RunError, match="in its even batches 0 never varied"):
        run_stc(
            StcSpec.parse(ask | {"run": str(tmp_path / "rare"), "linear": False}),
            str(tmp_path / "none"),
            executor="local",
        )


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


def test_axes_of_a_quadratic_form(quadratic: Run, tmp_path: Path) -> None:
    """E[r (xx' - 1)] of ``q1^2 - 0.7 q2^2`` (the linear part taken out) has eigenvalues 2 / sd and
    -1.4 / sd, sd^2 = 2 + 0.98.

    Standard error at most sqrt(60 / N) / ... : the sixth moment of a Gaussian projection is 15, so
    Var < 60 / N; 6 of them are allowed.
    """
    found = run_stc(
        StcSpec(run=quadratic.directory.url, fresh=39, axes=4),
        str(tmp_path / "stc"),
        executor="local",
    )
    rows, truth, sd = (
        found.axes.to_pylist(),
        networks_for_tests.quadratic_axes(16).numpy(),
        math.sqrt(2.98),
    )
    allowed = 6 * math.sqrt(60 / 20_000)
    assert abs(rows[0]["eigenvalue"] - 2 / sd) < allowed
    assert abs(rows[1]["eigenvalue"] + 1.4 / sd) < allowed
    assert [row["p_value"] <= 0.05 for row in rows] == [True, True, False, False]
    assert min(rows[0]["distance"], rows[1]["distance"]) > 10 > abs(rows[2]["distance"])
    assert rows[0]["explained"] + rows[1]["explained"] == pytest.approx(1, abs=0.1)
    pictures = found.pictures.reshape(4, 16)
    assert (np.abs((pictures[:2] * truth[:2]).sum(axis=1)) > 0.99).all()
    assert (
        (found.spectra[0] > rows[0]["high_edge"]).sum(),
        (found.spectra[0] < rows[0]["low_edge"]).sum(),
    ) == (1, 1)
    assert found.directory.verify() == []


def test_a_layer_of_rectifiers_has_its_average_hessian(make_spec: MakeSpec, tmp_path: Path) -> None:
    """``E[f (xx' - 1)] = E[Hessian f]`` (Stein), which for rectifiers, whose own Hessian is zero,
    is ``sum a phi(b / |w|) / |w| w w'``.

    136 entries of each of two units, each within 6 standard errors that 20 parts of the run tell (t
    with 19 degrees of freedom: a chance of 2e-5 each is 0.003 for all 272).
    """
    spec = make_spec(
        model="python:networks_for_tests:relus",
        responses=["activation"],
        keep_responses=True,
        samples=64_000,
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    w, b, a = (t.numpy().astype(float) for t in networks_for_tests.relu_parts())
    size = np.linalg.norm(w, axis=1)
    truth = np.einsum("kj,jd,je->kde", a * norm.pdf(b / size) / size, w, w)
    point, variance = finished.points["activation"], float(finished.stimulus.noise.table.variance)
    for row in range(2):
        unit = Residual.of(finished, "activation", row, linear=True)
        job = Pass(finished.directory.store.place, "", "activation", (unit,))
        parts = []
        for low in range(0, 64_000, 3200):
            sums, _ = run_pass(job, finished, low, low + 3200)
            parts.append(
                matrices(sums, 0, variance)[0]
                * spread(sums, 0)[1]
                * 2.0**-unit.fine
                * point.step[row]
            )
        mean, error = np.mean(parts, axis=0), np.std(parts, axis=0, ddof=1) / math.sqrt(len(parts))
        assert (np.abs(mean - truth[row]) / error).max() < 6, row
        assert np.linalg.norm(mean - truth[row]) < 0.1 * np.linalg.norm(truth[row])


def test_the_linear_part_is_noise_to_the_covariance(quadratic: Run, tmp_path: Path) -> None:
    """With it, the same axes stand out less: the residual's variance is 2.98, the whole
    response's 6.98.
    """
    sharp, blunt = (
        run_stc(
            StcSpec(run=quadratic.directory.url, fresh=9, axes=1, linear=linear),
            str(tmp_path / f"{linear}"),
            executor="local",
        )
        for linear in (True, False)
    )
    a, b = (one.axes["eigenvalue"][0].as_py() for one in (sharp, blunt))
    assert a / b == pytest.approx(math.sqrt(6.98 / 2.98), rel=0.05)


def test_responses_along_the_axes(quadratic: Run, tmp_path: Path) -> None:
    """Every bin against the images sorted by hand; and the shape: a line along the STA, a parabola
    along the first axis.

    Along its axis the mean response is p^2 - 0.7 (the other axis's mean), within 5 of its standard
    errors (25 bins, a bin's own curvature adds h^2 / 12 = 0.005).
    """
    found = run_stc(
        StcSpec(run=quadratic.directory.url, fresh=3, axes=2),
        str(tmp_path / "stc"),
        executor="local",
    )
    rows = found.profiles.to_pylist()
    x, point = (
        grid(quadratic) / math.sqrt(float(quadratic.stimulus.noise.table.variance)),
        quadratic.points["activation"],
    )
    y = (responses(quadratic)[:, 0] + point.centre[0]) * point.step[0]
    sta = quadratic.readouts[0].bias[0]
    axes = {
        None: sta / np.linalg.norm(sta),
        0: found.pictures[0].ravel(),
        1: found.pictures[1].ravel(),
    }
    assert len(rows) == 3 * 26
    for row in rows:
        inside = np.abs(x @ axes[row["axis"]] - row["projection"]) <= 0.125
        assert abs(row["count"] - inside.sum()) <= 3, (
            "pictures are float32: an image at an edge may fall on its other side"
        )
        if row["count"] > 100:
            assert row["response"] == pytest.approx(y[inside].mean(), abs=0.05)
            assert row["standard_error"] == pytest.approx(
                y[inside].std() / math.sqrt(row["count"]), rel=0.1
            )
        if row["axis"] == 0 and row["count"] > 30:
            assert (
                abs(row["response"] - (row["projection"] ** 2 - 0.7))
                < 5 * row["standard_error"] + 0.1
            )
        if row["axis"] is None and row["count"] > 30:
            assert (
                abs(row["response"] - (2 * row["projection"] + 0.3))
                < 5 * row["standard_error"] + 0.1
            )


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


def test_matrix_free_finds_and_tests_the_axes(quadratic: Run, tmp_path: Path) -> None:
    """Eigenvalues of axes that were found on other images are unbiased; p-values are Sidak's
    over the four tested.
    """
    spec = StcSpec(run=quadratic.directory.url, method="matrix-free", axes=4, passes=3)
    events: list[Event] = []
    found = run_stc(spec, str(tmp_path / "stc"), executor="local", callbacks=[events.append])
    rows, truth = found.axes.to_pylist(), networks_for_tests.quadratic_axes(16).numpy()
    assert (np.abs((found.pictures.reshape(4, 16)[:2] * truth[:2]).sum(axis=1)) > 0.98).all()
    allowed = 6 * math.sqrt(60 / 10_000)
    assert abs(rows[0]["eigenvalue"] - 2 / math.sqrt(2.98)) < allowed
    assert abs(rows[1]["eigenvalue"] + 1.4 / math.sqrt(2.98)) < allowed
    assert rows[0]["standard_error"] == pytest.approx(
        math.sqrt(2 / 10_000), rel=0.02
    )  # Gaussian: 2 / N of the odd half
    assert rows[0]["p_value"] < 1e-100
    assert rows[2]["p_value"] > 0.001
    assert found.directory.verify() == []
    assert [RunDirectory(str(tmp_path / "stc" / f"pass-{i:02d}")).verify() for i in (1, 2, 3)] == [
        [],
        [],
        [],
    ]
    assert sum(isinstance(e, RunStarted) for e in events) == 5, (
        "three to find, one to test, one for the response along the axes"
    )


def test_held_out_p_values_are_uniform_under_the_null(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A network whose answers nothing of second order explains: over 500 stretches, false
    alarms within 4 binomial errors of 5 %.
    """
    spec = make_spec(
        model="python:networks_for_tests:deaf",
        responses=["activation"],
        keep_responses=True,
        samples=64_000,
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    unit, table = Residual.of(finished, "activation", 0, linear=True), finished.stimulus.noise.table
    axes = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 3)))[0]
    block = np.rint(np.ldexp(axes, BLOCK_BITS))
    job = Pass(finished.directory.store.place, "", "activation", (unit,), block=block)
    alarms = 0
    for a in range(0, 64_000, 128):
        sums, _ = run_pass(job, finished, a, a + 128)
        alarms += (
            held_out(
                sums, block, unit.shift, float(table.variance), float(table.moment(4)), 128
            ).p_value[0]
            <= 0.05
        )
    assert abs(alarms / 500 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 500), alarms


def test_spikes_against_an_independent_library(make_spec: MakeSpec, tmp_path: Path) -> None:
    """pyret on the same stimuli: its STA, and its covariance with the mean put back, are ours.

    pyret skips the first and the last sample, and divides by all spikes; it takes its STA one
    sample early to centre the covariance, which is undone here with its own STA of that delay.
    """
    spec = make_spec(
        responses=[{"kind": "spikes", "threshold": 0.5}], keep_responses=True, samples=1920
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    x, y = grid(finished), responses(finished, "spikes")[:, 0]
    n = int(y.sum())
    inner = y.astype(bool).copy()
    inner[[0, -1]] = False
    time = np.arange(len(x) + 1, dtype=float)
    spikes = np.flatnonzero(y) + 0.5
    sta, _ = pyret.filtertools.sta(time, x, spikes, 0, 1)
    ours = finished.readouts[0].bias[0] / finished.stimulus.unit + x.mean(
        axis=0
    )  # the mean of all was taken off
    edge = (x[y.astype(bool)].sum(axis=0) - x[inner].sum(axis=0)) / n
    assert np.allclose(sta[0] + edge, ours, atol=1e-9)
    early = pyret.filtertools.sta(time, x, spikes, 1)[0].ravel()
    theirs = pyret.filtertools.stc(time, x, spikes, 0, 1) + np.outer(early, early)
    unit = Residual.of(finished, "spikes", 0, linear=False)
    sums, _ = run_pass(
        Pass(finished.directory.store.place, "", "spikes", (unit,)), finished, 0, 1920
    )
    raw = (
        np.ldexp(sums.sums["rxx"][0, 0].astype(float), -unit.fine) + unit.mean * x.T @ x
    )  # sum y x x'
    outside = x[y.astype(bool)].T @ x[y.astype(bool)] - x[inner].T @ x[inner]
    assert np.allclose(theirs, (raw - outside) / n, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_the_informative_axis_of_a_threshold(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Spikes where ``q'x > 1``: along q their mean is h = phi(1) / Phi(-1) and their variance 1 + h
    - h^2, elsewhere 0 and 1.

    So one axis tells (h^2 + s - log s - 1) / 2 nats. About 3,000 spikes: variances are known to
    sqrt(2 / 3,000) each, which makes the second axis, the best of 15 by chance, tell less than
    0.01.
    """
    model = {
        "model": "python:networks_for_tests:direction",
        "responses": [{"kind": "spikes", "threshold": 1.0}, "rectified", "activation"],
    }
    finished = run(
        make_spec(**model, keep_responses=True, samples=20_032),
        str(tmp_path / "run"),
        executor="local",
    )
    found = run_stc(
        StcSpec(run=finished.directory.url, linear=False, fresh=0, axes=1),
        str(tmp_path / "stc"),
        executor="local",
    )
    axes, told = found.informative_axes(finished, "0", 2)
    h = norm.pdf(1) / norm.sf(1)
    s = 1 + h - h**2
    assert abs(axes[0] @ networks_for_tests.quadratic_axes(16)[0].numpy()) > 0.995
    assert told[0] == pytest.approx((h**2 + s - math.log(s) - 1) / 2, rel=0.05)
    assert told[1] - told[0] < 0.01
    # Rectified: weights E[r x^2] / E[r] along q of a half-normal: mean sqrt(pi / 2), mean square 2.
    other = StcSpec(run=finished.directory.url, response="rectified", linear=False, fresh=0, axes=1)
    axes, told = run_stc(other, str(tmp_path / "rectified"), executor="local").informative_axes(
        finished, "0", 1
    )
    m, s = math.sqrt(math.pi / 2), 2 - math.pi / 2
    assert told[0] == pytest.approx((m**2 + s - math.log(s) - 1) / 2, rel=0.05)
    for how, words in (
        ({"response": "activation", "linear": False}, "here: activation"),
        ({}, "linear: True"),
    ):
        refused = run_stc(
            StcSpec(run=finished.directory.url, fresh=0, axes=1, **how),
            str(tmp_path / words[-4:]),
            executor="local",
        )
        with pytest.raises(RunError, match=words):
            refused.informative_axes(finished, "0", 1)
    with pytest.raises(RunError, match="has no unit 'x'"):
        found.informative_axes(finished, "x", 1)


def test_labels_have_covariances_too(make_spec: MakeSpec, tmp_path: Path) -> None:
    finished = run(
        make_spec(responses=["label", "confidence"], keep_responses=True),
        str(tmp_path / "run"),
        executor="local",
    )
    x = grid(finished)
    for kind, row in (("label", 2), ("confidence", 1)):
        stored = responses(finished, kind)
        y = np.where(stored[:, 0] == row, stored[:, 1] if kind == "confidence" else 1, 0)
        unit = Residual.of(finished, kind, row, linear=False)  # type: ignore[arg-type]
        sums, _ = run_pass(
            Pass(finished.directory.store.place, "", kind, (unit,)), finished, 0, 2000
        )  # type: ignore[arg-type]
        r = np.rint(np.ldexp(y - y.mean(), unit.fine))
        assert np.array_equal(sums.sums["rxx"][0, 0], ((x * r[:, None]).T @ x).astype(np.int64))


@pytest.mark.ray
def test_ray_and_this_process_give_the_same_bytes(quadratic: Run, tmp_path: Path) -> None:
    for method in ("dense", "matrix-free"):
        spec = StcSpec(
            run=quadratic.directory.url,
            method=method,
            fresh=3,
            axes=2,
            passes=2,
            execution={"shard": 640, "segments": 5},
        )  # type: ignore[arg-type]
        here = run_stc(spec, str(tmp_path / f"local-{method}"), executor="local")
        there = run_stc(spec, str(tmp_path / f"ray-{method}"), executor="ray", workers=2)
        a, b = (
            {k: v["sha256"] for k, v in one._manifest["objects"].items() if k.startswith("result/")}
            for one in (here, there)
        )
        assert a == b


def test_a_stopped_covariance_goes_on(quadratic: Run, tmp_path: Path) -> None:
    """Segments that are there are not computed again; the result is that of an undisturbed one."""
    spec = StcSpec(run=quadratic.directory.url, fresh=3, execution={"shard": 640, "segments": 10})  # type: ignore[arg-type]
    whole = run_stc(spec, str(tmp_path / "whole"), executor="local")
    run_stc(spec, str(tmp_path / "cut"), executor="local")
    (tmp_path / "cut" / "MANIFEST.json").unlink()
    for victim in sorted((tmp_path / "cut" / "segments").iterdir())[3:7]:
        victim.unlink()
    events: list[Event] = []
    again = run_stc(spec, str(tmp_path / "cut"), executor="local", callbacks=[events.append])
    assert sum(e.stop - e.start for e in events if isinstance(e, ShardDone)) == 4 * 2048 < 20_000
    assert again._manifest == whole._manifest
    with pytest.raises(
        RunError, match=r"holds a run of another spec; what differs.*\n  fresh: 3 -> 4"
    ):
        run_stc(spec.model_copy(update={"fresh": 4}), str(tmp_path / "cut"), executor="local")


def test_a_killed_driver_of_a_covariance(quadratic: Run, tmp_path: Path) -> None:
    """kill -9 in the middle of it; the same command goes on to the same result."""
    spec = StcSpec(
        run=quadratic.directory.url, fresh=400, axes=1, execution={"shard": 64, "segments": 60}
    )  # type: ignore[arg-type]
    process = start(tmp_path, spec, "--executor", "local")  # type: ignore[arg-type]
    while len(list((tmp_path / "run" / "segments").glob("*.npz"))) < 3:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    events: list[Event] = []
    found = run_stc(spec, str(tmp_path / "run"), executor="local", callbacks=[events.append])
    started = next(e for e in events if isinstance(e, RunStarted))
    assert 0 < started.done < 20_000
    assert found.directory.verify() == []
    assert found.axes["p_value"][0].as_py() == 2 / 401


def test_damage_is_found(quadratic: Run, tmp_path: Path) -> None:
    run_stc(
        StcSpec(run=quadratic.directory.url, fresh=1, axes=1),
        str(tmp_path / "stc"),
        executor="local",
    )
    victim = tmp_path / "stc" / "result" / "axes.npy"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    assert [fault.split(":")[0] for fault in RunDirectory(str(tmp_path / "stc")).verify()] == [
        "result/axes.npy is damaged"
    ]
    with pytest.raises(RunError, match=r"axes\.npy is damaged: it is not what the manifest lists"):
        _ = open_stc(str(tmp_path / "stc")).pictures
    with pytest.raises(
        RunError, match=r"is a covariance, not a run; open it with wna_ray\.open_stc"
    ):
        open_run(str(tmp_path / "stc"))
    with pytest.raises(RunError, match="is a run, not a covariance"):
        open_stc(quadratic.directory.url)


MATRIX_FREE = {"method": "matrix-free", "axes": 2, "passes": 1}
OBJECTS = {"spec.json", "environment.json", "result/moments.npz"}
OF_ALL = OBJECTS | {"result/axes.npy", "result/axes.parquet", "result/profiles.parquet"}


@pytest.mark.parametrize(
    "ask, own",
    [({"fresh": 1, "axes": 1}, "result/spectra.npy"), (MATRIX_FREE, "block.npy")],
    ids=["dense", "matrix-free"],
)
def test_a_covariance_must_list_what_it_has(
    quadratic: Run, tmp_path: Path, ask: dict[str, Any], own: str
) -> None:
    out = tmp_path / "stc"
    run_stc(StcSpec.parse({"run": quadratic.directory.url} | ask), str(out), executor="local")
    for folder, names in ((out, OF_ALL | {own}), (out / "profile", OBJECTS)):
        directory = RunDirectory(str(folder))
        manifest = directory.manifest()
        assert manifest is not None
        assert {name for name in manifest["objects"] if "figures" not in name} == names
        assert directory.verify() == []
        for name in names:
            objects = {n: entry for n, entry in manifest["objects"].items() if n != name}
            (folder / "MANIFEST.json").write_text(json.dumps(manifest | {"objects": objects}))
            assert any(f"does not list {name}" in fault for fault in directory.verify()), name


def forge(out: Path, name: str, data: bytes) -> None:
    """Other bytes under a name, and their digest in the manifest."""
    (out / name).write_bytes(data)
    manifest = json.loads((out / "MANIFEST.json").read_text())
    manifest["objects"][name] = {"bytes": len(data), "sha256": sha256(data)}
    (out / "MANIFEST.json").write_text(json.dumps(manifest))


def test_a_block_must_fit_the_sums(quadratic: Run, tmp_path: Path) -> None:
    out = tmp_path / "stc"
    run_stc(
        StcSpec.parse({"run": quadratic.directory.url} | MATRIX_FREE), str(out), executor="local"
    )
    forge(out, "block.npy", to_npy(np.zeros((16, 3))))
    assert RunDirectory(str(out)).verify() == ["block.npy is not the block that spec.json tells of"]


@pytest.mark.parametrize("shape", [(1 << 40, 0), (16,), (2, 1, 4, 4)])
def test_pictures_that_are_none_are_refused(
    quadratic: Run, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    out = tmp_path / "stc"
    run_stc(StcSpec(run=quadratic.directory.url, fresh=1, axes=1), str(out), executor="local")
    forge(out, "result/axes.npy", to_npy(np.zeros(shape, np.float32)))
    with pytest.raises(
        RunError, match=r"axes.npy is damaged \(float32 of shape .*, not 1 pictures of float32\)"
    ):
        _ = open_stc(str(out)).pictures


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda spec: spec.pop("spec"), "spec: Field required"),
        (
            lambda spec: spec["spec"].update(linear=False),
            "its spec and its identity differ in method",
        ),
        (lambda spec: spec["spec"].update(seed=5), "its spec and its identity differ in seed"),
        (lambda spec: spec["identity"].pop("run"), "its spec and its identity differ in run"),
        (lambda spec: spec.update(names=["a", "b"]), "it names 2 units, not 1"),
    ],
    ids=["no spec", "linear", "seed", "run", "names"],
)
def test_a_spec_of_a_covariance_is_looked_at(
    quadratic: Run, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    out = tmp_path / "stc"
    run_stc(StcSpec(run=quadratic.directory.url, fresh=1, axes=1), str(out), executor="local")
    spec = json.loads((out / "spec.json").read_text())
    spec.pop("digest")
    change(spec)
    spec["fingerprint"] = sha256(canonical(spec["identity"]).encode())
    forge(
        out, "spec.json", json.dumps(spec | {"digest": sha256(canonical(spec).encode())}).encode()
    )
    for call in (RunDirectory(str(out)).verify, lambda: open_stc(str(out))):
        with pytest.raises(RunError, match=words):
            call()


@pytest.mark.parametrize(
    "ask, words",
    [
        ({"response": "logits"}, "has no logits; it has activation"),
        ({"units": ["7"]}, "has no '7'; it has 0"),
        ({"run": "/nowhere"}, "no run at '/nowhere'"),
    ],
)
def test_questions_that_have_no_answer(
    quadratic: Run, tmp_path: Path, ask: dict[str, Any], words: str
) -> None:
    with pytest.raises((SpecError, RunError)) as caught:
        run_stc(
            StcSpec.parse({"run": quadratic.directory.url, **ask}),
            str(tmp_path / "stc"),
            executor="local",
        )
    assert words in str(caught.value)


def test_runs_that_cannot_be_asked(make_spec: MakeSpec, tmp_path: Path) -> None:
    def ask(name: str, spec: Spec, **how: Any) -> str:
        finished = run(spec, str(tmp_path / name), executor="local")
        with pytest.raises((SpecError, RunError)) as caught:
            run_stc(
                StcSpec.parse({"run": finished.directory.url, **how}),
                str(tmp_path / f"{name}-stc"),
                executor="local",
            )
        assert not (tmp_path / f"{name}-stc").exists()
        return str(caught.value)

    assert "run its spec with keep_responses: true" in ask("none", make_spec())
    kept = {"keep_responses": True, "samples": 128}
    assert "matrix-free takes one unit at a time, got 3" in ask(
        "many", make_spec(**kept, responses=["logits"]), method="matrix-free"
    )
    large = make_spec(
        **kept,
        stimulus={"shape": [1, 65, 65]},
        model="python:networks_for_tests:slow?d=4225",
        responses=["logits"],
    )
    assert "dense is for up to 4,096 values an image" in ask("large", large)
    padded = {"model": "python:networks_for_tests:padded", "stimulus": {"shape": [2, 20, 24]}}
    pooled = make_spec(
        **kept, **padded, target={"layer": "second", "position": "pooled"}, responses=["activation"]
    )
    assert "pools positions whose patches overlap" in ask("pooled", pooled)
    silent = make_spec(**kept, **padded, target={"layer": "silent"}, responses=["activation"])
    assert "the activation of '0' never varied" in ask("silent", silent)
    many = make_spec(
        **kept,
        stimulus={"shape": [1, 60, 60]},
        model="python:networks_for_tests:slow?d=3600",
        responses=["logits"],
    )
    assert "take fewer units, fewer fresh streams, or method: matrix-free" in ask(
        "memory", many, fresh=1000
    )


def test_other_noise_is_warned_of(make_spec: MakeSpec, tmp_path: Path) -> None:
    finished = run(
        make_spec(stimulus={"kind": "binary"}, keep_responses=True),
        str(tmp_path / "run"),
        executor="local",
    )
    events: list[Event] = []
    spec = StcSpec(run=finished.directory.url, response="logits", fresh=1, axes=1)
    found = run_stc(spec, str(tmp_path / "stc"), executor="local", callbacks=[events.append])
    (told,) = [e.name for e in events if isinstance(e, Stage) and "not Gaussian" in e.name]
    assert "binary noise is not Gaussian: its kurtosis makes axes along single values" in told
    assert found.axes["explained"].null_count == len(found.axes)


def test_a_file_that_names_a_run_asks_for_its_covariance(tmp_path: Path) -> None:
    path = tmp_path / "stc.yaml"
    path.write_text("run: s3://bucket/run\nunits: [3, x]\nfresh: 19\n")
    spec = read_spec(path, {"axes": 3})
    assert isinstance(spec, StcSpec)
    assert (spec.units, spec.fresh, spec.axes) == (("3", "x"), 19, 3)
    path.write_text("run: x\nfres: 19\n")
    with pytest.raises(
        SpecError, match="fres: unknown key; known here are run, model, response, units"
    ):
        read_spec(path)


def test_a_pass_lies_where_its_parent_does(quadratic: Run, tmp_path: Path) -> None:
    spec = StcSpec(run=quadratic.directory.url, method="matrix-free", axes=2, passes=1)
    run_stc(spec, f"{tmp_path}/stc/", executor="local", single_writer=True)
    assert sorted(p.name for p in (tmp_path / "stc").iterdir() if p.is_dir()) == [
        "drivers",
        "events",
        "pass-01",
        "profile",
        "result",
        "segments",
    ]
    assert Place(f"{tmp_path}/stc") is not None
