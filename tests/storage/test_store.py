"""The store: whole objects or none, first writer wins, one clear sentence when storage refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from wna_ray.errors import StoreError
from wna_ray.files import fault_of
from wna_ray.storage import store as store_module
from wna_ray.storage.store import Place, Store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(
        str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"
    )


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
from wna_ray.storage.store import Store
from wna_ray.storage.store import _temporary_file
_temporary_file(sys.argv[1] + "/segments/x", b"half of it")
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
    told = child(code + "print(Store(sys.argv[1]).list())", str(tmp_path / "run"))
    assert "StoreError: cannot list" in told.stderr
    assert "run/segments': Permission denied" in told.stderr


class Flaky(AbstractFileSystem):
    """Folders by ``ls`` alone, as most file systems of fsspec have them; one of them fails."""

    protocol = "flaky"
    tree: ClassVar[dict[str, list[tuple[str, int | None]]]] = {
        "run": [("spec.json", 5), ("segments", None)],
        "run/segments": [("x", 7), ("deep", None)],
        "run/segments/deep": [("y", 9)],
    }
    broken: ClassVar[str] = ""

    def ls(self, path: str, detail: bool = True, **_: object) -> list[Any]:
        path = self._strip_protocol(path)
        if path == self.broken:
            raise OSError(errno.EIO, "the server is confused")
        if path not in self.tree:
            raise FileNotFoundError(path)
        return [
            {
                "name": f"{path}/{name}",
                "size": size or 0,
                "type": "file" if size is not None else "directory",
            }
            for name, size in self.tree[path]
        ]


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Store:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(Flaky, "broken", "")
    return Store("flaky://run")


def test_a_store_of_any_kind_is_listed_in_whole(flaky: Store) -> None:
    assert flaky.list() == {"segments/deep/y": 9, "segments/x": 7, "spec.json": 5}
    assert flaky.list("segments/deep") == {"segments/deep/y": 9}
    assert flaky.list("nowhere") == {}


def test_a_listing_without_an_end_is_ended(flaky: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"/".join(["run", *"a" * depth]): [("a", None)] for depth in range(200)}
    monkeypatch.setattr(Flaky, "tree", tree)
    with pytest.raises(StoreError, match="has folders in each other without an end"):
        flaky.list()


@pytest.mark.parametrize("folder", ["run", "run/segments", "run/segments/deep"])
def test_a_store_of_any_kind_tells_what_it_cannot_list(
    flaky: Store, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """fsspec's own ``find`` takes such a folder for an empty one."""
    monkeypatch.setattr(Flaky, "broken", folder)
    with pytest.raises(StoreError, match=f"cannot list 'flaky://{folder}': "):
        flaky.list()


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


def test_a_place_below_a_place(tmp_path: Path) -> None:
    assert Store(str(tmp_path)).below("a/b") == Place(f"{tmp_path}/a/b")
    assert Store(Place("memory://x/y", single_writer=True)).below("a") == Place(
        "memory://x/y/a", None, True
    )
    assert Store("memory://").below("a").url == "memory://a"
    with pytest.raises(StoreError, match="is no name of an object"):
        Store("memory://x").below("../y")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://run?sig=hunter2", "memory://run?sig=***"),
        ("http://me:hunter2@host/run", "http://***@host/run"),
    ],
)
def test_secrets_of_a_url_are_for_access_alone(url: str, shown: str) -> None:
    store = Store(url)
    assert store.url == shown
    assert store.place.url == url
    assert Store(store.place).place == store.place


LOGINS = [
    *("s3://AKIA:hunter2@bucket/run", "s3://hunter2@bucket", "s3a://AKIA:hunter2/x+y@bucket/run"),
    *(
        "gs://x:hunter2@bucket",
        "abfs://box:hunter2@account/run",
        "simplecache::s3://AKIA:hunter2@bucket/run",
    ),
]


@pytest.mark.parametrize("url", LOGINS)
def test_credentials_do_not_belong_into_a_place(url: str) -> None:
    with pytest.raises(
        StoreError, match=r"holds credentials, .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ) as told:
        Store(url)
    assert "hunter2" not in str(told.value)


def test_a_container_of_azure_is_no_login() -> None:
    assert fault_of("abfs://container@account.dfs.core.windows.net/run") is None
    assert fault_of("az://container/run") is None


class Answers(SimpleHTTPRequestHandler):
    """Files of a folder; with a status, that instead."""

    status: ClassVar[int | None] = None

    def send_head(self) -> Any:
        if self.status is None:
            return super().send_head()
        self.send_error(self.status)
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A run behind a web server."""
    (tmp_path / "x").write_bytes(b"123")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"4")
    monkeypatch.setattr(Answers, "status", None)
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answers, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store = Store(f"http://127.0.0.1:{server.server_port}")
    store.patience = 0.1
    yield store
    server.shutdown()
    server.server_close()


def test_what_a_web_server_has_and_has_not(web: Store) -> None:
    assert (web.read("x"), web.read("x", most=3), web.size("x")) == (b"123", b"123", 3)
    assert (web.read("y"), web.read("y", most=3), web.size("y")) == (None, None, None)
    assert (web.list().keys(), web.list("nowhere")) == ({"x", "a/b"}, {})


@pytest.mark.parametrize(
    ("status", "passing"), [(503, True), (500, True), (403, False), (401, False)]
)
def test_a_web_server_that_refuses_has_not_lost_the_run(
    web: Store, monkeypatch: pytest.MonkeyPatch, status: int, passing: bool
) -> None:
    monkeypatch.setattr(Answers, "status", status)
    for call in (lambda: web.read("x", most=3), lambda: web.size("x"), web.list):
        with pytest.raises(StoreError, match=r"cannot (read|list) ") as told:
            call()
        assert told.value.passing == passing


def test_a_web_server_that_is_away_has_not_lost_the_run() -> None:
    """fsspec says that there is no such file."""
    store = Store("http://me:hunter2@127.0.0.1:9/run")
    store.patience = 0.0
    for call in (lambda: store.read("x", most=3), lambda: store.size("x"), store.list):
        with pytest.raises(
            StoreError, match=r"cannot (read|list) 'http://\*\*\*@127.0.0.1:9/run"
        ) as told:
            call()
        assert "hunter2" not in str(told.value)


def test_what_is_logged_tells_no_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, tries = Store("memory://logged/run?sig=hunter2"), list[int]()

    def refuse(*_args: object, **_options: object) -> bytes:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("http://me:hunter2@host\x1b[2J is away")
        return b"1"

    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(store._fs, "cat_file", refuse)
    assert store.read("x") == b"1"
    assert "cannot read 'memory://logged/run?sig=***' now (http://***@host" in caplog.text
    assert "hunter2" not in caplog.text
    assert "\x1b" not in caplog.text


def test_a_reader_without_memory_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.create("x", b"1")

    def full(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(store_module, "_read_file", full)
    with pytest.raises(
        StoreError, match=r"x' does not fit into the memory that is free.*take a larger machine"
    ) as told:
        store.read("x")
    assert told.value.passing, "another machine may have more"


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


def test_other_refusals_are_one_sentence_whatever_their_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_locations_are_absolute_where_they_are_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert sorted(store.list()) == [
        "link",
        "loop",
        "pipe",
        "secret",
    ], "links are named, not followed"


def test_reading_in_parts_and_with_a_bound(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("x", bytes(range(100)))
    assert b"".join(store.chunks("x", start=10)) == bytes(range(10, 100))
    assert store.read("x", most=100) == bytes(range(100))
    with pytest.raises(StoreError, match="'x' has 100 bytes, but at most 99 were expected"):
        store.read("x", most=99)
