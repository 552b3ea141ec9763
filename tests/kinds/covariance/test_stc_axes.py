"""Axes of finished runs: analytic ones, a peer library's, and their significance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import networks_for_tests
import numpy as np
import pyret.filtertools
import pytest
from quadratic_run import grid, responses
from scipy.stats import norm

from wna_ray import StcSpec, open_run, run, run_stc
from wna_ray.errors import RunError
from wna_ray.events import Event, RunStarted
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.covariance.passes import BLOCK_BITS, Pass, Residual, run_pass
from wna_ray.moments.counts import PassSums
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec
from wna_ray.statistics.covariance import held_out, matrices, spread

MakeSpec = Callable[..., Spec]


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
