"""The process that drives a run: its claim on the directory, its signs of life, and the journal of events.

    drivers/000001.json          the first driver; the next one makes 000002.json, and so on
    events/000001-00000.jsonl    its events, one JSON object a line, in chunks

A claim is a conditional write, so of two drivers one gets the number. The owner writes its object again every few
seconds, with how far it is: that is its sign of life, and all that ``wna status`` reads. A driver that finds another
alive stops at once; one that finds a claim whose owner is silent takes the next number, and the old owner, should it
wake, sees that and stops. None of this is needed for the result: segments are committed once, whoever does it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from wna_ray.errors import RunError, StoreError
from wna_ray.events import Event, RunStarted, SegmentCommitted, ShardDone, ShardFailed, ShardRetried, Stage, WorkersChanged
from wna_ray.rundir import RunDirectory

DRIVERS, EVENTS = "drivers", "events"
BEAT_SECONDS = 5.0
SILENT_SECONDS = 20.0  # without a sign of life, a driver is taken for dead
CHUNK_BYTES = 256_000
RECENT_SECONDS = 300.0  # over which the rate is taken
LAST_WORDS_SECONDS = 1.0  # patience of the last write

State = Literal["running", "stopped", "finished", "failed"]
_log = logging.getLogger(__name__)
_living: set[str] = set()  # drivers of this process that have not been closed


class Driver:
    """This process's claim on a run; a callback that keeps the journal.

    Parameters
    ----------
    directory
        The run.
    beat_seconds
        Between signs of life.
    silent_seconds
        How long another driver is watched for one.

    Raises
    ------
    RunError
        Another driver is at work.
    """

    def __init__(self, directory: RunDirectory, beat_seconds: float = BEAT_SECONDS, silent_seconds: float = SILENT_SECONDS) -> None:
        self._directory, self._beat_seconds = directory, beat_seconds
        self._store = directory.store
        self._lock = threading.Lock()  # over all that the beat reads
        self._write_lock = threading.Lock()  # one writer at a time: the thread, or `close`
        self._lines: list[str] = []
        self._chunk, self._chunk_number = "", 0
        self._fenced: str | None = None
        self._over = threading.Event()
        self.committed = 0
        """Images that are safe."""
        self._progress: dict[str, Any] = {"samples": None, "done": 0, "workers": 0, "retried": 0, "failed": 0, "stage": "start"}
        self._phases: dict[str, float] = {}
        self._storage = {"commits": 0, "seconds": 0.0, "bytes": 0, "retries": 0}
        self._recent: list[tuple[float, int]] = []
        self._me = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "process": _process(os.getpid())}
        self._beats, self._began = 0, _now()
        _living.add(str(self._me["id"]))
        try:
            self.generation = self._claim(silent_seconds)
        except BaseException:
            _living.discard(str(self._me["id"]))
            raise
        self._thread = threading.Thread(target=self._live, name="driver-beat", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Note an event; `RunError` where another driver has taken the run over."""
        if self._fenced is not None:
            raise RunError(self._fenced)
        with self._lock:
            self._lines.append(json.dumps({"time": _now(), "event": type(event).__name__} | dataclasses.asdict(event)))
            self._note(event)

    def close(self, state: State, reason: str = "", patience: float | None = None) -> None:
        """Write the last events and how it ended; a storage that refuses is reported, not raised."""
        if self._over.is_set():
            return
        self._over.set()
        _living.discard(str(self._me["id"]))
        if patience is not None:
            self._store.patience = patience
        with suppress(StoreError):
            self._write(state, reason)

    def _claim(self, silent_seconds: float) -> int:
        while True:
            generation, found = latest(self._directory)
            alive = found if found is None or _alive_here(found) else self._watch(generation, found, silent_seconds)
            if alive is not None and not _gone(alive):
                raise RunError(
                    f"another driver is at work in '{self._directory.url}': process {alive.get('pid')} on {alive.get('host')}, since "
                    f"{alive.get('began')}. Let it finish (wna status tells how far it is), or stop it and run the same command again"
                )
            if self._store.create(_name(generation + 1), self._object("running", "")):
                return generation + 1

    def _watch(self, generation: int, found: Mapping[str, Any], seconds: float) -> Mapping[str, Any] | None:
        """The other driver, once it gives a sign of life; None where it gives none, or has ended."""
        if _gone(found):
            return None
        _log.warning(
            "'%s' was last driven by process %s on %s; waiting up to %.0f s for a sign of life",
            self._directory.url,
            found.get("pid"),
            found.get("host"),
            seconds,
        )
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 10))
            newest, now = latest(self._directory)
            if now is None or (newest == generation and _gone(now)):
                return None
            if newest != generation or now.get("beat") != found.get("beat"):
                return now
        return None

    def _live(self) -> None:
        while not self._over.wait(self._beat_seconds):
            try:
                generation, found = latest(self._directory)
                if generation > self.generation and found is not None:
                    self._fenced = (
                        f"process {found.get('pid')} on {found.get('host')} has taken '{self._directory.url}' over, because this "
                        "driver gave no sign of life for a while; what was committed stays, and the other goes on"
                    )
                    return
                self._write("running", "")
            except (StoreError, RunError) as error:  # the run itself meets the same storage, and says so if it must
                _log.warning("no sign of life could be written: %s", error)

    def _write(self, state: State, reason: str) -> None:
        with self._write_lock:
            if state == "running" and self._over.is_set():
                return
            with self._lock:
                lines, self._lines = self._lines, []
            for line in lines:
                self._chunk += line + "\n"
                if len(self._chunk) >= CHUNK_BYTES:
                    self._write_chunk()
                    self._chunk, self._chunk_number = "", self._chunk_number + 1
            if lines and self._chunk:
                self._write_chunk()
            self._store.replace(_name(self.generation), self._object(state, reason))

    def _write_chunk(self) -> None:
        self._store.replace(f"{EVENTS}/{self.generation:06d}-{self._chunk_number:05d}.jsonl", self._chunk.encode())

    def _object(self, state: State, reason: str) -> bytes:
        with self._lock:
            self._beats += 1
            value = self._me | {
                "state": state,
                "reason": reason,
                "beat": self._beats,
                "began": self._began,
                "time": _now(),
                "every_seconds": self._beat_seconds,
                "progress": self._progress | {"committed": self.committed, "images_per_second": self._rate()},
                "phase_seconds": self._phases,
                "storage": self._storage,
            }
            return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    def _note(self, event: Event) -> None:
        progress = self._progress
        match event:
            case RunStarted():
                self.committed = event.done
                progress |= {"samples": event.samples, "done": event.done, "workers": event.workers, "stage": "shards"}
                self._recent = [(time.monotonic(), event.done)]
            case ShardDone():
                progress["done"] += event.stop - event.start
                for phase, seconds in event.seconds.items():
                    self._phases[phase] = self._phases.get(phase, 0.0) + seconds
                now = time.monotonic()
                if now - self._recent[-1][0] > 1.0 or len(self._recent) == 1:
                    self._recent.append((now, progress["done"]))
                while len(self._recent) > 2 and now - self._recent[1][0] > RECENT_SECONDS:
                    self._recent.pop(0)
            case ShardRetried():
                progress["retried"] += 1
            case ShardFailed():
                progress["failed"] += 1
            case WorkersChanged():
                progress["workers"] = event.workers
            case SegmentCommitted():
                self.committed += event.stop - event.start
                self._storage["commits"] += 1
                for key, value in dataclasses.asdict(event.commit).items():
                    self._storage[key] += value
            case Stage():
                progress["stage"] = event.name
            case _:
                pass

    def _rate(self) -> float:
        """Images a second, lately."""
        if len(self._recent) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._recent[0], self._recent[-1]
        return (n1 - n0) / max(t1 - t0, 1e-9)


