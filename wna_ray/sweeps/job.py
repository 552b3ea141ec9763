"""A sweep from spec to `SWEEP.json`: ``run_sweep(SweepSpec(...), out=...)``.

On Ray each member is one task that does the whole run in its process, so a hundred small runs fill
a cluster without a hundred starts of it. A few huge runs are the other case: one by one, each
spread over the whole cluster as it would be alone. Neither changes a byte.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, Unpack

from wna_ray.errors import RunError, Stopped, WnaError
from wna_ray.events import Callback
from wna_ray.execution.drive import (
    How,
    Where,
    check_executor,
    check_reachable,
    stop_on_sigterm,
)
from wna_ray.execution.tasks import Failed, LocalTasks, Lost, Task, task_runner
from wna_ray.kinds.any import run_any
from wna_ray.specs.job import JobSpec
from wna_ray.specs.parse import runs_code
from wna_ray.specs.sweep import SweepSpec
from wna_ray.storage.store import Place
from wna_ray.sweeps.directory import SweepDirectory
from wna_ray.sweeps.finished import Sweep
from wna_ray.terminal import Forgiving, traceback_text
from wna_ray.text import duration, printable

MOST_FAILED = 20  # members that the last error names
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepStarted:
    """The work begins (or goes on): `done` of the members are finished already."""

    url: str
    members: int
    done: int


@dataclass(frozen=True)
class MemberStarted:
    """A member begins, or goes on."""

    name: str
    host: str


@dataclass(frozen=True)
class MemberDone:
    """A member is finished, with so many images (or trials)."""

    name: str
    samples: int
    seconds: float


@dataclass(frozen=True)
class MemberFailed:
    """A member ended with an error; the others go on."""

    name: str
    reason: str


@dataclass(frozen=True)
class MemberLost:
    """The worker of a member died; the member goes on elsewhere."""

    name: str
    reason: str


SweepEvent = SweepStarted | MemberStarted | MemberDone | MemberFailed | MemberLost


class SweepPrinter:
    """Prints one line as each member begins and ends.

    Parameters
    ----------
    stream
        Where to; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = Forgiving(stream or sys.stderr)
        self._begin = time.monotonic()
        self._members = self._before = self._done = self._failed = self._samples = 0

    def __call__(self, event: SweepEvent) -> None:
        print(printable(self._text(event)), file=self._stream, flush=True)

    def _text(self, event: SweepEvent) -> str:
        if isinstance(event, SweepStarted):
            self._members, self._before, self._begin = event.members, event.done, time.monotonic()
            before = f", {event.done:,} were finished before" if event.done else ""
            return f"sweep in {event.url}: {event.members:,} members{before}"
        if isinstance(event, MemberStarted):
            return f"{event.name}: begins on {event.host}"
        if isinstance(event, MemberLost):
            return f"{event.name}: its worker died ({event.reason}); it goes on elsewhere"
        if isinstance(event, MemberFailed):
            self._failed += 1
            return f"{event.name}: failed: {event.reason.splitlines()[0]}; {self._count()}"
        self._done += 1
        self._samples += event.samples
        return (
            f"{event.name}: done, {event.samples:,} images in {duration(event.seconds)};"
            f" {self._count()}"
        )

    def _count(self) -> str:
        """``3 of 8 members done, 1 failed, 20,000 images/s, 5 min left``."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        parts = [f"{self._before + self._done:,} of {self._members:,} members done"]
        parts += [f"{self._failed:,} failed"] if self._failed else []
        left = self._members - self._before - self._done - self._failed
        if self._done:
            parts.append(f"{self._samples / seconds:,.0f} images/s")
            parts += [f"{duration(left * seconds / self._done)} left"] if left else []
        return ", ".join(parts)


def run_sweep(
    spec: SweepSpec,
    out: str,
    *,
    one_by_one: bool = False,
    callbacks: Sequence[Callable[[SweepEvent], None]] = (),
    member_callbacks: Sequence[Callback] = (),
    **where: Unpack[Where],
) -> Sweep:
    """Run the members of a sweep, or go on with them.

    Parameters
    ----------
    spec
        What to do.
    out
        Directory of the sweep: a path or any fsspec URL. The same call again resumes; another sweep
        there is refused.
    one_by_one
        Give each member in turn the whole cluster. For members that are large: they are cut into
        shards for all workers, and what each takes to begin and to merge is waited for.
    callbacks
        Called with what happens to members.
    member_callbacks
        Called with the events of each run, where these happen in this process: one by one.
    executor
        ``ray``: each member is a task of as many CPUs as its forward pass has threads, and of one
        GPU where the cluster has any; as many at once as fit. ``local``: one after the other in
        this process.
    workers
        Most members at a time; one by one, workers of each member.
    address, single_writer
        As for a run.

    Returns
    -------
    Sweep
        The finished sweep.

    Raises
    ------
    RunError
        Members failed, all others are finished; or the directory holds something else.
    """
    how = How(**where, callbacks=member_callbacks)
    check_executor(how.executor, how.workers, how.address)
    check_reachable(out, how.executor)
    endpoint = next(iter(spec.members.values())).execution.endpoint
    directory = SweepDirectory(Place(out, endpoint, how.single_writer))
    directory.store.require_conditions()
    directory.begin(spec)
    if directory.is_published():
        directory.store.sweep()
        return Sweep(directory.store.place)
    waiting = {
        name: member for name, member in spec.members.items() if not _is_over(directory, name)
    }
    course = _Course(directory.url, len(spec.members), len(waiting), callbacks)
    course.begin()
    try:
        threads = max(member.numerics.threads for member in spec.members.values())
        code = any(map(runs_code, spec.members.values()))
        with (
            task_runner(how.executor, how.workers, how.address, threads, code) as cluster,
            # After Ray has started, which sets a handler of its own.
            stop_on_sigterm(course.last_words),
        ):
            runner, each = cluster, LOCALLY
            if one_by_one or how.executor == "local":
                runner = LocalTasks()
                each = {
                    "executor": how.executor,
                    "workers": how.workers,
                    "address": how.address,
                    "callbacks": how.callbacks,
                }
            tasks = [
                Task(
                    name,
                    run_member,
                    (directory.member(name), name, member, each),
                    _needs(member, cluster.has("GPU")),
                )
                for name, member in waiting.items()
            ]
            patience = max((member.execution.patience for member in waiting.values()), default=0.0)
            for name, happened in runner.stream(tasks, how.workers, patience, "member"):
                course.note(_as_event(name, happened))
    except (KeyboardInterrupt, Stopped):
        raise Stopped(course.last_words()) from None
    course.require_all()
    directory.publish(spec)
    return Sweep(directory.store.place)


class _Course:
    """How far a sweep is while it is worked on, and who hears of it.

    Parameters
    ----------
    url
        Where the sweep lies.
    members, waiting
        How many it has, and how many of them are to be done.
    callbacks
        Called with every event.
    """

    def __init__(
        self,
        url: str,
        members: int,
        waiting: int,
        callbacks: Sequence[Callable[[SweepEvent], None]],
    ) -> None:
        self._url, self._members, self._callbacks = url, members, callbacks
        self._done = members - waiting
        self._failed: dict[str, str] = {}

    def begin(self) -> None:
        """Say that the work begins."""
        self._tell(SweepStarted(self._url, self._members, self._done))

    def note(self, event: SweepEvent) -> None:
        """Note what happened to a member."""
        self._done += isinstance(event, MemberDone)
        if isinstance(event, MemberFailed):
            self._failed[event.name] = event.reason
        self._tell(event)

    def last_words(self) -> str:
        """How to go on after a stop."""
        return (
            f"stopped; {self._done} of {self._members} members are done in '{self._url}'. The"
            " same command goes on from there"
        )

    def require_all(self) -> None:
        """`RunError` where members failed; the first ones are named."""
        failed = list(self._failed.items())
        if not failed:
            return
        named = "\n".join(f"  {name}: {reason}" for name, reason in failed[:MOST_FAILED])
        rest = f"\n  and {len(failed) - MOST_FAILED} more" if len(failed) > MOST_FAILED else ""
        raise RunError(
            f"{len(failed)} of {self._members} members failed; all others are finished in"
            f" '{self._url}':\n{named}{rest}\nMend the cause and run the same command again:"
            " only these are missing"
        )

    def _tell(self, event: SweepEvent) -> None:
        for callback in self._callbacks:
            callback(event)


def _is_over(directory: SweepDirectory, name: str) -> bool:
    """Whether nothing of a member is left to do; one whose driver ended between its manifest
    and its last words is looked at again.
    """
    state = directory.state(name)
    return state.finished and state.driver is not None and state.driver.state == "finished"


def run_member(
    place: Place, name: str, spec: JobSpec, how: Mapping[str, Any]
) -> Iterator[SweepEvent]:
    """Run one member, saying what happens; an error is told, a stop is raised."""
    yield MemberStarted(name, socket.gethostname())
    begin = time.monotonic()
    try:
        finished = run_any(spec, place.url, single_writer=place.single_writer, **how)
    except Stopped:
        raise
    except WnaError as error:
        yield MemberFailed(name, str(error))
    except Exception as error:  # a bug, of a model perhaps: the other members may not have it
        _log.error("member %s\n%s", name, traceback_text())
        yield MemberFailed(name, f"{type(error).__name__}: {error}")
    else:
        yield MemberDone(name, finished.manifest.samples, time.monotonic() - begin)


LOCALLY: Mapping[str, Any] = {"executor": "local"}


def _as_event(name: str, event: SweepEvent | Lost | Failed) -> SweepEvent:
    """What a task's event means for its member."""
    if isinstance(event, Lost):
        return MemberLost(name, event.reason)
    if not isinstance(event, Failed):
        return event
    if event.error is not None:
        return MemberFailed(name, event.reason)
    return MemberFailed(
        name, f"its worker died {event.losses} times ({event.reason}); mend the cause (memory?)"
    )


def _needs(spec: JobSpec, gpus: bool) -> dict[str, int]:
    """What Ray must keep free for a member."""
    wanted = spec.numerics.device
    return {"num_cpus": spec.numerics.threads} | (
        {"num_gpus": 1} if wanted == "cuda" or (wanted == "auto" and gpus) else {}
    )
