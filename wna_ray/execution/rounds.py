"""The one pipeline: what is missing is cut, scheduled, committed, merged and published, for every
kind of job.

A kind says what a job is by a `Question`. Its rounds are a generator:

    def rounds(...) -> Rounds:
        partial = yield Round(work, samples, cut, partial_bytes, device)   # any number of times
        return {"result/table.parquet": ..., ...}

Each round brings its work to the first `samples` images of a directory, from the segments that are
there and what is missing of them, and gives the merged sums back. Stopping early is a loop of
``yield``; a pass of its own folder is a round with `Round.inner`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wna_ray.errors import RunError, ShardError
from wna_ray.events import Callback, RunStarted, Stage
from wna_ray.execution.executor import Executor, PayloadLost, call, call_each
from wna_ray.execution.plan import Cut, Plan, plan
from wna_ray.execution.scheduler import Scheduler
from wna_ray.execution.worker import Introduction
from wna_ray.moments.moments import Partial
from wna_ray.runs.directory import Description, RunDirectory
from wna_ray.runs.finished import Finished
from wna_ray.runs.manifest import Segment
from wna_ray.runs.names import MOMENTS
from wna_ray.runs.segments import pack_moments
from wna_ray.shards.network import Device
from wna_ray.shards.work import Work
from wna_ray.specs.job import Held

CALL_TRIES = 4
SAY_SECONDS = 5.0  # between lines about parts that have ended
PARTS_A_WORKER = 4  # of what is asked once the moments are there
LISTED_FAILURES = 8  # shards that an error names


@dataclass(frozen=True)
class Round:
    """Work that is to be done for the first images of a directory.

    Attributes
    ----------
    work
        What is added up.
    samples
        How many images.
    cut
        How what is missing is cut.
    partial
        Bytes of a partial, as they are expected.
    device
        Where workers compute, for the record.
    inner
        Folder and description of a directory of its own, within the job's; None: the job's.
    """

    work: Work
    samples: int
    cut: Cut
    partial: int
    device: Device
    inner: tuple[str, Description] | None = None


Rounds = Generator[Round, Partial, dict[str, bytes]]
"""Yields rounds, is sent the sums of each, and returns the objects of the result beside the
sums.
"""


@dataclass(frozen=True)
class Prepared:
    """A job whose description is known.

    Attributes
    ----------
    description
        What ``spec.json`` says of it.
    rounds
        Not begun; not begun at all where the job is finished.
    after
        Called when the result is published, and each time the finished job is asked for again.
    """

    description: Description
    rounds: Rounds
    after: Callable[[], None] = lambda: None


class Question(Protocol):
    """A spec whose data, runs and maps have been looked at."""

    @property
    def held(self) -> Held:
        """The spec whose network, threads and device the workers have."""

    @property
    def announced(self) -> int | None:
        """N where it is known before anything is computed."""

    def prepare(self, desk: Desk) -> Prepared:
        """Ask the workers what has to be known first; refuse what does not fit."""


class Desk:
    """Where one job is worked on: its directory, its workers, and who is told what happens.

    Parameters
    ----------
    directory
        Where it lies.
    executor
        Its workers.
    emit
        Called with every event.
    attempts
        How often a shard is tried.
    claim
        Called before anything is computed.
    """

    def __init__(
        self,
        directory: RunDirectory,
        executor: Executor,
        emit: Callback,
        attempts: int,
        claim: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory, self.executor, self.emit = directory, executor, emit
        self._attempts, self._claim = attempts, claim
        self._shared: tuple[Work, Any] | None = None

    def call(self, method: str, *args: Any) -> Any:
        """What a worker says; tried again where it dies."""
        return call(self.executor, CALL_TRIES, method, *args)

    def introduce(self) -> Introduction:
        """Let a worker look at the network; what is assumed of it is said, line by line."""
        introduction: Introduction = self.call("introduce")
        for line in introduction.job.assumed:
            self.emit(Stage(line))
        return introduction

    def ask(self, method: str, work: Work, *args: Any) -> Any:
        """What a worker says of some work, which travels once."""
        return self.call(method, self.share(work), *args)

    def ask_in_parts(
        self, method: str, work: Work, parts: Sequence[tuple[Any, ...]], what: str
    ) -> list[Any]:
        """What all workers say of parts of some work, in order. Of many parts, `what` is said with
        how many have ended.
        """
        shared, said = self.share(work), time.monotonic()

        def done(ended: int) -> None:
            nonlocal said
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                self.emit(Stage(f"{what}: {ended} of {len(parts)} parts"))

        arguments = [(shared, *part) for part in parts]
        return call_each(self.executor, CALL_TRIES, method, arguments, done)

    def parts_of(self, count: int, batch: int) -> list[slice]:
        """Cut so many images or units into parts of whole batches, some for each worker."""
        batches = -(-count // batch)
        step = batch * max(1, -(-batches // (PARTS_A_WORKER * max(1, self.executor.workers))))
        return [slice(a, min(a + step, count)) for a in range(0, count, step)]

    def share(self, work: Work) -> Any:
        """What to pass to calls in the place of some work; the last one's is kept."""
        if self._shared is None or self._shared[0] is not work:
            self._shared = work, self.executor.share(work)
        return self._shared[1]

    def conduct(self, prepared: Prepared) -> None:
        """Do all that is missing of a job, and publish it once."""
        directory, description = self.directory, prepared.description
        directory.store.require_conditions()
        directory.begin(description)
        if directory.manifest() is not None:
            directory.store.sweep()  # a writer may have been killed after it was published
            return
        self._claim()
        rounds, answer, last = prepared.rounds, None, None
        while True:
            try:
                wanted = next(rounds) if answer is None else rounds.send(answer)
            except StopIteration as end:
                objects: dict[str, bytes] = end.value
                break
            if wanted.inner is not None:
                answer = self._inner(wanted, *wanted.inner)
                continue
            answer, segments = self._sums(wanted, directory, description)
            last = wanted, answer, segments
        if last is None:
            raise RunError(f"'{directory.url}': the job has asked for nothing to be added up")
        wanted, partial, segments = last
        packed = {MOMENTS: pack_moments(partial, description.fingerprint)}
        directory.publish(segments, packed | objects, description.fingerprint, wanted.samples)

    def _inner(self, wanted: Round, folder: str, description: Description) -> Partial:
        """Sums of a round in a folder of its own, published there as sums alone."""
        inner = RunDirectory(self.directory.store.below(folder))
        inner.begin(description)
        if inner.manifest() is not None:
            return Finished(inner.store.place).partial
        partial, segments = self._sums(wanted, inner, description)
        packed = {MOMENTS: pack_moments(partial, description.fingerprint)}
        inner.publish(segments, packed, description.fingerprint, wanted.samples)
        return partial

    def _sums(
        self, wanted: Round, directory: RunDirectory, description: Description
    ) -> tuple[Partial, list[Segment]]:
        """Sums of the first images, from the segments of a directory and what is missing of
        them.
        """
        samples = wanted.samples
        gaps = directory.gaps(samples, description.samples)
        cut = plan(gaps, samples, self.executor.wanted, wanted.cut)
        self.emit(
            RunStarted(
                directory.url,
                description.fingerprint,
                samples,
                samples - sum(b - a for a, b in gaps),
                cut.shards,
                self.executor.workers,
                wanted.device,
            )
        )
        scheduler = Scheduler(self.executor, self._attempts, self.emit, wanted.partial)
        self._do(cut, wanted, directory, description, scheduler)
        self.emit(Stage("merge"))
        return self._merged(samples, directory, description.fingerprint, scheduler)

    def _do(
        self,
        cut: Plan,
        wanted: Round,
        directory: RunDirectory,
        description: Description,
        scheduler: Scheduler,
    ) -> None:
        """Do all that is missing; an error says what could not be done."""
        place, fingerprint = directory.store.place, description.fingerprint
        scheduler.run(cut, (self.share(wanted.work),), (place, fingerprint))
        if scheduler.failed:
            failures = sorted(scheduler.failed.items())[:LISTED_FAILURES]
            listed = "\n".join(f"  images [{a}, {b}): {reason}" for (a, b), reason in failures)
            raise ShardError(
                f"{len(scheduler.failed)} of {cut.shards} shards failed {self._attempts} times"
                f" each; all others are committed to '{directory.url}':\n{listed}\nMend the cause"
                " and run the same command again: only these are missing"
            )
        if directory.gaps(wanted.samples, description.samples):
            raise RunError(
                f"'{directory.url}' lacks segments that workers have committed, so it is another "
                "place for them than for this process; give --out as a folder that all machines "
                "share, or as object storage"
            )

    def _merged(
        self, samples: int, directory: RunDirectory, fingerprint: str, scheduler: Scheduler
    ) -> tuple[Partial, list[Segment]]:
        """Read the segments and merge them on the workers, by a tree; only the last partial
        comes here.
        """
        place = directory.store.place
        segments = {span: n for span, n in directory.segments().items() if span[1] <= samples}
        leaves = {span: (place, fingerprint, [name]) for span, name in segments.items()}
        for left in reversed(range(CALL_TRIES)):
            ticket, infos = scheduler.merge(leaves, "read")
            try:
                partial: Partial = self.executor.payload(ticket)
            except PayloadLost as error:
                if not left:
                    raise RunError(
                        f"the merged moments were lost {CALL_TRIES} times ({error}); run the same"
                        " command again"
                    ) from None
            else:
                return partial, [info for some in infos.values() for info in some]
            finally:
                self.executor.release(ticket)
        raise AssertionError
