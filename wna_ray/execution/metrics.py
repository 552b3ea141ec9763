"""Prometheus metrics of a run, by way of Ray: every node's metrics port serves them, and Ray's
dashboards find them.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from wna_ray.events import (
    CopyStarted,
    Event,
    RunStarted,
    SegmentCommitted,
    ShardDone,
    ShardFailed,
    ShardRetried,
    WorkersChanged,
)


class RayMetrics:
    """A callback that counts events. Every metric has the tag ``run``, the first twelve digits
    of the fingerprint.
    """

    def __init__(self) -> None:
        self._tags = {"run": ""}
        run = ("run",)
        self._images = Counter("wna_images", "Images shown.", run)
        self._shards = Counter(
            "wna_shards", "Shards done (state: done, retried, failed, copied).", (*run, "state")
        )
        self._seconds = Counter(
            "wna_seconds",
            "Worker seconds by phase (noise, forward, responses, moments, fetch, commit).",
            (*run, "phase"),
        )
        self._bytes = Counter("wna_committed_bytes", "Bytes of committed segments.", run)
        self._retries = Counter(
            "wna_storage_retries", "Requests to the storage that were tried again.", run
        )
        self._workers = Gauge("wna_workers", "Workers that are there.", run)

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._tags = {"run": event.fingerprint[:12]}
                self._workers.set(event.workers, self._tags)
            case ShardDone():
                self._images.inc(event.stop - event.start, self._tags)
                self._shards.inc(1, self._tags | {"state": "done"})
                for phase, seconds in event.seconds.items():
                    self._add_seconds(phase, seconds)
            case ShardRetried():
                self._shards.inc(1, self._tags | {"state": "retried"})
            case ShardFailed():
                self._shards.inc(1, self._tags | {"state": "failed"})
            case CopyStarted():
                self._shards.inc(1, self._tags | {"state": "copied"})
            case SegmentCommitted():
                self._add_seconds("commit", event.commit.seconds)
                self._bytes.inc(event.commit.bytes, self._tags) if event.commit.bytes else None
                (
                    self._retries.inc(event.commit.retries, self._tags)
                    if event.commit.retries
                    else None
                )
            case WorkersChanged():
                self._workers.set(event.workers, self._tags)
            case _:
                pass

    def _add_seconds(self, phase: str, seconds: float) -> None:
        if seconds > 0:  # a counter refuses zero
            self._seconds.inc(seconds, self._tags | {"phase": phase})
