"""Bias maps as classifiers: how well does the nearest map name an image? (Borji & Lin 2020, section on bias maps.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wna_ray.datasets import Split

Score = Literal["dot", "correlation"]
SCORES: tuple[Score, ...] = ("dot", "correlation")


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
        subtracted and its length set to 1.
    """
    k = len(templates)
    t = templates.reshape(k, -1).astype(np.float64)
    x = split.images.reshape(len(split.images), -1).astype(np.float64)
    if score == "correlation":
        t, x = (_unit(v - v.mean(axis=1, keepdims=True)) for v in (t, x))
    missing = np.asarray(np.isnan(t).any(axis=1))
    scores = x @ np.where(missing[:, None], 0.0, t).T
    scores[:, missing] = -np.inf
    predicted = scores.argmax(axis=1)
    confusion = np.zeros((k, k), dtype=np.int64)
    np.add.at(confusion, (split.labels, predicted), 1)
    return Scored(float(np.trace(confusion)) / len(x), confusion)


def mean_images(split: Split, k: int) -> NDArray[np.float64]:
    """``(k, C, H, W)``: mean image of each class."""
    return np.stack([split.images[split.labels == label].mean(axis=0, dtype=np.float64) for label in range(k)])


def _unit(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300))
