"""Progress: plain lines where there is no terminal, the numbers a person wants."""

from __future__ import annotations

import io

import pytest

from wna_ray.events import (
    Committed,
    RunFinished,
    RunStarted,
    SegmentCommitted,
    ShardDone,
    ShardFailed,
    ShardRetried,
    Stage,
)
from wna_ray.execution import progress
from wna_ray.execution.progress import Meter, ProgressPrinter

STARTED = RunStarted("runs/x", "f" * 64, 1000, 200, 4, 2, "cpu")


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    stream = io.StringIO()
    printer = ProgressPrinter(stream)
    for event in (
        STARTED,
        ShardDone(200, 600, {"forward": 3.0, "noise": 1.0}),
        ShardRetried(600, 1000, 1, "MemoryError: x"),
        SegmentCommitted(200, 600, Committed(1000, 0.1, 0)),
        ShardFailed(600, 1000, "gone"),
        Stage("merge"),
        RunFinished("runs/x"),
    ):
        printer(event)
    lines = stream.getvalue().splitlines()
    assert (
        lines[0]
        == "run ffffffffffff in runs/x: 1,000 images in 4 shards, 2 workers on cpu, 200 images were"
        " committed before"
    )
    assert lines[1].startswith("600 of 1,000 images, ")
    assert "75 % forward" in lines[1]
    assert lines[1].endswith(" left")
    assert lines[2] == "images [600, 1000) again (1 failures so far): MemoryError: x"
    assert lines[3] == "images [600, 1000) left out: gone"
    assert lines[5] == "merge"
    assert "\x1b" not in stream.getvalue(), "no control codes outside a terminal"


def test_rate_is_over_this_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    meter = Meter(STARTED)
    meter.add(ShardDone(200, 600, {}))
    assert meter.text() == "600 of 1,000 images, 200 images/s, 2 s left"
