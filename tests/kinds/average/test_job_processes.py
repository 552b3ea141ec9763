"""Whole runs in processes of their own: killed, stopped, and with a storage that hangs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Moto
from started import result, start

from wna_ray import run
from wna_ray.events import Event, RunStarted, ShardDone
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]


def wait_for_segments(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while len(list((folder / "segments").glob("*.npz"))) < count:
        assert process.poll() is None, f"ended early: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slow(make_spec: MakeSpec) -> Spec:
    """Some seconds of work in many small segments."""
    return make_spec(
        model="bundled:mnist-cnn",
        stimulus={"shape": [1, 28, 28]},
        samples=60_000,
        execution={"shard": 640, "segments": 64},
    )


@pytest.mark.ray
@pytest.mark.parametrize("how", ["local", "ray"])
def test_a_killed_driver_loses_nothing(
    tmp_path: Path, make_spec: MakeSpec, reference: Any, how: str
) -> None:
    """kill -9 of the driver mid-run; the same command again computes only what is missing, to
    the same bytes.
    """
    spec = slow(make_spec)
    process = start(tmp_path, spec, "--executor", how)
    wait_for_segments(tmp_path / "run", 4, process)
    process.kill()
    process.communicate()
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "segments").glob("*.npz")}
    left = sum(b - a for a, b in RunDirectory(str(tmp_path / "run")).gaps(60_000))
    assert 0 < left < 60_000
    events: list[Event] = []
    run(spec, str(tmp_path / "run"), executor="local", callbacks=[events.append])
    (started,) = [e for e in events if isinstance(e, RunStarted)]
    assert (
        started.done >= 60_000 - left
    )  # a worker that outlived the driver for a moment may have committed one more
    assert (
        sum(e.stop - e.start for e in events if isinstance(e, ShardDone)) == 60_000 - started.done
    )
    assert {f: f.stat().st_mtime_ns for f in before} == before, (
        "finished segments are never written again"
    )
    assert result(tmp_path / "run") == reference(spec)
    assert RunDirectory(str(tmp_path / "run")).verify() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_stopping_is_clean_and_says_how_to_go_on(
    tmp_path: Path, make_spec: MakeSpec, number: signal.Signals, how: str
) -> None:
    process = start(tmp_path, slow(make_spec), "--executor", how)
    wait_for_segments(tmp_path / "run", 2, process)
    begin = time.monotonic()
    (
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    )  # Ctrl-C reaches the whole group
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "wna: stopped; " in errors
    assert "of 60,000 images are committed" in errors
    assert "The same command goes on from there" in errors
    assert "Traceback" not in errors
    assert time.monotonic() - begin < 15
    directory = RunDirectory(str(tmp_path / "run"))
    fingerprint = directory.spec().fingerprint
    assert (
        len([directory.read_segment(name, fingerprint) for name in directory.segments().values()])
        >= 2
    ), "whole segments only"
    if (
        how == "local"
        # Ray's workers are killed where they stand, which may leave a temporary file that nobody
        # reads
    ):
        assert not list((tmp_path / "run").rglob(".tmp-*"))


@pytest.mark.parametrize("how", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_stopping_takes_three_seconds_even_if_the_storage_hangs(
    tmp_path: Path, make_spec: MakeSpec, how: str
) -> None:
    """Three seconds after SIGTERM a job is killed by Ray. The storage is frozen: connections
    stay open, nothing answers.
    """
    with Moto(tmp_path / "moto") as server:
        server.make_bucket("runs")
        spec = slow(make_spec)
        process = start(tmp_path, spec, "--executor", how, out="s3://runs/x", env=server.env())
        client = server.client()
        until = time.monotonic() + 90
        while client.list_objects_v2(Bucket="runs", Prefix="x/segments/").get("KeyCount", 0) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        for frozen in server.processes:
            frozen.send_signal(signal.SIGSTOP)
        time.sleep(1)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - begin < 3
        assert process.returncode == 130, errors
        assert re.search(
            r"wna: stopped; [\d,]+ of 60,000 images are committed to 's3://runs/x'. The same"
            r" command goes on",
            errors,
        ), errors
