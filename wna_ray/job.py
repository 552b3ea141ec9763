"""A run from spec to manifest: ``run(Spec(...), out=...)``, and a pilot for planning one."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wna_ray.analysis import Readout
from wna_ray.driver import LAST_WORDS_SECONDS, Driver, State
from wna_ray.errors import RunError, ShardError, SpecError, Stopped
from wna_ray.evaluation import Ask, evaluate
from wna_ray.events import Callback, Event, RunFinished, RunStarted, Stage
from wna_ray.inprocess import InProcessExecutor
from wna_ray.memory import available, check, expected_rows, moment_sets, needs
from wna_ray.moments import Moments, Partial
from wna_ray.results import Answers, Run, derive, map_images, mean_codes, read_outs, reliability_curve
from wna_ray.rundir import SPEC, RunDirectory, SegmentInfo
from wna_ray.scheduling import TICK_SECONDS, Executor, PayloadLost, Plan, Scheduler, call, fan_in, plan, segment_images
from wna_ray.shard import Job
from wna_ray.spec import Spec, StcSpec, StopSpec
from wna_ray.specs import AnySpec
from wna_ray.store import Place
from wna_ray.stored import width
from wna_ray.trial_spec import TrialSpec
from wna_ray.worker import Introduction

ExecutorName = Literal["ray", "local"]

CALL_TRIES = 4
STOP_SECONDS = 2.2
WARM_SECONDS = 2.0


def make_executor(spec: Spec | StcSpec, executor: ExecutorName, workers: int | None = None, address: str | None = None) -> Executor:
    """An executor by name; Ray is imported only for ``ray``."""
    check_executor(executor, workers, address)
    if executor == "local":
        return InProcessExecutor(spec)
    from wna_ray.ray_executor import RayExecutor

    return RayExecutor(spec, workers, address)


def check_executor(executor: ExecutorName, workers: int | None = None, address: str | None = None) -> None:
    """`SpecError` where there is no such executor."""
    if workers is not None and workers < 1:
        raise SpecError(f"workers: {workers} is not a number of workers; give 1 or more")
    if executor not in ("ray", "local"):
        raise SpecError(f"executor: '{executor}' is unknown; use ray or local")
    if executor == "local" and (address is not None or workers not in (None, 1)):
        raise SpecError("executor: local has one worker and no address; leave --workers and --address out, or use ray")


def run(
    spec: Spec,
    out: str,
    *,
    executor: ExecutorName = "ray",
    workers: int | None = None,
    address: str | None = None,
    single_writer: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Run a spec, or go on with it where it stopped.

    Parameters
    ----------
    spec
        What to do.
    out
        The run directory: a path or any fsspec URL. The same call again resumes; another spec there is refused.
    executor, workers, address
        Where it runs; none of these changes a byte of the result.
    single_writer
        Allow a store that ignores conditional writes: nobody else drives this run at the same time.
    callbacks
        Called with every event of ``wna_ray.events``.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    WnaError
        With one message that says what to do. Whatever was committed stays.
    """
    spec = _settled(spec, out, single_writer)
    with driving(spec, out, executor, workers, address, single_writer, callbacks) as (directory, runner, told):
        ask = execute(spec, directory, runner, told, told.claim)
        finished = Run(directory.store.place)
        evaluate(spec, finished, told, ask)
        told.finish()
    return finished


def _settled(spec: Spec, out: str, single_writer: bool) -> Spec:
    """With the batch that the run has chosen when it began, if there is one."""
    if spec.numerics.tune:
        directory = RunDirectory(Place(out, spec.execution.endpoint, single_writer))
        if directory.read_json(SPEC) is not None:
            batch = directory.spec()["identity"].get("numerics", {}).get("batch")
            return spec.with_batch(batch) if isinstance(batch, int) else spec
    return spec


