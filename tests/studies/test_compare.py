"""Runs compared: against known weights, known correlations and known nulls, and what shared
noise does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from networks_for_tests import weights
from prepared import prepared, read
from typer.testing import CliRunner

from wna_ray import run
from wna_ray.cli import app
from wna_ray.errors import RunError
from wna_ray.kinds.average import figures
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec
from wna_ray.studies import compare_figures
from wna_ray.studies.compare import (
    Measured,
    correlate,
    correlations,
    images_needed,
    mean_correlations,
    projected,
    shares_noise,
)

MakeSpec = Callable[..., Spec]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of single runs are not looked at here."""
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {"maps.png": b"a figure"})


def measured(make_spec: MakeSpec, folder: Path, label: str, **changes: Any) -> Measured:
    return Measured.of(
        run(make_spec(responses=["logits"], **changes), str(folder / label), executor="local"),
        label,
        "logits",
    )


def test_two_linear_networks_correlate_as_their_weights_do(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """The maps of logits are the weight rows; within 4 standard errors."""
    runs = [
        measured(
            make_spec, tmp_path, f"n{i}", model=f"python:networks_for_tests:linear?seed={i}", seed=i
        )
        for i in range(3)
    ]
    truth = [weights(seed=i).numpy() for i in range(3)]
    table = correlations(runs).to_pylist()
    assert [(row["a"], row["b"], row["name"]) for row in table[::3]] == [
        ("n0", "n1", "0"),
        ("n0", "n2", "0"),
        ("n1", "n2", "0"),
    ]
    for row in table:
        i, j, k = int(row["a"][1]), int(row["b"][1]), int(row["name"])
        expected = np.corrcoef(truth[i][k], truth[j][k])[0, 1]
        assert abs(row["corrected"] - expected) < 4 * row["standard_error"], row
        assert row["standard_error"] < 0.06
        assert row["lift"] is None
    mean = mean_correlations(correlations(runs)).to_pylist()
    for row, at in zip(mean, range(0, 9, 3), strict=True):
        for column in ("r", "corrected", "standard_error"):
            assert row[column] == pytest.approx(np.mean([t[column] for t in table[at : at + 3]]))


def noisy(rho: float, d: int, signal: float, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps whose true correlation is `rho` exactly, each with energy `signal` in unit noise,
    and a mean that is none of their shape.
    """
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(2, d))
    basis -= basis.mean(axis=1, keepdims=True)
    basis[1] -= basis[0] * (basis[0] @ basis[1]) / (basis[0] @ basis[0])
    one, other = (v / np.linalg.norm(v) for v in basis)
    pair = one, rho * one + math.sqrt(1 - rho**2) * other
    a, b = (t * math.sqrt(signal) + 0.7 + rng.normal(size=(rows, d)) for t in pair)
    return a, b


@pytest.mark.parametrize(
    "rho, d, signal", [(0.6, 400, 800.0), (-0.3, 400, 400.0), (0.95, 200, 600.0), (0.0, 300, 300.0)]
)
def test_the_correction_recovers_the_truth_within_its_standard_error(
    rho: float, d: int, signal: float
) -> None:
    """Over 1,000 measurements of one pair: no bias beyond the second order of the delta method,
    and errors as large as is said.
    """
    n = 1000
    found = correlate(*noisy(rho, d, signal, n, seed=3))
    off = (found.corrected - rho) / found.standard_error
    spread = found.corrected.std()
    assert abs(found.corrected.mean() - rho) < 4 * spread / math.sqrt(n) + spread**2
    assert abs(off.std() - 1) < 4 / math.sqrt(2 * n) + 0.03, (
        "3 %: the error is taken at the estimate, not at the truth"
    )
    reliability = signal / (signal + d - 1)
    assert (
        abs(found.r.mean() - rho * reliability)
        < 4 * found.r.std() / math.sqrt(n) + found.r.std() ** 2
    ), "raw: attenuated"
    assert np.allclose(found.reliability_a.mean(), reliability, atol=0.02)
    assert np.allclose(
        found.r,
        [np.corrcoef(x, y)[0, 1] for x, y in zip(*noisy(rho, d, signal, n, seed=3), strict=True)],
    )


def test_z_of_networks_that_ignore_the_stimulus(make_spec: MakeSpec) -> None:
    """Two deaf networks of four outputs, 30 pairs of seeds: 120 z of variance 1, within 4
    standard errors; few beyond 1.96.
    """
    maps = []
    for seed in range(60):
        job, network = prepared(
            make_spec(
                model="python:networks_for_tests:deaf?k=4",
                responses=["activation"],
                seed=seed,
                samples=640,
            )
        )
        (readout,) = read(job, run_shard(job, network, 0, 640)[0])
        maps.append(readout.z)
    z = np.concatenate([correlate(a, b).z for a, b in zip(maps[::2], maps[1::2], strict=True)])
    assert len(z) == 120
    assert abs(z.mean()) < 4 / math.sqrt(120)
    assert abs(np.square(z).mean() - 1) < 4 * math.sqrt(2 / 120)
    assert (np.abs(z) > 1.96).mean() < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 120)


def test_shared_noise_lifts_correlations_up_to_the_bound() -> None:
    """Unlike maps whose errors are the very same: r is all lift, and nothing is corrected."""
    rng, d = np.random.default_rng(2), 400
    truth = math.sqrt(d) * np.linalg.qr(np.c_[np.ones(d), rng.normal(size=(d, 2))])[0].T[1:]
    same = rng.normal(size=(500, d))
    found = correlate(truth[0] + same, truth[1] + same, shared=True)
    assert found.r.mean() > 0.4, "though the true maps do not correlate"
    assert abs(found.r.mean() - found.lift.mean()) < 0.02
    assert np.isnan([found.corrected, found.standard_error, found.z]).all()
    other = correlate(truth[0] + same, truth[1] + rng.normal(size=(500, d)))
    assert (other.lift == 0).all()
    assert abs(other.r.mean()) < 4 * other.r.std() / math.sqrt(500), "as it should be"


def test_runs_that_share_a_seed_are_told(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Whatever family is made of the same bits."""
    one = measured(make_spec, tmp_path, "one")
    other = measured(make_spec, tmp_path, "other", stimulus={"kind": "uniform"})
    third = measured(make_spec, tmp_path, "third", seed=8)
    assert shares_noise([one, other, third]) == ["one", "other"]
    mean = mean_correlations(correlations([one, other, third])).to_pylist()
    assert [(row["lift"] is None, row["corrected"] is None) for row in mean] == [
        (False, True),
        (True, False),
        (True, False),
    ]


def test_the_projected_curve_against_the_measured_one(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A run with looks, and what its rho^2 lets expect at each: by the median of 40 rows, within 5
    standard errors of a single row.

    ``sd R = d sqrt(2 d + 4 S) / (d + S)^2`` where S is the map's signal; rows saw the same noise,
    so their median is hardly better.
    """
    d = 256
    found = measured(
        make_spec,
        tmp_path,
        "curve",
        model=f"python:networks_for_tests:slow?k=40&d={d}",
        stimulus={"shape": [1, 16, 16]},
        samples=2048,
        stop={"reliability": 0.999, "first": 64},
        moments={"halves": False},
    )
    assert found.looks is not None
    assert found.reliability is not None
    assert found.looks.tolist() == [64, 128, 256, 512, 1024, 2048]
    expected = np.median(projected(found.gain, found.looks), axis=0)
    for n, seen, wanted in zip(
        found.looks, np.median(found.reliability, axis=0), expected, strict=True
    ):
        signal = d * wanted / (1 - wanted)
        assert abs(seen - wanted) < 5 * d * math.sqrt(2 * d + 4 * signal) / (d + signal) ** 2, (
            n,
            seen,
            wanted,
        )
    (row,) = images_needed([found]).to_pylist()
    assert row["images_0.9"] == pytest.approx(9 * row["images_0.5"])
    assert row["images_0.5_low"] <= row["images_0.5"] <= row["images_0.5_high"]
    assert abs(row["images_0.5"] - d) < 0.25 * d, "a linear network: N rho^2 = d at half"
    medians = np.median(found.reliability, axis=0)
    assert row["look_0.5"] == found.looks[medians >= 0.5][0]
    assert (row["look_0.9"] is None) == bool(medians[-1] < 0.9)


def test_rows_without_maps_are_left_out() -> None:
    a, b = noisy(0.5, 100, 400.0, 3, seed=5)
    a[1] = np.nan
    base = Measured(
        "a",
        "logits",
        ("x", "y", "z"),
        a,
        np.array([1e-3, np.nan, 2e-3]),
        1000,
        1,
        "noise",
        (1, 10, 10),
        None,
        True,
    )
    runs = [base, replace(base, label="b", maps=b, seed=2)]
    (mean,) = mean_correlations(correlations(runs)).to_pylist()
    assert (mean["classes"], mean["corrected_classes"]) == (2, 2)
    weak = [replace(base, maps=0.9 * np.random.default_rng(0).normal(size=(3, 100))), runs[1]]
    (mean,) = mean_correlations(correlations(weak)).to_pylist()
    assert (mean["classes"], mean["corrected_classes"], mean["corrected"]) == (3, 0, None)
    dependent = correlations([replace(base, independent=False), runs[1]]).to_pylist()
    assert all(row["z"] is row["standard_error"] is None for row in dependent)
    assert images_needed([replace(base, gain=np.zeros(3))]).to_pylist()[0]["images_0.5"] is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other classes": ({"names": ("x", "y", "w")}, "answer with other classes (3: x, y, z"),
    "another grid": (
        {"grid": (1, 5, 20)},
        "have maps of other values: 1x10x10 and 1x5x20; give runs with the same stimulus.shape",
    ),
    "another spectrum": ({"spectrum": 1.0}, "1x10x10 and 1x10x10 (1/f^1)"),
}


@pytest.mark.parametrize("changes, words", REFUSED.values(), ids=REFUSED.keys())
def test_other_things_are_refused(changes: dict[str, Any], words: str) -> None:
    base = Measured(
        "a",
        "logits",
        ("x", "y", "z"),
        np.ones((3, 100)),
        np.ones(3),
        1000,
        1,
        "noise",
        (1, 10, 10),
        None,
        True,
    )
    with pytest.raises(RunError) as caught:
        correlations([base, replace(base, label="b", **changes)])
    assert words in str(caught.value)
    assert "--only-convergence" in str(caught.value)
    with pytest.raises(RunError, match="'a' is one run; give two or more"):
        correlations([base])


def wna(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_the_command(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A sweep and a run beside it; that they saw the same noise is said."""
    base = make_spec(samples=640).model_dump(mode="json", exclude_unset=True)
    nets = {
        f"net-{i}": {"model": f"python:networks_for_tests:linear?seed={i}", "seed": i}
        for i in range(2)
    }
    job, sweep, other, out = (tmp_path / name for name in ("job.yaml", "sweep", "other", "out"))
    job.write_text(yaml.safe_dump({"sweep": {"network": nets}} | base))
    assert wna("run", job, "--out", sweep, "--executor", "local").exit_code == 0
    run(make_spec(seed=1, samples=640), str(other), executor="local")
    got = wna("compare", sweep, other, "--kind", "logits", "--to", out)
    assert got.exit_code == 0, got.output
    assert "sweep/net-1, other saw the same noise (one seed)" in got.stderr
    assert "sweep/net-0" in got.stdout
    names = [
        "convergence.png",
        "correlations.parquet",
        "correlations.png",
        "images.parquet",
        "mean_correlations.parquet",
    ]
    assert sorted(p.name for p in out.iterdir()) == names
    table = pq.read_table(out / "mean_correlations.parquet").to_pylist()
    assert [(row["a"], row["b"]) for row in table] == [
        ("sweep/net-0", "sweep/net-1"),
        ("sweep/net-0", "other"),
        ("sweep/net-1", "other"),
    ]
    refused = wna("compare", sweep, "--kind", "activation", "--to", tmp_path / "x")
    assert refused.exit_code == 1
    assert "has no activation; it has label, logits" in refused.stderr


def test_the_command_refuses_other_images_but_for_their_convergence(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    other, wide, to = (tmp_path / name for name in ("other", "wide", "x"))
    run(make_spec(seed=1, samples=640), str(other), executor="local")
    run(make_spec(stimulus={"shape": [1, 2, 8]}, samples=640), str(wide), executor="local")
    asked = ("compare", other, wide, "--kind", "logits", "--to", to)
    refused = wna(*asked)
    assert (refused.exit_code, "1x4x4 and 1x2x8" in refused.stderr) == (1, True)
    only = wna(*asked, "--only-convergence")
    assert only.exit_code == 0, only.output
    assert sorted(p.name for p in to.iterdir()) == ["convergence.png", "images.parquet"]


def test_figures_are_a_function_of_what_they_show() -> None:
    a, b = noisy(0.5, 100, 400.0, 3, seed=5)
    base = Measured(
        "a$",
        "logits",
        ("x", "y", "z"),
        a,
        np.array([1e-3, 0.0, 2e-3]),
        1000,
        1,
        "gaussian noise, sd 1",
        (1, 10, 10),
        None,
        True,
    )
    runs = [base, replace(base, label="b", maps=b, seed=2)]
    mean = mean_correlations(correlations(runs))
    for draw in (
        lambda: compare_figures.matrix(runs, mean),
        lambda: compare_figures.convergence(runs),
    ):
        assert draw() == draw()
        assert draw().startswith(b"\x89PNG")
