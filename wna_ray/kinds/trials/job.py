"""A run of trials from spec to manifest: ``run_trials(TrialSpec(...), out=...)``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.data.datasets import NotAtHand, Split, class_names, load
from wna_ray.errors import SpecError
from wna_ray.events import Callback, Stage
from wna_ray.execution.drive import ExecutorName, How, drive
from wna_ray.execution.plan import MOST_SEGMENTS, Cut
from wna_ray.execution.rounds import Desk, Prepared, Round, Rounds
from wna_ray.execution.worker import Introduction
from wna_ray.kinds.average.memory import BASE_BYTES
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.average.work import NoiseWork
from wna_ray.kinds.trials import KIND, attack
from wna_ray.kinds.trials.conditions import conditions
from wna_ray.kinds.trials.result import Trials, result
from wna_ray.kinds.trials.shard import TrialJob
from wna_ray.machine import available
from wna_ray.moments.counts import trial_shapes
from wna_ray.networks.stimulation import Activity, profile
from wna_ray.runs.directory import Description
from wna_ray.shards.job import Job
from wna_ray.specs.run import Spec
from wna_ray.specs.trials import TrialSpec
from wna_ray.statistics.classifier import mean_images
from wna_ray.storage.store import Place
from wna_ray.text import size

COPIES = 6  # of the sums that a machine may hold at a time
SEGMENTS_BYTES = 1 << 30  # of all segments together
PROFILE_NOISE = 4096  # images of noise that the STA of units is taken from


def run_trials(
    spec: TrialSpec,
    out: str,
    *,
    executor: ExecutorName = "ray",
    workers: int | None = None,
    address: str | None = None,
    single_writer: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Trials:
    """Run trials, or go on with them where they stopped; arguments as for `wna_ray.run`."""
    place = Place(out, spec.execution.endpoint, single_writer)
    how = How(executor, workers, address, single_writer, callbacks)
    return Trials(drive(TrialQuestion.of(spec, place), spec, out, how))


@dataclass(frozen=True)
class TrialQuestion:
    """A spec of trials whose data sets and maps have been looked at.

    Attributes
    ----------
    spec
        What was asked.
    signals
        The chosen images.
    classes
        ``(s,)``: their classes, by their numbers in the data set.
    """

    spec: TrialSpec
    signals: Split
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, spec: TrialSpec, place: Place | None = None) -> TrialQuestion:
        """Load the signals; where the result lies tells nothing.

        Raises
        ------
        SpecError
            The data set is not at hand, or has no such classes.
        """
        data = _load(spec, spec.signals.split == "train", "signals.dataset")
        classes = (
            np.unique(data.labels)
            if spec.signals.classes == "all"
            else np.array(spec.signals.classes)
        )
        unknown = sorted(set(classes.tolist()) - set(data.labels.tolist()))
        if unknown:
            raise SpecError(
                f"signals.classes: {spec.signals.dataset} has no class {unknown[0]}; it has 0 to"
                f" {data.labels.max()}"
            )
        chosen = np.sort(
            np.concatenate(
                [np.flatnonzero(data.labels == c)[: spec.signals.images] for c in classes]
            )
        )
        return cls(spec, Split(data.images[chosen], data.labels[chosen]), classes)

    @property
    def samples(self) -> int:
        """N: trials."""
        return self.spec.repeats * len(self.signals.labels)

    @property
    def announced(self) -> None:
        """None: how many trials are committed is said alone."""
        return None

    def prepare(self, desk: Desk) -> Prepared:
        """Let a worker look at the model, and at its units where they are stimulated; refuse
        what does not fit into memory.
        """
        introduction: Introduction = desk.introduce()
        work = resolve_trials(self, introduction.job, partial(desk.call, "activity"), desk.emit)
        need = 8 * sum(math.prod(s) for s in trial_shapes(**work.shape).values())
        _require_room(work, need)
        description = Description(
            format=KIND.format,
            identity=identity_of(work, self),
            samples=self.samples,
            names=work.job.names,
            spec=self.spec.model_dump(mode="json"),
            environment=introduction.environment,
        )
        work = replace(work, fingerprint=description.fingerprint)
        return Prepared(
            description, _rounds(work, introduction.batch_seconds, need, description, desk)
        )

    @cached_property
    def held(self) -> Spec:
        """The spec of the network and the noise."""
        shape: Any = self.signals.images.shape[1:]
        return self.spec.noise_spec(shape, self.samples)

    @cached_property
    def training(self) -> Split:
        """Training images, for mean images and profiles."""
        return _load(
            self.spec,
            True,
            (
                "attack.by: mean"
                if self.spec.attack and "mean" in self.spec.attack.by
                else "stimulate.by"
            ),
        )

    def rows(self, labels: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.int64]:
        """Which response names each label of the data set: by name, else by number; -1 where
        none does.
        """
        known = class_names(self.spec.signals.dataset)
        if set(names) <= set(known):
            place = {label: names.index(name) for label, name in enumerate(known) if name in names}
        else:
            place = (
                {label: label for label in range(len(known))} if len(names) == len(known) else {}
            )
        return np.array([place.get(int(label), -1) for label in labels], dtype=np.int64)


def _load(spec: TrialSpec, train: bool, where: str) -> Split:
    try:
        return load(spec.signals.dataset, train, download=True)
    except NotAtHand as reason:
        raise SpecError(f"{where}: {reason}") from None


def _require_room(work: TrialJob, need: int) -> None:
    """`SpecError` where counts of so many bytes do not fit into the memory of this machine."""
    memory, spec = available(), work.spec
    if memory is not None and BASE_BYTES + COPIES * need > memory:
        raise SpecError(
            f"counts of {size(need)} ({len(work.conditions):,} conditions x {work.class_count}"
            f" classes x {len(work.job.names)}"
            f" responses{', and the sums of moments' * spec.moments}) do not fit into the"
            f" {size(memory)} of this machine; take fewer conditions or classes"
        )


def _rounds(
    work: TrialJob, batch_seconds: float, need: int, description: Description, desk: Desk
) -> Rounds:
    """One round of all trials."""
    spec, execution, samples = work.spec, work.spec.execution, description.samples
    distinct = len(
        {
            (c.gamma, c.transform, c.weight and (c.attack, c.target, c.weight), c.layer, c.strength)
            for c in work.conditions
        }
    )
    segments = execution.segments or max(1, min(MOST_SEGMENTS, SEGMENTS_BYTES // need))
    seconds = batch_seconds * distinct
    cut = Cut(spec.numerics.batch, seconds, 1, need, shard=execution.shard, segments=segments)
    summed = yield Round(work, samples, cut, need, work.job.device)
    desk.emit(Stage("draw"))
    classes = description.identity["classes"]
    return result(
        spec,
        work.job.stimulus,
        work.conditions,
        work.job.names,
        classes,
        work.correct,
        summed.moments,
    )


def resolve_trials(
    question: TrialQuestion,
    job: Job,
    activity: Callable[..., dict[str, Activity]],
    emit: Callback = lambda event: None,
) -> TrialJob:
    """Everything that shards share: signals, templates, profiles, conditions.

    Parameters
    ----------
    job
        The network and the noise, resolved.
    activity
        Measures the activity of layers (see `wna_ray.execution.worker.Worker.activity`).
    """
    spec, names = question.spec, job.names
    profiles: dict[tuple[str, str, int], NDArray[np.float64]] = {}
    planned = conditions(spec, names)
    correct = question.rows(question.classes, names)
    if spec.stimulate is not None:
        emit(Stage("measure activity"))
        train = question.training
        rows = question.rows(train.labels, names)
        images = _bytes(train.images[rows >= 0])
        activities = activity(
            NoiseWork(job),
            spec.stimulate.layers,
            images,
            rows[rows >= 0],
            PROFILE_NOISE if "sta" in spec.stimulate.by else 0,
        )
        for c in planned:
            if c.layer is None or c.profile is None or c.profile_class is None:
                continue
            key = (c.layer, c.profile, c.profile_class)
            if key not in profiles:
                profiles[key] = profile(
                    spec.stimulate, activities[c.layer], c.profile, c.profile_class, spec.seed
                )
                if not np.isfinite(profiles[key]).all():
                    raise SpecError(
                        f"stimulate.classes: {spec.signals.dataset} has no training images of"
                        f" {names[c.profile_class]!r}"
                    )
    if spec.attack is not None and "fgsm-untargeted" in spec.attack.by and (correct < 0).any():
        raise SpecError(
            f"attack.by: fgsm-untargeted needs an answer for every class of {spec.signals.dataset};"
            f" the network has {names[:8]}"
        )
    lookup = np.full(int(question.classes.max()) + 1, -1)
    lookup[question.classes] = np.arange(len(question.classes))
    return TrialJob(
        fingerprint="",
        spec=spec,
        job=job,
        signals=_bytes(question.signals.images),
        classes=lookup[question.signals.labels],
        class_count=len(question.classes),
        correct=correct,
        conditions=tuple(planned),
        templates=_templates(question, job),
        profiles=profiles,
    )


def _bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Images in [0, 1] as the bytes that they were made of."""
    return np.rint(images * 255).astype(np.uint8)