@contextlib.contextmanager
def driving(
    spec: AnySpec,
    out: str,
    executor: ExecutorName,
    workers: int | None,
    address: str | None,
    single_writer: bool,
    callbacks: Sequence[Callback],
    held: Spec | None = None,
) -> Iterator[tuple[RunDirectory, Executor, Told]]:
    """Directory, executor and listeners of a run; stops and failures are told to all, and end the executor.

    `held` is the spec whose network the workers hold, where it is not `spec` itself.
    """
    directory = RunDirectory(Place(out, spec.execution.endpoint, single_writer))
    check_reachable(out, executor)
    with contextlib.ExitStack() as stack:
        told = Told(directory, callbacks, spec.samples if isinstance(spec, Spec) else None)
        holder = held or spec
        assert not isinstance(holder, TrialSpec), "trials are shown to the network of a run"
        runner = make_executor(holder, executor, workers, address)
        stack.callback(runner.close)
        stack.enter_context(_stop_on_sigterm(told.how_to_go_on))  # after Ray has started, which sets a handler of its own
        if executor == "ray":
            from wna_ray.metrics import RayMetrics

            told.callbacks.append(RayMetrics())
        try:
            yield directory, runner, told
        except KeyboardInterrupt:
            told.close("stopped", told.how_to_go_on(), LAST_WORDS_SECONDS)
            raise Stopped(told.how_to_go_on()) from None
        except BaseException as error:
            told.close("failed", str(error))
            raise


def check_reachable(out: str, executor: ExecutorName) -> None:
    """`SpecError` where workers could not write."""
    if executor == "ray" and out.startswith("memory:"):
        raise SpecError(f"out: '{out}' is in this process's memory, where Ray's workers cannot write; use --executor local")


class Told:
    """Hands events to all who want them, and, once there is one, to the driver's journal first."""

    def __init__(self, directory: RunDirectory, callbacks: Sequence[Callback], samples: int | None) -> None:
        self._directory, self._samples = directory, samples
        self.callbacks = list(callbacks)
        self.driver: Driver | None = None

    def __call__(self, event: Event) -> None:
        if self.driver is not None:
            self.driver(event)
        for callback in self.callbacks:
            callback(event)

    def claim(self) -> None:
        """Become the run's driver; `RunError` where another is at work."""
        self.driver = Driver(self._directory)

    def close(self, state: State, reason: str = "", patience: float | None = None) -> None:
        if self.driver is not None:
            self.driver.close(state, reason, patience)

    def how_to_go_on(self) -> str:
        """From memory: a storage that does not answer must not hold up a stop."""
        if self.driver is None:
            return f"stopped before anything was computed; the same command goes on in '{self._directory.url}'"
        done = f"{self.driver.committed:,}" + ("" if self._samples is None else f" of {self._samples:,}")
        return f"stopped; {done} images are committed to '{self._directory.url}'. The same command goes on from there"

    def finish(self) -> None:
        """The end of a run that went well."""
        self(RunFinished(self._directory.url))
        self.close("finished")


