"""The command line as people meet it: exit codes, sentences, and what is left on disk."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from servers import S3Server
from typer.testing import CliRunner, Result

from wna_ray.cli import app
from wna_ray.runs.segments import segment_name

SPEC: dict[str, Any] = {
    "model": "python:networks_for_tests:linear",
    "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "scale": 1.0, "space": "input"},
    "samples": 2000,
    "numerics": {"batch": 64},
}


def wna(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


@pytest.fixture
def run(tmp_path: Path, spec: Path) -> Path:
    out = tmp_path / "run"
    assert wna("run", spec, "--out", out, "--executor", "local").exit_code == 0
    return out


def test_run_prints_the_table_and_the_way_to_the_figures(tmp_path: Path, spec: Path) -> None:
    got = wna(
        "run", spec, "--out", tmp_path / "run", "--executor", "local", "--set", "samples=1000"
    )
    assert got.exit_code == 0
    assert "N = 1,000 images" in got.stdout
    assert f"figures: {tmp_path}/run/result/figures/" in got.stdout
    assert "1,000 of 1,000 images" in got.stderr, "progress goes to standard error"
    for figure in ("bias_maps.png", "z_maps.png", "label_frequencies.png"):
        assert (
            (tmp_path / "run" / "result" / "figures" / figure).read_bytes().startswith(b"\x89PNG")
        )


def test_the_same_command_again_is_fine(run: Path, spec: Path) -> None:
    assert wna("run", spec, "--out", run, "--executor", "local").exit_code == 0


def test_status_of_a_finished_and_of_an_unfinished_run(run: Path) -> None:
    got = wna("status", run)
    assert (got.exit_code, "finished, 2,000 images" in got.stdout) == (0, True)
    (run / "MANIFEST.json").unlink()
    last = sorted((run / "segments").iterdir())[-1]
    start, stop = (int(n) for n in last.stem.split("-"))
    last.unlink()
    got = wna("status", run)
    assert got.exit_code == 3
    assert f"{2000 - (stop - start):,} of 2,000 images committed" in got.stdout
    assert f"missing [{start:,}, {stop:,})" in got.stdout


def test_verify(run: Path) -> None:
    got = wna("verify", run)
    assert got.exit_code == 0
    assert "tile [0, 2,000); 2,000 images counted in, 0 not finite, 0 out of range" in got.stdout
    target = sorted((run / "segments").iterdir())[0]
    target.write_bytes(target.read_bytes()[:-1])
    got = wna("verify", run)
    assert got.exit_code == 1
    assert f"segments/{target.name} is damaged" in got.stderr


def test_report_makes_the_result_again_without_model_or_ray(run: Path, tmp_path: Path) -> None:
    """In a process where importing Ray fails and the model's module is not on the path."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from wna_ray.cli import app\n"
        f"app(['report', {str(run)!r}, '--to', {str(tmp_path / 'again')!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": ""},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    again = {
        f.relative_to(tmp_path / "again"): f.read_bytes()
        for f in (tmp_path / "again").rglob("*")
        if f.is_file()
    }
    assert again == {
        f.relative_to(run / "result"): f.read_bytes()
        for f in (run / "result").rglob("*")
        if f.is_file()
    }


def test_plan(spec: Path, tmp_path: Path) -> None:
    got = wna("plan", spec, "--set", "samples=1_000_000", "--pilot", "2048")
    assert got.exit_code == 0
    for words in (
        "1,000,000 images = ",
        "shards of",
        "segments of",
        "a worker up to",
        "of object store",
        "Expected reliability at N = 1,000,000",
    ):
        assert words in got.stdout
    assert [f.name for f in tmp_path.iterdir()] == ["spec.yaml"]


