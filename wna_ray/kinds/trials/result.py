"""The result of trials: what is made of their counts, and a finished run of them opened for
reading.

OUT/                 a run: spec.json, segments, MANIFEST.json, and under result/
  moments.npz        the exact counts (see `wna_ray.moments.counts`)
  trials.parquet     one row a condition: what was done, and how often the answer was right
  detection.parquet  with moments, one row a signal weight and response: sensitivity, criterion, and
                     how reliable its image is
  classification_images.npy, classification_z_maps.npy
                     the same, float32 (g, k, C, H, W), optimally weighted
  figures/*.png
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wna_ray.data.datasets import SHAPES
from wna_ray.drawing.words import noise_text
from wna_ray.errors import RunError
from wna_ray.kinds.trials.conditions import Condition, conditions
from wna_ray.kinds.trials.detection import Detected, detect, detection_table
from wna_ray.kinds.trials.extent import TrialExtent, TrialIdentity
from wna_ray.moments.counts import PassSums
from wna_ray.runs.finished import Finished
from wna_ray.runs.names import MOMENTS, RESULT
from wna_ray.specs.trials import TrialSpec
from wna_ray.stimuli.stimulus import Stimulus, make_stimulus
from wna_ray.storage.arrays import to_npy, to_parquet
from wna_ray.storage.store import Place
from wna_ray.storage.tables import table_of
from wna_ray.text import plain

FIGURES = "wna_ray.kinds.trials.figures"  # matplotlib, only where something is drawn

TRIALS, DETECTION = f"{RESULT}/trials.parquet", f"{RESULT}/detection.parquet"
IMAGES, Z_MAPS = f"{RESULT}/classification_images.npy", f"{RESULT}/classification_z_maps.npy"
COLUMNS = {
    "gamma": pa.float64(),
    "transform": pa.string(),
    "attack": pa.string(),
    "target": pa.string(),
    "weight": pa.float64(),
    "layer": pa.string(),
    "profile": pa.string(),
    "profile_class": pa.string(),
    "strength": pa.float64(),
    "trials": pa.int64(),
    "correct": pa.int64(),
    "others": pa.int64(),
    "moved": pa.int64(),
    "own": pa.int64(),
    "kept": pa.int64(),
}


def summary(
    planned: Sequence[Condition],
    names: Sequence[str],
    correct: NDArray[np.int64],
    answers: NDArray[np.int64],
) -> pa.Table:
    """One row a condition.

    Parameters
    ----------
    names
        Of the responses.
    correct
        ``(s,)``: the response that names each class; -1 where none does.
    answers
        ``(c, s, k)``.

    Returns
    -------
    pyarrow.Table
        What was done (null where nothing), and counts. ``trials``, ``correct``: all trials, and
        those whose answer names the signal's class. Where a response is aimed at (the target of an
        attack, the class of a profile): ``others``, trials of all other classes, and ``moved``,
        those of them that got it; ``own``, trials of its own class, and ``kept``, those of them
        that got it.
    """

    def line(condition: Condition, counts: NDArray[np.int64]) -> tuple[Any, ...]:
        aim = condition.target if condition.target is not None else condition.profile_class
        named = correct >= 0
        right = int(counts[named, correct[named]].sum())
        aimed: tuple[int | None, ...] = (None, None, None, None)
        if aim is not None:
            own = correct == aim
            aimed = (
                int(counts[~own].sum()),
                int(counts[~own, aim].sum()),
                int(counts[own].sum()),
                int(counts[own, aim].sum()),
            )
        attack = condition.attack
        return (
            condition.gamma,
            condition.transform,
            attack,
            None if condition.target is None else names[condition.target],
            None if attack is None else condition.weight,
            condition.layer,
            condition.profile,
            None if condition.profile_class is None else names[condition.profile_class],
            None if condition.layer is None else condition.strength,
            int(counts.sum()),
            right,
            *aimed,
        )

    return table_of(
        COLUMNS,
        (line(condition, counts) for condition, counts in zip(planned, answers, strict=True)),
    )


def result(
    spec: TrialSpec,
    stimulus: Stimulus,
    planned: Sequence[Condition],
    names: Sequence[str],
    classes: Sequence[str],
    correct: NDArray[np.int64],
    sums: PassSums,
) -> dict[str, bytes]:
    """Every object under ``result/`` but the counts.

    Parameters
    ----------
    stimulus
        The noise.
    planned
        The conditions.
    names, classes
        Of the responses, and of the signals' classes.
    correct
        ``(s,)``: the response that names each class; -1 where none does.
    """
    figures = resolve_name(FIGURES)

    names, classes = [plain(name) for name in names], [plain(name) for name in classes]
    answers = sums.sums["answers"]
    table = summary(planned, names, correct, answers)
    objects = {TRIALS: to_parquet(table)}
    drawn = figures.draw(spec, table, names, classes, answers, noise_text(stimulus))
    if spec.moments:
        detected = detect(sums.sums["noise"], answers, stimulus)
        detection = detection_table(spec.gammas, names, classes, correct, answers, detected)
        objects[DETECTION] = to_parquet(detection)
        for name, maps in (
            (IMAGES, [g.image for g in detected.optimal]),
            (Z_MAPS, [g.z for g in detected.optimal]),
        ):
            objects[name] = to_npy(np.stack([stimulus.expand(m) for m in maps]).astype(np.float32))
        drawn |= figures.draw_images(spec, stimulus, detected, detection, names, classes, answers)
    return objects | {f"{RESULT}/figures/{name}": data for name, data in drawn.items()}


class Trials(Finished):
    """A finished run of trials, read from storage alone; opened, and refused, as `Finished`
    says.
    """

    def __init__(self, place: Place | str) -> None:
        super().__init__(place)
        self._extent = self._expect(
            TrialExtent, "no run of trials; open it with wna_ray.open_run or open_stc"
        )
        self._identity = self._identified(TrialIdentity)

    @cached_property
    def spec(self) -> TrialSpec:
        """What was asked."""
        return TrialSpec.parse(self.described.spec, self._spec_url)

    @property
    def classes(self) -> list[str]:
        """Names of the signals' classes, in the order of the counts."""
        return [plain(name) for name in self._identity.classes]

    @cached_property
    def correct(self) -> NDArray[np.int64]:
        """``(s,)``: the response that names each class; -1 where none does."""
        return np.array(self._identity.correct, dtype=np.int64)

    @cached_property
    def conditions(self) -> list[Condition]:
        """What was done in each condition, in the order of the counts."""
        return conditions(self.spec, self.described.names)

    @cached_property
    def sums(self) -> PassSums:
        """The exact counts."""
        sums: PassSums = self.partial.moments
        return sums

    @property
    def answers(self) -> NDArray[np.int64]:
        """``(c, s, k)``: trials by condition, class of the signal, and response."""
        return self.sums.sums["answers"]

    @cached_property
    def table(self) -> pa.Table:
        """One row a condition (see `summary`), made again from the counts."""
        return summary(self.conditions, self.names, self.correct, self.answers)

    @property
    def pooled(self) -> pa.Table:
        """The same, pooled over targets and classes (see `pooled`)."""
        return pooled(self.table)

    @cached_property
    def stimulus(self) -> Stimulus:
        """The noise, without its offset, which no map of it needs."""
        spec = self.spec.noise_spec(SHAPES[self.spec.signals.dataset], 1)
        return make_stimulus(spec.stimulus, spec.seed, np.zeros((1, 1, 1), dtype=np.float32))

    @cached_property
    def detected(self) -> Detected:
        """Classification images; `RunError` where the spec did not say ``moments: true``."""
        if not self.spec.moments:
            raise RunError(
                f"'{self.directory.url}' has no classification images: its spec does not say"
                " moments: true"
            )
        return detect(self.sums.sums["noise"], self.answers, self.stimulus)

    @cached_property
    def detection(self) -> pa.Table:
        """Sensitivity and criterion, one row a signal weight and response (see
        `wna_ray.kinds.trials.detection.detection_table`).
        """
        return detection_table(
            self.spec.gammas, self.names, self.classes, self.correct, self.answers, self.detected
        )

    def classification_images(self, z: bool = False) -> NDArray[np.float64]:
        """``(g, k, C, H, W)``: optimally weighted classification images by signal weight and
        response, in pixel units, or their z.
        """
        return np.stack(
            [self.stimulus.expand(gamma.z if z else gamma.image) for gamma in self.detected.optimal]
        )

    def derive(self) -> dict[str, bytes]:
        """Every result object, made again from the counts."""
        objects = result(
            self.spec,
            self.stimulus,
            self.conditions,
            self.names,
            self.classes,
            self.correct,
            self.sums,
        )
        return {MOMENTS: self._bytes(MOMENTS)} | objects


