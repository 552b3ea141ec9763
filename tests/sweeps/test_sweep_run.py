"""Running sweeps: the same bytes as members alone, resume after any interruption, failures that
stop nobody else, and Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from wna_ray import run
from wna_ray.cli import app
from wna_ray.errors import RunError, SpecError, Stopped
from wna_ray.events import ShardDone
from wna_ray.kinds.average import figures
from wna_ray.specs.run import Spec
from wna_ray.specs.sweep import SweepSpec
from wna_ray.storage.store import Place, Store
from wna_ray.sweeps import job as sweep_run
from wna_ray.sweeps.job import (
    MemberDone,
    MemberFailed,
    MemberLost,
    MemberStarted,
    SweepEvent,
    SweepPrinter,
    SweepStarted,
    run_sweep,
)

MakeSpec = Callable[..., Spec]
AXES: dict[str, Any] = {
    "network": {
        f"seed-{n}": {"model": f"python:networks_for_tests:linear?seed={n}"} for n in range(2)
    },
    "noise": {"normal": None, "uniform": {"stimulus.kind": "uniform"}},
}
NAMES = ["seed-0/normal", "seed-0/uniform", "seed-1/normal", "seed-1/uniform"]


@pytest.fixture
def make_sweep(make_spec: MakeSpec) -> Callable[..., SweepSpec]:
    def make(axes: dict[str, Any] = AXES, **changes: Any) -> SweepSpec:
        base = make_spec(samples=640, **changes).model_dump(mode="json", exclude_unset=True)
        return SweepSpec.parse({"sweep": axes} | base)

    return make


MakeSweep = Callable[..., SweepSpec]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are most of what a tiny run costs, and none of what is looked at here."""
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {"maps.png": b"a figure"})


def results(folder: Path) -> dict[str, bytes]:
    """What a run is: all but who made it and when."""
    kept = [
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not {"drivers", "events"} & set(p.relative_to(folder).parts)
    ]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def test_each_member_is_the_run_that_its_spec_makes_alone(
    undrawn: None, make_sweep: MakeSweep, tmp_path: Path
) -> None:
    spec, events = make_sweep(), list[SweepEvent]()
    found = run_sweep(spec, str(tmp_path / "sweep"), executor="local", callbacks=[events.append])
    assert list(found.members) == NAMES
    for name, member in spec.members.items():
        assert isinstance(member, Spec)
        run(member, str(tmp_path / "alone" / name), executor="local")
        assert results(tmp_path / "sweep" / name) == results(tmp_path / "alone" / name), name
    assert events[0] == SweepStarted(str(tmp_path / "sweep"), 4, 0)
    assert (
        [e.name for e in events if isinstance(e, MemberDone)]
        == [e.name for e in events if isinstance(e, MemberStarted)]
        == NAMES
    )
    assert all(e.samples == 640 for e in events if isinstance(e, MemberDone))


def test_the_same_again_does_nothing(undrawn: None, make_sweep: MakeSweep, tmp_path: Path) -> None:
    run_sweep(make_sweep(), str(tmp_path), executor="local")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    events = list[SweepEvent]()
    run_sweep(make_sweep(), str(tmp_path), executor="local", callbacks=[events.append])
    assert events == []
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


class Crash(BaseException):
    """As if the process had ended."""


@pytest.mark.parametrize("at", [0, 1, 4, 8, 12, 13, 16, 20, 25, 26])
def test_a_crash_at_a_write_and_the_same_command_again(
    undrawn: None, make_sweep: MakeSweep, tmp_path: Path, at: int
) -> None:
    """Before write number `at` of the whole sweep: what was finished is kept, what was begun
    goes on, and the bytes are the same.
    """
    two = {"noise": AXES["noise"]}
    run_sweep(make_sweep(two), str(tmp_path / "whole"), executor="local")
    writes = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any) -> Any:
            if writes[0] >= at and "drivers" not in args[1] and "events" not in args[1]:
                raise Crash
            writes[0] += "drivers" not in args[1] and "events" not in args[1]
            return real(*args)

        return write

    cut = tmp_path / "cut"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("create", "replace"):
            patch.setattr(Store, name, counted(getattr(Store, name)))
        try:
            run_sweep(make_sweep(two), str(cut), executor="local")
            assert at >= 26, "no write was missed"
        except Crash:
            pass
    manifests = sorted(cut.rglob("MANIFEST.json"))
    kept = {p: p.stat().st_mtime_ns for p in manifests}
    events = list[SweepEvent]()
    run_sweep(make_sweep(two), str(cut), executor="local", callbacks=[events.append])
    assert results(cut) == results(tmp_path / "whole")
    assert {p: p.stat().st_mtime_ns for p in manifests} == kept


