"""One driver at a time, signs of life, and a journal that tells what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from wna_ray.errors import RunError, StoreError
from wna_ray.events import (
    Committed,
    RunStarted,
    SegmentCommitted,
    ShardDone,
    ShardRetried,
    Stage,
    WorkersChanged,
)
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.driver import CHUNK_BYTES, Driver, latest

STARTED = RunStarted("url", "f" * 64, 1000, 100, 9, 2, "cpu")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


def foreign(directory: RunDirectory, **changes: Any) -> dict[str, Any]:
    """Make the newest driver one of another machine, as far as its object tells."""
    generation, newest = latest(directory)
    assert newest is not None
    elsewhere = {"host": "elsewhere", "process": "other boot/pid:[1]/7"}
    driver = newest.model_dump() | elsewhere | changes
    directory.store.replace(f"drivers/{generation:06d}.json", json.dumps(driver).encode())
    return driver


def test_a_second_driver_of_this_machine_is_refused_at_once(directory: RunDirectory) -> None:
    first = Driver(directory)
    begin = time.monotonic()
    with pytest.raises(
        RunError, match=r"another driver is at work in .*run': process \d+ on .*wna status"
    ):
        Driver(directory)
    assert time.monotonic() - begin < 1
    first.close("stopped")
    assert Driver(directory).generation == 2


def test_a_driver_that_ended_without_a_word_is_known_by_its_process(
    directory: RunDirectory,
) -> None:
    """kill -9 of a driver of this machine: nobody waits for a sign of life of a process that is
    gone.
    """
    code = (
        "import sys, os; from wna_ray.runs.driver import Driver; from wna_ray.runs.directory import"
        " RunDirectory\n"
    )
    code += "Driver(RunDirectory(sys.argv[1])); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, directory.url], check=False)
    assert latest(directory)[0] == 1
    begin = time.monotonic()
    assert Driver(directory).generation == 2
    assert time.monotonic() - begin < 1


def test_a_living_driver_elsewhere_is_found_alive(directory: RunDirectory) -> None:
    Driver(directory).close("running")
    found = foreign(directory)
    timer = threading.Timer(0.5, lambda: foreign(directory, beat=found["beat"] + 1))
    timer.start()
    with pytest.raises(RunError, match=r"another driver is at work in .* on elsewhere"):
        Driver(directory, silent_seconds=10)


def test_a_silent_driver_elsewhere_is_replaced_and_stops_when_it_wakes(
    directory: RunDirectory,
) -> None:
    old = Driver(directory, beat_seconds=3)
    foreign(directory)
    new = Driver(directory, silent_seconds=0.3)
    assert new.generation == 2

    def work() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            old(Stage("x"))
            time.sleep(0.1)

    with pytest.raises(
        RunError, match=r"has taken .* over, because this driver gave no sign of life"
    ):
        work()  # until it wakes
    new(Stage("x"))


def test_of_many_drivers_one_wins(directory: RunDirectory) -> None:
    barrier, won, lost = threading.Barrier(6), list[Driver](), list[str]()

    def claim() -> None:
        barrier.wait()
        try:
            won.append(Driver(RunDirectory(directory.url)))
        except RunError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (len(won), len(lost)) == (1, 5)


def test_the_journal_tells_what_happened(directory: RunDirectory) -> None:
    driver = Driver(directory, beat_seconds=0.05)
    events = [
        STARTED,
        ShardDone(100, 200, {"forward": 2.0, "noise": 1.0}),
        ShardRetried(200, 300, 1, "MemoryError: x"),
        ShardDone(200, 300, {"forward": 2.0}),
        WorkersChanged(5, 6),
        SegmentCommitted(100, 300, Committed(0.5, 1000, 2)),
        Stage("merge"),
    ]
    for event in events:
        driver(event)
        time.sleep(0.06)
    driver.close("finished")
    _, newest = latest(directory)
    assert newest is not None
    progress = newest.progress
    assert (newest.state, progress.done, progress.committed, progress.samples) == (
        "finished",
        300,
        300,
        1000,
    )
    assert (progress.retried, progress.failed, progress.workers, progress.stage) == (
        1,
        0,
        5,
        "merge",
    )
    assert newest.phase_seconds == {"forward": 4.0, "noise": 1.0}
    storage = {"commits": 1, "seconds": 0.5, "bytes": 1000, "retries": 2}
    assert newest.storage.model_dump() == storage
    lines = [
        json.loads(line)
        for line in (directory.store.read("events/000001-00000.jsonl") or b"").splitlines()
    ]
    assert [line["event"] for line in lines] == [type(e).__name__ for e in events]
    assert lines[1]["seconds"] == {"forward": 2.0, "noise": 1.0}
    assert lines[2]["reason"] == "MemoryError: x"


def test_long_journals_come_in_chunks(directory: RunDirectory) -> None:
    driver = Driver(directory, beat_seconds=3600)
    driver(STARTED)
    for i in range(5000):
        driver(ShardDone(100 + i, 101 + i, {"forward": 0.5}))
    driver.close("stopped")
    chunks = {name: directory.store.read(name) or b"" for name in directory.store.list("events")}
    assert len(chunks) >= 2
    assert all(len(data) <= CHUNK_BYTES + 1000 for data in chunks.values())
    starts = [
        json.loads(line).get("start")
        for _, data in sorted(chunks.items())
        for line in data.splitlines()
    ]
    assert starts == [None, *range(100, 5100)]


def test_a_storage_that_refuses_the_journal_does_not_stop_the_run(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(directory, beat_seconds=0.02)

    def refuse(*_: object) -> None:
        raise StoreError("no")

    monkeypatch.setattr(directory.store, "replace", refuse)
    driver(STARTED)
    time.sleep(0.1)
    driver(Stage("x"))
    driver.close("finished")


def test_secrets_do_not_get_into_the_journal(directory: RunDirectory) -> None:
    driver = Driver(directory, beat_seconds=3600)
    driver(ShardRetried(0, 100, 1, "cannot read http://me:hunter2@host/x?sig=hunter2"))
    driver.close("failed", "cannot read s3://AKIA:hunter2@bucket/run\x1b[2J")
    written = {
        name: directory.store.read(name) or b""
        for folder in ("drivers", "events")
        for name in directory.store.list(folder)
    }
    assert len(written) == 2
    assert not any(b"hunter2" in data or b"u001b" in data for data in written.values())
    newest = latest(directory)[1]
    assert newest is not None
    assert newest.reason == "cannot read s3://***@bucket/run\ufffd[2J"


HUGE = 10**400
ODD: dict[str, tuple[Any, str]] = {
    "pid": (HUGE, "pid"),
    "host": ([1.5], "host"),
    "state": ({"a": 1}, "state"),
    "reason": (7, "reason"),
    "beat": (True, "beat"),
    "every_seconds": (HUGE, "every_seconds"),
    "time": ("yesterday", "time"),
    "began": ("2026-01-01T00:00:00", "began"),
    "progress.done": (-1, "progress.done"),
    "progress.workers": (1e308, "progress.workers"),
    "progress.images_per_second": (HUGE, "progress.images_per_second"),
    "progress.stage": (None, "progress.stage"),
    "phase_seconds": ({"a": HUGE, "b": 0.5}, "phase_seconds.a"),
    "storage.bytes": (HUGE, "storage.bytes"),
    "storage.commits": (False, "storage.commits"),
    "storage": ([], "storage"),
}


@pytest.mark.parametrize(
    "key, value, words", [(key, *odd) for key, odd in ODD.items()], ids=ODD.keys()
)
def test_what_no_driver_says_of_itself_is_refused(
    directory: RunDirectory, key: str, value: Any, words: str
) -> None:
    Driver(directory).close("running")
    found = json.loads(directory.store.read("drivers/000001.json") or b"")
    *path, last = key.split(".")
    part = found
    for step in path:
        part = part[step]
    part[last] = value
    directory.store.replace("drivers/000001.json", json.dumps(found).encode())
    for ask in (lambda: latest(directory), lambda: Driver(directory)):
        with pytest.raises(
            RunError,
            match=(
                rf"drivers/000001\.json is damaged \({words}.*; delete it, unless a driver is at"
                r" work there$"
            ),
        ):
            ask()


def test_words_of_another_driver_are_plain(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    Driver(directory).close("running")
    foreign(directory, host="\x1b[2Jhost\n" * 99)
    newest = latest(directory)[1]
    assert newest is not None
    assert newest.host.startswith("\ufffd[2Jhost\ufffd")
    assert len(newest.host) == 100
    assert Driver(directory, silent_seconds=0.1).generation == 2
    assert "was last driven by process" in caplog.text
    assert "\x1b" not in caplog.text


def test_claims_are_counted_by_their_numbers(directory: RunDirectory) -> None:
    """A million of drivers has one more digit; what only looks like a number is none."""
    Driver(directory).close("finished")
    said = directory.store.read("drivers/000001.json") or b""
    for name in ("999999", "1000000", "0000002", "12345"):
        directory.store.create(f"drivers/{name}.json", said)
    (Path(directory.url) / "drivers" / "\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2.json").write_bytes(
        said
    )
    assert latest(directory)[0] == 1_000_000
    assert Driver(directory).generation == 1_000_001
    directory.store.create("drivers/999999999.json", said)
    with pytest.raises(RunError, match=r"drivers/999999999.json' is of no driver; delete it"):
        Driver(directory)


def test_a_driver_that_nobody_buries_is_gone(directory: RunDirectory) -> None:
    """As in a container whose first process asks after no child: a zombie is at no work."""
    code = (
        "import sys, os; from wna_ray.runs.driver import Driver; from wna_ray.runs.directory import"
        " RunDirectory\n"
    )
    code += "Driver(RunDirectory(sys.argv[1])); os.kill(os.getpid(), 9)"
    with subprocess.Popen([sys.executable, "-c", code, directory.url]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        begin = time.monotonic()
        assert Driver(directory).generation == 2
        assert time.monotonic() - begin < 1
