"""Run directories that somebody made to do harm: one sentence, nothing outside the folder, no
memory, nothing executed.

One process with everything imported forks a child a command, with 4 GiB of address space more than
it has and a minute; so the whole table takes seconds, and what a child takes at its most is known.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crafted_runs import renamed
from hostile_runs import CASES
from places import ROOT

from wna_ray.kinds.average.job import run
from wna_ray.kinds.average.run import open_run
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec

GROWTH = 1 << 30  # bytes that any child may take beyond what it was born with
COMMANDS = ("fetch", "verify", "report")  # and `open_run` where only it reads what is hostile

NURSERY = """
import json, os, resource, signal, sys, traceback
import typer
import wna_ray.kinds.average.figures, wna_ray.statistics.classifier
import wna_ray.cli.inspecting, wna_ray.cli.reporting
from wna_ray.cli import app
from wna_ray.cli.shared import exiting
from wna_ray import open_run

def rss():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) << 10

def touch(url):
    run = open_run(url)
    run.spec, run.names, run.stimulus, run.moments, run.classes
    run.bias_maps, run.z_maps, run.map_outputs

def child(command, url, cwd, out):
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    os.chdir(cwd)
    signal.alarm(60)
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (4 << 30),) * 2)
    open("/proc/self/clear_refs", "w").write("5")
    born = rss()
    code = 0
    try:
        if command == "open":
            exiting(touch)(url)
        else:
            more = {"fetch": [cwd + "/copy"], "report": ["--to", cwd + "/out"]}
            app([command, url, *more.get(command, [])])
    except typer.Exit as left:
        code = left.exit_code
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush(), sys.stderr.flush()
    print(f"\\n{rss() - born}", flush=True)
    os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        child(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Told:
    """How a command ended: exit code, all that it printed, bytes that it took."""

    code: int
    text: str
    growth: int


@pytest.fixture(scope="module")
def command(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str, Path, Path], Told]]:
    """Runs a ``wna`` command on a run directory, in a working folder."""
    trap = tmp_path_factory.mktemp("trap")
    (trap / "trap_for_tests.py").write_text(f"open({str(trap / 'sprung')!r}, 'w').close()\n")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(trap), str(ROOT)]),
        "COLUMNS": "200",
    }
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None

    def wna(name: str, hostile: Path, cwd: Path) -> Told:
        out = cwd / f"{name}.txt"
        print(json.dumps([name, str(hostile), str(cwd), str(out)]), file=nursery.stdin, flush=True)
        code = int(nursery.stdout.readline())
        text, _, growth = out.read_text().rstrip("\n").rpartition("\n")
        assert not (trap / "sprung").exists(), "something of the run was executed"
        return Told(code, text.strip("\n"), int(growth) if growth.isdigit() else -1)

    yield wna
    nursery.stdin.close()
    nursery.wait(timeout=30)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an offset image; not to be changed."""
    folder = tmp_path_factory.mktemp("honest")
    np.save(folder / "offset.npy", np.full((1, 4, 4), 0.5, np.float32))
    spec: dict[str, Any] = {
        "model": "python:networks_for_tests:linear",
        "stimulus": {
            "kind": "gaussian",
            "shape": [1, 4, 4],
            "space": "input",
            "scale": 1.0,
            "offset": str(folder / "offset.npy"),
        },
        "samples": 2000,
        "numerics": {"batch": 64},
        "execution": {"shard": 256, "segments": 4},
    }
    run(Spec.parse(spec), str(folder / "run"), executor="local")
    return folder / "run"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_run_is_refused(
    name: str, honest: Path, tmp_path: Path, command: Callable[[str, Path, Path], Told]
) -> None:
    refusing, words, harm = CASES[name]
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "x").write_bytes(b"canary")
    shutil.copytree(honest, tmp_path / "run")
    harm(tmp_path / "run", canary)
    there = {
        path: path.lstat().st_mtime_ns
        for path in [tmp_path, *tmp_path.rglob("*")]
        if path != tmp_path
    }
    for asked in (*COMMANDS, "open") if "open" in refusing else COMMANDS:
        cwd = tmp_path / "cwd" / asked
        cwd.mkdir(parents=True)
        told = command(asked, tmp_path / "run", cwd)
        assert "Traceback" not in told.text, told.text
        assert told.growth < GROWTH, f"{asked} took {told.growth >> 20} MiB: {told.text[-300:]}"
        assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in told.text), (
            f"{asked}: {told.text[-300:]!r}"
        )
        if asked in refusing.split():
            assert told.code in (1, 2), f"{asked}: {told.code} {told.text[-2000:]}"
            assert [line for line in told.text.splitlines() if line.startswith("wna: ")], told.text
            assert words in told.text or asked != refusing.split()[-1], told.text
            assert len(told.text) < 2000 + 250 * told.text.count("\n  "), told.text[:500]
            assert told.text.count("\n  ") <= 51, told.text[-300:]
        else:
            assert told.code == 0, f"{asked}: {told.code} {told.text[-2000:]}"
        assert {path.name for path in cwd.iterdir()} <= {
            f"{asked}.txt",
            {"fetch": "copy", "report": "out"}.get(asked),
        }
        if asked == "fetch" and told.code:
            assert not (cwd / "copy" / "MANIFEST.json").exists()
    after = {
        path: path.lstat().st_mtime_ns
        for path in tmp_path.rglob("*")
        if (tmp_path / "cwd") not in [path, *path.parents]
    }
    assert after == there, "outside the folder nothing changes"


def test_the_honest_run_passes_here(
    honest: Path, tmp_path: Path, command: Callable[[str, Path, Path], Told]
) -> None:
    """So that no refusal above is the limits' work."""
    for asked in COMMANDS:
        told = command(asked, honest, tmp_path)
        assert (told.code, told.growth < GROWTH) == (0, True), told.text
    assert RunDirectory(str(tmp_path / "copy")).verify() == []


def test_a_run_has_plain_names(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "run")
    renamed(tmp_path / "run", ["\x1b[2J", "a\nb", "\u202ec"])
    opened = open_run(str(tmp_path / "run"))
    assert opened.names == ["\ufffd[2J", "a\ufffdb", "\ufffdc"]
    assert opened.classes["name"].to_pylist() == opened.names * 2
    assert set(opened.classes["self_label"].to_pylist()) <= {None, *opened.names}
    assert opened.derive().keys() == open_run(str(honest)).derive().keys()
