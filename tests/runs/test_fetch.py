"""Fetching a run: whole or refused, never half; interrupted and taken up again; nothing outside
the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from copied_runs import SPEC, files, put
from servers import S3Server

from wna_ray.errors import RunError, StoreError
from wna_ray.kinds.average.job import run
from wna_ray.kinds.average.run import open_run
from wna_ray.runs import fetch as fetch_module
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.fetch import Fetched, fetch
from wna_ray.runs.local_folder import temporary_name
from wna_ray.runs.manifest import Entry, Manifest
from wna_ray.specs.run import Spec
from wna_ray.storage.store import Store

MakeSpec = Callable[..., Spec]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished local run; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(Spec.parse(SPEC), str(out), executor="local")
    return out


def manifest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "MANIFEST.json").read_text())
    return found


@pytest.fixture(params=["local", "memory", "s3"])
def source(
    request: pytest.FixtureRequest, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """The run in storage of every kind, with an ``evaluation/`` as a run may have."""
    if request.param == "local":
        store = Store(str(tmp_path / "source"))
    elif request.param == "memory":
        store = Store(f"memory://{uuid.uuid4().hex}")
    else:
        server: S3Server = request.getfixturevalue("moto")
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        store = Store(f"s3://runs/{uuid.uuid4().hex}")
    put(whole, store)
    store.replace("evaluation/classifier.json", b"{}")
    yield store
    if request.param == "memory":
        for name in store.list():
            store.discard(name)


def test_a_run_arrives_whole(source: Store, whole: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    got = fetch(
        source.place, tmp_path / "copy", callback=lambda done, total: told.append((done, total))
    )
    listed = Manifest.parse(manifest(whole), "MANIFEST.json").listed
    names = {*listed, "MANIFEST.json"}
    assert files(tmp_path / "copy") == {name: (whole / name).read_bytes() for name in names}, (
        "what the manifest lists, and nothing else"
    )
    assert RunDirectory(str(tmp_path / "copy")).verify() == []
    size = sum(entry.bytes for entry in listed.values())
    manifest_size = (whole / "MANIFEST.json").stat().st_size
    fingerprint = RunDirectory(str(whole)).spec().fingerprint
    assert got == Fetched(
        tmp_path / "copy", fingerprint, len(names), size + manifest_size, 0, size, 0
    )
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_again_is_nothing_to_do(source: Store, tmp_path: Path) -> None:
    first = fetch(source.place, tmp_path / "copy")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "copy").rglob("*")}
    again = fetch(source.place, tmp_path / "copy")
    assert (again.kept, again.downloaded, again.bytes) == (first.objects, 0, first.bytes)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "copy").rglob("*")} == before


def test_without_segments_a_copy_reports_but_proves_nothing(
    source: Store, whole: Path, tmp_path: Path
) -> None:
    got = fetch(source.place, tmp_path / "copy", segments=False)
    assert (got.left_out, list((tmp_path / "copy").glob("segments/*"))) == (4, [])
    made = open_run(str(tmp_path / "copy")).derive()
    assert all(made[name] == (whole / name).read_bytes() for name in made)
    faults = RunDirectory(str(tmp_path / "copy")).verify()
    assert len(faults) == 1
    assert "none of the 4 segments is here (was it fetched without them?)" in faults[0]
    later = fetch(source.place, tmp_path / "copy")
    assert later.kept == got.objects
    assert RunDirectory(str(tmp_path / "copy")).verify() == []


def test_an_interrupted_fetch_goes_on(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 100 bytes, stopped as by Ctrl-C after 40 of them: the next call asks for what is
    missing, no byte twice.
    """
    monkeypatch.setattr("wna_ray.storage.store.CHUNK_BYTES", 100)
    parts = 0

    def stop(done: int, total: int) -> None:
        nonlocal parts
        parts += 1
        if parts == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(source.place, tmp_path / "copy", workers=2, callback=stop)
    assert not (tmp_path / "copy" / "MANIFEST.json").exists(), (
        "an unfinished copy is not taken for a run"
    )
    assert list((tmp_path / "copy").rglob(".tmp-*")), "what has come is kept"
    here = sum(len(data) for data in files(tmp_path / "copy").values())
    got = fetch(source.place, tmp_path / "copy")
    size = got.bytes - (tmp_path / "copy" / "MANIFEST.json").stat().st_size
    assert got.downloaded == size - here
    assert RunDirectory(str(tmp_path / "copy")).verify() == []
    assert not list((tmp_path / "copy").rglob(".tmp-*"))


