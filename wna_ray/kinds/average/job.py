"""A run from spec to manifest: ``run(Spec(...), out=...)``, and a pilot for planning one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wna_ray.errors import RunError, SpecError, Stopped
from wna_ray.events import Callback, Stage
from wna_ray.execution.drive import ExecutorName, How, drive
from wna_ray.execution.executor import Executor
from wna_ray.execution.plan import Cut, fan_in, segment_images
from wna_ray.execution.process import own_state
from wna_ray.execution.rounds import Desk, Prepared, Round, Rounds
from wna_ray.execution.worker import Introduction
from wna_ray.kinds.average import KIND
from wna_ray.kinds.average.evaluation import Ask, evaluate
from wna_ray.kinds.average.memory import check, expected_rows, moment_sets, needs
from wna_ray.kinds.average.result import (
    Answers,
    derive,
    map_images,
    mean_codes,
    read_outs,
    reliability_curve,
)
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.average.work import NoiseWork
from wna_ray.machine import available
from wna_ray.moments.kept import width
from wna_ray.moments.moments import Moments
from wna_ray.networks import live
from wna_ray.networks.models import Model
from wna_ray.runs.directory import Description, RunDirectory
from wna_ray.runs.names import BASIS, OFFSET, SPEC
from wna_ray.shards.job import Job
from wna_ray.specs.response import StopSpec
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import Readout
from wna_ray.storage.store import Place


def run(  # noqa: PLR0913  # its parameters are promised
    spec: Spec,
    out: str | None = None,
    *,
    model: nn.Module | None = None,
    executor: ExecutorName | None = None,
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
        The run directory: a path or any fsspec URL. The same call again resumes; another spec there
        is refused. With a `model` it may be left out: the run is then in this process's memory.
    model
        A module of this process, in the place of the spec's model, which is then recorded as
        ``live:CLASS``. The run works on a copy (see `wna_ray.analyse`). To resume, give a module
        with the same weights again.
    executor, workers, address
        Where it runs; none of these changes a byte of the result. By default ``local`` with a
        `model`, else ``ray``.
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
    where = executor or ("ray" if model is None else "local")
    how = How(where, workers, address, single_writer, callbacks)
    if model is not None:
        return run_live(spec, out, live.model_of(model), how)
    if out is None:
        raise SpecError("out: missing; only a run with model= may be in memory, give a folder")
    question = NoiseQuestion.of(spec, Place(out, spec.execution.endpoint, single_writer))
    return Run(drive(question, spec, out, how))


def run_live(spec: Spec, out: str | None, model: Model, how: How) -> Run:
    """Run a spec with a module of this process, which belongs to the run from now on.

    Parameters
    ----------
    spec
        What to do; the module takes the place of its model.
    out
        The run directory; None: a new one in this process's memory.
    model
        What `wna_ray.networks.live.model_of` gives.
    how
        Where it runs, and who hears of it.
    """
    in_memory = out is None
    if out is None:
        if how.executor == "ray":
            raise SpecError(
                "out: missing, but Ray's workers cannot write into this process's memory; give a"
                " folder, or executor='local'"
            )
        out = f"memory://wna-{uuid.uuid4().hex}"
    spec = spec.model_copy(update={"model": model.source})
    place = Place(out, spec.execution.endpoint, how.single_writer)
    question = NoiseQuestion.of(spec, place, model)
    try:
        with own_state():
            return Run(drive(question, spec, out, how, model))
    except Stopped:
        if not in_memory:
            raise
        # Without `out` the same call would begin another run.
        raise Stopped(
            "stopped; what was committed is in the memory of this process: give"
            f" out='{out}' to go on from there"
        ) from None


def execute(
    spec: Spec,
    directory: RunDirectory,
    executor: Executor,
    emit: Callback,
    claim: Callable[[], None] = lambda: None,
) -> None:
    """Run a spec with workers of one's own; nothing is evaluated. `claim` is called before
    anything is computed.
    """
    desk = Desk(directory, executor, emit, spec.execution.attempts, claim)
    desk.conduct(NoiseQuestion(spec).prepare(desk))


@dataclass(frozen=True)
class NoiseQuestion:
    """The spec of a run of noise.

    Attributes
    ----------
    spec
        What was asked, with the batch that the run has chosen when it began.
    """

    spec: Spec

    @classmethod
    def of(cls, spec: Spec, place: Place, model: Model | None = None) -> NoiseQuestion:
        """With the batch that the run at a place has chosen when it began, if there is one.

        A spec that names a module of a process is refused where that is not given.
        """
        if model is None:
            live.require_loadable(spec.model)
        if spec.numerics.tune:
            directory = RunDirectory(place)
            if directory.read_json(SPEC) is not None:
                batch = directory.spec().identity.get("numerics", {}).get("batch")
                spec = spec.with_batch(batch) if isinstance(batch, int) else spec
        return cls(spec)

    @property
    def held(self) -> Spec:
        """The spec itself: its network is asked."""
        return self.spec

    @property
    def announced(self) -> int:
        """N, at most."""
        return self.spec.samples

    def prepare(self, desk: Desk) -> Prepared:
        """Let a worker look at the model; refuse what does not fit into memory."""
        introduction: Introduction = desk.introduce()
        job = introduction.job
        _require_names(job, desk.directory)
        rows = expected_rows(job, introduction.seen)
        need = needs(job, rows, fan_in(rows * row_bytes(job)), segment_bytes(job))
        check(job, rows, need, desk.executor.machines(), available())
        work = NoiseWork(job)

        def ask(images: NDArray[np.float32]) -> NDArray[np.float32]:
            cuts = desk.parts_of(len(images), job.spec.numerics.batch)
            parts = [(images[cut],) for cut in cuts]
            return np.concatenate(desk.ask_in_parts("answer", work, parts, "answers to maps"))

        def after() -> None:
            evaluate(self.spec, Run(desk.directory.store.place), desk.emit, ask)

        rounds = _rounds(work, introduction, need.partial, desk, ask)
        return Prepared(description_of(job, introduction.environment), rounds, after)


def _require_names(job: Job, directory: RunDirectory) -> None:
    """Make sure that rows had the names that a spec gives them from the run's beginning; they are
    no part of the fingerprint.
    """
    if job.spec.classes is None or directory.read_json(SPEC) is None:
        return
    recorded = tuple(directory.spec().names)
    if len(recorded) == len(job.names) and recorded != job.names:
        before, after = next((a, b) for a, b in zip(recorded, job.names, strict=True) if a != b)
        raise RunError(
            f"'{directory.url}' is a run whose outputs have other names (classes: {before} ->"
            f" {after}); give the same classes, or another out"
        )


def description_of(job: Job, environment: Mapping[str, Any]) -> Description:
    """What ``spec.json`` says of a job."""
    arrays: dict[str, NDArray[Any]] = {} if job.basis is None else {BASIS: job.basis}
    if isinstance(job.spec.stimulus.offset, str):
        arrays[OFFSET] = job.offset
    return Description(
        format=KIND.format,
        identity=job.identity,
        samples=job.spec.samples,
        names=job.names,
        spec=job.spec.model_dump(mode="json"),
        environment=environment,
        arrays=arrays,
    )


def _rounds(
    work: NoiseWork, introduction: Introduction, partial: int, desk: Desk, ask: Ask
) -> Rounds:
    """One round a look, until enough maps are reliable; then what is read out of the moments."""
    job, spec = work.job, work.job.spec
    curve = list[tuple[int, list[Readout]]]()
    for samples in spec.looks:
        summed = yield Round(work, samples, cut_of(introduction), partial, job.device)
        readouts = read_outs(spec, job.stimulus, summed.moments, job.identity, list(job.names))
        curve.append((samples, readouts))
        if spec.stop is None:
            break
        reached = reached_share(spec.stop, readouts)
        share = f"{100 * reached:.0f} % of the maps have a reliability of {spec.stop.reliability:g}"
        desk.emit(Stage(f"{samples:,} images: {share}"))
        if reached >= spec.stop.share:
            break
    desk.emit(Stage("read out"))
    answers = _answers(work, readouts, summed.moments, desk, ask)
    looks = None if spec.stop is None else reliability_curve(curve)
    return derive(job.stimulus, summed, job.fingerprint, readouts, answers, looks)


def reached_share(stop: StopSpec, readouts: Sequence[Readout]) -> float:
    """Share of the rows that have reached a spec's reliability; the smallest of all responses
    that are looked at.
    """
    looked_at = [r for r in readouts if stop.response in (None, r.kind)]
    return min(float((np.nan_to_num(r.reliability) >= stop.reliability).mean()) for r in looked_at)


def cut_of(introduction: Introduction) -> Cut:
    """How a job is cut into shards and segments."""
    job, spec = introduction.job, introduction.job.spec
    rows, row = moment_size(job)
    return Cut(
        batch=spec.numerics.batch,
        batch_seconds=introduction.batch_seconds,
        moment_rows=rows,
        row_bytes=row,
        image_bytes=image_bytes(job),
        shard=spec.execution.shard,
        segments=spec.execution.segments,
    )


def moment_size(job: Job) -> tuple[int, int]:
    """Most rows that a partial can have (every row of every response), and the bytes of each."""
    rows = len(job.names) * len(job.spec.responses) + 1
    return rows, row_bytes(job)


def image_bytes(job: Job) -> int:
    """Bytes that are kept of the responses of an image."""
    patches, k = job.stimulus.patches_an_image, len(job.names)
    return (
        4 * sum(width(r.kind, k, patches) for r in job.spec.responses)
        if job.spec.keep_responses
        else 0
    )


def segment_bytes(job: Job) -> int:
    """Bytes that are kept of the responses of a segment."""
    spec, each = job.spec, image_bytes(job)
    rows, row = moment_size(job)
    cut = Cut(spec.numerics.batch, 0.0, rows, row, each, segments=spec.execution.segments)
    return each * segment_images(spec.samples, cut)


def row_bytes(job: Job) -> int:
    """Bytes of one row of a job's moments."""
    return job.stimulus.pixels * 8 * moment_sets(job.spec)


