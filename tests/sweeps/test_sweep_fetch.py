"""Fetching a sweep: every member whole or refused, interrupted and taken up again."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from copied_runs import SPEC, files, put
from typer.testing import CliRunner

from wna_ray.cli import app
from wna_ray.errors import RunError, WnaError
from wna_ray.runs.fetch import fetch
from wna_ray.specs.sweep import SweepSpec
from wna_ray.storage.store import Store
from wna_ray.sweeps.directory import SweepDirectory
from wna_ray.sweeps.fetch import fetch_sweep
from wna_ray.sweeps.job import run_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two runs on two levels; not to be changed."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    axes = {"seed": {"one": {"seed": 1}, "two": {"seed": 2}}, "noise": {"n.1": None}}
    run_sweep(
        SweepSpec.parse({"sweep": axes} | SPEC | {"samples": 640}), str(out), executor="local"
    )
    return out


MEMBERS = ["one/n.1", "two/n.1"]


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_sweep_arrives_whole(sweep: Path, tmp_path: Path, kind: str) -> None:
    store = put(
        sweep,
        Store(str(tmp_path / "source") if kind == "local" else f"memory://{uuid.uuid4().hex}"),
    )
    told: list[tuple[int, int]] = []
    got = fetch_sweep(
        store.place, tmp_path / "copy", callback=lambda done, total: told.append((done, total))
    )
    copy = files(tmp_path / "copy")
    journals = ("/drivers/", "/events/")
    assert copy == {
        name: data
        for name, data in files(sweep).items()
        if not any(part in name for part in journals)
    }
    assert SweepDirectory(str(tmp_path / "copy")).verify() == {"": [], "one/n.1": [], "two/n.1": []}
    assert (got.members, got.objects, got.bytes) == (2, len(copy), sum(map(len, copy.values())))
    assert told[-1][0] == told[-1][1] == got.downloaded
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    again = fetch_sweep(store.place, tmp_path / "copy")
    assert (again.kept, again.downloaded, again.bytes) == (got.objects, 0, got.bytes)


def test_an_interrupted_sweep_goes_on(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the second member: an unfinished copy is no sweep, and no byte
    comes twice.
    """
    monkeypatch.setattr("wna_ray.storage.store.CHUNK_BYTES", 1000)

    def stop(done: int, total: int) -> None:
        if done > 0.7 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_sweep(str(sweep), tmp_path / "copy", workers=2, callback=stop)
    assert (tmp_path / "copy" / "one" / "n.1" / "MANIFEST.json").exists()
    assert not {"spec.json", "SWEEP.json"} & {path.name for path in (tmp_path / "copy").iterdir()}
    here = sum(
        len(data) for name, data in files(tmp_path / "copy").items() if "MANIFEST" not in name
    )
    got = fetch_sweep(str(sweep), tmp_path / "copy")
    manifests = sum((sweep / name / "MANIFEST.json").stat().st_size for name in MEMBERS)
    ends = sum((sweep / name).stat().st_size for name in ("spec.json", "SWEEP.json"))
    assert got.downloaded == got.bytes - manifests - ends - here
    assert not list((tmp_path / "copy").rglob(".tmp-*"))


def test_a_sweep_without_segments_proves_nothing(sweep: Path, tmp_path: Path) -> None:
    got = fetch_sweep(str(sweep), tmp_path / "copy", segments=False)
    assert got.left_out == sum(len(list((sweep / name / "segments").iterdir())) for name in MEMBERS)
    found = SweepDirectory(str(tmp_path / "copy")).verify()
    assert all("was it fetched without them?" in found[name][0] for name in MEMBERS)
    fetch_sweep(str(sweep), tmp_path / "copy")
    assert SweepDirectory(str(tmp_path / "copy")).verify() == {"": [], "one/n.1": [], "two/n.1": []}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not finished": (lambda f: (f / "SWEEP.json").unlink(), "the sweep is not finished"),
    "another spec": (
        lambda f: edit(f / "spec.json", lambda s: s | {"more": 1}),
        "spec.json is not what SWEEP.json lists",
    ),
    "another member": (
        lambda f: edit(f / "two/n.1/MANIFEST.json", lambda m: m | {"more": 1}),
        "two/n.1/MANIFEST.json is not what SWEEP.json lists",
    ),
    "a member that is gone": (
        lambda f: (f / "two/n.1/MANIFEST.json").unlink(),
        "the run is not finished",
    ),
    "a member that is damaged": (
        lambda f: edit(f / "two/n.1/MANIFEST.json", lambda m: m | {"objects": {}}),
        "is not one of a whole run: MANIFEST.json: it does not list spec.json",
    ),
    "a link": (
        lambda f: [(f / "two").rename(f.parent / "x"), (f / "two").symlink_to(f.parent / "x")],
        "two' is a symbolic link",
    ),
}


