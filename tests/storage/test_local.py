"""Objects in a local folder: whole or none on a full disk, what killed writers leave, and no way
through a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wna_ray.errors import StoreError
from wna_ray.storage.store import Store


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
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    store = Store(str(small_disk))
    assert store.create("small", b"1" * 1000)
    with pytest.raises(
        StoreError, match=r"cannot write '.*large'.*No space left.*committed before is safe"
    ):
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


def child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


WRITER = """
import os, signal, sys, time
from wna_ray.storage.local import temporary_file
temporary_file(sys.argv[1] + "/segments/x", b"half of it")
print("written", flush=True)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


def test_sweep_knows_at_once_which_writers_are_no_more(tmp_path: Path) -> None:
    """A file of a writer that was killed goes, however new; one of a writer that lives stays,
    however old.
    """
    child(WRITER, str(tmp_path), "die")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "live"], stdout=subprocess.PIPE
    ) as living:
        assert living.stdout is not None
        living.stdout.readline()
        files = list((tmp_path / "segments").iterdir())
        assert len(files) == 2
        (alive,) = [file for file in files if f"-{living.pid}-" in file.name]
        os.utime(alive, (time.time() - 7200,) * 2)
        Store(str(tmp_path)).sweep()
        assert list((tmp_path / "segments").iterdir()) == [alive]
        living.kill()
    Store(str(tmp_path)).sweep()
    assert list((tmp_path / "segments").iterdir()) == []


def test_sweep_leaves_files_of_writers_elsewhere_until_they_are_old(tmp_path: Path) -> None:
    """Another boot, or another container, may use the same number for a process that lives."""
    names = [f".tmp-{'0' * 12}-1-1-{'a' * 32}", f".tmp-{'a' * 32}", f".tmp-{'b' * 32}-moments.npz"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    Store(str(tmp_path)).sweep()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    for name in names:
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    Store(str(tmp_path)).sweep()
    assert list(tmp_path.iterdir()) == []


def test_sweep_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".tmp-old").write_bytes(b"mine")
    os.utime(tmp_path / "elsewhere" / ".tmp-old", (0, 0))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "segments").symlink_to(tmp_path / "elsewhere")
    Store(str(tmp_path / "run")).sweep()
    assert (tmp_path / "elsewhere" / ".tmp-old").exists()


def failing_scandir(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Let the listing of one folder fail as a file system would (the owner of this process may
    be root).
    """
    scandir = os.scandir

    def fail(path: str) -> object:
        if str(path) == str(folder):
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOTDIR])
@pytest.mark.parametrize("prefix", ["", "a"])
def test_a_folder_that_cannot_be_listed_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, prefix: str
) -> None:
    store = Store(str(tmp_path))
    store.create("a/b/x", b"1")
    failing_scandir(monkeypatch, tmp_path / "a" / "b", number)
    for call in (lambda: store.list(prefix), store.sweep):
        with pytest.raises(
            StoreError, match=rf"cannot list '{tmp_path}/a/b': {os.strerror(number)}; "
        ):
            call()
    assert store.list("nowhere") == {}, "a folder that is not there is a new one"


def test_an_object_that_cannot_be_looked_at_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.create("a/x", b"1")

    class Entry:
        name = "x"

        def is_dir(self, follow_symlinks: bool) -> bool:
            return False

        def stat(self, follow_symlinks: bool) -> os.stat_result:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", lambda path: contextlib.nullcontext([Entry()]))
    with pytest.raises(
        StoreError,
        match=r"cannot list .*: Input/output error; the disk or the network file system failed",
    ):
        store.list("a")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which can become nobody")
def test_a_folder_that_is_closed_to_this_user_is_not_empty(tmp_path: Path) -> None:
    """A real file system, and a user who may not read: a process of root's is asked to become
    nobody.
    """
    Store(str(tmp_path)).create("run/segments/x", b"1")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "run" / "segments").chmod(0o700)
    code = (
        "import os, sys; from wna_ray.storage.store import Store; os.setgid(65534);"
        " os.setuid(65534)\n"
    )
    process = child(code + "print(Store(sys.argv[1]).list())", str(tmp_path / "run"))
    assert "StoreError: cannot list" in process.stderr
    assert "run/segments': Permission denied" in process.stderr


LINKED = ["a", "a/b"]
CALLS: dict[str, Callable[[Store], Any]] = {
    "read": lambda store: store.read("a/b/x"),
    "size": lambda store: store.size("a/b/x"),
    "chunks": lambda store: list(store.chunks("a/b/x")),
    "list": lambda store: store.list("a/b"),
    "create": lambda store: store.create("a/b/new", b"1"),
    "replace": lambda store: store.replace("a/b/x", b"2"),
    "discard": lambda store: store.discard("a/b/x"),
    "below": lambda store: store.below("a/b"),
    "refuse_links": lambda store: store.refuse_links(["a/b/x"]),
}


@pytest.mark.parametrize("folder", LINKED)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_folder_of_a_store_is_a_link(
    tmp_path: Path, folder: str, call: Callable[[Store], Any]
) -> None:
    outside, store = tmp_path / "outside", Store(str(tmp_path / "run"))
    store.create("a/b/x", b"1")
    (tmp_path / "run" / folder).rename(outside)
    (tmp_path / "run" / folder).symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    with pytest.raises(
        StoreError,
        match=rf"'{tmp_path}/run/{folder}' is a symbolic link.*put the folder itself there",
    ):
        call(store)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert folder in store.list(), "named, not followed"


def test_the_place_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    store = Store(str(tmp_path / "run"))
    store.create("a/x", b"1")
    assert (store.read("a/x"), store.list()) == (b"1", {"a/x": 1})
    assert Store(store.below("a")).list() == {"x": 1}


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
    assert sorted(store.list()) == [
        "link",
        "loop",
        "pipe",
        "secret",
    ], "links are named, not followed"
