"""The process that drives a run: its claim on the directory, its signs of life, and the journal of
events.

    drivers/000001.json          the first driver; the next one makes 000002.json, and so on
    events/000001-00000.jsonl    its events, one JSON object a line, in chunks

A claim is a conditional write, so of two drivers one gets the number. The owner writes its object
again every few seconds, with how far it is: that is its sign of life, and all that ``wna status``
reads. A driver that finds another alive stops at once; one that finds a claim whose owner is silent
takes the next number, and the old owner, should it wake, sees that and stops. None of this is
needed for the result: segments are committed once, whoever does it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from wna_ray import processes as process
from wna_ray.errors import RunError, StoreError
from wna_ray.events import (
    Event,
    RunStarted,
    SegmentCommitted,
    ShardDone,
    ShardFailed,
    ShardRetried,
    Stage,
    WorkersChanged,
)
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.driver_record import DriverRecord
from wna_ray.text import printable, redacted_tree

DRIVERS, EVENTS = "drivers", "events"
BEAT_SECONDS = 5.0
SILENT_SECONDS = 20.0  # without a sign of life, a driver is taken for dead
CHUNK_BYTES = 256_000
RECENT_SECONDS = 300.0  # over which the rate is taken
LAST_WORDS_SECONDS = 1.0  # patience of the last write
MOST_DRIVERS = 999_999_999  # of one run
_CLAIM = re.compile(rf"{DRIVERS}/([0-9]{{6,9}})\.json")

State = Literal["running", "stopped", "finished", "failed"]
_log = logging.getLogger(__name__)
_living: set[str] = set()  # drivers of this process that have not been closed


@dataclass(frozen=True)
class _Myself:
    """This driver, as it names itself in its object."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    process: str = field(default_factory=lambda: process.name_of(os.getpid()))


@dataclass
class _Progress:
    """How far the run is, by the events so far."""

    samples: int | None = None
    done: int = 0
    workers: int = 0
    retried: int = 0
    failed: int = 0
    stage: str = "start"


