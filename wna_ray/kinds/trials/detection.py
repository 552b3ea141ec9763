"""Signal detection theory of trials: sensitivity by signal weight, and classification images of
every response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wna_ray.statistics.detection import (
    ClassificationImages,
    Weighting,
    by_class,
    classification_images,
)
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.storage.tables import table_of

COLUMNS = {
    "gamma": pa.float64(),
    "response": pa.string(),
    "signal": pa.string(),
    "signals": pa.int64(),
    "hits": pa.int64(),
    "others": pa.int64(),
    "false_alarms": pa.int64(),
    "d_prime": pa.float64(),
    "d_prime_error": pa.float64(),
    "criterion": pa.float64(),
    "criterion_error": pa.float64(),
    "reliability": pa.float64(),
    "standard_reliability": pa.float64(),
    "steadiness": pa.float64(),
    "note": pa.string(),
}


@dataclass(frozen=True)
class Detected:
    """What the noise of trials tells: one entry a signal weight.

    Attributes
    ----------
    standard, optimal
        Classification images by both weightings of the classes of signals.
    cells
        ``(g, s, k, d)``: mean noise by signal weight, class and response, in the unit of the noise;
        NaN where there are no trials.
    """

    standard: tuple[ClassificationImages, ...]
    optimal: tuple[ClassificationImages, ...]
    cells: NDArray[np.float64]


def detect(noise: NDArray[np.int64], answers: NDArray[np.int64], stimulus: Stimulus) -> Detected:
    """Classification images of trials.

    Parameters
    ----------
    noise, answers
        ``(g, s, k, d)`` and ``(g, s, k)``: sums and counts of trials with moments.
    stimulus
        The noise.
    """
    table = stimulus.noise.table

    def images(weighting: Weighting) -> tuple[ClassificationImages, ...]:
        sd = float(table.variance) ** 0.5
        return tuple(
            classification_images(x, n, sd, stimulus.unit, weighting, table.excess_kurtosis)
            for x, n in zip(noise, answers, strict=True)
        )

    with np.errstate(invalid="ignore", divide="ignore"):
        cells = noise / answers[..., None] * stimulus.unit
    return Detected(images("standard"), images("optimal"), cells)


def detection_table(
    gammas: Sequence[float],
    names: Sequence[str],
    classes: Sequence[str],
    correct: NDArray[np.int64],
    answers: NDArray[np.int64],
    detected: Detected,
) -> pa.Table:
    """One row a signal weight and response.

    Returns
    -------
    pyarrow.Table
        ``signal``: the class that the response names; without one there is no hit, and all of
        detection theory is null. ``hits`` of ``signals`` trials of that class, ``false_alarms`` of
        ``others``. ``d_prime``, ``criterion`` with standard errors. Of the classification image:
        ``reliability`` by optimal weighting, and by the standard one; ``steadiness``, its
        correlation with the image of the largest signal weight that has one; and ``note``.
    """
    sensed = by_class(answers, correct)
    trials = answers.sum(axis=2)
    reference = [
        _last(
            [
                images.image[k]
                for images, _ in sorted(
                    zip(detected.optimal, gammas, strict=True), key=lambda x: x[1]
                )
            ]
        )
        for k in range(len(names))
    ]

    def line(g: int, k: int) -> tuple[Any, ...]:
        named = np.flatnonzero(correct == k)
        optimal, standard = detected.optimal[g], detected.standard[g]
        images = (
            optimal.reliability[k],
            standard.reliability[k],
            _correlation(optimal.image[k], reference[k]),
            optimal.note[k],
        )
        if not len(named):
            return gammas[g], names[k], *(None,) * 9, *images
        s = int(named[0])
        hits, signals = int(answers[g, s, k]), int(trials[g, s])
        counts = (signals, hits, int(trials[g].sum()) - signals, int(answers[g, :, k].sum()) - hits)
        values = (sensed.d_prime, sensed.d_prime_error, sensed.criterion, sensed.criterion_error)
        return gammas[g], names[k], classes[s], *counts, *(float(v[g, s]) for v in values), *images

    return table_of(COLUMNS, (line(g, k) for g in range(len(gammas)) for k in range(len(names))))


def _last(images: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return next((image for image in reversed(images) if np.isfinite(image).all()), images[-1])


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else float("nan")
