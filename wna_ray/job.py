"""A run from spec to manifest: ``run(Spec(...), out=...)``, and a pilot for planning one."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from wna_ray import classifier
from wna_ray.analysis import Readout
from wna_ray.datasets import NotAtHand, load
from wna_ray.errors import RunError, ShardError, SpecError, Stopped
from wna_ray.events import Callback, Event, RunFinished, RunStarted, Stage
from wna_ray.inprocess import InProcessExecutor
from wna_ray.moments import Partial
from wna_ray.results import Run, derive, map_images, read_outs
from wna_ray.rundir import RunDirectory, SegmentInfo
from wna_ray.scheduling import FAN_IN, TICK_SECONDS, Executor, PayloadLost, Plan, Scheduler, Ticket, WorkerLost, plan
from wna_ray.shard import Job
from wna_ray.spec import Spec
from wna_ray.worker import Introduction

ExecutorName = Literal["ray", "local"]

CALL_TRIES = 4
WARM_SECONDS = 2.0
CLASSIFIER = "evaluation/classifier.json"


def make_executor(spec: Spec, executor: ExecutorName, workers: int | None = None, address: str | None = None) -> Executor:
    """An executor by name; Ray is imported only for ``ray``."""
    if workers is not None and workers < 1:
        raise SpecError(f"workers: {workers} is not a number of workers; give 1 or more")
    if executor == "local":
        if address is not None or workers not in (None, 1):
            raise SpecError("executor: local has one worker and no address; leave --workers and --address out, or use ray")
        return InProcessExecutor(spec)
    if executor != "ray":
        raise SpecError(f"executor: '{executor}' is unknown; use ray or local")
    from wna_ray.ray_executor import RayExecutor

    return RayExecutor(spec, workers, address)


def run(
    spec: Spec,
    out: str,
    *,
    executor: ExecutorName = "ray",
    workers: int | None = None,
    address: str | None = None,
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

    def emit(event: Event) -> None:
        for callback in callbacks:
            callback(event)

    directory = RunDirectory(out)
    if executor == "ray" and out.startswith("memory:"):
        raise SpecError(f"out: '{out}' is in this process's memory, where Ray's workers cannot write; use --executor local")
    with contextlib.ExitStack() as stack:
        try:
            runner = make_executor(spec, executor, workers, address)
            stack.callback(runner.close)
            stack.enter_context(_stop_on_sigterm())  # after Ray has started, which sets a handler of its own
            execute(spec, directory, runner, emit)
        except KeyboardInterrupt:
            raise Stopped(_how_to_go_on(spec, directory)) from None
    finished = Run(out)
    evaluate(spec, finished, emit)
    emit(RunFinished(out))
    return finished


def execute(spec: Spec, directory: RunDirectory, executor: Executor, emit: Callback) -> None:
    """Everything between an executor and a published manifest."""
    introduction: Introduction = _call(executor, "introduce")
    job = introduction.job
    directory.begin(job, introduction.environment)
    if directory.manifest() is not None:
        return
    shared = executor.share(job)
    _run_shards(introduction, shared, directory, executor, emit)
    emit(Stage("merge"))
    partial, segments = _merge_segments(job, directory, executor)
    readouts = read_outs(spec, job.stimulus, partial.moments, job.identity, list(job.names))
    emit(Stage("read out"))
    answers = _answers(job, shared, readouts, executor)
    directory.publish(segments, derive(job.stimulus, partial, job.fingerprint, readouts, answers), job.fingerprint, spec.samples)


def _run_shards(introduction: Introduction, shared: Any, directory: RunDirectory, executor: Executor, emit: Callback) -> None:
    job = introduction.job
    spec = job.spec
    gaps = directory.gaps(spec.samples)
    cut = plan_run(introduction, gaps, executor.workers)
    emit(
        RunStarted(
            directory.url,
            job.fingerprint,
            spec.samples,
            spec.samples - sum(b - a for a, b in gaps),
            cut.shards,
            executor.workers,
            job.device,
        )
    )
    scheduler = Scheduler(executor, (shared,), (directory.store.place, job.fingerprint), spec.execution.attempts, emit)
    scheduler.run(cut)
    if scheduler.failed:
        shown = "\n".join(f"  images [{a}, {b}): {reason}" for (a, b), reason in sorted(scheduler.failed.items())[:8])
        raise ShardError(
            f"{len(scheduler.failed)} of {cut.shards} shards failed {spec.execution.attempts} times each; all others are "
            f"committed to '{directory.url}':\n{shown}\nMend the cause and run the same command again: only these are missing"
        )
    if directory.gaps(spec.samples):
        raise RunError(
            f"'{directory.url}' lacks segments that workers have committed, so it is another place for them than for this process; "
            "give --out as a folder that all machines share, or as object storage"
        )


def plan_run(introduction: Introduction, gaps: Sequence[tuple[int, int]], workers: int) -> Plan:
    """The plan of a job's missing images."""
    spec = introduction.job.spec
    return plan(
        gaps,
        spec.samples,
        spec.numerics.batch,
        *moment_size(introduction.job),
        workers,
        introduction.batch_seconds,
        spec.execution.shard,
        spec.execution.segments,
    )


