"""Tasks on Ray: each streams what happens, and one whose worker dies begins again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from wna_ray.errors import Stopped, WnaError
from wna_ray.execution.tasks import Failed, Lost, Task

LOSSES = 3  # times that the worker of one task may die
LOOK_SECONDS = 5.0  # between looks at whether anything runs at all


class RayTasks:
    """Hands tasks to a cluster that this process has joined."""

    def has(self, resource: str) -> bool:
        return bool(ray.cluster_resources().get(resource))  # type: ignore[no-untyped-call]

    def stream(
        self,
        tasks: Sequence[Task],
        most: int | None = None,
        patience: float | None = None,
        noun: str = "task",
    ) -> Iterator[tuple[str, Any]]:
        """All that may run are handed to Ray at once, which tells an autoscaler what would fit
        if there were more machines.
        """
        waiting, at_work, losses = list(tasks), dict[Any, Task](), dict[str, int]()
        begun, heard = set[str](), time.monotonic()
        try:
            while waiting or at_work:
                while waiting and (most is None or len(at_work) < most):
                    task = waiting.pop(0)
                    at_work[_started(task)] = task
                ready: list[Any] = ray.wait(list(at_work), num_returns=1, timeout=LOOK_SECONDS)[0]
                if not ready:
                    silent = time.monotonic() - heard
                    if patience is not None and not begun and silent > patience:
                        raise _no_room(noun, patience, next(iter(at_work.values())))
                    continue
                stream, heard = ready[0], time.monotonic()
                task = at_work[stream]
                try:
                    event = ray.get(next(stream))
                    begun.add(task.name)
                    yield task.name, event
                    continue
                except StopIteration:
                    pass
                except (RayTaskError, RayError) as error:
                    losses[task.name] = losses.get(task.name, 0) + 1
                    end = _end(error, losses[task.name])
                    if isinstance(end, Lost):
                        waiting.insert(0, task)
                    yield task.name, end
                del at_work[stream]
                begun.discard(task.name)
        finally:
            for stream in at_work:
                ray.cancel(stream, force=True)


def _started(task: Task) -> Any:
    options: dict[str, Any] = {
        "max_retries": 0,
        "num_returns": "streaming",
        "scheduling_strategy": "SPREAD",
    }
    remote: Any = ray.remote(task.function)
    return remote.options(**options, **task.needs).remote(*task.args)


def _end(error: RayTaskError | RayError, losses: int) -> Lost | Failed:
    """What an error of a task means; its own error ends it, a dead worker does not at once."""
    if isinstance(error, RayTaskError):
        if not isinstance(error.cause, Stopped):
            cause = error.cause if isinstance(error.cause, WnaError) else error
            return Failed(cause, str(cause))
        reason = "it was told to stop"  # its machine is going away
    else:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Lost(reason) if losses <= LOSSES else Failed(None, reason, losses)


def _no_room(noun: str, patience: float, task: Task) -> WnaError:
    return WnaError(
        f"no {noun} has begun for {patience:.0f} s (execution.patience): the cluster has no room "
        f"for {dict(task.needs)}. Run the same command again when there is room"
    )