def _templates(question: TrialQuestion, job: Job) -> dict[str, NDArray[np.float32]]:
    """What is added in attacks, by source."""
    spec, names = question.spec, list(job.names)
    if spec.attack is None:
        return {}
    by_source: dict[str, NDArray[np.float64]] = {}
    shape = (len(names), *job.spec.stimulus.shape)
    if spec.attack.run is not None:
        maps = _maps(spec, names, shape)
        by_source = {"map": maps, "permuted": attack.permuted(maps, spec.seed)}
    if "mean" in spec.attack.by:
        train = question.training
        rows = question.rows(train.labels, names)
        by_source["mean"] = mean_images(Split(train.images[rows >= 0], rows[rows >= 0]), len(names))
    if "random" in spec.attack.by:
        by_source["random"] = attack.random_directions(shape, spec.seed)
    templates: dict[str, NDArray[np.float32]] = {
        source: attack.prepared(by_source[source], spec.attack.form)
        for source in spec.attack.by
        if source in by_source
    }
    targets = names if spec.attack.targets == "all" else spec.attack.targets
    for source, some in templates.items():
        for name in targets:
            if not np.isfinite(some[names.index(name)]).all():
                raise SpecError(
                    f"attack.targets: there is no {source} template for {name!r}; leave it out of"
                    " the targets"
                )
    return templates


