"""``drivers/*.json``: what a driver says of itself, as a record with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from wna_ray.storage.bounds import Count, Loose, validated
from wna_ray.text import plain


def _line(most: int) -> AfterValidator:
    """One line of a text, made plain."""
    return AfterValidator(lambda text: plain(text, most))


def _moment(text: str) -> str:
    if len(text) > 40 or datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no time with its zone")
    return text


_Word = Annotated[str, _line(100)]
_Sentence = Annotated[str, _line(1_000)]
_Seconds = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
_Moment = Annotated[str, AfterValidator(_moment)]


class DriverProgress(Loose):
    """How far a driver is.

    Attributes
    ----------
    samples
        N; None before the first round.
    done
        Images whose shards are done.
    workers
        That are at work.
    retried, failed
        Shards that were tried again, and those that were left out.
    stage
        What is being done.
    committed
        Images that are safe.
    images_per_second
        Lately.
    """

    samples: Count | None = None
    done: Count
    workers: Count
    retried: Count
    failed: Count
    stage: _Word
    committed: Count = 0
    images_per_second: Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]


class DriverStorage(Loose):
    """What the commits of a driver took: how many, seconds, bytes, requests tried again."""

    commits: Count
    seconds: _Seconds
    bytes: Annotated[int, Field(ge=0, le=1 << 62)]
    retries: Count


class DriverRecord(Loose):
    """What a driver says of itself: numbers within bounds, texts made plain.

    Attributes
    ----------
    id
        Of the driver; no other has it.
    host, pid, process
        Where it is at work, and the name of its process (see `wna_ray.processes`).
    state, reason
        Whether it is at work, and why it ended.
    beat, time, every_seconds
        Signs of life: how many, when the last one was, and seconds between them.
    began
        When.
    progress
        How far it is.
    phase_seconds
        Seconds of workers by phase.
    storage
        What commits took.
    """

    id: _Word
    host: _Word
    pid: Annotated[int, Field(ge=0, lt=1 << 31)]
    process: Annotated[str, _line(200)]
    state: _Word
    reason: _Sentence
    beat: Annotated[int, Field(ge=0, le=1 << 62)]
    began: _Moment
    time: _Moment
    every_seconds: _Seconds
    progress: DriverProgress
    phase_seconds: Annotated[dict[_Word, _Seconds], Field(max_length=100)]
    storage: DriverStorage

    @classmethod
    def parse(cls, value: Mapping[str, Any], where: str) -> Self:
        """What a JSON object says; `RunError` where no driver says that of itself."""
        return validated(cls, value, where)