def test_a_damaged_part_here_does_not_damage_the_whole(whole: Path, tmp_path: Path) -> None:
    """As a power cut leaves it: the right length so far, other bytes."""
    entry = manifest(whole)["objects"]["result/moments.npz"]
    part = tmp_path / "copy" / temporary_name("result/moments.npz", Entry(**entry))
    part.parent.mkdir(parents=True)
    for garbage in (bytes(1000), bytes(entry["bytes"]), bytes(entry["bytes"] + 1)):
        part.write_bytes(garbage)
        fetch(str(whole), tmp_path / "copy")
        assert RunDirectory(str(tmp_path / "copy")).verify() == []
        (tmp_path / "copy" / "result" / "moments.npz").unlink()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "short": lambda data: data[:-1],
    "long": lambda data: data + b"x",
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name",
    [
        "segments/000000000000512-000000000001024.npz",
        "result/figures/z_maps.png",
        "environment.json",
    ],
)
def test_a_damaged_object_is_named_and_not_put_in_place(
    source: Store, whole: Path, tmp_path: Path, name: str, damage: str
) -> None:
    source.replace(name, DAMAGE[damage]((whole / name).read_bytes()))
    with pytest.raises(
        RunError, match=rf"{name} is damaged: .*MANIFEST.json says .*Nothing of it was put in place"
    ):
        fetch(source.place, tmp_path / "copy")
    assert not (tmp_path / "copy" / name).exists()
    assert not (tmp_path / "copy" / "MANIFEST.json").exists()
    assert not list((tmp_path / "copy" / name).parent.glob(".tmp-*-" + Path(name).name)), (
        "wrong bytes are not gone on with"
    )
    source.replace(name, (whole / name).read_bytes())
    fetch(source.place, tmp_path / "copy")
    assert RunDirectory(str(tmp_path / "copy")).verify() == []


def test_a_missing_object_is_named(whole: Path, tmp_path: Path) -> None:
    store = put(whole, Store(str(tmp_path / "source")))
    (tmp_path / "source" / "result" / "z_maps.npy").unlink()
    with pytest.raises(RunError, match=r"result/z_maps.npy is missing; MANIFEST.json says"):
        fetch(store.place, tmp_path / "copy")


