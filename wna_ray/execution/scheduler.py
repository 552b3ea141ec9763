"""Plan shards and segments; drive them through an executor: window, retries, second copies, merge
tree, commits.

The scheduler sees tickets, never arrays. An executor is anything that can `submit` a `Worker`
method, `wait`, and tell how it ended; so the same loop runs in one process, on Ray, and in
simulations.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from wna_ray.errors import StoreError, WnaError
from wna_ray.events import (
    Callback,
    CopyStarted,
    SegmentCommitted,
    ShardDone,
    ShardFailed,
    ShardRetried,
    WorkersChanged,
)
from wna_ray.execution.executor import TICK_SECONDS, Executor, PayloadLost, Ticket, WorkerLost
from wna_ray.execution.plan import Plan, fan_in
from wna_ray.geometry import Span

SLOW, FAR_TOO_SLOW = (
    3.0,
    10.0,
)  # times the median: when a call gets a second copy, with and without idle workers
LEAST_SECONDS = 5.0  # before a call is called slow


@dataclass(eq=False)
class _Tree:
    """A merge tree under way: leaves not yet in, and partials waiting to be merged.

    Attributes
    ----------
    leaves
        Ranges that `leaf` computes, in order.
    leaf
        Method and arguments of the call for a leaf.
    root
        Method and arguments of the call that takes the last partial; None keeps it in `partials`.
    """

    leaves: tuple[Span, ...]
    leaf: tuple[str, Callable[[Span], tuple[Any, ...]]]
    root: tuple[str, tuple[Any, ...]] | None
    missing: int = 0
    merging: int = 0
    partials: dict[Span, Ticket] = field(default_factory=dict)
    stops: dict[int, Span] = field(default_factory=dict)
    starts: dict[int, Span] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.missing = len(self.leaves)

    def put(self, span: Span, ticket: Ticket) -> None:
        self.partials[span] = ticket
        self.starts[span[0]] = self.stops[span[1]] = span

    def take(self, span: Span) -> Ticket:
        del self.starts[span[0]], self.stops[span[1]]
        return self.partials.pop(span)

    def run_around(self, span: Span) -> list[Span]:
        """Partials that touch each other, with `span` among them."""
        while (before := self.stops.get(span[0])) is not None:
            span = before
        run = [span]
        while (after := self.starts.get(run[-1][1])) is not None:
            run.append(after)
        return run

    def runs(self) -> Iterator[list[Span]]:
        """All partials, in runs that touch each other."""
        left = sorted(self.partials)
        while left:
            run = self.run_around(left[0])
            yield run
            left = left[len(run) :]


@dataclass(eq=False)
class _Call:
    """A call under way: the leaf or the merged range it makes, the partials it takes, how often it
    was tried.

    `tickets` are its copies: one, or two of a slow call.
    """

    kind: str  # leaf, merge or root
    tree: _Tree
    span: Span
    inputs: dict[Span, Ticket] = field(default_factory=dict)
    tries: int = 1
    tickets: list[Ticket] = field(default_factory=list)
    since: float = 0.0


class Scheduler:
    """Runs plans to their end.

    Parameters
    ----------
    executor
        Where calls go.
    attempts
        Tries of a shard (and of a merge or a commit) before it is left out.
    emit
        Gets events.
    partial_bytes
        About how large a partial is.
    clock
        Seconds, for telling slow calls.
    """

    def __init__(
        self,
        executor: Executor,
        attempts: int,
        emit: Callback,
        partial_bytes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor, self._attempts, self._emit, self._clock = executor, attempts, emit, clock
        self._fan_in = fan_in(partial_bytes)
        self._queue: deque[tuple[_Tree, Span]] = deque()
        self._calls: dict[Ticket, _Call] = {}
        self._flying = 0  # leaves
        self._tried: dict[Span, int] = {}
        self._lost: dict[Span, int] = {}
        self._times: dict[str, deque[float]] = {
            kind: deque(maxlen=101) for kind in ("leaf", "merge", "root")
        }
        self._looked = clock()
        self._workers = 0
        self._reports: dict[Span, Any] | None = None
        self.failed: dict[Span, str] = {}
        """Shards left out, and why."""

    def run(self, plan: Plan, shard_args: tuple[Any, ...], commit_args: tuple[Any, ...]) -> None:
        """Do all shards of a plan and commit their segments.

        `shard_args` is what `Worker.shard` gets before the range, `commit_args` what
        `Worker.commit` gets after the partial. An error that no retry can mend (a `WnaError` from a
        worker) is raised at once. Shards that failed all attempts are in `failed`; everything else
        is committed, around the gaps they leave.
        """
        self._drive(
            _Tree(
                plan.cut(s), ("shard", lambda span: (*shard_args, *span)), ("commit", commit_args)
            )
            for s in plan.segments
        )

    def merge(
        self, leaves: dict[Span, tuple[Any, ...]], method: str
    ) -> tuple[Ticket, dict[Span, Any]]:
        """Merge what `method` gives for each range's arguments.

        Returns
        -------
        ticket
            Of the one partial.
        reports
            Of all leaves, by range.
        """
        tree = _Tree(tuple(leaves), (method, leaves.__getitem__), None)
        reports: dict[Span, Any] = {}
        self._reports = reports
        self._drive(iter([tree]))
        if self.failed:
            raise StoreError(
                f"segments could not be read again: {next(iter(self.failed.values()))}; run the"
                " same command again"
            )
        (span,) = tree.partials
        return tree.take(span), reports

    def _drive(self, trees: Iterator[_Tree]) -> None:
        while True:
            while self._flying < self._executor.window:
                if not self._queue:
                    tree = next(trees, None)
                    if tree is None:
                        break
                    self._queue.extend((tree, span) for span in tree.leaves)
                tree, span = self._queue.popleft()
                self._submit(_Call("leaf", tree, span))
            if not self._calls:
                return
            for ticket in self._executor.wait(TICK_SECONDS):
                if ticket in self._calls:  # else its copy, which ended with it, has done the work
                    self._ended(ticket)
            self._look_around()

    def _submit(self, call: _Call, avoid: Ticket | None = None) -> None:
        tree = call.tree
        if call.kind == "merge":
            method, args = "merge", tuple[Any, ...]()
        elif call.kind == "root":
            assert tree.root is not None
            method, args = tree.root
        else:
            method, args = tree.leaf[0], tree.leaf[1](call.span)
        self._flying += call.kind == "leaf"
        ticket = self._executor.submit(
            method, *args, inputs=list(call.inputs.values()), avoid=avoid
        )
        call.tickets.append(ticket)
        call.since = call.since or self._clock()
        self._calls[ticket] = call

    def _forget(self, ticket: Ticket) -> _Call:
        call = self._calls.pop(ticket)
        call.tickets.remove(ticket)
        self._flying -= call.kind == "leaf"
        return call

    def _ended(self, ticket: Ticket) -> None:
        call = self._forget(ticket)
        try:
            report = self._executor.report(ticket)
        except Exception as error:
            mendable = not isinstance(error, WnaError) or (
                isinstance(error, StoreError) and error.passing and call.tries < self._attempts
            )
            if not mendable:
                raise
            self._executor.release(ticket)
            if not call.tickets:  # else its copy is still at it
                self._failed(call, error)
            return
        for copy in list(call.tickets):
            self._forget(copy)
            self._executor.release(copy)
        self._times[call.kind].append(self._clock() - call.since)
        self._done(call, ticket, report)
        self._free(call)

    def _done(self, call: _Call, ticket: Ticket, report: Any) -> None:
        tree = call.tree
        if call.kind == "root":
            tree.merging -= 1
            self._executor.release(ticket)
            self._emit(SegmentCommitted(*call.span, report))
            return
        tree.put(call.span, ticket)
        if call.kind == "merge":
            tree.merging -= 1
        else:
            tree.missing -= 1
            if self._reports is None:
                self._emit(ShardDone(*call.span, report))
            else:
                self._reports[call.span] = report
        self._advance(tree, call.span)

    def _failed(self, call: _Call, error: Exception) -> None:
        """Whatever a worker met, another try may mend it."""
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if call.kind == "leaf":
            self._leaf_failed(
                call, reason, blamed=not isinstance(error, WorkerLost) or error.blamed
            )
        elif isinstance(error, PayloadLost) or call.tries >= self._attempts:
            call.tree.merging -= 1
            self._partials_lost(call, reason)
            self._free(call)
        else:  # its inputs are still there
            call.tries += 1
            call.since = 0.0
            self._submit(call)
            return
        self._advance(call.tree)

    def _free(self, call: _Call) -> None:
        for used in call.inputs.values():
            self._executor.release(used)

    def _leaf_failed(self, call: _Call, reason: str, blamed: bool) -> None:
        self._tried[call.span] = tried = self._tried.get(call.span, 0) + blamed
        if tried >= self._attempts:
            self._give_up(call.tree, call.span, reason)
        else:
            self._queue.appendleft((call.tree, call.span))
            self._emit(ShardRetried(*call.span, tried, reason))

    def _partials_lost(self, call: _Call, reason: str) -> None:
        """Compute the leaves under a failed merge or commit again; they did nothing wrong, but
        not for ever.
        """
        for span in call.tree.leaves:
            if call.span[0] <= span[0] and span[1] <= call.span[1] and span not in self.failed:
                call.tree.missing += 1
                self._lost[span] = lost = self._lost.get(span, 0) + 1
                if lost >= self._attempts:
                    self._give_up(call.tree, span, reason)
                else:
                    self._queue.append((call.tree, span))
                    self._emit(ShardRetried(*span, self._tried.get(span, 0), reason))

    def _give_up(self, tree: _Tree, span: Span, reason: str) -> None:
        self.failed[span] = reason
        tree.missing -= 1
        self._emit(ShardFailed(*span, reason))

    def _advance(self, tree: _Tree, new: Span | None = None) -> None:
        """Merge what can be merged, around a new partial or everywhere; when all is in, finish
        with what is left.
        """
        last = tree.missing == 0
        least = 2 if last else self._fan_in
        for run in (
            [tree.run_around(new)] if new in tree.partials and not last else list(tree.runs())
        ):
            while len(run) >= least:
                group, run = run[: self._fan_in], run[self._fan_in :]
                tree.merging += 1
                self._submit(
                    _Call(
                        "merge",
                        tree,
                        (group[0][0], group[-1][1]),
                        {span: tree.take(span) for span in group},
                    )
                )
        if last and tree.merging == 0 and tree.root is not None:
            for span in list(tree.partials):
                tree.merging += 1
                self._submit(_Call("root", tree, span, {span: tree.take(span)}))

    def _look_around(self) -> None:
        """Once a second: how many workers are there, and which calls are so late that another
        worker should try them, too.
        """
        now = self._clock()
        if now - self._looked < 1.0:
            return
        self._looked = now
        if (workers := self._executor.workers) != self._workers:
            if self._workers:
                self._emit(WorkersChanged(workers, self._executor.wanted))
            self._workers = workers
        usual = {kind: median(times) for kind, times in self._times.items() if len(times) >= 3}
        idle = (
            not self._queue and self._flying < self._executor.window and workers > len(self._calls)
        )
        for ticket, call in list(self._calls.items()):
            if len(call.tickets) == 1 and call.kind in usual and workers > 1:
                seconds = now - call.since
                if seconds > max(
                    LEAST_SECONDS, (SLOW if idle else FAR_TOO_SLOW) * usual[call.kind]
                ):
                    self._submit(call, avoid=ticket)
                    self._emit(CopyStarted(*call.span, seconds, usual[call.kind]))