def _maps(spec: TrialSpec, names: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Bias maps of the run of an attack, one for each response."""
    assert spec.attack is not None
    assert spec.attack.run is not None
    run = Run(Place(spec.attack.run, spec.execution.endpoint))
    readout = next((r for r in run.readouts if spec.attack.response in (None, r.kind)), None)
    where = f"attack.run: '{run.directory.url}'"
    if readout is None:
        raise SpecError(
            f"{where} has no {spec.attack.response}; it has"
            f" {', '.join(r.kind for r in run.readouts)}"
        )
    if run.spec.decoder is not None:
        raise SpecError(
            f"{where} has maps of a decoder's codes, which cannot be added to images; take a run"
            " without a decoder"
        )
    maps = run.stimulus.expand(readout.bias)
    if list(readout.names) != list(names) or maps.shape != shape:
        raise SpecError(
            f"{where} has maps of {len(maps)} responses, {maps.shape[1:]}; this network has"
            f" {len(names)} ({', '.join(names[:4])}, ...) and signals of shape {shape[1:]}"
        )
    return maps


def identity_of(work: TrialJob, question: TrialQuestion) -> dict[str, Any]:
    """Everything that can change a result, as plain JSON values."""
    spec, known = work.spec, class_names(question.spec.signals.dataset)
    chosen = spec.model_dump(
        mode="json", include={"gammas", "transforms", "attack", "stimulate", "moments", "repeats"}
    )
    for part in ("attack", "stimulate"):
        if chosen[part] is None:
            del chosen[part]
    if spec.attack is not None:
        chosen["attack"] |= {
            "run": None,
            "templates": {source: _digest(t) for source, t in work.templates.items()},
        }
    if spec.stimulate is not None:
        chosen["stimulate"]["profiles"] = _digest(
            *(work.profiles[key].astype(np.float32) for key in sorted(work.profiles))
        )
    return chosen | {
        "job": work.job.fingerprint,
        "signals": {"digest": _digest(work.signals, work.classes), "count": len(work.signals)},
        "classes": [known[int(c)] for c in question.classes],
        "correct": work.correct.tolist(),
        "shape": work.shape,
    }


def _digest(*arrays: NDArray[Any]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(
            f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        )
    return total.hexdigest()
