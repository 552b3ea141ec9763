"""The store: whole objects or none, first writer wins, one clear sentence when storage refuses."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from wna_ray.errors import StoreError
from wna_ray.store import Place, Store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run")


def test_create_read_list(store: Store) -> None:
    assert store.list() == {}
    assert store.read("a/b") is None
    assert store.create("a/b", b"123")
    assert store.create("c", b"")
    assert (store.read("a/b"), store.read("c")) == (b"123", b"")
    assert store.list() == {"a/b": 3, "c": 0}
    assert store.list("a") == {"a/b": 3}


def test_create_never_overwrites_and_replace_does(store: Store) -> None:
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert store.read("x") == b"first"
    store.replace("x", b"third")
    assert store.read("x") == b"third"


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    store, barrier = Store(str(tmp_path)), threading.Barrier(8)
    won: list[int] = []

    def write(i: int) -> None:
        barrier.wait()
        if store.create("x", bytes([i]) * 100_000):
            won.append(i)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert store.read("x") == bytes(won) * 100_000
    assert list(store.list()) == ["x"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (store.create, store.replace):
        with pytest.raises(StoreError, match=r"No space left on device; free some space"):
            write("x", b"1" * 100)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB (needs the right to mount)."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    store = Store(str(small_disk))
    assert store.create("small", b"1" * 1000)
    with pytest.raises(StoreError, match=r"cannot write '.*large'.*No space left.*committed before is safe"):
        store.create("large", b"1" * 1_000_000)
    assert store.list() == {"small": 1000}


def test_sweep_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("segments/a", b"1")
    for name, age in ((".tmp-dead", 7200), (".tmp-alive", 5)):
        (tmp_path / "segments" / name).write_bytes(b"half")
        os.utime(tmp_path / "segments" / name, (time.time() - age,) * 2)
    store.sweep()
    assert sorted(f.name for f in (tmp_path / "segments").iterdir()) == [".tmp-alive", "a"]
    assert store.list() == {"segments/a": 1}, "temporary files are no objects"


def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot write '.*file/x'.*"):
        Store(str(tmp_path / "file")).create("x", b"1")
    with pytest.raises(StoreError, match="no storage of that kind"):
        Store("nosuch://bucket/run")


class Refusal(OSError):
    """What s3fs raises for an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(22, f"status {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def test_a_lost_race_on_s3_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://race/run")

    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(22, "Invalid argument") from Refusal(412)

    monkeypatch.setattr(store._fs, "pipe_file", refuse)
    assert not store.create("x", b"1")
    with pytest.raises(StoreError, match="cannot write"):
        store.replace("x", b"1")


def test_other_refusals_are_one_sentence_whatever_their_family(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        """As botocore's: not an OSError."""

    def refuse(*_args: object, **_options: object) -> None:
        raise NoCredentialsError("Unable to locate credentials")

    store = Store("memory://closed/run")
    for verb in ("pipe_file", "cat_file", "find"):
        monkeypatch.setattr(store._fs, verb, refuse)
    for call in (lambda: store.create("x", b""), lambda: store.read("x"), store.list):
        with pytest.raises(StoreError, match="Unable to locate credentials"):
            call()


def test_locations_are_absolute_where_they_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("runs/x").place == Place(str(tmp_path / "runs" / "x"))
    assert Store("memory://runs/x").place == Place("memory://runs/x")


def test_links_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="'link' is a symbolic link"):
        store.read("link")
    with pytest.raises(StoreError, match="'pipe' is no regular file"):
        list(store.chunks("pipe") if store.size("pipe") else [store.read("pipe")])
    assert sorted(store.list()) == ["link", "loop", "pipe", "secret"], "links are named, not followed"


def test_reading_in_parts_and_with_a_bound(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("x", bytes(range(100)))
    assert b"".join(store.chunks("x", start=10)) == bytes(range(10, 100))
    assert store.read("x", most=100) == bytes(range(100))
    with pytest.raises(StoreError, match="'x' has 100 bytes, but at most 99 were expected"):
        store.read("x", most=99)