@pytest.mark.parametrize("harm, words", HARMS.values(), ids=HARMS.keys())
def test_a_sweep_that_is_not_whole_is_not_begun(
    sweep: Path, tmp_path: Path, harm: Callable[[Path], Any], words: str
) -> None:
    shutil.copytree(sweep, tmp_path / "source")
    harm(tmp_path / "source")
    with pytest.raises(WnaError) as told:
        fetch_sweep(str(tmp_path / "source"), tmp_path / "copy")
    assert words in str(told.value)
    assert not (tmp_path / "copy").exists(), "all members are looked at first"


def test_a_damaged_object_of_a_member_is_named(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "source")
    victim = tmp_path / "source" / "two" / "n.1" / "result" / "z_maps.npy"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(
        RunError, match=r"two/n\.1/result/z_maps\.npy is damaged.*Nothing of it was put in place"
    ):
        fetch_sweep(str(tmp_path / "source"), tmp_path / "copy")
    assert not (tmp_path / "copy" / "SWEEP.json").exists()


# what a folder may hold already, and why it is refused
THERE: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "a run": (
        lambda copy, sweep: shutil.copytree(sweep / "one" / "n.1", copy),
        "spec.json' is not that of",
    ),
    "another sweep": (
        lambda copy, sweep: (
            shutil.copytree(sweep, copy) and edit(copy / "SWEEP.json", lambda s: s | {"more": 1})
        ),
        "SWEEP.json' is not that of",
    ),
    "a part of another sweep": (
        lambda copy, sweep: shutil.copytree(sweep / "one", copy / "three"),
        "three/n.1' is not of this sweep; move it away",
    ),
    "another member": (
        lambda copy, sweep: shutil.copytree(sweep / "one", copy / "two"),
        "two/n.1' holds another run",
    ),
    "a link": (
        lambda copy, sweep: copy.mkdir() or (copy / "two").symlink_to(sweep / "two"),
        "a symbolic link",
    ),
    "a link below": (
        lambda copy, sweep: (
            (copy / "two").mkdir(parents=True)
            or (copy / "two" / "n.1").symlink_to(sweep / "two" / "n.1")
        ),
        "a symbolic link",
    ),
    "another object": (
        lambda copy, sweep: (
            shutil.copytree(sweep / "two", copy / "two")
            and (copy / "two/n.1/result/x.npy").write_bytes(b"")
        ),
        "two/n.1/result/x.npy' is not of this run",
    ),
}


@pytest.mark.parametrize("there, words", THERE.values(), ids=THERE.keys())
def test_a_folder_that_holds_something_else_is_refused(
    sweep: Path, tmp_path: Path, there: Callable[[Path, Path], Any], words: str
) -> None:
    there(tmp_path / "copy", sweep)
    before, theirs = files(tmp_path / "copy"), files(sweep)
    with pytest.raises(WnaError) as told:
        fetch_sweep(str(sweep), tmp_path / "copy")
    assert words in str(told.value)
    assert files(tmp_path / "copy") == before
    assert files(sweep) == theirs


def test_a_run_is_not_fetched_into_a_sweep(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "copy")
    with pytest.raises(RunError, match="copy' holds no run but something else"):
        fetch(str(sweep / MEMBERS[0]), tmp_path / "copy")


def test_the_command_fetches_a_sweep(sweep: Path, tmp_path: Path) -> None:
    got = CliRunner().invoke(
        app, ["fetch", str(sweep), str(tmp_path / "copy")], catch_exceptions=False
    )
    assert got.exit_code == 0, got.output
    assert re.search(
        r"copy: 2 members, \d+ objects, .*, every SHA-256 as in the manifest \(0 were there"
        r" already\)",
        got.output,
    )
    got = CliRunner().invoke(app, ["verify", str(tmp_path / "copy")], catch_exceptions=False)
    assert (
        "whole. 2 members, each as published and whole by itself; 1,280 images in all" in got.output
    )