def moment_size(job: Job) -> tuple[int, int]:
    """Most rows that a partial can have (every row of every response), and the bytes of each."""
    rows = len(job.names) * len(job.spec.responses) + 1
    return rows, job.stimulus.noise.pixels * 8 * (2 if job.spec.moments.second else 1)


def _merge_segments(job: Job, directory: RunDirectory, executor: Executor) -> tuple[Partial, list[SegmentInfo]]:
    """Read all segments and merge them on the workers, by a tree; only the last partial comes here."""
    names = list(directory.segments().values())
    infos: list[SegmentInfo] = []
    level: list[Ticket] = []
    groups = [names[i : i + FAN_IN] for i in range(0, len(names), FAN_IN)]
    for ticket in _calls(executor, [("read", (directory.store.place, job.fingerprint, group), ()) for group in groups]):
        infos += executor.report(ticket)
        level.append(ticket)
    while len(level) > 1:
        merges = [("merge", (), tuple(level[i : i + FAN_IN])) for i in range(0, len(level), FAN_IN)]
        merged = _calls(executor, merges)
        for ticket in level:
            executor.release(ticket)
        for ticket in merged:
            executor.report(ticket)
        level = merged
    partial: Partial = executor.payload(level[0])
    executor.release(level[0])
    return partial, infos


def _answers(job: Job, shared: Any, readouts: list[Readout], executor: Executor) -> Any:
    """The network's outputs for each map, NaN where there is none."""
    images = map_images(job.stimulus, readouts)
    shown = np.isfinite(images).all(axis=(1, 2, 3))
    outputs = np.full((len(images), len(job.names)), np.nan, dtype=np.float32)
    if shown.any():
        outputs[shown] = _call(executor, "answer", shared, images[shown])
    return outputs


def _call(executor: Executor, method: str, *args: Any) -> Any:
    """One call, waited for; its report."""
    (ticket,) = _calls(executor, [(method, args, ())])
    report = executor.report(ticket)
    executor.release(ticket)
    return report


def _calls(executor: Executor, wanted: Sequence[tuple[str, tuple[Any, ...], tuple[Ticket, ...]]]) -> list[Ticket]:
    """Several calls, waited for and tried again where a worker died; their tickets in order, all of them ended well."""
    tickets = [executor.submit(method, *args, inputs=inputs) for method, args, inputs in wanted]
    pending, tries = {ticket: i for i, ticket in enumerate(tickets)}, [1] * len(tickets)
    while pending:
        for ticket in executor.wait(TICK_SECONDS):
            i = pending.pop(ticket)
            try:
                executor.report(ticket)
            except PayloadLost as error:
                raise RunError(f"a merged partial was lost ({error}); nothing else is: run the same command again") from None
            except WorkerLost as error:
                executor.release(ticket)
                if tries[i] >= CALL_TRIES:
                    raise RunError(f"workers died {tries[i]} times in '{wanted[i][0]}' ({error}); run the same command again") from None
                method, args, inputs = wanted[i]
                tickets[i] = executor.submit(method, *args, inputs=inputs)
                pending[tickets[i]] = i
                tries[i] += 1
    return tickets


