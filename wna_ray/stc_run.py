"""A covariance from spec to manifest: ``run_stc(StcSpec(...), out=...)``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wna_ray.archive import to_npy
from wna_ray.errors import RunError, SpecError
from wna_ray.events import Callback, RunStarted, Stage
from wna_ray.job import CALL_TRIES, ExecutorName, Told, driving, merge_segments, run_plan
from wna_ray.memory import BASE_BYTES, available, size
from wna_ray.passes import BLOCK_BITS, Floats, Pass, Residual, effective_images, null_seeds, residuals, strongest
from wna_ray.results import Run
from wna_ray.rundir import BLOCK, MOMENTS, RunDirectory, SegmentInfo, pack_moments, sha256
from wna_ray.scheduling import MOST_SEGMENTS, Executor, Scheduler, call, plan
from wna_ray.shard import Device
from wna_ray.spec import ResponseKind, Spec, StcSpec
from wna_ray.stc import Axes, Krylov, ends_of, held_out, matrices, nested_axes, null_edges, spread
from wna_ray.stc_results import Stc, axes_table, profile_table, result
from wna_ray.store import Place
from wna_ray.sums import PassSums, shapes
from wna_ray.twin import Bend, TwinPass, hessians
from wna_ray.worker import Introduction

MOST_DENSE = 4096  # values of an image up to which all of the matrix is kept
COPIES = 6  # of a pass's sums that a machine may hold at a time
SEGMENTS_BYTES = 1 << 30  # of all segments of a pass together
FLOPS = 2e10  # a second, of one worker: chooses the default shard
EDGE_IMAGES = 1 << 16  # whose residuals give the edges of the null spectrum

_Unit = TypeVar("_Unit", Residual, Bend)


def run_stc(
    spec: StcSpec,
    out: str,
    *,
    executor: ExecutorName = "ray",
    workers: int | None = None,
    address: str | None = None,
    single_writer: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Stc:
    """Take the covariance of a finished run, or go on with it where it stopped; arguments as for `wna_ray.run`."""
    question = Question.of(spec)
    with driving(spec, out, executor, workers, address, single_writer, callbacks, question.held) as (directory, runner, told):
        _execute(question, directory, runner, told)
        told.finish()
    return Stc(directory.store.place)


@dataclass(frozen=True)
class Question:
    """A covariance spec whose run has been looked at.

    Attributes
    ----------
    spec, run
        What was asked, of which run.
    kind, names, units
        Which responses, of which units, and how they (or their gradients) are freed of what is linear.
    """

    spec: StcSpec
    run: Run
    kind: ResponseKind
    names: tuple[str, ...]
    units: tuple[Residual | Bend, ...]

    @classmethod
    def of(cls, spec: StcSpec) -> Question:
        """Look at the run.

        Raises
        ------
        SpecError
            It has no such response or unit, or too many values for a dense matrix, or does not fit into memory; or its model was not
            given, where gradients need it.
        RunError
            There is no such run, it is not finished, or its responses were not kept.
        """
        run = Run(Place(spec.run, spec.execution.endpoint))
        where = f"run: '{run.directory.url}'"
        gradient = run.spec.estimator == "gradient"
        if gradient and run.spec.decoder is not None:
            raise SpecError(
                f"{where} was made by gradients through a decoder, whose covariance is not taken here; take its answers: estimator: noise "
                "with keep_responses: true"
            )
        if gradient and spec.model is None:
            raise SpecError(
                f"{where} was made by gradients, so its covariance needs the network once more; give model: {run.spec.model} "
                "(if you trust it)"
            )
        if not gradient:
            if spec.model is not None:
                raise SpecError(f"model: {where} was made by answers, which were kept; only runs with estimator: gradient need their model")
            _ = run.stored_spans
        kinds = [r.kind for r in run.spec.responses]
        kind = spec.response or kinds[0]
        if kind not in kinds:
            raise SpecError(f"response: {where} has no {kind}; it has {', '.join(kinds)}")
        names = tuple(run.names) if spec.units == "all" else spec.units
        unknown = [name for name in names if name not in run.names]
        if unknown:
            raise SpecError(f"units: {where} has no {unknown[0]!r}; it has {', '.join(run.names[:8])}{', ...' * (len(run.names) > 8)}")
        if run.stimulus.patches_an_image > 1:
            raise SpecError(
                f"{where} pools positions whose patches overlap, so they are no independent samples; take target.position: centre"
            )
        if run.spec.stimulus.measured:
            raise SpecError(f"{where} shows pictures whose pixels correlate, which would be axes of their own; a covariance needs noise")
        d = run.stimulus.pixels
        if spec.method == "dense" and d > MOST_DENSE:
            raise SpecError(f"method: dense is for up to {MOST_DENSE:,} values an image, but {where} has {d:,}; take matrix-free")
        if spec.method == "matrix-free" and len(names) != 1:
            raise SpecError(f"units: matrix-free takes one unit at a time, got {len(names)}; give units: [{names[0]}]")
        if spec.clip is not None and gradient:
            raise SpecError(f"clip: is for answers, but {where} was made by gradients; leave it out")
        if spec.method == "matrix-free" and gradient:
            raise SpecError(f"method: matrix-free works on kept responses, but {where} was made by gradients; take dense")
        rows = [run.names.index(name) for name in names]
        units = tuple(
            Bend.of(run, kind, row, spec.linear) if gradient else Residual.of(run, kind, row, spec.linear, spec.clip) for row in rows
        )
        question = cls(spec, run, kind, names, units)
        need, there = BASE_BYTES + COPIES * question.sum_bytes, available()
        if there is not None and need > there:
            raise SpecError(
                f"sums of {size(question.sum_bytes)} ({len(names)} units x {1 + spec.fresh} streams x {d:,}^2 values) take {size(need)} of "
                f"memory, but this machine has {size(there)}; take fewer units, fewer fresh streams, or method: matrix-free"
            )
        return question

    @property
    def d(self) -> int:
        """Values of an image."""
        return self.run.stimulus.pixels

    @property
    def shape(self) -> dict[str, int]:
        """Of the sums of the pass in the run directory itself."""
        if self.spec.method == "dense":
            return {"units": len(self.units), "d": self.d, "null": self.spec.fresh, "columns": 0}
        return {"units": 1, "d": self.d, "null": 0, "columns": min(self.spec.axes, self.d)}

    @property
    def sum_bytes(self) -> int:
        """Bytes of these sums."""
        return 8 * sum(math.prod(s) for s in shapes(**self.shape).values())

    def null_edges(self) -> dict[str, tuple[float, float]]:
        """Where the spectrum of each unit's matrix would end if the response ignored the noise, from the first responses alone.

        Empty for a run of gradients, where this is told by fresh noise only. Nothing is made again, so the linear part is still in.
        """
        images = self.run.moments.images // (2 if self.spec.method == "matrix-free" else 1)
        stored = next(self.run.stored())[1].part(slice(EDGE_IMAGES)) if self.held is None else None
        found = {}
        for name, unit in zip(self.names, _all(Residual, self.units), strict=False):
            assert stored is not None
            y = stored.row(self.kind, unit.row)[stored.counted]
            found[name] = null_edges(unit.without(y, np.zeros(len(y))), self.d / max(1, images))
        return found

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a result, as plain JSON values."""
        spec = self.spec
        free = {"axes": spec.axes, "passes": spec.passes} if spec.method == "matrix-free" else {"fresh": spec.fresh}
        twin = {"estimator": "gradient"} if self.held is not None else {}
        return (
            twin
            | {
                "run": self.run.fingerprint,
                "samples": self.run.samples,
                "kind": self.kind,
                "units": [u.row for u in self.units],
                "method": spec.method,
                "linear": spec.linear,
                "clip": spec.clip,
                "seed": str(spec.seed),
                "shape": self.shape,
            }
            | free
        )

    @cached_property
    def held(self) -> Spec | None:
        """Of a run of gradients, the spec whose network the workers hold: the run's, with the model and the execution of this one."""
        if self.spec.model is None:
            return None
        return self.run.spec.model_copy(update={"model": self.spec.model, "execution": self.spec.execution})

    def twin(self, executor: Executor) -> Introduction | None:
        """The job of a run of gradients, as the workers find it again; `RunError` where it is another."""
        if self.held is None:
            return None
        introduction: Introduction = call(executor, CALL_TRIES, "introduce")
        if introduction.job.fingerprint != self.run.fingerprint:
            raise RunError(
                f"model: {self.spec.model} is not, bit for bit, the network that '{self.run.directory.url}' was made with; take the same "
                "weights, machine type and library versions, or make the run again here"
            )
        return introduction