def test_a_failing_member_stops_nobody_else(
    undrawn: None, make_sweep: MakeSweep, tmp_path: Path, fault: Path
) -> None:
    spec = make_sweep(
        {
            "a": {
                "good": None,
                "bad": {"model": "python:networks_for_tests:faulty?at=100"},
                "also-good": {"seed": 3},
            }
        }
    )
    fault.write_text("break")
    events = list[SweepEvent]()
    with pytest.raises(
        RunError,
        match=(
            r"(?s)1 of 3 members failed; all others are finished in .*\n  bad: .*planted.*only"
            r" these are missing"
        ),
    ):
        run_sweep(spec, str(tmp_path), executor="local", callbacks=[events.append])
    assert [type(e) for e in events if not isinstance(e, MemberStarted)] == [
        SweepStarted,
        MemberDone,
        MemberFailed,
        MemberDone,
    ]
    assert not (tmp_path / "SWEEP.json").exists()
    fault.unlink()
    events.clear()
    found = run_sweep(spec, str(tmp_path), executor="local", callbacks=[events.append])
    assert [e.name for e in events if isinstance(e, MemberDone)] == ["bad"], (
        "only this one was missing"
    )
    assert events[0] == SweepStarted(str(tmp_path), 3, 2)
    assert list(found.members) == ["good", "bad", "also-good"]


