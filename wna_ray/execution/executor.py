"""What an executor is: calls on workers, tickets, payloads that stay where they were made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from wna_ray.errors import WnaError
from wna_ray.machine import Machine

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
        """Workers that are there now."""

    @property
    def wanted(self) -> int:
        """Workers that are there or asked for."""

    @property
    def window(self) -> int:
        """Shards worth keeping in flight."""

    def machines(self) -> list[Machine]:
        """What workers have: memory and object store, machine by machine."""

    def share(self, value: Any) -> Any:
        """Make a value cheap to pass to many calls; gives what to pass."""

    def submit(
        self, method: str, *args: Any, inputs: Sequence[Ticket] = (), avoid: Ticket | None = None
    ) -> Ticket:
        """Call a method; the payloads of `inputs` come before `args`. Not on the worker that
        has the call `avoid`.
        """

    def wait(self, timeout: float) -> list[Ticket]:
        """Tickets that ended since the last call; waits up to `timeout` seconds for the first."""

    def report(self, ticket: Ticket) -> Any:
        """The report of an ended call; raises what the call raised, or `WorkerLost`, or
        `PayloadLost`.
        """

    def payload(self, ticket: Ticket) -> Any:
        """Bring the payload of a call that ended well into this process; `PayloadLost` where it
        is gone.
        """

    def release(self, ticket: Ticket) -> None:
        """Forget a ticket and free its payload. One that has not ended will never be heard of
        again.
        """

    def close(self) -> None:
        """Stop the workers."""


def call_each(
    executor: Executor,
    attempts: int,
    method: str,
    arguments: Sequence[tuple[Any, ...]],
    done: Callable[[int], None] = lambda _: None,
) -> list[Any]:
    """Calls of one method, on all workers; their reports, in order. One whose worker died is tried
    again. `done` is told how many have ended.
    """
    reports, left = [None] * len(arguments), [attempts] * len(arguments)
    waiting, running = deque(range(len(arguments))), dict[Ticket, int]()
    try:
        while waiting or running:
            while waiting and len(running) < executor.window:
                i = waiting.popleft()
                running[executor.submit(method, *arguments[i])] = i
            for ticket in executor.wait(TICK_SECONDS):
                i = running.pop(ticket)
                try:
                    reports[i] = executor.report(ticket)
                except WorkerLost as error:
                    left[i] -= 1
                    if not left[i]:
                        raise _given_up(attempts, method, error) from None
                    waiting.appendleft(i)
                finally:
                    executor.release(ticket)
                done(len(arguments) - len(waiting) - len(running))
    finally:
        for ticket in running:
            executor.release(ticket)
    return reports


def _given_up(attempts: int, method: str, error: WorkerLost) -> WnaError:
    return WnaError(
        f"workers died {attempts} times in '{method}' ({error}); run the same command again"
    )


def call(executor: Executor, attempts: int, method: str, *args: Any) -> Any:
    """One call, waited for, and tried again where its worker died; its report."""
    for left in reversed(range(attempts)):
        ticket = executor.submit(method, *args)
        while ticket not in executor.wait(TICK_SECONDS):
            pass
        try:
            return executor.report(ticket)
        except WorkerLost as error:
            if not left:
                raise _given_up(attempts, method, error) from None
        finally:
            executor.release(ticket)