def latest(directory: RunDirectory) -> tuple[int, dict[str, Any] | None]:
    """Number and object of the newest driver; 0 and None where there was none."""
    names = [name for name in directory.store.list(DRIVERS) if name.endswith(".json") and name[len(DRIVERS) + 1 : -5].isdigit()]
    if not names:
        return 0, None
    newest = max(names)
    return int(newest[len(DRIVERS) + 1 : -5]), directory.read_json(newest)


def _gone(driver: Mapping[str, Any]) -> bool:
    """Whether a driver has said that it ended, or was a process of this machine that is no more."""
    return driver.get("state") != "running" or (_here(driver) and not _alive_here(driver))


def _here(driver: Mapping[str, Any]) -> bool:
    mine = _process(os.getpid()).rpartition("/")[0]
    return bool(mine) and str(driver.get("process")).rpartition("/")[0] == mine


def _alive_here(driver: Mapping[str, Any]) -> bool:
    """Whether a driver is a living process of this machine."""
    running, pid = driver.get("state") == "running", driver.get("pid")
    if pid == os.getpid() and driver.get("id") not in _living:
        return False
    return running and _here(driver) and isinstance(pid, int) and _process(pid) == driver.get("process")


def _process(pid: int) -> str:
    """A name for a process that no other ever has: boot, namespace of process numbers, and when it started; "" where there is none."""
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}/{started}"
    return ""


def _name(generation: int) -> str:
    return f"{DRIVERS}/{generation:06d}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
