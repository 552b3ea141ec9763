"""A covariance from spec to manifest: ``run_stc(StcSpec(...), out=...)``."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wna_ray.canonical import sha256
from wna_ray.errors import RunError, SpecError
from wna_ray.events import Callback, Stage
from wna_ray.execution.drive import ExecutorName, How, drive
from wna_ray.execution.plan import MOST_SEGMENTS, Cut
from wna_ray.execution.rounds import Desk, Prepared, Round, Rounds
from wna_ray.execution.worker import Introduction
from wna_ray.kinds.average.memory import BASE_BYTES
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.covariance import KIND
from wna_ray.kinds.covariance.checks import (
    check_estimator,
    check_method,
    check_noise,
    chosen_kind,
    chosen_names,
)
from wna_ray.kinds.covariance.hessian import Bend, TwinPass, hessians
from wna_ray.kinds.covariance.passes import (
    BLOCK_BITS,
    Floats,
    Pass,
    Residual,
    effective_images,
    null_seeds,
    residuals,
    strongest,
)
from wna_ray.kinds.covariance.result import Stc, axes_table, profile_table, result
from wna_ray.machine import available
from wna_ray.moments.counts import PassSums, shapes
from wna_ray.moments.moments import Partial
from wna_ray.runs.directory import Description, RunDirectory
from wna_ray.runs.names import BLOCK
from wna_ray.shards.network import Device
from wna_ray.specs.covariance import StcSpec
from wna_ray.specs.job import Held
from wna_ray.specs.response import ResponseKind
from wna_ray.statistics.covariance import (
    Axes,
    Krylov,
    ends_of,
    held_out,
    matrices,
    nested_axes,
    null_edges,
    spread,
)
from wna_ray.storage.arrays import to_npy
from wna_ray.storage.store import Place
from wna_ray.text import size

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
    """Take the covariance of a finished run, or go on with it where it stopped; arguments as
    for `wna_ray.run`.
    """
    place = Place(out, spec.execution.endpoint, single_writer)
    how = How(executor, workers, address, single_writer, callbacks)
    return Stc(drive(Question.of(spec, place), spec, out, how))


@dataclass(frozen=True)
class Question:
    """A covariance spec whose run has been looked at.

    Attributes
    ----------
    spec, run
        What was asked, of which run.
    kind, names, units
        Which responses, of which units, and how they (or their gradients) are freed of what is
        linear.
    """

    spec: StcSpec
    run: Run
    kind: ResponseKind
    names: tuple[str, ...]
    units: tuple[Residual | Bend, ...]

    @classmethod
    def of(cls, spec: StcSpec, place: Place | None = None) -> Question:
        """Look at the run; where the result lies tells nothing.

        Raises
        ------
        SpecError
            It has no such response or unit, or too many values for a dense matrix, or does not fit
            into memory; or its model was not given, where gradients need it.
        RunError
            There is no such run, it is not finished, or its responses were not kept.
        """
        run = Run(Place(spec.run, spec.execution.endpoint))
        gradient = run.spec.estimator == "gradient"
        check_estimator(spec, run)
        kind, names = chosen_kind(spec, run), chosen_names(spec, run)
        check_noise(run)
        check_method(spec, run, names)
        rows = [run.names.index(name) for name in names]
        units = tuple(
            (
                Bend.of(run, kind, row, spec.linear)
                if gradient
                else Residual.of(run, kind, row, spec.linear, spec.clip)
            )
            for row in rows
        )
        question = cls(spec, run, kind, names, units)
        question.check_memory()
        return question

    def check_memory(self) -> None:
        """`SpecError` where the sums do not fit into the memory of this machine."""
        need, memory = BASE_BYTES + COPIES * self.sum_bytes, available()
        if memory is not None and need > memory:
            raise SpecError(
                f"sums of {size(self.sum_bytes)} ({len(self.names)} units x {1 + self.spec.fresh}"
                f" streams x {self.d:,}^2 values) take {size(need)} of memory, but this machine has"
                f" {size(memory)}; take fewer units, fewer fresh streams, or method: matrix-free"
            )

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
        """Where the spectrum of each unit's matrix would end if the response ignored the noise,
        from the first responses alone.

        Empty for a run of gradients, where this is told by fresh noise only. Nothing is made again,
        so the linear part is still in.
        """
        images = self.run.moments.images // (2 if self.spec.method == "matrix-free" else 1)
        stored = (
            next(self.run.stored())[1].part(slice(EDGE_IMAGES)) if self.spec.model is None else None
        )
        edges = {}
        for name, unit in zip(self.names, _all(Residual, self.units), strict=False):
            assert stored is not None
            y = stored.row(self.kind, unit.row)[stored.counted]
            edges[name] = null_edges(unit.without(y, np.zeros(len(y))), self.d / max(1, images))
        return edges

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a result, as plain JSON values."""
        spec = self.spec
        free = (
            {"axes": spec.axes, "passes": spec.passes}
            if spec.method == "matrix-free"
            else {"fresh": spec.fresh}
        )
        twin = {"estimator": "gradient"} if self.spec.model is not None else {}
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
    def held(self) -> Held:
        """The spec itself; of a run of gradients the run's, whose network is asked, with the
        model and the execution of this one.
        """
        if self.spec.model is None:
            return self.spec
        return self.run.spec.model_copy(
            update={"model": self.spec.model, "execution": self.spec.execution}
        )

    @property
    def announced(self) -> None:
        """None: a covariance takes several passes over the images of its run."""
        return None

    def prepare(self, desk: Desk) -> Prepared:
        """Look at where it is computed."""
        description = Description(
            format=KIND.format,
            identity=self.identity,
            samples=self.run.samples,
            names=self.names,
            spec=self.spec.model_dump(mode="json"),
            environment=desk.call("environment"),
        )
        return Prepared(description, _rounds(self, description, desk))

    def twin(self, desk: Desk) -> Introduction | None:
        """The job of a run of gradients, as the workers find it again; `RunError` where it is
        another.
        """
        if self.spec.model is None:
            return None
        introduction: Introduction = desk.introduce()
        if introduction.job.fingerprint != self.run.fingerprint:
            raise RunError(
                f"model: {self.spec.model} is not, bit for bit, the network that"
                f" '{self.run.directory.url}' was made with; take the same weights, machine type"
                " and library versions, or make the run again here"
            )
        return introduction


