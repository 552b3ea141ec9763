"""Backdoors in finished runs, by the command line: the tables, the truth of a panel, and what
is refused.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import made_up_digits
import numpy as np
import pyarrow.parquet as pq
import pytest
from crafted_runs import respec
from typer.testing import CliRunner, Result

from wna_ray import run
from wna_ray.cli import app
from wna_ray.data.poison import PATTERNS
from wna_ray.errors import RunError, SpecError
from wna_ray.kinds.average import figures
from wna_ray.kinds.average.run import Run
from wna_ray.specs.run import Spec
from wna_ray.statistics.patches import patch_scores, suspicion
from wna_ray.storage.store import Place
from wna_ray.studies.backdoor import (
    examine,
    judged,
    patch_of,
    patch_pixels,
    poison_of,
    readout_of,
    runs_in,
)
from wna_ray.training.job import train
from wna_ray.training.spec import TrainSpec

NOISE = {"kind": "gaussian", "shape": [1, 28, 28], "offset": 0.3, "scale": 0.3}


def noise(model: str, **changes: object) -> Spec:
    base = {
        "model": model,
        "stimulus": NOISE,
        "responses": ["label", "logits"],
        "samples": 512,
        "numerics": {"batch": 128},
    }
    return Spec.parse(base | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``panel/``: runs of three clean networks and two poisoned ones; ``gradient``: one of them
    by gradients. All without figures.
    """
    root = tmp_path_factory.mktemp("backdoor")
    with pytest.MonkeyPatch.context() as patch:
        made_up_digits.install(patch)
        patch.setattr(figures, "draw", lambda *_: {})
        spec = {
            "network": "logistic",
            "dataset": "mnist",
            "epochs": 2,
            "validation": 0,
            "panel": {"clean": 3, "poisoned": 2, "seed": 1},
        }
        for name in train(TrainSpec.parse(spec), str(root / "nets"), executor="local"):
            run(
                noise(f"trained:{root / 'nets' / name}"),
                str(root / "panel" / name),
                executor="local",
            )
        gradient = noise(
            f"trained:{root / 'nets' / 'clean-00'}", responses=["logits"], estimator="gradient"
        )
        run(gradient, str(root / "gradient"), executor="local")
        run(noise("bundled:mnist-cnn", samples=256), str(root / "other"), executor="local")
        units = noise(
            f"trained:{root / 'nets' / 'clean-00'}", samples=256, stimulus=NOISE | {"cell": 2}
        )
        run(units, str(root / "cells"), executor="local")
    return root


def wna(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["backdoor", *map(str, arguments)])


def test_runs_are_found_with_the_truth(folder: Path) -> None:
    runs = runs_in(Place(str(folder / "panel")))
    assert list(runs) == ["clean-00", "clean-01", "clean-02", "poisoned-00", "poisoned-01"]
    nets = Place(str(folder / "nets"))
    assert [poison_of(r, nets) is None for r in runs.values()] == [True, True, True, False, False]
    assert list(runs_in(Place(str(folder / "panel" / "clean-01")))) == ["clean-01"]
    with pytest.raises(RunError, match="holds no finished run"):
        runs_in(Place(str(folder / "nowhere")))
    with pytest.raises(RunError, match="the truth is known of networks that wna train has trained"):
        poison_of(Run(str(folder / "other")), nets)


def test_the_truth_is_of_the_very_network_and_from_the_folder_that_was_named(
    folder: Path, tmp_path: Path
) -> None:
    one = Run(str(folder / "panel" / "clean-01"))
    shutil.copytree(folder / "nets" / "poisoned-00", tmp_path / "clean-01")
    with pytest.raises(RunError, match="is of a network with other weights than"):
        poison_of(one, Place(str(tmp_path)))
    with pytest.raises(RunError, match="cannot be told"):
        poison_of(one, Place(str(tmp_path / "nowhere")))


def test_a_panel_from_a_stranger_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "panel" / "clean-00", tmp_path / "panel" / "a")
    os.mkfifo(tmp_path / "network.json")  # whoever opened it would wait for ever
    respec(tmp_path / "panel" / "a", lambda spec: spec["spec"].update(model=f"trained:{tmp_path}"))
    for networks in ((), ("--networks", folder / "nets")):
        got = wna("--panel", tmp_path / "panel", *networks, "--to", tmp_path / "out")
        assert got.exit_code == 2 - bool(networks), got.stderr
    assert "whether its network is poisoned cannot be told" in got.stderr


