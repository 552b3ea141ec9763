"""Runs made before the package moved into rooms: verified, opened, reported and resumed as they
are.

``golden/runs-of-73302e1.tar.xz`` holds a run with responses, its covariance and a sweep, made by
the commit of its name on a processor with AVX-512. The network's arithmetic is exact in float32, so
that every machine answers with the bits on record.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from places import GOLDEN_FOLDER

from wna_ray import open_run, open_stc, open_sweep, run
from wna_ray.kinds.any import open_any
from wna_ray.reports.html import written
from wna_ray.runs.directory import RunDirectory
from wna_ray.storage.arrays import from_npy
from wna_ray.sweeps.directory import SweepDirectory

MAPS = ("result/bias_maps.npy", "result/z_maps.npy", "result/map_outputs.npy")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old runs in a folder of their own, which is the working directory: one names another."""
    with tarfile.open(GOLDEN_FOLDER / "runs-of-73302e1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_old_runs_are_whole(old: Path) -> None:
    assert RunDirectory("run").verify() == []
    assert RunDirectory("stc").verify() == []
    faults = SweepDirectory("sweep").verify()
    assert faults == {"": [], "one": []}


def test_old_runs_are_opened(old: Path) -> None:
    """By the public names, and by whoever does not know their kind."""
    manifest = json.loads((old / "run" / "MANIFEST.json").read_text())
    finished = open_run("run")
    assert (finished.fingerprint, finished.samples) == (manifest["fingerprint"], 320)
    assert finished.moments.images == manifest["counts"]["images"] == 320
    assert finished.bias_maps.shape == finished.z_maps.shape == (6, 1, 4, 4)
    assert sum(int(part.counted.sum()) for _, part in finished.stored()) == 320
    assert open_stc("stc").axes["unit"].to_pylist() == ["0"]
    assert list(open_sweep("sweep").members) == ["one"]
    assert [type(open_any(name)).__name__ for name in ("run", "stc")] == ["Run", "Stc"]


@pytest.mark.parametrize("name", ["run", "stc", "sweep/one"])
def test_old_runs_are_reported(old: Path, name: str) -> None:
    """Sums come back byte for byte, maps to the rounding of another processor's library."""
    finished = open_any(name)
    objects = finished.derive()
    stored = {
        key: (old / name / key).read_bytes() for key in objects if (old / name / key).is_file()
    }
    assert set(stored) == set(objects)
    assert objects["result/moments.npz"] == stored["result/moments.npz"]
    for key in set(MAPS) & set(objects):
        np.testing.assert_allclose(from_npy(objects[key]), from_npy(stored[key]), rtol=1e-6)
    assert b"<html" in written(finished)


def test_an_old_run_is_resumed(old: Path) -> None:
    """What is missing is made again, with the bytes that the old manifest lists."""
    before = json.loads((old / "run" / "MANIFEST.json").read_text())
    spec = open_run("run").spec
    (old / "run" / "MANIFEST.json").unlink()
    shutil.rmtree(old / "run" / "result")
    missing = before["segments"][1]
    for name in (
        missing["name"],
        f"responses/{missing['start']:015d}-{missing['stop']:015d}.parquet",
    ):
        (old / "run" / name).unlink()
    run(spec, "run", executor="local")
    after = json.loads((old / "run" / "MANIFEST.json").read_text())
    assert after["segments"] == before["segments"]
    assert after["objects"]["result/moments.npz"] == before["objects"]["result/moments.npz"]
    assert RunDirectory("run").verify() == []
