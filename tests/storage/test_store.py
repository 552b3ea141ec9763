"""The store: whole objects or none, first writer wins, one clear sentence when storage refuses."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from wna_ray.errors import StoreError
from wna_ray.files import fault_of
from wna_ray.storage import local
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
    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
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

    monkeypatch.setattr(local, "read_file", full)
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

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
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
        monkeypatch.setattr(MemoryFileSystem, verb, refuse)
    for call in (lambda: store.create("x", b""), lambda: store.read("x"), store.list):
        with pytest.raises(StoreError, match="Unable to locate credentials"):
            call()


def test_locations_are_absolute_where_they_are_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("runs/x").place == Place(str(tmp_path / "runs" / "x"))
    assert Store("memory://runs/x").place == Place("memory://runs/x")


def test_reading_in_parts_and_with_a_bound(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("x", bytes(range(100)))
    assert b"".join(store.chunks("x", start=10)) == bytes(range(10, 100))
    assert store.read("x", most=100) == bytes(range(100))
    with pytest.raises(StoreError, match="'x' has 100 bytes, but at most 99 were expected"):
        store.read("x", most=99)