def _execute(question: Question, directory: RunDirectory, executor: Executor, told: Told) -> None:
    spec, stimulus = question.spec, question.run.stimulus
    environment = call(executor, CALL_TRIES, "environment")
    directory.store.require_conditions()
    asked = spec.model_dump(mode="json")
    samples = question.run.samples
    fingerprint = directory.begin_pass(question.identity, samples, question.names, asked, environment)
    if directory.manifest() is not None:
        directory.store.sweep()
        return
    told.claim()
    if stimulus.spec.kind != "gaussian":
        told(
            Stage(
                f"note: {stimulus.spec.kind} noise is not Gaussian: its kurtosis makes axes along single values of its own, and an axis "
                "need not be a direction that the unit sees; confirm with gaussian noise"
            )
        )
    passes = _Passes(question, executor, told, environment, asked, question.twin(executor))
    if spec.method == "dense":
        job = passes.a_pass(seeds=null_seeds(question.run.fingerprint, spec.seed, spec.fresh))
        sums, segments = passes.sums(replace(job, fingerprint=fingerprint), directory)
        found, ends, spectra = _dense_axes(question, sums.moments, told)
    else:
        block = _look_for_axes(question, directory, passes)
        if not directory.store.create(BLOCK, to_npy(block)) and directory.store.read(BLOCK) != to_npy(block):
            raise RunError(
                f"{directory.url}/{BLOCK} holds other axes than this machine finds in the same sums; start elsewhere, with another --out"
            )
        job = passes.a_pass(block=block, half=1)
        sums, segments = passes.sums(replace(job, fingerprint=fingerprint), directory)
        table = stimulus.noise.table
        (unit,) = _all(Residual, question.units)
        effective = effective_images(question.run, question.kind, unit) / 2  # in the half that tests
        found = [held_out(sums.moments, block, unit.shift, float(table.variance), float(table.moment(4)), effective)]
        ends, spectra = [(math.nan, math.nan)], None
    profiles = _profiles(question, found, passes, directory, fingerprint)
    told(Stage("draw"))
    axes = axes_table(question.names, found, ends, stimulus.spec.kind == "gaussian")
    vectors = np.concatenate([one.vectors for one in found])
    objects = result(question.run, question.kind, question.names, axes, vectors, spectra, profiles)
    directory.publish(segments, {MOMENTS: pack_moments(sums, fingerprint)} | objects, fingerprint, samples)