def _rounds(question: Question, description: Description, desk: Desk) -> Rounds:
    """Axes of a dense matrix, or found and tested by passes over two halves; then profiles
    along them.
    """
    run, names, kind = question.run, question.names, question.run.stimulus.spec.kind
    if kind != "gaussian":
        desk.emit(
            Stage(
                f"note: {kind} noise is not Gaussian: its kurtosis makes axes along single values"
                " of its own, and an axis need not be a direction that the unit sees; confirm with"
                " gaussian noise"
            )
        )
    passes = _Passes(question, description, question.twin(desk))
    if question.spec.method == "dense":
        seeds = null_seeds(run.fingerprint, question.spec.seed, question.spec.fresh)
        summed = yield passes.round(passes.a_pass(description.fingerprint, seeds=seeds))
        axes, ends, spectra = _dense_axes(question, summed.moments, desk.emit)
    else:
        block = yield from _look_for_axes(question, passes)
        _keep_block(desk.directory, block)
        summed = yield passes.round(passes.a_pass(description.fingerprint, block=block, half=1))
        axes = _tested_axes(question, summed.moments, block)
        ends, spectra = [(math.nan, math.nan)], None
    profiles = yield from _profiles(question, axes, passes)
    desk.emit(Stage("draw"))
    table = axes_table(names, axes, ends, kind == "gaussian")
    vectors = np.concatenate([one.vectors for one in axes])
    return result(run, question.kind, names, table, vectors, spectra, profiles)


