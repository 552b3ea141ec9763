"""Twenty mistakes on the default executor: one sentence on standard error that says what to do, no
traceback of ours or of Ray's, and an exit code that is not 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from wna_ray.cli import app

STIMULUS = {"kind": "gaussian", "shape": [1, 4, 4], "scale": 1.0, "space": "input"}
SPEC: dict[str, Any] = {
    "model": "python:mistaken_networks:good",
    "stimulus": STIMULUS,
    "samples": 256,
    "numerics": {"batch": 64},
}
SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
args = parser.parse_args()
"""

# What differs from a spec that runs, and words of the sentence. The first are found before any
# worker is there.
EARLY: dict[str, tuple[dict[str, Any], str]] = {
    "scheme": ({"model": "onnx:net"}, "has an unknown scheme, onnx; the schemes are"),
    "no function named": ({"model": "python:mistaken_networks"}, "is no module and function"),
    "module": ({"model": "python:mistaken_network:good"}, "cannot import 'mistaken_network'"),
    "function": ({"model": "python:mistaken_networks:god"}, "near it are good"),
    "option": (
        {"model": "python:mistaken_networks:good?depth=3"},
        "no option 'depth'; near it are k",
    ),
    "value of an option": ({"model": "python:mistaken_networks:good?k=x"}, "k=x: expected"),
    "script": ({"model": "python:own_script:parser"}, "under if __name__ == '__main__'"),
    "weights": ({"model": "python:mistaken_networks:good?weights=no.pth"}, "no file 'no.pth'"),
    "exported": ({"model": "export:no.pt2"}, "no file 'no.pt2'"),
    "shape": ({"stimulus": STIMULUS | {"shape": [3, 8, 16, 16]}}, "channels, rows and columns"),
    "response": ({"responses": ["lables"]}, "responses.0.kind"),
    "layer as a number": ({"target": {"layer": 0.1}}, "put it in quotes, such as '0.1'"),
    "key": ({"sample": 3}, "unknown key"),
}
LATE: dict[str, tuple[dict[str, Any], str]] = {
    "factory": ({"model": "python:mistaken_networks:raises"}, "(no such data)"),
    "no network": (
        {"model": "python:mistaken_networks:number"},
        "gave int; expected a torch.nn.Module",
    ),
    "layer": ({"target": {"layer": "frst"}}, "no layer 'frst'; near it are first"),
    "channels": ({"stimulus": STIMULUS | {"shape": [3, 4, 4]}}, "see stimulus.shape"),
    "offset": ({"stimulus": STIMULUS | {"offset": "no.npy"}}, "no.npy"),
    "two inputs": (
        {"model": "python:mistaken_networks:two"},
        "missing 1 required positional argument",
    ),
    "random": ({"model": "python:mistaken_networks:noisy"}, "answers the same batch differently"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_script", None)


def write(folder: Path, changes: dict[str, Any]) -> None:
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC | changes))


def check(text: str, code: int, words: str) -> None:
    lines = text.strip().splitlines()
    assert code in (1, 2), text
    assert words in text, text
    assert "Traceback" not in text, text
    assert "Unhandled" not in text, text
    assert lines[0].startswith("wna: "), text


@pytest.mark.parametrize("name", EARLY)
def test_mistakes_that_are_found_before_ray_starts(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    changes, words = EARLY[name]
    write(folder, changes)
    done = CliRunner().invoke(app, ["run", "spec.yaml", "--out", "run"])
    check(done.stderr, done.exit_code, words)
    assert not (folder / "run").exists()


def test_a_mistake_takes_seconds(folder: Path) -> None:
    """In a process of its own, with all that it imports; it is killed where it hangs."""
    write(folder, EARLY["function"][0])
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "wna_ray", "run", "spec.yaml", "--out", "run"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=80,
    )
    check(done.stderr, done.returncode, EARLY["function"][1])


@pytest.mark.ray
@pytest.mark.parametrize("name", LATE)
def test_mistakes_that_workers_find(
    name: str, folder: Path, ray_cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    changes, words = LATE[name]
    write(folder, changes)
    done = CliRunner().invoke(
        app, ["run", "spec.yaml", "--out", "run", "--workers", "1"], catch_exceptions=False
    )
    shown = capfd.readouterr()
    check(done.stderr, done.exit_code, words)
    for text in (shown.out, shown.err):
        assert "Traceback" not in text, text
        assert "Unhandled" not in text, text


@pytest.mark.ray
def test_weights_that_differ_between_workers(folder: Path, ray_cluster: None) -> None:
    """Whichever worker is the other one says by what it differs: the weights, not the machine."""
    write(folder, {"model": "python:mistaken_networks:drawn", "execution": {"shard": 64}})
    done = CliRunner().invoke(app, ["run", "spec.yaml", "--out", "run", "--workers", "2"])
    last = done.stderr.strip().splitlines()[-1]  # after lines of progress
    check(last, done.exit_code, "has other weights on this worker than where the run began")


def test_places_that_are_none(folder: Path) -> None:
    write(folder, {})
    done = CliRunner().invoke(app, ["run", "spec.yaml", "--out", "a::b"])
    check(done.stderr, done.exit_code, "chains storages by ::")
    assert not (folder / "a").exists()


def test_layers_of_sequences_have_numbers(folder: Path) -> None:
    write(folder, {"model": "python:mistaken_networks:numbered", "target": {"layer": 1}})
    done = CliRunner().invoke(app, ["run", "spec.yaml", "--out", "run", "--executor", "local"])
    assert done.exit_code == 0, done.output