def test_a_run_that_is_not_finished_is_not_fetched(whole: Path, tmp_path: Path) -> None:
    store = put(whole, Store(str(tmp_path / "source")))
    (tmp_path / "source" / "MANIFEST.json").unlink()
    with pytest.raises(RunError, match="the run is not finished"):
        fetch(store.place, tmp_path / "copy")
    with pytest.raises(RunError, match="no run at"):
        fetch(str(tmp_path / "nowhere"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_another_run_in_the_folder_is_refused(
    whole: Path, tmp_path: Path, make_spec: MakeSpec
) -> None:
    run(make_spec(seed=8), str(tmp_path / "other"), executor="local")
    before = files(tmp_path / "other")
    with pytest.raises(RunError, match=r"other' holds another run \(.*; give another folder"):
        fetch(str(whole), tmp_path / "other")
    assert files(tmp_path / "other") == before


@pytest.mark.parametrize(
    "name, message",
    [
        ("MANIFEST.json", "is not that of"),
        ("result/moments.npz", "is there with other content than the run's; delete it"),
        ("result/stranger.npy", "is not of this run; move it away"),
        ("segments/stranger.npz", "is not of this run; move it away"),
    ],
)
def test_what_is_there_is_never_overwritten(
    whole: Path, tmp_path: Path, name: str, message: str
) -> None:
    fetch(str(whole), tmp_path / "copy")
    (tmp_path / "copy" / name).write_bytes(b"mine")
    (tmp_path / "copy" / "notes.txt").write_bytes(b"mine, too")
    with pytest.raises(RunError, match=message):
        fetch(str(whole), tmp_path / "copy")
    assert (tmp_path / "copy" / name).read_bytes() == (
        tmp_path / "copy" / "notes.txt"
    ).read_bytes()[:4]


FOLDERS = ["result", "segments", "result/figures"]
LINKED = [*FOLDERS, "spec.json", "result/moments.npz", "MANIFEST.json"]


@pytest.mark.parametrize(
    ("name", "kind"),
    # folders have none
    [
        (n, k)
        for n in [*LINKED, "part"]
        for k in ("symbolic", "dangling", "hard")
        if k != "hard" or n not in FOLDERS
    ],
)
def test_no_link_in_the_folder_leads_out_of_it(
    whole: Path, tmp_path: Path, name: str, kind: str
) -> None:
    canary, copy = tmp_path / "canary", tmp_path / "copy"
    canary.mkdir()
    (canary / "file").write_bytes(b"canary")
    if name == "part":
        name = temporary_name(
            "result/z_maps.npy", Entry(**manifest(whole)["objects"]["result/z_maps.npy"])
        )
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    folder = name in FOLDERS
    if kind == "hard":
        os.link(canary / "file", copy / name)
    else:
        (copy / name).symlink_to(
            canary / ("nowhere" if kind == "dangling" else "." if folder else "file")
        )
    if Path(name).name.startswith(".tmp-"):
        fetch(str(whole), copy)  # a part that is not ours is put aside
        assert RunDirectory(str(copy)).verify() == []
    else:
        with pytest.raises(
            (RunError, StoreError), match=r"symbolic link|other content|damaged|is not that of"
        ):
            fetch(str(whole), copy)
    assert files(canary) == {"file": b"canary"}


def test_a_full_disk_is_seen_before_anything_is_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result((*room[:3], 5, 5, *room[5:])))
    with pytest.raises(
        StoreError, match=r"copy' needs [\d.]+ kB more, but the disk has .*; free some space"
    ):
        fetch(str(whole), tmp_path / "copy")
    assert files(tmp_path / "copy") == {}


def test_a_disk_that_fills_up_keeps_what_has_come(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = fetch_module.write_all, []

    def limited(file: int, data: bytes) -> None:
        full = sum(written) + len(data) > 20_000
        written.append(len(data) // 2 if full else len(data))
        write(file, data[: written[-1]])
        if full:
            raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(fetch_module, "write_all", limited)
    with pytest.raises(
        StoreError,
        match=(
            r"cannot write .*No space left on device.*free some space, then run the same command"
            r" again"
        ),
    ):
        fetch(str(whole), tmp_path / "copy", workers=3)
    here = sum(len(data) for data in files(tmp_path / "copy").values())
    assert here == sum(written) > 10_000
    monkeypatch.setattr(fetch_module, "write_all", write)
    got = fetch(str(whole), tmp_path / "copy")
    assert got.downloaded == got.bytes - (whole / "MANIFEST.json").stat().st_size - here
    assert RunDirectory(str(tmp_path / "copy")).verify() == []


def test_folders_that_cannot_be_written(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for dest in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="cannot write"):
            fetch(str(whole), dest)
    with pytest.raises(StoreError, match="is a URL, but runs are fetched to a local folder"):
        fetch(str(whole), Path("s3://bucket/run"))


def test_one_fetch_to_a_folder_at_a_time(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    other = os.open(tmp_path / "copy", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match="another process is fetching to"):
        fetch(str(whole), tmp_path / "copy")
    os.close(other)
    fetch(str(whole), tmp_path / "copy")


def test_objects_come_in_parallel(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four workers are under way at the same time: each waits for the other three."""
    chunks, together = Store.chunks, threading.Barrier(4, timeout=30)
    met = threading.Event()

    def waiting(self: Store, name: str, start: int = 0) -> Iterator[bytes]:
        if name.startswith("segments/") and not met.is_set():
            together.wait()
            met.set()
        yield from chunks(self, name, start)

    monkeypatch.setattr(Store, "chunks", waiting)
    fetch(str(whole), tmp_path / "copy", workers=4)
    assert met.is_set()