def _keep_block(directory: RunDirectory, block: Floats) -> None:
    """Publish the axes before they are tested; `RunError` where others are there."""
    data = to_npy(block)
    if not directory.store.create(BLOCK, data) and directory.store.read(BLOCK) != data:
        raise RunError(
            f"{directory.url}/{BLOCK} holds other axes than this machine finds in the same sums;"
            " start elsewhere, with another --out"
        )


def _tested_axes(question: Question, sums: PassSums, block: Floats) -> list[Axes]:
    """Axes of a block, tested on the odd batches."""
    table = question.run.stimulus.noise.table
    (unit,) = _all(Residual, question.units)
    effective = effective_images(question.run, question.kind, unit) / 2  # in the half that tests
    return [
        held_out(sums, block, unit.shift, float(table.variance), float(table.moment(4)), effective)
    ]


@dataclass(frozen=True)
class _Passes:
    """The passes of a question, as rounds; `twin` is the job of a run of gradients."""

    question: Question
    description: Description
    twin: Introduction | None

    def a_pass(self, fingerprint: str, **how: Any) -> Pass | TwinPass:
        """A pass of this question."""
        question = self.question
        if self.twin is not None:
            return TwinPass(
                fingerprint, question.kind, _all(Bend, question.units), self.twin.job, **how
            )
        return Pass(
            question.run.directory.store.place,
            fingerprint,
            question.kind,
            _all(Residual, question.units),
            batch=question.run.spec.numerics.batch,
            **how,
        )

    def round(self, job: Pass | TwinPass, inner: tuple[str, Description] | None = None) -> Round:
        """A pass over all images."""
        batch, execution, d = (
            self.question.run.spec.numerics.batch,
            self.question.spec.execution,
            self.question.d,
        )
        streams, columns = 1 + len(job.seeds), job.shape["columns"]
        flops = 4 * d * columns if columns else 2 * d * d * len(job.units) * streams
        moments = 8 * sum(math.prod(s) for s in shapes(**job.shape).values())
        seconds = batch * (flops / FLOPS + d * streams / 2e8)
        if self.twin is not None:
            seconds += self.twin.batch_seconds
        segments = execution.segments or max(1, min(MOST_SEGMENTS, SEGMENTS_BYTES // moments))
        cut = Cut(batch, seconds, 1, moments, shard=execution.shard, segments=segments)
        return Round(job, self.question.run.samples, cut, moments, self.device, inner)

    @property
    def device(self) -> Device:
        """Where workers compute."""
        return "cpu" if self.twin is None else self.twin.job.device

    def inner(self, name: str, **how: Any) -> Generator[Round, Partial, PassSums]:
        """Sums of a pass with a block, in a folder of its own."""
        job = self.a_pass("", **how)
        assert job.block is not None
        identity = {
            "of": self.description.fingerprint,
            "name": name,
            "block": sha256(to_npy(job.block)),
            "owners": list(job.owners),
            "shape": job.shape,
        }
        description = replace(self.description, identity=identity)
        summed = yield self.round(
            replace(job, fingerprint=description.fingerprint), (name, description)
        )
        sums: PassSums = summed.moments
        return sums

    def block(self, number: int, block: Floats) -> Generator[Round, Partial, Floats]:
        """What the matrix, of the even batches, does to a block: ``(d, c)``."""
        (unit,) = _all(Residual, self.question.units)
        sums = yield from self.inner(f"pass-{number:02d}", block=block, half=0)
        mean, sd = spread(sums, 0)
        if not sd:
            name = self.question.names[0]
            raise RunError(
                f"'{self.question.run.directory.url}': in its even batches {name} never varied;"
                " take a run of more images"
            )
        variance = float(self.question.run.stimulus.noise.table.variance)
        image = np.ldexp(sums.sums["rqx"].T, unit.shift) / (sums.images * variance * sd)
        return np.asarray(image - mean / sd * block)


def _look_for_axes(question: Question, passes: _Passes) -> Generator[Round, Partial, Floats]:
    """The strongest axes in a few passes over the even batches, as a block of whole numbers."""
    spec, columns = question.spec, question.shape["columns"]
    start = np.random.default_rng(spec.seed).standard_normal((question.d, columns))
    images = strongest(question.run, question.kind, question.units[0].row, columns)
    start[:, : len(images)] = images.T  # several times nearer to an axis than chance
    krylov = Krylov(start)
    for number in range(1, spec.passes + 1):
        if not krylov.next.shape[1]:
            break  # the space is whole
        block = whole(krylov.next)
        image = yield from passes.block(number, block)
        krylov.add(block / 2.0**BLOCK_BITS, image / 2.0**BLOCK_BITS)
    return whole(krylov.axes(columns)[1].T)


def whole(block: Floats) -> Floats:
    """A block of unit columns as whole numbers, 2^24 long."""
    return np.asarray(np.rint(np.ldexp(block, BLOCK_BITS)))


def _profiles(
    question: Question, axes: Sequence[Axes], passes: _Passes
) -> Generator[Round, Partial, pa.Table]:
    """Mean response along the STA and along each axis of each unit."""
    run, kind = question.run, question.kind
    readout, point = next(r for r in run.readouts if r.kind == kind), run.points[kind]
    vectors, columns = list[Floats](), list[tuple[int, int | None]]()
    for j, (unit, of_unit) in enumerate(zip(question.units, axes, strict=True)):
        sta = readout.bias[unit.row]
        vectors += [sta / np.linalg.norm(sta), *of_unit.vectors]
        columns += [(j, None), *((j, i) for i in range(len(of_unit.vectors)))]
    owners = tuple(owner for owner, _ in columns)
    sums = yield from passes.inner("profile", block=whole(np.array(vectors).T), owners=owners)
    scale = [(float(point.step[unit.row]), point.centre[unit.row]) for unit in question.units]
    return profile_table(question.names, columns, sums.sums, scale)


def _dense_axes(
    question: Question, sums: PassSums, emit: Callback
) -> tuple[list[Axes], list[tuple[float, float]], NDArray[np.float64]]:
    """Axes, edges of the null spectrum, and all eigenvalues of every unit."""
    spec, variance = question.spec, float(question.run.stimulus.noise.table.variance)
    axes, ends, spectra = list[Axes](), list[tuple[float, float]](), list[Floats]()
    for j, unit in enumerate(question.units):
        emit(Stage(f"axes of {question.names[j]} ({j + 1} of {len(question.units)})"))
        stack = (
            matrices(sums, j, variance)
            if isinstance(unit, Residual)
            else hessians(sums, j, unit, question.run.stimulus.unit)
        )
        axes.append(nested_axes(stack, min(spec.axes, question.d)))
        spectra.append(np.linalg.eigvalsh(stack[0]))
        if isinstance(unit, Bend):
            ends.append(_usual_ends(stack[1:]))
            continue
        ends.append(
            null_edges(
                residuals(question.run, question.kind, unit, EDGE_IMAGES), question.d / sums.images
            )
        )
    return axes, ends, np.array(spectra)


def _usual_ends(null: NDArray[np.float64]) -> tuple[float, float]:
    """Where the spectra of null matrices ``(B, d, d)`` end, on average; NaN where there are
    none.
    """
    if not len(null):
        return math.nan, math.nan
    low, high = np.mean([ends_of(matrix)[0] for matrix in null], axis=0)
    return float(low), float(high)


def _all(kind: type[_Unit], units: Sequence[Residual | Bend]) -> tuple[_Unit, ...]:
    """The units, which are all of one kind."""
    return tuple(unit for unit in units if isinstance(unit, kind))
