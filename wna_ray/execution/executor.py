"""What an executor is: calls on workers, tickets, payloads that stay where they were made."""

from __future__ import annotations

from collections.abc import Sequence
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
                raise WnaError(
                    f"workers died {attempts} times in '{method}' ({error}); run the same command"
                    " again"
                ) from None
        finally:
            executor.release(ticket)