@dataclass
class _Storage:
    """What the commits so far took."""

    commits: int = 0
    seconds: float = 0.0
    bytes: int = 0
    retries: int = 0


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

    def __init__(
        self,
        directory: RunDirectory,
        beat_seconds: float = BEAT_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
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
        self._progress, self._storage = _Progress(), _Storage()
        self._phases: dict[str, float] = {}
        self._recent: list[tuple[float, int]] = []
        self._me = _Myself()
        self._beats, self._began = 0, _now()
        _living.add(self._me.id)
        try:
            self.generation = self._claim(silent_seconds)
        except BaseException:
            _living.discard(self._me.id)
            raise
        self._thread = threading.Thread(target=self._live, name="driver-beat", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Note an event; `RunError` where another driver has taken the run over."""
        if self._fenced is not None:
            raise RunError(self._fenced)
        with self._lock:
            said = redacted_tree(dataclasses.asdict(event))
            self._lines.append(json.dumps({"time": _now(), "event": type(event).__name__} | said))
            self._note(event)

    def close(self, state: State, reason: str = "", patience: float | None = None) -> None:
        """Write the last events and how it ended; a storage that refuses is reported, not
        raised.
        """
        if self._over.is_set():
            return
        self._over.set()
        _living.discard(self._me.id)
        if patience is not None:
            self._store.give_up_after(patience)
        with suppress(StoreError):
            self._write(state, reason)

    def _claim(self, silent_seconds: float) -> int:
        while True:
            generation, newest = latest(self._directory)
            alive = newest
            if newest is not None and not _lives(newest):
                alive = self._watch(generation, newest, silent_seconds)
            if alive is not None and not _gone(alive):
                who = f"process {alive.pid} on {alive.host}, since {alive.began}"
                raise RunError(
                    f"another driver is at work in '{self._directory.url}': {who}. Let it finish "
                    "(wna status tells how far it is), or stop it and run the same command again"
                )
            if generation >= MOST_DRIVERS:
                last = f"{self._directory.url}/{_name(generation)}"
                raise RunError(
                    f"'{last}' is of no driver; delete it and run the same command again"
                )
            if self._store.create(_name(generation + 1), self._object("running", "")):
                return generation + 1

    def _watch(self, generation: int, other: DriverRecord, seconds: float) -> DriverRecord | None:
        """The other driver, once it gives a sign of life; None where it gives none, or has
        ended.
        """
        if _gone(other):
            return None
        last = f"'{self._directory.url}' was last driven by process {other.pid} on {other.host}"
        _log.warning("%s", printable(f"{last}; waiting up to {seconds:.0f} s for a sign of life"))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 10))
            newest, now = latest(self._directory)
            if now is None or (newest == generation and _gone(now)):
                return None
            if newest != generation or now.beat != other.beat:
                return now
        return None

    def _live(self) -> None:
        while not self._over.wait(self._beat_seconds):
            try:
                generation, newest = latest(self._directory)
                if generation > self.generation and newest is not None:
                    self._fenced = (
                        f"process {newest.pid} on {newest.host} has taken"
                        f" '{self._directory.url}' over, because this driver gave no sign of life"
                        " for a while; what was committed stays, and the other goes on"
                    )
                    return
                self._write("running", "")
            # the run itself meets the same storage, and says so if it must
            except (StoreError, RunError) as error:
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
        self._store.replace(
            f"{EVENTS}/{self.generation:06d}-{self._chunk_number:05d}.jsonl", self._chunk.encode()
        )

    def _object(self, state: State, reason: str) -> bytes:
        with self._lock:
            self._beats += 1
            value = vars(self._me) | {
                "state": state,
                "reason": printable(reason),
                "beat": self._beats,
                "began": self._began,
                "time": _now(),
                "every_seconds": self._beat_seconds,
                "progress": (
                    vars(self._progress)
                    | {
                        "committed": self.committed,
                        "images_per_second": self._rate(),
                    }
                ),
                "phase_seconds": self._phases,
                "storage": vars(self._storage),
            }
            return (json.dumps(redacted_tree(value), indent=1, sort_keys=True) + "\n").encode()

    def _note(self, event: Event) -> None:
        progress, storage = self._progress, self._storage
        match event:
            case RunStarted():
                self.committed = progress.done = event.done
                progress.samples, progress.workers = event.samples, event.workers
                progress.stage = "shards"
                self._recent = [(time.monotonic(), event.done)]
            case ShardDone():
                progress.done += event.stop - event.start
                for phase, seconds in event.seconds.items():
                    self._phases[phase] = self._phases.get(phase, 0.0) + seconds
                now = time.monotonic()
                if now - self._recent[-1][0] > 1.0 or len(self._recent) == 1:
                    self._recent.append((now, progress.done))
                while len(self._recent) > 2 and now - self._recent[1][0] > RECENT_SECONDS:
                    self._recent.pop(0)
            case ShardRetried():
                progress.retried += 1
            case ShardFailed():
                progress.failed += 1
            case WorkersChanged():
                progress.workers = event.workers
            case SegmentCommitted():
                self.committed += event.stop - event.start
                storage.commits += 1
                storage.seconds += event.commit.seconds
                storage.bytes += event.commit.bytes
                storage.retries += event.commit.retries
            case Stage():
                progress.stage = event.name
            case _:
                pass

    def _rate(self) -> float:
        """Images a second, lately."""
        if len(self._recent) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._recent[0], self._recent[-1]
        return (n1 - n0) / max(t1 - t0, 1e-9)


def latest(directory: RunDirectory) -> tuple[int, DriverRecord | None]:
    """Number and record of the newest driver; 0 and None where there was none.

    The object may be anybody's: its numbers are within bounds, its texts are plain.

    Raises
    ------
    RunError
        It is damaged.
    """
    names = directory.store.list(DRIVERS)
    claims = [claim for name in names if (claim := _CLAIM.fullmatch(name)) is not None]
    if not claims:
        return 0, None
    newest = max(claims, key=lambda claim: int(claim[1]))
    try:
        value, where = directory.read_json(newest[0]), f"{directory.url}/{newest[0]}"
        return int(newest[1]), None if value is None else DriverRecord.parse(value, where)
    except RunError as error:
        raise RunError(f"{error}; delete it, unless a driver is at work there") from None


def _gone(driver: DriverRecord) -> bool:
    """Whether a driver has said that it ended, or was a process of this machine that is no more."""
    return driver.state != "running" or _lives(driver) is False


def _lives(driver: DriverRecord) -> bool | None:
    """Whether a driver is at work on this machine; None where that cannot be told from here."""
    if driver.state != "running":
        return False
    if driver.process and driver.process == process.name_of(os.getpid()):
        return driver.id in _living
    return process.lives(driver.pid, driver.process)


def _name(generation: int) -> str:
    return f"{DRIVERS}/{generation:06d}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
