"""The S3 servers of the tests: what each is for, it does."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from servers import S3Server, free_port, spawn, wait_until

RGW = pytest.param("rgw", marks=pytest.mark.chaos)
ALL = ["moto", "rclone", RGW]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


def put(client: Any, key: str, body: bytes, **more: str) -> int:
    """The status of a PUT."""
    try:
        return int(
            client.put_object(Bucket="runs", Key=key, Body=body, **more)["ResponseMetadata"][
                "HTTPStatusCode"
            ]
        )
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def get(client: Any, key: str) -> bytes:
    return bytes(client.get_object(Bucket="runs", Key=key)["Body"].read())


@pytest.mark.parametrize("server", ALL, indirect=True)
def test_what_is_put_is_got(server: S3Server) -> None:
    client = server.client()
    for body in (b"", b"some bytes", bytes(range(256)) * 40_000):
        assert put(client, "round/trip", body) == 200
        assert get(client, "round/trip") == body


@pytest.mark.parametrize(
    "server, second",
    [("moto", 412), ("rclone", 200), pytest.param("rgw", 412, marks=pytest.mark.chaos)],
    indirect=["server"],
)
def test_a_second_conditional_put(server: S3Server, second: int) -> None:
    """Refused, or (rclone) silently done: the very server that the store must find out."""
    client, key = server.client(), "condition"
    assert put(client, key, b"first", IfNoneMatch="*") == 200
    assert put(client, key, b"second", IfNoneMatch="*") == second
    assert get(client, key) == (b"first" if second == 412 else b"second")


@pytest.mark.parametrize("server", ["moto", RGW], indirect=True)
def test_one_of_many_conditional_puts_at_once_wins(server: S3Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        clients = [server.client() for _ in range(8)]
        for key in ("race/1", "race/2", "race/3"):
            statuses = list(
                pool.map(
                    lambda i, key=key: put(clients[i], key, f"{i}".encode(), IfNoneMatch="*"),
                    range(8),
                )
            )
            winners = [i for i, status in enumerate(statuses) if status == 200]
            assert len(winners) == 1, statuses
            assert set(statuses) <= {200, 409, 412}
            assert get(clients[0], key) == f"{winners[0]}".encode()


@pytest.mark.parametrize("server", ["rclone", RGW], indirect=True)
def test_strangers_are_refused(server: S3Server) -> None:
    stranger = server.client(secret_key="0" * 40)
    assert put(stranger, "harm", b"") == 403
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()
    with pytest.raises(urllib.error.HTTPError, match=r"40[03]"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{server.endpoint}/runs/harm", timeout=30
        )


@pytest.mark.chaos
def test_acknowledged_objects_outlive_the_server(rgw: S3Server) -> None:
    """kill -9 amid four writers: what they were told is stored is there, and what they were not
    told is there whole or not at all.
    """
    stored: dict[str, bytes] = {}
    in_doubt: dict[str, bytes] = {}

    def write(i: int) -> None:
        client, n = rgw.client(timeout=10), 0
        while True:
            key, body = f"kept/{i}/{n % 25}", f"{i}-{n} ".encode() * (1 + n * 97 % 20_000)
            try:
                client.put_object(Bucket="runs", Key=key, Body=body)
            except (ClientError, BotoCoreError):
                in_doubt[key] = body
                return
            stored[key], n = body, n + 1

    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(stored) == 100, 60, "every key written once")
    rgw.kill()
    assert not rgw.answers()
    for writer in writers:
        writer.join()
    rgw.restart()
    client = rgw.client()
    assert len(in_doubt) == 4
    for key, body in stored.items():
        assert get(client, key) in {body, in_doubt.get(key, body)}, key
    listed = [
        found["Key"] for found in client.list_objects_v2(Bucket="runs", Prefix="kept/")["Contents"]
    ]
    assert sorted(listed) == sorted(stored)


@pytest.mark.parametrize("server", ALL, indirect=True)
def test_a_server_is_not_started_twice(server: S3Server) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        server.start()
    assert server.answers()


def test_a_spawned_process_dies_with_its_parent_even_by_kill_9(tmp_path: Path) -> None:
    code = (
        "from servers import spawn; import pathlib, sys; print(spawn(['sleep', '300'],"
        " pathlib.Path(sys.argv[1])).pid, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    parent = subprocess.Popen(
        command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    child = Path(f"/proc/{int(parent.stdout.readline())}/cmdline")
    if not child.exists():
        pytest.skip("needs /proc")
    wait_until(
        lambda: child.read_bytes().startswith(b"sleep"),
        10,
        "the child asks for its signal, and begins",
    )
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_until(lambda: not child.exists() or not child.read_bytes(), 10, "the child ends")


def test_waiting_ends_with_the_log_of_what_did_not_come(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = spawn([sys.executable, "-c", "raise SystemExit('no disk left')"], log)
    begin = time.monotonic()
    with pytest.raises(
        TimeoutError, match=r"a server: process ended with code 1(?s:.*)no disk left"
    ):
        wait_until(lambda: False, 60, "a server", needs=process, log=log)
    assert time.monotonic() - begin < 30
    with pytest.raises(TimeoutError, match="another: not within 0 s"):
        wait_until(lambda: False, 0.2, "another")


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", free_port()))
