"""Bias maps as classifiers: how well does the nearest map name an image? (Borji & Lin 2020, section on bias maps.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wna_ray.datasets import Split
from wna_ray.detection import wilson

Score = Literal["dot", "correlation", "cosine"]
SCORES: tuple[Score, ...] = ("dot", "correlation", "cosine")
SHUFFLES = 20  # of the control


@dataclass(frozen=True)
class Scored:
    """How a set of templates classifies a split.

    Attributes
    ----------
    accuracy
        Share of images whose class has the largest score.
    confusion
        ``(k, k)`` int64, true class by predicted class.
    """

    accuracy: float
    confusion: NDArray[np.int64]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (see `wna_ray.detection.wilson`)."""
        low, high = wilson(np.trace(self.confusion), self.confusion.sum())
        return float(low), float(high)

    @property
    def recall(self) -> NDArray[np.float64]:
        """``(k,)``: share of each true class that is named right; NaN where it has no images."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.diagonal(self.confusion) / self.confusion.sum(axis=1))


def classify(templates: NDArray[np.floating], split: Split, score: Score) -> Scored:
    """Score images against one template a class.

    Parameters
    ----------
    templates
        ``(k, C, H, W)``; a template with NaN is never chosen.
    split
        Images and labels in 0 ... k - 1.
    score
        ``dot``: inner product of image and template. ``correlation``: of both after each has had its mean over pixels
        subtracted and its length set to 1. ``cosine``: of both after their lengths are set to 1, each template scaled to [0, 1] by its own
        smallest and largest value before (the authors' score; those two values decide it as much as all others).
    """
    k = len(templates)
    t, x = _compared(templates.reshape(k, -1), split, score)
    missing = np.asarray(np.isnan(t).any(axis=1))
    scores = x @ np.where(missing[:, None], 0.0, t).T
    scores[:, missing] = -np.inf
    predicted = scores.argmax(axis=1)
    confusion = np.zeros((k, k), dtype=np.int64)
    np.add.at(confusion, (split.labels, predicted), 1)
    return Scored(float(np.trace(confusion)) / len(x), confusion)


def _compared(templates: NDArray[np.floating], split: Split, score: Score) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Templates ``(k, d)`` and images ``(n, d)`` whose inner products are the scores."""
    t, x = templates.astype(np.float64), split.images.reshape(len(split.images), -1).astype(np.float64)
    if score == "correlation":
        t, x = (_unit(v - v.mean(axis=1, keepdims=True)) for v in (t, x))
    if score == "cosine":
        low, high = t.min(axis=1, keepdims=True), t.max(axis=1, keepdims=True)
        t, x = _unit((t - low) / np.maximum(high - low, 1e-300)), _unit(x)
    return t, x


def shuffled(templates: NDArray[np.floating], split: Split, score: Score, seed: int = 0) -> tuple[float, float]:
    """The control: accuracy of templates whose values are in random order, each in its own; mean and standard deviation of `SHUFFLES`.

    What is above it comes from where a map is bright, not from which values it has.
    """
    k = len(templates)
    t, x = _compared(templates.reshape(k, -1), split, score)  # the order of a template's values changes neither its mean nor its length
    t = np.random.default_rng(seed).permuted(np.tile(t, (SHUFFLES, 1)), axis=1)
    missing = np.asarray(np.isnan(t).any(axis=1))
    scores = np.where(missing, -np.inf, x @ np.where(missing[:, None], 0.0, t).T).reshape(len(x), SHUFFLES, k)
    found = (scores.argmax(axis=2) == split.labels[:, None]).mean(axis=0)
    return float(found.mean()), float(found.std(ddof=1))


def mean_images(split: Split, k: int) -> NDArray[np.float64]:
    """``(k, C, H, W)``: mean image of each class."""
    return np.stack([split.images[split.labels == label].mean(axis=0, dtype=np.float64) for label in range(k)])


def _unit(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300))