def execute(spec: Spec, directory: RunDirectory, executor: Executor, emit: Callback, claim: Callable[[], None] = lambda: None) -> Ask:
    """Everything between an executor and a published manifest. `claim` is called before anything is computed.

    Returns
    -------
    Ask
        Asks the network, which the workers still hold, about a few images.
    """
    attempts = spec.execution.attempts
    introduction: Introduction = call(executor, CALL_TRIES, "introduce")
    job = introduction.job
    spec = job.spec  # with the batch that was chosen, if it was to be
    rows = expected_rows(job, introduction.seen)
    need = needs(job, rows, fan_in(rows * row_bytes(job)), segment_bytes(job))
    check(job, rows, need, executor.machines(), available())
    directory.store.require_conditions()
    directory.begin(job, introduction.environment)
    shared = executor.share(job)

    def ask(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(call(executor, CALL_TRIES, "answer", shared, images))

    if directory.manifest() is not None:
        directory.store.sweep()  # a writer may have been killed after it was published
        return ask
    claim()
    curve = list[tuple[int, list[Readout]]]()
    for samples in spec.looks:
        scheduler = Scheduler(executor, attempts, emit, need.partial)
        _run_shards(introduction, samples, shared, directory, executor, scheduler, emit)
        emit(Stage("merge"))
        partial, segments = merge_segments(job.fingerprint, samples, directory, executor, scheduler)
        readouts = read_outs(spec, job.stimulus, partial.moments, job.identity, list(job.names))
        curve.append((samples, readouts))
        if spec.stop is None:
            break
        reached = reached_share(spec.stop, readouts)
        emit(Stage(f"{samples:,} images: {100 * reached:.0f} % of the maps have a reliability of {spec.stop.reliability:g}"))
        if reached >= spec.stop.share:
            break
    emit(Stage("read out"))
    answers = _answers(job, shared, readouts, partial.moments, executor, ask)
    result = derive(job.stimulus, partial, job.fingerprint, readouts, answers, reliability_curve(curve) if spec.stop is not None else None)
    directory.publish(segments, result, job.fingerprint, samples)
    return ask


def reached_share(stop: StopSpec, readouts: Sequence[Readout]) -> float:
    """Share of the rows that have reached a spec's reliability; the smallest of all responses that are looked at."""
    looked_at = [r for r in readouts if stop.response in (None, r.kind)]
    return min(float((np.nan_to_num(r.reliability) >= stop.reliability).mean()) for r in looked_at)


def _run_shards(
    introduction: Introduction, samples: int, shared: Any, directory: RunDirectory, executor: Executor, scheduler: Scheduler, emit: Callback
) -> None:
    job = introduction.job
    spec = job.spec
    gaps = directory.gaps(samples, spec.samples)
    cut = plan_run(introduction, gaps, executor.wanted, samples)
    emit(
        RunStarted(
            directory.url,
            job.fingerprint,
            samples,
            samples - sum(b - a for a, b in gaps),
            cut.shards,
            executor.workers,
            job.device,
        )
    )
    run_plan(cut, shared, job.fingerprint, samples, spec.samples, spec.execution.attempts, directory, scheduler)


def run_plan(
    cut: Plan, shared: Any, fingerprint: str, samples: int, most: int, attempts: int, directory: RunDirectory, scheduler: Scheduler
) -> None:
    """Do all that is missing of the first images (of `most`); an error says what could not be done."""
    scheduler.run(cut, (shared,), (directory.store.place, fingerprint))
    if scheduler.failed:
        shown = "\n".join(f"  images [{a}, {b}): {reason}" for (a, b), reason in sorted(scheduler.failed.items())[:8])
        raise ShardError(
            f"{len(scheduler.failed)} of {cut.shards} shards failed {attempts} times each; all others are "
            f"committed to '{directory.url}':\n{shown}\nMend the cause and run the same command again: only these are missing"
        )
    if directory.gaps(samples, most):
        raise RunError(
            f"'{directory.url}' lacks segments that workers have committed, so it is another place for them than for this process; "
            "give --out as a folder that all machines share, or as object storage"
        )


def plan_run(introduction: Introduction, gaps: Sequence[tuple[int, int]], workers: int, samples: int) -> Plan:
    """The plan of what is missing of a job's first images."""
    spec = introduction.job.spec
    return plan(
        gaps,
        samples,
        spec.numerics.batch,
        *moment_size(introduction.job),
        workers,
        introduction.batch_seconds,
        spec.execution.shard,
        spec.execution.segments,
        image_bytes(introduction.job),
    )


def moment_size(job: Job) -> tuple[int, int]:
    """Most rows that a partial can have (every row of every response), and the bytes of each."""
    rows = len(job.names) * len(job.spec.responses) + 1
    return rows, row_bytes(job)


def image_bytes(job: Job) -> int:
    """Bytes that are kept of the responses of an image."""
    patches, k = job.stimulus.patches_an_image, len(job.names)
    return 4 * sum(width(r.kind, k, patches) for r in job.spec.responses) if job.spec.keep_responses else 0


def segment_bytes(job: Job) -> int:
    """Bytes that are kept of the responses of a segment."""
    spec, each = job.spec, image_bytes(job)
    return each * segment_images(spec.samples, spec.numerics.batch, *moment_size(job), spec.execution.segments, each)


def row_bytes(job: Job) -> int:
    """Bytes of one row of a job's moments."""
    return job.stimulus.pixels * 8 * moment_sets(job.spec)


def merge_segments(
    fingerprint: str, samples: int, directory: RunDirectory, executor: Executor, scheduler: Scheduler
) -> tuple[Partial, list[SegmentInfo]]:
    """Read the segments of the first images and merge them on the workers, by a tree; only the last partial comes here."""
    place, segments = directory.store.place, {span: name for span, name in directory.segments().items() if span[1] <= samples}
    leaves = {span: (place, fingerprint, [name]) for span, name in segments.items()}
    for left in reversed(range(CALL_TRIES)):
        ticket, infos = scheduler.merge(leaves, "read")
        try:
            partial: Partial = executor.payload(ticket)
        except PayloadLost as error:
            if not left:
                raise RunError(f"the merged moments were lost {CALL_TRIES} times ({error}); run the same command again") from None
        else:
            return partial, [info for some in infos.values() for info in some]
        finally:
            executor.release(ticket)
    raise AssertionError


def _answers(job: Job, shared: Any, readouts: list[Readout], moments: Moments, executor: Executor, ask: Ask) -> Answers:
    """The network's outputs for each map, the filters of linear units, and the decoder's pictures."""
    images = map_images(job.stimulus, readouts, moments) if job.decoder is None else mean_codes(job.stimulus, readouts)
    shown = np.isfinite(images).all(axis=(1, 2, 3))
    outputs = np.full((len(images), len(job.names)), np.nan, dtype=np.float32)
    if shown.any():
        outputs[shown] = ask(images[shown])
    pictures = None
    if job.decoder is not None:
        pictures = np.full((len(images), *job.decoder.shape), np.nan, dtype=np.float32)
        if shown.any():
            pictures[shown] = call(executor, CALL_TRIES, "pictures", shared, images[shown])
    return Answers(outputs, call(executor, CALL_TRIES, "filters", shared) if job.field is not None else None, pictures)


@dataclass(frozen=True)
class Pilot:
    """What a few images tell about a run.

    Attributes
    ----------
    introduction, plan
        The job, and how it would be cut.
    images
        That were shown.
    images_per_second
        Rate of one worker.
    start_seconds
        That it took to look at the model, or to compile it.
    readouts
        Statistics by response.
    """

    introduction: Introduction
    plan: Plan
    images: int
    images_per_second: float
    start_seconds: float
    readouts: list[Readout]

    def pays_after(self, plain: Pilot) -> float:
        """Images after which a worker has got back what compiling took it, beside a pilot without; infinite where it never does."""
        gain = 1 / plain.images_per_second - 1 / self.images_per_second
        return max(0.0, self.start_seconds - plain.start_seconds) / gain if gain > 0 else math.inf


def pilot(spec: Spec, images: int, workers: int) -> Pilot:
    """Show `images` (rounded up to whole batches) in this process and read them out; writes nothing."""
    executor = InProcessExecutor(spec.model_copy(update={"stop": None}))
    try:
        begin = time.perf_counter()
        introduction: Introduction = call(executor, 1, "introduce")
        start_seconds = time.perf_counter() - begin - introduction.environment.get("tune", {}).get("seconds", 0.0)
        batch = introduction.job.spec.numerics.batch
        few = introduction.job.spec.model_copy(update={"samples": min(-(-images // batch) * batch, spec.samples)})
        job = replace(introduction.job, spec=few)
        for _ in "ab":
            ticket = executor.submit("shard", job, 0, few.samples)
            executor.wait(TICK_SECONDS)
            seconds = executor.report(ticket)
            partial: Partial = executor.payload(ticket)
            if sum(seconds.values()) >= WARM_SECONDS:  # else mostly warming up: time it again
                break
    finally:
        executor.close()
    readouts = read_outs(few, job.stimulus, partial.moments, job.identity, list(job.names))
    spec = spec.with_batch(batch)
    whole = replace(introduction, job=replace(job, spec=spec))
    cut = plan_run(whole, [(0, spec.samples)], workers, spec.samples)
    return Pilot(whole, cut, few.samples, few.samples / sum(seconds.values()), start_seconds, readouts)


@contextlib.contextmanager
def _stop_on_sigterm(last_words: Callable[[], str]) -> Iterator[None]:
    """Let SIGTERM (a job stop) end a run as Ctrl-C does, but in less than the three seconds after which Ray kills a job.

    Whatever still hangs then (a storage that is away, a cluster that does not answer) is left: everything is committed
    or not, and a resumed run finds out. Signals can be handled in the main thread only.
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