def _answers(
    work: NoiseWork, readouts: list[Readout], moments: Moments, desk: Desk, ask: Ask
) -> Answers:
    """The network's outputs for each map, the filters of linear units, and the decoder's
    pictures.
    """
    job = work.job
    images = (
        map_images(job.stimulus, readouts, moments)
        if job.decoder is None
        else mean_codes(job.stimulus, readouts)
    )
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    outputs = np.full((len(images), len(job.names)), np.nan, dtype=np.float32)
    if finite.any():
        outputs[finite] = ask(images[finite])
    pictures = None
    if job.decoder is not None:
        pictures = np.full((len(images), *job.decoder.shape), np.nan, dtype=np.float32)
        if finite.any():
            some = images[finite]
            cuts = desk.parts_of(len(some), job.spec.numerics.batch)
            parts = [(some[cut],) for cut in cuts]
            pictures[finite] = np.concatenate(
                desk.ask_in_parts("pictures", work, parts, "pictures")
            )
    filters = None
    if job.field is not None:
        cuts = desk.parts_of(len(job.names), job.spec.numerics.batch)
        filters = np.concatenate(
            desk.ask_in_parts(
                "filters", work, [(cut.start, cut.stop) for cut in cuts], "look for linear units"
            )
        )
    return Answers(outputs, filters, pictures, job.reading.note)