@dataclass
class _Passes:
    """Runs passes, each in its directory."""

    question: Question
    executor: Executor
    told: Callback
    environment: Mapping[str, Any]
    asked: Mapping[str, Any]
    twin: Introduction | None

    def a_pass(self, **how: Any) -> Pass | TwinPass:
        """A pass of this question; its fingerprint comes with its directory."""
        question = self.question
        if self.twin is not None:
            return TwinPass("", question.kind, _all(Bend, question.units), self.twin.job, **how)
        return Pass(
            question.run.directory.store.place,
            "",
            question.kind,
            _all(Residual, question.units),
            batch=question.run.spec.numerics.batch,
            **how,
        )

    def sums(self, job: Pass | TwinPass, directory: RunDirectory) -> tuple[Any, list[SegmentInfo]]:
        """Sums of a pass over all images, from its segments and what is missing of them."""
        run, execution, samples = self.question.run.spec, self.question.spec.execution, self.question.run.samples
        d, columns = self.question.d, job.shape["columns"]
        flops = 4 * d * columns if columns else 2 * d * d * len(job.units) * (1 + len(job.seeds))
        moments = 8 * sum(math.prod(s) for s in shapes(**job.shape).values())
        gaps = directory.gaps(samples)
        seconds = run.numerics.batch * (flops / FLOPS + d * (1 + len(job.seeds)) / 2e8)
        if self.twin is not None:
            seconds += self.twin.batch_seconds
        segments = execution.segments or max(1, min(MOST_SEGMENTS, SEGMENTS_BYTES // moments))
        cut = plan(gaps, samples, run.numerics.batch, 1, moments, self.executor.wanted, seconds, execution.shard, segments)
        done = samples - sum(b - a for a, b in gaps)
        self.told(RunStarted(directory.url, job.fingerprint, samples, done, cut.shards, self.executor.workers, self.device))
        scheduler = Scheduler(self.executor, execution.attempts, self.told, moments)
        run_plan(cut, self.executor.share(job), job.fingerprint, samples, samples, execution.attempts, directory, scheduler)
        self.told(Stage("merge"))
        return merge_segments(job.fingerprint, samples, directory, self.executor, scheduler)

    @property
    def device(self) -> Device:
        """Where workers compute."""
        return "cpu" if self.twin is None else self.twin.job.device

    def inner(self, directory: RunDirectory, name: str, job: Pass | TwinPass, parent: str) -> PassSums:
        """Sums of a pass with a block, in a folder of its own."""
        assert job.block is not None
        place = directory.store.below(name)
        inner = RunDirectory(place)
        identity = {"of": parent, "name": name, "block": sha256(to_npy(job.block)), "owners": list(job.owners), "shape": job.shape}
        samples, names = self.question.run.samples, self.question.names
        fingerprint = inner.begin_pass(identity, samples, names, self.asked, self.environment)
        if inner.manifest() is not None:
            return Stc(place).sums
        partial, segments = self.sums(replace(job, fingerprint=fingerprint), inner)
        inner.publish(segments, {MOMENTS: pack_moments(partial, fingerprint)}, fingerprint, samples)
        sums: PassSums = partial.moments
        return sums

    def block(self, directory: RunDirectory, number: int, block: Floats, parent: str) -> Floats:
        """What the matrix, of the even batches, does to a block: ``(d, c)``."""
        (unit,) = _all(Residual, self.question.units)
        sums = self.inner(directory, f"pass-{number:02d}", self.a_pass(block=block, half=0), parent)
        mean, sd = spread(sums, 0)
        if not sd:
            name = self.question.names[0]
            raise RunError(f"'{self.question.run.directory.url}': in its even batches {name} never varied; take a run of more images")
        variance = float(self.question.run.stimulus.noise.table.variance)
        image = np.ldexp(sums.sums["rqx"].T, unit.shift) / (sums.images * variance * sd)
        return np.asarray(image - mean / sd * block)


def _look_for_axes(question: Question, directory: RunDirectory, passes: _Passes) -> Floats:
    """The strongest axes in a few passes over the even batches, as a block of whole numbers."""
    spec, parent = question.spec, directory.spec()["fingerprint"]
    columns = question.shape["columns"]
    start = np.random.default_rng(spec.seed).standard_normal((question.d, columns))
    images = strongest(question.run, question.kind, question.units[0].row, columns)
    start[:, : len(images)] = images.T  # several times nearer to an axis than chance
    krylov = Krylov(start)
    for number in range(1, spec.passes + 1):
        if not krylov.next.shape[1]:
            break  # the space is whole
        block = whole(krylov.next)
        krylov.add(block / 2.0**BLOCK_BITS, passes.block(directory, number, block, parent) / 2.0**BLOCK_BITS)
    return whole(krylov.axes(columns)[1].T)


def whole(block: Floats) -> Floats:
    """A block of unit columns as whole numbers, 2^24 long."""
    return np.asarray(np.rint(np.ldexp(block, BLOCK_BITS)))


def _profiles(question: Question, found: Sequence[Axes], passes: _Passes, directory: RunDirectory, parent: str) -> pa.Table:
    """Mean response along the STA and along each axis of each unit."""
    run, kind = question.run, question.kind
    readout, point = next(r for r in run.readouts if r.kind == kind), run.points[kind]
    vectors, columns = list[Floats](), list[tuple[int, int | None]]()
    for j, (unit, axes) in enumerate(zip(question.units, found, strict=True)):
        sta = readout.bias[unit.row]
        vectors += [sta / np.linalg.norm(sta), *axes.vectors]
        columns += [(j, None), *((j, i) for i in range(len(axes.vectors)))]
    job = passes.a_pass(block=whole(np.array(vectors).T), owners=tuple(owner for owner, _ in columns))
    sums = passes.inner(directory, "profile", job, parent).sums
    scale = [(float(point.step[unit.row]), point.centre[unit.row]) for unit in question.units]
    return profile_table(question.names, columns, sums, scale)


def _dense_axes(question: Question, sums: PassSums, told: Callback) -> tuple[list[Axes], list[tuple[float, float]], NDArray[np.float64]]:
    """Axes, edges of the null spectrum, and all eigenvalues of every unit."""
    spec, variance = question.spec, float(question.run.stimulus.noise.table.variance)
    found, ends, spectra = list[Axes](), list[tuple[float, float]](), list[Floats]()
    for j, unit in enumerate(question.units):
        told(Stage(f"axes of {question.names[j]} ({j + 1} of {len(question.units)})"))
        stack = matrices(sums, j, variance) if isinstance(unit, Residual) else hessians(sums, j, unit, question.run.stimulus.unit)
        found.append(nested_axes(stack, min(spec.axes, question.d)))
        spectra.append(np.linalg.eigvalsh(stack[0]))
        if isinstance(unit, Bend):
            ends.append(_usual_ends(stack[1:]))
            continue
        ends.append(null_edges(residuals(question.run, question.kind, unit, EDGE_IMAGES), question.d / sums.images))
    return found, ends, np.array(spectra)


def _usual_ends(null: NDArray[np.float64]) -> tuple[float, float]:
    """Where the spectra of null matrices ``(B, d, d)`` end, on average; NaN where there are none."""
    if not len(null):
        return math.nan, math.nan
    low, high = np.mean([ends_of(matrix)[0] for matrix in null], axis=0)
    return float(low), float(high)


def _all(kind: type[_Unit], units: Sequence[Residual | Bend]) -> tuple[_Unit, ...]:
    """The units, which are all of one kind."""
    return tuple(unit for unit in units if isinstance(unit, kind))
