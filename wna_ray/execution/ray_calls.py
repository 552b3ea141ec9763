"""Calls on Ray actors: which wait, which actor takes the next one, and which have ended.

`RayExecutor` decides how many actors there are and buries the dead; what is computed on them, and
in which order, is decided here.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from wna_ray.execution.executor import PayloadLost

IN_FLIGHT = 2
"""Calls on an actor: one that runs, one that waits, so that no actor idles for the driver."""
GONE = PayloadLost("the machine that had it is gone")


@dataclass(eq=False)
class Actor:
    """A worker of the pool."""

    handle: Any
    ready: Any  # ray.ObjectRef: ends when the actor has started, with its node
    node: str | None = None  # once it has started
    calls: list[Call] = field(default_factory=list)


@dataclass(eq=False)
class Call:
    """A ticket: a call that waits for an actor, or is on one, or has ended."""

    method: str
    inputs: Sequence[Call]
    args: tuple[Any, ...]
    avoid: Call | None = None
    actor: Actor | None = None
    payload: Any = None  # ray.ObjectRef, once it is on an actor
    report: Any = None  # ray.ObjectRef
    end: Any = None
    dropped: bool = False

    def result(self) -> Any:
        """The report of a call that ended; raises the error that it ended with."""
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


class Calls:
    """All calls of an executor.

    Parameters
    ----------
    pool
        The actors; the list is kept, and whoever gives it changes it.
    """

    def __init__(self, pool: list[Actor]) -> None:
        self._pool = pool
        self._waiting: deque[Call] = deque()
        self._ended: list[Call] = []
        self._gone: set[str] = set()  # nodes that were in the cluster once

    @property
    def any_ended(self) -> bool:
        """Whether `take_ended` has calls to give."""
        return bool(self._ended)

    def add(self, call: Call) -> None:
        """Let a call wait for an actor.

        Merges and commits free memory, and copies are late already: they go first.
        """
        if call.inputs or call.avoid is not None:
            self._waiting.appendleft(call)
        else:
            self._waiting.append(call)

    def drop(self, call: Call) -> None:
        """Forget a call: whoever submitted it will never ask for it again."""
        call.dropped = True
        call.payload = None  # the last reference: the object store frees the arrays
        call.inputs = ()
        if call in self._waiting:
            self._waiting.remove(call)

    def take_ended(self) -> list[Call]:
        """Calls that ended since they were taken last."""
        ended, self._ended = self._ended, []
        return ended

    def settle(self, actor: Actor, call: Call, end: Any) -> None:
        """Note how a call on an actor has ended."""
        call.end, call.report = end, None
        actor.calls.remove(call)
        if not call.dropped:
            self._ended.append(call)

    def note_gone(self, nodes: Iterable[str]) -> None:
        """Calls that need what only a lost machine had are lost; Ray would find out, too, but
        many seconds later.
        """
        gone = set(nodes)
        if gone == self._gone:
            return
        self._gone = gone
        for actor in self._pool:
            for call in [c for c in actor.calls if self._needs_gone(c)]:
                with contextlib.suppress(RayError):
                    ray.cancel(call.report)
                self.settle(actor, call, GONE)

    def dispatch(self) -> None:
        """Give waiting calls to actors that have started and have room; never to one that may
        not find a place.
        """
        kept: list[Call] = []
        room = sum(IN_FLIGHT - len(actor.calls) for actor in self._pool if actor.node is not None)
        while self._waiting and room:
            call = self._waiting.popleft()
            if self._needs_gone(call):
                call.end = GONE
                self._ended.append(call)
                continue
            actor = self.place(call)
            if actor is None:
                kept.append(call)
                continue
            bound = getattr(actor.handle, call.method).options(num_returns=2)
            call.payload, call.report = bound.remote(
                *(ticket.payload for ticket in call.inputs), *call.args
            )
            call.actor = actor
            actor.calls.append(call)
            room -= 1
        self._waiting.extendleft(reversed(kept))

    def place(self, call: Call) -> Actor | None:
        """The actor with least to do; for a second copy not the one that is at the first, and
        rather on another machine.
        """
        free = [
            actor
            for actor in self._pool
            if actor.node is not None
            and len(actor.calls) < IN_FLIGHT
            and call.avoid not in actor.calls
        ]
        if call.avoid is not None and call.avoid.actor is not None:
            node = call.avoid.actor.node
            free = [actor for actor in free if actor.node != node] or free
        return min(free, key=lambda a: len(a.calls), default=None)

    def _needs_gone(self, call: Call) -> bool:
        return any(
            ticket.actor is not None and ticket.actor.node in self._gone for ticket in call.inputs
        )