def test_a_bug_in_one_model_is_told_with_the_member(
    undrawn: None, make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of every kind, and a stop that is none."""
    real = sweep_run.run_any

    def faulty(spec: Any, out: str, **how: Any) -> Any:
        if out.endswith("seed-0/uniform"):
            raise ZeroDivisionError("by nothing")
        return real(spec, out, **how)

    monkeypatch.setattr(sweep_run, "run_any", faulty)
    with pytest.raises(RunError, match="seed-0/uniform: ZeroDivisionError: by nothing"):
        run_sweep(make_sweep(), str(tmp_path), executor="local")

    def stopped(spec: Any, out: str, **how: Any) -> Any:
        raise Stopped("inner words")

    monkeypatch.setattr(sweep_run, "run_any", stopped)
    with pytest.raises(
        Stopped, match=r"stopped; 3 of 4 members are done in .*The same command goes on from there"
    ):
        run_sweep(make_sweep(), str(tmp_path), executor="local")


@pytest.mark.parametrize(
    "changes, axes, words",
    [
        ({"seed": 8}, AXES, "seed: 7 -> 8 (all members)"),
        (
            {},
            {
                "network": AXES["network"],
                "noise": {"normal": None, "uniform": {"stimulus.kind": "binary"}},
            },
            '"uniform" -> "binary"',
        ),
        ({}, {"network": AXES["network"]}, 'axes.noise: ["normal","uniform"] -> null'),
        ({}, dict(reversed(AXES.items())), "order of axes: network, noise -> noise, network"),
    ],
)
def test_a_changed_sweep_is_refused_with_the_difference(
    undrawn: None,
    make_sweep: MakeSweep,
    tmp_path: Path,
    changes: dict[str, Any],
    axes: dict[str, Any],
    words: str,
) -> None:
    """Before any member begins, though only one is there; while shards may be cut otherwise."""
    spec = make_sweep()
    with pytest.raises(Stopped):
        run_sweep(spec, str(tmp_path), executor="local", callbacks=[_stop_after_one])
    with pytest.raises(RunError) as caught:
        run_sweep(make_sweep(axes, **changes), str(tmp_path), executor="local")
    assert words in str(caught.value), caught.value
    assert "Give another --out, or the sweep that began it" in str(caught.value)
    assert (
        run_sweep(make_sweep(execution={"segments": 2}), str(tmp_path), executor="local").axes
        == spec.axes
    )


def _stop_after_one(event: SweepEvent) -> None:
    if isinstance(event, MemberDone):
        raise KeyboardInterrupt


def test_what_cannot_be(undrawn: None, make_sweep: MakeSweep, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="in this process's memory"):
        run_sweep(make_sweep(), "memory://sweep")
    with pytest.raises(SpecError, match="local has one worker"):
        run_sweep(make_sweep(), str(tmp_path), executor="local", workers=2)
    assert list(run_sweep(make_sweep(), "memory://a/sweep", executor="local").members) == NAMES


def test_one_line_as_each_member_begins_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    printer = SweepPrinter()
    for event in (
        SweepStarted("runs/a", 4, 1),
        MemberStarted("x", "node-1"),
        MemberLost("x", "out of memory"),
        MemberDone("x", 2000, 3.0),
        MemberFailed("y", "no such file\nmore"),
        MemberDone("z", 2000, 3.0),
    ):
        printer(event)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0] == "sweep in runs/a: 4 members, 1 were finished before"
    assert lines[3].startswith("x: done, 2,000 images in 3 s; 2 of 4 members done, ")
    assert lines[3].endswith("left")
    assert lines[4].startswith("y: failed: no such file; 2 of 4 members done, 1 failed, ")
    assert lines[5].startswith("z: done, 2,000 images in 3 s; 3 of 4 members done, 1 failed, ")
    assert not lines[5].endswith("left")


@pytest.mark.ray
def test_ray_gives_the_same_bytes(make_sweep: MakeSweep, ray_cluster: None, tmp_path: Path) -> None:
    """As many at once as fit, or one by one through the ordinary executor."""
    spec = make_sweep({"noise": AXES["noise"]})
    run_sweep(spec, str(tmp_path / "local"), executor="local")
    wanted = results(tmp_path / "local")
    for name, how in {"fit": {}, "in-turn": {"one_by_one": True, "workers": 2}}.items():
        events, inner = list[SweepEvent](), list[Any]()
        run_sweep(
            spec,
            str(tmp_path / name),
            callbacks=[events.append],
            member_callbacks=[inner.append],
            **how,
        )
        assert results(tmp_path / name) == wanted, name
        assert sorted(e.name for e in events if isinstance(e, MemberDone)) == ["normal", "uniform"]
        assert any(isinstance(e, ShardDone) for e in inner) == (name == "in-turn")


@pytest.mark.ray
def test_a_worker_that_dies_is_replaced_and_a_failure_is_told(
    make_sweep: MakeSweep, ray_cluster: None, tmp_path: Path, fault: Path
) -> None:
    """One member's process is killed in the middle, once; another one's model cannot be found."""
    axes = {
        "a": {
            n: {"model": f"python:networks_for_tests:{m}"}
            for n, m in {"killed": "faulty?at=300", "absent": "no_such"}.items()
        }
    }
    fault.write_text("kill once")
    events = list[SweepEvent]()
    with pytest.raises(RunError, match=r"(?s)1 of 2 members failed.*\n  absent: .*no_such"):
        run_sweep(make_sweep(axes), str(tmp_path / "ray"), workers=1, callbacks=[events.append])
    assert [e.name for e in events if isinstance(e, MemberLost)] == ["killed"]
    assert [e.name for e in events if isinstance(e, MemberDone)] == ["killed"]
    alone = make_sweep(axes).members["killed"]
    assert isinstance(alone, Spec)
    run(alone, str(tmp_path / "alone"), executor="local")
    assert results(tmp_path / "ray" / "killed") == results(tmp_path / "alone")


@pytest.mark.ray
def test_a_worker_that_dies_again_and_again_is_given_up(
    make_sweep: MakeSweep, ray_cluster: None, tmp_path: Path
) -> None:
    def dying(place: Place, name: str, spec: Any, how: Any) -> Iterator[SweepEvent]:
        yield MemberStarted(name, "here")
        os._exit(1)

    events = list[SweepEvent]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_run, "run_member", dying)
        with pytest.raises(RunError, match=r"only: its worker died 4 times"):
            run_sweep(make_sweep({"a": {"only": None}}), str(tmp_path), callbacks=[events.append])
    assert sum(isinstance(e, MemberLost) for e in events) == 3


def test_the_commands(undrawn: None, make_sweep: MakeSweep, tmp_path: Path) -> None:
    """plan, run, status, verify and report of a file with a sweep, and of a sweep that is
    damaged.
    """
    base = make_sweep().members["seed-0/normal"].model_dump(mode="json", exclude_unset=True)
    path, out = tmp_path / "job.yaml", tmp_path / "out"
    path.write_text(
        yaml.safe_dump({"sweep": AXES, "full": {"samples": 1280}} | base, sort_keys=False)
    )

    def wna(*arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    planned = wna("plan", path, "--full")
    assert "a sweep of 4 runs (2 network x 2 noise)" in planned.stdout
    assert (
        "seed-1/uniform                 python:networks_for_tests:linear?seed=1, uniform noise of"
        " scale 1 around 0.0" in planned.stdout
    )
    assert "5,120 images in all" in planned.stdout
    assert wna("status", out).exit_code == 1
    got = wna("run", path, "--out", out, "--executor", "local", "--set", "samples=700")
    assert got.exit_code == 0, got.output
    assert "seed-0/uniform" in got.stdout
    assert "700" in got.stdout
    assert "4 of 4 members done" in got.stderr
    assert (wna("status", out).exit_code, wna("status", out).stdout) == (
        0,
        f"{out}: finished, 4 members\n",
    )
    assert (
        "whole. 4 members, each as published and whole by itself; 2,800 images in all"
        in wna("verify", out).stdout
    )
    assert "tile [0, 700)" in wna("verify", out / "seed-0" / "uniform").stdout, (
        "a member is a run by itself"
    )
    assert wna("report", out, "--to", tmp_path / "report").exit_code == 0
    assert (tmp_path / "report/seed-1/normal/z_maps.npy").read_bytes() == (
        out / "seed-1/normal/result/z_maps.npy"
    ).read_bytes()
    changed = wna("run", path, "--out", out, "--executor", "local", "--full")
    assert (changed.exit_code, "samples: 700 -> 1280 (all members)" in changed.stderr) == (1, True)
    (out / "SWEEP.json").unlink()
    (out / "seed-1/uniform/MANIFEST.json").unlink()
    waiting = wna("status", out)
    assert (
        waiting.exit_code,
        "3 of 4 members done\n  seed-1/uniform: 700 of 700 images committed; finished"
        in waiting.stdout,
    ) == (
        3,
        True,
    )
    unfinished = wna("verify", out)
    assert (unfinished.exit_code, "the sweep is not finished" in unfinished.stderr) == (1, True)
