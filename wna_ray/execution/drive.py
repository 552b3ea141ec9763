"""Driving a run: executors by name, listeners, SIGTERM, shards until none is missing, the merge."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal, TypedDict

from wna_ray.errors import SpecError, Stopped
from wna_ray.events import Callback, Event, RunFinished
from wna_ray.execution.executor import Executor
from wna_ray.execution.local import InProcessExecutor
from wna_ray.execution.rounds import Desk, Question
from wna_ray.networks.models import Model, require_there
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.driver import LAST_WORDS_SECONDS, Driver, State
from wna_ray.specs.job import Held, JobSpec
from wna_ray.storage.store import Place

ExecutorName = Literal["ray", "local"]

STOP_SECONDS = 2.2


def make_executor(
    spec: Held,
    executor: ExecutorName,
    workers: int | None = None,
    address: str | None = None,
    model: Model | None = None,
) -> Executor:
    """An executor by name; Ray is imported only for ``ray``. Its workers have a module of this
    process, if one is given, in the place of the spec's model.
    """
    check_executor(executor, workers, address)
    if executor == "local":
        return InProcessExecutor(spec, model)
    ray_executor = resolve_name("wna_ray.execution.ray:RayExecutor")
    on_ray: Executor = ray_executor(spec, workers, address, model)
    return on_ray


def check_executor(
    executor: ExecutorName, workers: int | None = None, address: str | None = None
) -> None:
    """`SpecError` where there is no such executor."""
    if workers is not None and workers < 1:
        raise SpecError(f"workers: {workers} is not a number of workers; give 1 or more")
    if executor not in ("ray", "local"):
        raise SpecError(f"executor: '{executor}' is unknown; use ray or local")
    if executor == "local" and (address is not None or workers not in (None, 1)):
        raise SpecError(
            "executor: local has one worker and no address; leave --workers and --address out, or"
            " use ray"
        )


@dataclass(frozen=True)
class How:
    """Where a job runs, and who hears of it; none of this changes a byte of the result.

    Attributes
    ----------
    executor, workers, address
        See `make_executor`.
    single_writer
        Allow a store that ignores conditional writes: nobody else drives this run at the same time.
    callbacks
        Called with every event of `wna_ray.events`.
    """

    executor: ExecutorName = "ray"
    workers: int | None = None
    address: str | None = None
    single_writer: bool = False
    callbacks: Sequence[Callback] = ()


class Where(TypedDict, total=False):
    """Keywords of `How` that say where a job runs."""

    executor: ExecutorName
    workers: int | None
    address: str | None
    single_writer: bool


def drive(
    question: Question, spec: JobSpec, out: str, how: How, model: Model | None = None
) -> Place:
    """Run a job from its question to its manifest; stops and failures are told to all, and end
    the executor. A module of this process may take the place of the spec's model.
    """
    place = Place(out, spec.execution.endpoint, how.single_writer)
    directory = RunDirectory(place)
    check_reachable(out, how.executor)
    if how.executor == "ray" and model is None:
        _glance(question.held, how)
    with contextlib.ExitStack() as stack:
        listeners = Listeners(directory, how.callbacks, question.announced)
        runner = make_executor(question.held, how.executor, how.workers, how.address, model)
        stack.callback(runner.close)
        # After Ray has started, which sets a handler of its own.
        stack.enter_context(stop_on_sigterm(listeners.how_to_go_on))
        if how.executor == "ray":
            listeners.add(resolve_name("wna_ray.execution.metrics:RayMetrics")())
        try:
            desk = Desk(directory, runner, listeners, spec.execution.attempts, listeners.claim)
            prepared = question.prepare(desk)
            desk.conduct(prepared)
            prepared.after()
            listeners.finish()
        except KeyboardInterrupt:
            listeners.close("stopped", listeners.how_to_go_on(), LAST_WORDS_SECONDS)
            raise Stopped(listeners.how_to_go_on()) from None
        except BaseException as error:
            listeners.close("failed", str(error))
            raise
    return directory.store.place


def _glance(held: Held, how: How) -> None:
    """Find mistakes in models before a Ray of one's own starts, which takes seconds; on a cluster
    elsewhere they may lie where only its workers are.
    """
    spec = held.network
    if spec is None or how.address is not None or os.environ.get("RAY_ADDRESS"):
        return
    for uri in filter(None, (spec.model, spec.decoder)):
        require_there(uri)


def check_reachable(out: str, executor: ExecutorName) -> None:
    """`SpecError` where workers could not write, or would write elsewhere than it says."""
    if "::" in out:
        raise SpecError(f"out: '{out}' chains storages by ::; give a path, or one URL")
    if executor == "ray" and out.startswith("memory:"):
        raise SpecError(
            f"out: '{out}' is in this process's memory, where Ray's workers cannot write; use"
            " --executor local"
        )


class Listeners:
    """Hands events to all who want them, and, once there is one, to the driver's journal first."""

    def __init__(
        self, directory: RunDirectory, callbacks: Sequence[Callback], samples: int | None
    ) -> None:
        self._directory, self._samples = directory, samples
        self._callbacks = list(callbacks)
        self._driver: Driver | None = None

    def add(self, callback: Callback) -> None:
        """Tell one more."""
        self._callbacks.append(callback)

    def __call__(self, event: Event) -> None:
        if self._driver is not None:
            self._driver(event)
        for callback in self._callbacks:
            callback(event)

    def claim(self) -> None:
        """Become the run's driver; `RunError` where another is at work."""
        self._driver = Driver(self._directory)

    def close(self, state: State, reason: str = "", patience: float | None = None) -> None:
        """End the journal, where there is one (see `wna_ray.runs.driver.Driver.close`)."""
        if self._driver is not None:
            self._driver.close(state, reason, patience)

    def how_to_go_on(self) -> str:
        """From memory: a storage that does not answer must not hold up a stop."""
        if self._driver is None:
            return (
                "stopped before anything was computed; the same command goes on in"
                f" '{self._directory.url}'"
            )
        done = f"{self._driver.committed:,}" + (
            "" if self._samples is None else f" of {self._samples:,}"
        )
        return (
            f"stopped; {done} images are committed to '{self._directory.url}'. The same command"
            " goes on from there"
        )

    def finish(self) -> None:
        """The end of a run that went well."""
        self(RunFinished(self._directory.url))
        self.close("finished")


@contextlib.contextmanager
def stop_on_sigterm(last_words: Callable[[], str]) -> Iterator[None]:
    """Let SIGTERM (a job stop) end a run as Ctrl-C does, but in less than the three seconds after
    which Ray kills a job.

    Whatever still hangs then (a storage that is away, a cluster that does not answer) is left:
    everything is committed or not, and a resumed run finds out. Signals can be handled in the main
    thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []

    def leave() -> None:
        print(f"wna: {last_words()}", file=sys.stderr, flush=True)
        os._exit(Stopped.exit_code)

    def stop(_signal: int, _frame: object) -> None:
        timers.append(threading.Timer(STOP_SECONDS, leave))
        timers[-1].daemon = True
        timers[-1].start()
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
