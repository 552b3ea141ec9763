"""A kind of job of one's own: the example of docs/kinds.md, installed and run as a user would.

The oracle of its numbers is a loop over images, one by one, in float64.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from places import ROOT

from wna_ray.networks import models
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli.stimulus import make_stimulus

EXAMPLE = ROOT / "examples" / "output_statistics"
STEP = 2.0**-16
SPEC = {
    "kind": "output-statistics",
    "model": "bundled:mnist-cnn",
    "stimulus": {"kind": "gaussian", "shape": [1, 28, 28], "offset": 0.5, "scale": 0.2},
    "samples": 300,
    "seed": 3,
    "numerics": {"batch": 50, "device": "cpu"},
    "execution": {"segments": 3, "shard": 50},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as pip installs it, in a folder of its own."""
    folder, source = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("source")
    shutil.copytree(EXAMPLE, source / "example")  # a build leaves files beside what it builds
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, str(source / "example")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


def wna(installed: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """``wna ARGS`` in a folder, by a Python that finds the example."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    command = [sys.executable, "-P", "-m", "wna_ray", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def finished(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of the example, ``out``."""
    folder = tmp_path_factory.mktemp("statistics")
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    run = wna(installed, folder, "run", "spec.yaml", "--out", "out", "--executor", "local")
    assert run.returncode == 0, run.stderr
    assert "300 images of noise" in run.stdout
    return folder


def test_means_and_variances_are_those_of_a_loop(finished: Path) -> None:
    """Rounding an output moves it by half a step at most, so a mean moves no further."""
    stimulus = make_stimulus(
        StimulusSpec.model_validate(SPEC["stimulus"]), 3, np.full((1, 1, 1), 0.5, np.float32)
    )
    module = models.load("bundled:mnist-cnn").module
    with torch.inference_mode():
        rows = [module(stimulus.images(stimulus.noise.grid(i, i + 1)))[0] for i in range(300)]
    outputs = torch.stack(rows).double().numpy()
    table = pq.read_table(finished / "out" / "result" / "outputs.parquet").to_pydict()
    assert table["name"] == [str(i) for i in range(10)]
    single = 1e-4  # between a batch of one image and of fifty, float32 sums differ by less
    np.testing.assert_allclose(table["mean"], outputs.mean(axis=0), rtol=0, atol=STEP / 2 + single)
    spread = 2 * np.abs(outputs - outputs.mean(axis=0)).max() * (STEP / 2 + single)
    np.testing.assert_allclose(table["variance"], outputs.var(axis=0), rtol=0, atol=spread)


def test_it_is_verified_shown_and_reported(installed: Path, finished: Path) -> None:
    proof = wna(installed, finished, "verify", "out")
    assert (proof.returncode, "whole. 3 segments tile [0, 300)" in proof.stdout) == (0, True)
    assert wna(installed, finished, "status", "out").stdout.startswith("out: finished, 300 images")
    report = wna(installed, finished, "report", "out", "--html", "--to", "page")
    assert report.returncode == 0, report.stderr
    page = (finished / "page" / "report.html").read_text()
    assert "Output statistics of bundled:mnist-cnn" in page
    assert "300 images of noise" in page


def test_it_is_resumed_with_the_same_bytes(installed: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    shutil.copy(finished / "spec.yaml", tmp_path)
    manifest = json.loads((tmp_path / "out" / "MANIFEST.json").read_text())
    (tmp_path / "out" / "MANIFEST.json").unlink()
    (tmp_path / "out" / manifest["segments"][1]["name"]).unlink()
    assert wna(installed, tmp_path, "status", "out").returncode == 3
    again = wna(installed, tmp_path, "run", "spec.yaml", "--out", "out", "--executor", "local")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out" / "MANIFEST.json").read_text()) == manifest


def test_a_damaged_one_is_named(installed: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    (tmp_path / "out" / "result" / "outputs.parquet").write_bytes(b"PAR1")
    proof = wna(installed, tmp_path, "verify", "out")
    assert proof.returncode == 1
    assert "result/outputs.parquet is damaged" in proof.stderr


def test_it_may_be_a_member_of_a_sweep(installed: Path, tmp_path: Path) -> None:
    members = {"noise": {"one": {"seed": 1}, "two": {"seed": 2}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"sweep": members, **SPEC}))
    run = wna(installed, tmp_path, "run", "sweep.yaml", "--out", "out", "--executor", "local")
    assert run.returncode == 0, run.stderr
    assert re.search(r"one +outputs +300", run.stdout)
    assert wna(installed, tmp_path, "verify", "out").returncode == 0
    digests = {
        hashlib.sha256((tmp_path / "out" / name / "result/outputs.parquet").read_bytes()).digest()
        for name in ("one", "two")
    }
    assert len(digests) == 2, "another seed, other noise"


def test_without_it_nothing_is_read_as_what_it_is_not(finished: Path) -> None:
    """Neither its spec nor its directory is taken for another kind's."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "wna_ray"]
    for args, text in (
        (
            ["plan", "spec.yaml"],
            "kind: no kind of job 'output-statistics' is installed; there are run, covariance,",
        ),
        (["verify", "out"], "format 'output-statistics/1', but this version reads 'wna-run/1'"),
    ):
        told = subprocess.run(
            [*command, *args], cwd=finished, env=env, capture_output=True, text=True
        )
        assert told.returncode != 0
        assert text in told.stderr


def test_the_example_is_short() -> None:
    assert len((EXAMPLE / "output_statistics.py").read_text().splitlines()) < 120


def test_the_page_shows_the_code_as_it_is() -> None:
    """Every block of Python on the page stands in the example, letter for letter."""
    page = (ROOT / "docs" / "kinds.md").read_text()
    code = (EXAMPLE / "output_statistics.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 7
    assert [block for block in blocks if block not in code] == []
    assert (
        re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
        in (EXAMPLE / "pyproject.toml").read_text()
    )