def evaluate(spec: Spec, finished: Run, emit: Callback) -> None:
    """Score the maps as classifiers where a data set is at hand; writes ``evaluation/``, which is no part of the result."""
    from wna_ray import figures  # matplotlib, only where something is drawn

    store, names = finished.directory.store, finished.names
    named = spec.evaluation
    name = named or ("mnist" if spec.model.startswith("bundled:mnist") else "none")
    if name == "none" or store.read(CLASSIFIER) is not None:
        return
    try:
        test, train = (load(name, train=split, download=named is not None) for split in (False, True))
    except NotAtHand as reason:
        emit(Stage(f"bias-map classifier skipped: {reason}"))
        return
    k, found = len(names), int(test.labels.max()) + 1
    if test.images.shape[1:] != spec.stimulus.shape or found != k:
        emit(Stage(f"bias-map classifier skipped: {name} has images {test.images.shape[1:]} of {found} classes"))
        return
    emit(Stage(f"bias-map classifier on {name}"))
    templates = {r.kind: finished.stimulus.expand(r.bias) for r in finished.readouts} | {"mean image": classifier.mean_images(train, k)}
    report: dict[str, Any] = {
        "dataset": name,
        "images": len(test.labels),
        "chance": 1 / k,
        "majority_class": float(np.bincount(test.labels).max() / len(test.labels)),
        "templates": {},
    }
    for kind, maps in templates.items():
        scored = {score: classifier.classify(maps, test, score) for score in classifier.SCORES}
        report["templates"][kind] = {
            "accuracy": {score: s.accuracy for score, s in scored.items()},
            "confusion": {score: s.confusion.tolist() for score, s in scored.items()},
        }
        s = scored["correlation"]
        title = (
            f"{kind} as classifier of {name}: accuracy {s.accuracy:.3f} (correlation)\n{len(test.labels):,} test images, chance {1 / k:.2f}"
        )
        store.replace(f"evaluation/confusion_{kind.replace(' ', '_')}.png", figures.confusion(s.confusion, names, title))
    store.replace(CLASSIFIER, (json.dumps(report, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Pilot:
    """What a few images tell about a run: the plan, the rate of one worker, and statistics by response."""

    introduction: Introduction
    plan: Plan
    images: int
    images_per_second: float
    readouts: list[Readout]


def pilot(spec: Spec, images: int, workers: int) -> Pilot:
    """Show `images` (rounded up to whole batches) in this process and read them out; writes nothing."""
    batch = spec.numerics.batch
    few = spec.model_copy(update={"samples": -(-min(images, spec.samples) // batch) * batch})
    executor = InProcessExecutor(few)
    try:
        introduction: Introduction = _call(executor, "introduce")
        job = introduction.job
        shard = ("shard", (job, 0, few.samples), ())
        (ticket,) = _calls(executor, [shard])
        if sum(executor.report(ticket).values()) < WARM_SECONDS:  # mostly warming up: time it again
            (ticket,) = _calls(executor, [shard])
        seconds = executor.report(ticket)
        partial: Partial = executor.payload(ticket)
    finally:
        executor.close()
    readouts = read_outs(few, job.stimulus, partial.moments, job.identity, list(job.names))
    whole = replace(introduction, job=replace(job, spec=spec))
    cut = plan_run(whole, [(0, spec.samples)], workers)
    return Pilot(whole, cut, few.samples, few.samples / sum(seconds.values()), readouts)


def _how_to_go_on(spec: Spec, directory: RunDirectory) -> str:
    try:
        done = spec.samples - sum(b - a for a, b in directory.gaps(spec.samples))
    except RunError as error:
        return f"stopped; {error}"
    return f"stopped; {done:,} of {spec.samples:,} images are committed to '{directory.url}'. The same command goes on from there"


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM (a job stop) end a run as Ctrl-C does. Signals can be handled in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
