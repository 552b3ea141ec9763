"""``drivers/*.json``: types and bounds of what a driver says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

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


class _DriverProgress(Loose):
    samples: Count | None = None
    done: Count
    workers: Count
    retried: Count
    failed: Count
    stage: _Word
    committed: Count = 0
    images_per_second: Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]


class _DriverStorage(Loose):
    commits: Count
    seconds: _Seconds
    bytes: Annotated[int, Field(ge=0, le=1 << 62)]
    retries: Count


class _Driver(Loose):
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
    progress: _DriverProgress
    phase_seconds: Annotated[dict[_Word, _Seconds], Field(max_length=100)]
    storage: _DriverStorage


def check_driver(driver: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a driver says of itself: numbers within bounds, texts made plain.

    Raises
    ------
    RunError
        It says anything else.
    """
    return validated(_Driver, driver, where).model_dump()
