"""Whole jobs as tasks that say what happens: many at a time on Ray, or one after the other here.

Sweeps and trainings have no shards. Each of their tasks is a function that yields events, does its
own commits, and goes on where it stopped when it is called again. So a task whose worker died is
simply begun again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, Protocol

from wna_ray.execution.drive import ExecutorName


@dataclass(frozen=True)
class Task:
    """A function that yields events, and what it needs of a machine.

    Attributes
    ----------
    name
        What it is called in messages; each has its own.
    function, args
        Called with these on a worker; yields events, which must be small.
    needs
        What Ray must keep free for it, such as ``{"num_cpus": 1}``.
    """

    name: str
    function: Callable[..., Iterator[Any]]
    args: tuple[Any, ...]
    needs: Mapping[str, int] = field(default_factory=lambda: {"num_cpus": 1})


@dataclass(frozen=True)
class Lost:
    """The worker of a task died for some reason; the task begins again elsewhere."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """A task is given up: of an error, or (where that is None) because its workers died so many
    times.
    """

    error: BaseException | None
    reason: str
    losses: int = 0


class TaskRunner(Protocol):
    """Runs tasks somewhere."""

    def has(self, resource: str) -> bool:
        """Whether any machine has a resource, such as ``GPU``."""

    def stream(
        self,
        tasks: Sequence[Task],
        most: int | None = None,
        patience: float | None = None,
        noun: str = "task",
    ) -> Iterator[tuple[str, Any]]:
        """Run tasks; gives the name of a task and an event of it, `Lost` or `Failed`, as they come.

        Parameters
        ----------
        tasks
            In the order in which they are begun.
        most
            At a time; None: as many as fit.
        patience
            Seconds after which it is an error that none has begun; None: they are waited for.
        noun
            What a task is called in that error.
        """


class LocalTasks:
    """Runs tasks one after the other in this process; their errors are raised."""

    def has(self, resource: str) -> bool:
        return False

    def stream(
        self,
        tasks: Sequence[Task],
        most: int | None = None,
        patience: float | None = None,
        noun: str = "task",
    ) -> Iterator[tuple[str, Any]]:
        for task in tasks:
            for event in task.function(*task.args):
                yield task.name, event


@contextlib.contextmanager
def task_runner(
    executor: ExecutorName,
    workers: int | None = None,
    address: str | None = None,
    threads: int = 1,
    code: bool = False,
) -> Iterator[TaskRunner]:
    """Who runs tasks, by the executor's name; a cluster that is started here ends with it.

    Parameters
    ----------
    executor
        ``ray`` or ``local``.
    workers, threads
        How large a local cluster is started.
    address
        Of the cluster; None: the one that is meant here, or a new local one.
    code
        Whether workers search the working directory for modules, for a model that runs code.
    """
    if executor == "local":
        yield LocalTasks()
        return
    started = resolve_name("wna_ray.execution.ray:connect")(address, workers, threads, code)
    try:
        yield resolve_name("wna_ray.execution.ray_tasks:RayTasks")()
    finally:
        if started:
            resolve_name("wna_ray.execution.ray:disconnect")()
