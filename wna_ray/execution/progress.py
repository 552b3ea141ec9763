"""Progress for people: a bar on a terminal, plain lines elsewhere. A callback on events, like
any other.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO, cast

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from wna_ray.events import (
    CopyStarted,
    Event,
    RunFinished,
    RunStarted,
    SegmentCommitted,
    ShardDone,
    ShardFailed,
    ShardRetried,
    Stage,
    WorkersChanged,
)
from wna_ray.terminal import Forgiving, PlainConsole
from wna_ray.text import duration, printable

LINE_SECONDS = 5.0


class Meter:
    """What has been done how fast.

    The rate is over the images of this call, since the first shard was sent out.
    """

    def __init__(self, started: RunStarted) -> None:
        self.started = started
        self.done = started.done
        self._begin = time.monotonic()
        self._seconds: dict[str, float] = {}

    def add(self, event: ShardDone) -> None:
        """Count a shard."""
        self.done += event.stop - event.start
        for phase, seconds in event.seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def text(self) -> str:
        """``61,440 of 100,000 images, 20,113 images/s, 93 % forward, 2 s left``."""
        samples = self.started.samples
        rate = (self.done - self.started.done) / max(time.monotonic() - self._begin, 1e-9)
        parts = [f"{min(self.done, samples):,} of {samples:,} images", f"{rate:,.0f} images/s"]
        total = sum(self._seconds.values())
        if total:
            # Passes over kept responses have no forward pass.
            phase = "forward" if "forward" in self._seconds else "moments"
            parts.append(f"{100 * self._seconds.get(phase, 0.0) / total:.0f} % {phase}")
        if rate > 0 and self.done < samples:
            parts.append(f"{duration((samples - self.done) / rate)} left")
        return ", ".join(parts)


class OneLine:
    """Tells how a run goes on in one line that is written over again, for terminals and notebooks.

    What is said before the run begins, failures and other workers' trouble keep lines of their own.

    Parameters
    ----------
    stream
        Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = cast(TextIO, Forgiving(stream))
        self._meter: Meter | None = None
        self._width = 0

    @staticmethod
    def fits(stream: TextIO) -> bool:
        """Whether a stream is a terminal, or a notebook's, where a line can be written over."""
        return stream.isatty() or type(stream).__module__.startswith("ipykernel")

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._meter = Meter(event)
                self._write(self._meter.text())
            case ShardDone() if self._meter is not None:
                self._meter.add(event)
                self._write(self._meter.text())
            case ShardRetried() | ShardFailed():
                self._write(f"images [{event.start}, {event.stop}) failed: {event.reason}", "\n")
            case Stage() if self._meter is None:
                self._write(event.name, "\n")
            case RunFinished() if self._meter is not None:
                self._write(f"{self._meter.text()}; {event.url}", "\n")
            case _:
                pass

    def _write(self, text: str, end: str = "") -> None:
        line = printable(text).replace("\n", " ")
        self._stream.write(f"\r{line:<{self._width}}{end}")
        self._stream.flush()
        self._width = 0 if end else len(line)


class ProgressPrinter:
    """Prints events.

    Parameters
    ----------
    stream
        Where to; standard error by default, so that results can be piped.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = PlainConsole(cast(TextIO, Forgiving(stream or sys.stderr)), soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._meter: Meter | None = None
        self._last_line = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case ShardDone() if self._meter is not None:
                self._meter.add(event)
                self._show(self._meter)
            case ShardRetried():
                self._say(
                    f"images [{event.start}, {event.stop}) again ({event.attempt} failures so far):"
                    f" {event.reason}"
                )
            case ShardFailed():
                self._say(f"images [{event.start}, {event.stop}) left out: {event.reason}")
            case CopyStarted():
                self._say(
                    f"images [{event.start}, {event.stop}) take {event.seconds:.0f} s, where"
                    f" {event.usual:.1f} s are usual: another worker tries them, too"
                )
            case WorkersChanged():
                self._say(f"{event.workers} of {event.wanted} workers are there")
            case Stage():
                self.close()
                self._say(event.name)
            case RunFinished():
                self.close()
            case SegmentCommitted() | _:
                pass

    def close(self) -> None:
        """End the bar, with the last numbers."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._meter is not None:
            self._say(self._meter.text())
        self._meter = None

    def _start(self, event: RunStarted) -> None:
        self._meter = Meter(event)
        workers = f"{event.workers} worker{'s' * (event.workers > 1)} on {event.device}"
        resumed = f", {event.done:,} images were committed before" if event.done else ""
        self._say(
            f"run {event.fingerprint[:12]} in {event.url}: {event.samples:,} images in"
            f" {event.shards} shards, {workers}{resumed}"
        )
        if self._console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=30),
                TextColumn("{task.percentage:>3.0f} %  {task.description}"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=event.samples, completed=event.done)
            self._bar.start()
        self._last_line = time.monotonic()

    def _show(self, meter: Meter) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=meter.done, description=meter.text())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._say(meter.text())

    def _say(self, text: str) -> None:
        self._console.print(text)