def test_plan_refuses_what_does_not_fit_and_says_which_number_to_change(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    large = SPEC | {
        "model": "python:networks_for_tests:slow?k=1000&d=12288",
        "responses": ["logits"],
    }
    path.write_text(
        yaml.safe_dump(
            large | {"stimulus": SPEC["stimulus"] | {"shape": [3, 64, 64]}, "samples": 64}
        )
    )
    assert wna("plan", path, "--pilot", "64", "--memory", "64GB").exit_code == 0
    got = wna("plan", path, "--pilot", "64", "--memory", "2GB", "--workers", "2")
    message = got.stderr.replace("\n", " ")
    assert got.exit_code == 2
    assert "moments of 1,001 rows x 12,288 values x 8 bytes = 98.4 MB" in message
    assert "a machine of 2GB has" in message
    assert "responses: without logits" in message
    assert "stimulus.cell: " in message
    assert wna("plan", path, "--memory", "much").exit_code == 2


def test_status_tells_about_the_driver(run: Path) -> None:
    """Of a run that stopped: what its driver said last, made older, and then damaged."""
    (run / "MANIFEST.json").unlink()
    path = run / "drivers" / "000001.json"
    driver = json.loads(path.read_text())
    assert driver["state"] == "finished"
    path.write_text(json.dumps(driver | {"state": "failed", "reason": "the disk\x1b[2J is full"}))
    got = wna("status", run)
    assert got.exit_code == 3
    assert re.search(
        r"driver 1: process \d+ on \S+ failed \d+ s ago: the disk\ufffd\[2J is full", got.stdout
    ), got.stdout
    assert re.search(
        r"2,000 images done, [\d,]+ images/s lately; 0 shards retried, 0 left out", got.stdout
    )
    assert re.search(r"worker time: \w+ \d+ %", got.stdout)
    assert re.search(
        r"\d+ commits, [\d.]+ s and [\d.]+ kB each; 0 storage requests tried again", got.stdout
    )
    path.write_text(
        json.dumps(driver | {"state": "running", "time": "2020-01-01T00:00:00.000+00:00"})
    )
    assert "gave its last sign of life" in wna("status", run).stdout
    path.write_text(json.dumps(driver | {"progress": None}))
    got = wna("status", run)
    assert (got.exit_code, "drivers/000001.json is damaged" in got.stderr) == (1, True)


def test_fetch(run: Path, tmp_path: Path) -> None:
    got = wna("fetch", run, tmp_path / "copy")
    assert got.exit_code == 0, got.stderr
    assert re.search(
        r"copy: \d+ objects, [\d.]+ kB, every SHA-256 as in the manifest \(0 were there already\)",
        got.stdout,
    ), got.stdout
    assert wna("verify", tmp_path / "copy").exit_code == 0
    assert "(0 were there already)" not in wna("fetch", run, tmp_path / "copy").stdout
    got = wna("fetch", run, tmp_path / "small", "--without-segments")
    assert got.exit_code == 0
    assert not (tmp_path / "small" / "segments").exists()
    assert wna("report", tmp_path / "small", "--to", tmp_path / "again").exit_code == 0


def test_single_writer_is_asked_for(
    rclone: S3Server, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a storage that ignores conditions."""
    for name, value in rclone.env().items():
        monkeypatch.setenv(name, value)
    got = wna("run", spec, "--out", "s3://runs/x", "--executor", "local")
    assert got.exit_code == 1
    assert "ignores If-None-Match" in got.stderr
    assert "--single-writer" in got.stderr
    assert (
        wna("run", spec, "--out", "s3://runs/x", "--executor", "local", "--single-writer").exit_code
        == 0
    )
    assert wna("verify", "s3://runs/x").exit_code == 0


FAULTS = {
    "unknown model": (
        ["--set", "model=bundled:mnist-cn"],
        2,
        "no bundled model 'mnist-cn'; bundled are mnist-cnn",
    ),
    "unknown key": (
        ["--set", "stimulus.sigma=1"],
        2,
        "stimulus.sigma: unknown key; known here are kind, shape, offset",
    ),
    "wrong shape": (
        ["--set", "model=bundled:mnist-cnn"],
        2,
        "stimulus.shape: (1, 4, 4), but bundled:mnist-cnn takes (1, 28, 28)",
    ),
    "bad set": (["--set", "nonsense"], 2, "--set nonsense: expected KEY=VALUE"),
    "local workers": (["--workers", "2"], 2, "local has one worker and no address"),
    "no workers": (["--workers", "0"], 2, "workers: 0 is not a number of workers"),
    "no gpu": (["--set", "numerics.device=cuda"], 2, "numerics.device: cuda, but"),
    "missing weights": (
        ["--set", "model=python:networks_for_tests:linear?weights=nowhere.safetensors"],
        2,
        "no file 'nowhere.safetensors'",
    ),
    "missing offset": (
        ["--set", "stimulus.offset=nowhere.npy"],
        2,
        "'nowhere.npy' is no file; give a number",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence_and_an_exit_code(name: str, spec: Path, tmp_path: Path) -> None:
    options, code, words = FAULTS[name]
    got = wna("run", spec, "--out", tmp_path / "run", "--executor", "local", *options)
    assert got.exit_code == code
    assert words in got.stderr.replace("\n", " ")
    assert "Traceback" not in got.stderr
    assert not (tmp_path / "run").exists(), "nothing is written before the spec is known to be good"


def test_files_that_are_no_spec_and_urls_that_are_no_run(tmp_path: Path) -> None:
    got = wna("run", tmp_path / "none.yaml", "--out", tmp_path / "run", "--executor", "local")
    assert (got.exit_code, "no such file; give a YAML spec" in got.stderr) == (2, True)
    for command in ("status", "verify", "report"):
        got = wna(command, tmp_path / "nothing")
        assert (got.exit_code, "no run at" in got.stderr) == (1, True), command
    got = wna("status", "nosuch://x/run")
    assert (got.exit_code, "no storage of that kind" in got.stderr) == (1, True)


def test_a_foreign_segment_stops_a_resume(run: Path, spec: Path) -> None:
    (run / "MANIFEST.json").unlink()
    first = sorted((run / "segments").iterdir())[0]
    (run / segment_name(10**6, 10**6 + 64)).write_bytes(first.read_bytes())
    got = wna("run", spec, "--out", run, "--executor", "local")
    assert got.exit_code == 1
    assert "segments reach image 1000064, but the run has 2000" in got.stderr


def test_an_unreachable_ray_is_one_sentence(spec: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "wna_ray",
        "run",
        str(spec),
        "--out",
        str(tmp_path / "run"),
        "--address",
        "127.0.0.1:1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "cannot reach Ray at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def kept(tmp_path: Path, spec: Path) -> Path:
    """A run of two outputs of rectifiers, with its responses."""
    out = tmp_path / "kept"
    model = (
        "--set",
        "model=python:networks_for_tests:relus",
        "--set",
        "responses=[activation]",
        "--set",
        "keep_responses=true",
    )
    assert wna("run", spec, "--out", out, "--executor", "local", *model).exit_code == 0
    return out


def test_contrast_of_two_responses(tmp_path: Path, kept: Path) -> None:
    got = wna(
        "contrast",
        kept,
        kept,
        "--kind",
        "activation",
        "--name",
        "0",
        "--other",
        "1",
        "--to",
        tmp_path / "c",
    )
    assert got.exit_code == 0, got.stderr
    assert "pairing divides errors by" in got.stdout
    assert np.load(tmp_path / "c" / "z_map.npy").shape == (1, 4, 4)
    assert (tmp_path / "c" / "contrast.png").read_bytes().startswith(b"\x89PNG")
    got = wna("contrast", kept, kept, "--kind", "label", "--name", "0")
    assert got.exit_code != 0
    assert "has no label of '0'; it has activation of 0, 1" in got.stderr


def test_covariance_of_a_run(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "stc.yaml"
    path.write_text(f"run: {kept}\nfresh: 3\naxes: 2\n")
    planned = wna("plan", path)
    assert planned.exit_code == 0
    assert "4 streams of 2,000 images" in planned.stdout
    spectrum = re.search(
        r"spectrum  \S+: without any axis from (-[\d.]+) to \+([\d.]+) sd", planned.stdout
    )
    assert spectrum is not None, planned.stdout
    low, high = (float(end) for end in spectrum.groups())
    assert (-low, high) == pytest.approx(
        [2 * math.sqrt(16 / 2000)] * 2, rel=0.3
    )  # to the first order in d / N
    got = wna("run", path, "--out", tmp_path / "stc", "--executor", "local")
    assert got.exit_code == 0, got.stderr
    assert "Axes of the covariance, 2,000 images" in got.stdout
    assert "% moments" in got.stderr, "a pass has no forward pass"
    assert "by gradients" not in got.stdout
    for figure in ("axes.png", "spectra.png"):
        assert (
            (tmp_path / "stc" / "result" / "figures" / figure).read_bytes().startswith(b"\x89PNG")
        )
    assert wna("status", tmp_path / "stc").exit_code == 0
    assert wna("verify", tmp_path / "stc").exit_code == 0
    assert wna("fetch", tmp_path / "stc", tmp_path / "copy").exit_code == 0
    assert wna("verify", tmp_path / "copy").exit_code == 0
    report = wna("report", tmp_path / "stc", "--to", tmp_path / "again")
    assert report.exit_code == 0, report.stderr
    assert "Axes of the covariance, 2,000 images" in report.stdout
    stored, again = tmp_path / "stc" / "result", tmp_path / "again"
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*.*")} == {
        p.relative_to(stored): p.read_bytes() for p in stored.rglob("*.*")
    }


def test_average_hessian_of_a_run(tmp_path: Path, spec: Path) -> None:
    relus = (
        "--set",
        "model=python:networks_for_tests:relus",
        "--set",
        "responses=[activation]",
        "--set",
        "estimator=gradient",
    )
    assert wna("run", spec, "--out", tmp_path / "run", "--executor", "local", *relus).exit_code == 0
    path = tmp_path / "hessian.yaml"
    path.write_text(
        f"run: {tmp_path / 'run'}\nmodel: python:networks_for_tests:relus\nfresh: 3\naxes: 2\n"
    )
    planned = wna("plan", path)
    assert "1 pass with a forward and a backward pass an image" in planned.stdout
    assert "spectrum" not in planned.stdout
    got = wna("run", path, "--out", tmp_path / "hessian", "--executor", "local")
    assert got.exit_code == 0, got.stderr
    assert "% forward" in got.stderr


def test_a_plan_says_where_units_look(spec: Path) -> None:
    units = (
        "--set",
        "model=bundled:mnist-cnn",
        "--set",
        "stimulus.shape=[1,28,28]",
        "--set",
        "target.layer=conv1",
    )
    got = wna("plan", spec, "--pilot", "64", *units, "--set", "responses=[activation]")
    assert got.exit_code == 0, got.stderr
    assert (
        "20 units of conv1 see 5 x 5 pixels of 1 channel; shown as 5 x 5: 31.4 times fewer pixels"
        in got.stdout
    )
    got = wna(
        "plan",
        spec,
        "--pilot",
        "64",
        *units,
        "--set",
        "target.layer=fc1",
        "--set",
        "responses=[activation]",
    )
    assert "the whole image is shown (the units see the whole image)" in got.stdout


RUNS_CODE = "'python:os:system?command=touch sprung'"
CODE = f"""
model: {RUNS_CODE}
stimulus: {{kind: gaussian, shape: [1, 28, 28], offset: 0.5, scale: 0.3}}
samples: 10
"""
NO_CODE = CODE.replace(RUNS_CODE, "bundled:mnist-cnn")


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        CODE.replace("model:", "model: bundled:mnist-cnn\ndecoder:").replace(
            "kind:", "space: input, kind:"
        ),
        "sweep: {a: {b: {seed: 1}, c: {seed: 2}}}\n" + CODE,
        "sweep: {a: {b: {seed: 1}, c: {model: 'python:os:getcwd'}}}\n"
        + CODE.replace('"python:os:system?command=touch sprung"', "bundled:mnist-cnn"),
        "run: nowhere\nmodel: python:os:getcwd\n",
        (
            "model: python:os:getcwd\nsignals: {dataset: mnist}\nnoise: {kind: uniform, offset:"
            " 0.5, scale: 0.5}\ngammas: [0.3]\nrepeats: 1\n"
        ),
    ],
    ids=["model", "decoder", "sweep", "member", "covariance", "trials"],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_no_code_refuses_models_that_run_code(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(text)
    out = ["--out", "out", "--executor", "local"] if command == "run" else []
    got = CliRunner().invoke(app, [command, "spec.yaml", "--no-code", *out])
    assert got.exit_code == 2
    assert "--no-code:" in got.stderr
    assert "trust this spec like a script" in got.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.yaml"]


def test_no_code_lets_all_other_models_pass(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(NO_CODE)
    got = CliRunner().invoke(
        app, ["plan", str(tmp_path / "spec.yaml"), "--no-code", "--pilot", "10"]
    )
    assert got.exit_code == 0, got.stderr