def pooled(table: pa.Table) -> pa.Table:
    """Conditions pooled over targets, or over the classes of profiles.

    Returns
    -------
    pyarrow.Table
        ``correct``: share of right answers. ``moved``: of trials of other classes, the share that
        got the answer that is aimed at; ``kept``: of trials of its own class. Null where nothing is
        aimed at.
    """
    keys = ["gamma", "transform", "attack", "weight", "layer", "profile", "strength"]
    counts = ["trials", "correct", "others", "moved", "own", "kept"]
    summed = table.group_by(keys, use_threads=False).aggregate([(name, "sum") for name in counts])
    for of, among in (("correct", "trials"), ("moved", "others"), ("kept", "own")):
        whole = summed[f"{among}_sum"].to_pylist()
        shares = [
            n / all_ if all_ else None
            for n, all_ in zip(summed[f"{of}_sum"].to_pylist(), whole, strict=True)
        ]
        summed = summed.append_column(of, pa.array(shares, pa.float64()))
    return summed.select([*keys, "correct", "moved", "kept"])


def trials_among(members: Mapping[str, Finished]) -> dict[str, Trials]:
    """Those of some finished directories that are runs of trials."""
    return {name: run for name, run in members.items() if isinstance(run, Trials)}


def open_trials(url: Place | str) -> Trials:
    """Open a finished run of trials: ``.table`` (pyarrow Table), ``.answers`` (numpy:
    condition, class, response), ``.conditions``.
    """
    return Trials(url)
