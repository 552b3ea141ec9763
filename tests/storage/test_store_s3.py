"""The store on S3 servers: real ones, one without conditions, and one that answers with every
kind of fault.
"""

from __future__ import annotations

import http.client
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from s3fs import S3FileSystem
from servers import S3Server

from wna_ray.errors import StoreError
from wna_ray.storage import s3
from wna_ray.storage import store as store_module
from wna_ray.storage.store import Place, Store

SERVERS = ["moto", pytest.param("rgw", marks=pytest.mark.chaos)]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that honours conditions; its keys are in the environment."""
    found: S3Server = request.getfixturevalue(request.param)
    for name, value in found.env().items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def store(server: S3Server) -> Store:
    return Store(f"s3://runs/{uuid.uuid4().hex}")


def test_create_read_list(store: Store) -> None:
    assert (store.list(), store.read("a/b"), store.size("a/b")) == ({}, None, None)
    assert store.create("a/b", b"123")
    assert store.create("c", b"")
    assert (store.read("a/b"), store.read("c"), store.size("a/b")) == (b"123", b"", 3)
    assert store.list() == {"a/b": 3, "c": 0}
    assert store.list("a") == {"a/b": 3}
    assert list(store.chunks("c")) == []
    with pytest.raises(StoreError, match="'a/b' has 3 bytes, but at most 2 were expected"):
        store.read("a/b", most=2)


def test_create_never_overwrites_and_replace_does(store: Store) -> None:
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert store.create("x", b"first"), "the same bytes: it is there, whoever wrote it"
    store.replace("x", b"third")
    assert store.read("x") == b"third"
    assert not store.create("x", b"first")


def test_objects_of_more_than_a_part_are_written_in_one_conditional_put(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs would cut at 100 MB, and servers ignore conditions on what comes in parts."""
    large = bytes(110 << 20)
    assert store.create("large", large)
    assert not store.create("large", large[:-1] + b"x")
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 50 << 20)
    assert [len(part) for part in store.chunks("large", start=1 << 20)] == [
        50 << 20,
        50 << 20,
        9 << 20,
    ]
    assert [len(part) for part in store.chunks("large", start=110 << 20)] == []


def test_one_of_many_writers_wins(store: Store) -> None:
    barrier, won = threading.Barrier(8), []

    def write(i: int) -> None:
        barrier.wait()
        if Store(store.place).create("x", bytes([i]) * 10_000):
            won.append(i)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert store.read("x") == bytes(won) * 10_000


def test_conditions_are_found_to_be_honoured(store: Store) -> None:
    store.require_conditions()
    store.require_conditions()  # as the second driver of a run does
    assert list(store.list()) == ["probe"]


def test_a_missing_bucket_is_one_sentence(server: S3Server) -> None:
    absent = Store("s3://nobucket/run")
    for call in (
        lambda: absent.read("x"),
        lambda: absent.create("x", b"1"),
        absent.list,
        absent.require_conditions,
    ):
        with pytest.raises(StoreError, match=r"there is no such bucket; create it") as told:
            call()
        assert "\n" not in str(told.value)


def test_no_credentials_are_one_sentence(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"give credentials: AWS_ACCESS_KEY_ID"):
        Store("s3://runs/x").create("x", b"1")


