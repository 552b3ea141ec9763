"""The store behind a web server: what is there, and a server that refuses or is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from wna_ray.errors import StoreError
from wna_ray.storage import store as store_module
from wna_ray.storage.store import Store


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
