"""What happens during a run, as small values. The runtime prints nothing: callbacks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class RunStarted:
    """The work begins (or goes on): `done` of `samples` images are committed already."""

    url: str
    fingerprint: str
    samples: int
    done: int
    shards: int
    workers: int
    device: str


@dataclass(frozen=True)
class ShardDone:
    """A shard came back; `seconds` by phase (noise, forward, responses, moments, fetch)."""

    start: int
    stop: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class ShardRetried:
    """A shard failed, or its result was lost, and is tried again."""

    start: int
    stop: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class ShardFailed:
    """A shard failed its last attempt and is left out."""

    start: int
    stop: int
    reason: str


@dataclass(frozen=True)
class CopyStarted:
    """A call for these images is so late (`seconds`, where `usual` is the median) that another
    worker tries it, too.
    """

    start: int
    stop: int
    seconds: float
    usual: float


@dataclass(frozen=True)
class WorkersChanged:
    """Workers came or went; `wanted` is how many there should be."""

    workers: int
    wanted: int


@dataclass(frozen=True)
class Committed:
    """What a commit took: seconds, bytes, and requests to the storage that were tried again."""

    seconds: float
    bytes: int
    retries: int


@dataclass(frozen=True)
class SegmentCommitted:
    """The images ``start ... stop - 1`` are safe."""

    start: int
    stop: int
    commit: Committed


@dataclass(frozen=True)
class Stage:
    """Something after the last shard begins: merging, figures, ..."""

    name: str


@dataclass(frozen=True)
class RunFinished:
    """The manifest is published."""

    url: str


Event: TypeAlias = (
    RunStarted
    | ShardDone
    | ShardRetried
    | ShardFailed
    | CopyStarted
    | WorkersChanged
    | SegmentCommitted
    | Stage
    | RunFinished
)
Callback: TypeAlias = Callable[[Event], None]