@pytest.mark.chaos
def test_wrong_credentials_are_one_sentence(rgw: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rgw.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" * 40)
    with pytest.raises(StoreError, match=r"the secret key does not fit the access key"):
        Store("s3://runs/x").create("x", b"1")
    S3FileSystem.clear_instance_cache()  # a process has one set of keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    with pytest.raises(StoreError, match=r"the server does not know this access key"):
        Store("s3://runs/x").create("x", b"1")


def test_a_store_that_ignores_conditions_is_named(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rclone.env().items():
        monkeypatch.setenv(name, value)
    url = f"s3://runs/{uuid.uuid4().hex}"
    for _ in "ab":  # also where the probe is there already
        with pytest.raises(
            StoreError,
            match=rf"the server at {rclone.endpoint} ignores If-None-Match.*--single-writer",
        ):
            Store(url).require_conditions()
    alone = Store(Place(url, single_writer=True))
    alone.require_conditions()
    assert alone.create("x", b"first")
    assert not alone.create("x", b"second")
    assert alone.read("x") == b"first"


def test_a_protocol_without_conditions_is_named() -> None:
    store = Store("http://127.0.0.1:9/run")
    with pytest.raises(StoreError, match="http:// is not known to write on a condition"):
        store.require_conditions()


class Faulty(BaseHTTPRequestHandler):
    """Passes requests on to another server; before each it takes a fault from the list, if one is
    left.

    ``503`` and other numbers: that answer, nothing passed on. ``reset``: the connection is closed,
    nothing passed on. ``lost``: passed on, and the connection closed instead of an answer.
    ``hang``: no answer at all. ``half``: half the answer's body.
    """

    protocol_version = "HTTP/1.1"
    upstream: ClassVar[str]
    faults: ClassVar[list[str]]
    seen: ClassVar[list[str]]

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = type(self).faults.pop(0) if type(self).faults else ""
        self.seen.append(f"{self.command} {fault}".strip())
        self.close_connection = True
        if fault == "hang":
            threading.Event().wait(3)
            return
        if fault == "reset":
            return
        if fault.isdigit():
            code = {
                "503": "SlowDown",
                "500": "InternalError",
                "409": "ConditionalRequestConflict",
                "403": "AccessDenied",
            }[fault]
            error = f"<Error><Code>{code}</Code><Message>planted</Message></Error>"
            text = f"<?xml version='1.0'?>{error}".encode()
            self.reply(int(fault), {"Content-Type": "application/xml"}, text, len(text))
            return
        upstream = http.client.HTTPConnection(self.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        got = upstream.getresponse()
        data = got.read()
        if fault == "lost":
            return
        headers = {
            k: v
            for k, v in got.getheaders()
            if k.lower() not in ("content-length", "connection", "date", "server")
        }
        size = int(got.headers["Content-Length"]) if self.command == "HEAD" else len(data)
        self.reply(got.status, headers, data[: len(data) // 2] if fault == "half" else data, size)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

    def reply(self, status: int, headers: dict[str, str], data: bytes, size: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def faults(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Faults to come, of a server that otherwise answers as moto; it is the endpoint of the
    environment.
    """
    Faulty.upstream, Faulty.faults, Faulty.seen = moto.endpoint.removeprefix("http://"), [], []
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    for name, value in moto.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.01)
    yield Faulty.faults
    proxy.shutdown()
    proxy.server_close()


PASSING = ["503", "500", "reset", "lost", "409"]


@pytest.mark.parametrize("fault", [*PASSING, "503 503 500 reset", "lost reset 503"])
def test_what_may_pass_is_tried_again(faults: list[str], fault: str) -> None:
    """Also when the answer to a successful write is lost: the second try finds its own bytes,
    and that is a success.
    """
    store = Store(f"s3://runs/{uuid.uuid4().hex}")
    tried = 0
    for call, expected in (
        (lambda: store.create("x", b"mine"), True),
        (lambda: store.read("x"), b"mine"),
        (lambda: store.replace("x", b"new"), None),
        (store.list, {"x": 3}),
        (lambda: b"".join(store.chunks("x")), b"new"),
        (lambda: store.create("x", b"other"), False),
    ):
        faults[:] = fault.split()
        assert call() == expected, f"{Faulty.seen}"
        tried += len(fault.split())
        assert faults == []
        answered = all(
            word.isdigit() for word in fault.split()
        )  # aiohttp itself repeats what found its connection closed, once
        assert store.retries == tried if answered else store.retries <= tried


def test_half_an_answer_is_no_answer(faults: list[str]) -> None:
    store = Store(f"s3://runs/{uuid.uuid4().hex}")
    store.create("x", bytes(range(200)))
    faults[:] = ["half", "half"]
    assert store.read("x") == bytes(range(200))


def test_a_server_that_hangs_is_left_and_tried_again(
    faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_SECONDS", 0.5)
    store = Store(f"s3://runs/{uuid.uuid4().hex}")
    faults[:] = ["hang"]
    assert store.create("x", b"mine")
    assert store.retries == 1


def test_patience_ends_with_a_sentence(faults: list[str]) -> None:
    store = Store(f"s3://runs/{uuid.uuid4().hex}")
    store.patience = 3.0
    faults[:] = ["503"] * 1000
    with pytest.raises(
        StoreError, match=r"SlowDown: planted; tried for \d s; when the storage is well again"
    ) as told:
        store.create("x", b"1")
    assert told.value.passing
    assert 3 <= len(Faulty.seen) <= 20, "pauses grow"


def test_what_will_not_pass_is_not_tried_again(faults: list[str]) -> None:
    store = Store(f"s3://runs/{uuid.uuid4().hex}")
    faults[:] = ["403"]
    with pytest.raises(StoreError, match="no permission; ask for the right") as told:
        store.create("x", b"1")
    assert not told.value.passing
    assert len(Faulty.seen) == 1


def test_nobody_at_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    store = Store(Place("s3://runs/x", endpoint="http://127.0.0.1:9"))
    store.patience = 0.3
    with pytest.raises(
        StoreError, match=r"cannot read 's3://runs/x/y' \(server http://127.0.0.1:9\)"
    ):
        store.read("y")


def test_the_endpoint_travels_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    assert Store("s3://b/x").place == Place("s3://b/x", "http://general")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special")
    assert Store("s3://b/x").place.endpoint == "http://special"
    assert Store(Place("s3://b/x", "http://asked")).place.endpoint == "http://asked"


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/.", "x\0", "a\nb", "-/ü"]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    store = Store("memory://names/run")
    for call in (
        lambda: store.read(name),
        lambda: store.create(name, b""),
        lambda: store.replace(name, b""),
        lambda: store.size(name),
    ):
        with pytest.raises(StoreError, match="is no name of an object"):
            call()