def test_examining_is_the_search_of_the_runs_maps(folder: Path) -> None:
    runs = runs_in(Place(str(folder / "panel")))
    clean = {name: r for name, r in runs.items() if name.startswith("clean")}
    found = examine(
        runs,
        clean,
        truth={name: poison_of(r, Place(str(folder / "nets"))) for name, r in runs.items()},
    )
    z = {
        name: next(x for x in r.readouts if x.kind == "logits").z.reshape(10, 1, 28, 28)
        for name, r in runs.items()
    }
    for one in found:
        expected = suspicion(z[one.name], np.stack([z[name] for name in clean if name != one.name]))
        assert one.suspicion.score == expected.score
        assert (one.suspicion.window, one.suspicion.response) == (
            expected.window,
            expected.response,
        )
    assert one.verdict == "no verdict: 3 clean networks cannot give p <= 0.05, 19 or more can"
    worth = judged(found)
    assert (worth.found.trials, worth.alarms.trials, worth.alarms.hits) == (2, 3, 0)
    with pytest.raises(RunError, match="the panel cannot be judged"):
        judged(found[:3])


def test_a_known_patch_in_every_row(folder: Path) -> None:
    one = Run(str(folder / "panel" / "poisoned-00"))
    found = patch_of(one, PATTERNS["C"])
    assert [r.kind for r, _ in found] == ["label", "logits"]
    for readout, scores in found:
        expected = patch_scores(readout.z.reshape(10, 1, 28, 28), PATTERNS["C"])
        assert np.array_equal(scores.z, expected.z, equal_nan=True)
        noted = np.array([bool(note) for note in readout.note])
        assert np.array_equal(np.isnan(scores.p_value), noted)
    with pytest.raises(SpecError, match="--patch: not within the maps' 28 x 28 pixels"):
        patch_of(one, ((28, 0),))


def test_gradients_have_scores_without_p_values(folder: Path) -> None:
    [(readout, scores)] = patch_of(Run(str(folder / "gradient")), PATTERNS["X"])
    assert np.array_equal(np.isfinite(scores.z), [note != "constant" for note in readout.note])
    assert np.isnan(scores.p_value).all()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1,2,1,2", ((1, 2), (1, 3))),
        ("X", PATTERNS["X"]),
        ("Y", None),
        ("1,2,3", None),
        ("0,0,0,3", None),
        ("-1,0,2,2", None),
    ],
)
def test_patches_are_read(text: str, expected: object) -> None:
    if expected is not None:
        assert patch_pixels(text) == expected
        return
    with pytest.raises(SpecError, match="expected C, X, or ROW,COLUMN,HEIGHT,WIDTH"):
        patch_pixels(text)


def test_command_on_one_run(folder: Path, tmp_path: Path) -> None:
    panel = folder / "panel"
    clean = [option for i in range(3) for option in ("--clean", panel / f"clean-0{i}")]
    got = wna(panel / "poisoned-00", *clean, "--patch", "C", "--to", tmp_path)
    assert got.exit_code == 0, got.stderr
    assert "poisoned-00: no verdict: 3 clean networks cannot give" in got.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "patch.parquet",
        "suspicion.parquet",
        "suspicion.png",
    ]
    assert (tmp_path / "suspicion.png").read_bytes().startswith(b"\x89PNG")
    [row] = pq.read_table(tmp_path / "suspicion.parquet").to_pylist()
    assert (row["network"], row["clean"], row["panel_p"] in (0.25, 0.5, 0.75, 1.0)) == (
        "poisoned-00",
        3,
        True,
    )
    assert pq.read_table(tmp_path / "patch.parquet").num_rows == 20


def test_command_on_a_panel(folder: Path, tmp_path: Path) -> None:
    got = wna("--panel", folder / "panel", "--networks", folder / "nets", "--to", tmp_path)
    assert got.exit_code == 0, got.stderr
    for words in (
        "area under the ROC curve",
        "each scored against the other clean ones",
        "0 of 3 (0.00, 95 % interval 0.00 to 0.56)",
    ):
        assert words in got.stdout
    rows = pq.read_table(tmp_path / "networks.parquet").to_pylist()
    assert [row["clean"] for row in rows] == [2, 2, 2, 3, 3]
    assert (tmp_path / "panel.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_refused(folder: Path, tmp_path: Path) -> None:
    clean, other = folder / "panel" / "clean-00", folder / "other"
    for arguments, code, words in (
        ((), 2, "expected either the RUN of a suspect, or --panel FOLDER"),
        ((clean, "--panel", folder / "panel"), 2, "expected either the RUN"),
        ((clean,), 2, "give --clean, or --patch for a known one"),
        (("--panel", folder / "panel", "--patch", "C"), 2, "leave out --panel"),
        (
            (clean, "--clean", other),
            1,
            "cannot be compared: samples differ; run all networks with one spec",
        ),
        ((clean, "--clean", folder / "panel" / "clean-01"), 1, "1 clean runs besides"),
        (
            (clean, "--clean", folder / "panel", "--kind", "spikes"),
            1,
            "has no spikes; it has label, logits",
        ),
        ((folder / "cells", "--patch", "C"), 1, "of units, of cells or of coloured noise"),
    ):
        got = wna(*arguments, "--to", tmp_path)
        assert (got.exit_code, words in got.stderr.replace("\n", " ")) == (code, True), got.stderr
    assert readout_of(Run(str(clean))).kind == "logits"
