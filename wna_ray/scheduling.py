"""Plan shards and segments; drive them through an executor: window, retries, merge tree, commits.

The scheduler sees tickets, never arrays. An executor is anything that can `submit` a `Worker` method, `wait`, and
tell how it ended; so the same loop runs in one process, on Ray, and in simulations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

from wna_ray.errors import WnaError
from wna_ray.events import Callback, SegmentCommitted, ShardDone, ShardFailed, ShardRetried
from wna_ray.rundir import Span

FAN_IN = 8
MOST_SEGMENTS = 64
IMAGES_A_ROW = 4
SEGMENT_BYTES = 16 << 30  # all segments of a run together
SHARD_SECONDS = 2.0
TICK_SECONDS = 0.5

Ticket = Any
"""Whatever an executor gives for a submitted call; hashable."""


class WorkerLost(Exception):
    """A worker died. `blamed` tells whether this call was running on it, or only waiting."""

    def __init__(self, message: str, blamed: bool = True) -> None:
        super().__init__(message)
        self.blamed = blamed


class PayloadLost(Exception):
    """A payload that a call needs is gone, and must be computed again."""


class Executor(Protocol):
    """Runs `Worker` methods somewhere."""

    @property
    def workers(self) -> int:
        """Number of workers."""

    @property
    def window(self) -> int:
        """Shards worth keeping in flight."""

    def share(self, value: Any) -> Any:
        """Make a value cheap to pass to many calls; gives what to pass."""

    def submit(self, method: str, *args: Any, inputs: Sequence[Ticket] = ()) -> Ticket:
        """Call a method; the payloads of `inputs` come before `args`."""

    def wait(self, timeout: float) -> list[Ticket]:
        """Tickets that ended since the last call; waits up to `timeout` seconds for the first."""

    def report(self, ticket: Ticket) -> Any:
        """The report of an ended call; raises what the call raised, or `WorkerLost`, or `PayloadLost`."""

    def payload(self, ticket: Ticket) -> Any:
        """Bring the payload of a call that ended well into this process."""

    def release(self, ticket: Ticket) -> None:
        """Forget a ticket and free its payload."""

    def close(self) -> None:
        """Stop the workers."""


@dataclass(frozen=True)
class Plan:
    """How [0, N) is cut: segments, each with its shards."""

    shard: int
    segment: int
    segments: tuple[tuple[Span, ...], ...]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return sum(len(s) for s in self.segments)


def plan(
    gaps: Sequence[Span],
    samples: int,
    batch: int,
    moment_rows: int,
    row_bytes: int,
    workers: int,
    batch_seconds: float,
    shard: int | None = None,
    segments: int | None = None,
) -> Plan:
    """Cut what is missing into segments and shards.

    Parameters
    ----------
    gaps
        Ranges still to do; they start at multiples of `batch`.
    samples
        N.
    batch
        Images in a forward pass; shards are multiples of it (the last of the run excepted).
    moment_rows, row_bytes
        Most rows of a segment's moments, and the size of each: a segment holds at least four images a row (making it must
        take much longer than committing it), and all segments together at most 16 GiB.
    workers, batch_seconds
        Choose the default shard: about two seconds, but at least four a worker.
    shard, segments
        Asked-for images in a shard, and number of segments of the whole run.

    Returns
    -------
    Plan
        Where segments end depends on `samples`, `batch`, the moments' size and `segments` alone, so two drivers of one run cut the
        same segments, however fast they are; shards are cut inside.
    """
    batches = -(-samples // batch)
    count = segments or max(1, min(MOST_SEGMENTS, SEGMENT_BYTES // (moment_rows * row_bytes), samples // (IMAGES_A_ROW * moment_rows)))
    segment = -(-batches // count) * batch
    if shard is None:
        wanted = max(1, round(SHARD_SECONDS / max(batch_seconds, 1e-6)))
        size = min(wanted, max(1, batches // (4 * workers))) * batch
    else:
        size = -(-shard // batch) * batch
    cut = []
    for start, stop in gaps:
        edges = [start, *range((start // segment + 1) * segment, stop, segment), stop]
        for a, b in pairwise(edges):
            marks = [*range(a, b, size), b]
            cut.append(tuple(pairwise(marks)))
    return Plan(min(size, segment), segment, tuple(cut))


@dataclass
class _Segment:
    """A segment under way: shards not yet in, and partials waiting to be merged."""

    shards: tuple[Span, ...]
    missing: int
    merging: int = 0
    partials: dict[Span, Ticket] = field(default_factory=dict)

    def neighbours(self) -> list[list[Span]]:
        """Partials in runs that touch each other."""
        runs: list[list[Span]] = []
        for span in sorted(self.partials):
            if runs and runs[-1][-1][1] == span[0]:
                runs[-1].append(span)
            else:
                runs.append([span])
        return runs


@dataclass(frozen=True)
class _Call:
    """A call under way: the shard or the merged range it makes, the partials it takes, and how often it was tried."""

    method: str
    segment: _Segment
    span: Span
    inputs: dict[Span, Ticket] = field(default_factory=dict)
    tries: int = 1


class Scheduler:
    """Runs a plan to its end.

    Parameters
    ----------
    executor
        Where calls go.
    shard_args, commit_args
        What `Worker.shard` gets before the range, and `Worker.commit` after the partial.
    attempts
        Tries of a shard (and of a merge or a commit) before it is left out.
    emit
        Gets events.
    """

    def __init__(
        self, executor: Executor, shard_args: tuple[Any, ...], commit_args: tuple[Any, ...], attempts: int, emit: Callback
    ) -> None:
        self._executor, self._attempts, self._emit = executor, attempts, emit
        self._shard_args, self._commit_args = shard_args, commit_args
        self._queue: deque[tuple[_Segment, Span]] = deque()
        self._calls: dict[Ticket, _Call] = {}
        self._tried: dict[Span, int] = {}
        self._lost: dict[Span, int] = {}
        self.failed: dict[Span, str] = {}
        """Shards left out, and why."""

    def run(self, plan: Plan) -> None:
        """Do all shards of a plan and commit their segments.

        An error that no retry can mend (a `WnaError` from a worker) is raised at once. Shards that failed all attempts
        are in `failed`; everything else is committed, around the gaps they leave.
        """
        segments = iter(plan.segments)
        while True:
            flying = sum(call.method == "shard" for call in self._calls.values())
            while flying < self._executor.window:
                if not self._queue:
                    shards = next(segments, None)
                    if shards is None:
                        break
                    segment = _Segment(shards, len(shards))
                    self._queue.extend((segment, span) for span in shards)
                segment, span = self._queue.popleft()
                self._submit(_Call("shard", segment, span))
                flying += 1
            if not self._calls:
                return
            for ticket in self._executor.wait(TICK_SECONDS):
                self._ended(ticket, self._calls.pop(ticket))

    def _submit(self, call: _Call) -> None:
        args = {"shard": (*self._shard_args, *call.span), "merge": (), "commit": self._commit_args}[call.method]
        ticket = self._executor.submit(call.method, *args, inputs=list(call.inputs.values()))
        self._calls[ticket] = call

    def _ended(self, ticket: Ticket, call: _Call) -> None:
        segment = call.segment
        try:
            report = self._executor.report(ticket)
        except WnaError:
            raise
        except Exception as error:  # whatever else a worker met, another try may mend it
            self._executor.release(ticket)
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if call.method == "shard":
                self._shard_failed(call, reason, blamed=not isinstance(error, WorkerLost) or error.blamed)
            elif isinstance(error, PayloadLost) or call.tries >= self._attempts:
                segment.merging -= 1
                self._partials_lost(call, reason)
            else:  # its inputs are still there
                self._submit(replace(call, tries=call.tries + 1))
                return
        else:
            if call.method == "shard":
                segment.missing -= 1
                segment.partials[call.span] = ticket
                self._emit(ShardDone(*call.span, report))
            else:
                segment.merging -= 1
                if call.method == "merge":
                    segment.partials[call.span] = ticket
                else:
                    self._executor.release(ticket)
                    self._emit(SegmentCommitted(*call.span))
        for used in call.inputs.values():
            self._executor.release(used)
        self._advance(segment)

    def _shard_failed(self, call: _Call, reason: str, blamed: bool) -> None:
        self._tried[call.span] = tried = self._tried.get(call.span, 0) + blamed
        if tried >= self._attempts:
            self._give_up(call.segment, call.span, reason)
        else:
            self._queue.appendleft((call.segment, call.span))
            self._emit(ShardRetried(*call.span, tried, reason))

    def _partials_lost(self, call: _Call, reason: str) -> None:
        """Compute the shards under a failed merge or commit again; they did nothing wrong, but not for ever."""
        for span in call.segment.shards:
            if call.span[0] <= span[0] and span[1] <= call.span[1] and span not in self.failed:
                call.segment.missing += 1
                self._lost[span] = lost = self._lost.get(span, 0) + 1
                if lost >= self._attempts:
                    self._give_up(call.segment, span, reason)
                else:
                    self._queue.append((call.segment, span))
                    self._emit(ShardRetried(*span, self._tried.get(span, 0), reason))

    def _give_up(self, segment: _Segment, span: Span, reason: str) -> None:
        self.failed[span] = reason
        segment.missing -= 1
        self._emit(ShardFailed(*span, reason))

    def _advance(self, segment: _Segment) -> None:
        """Merge what can be merged; when all is in, commit what is left."""
        last = segment.missing == 0
        for run in segment.neighbours():
            while len(run) >= (2 if last else FAN_IN):
                group, run = run[:FAN_IN], run[FAN_IN:]
                inputs = {span: segment.partials.pop(span) for span in group}
                segment.merging += 1
                self._submit(_Call("merge", segment, (group[0][0], group[-1][1]), inputs))
        if last and segment.merging == 0:
            for span in list(segment.partials):
                inputs = {span: segment.partials.pop(span)}
                segment.merging += 1
                self._submit(_Call("commit", segment, span, inputs))
