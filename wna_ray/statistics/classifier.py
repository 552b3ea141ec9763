"""Bias maps as classifiers: how well does the nearest map name an image? (Borji & Lin 2020,
section on bias maps.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from wna_ray.data.datasets import Split
from wna_ray.statistics.detection import wilson

Score = Literal["dot", "correlation", "cosine"]
SCORES: tuple[Score, ...] = ("dot", "correlation", "cosine")
SHUFFLES = 20  # of the control
BLOCK = 1 << 23  # values of images that are compared in one go
SINGLE = 1 << 26  # values of templates beyond which they are compared in float32
WORK = 1 << 40  # multiplications that the control may take, beyond two shuffles

Template = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scored:
    """How a set of templates classifies a split.

    Attributes
    ----------
    accuracy
        Share of images whose class has the largest score.
    confusion
        ``(k, k)`` int64, true class by predicted class.
    ranks
        ``(n,)``: place of each image's class among the k scores, 1 for the largest; the middle of
        their places where scores are equal.
    """

    accuracy: float
    confusion: NDArray[np.int64]
    ranks: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (see `wna_ray.statistics.detection.wilson`)."""
        low, high = wilson(np.trace(self.confusion), self.confusion.sum())
        return float(low), float(high)

    @property
    def recall(self) -> NDArray[np.float64]:
        """``(k,)``: share of each true class that is named right; NaN where it has no images."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.diagonal(self.confusion) / self.confusion.sum(axis=1))

    def p_value(self, share: float) -> float:
        """P(at least so many images are named right) where each is with probability `share`:
        the binomial tail.
        """
        return float(bdtrc(np.trace(self.confusion) - 1, int(self.confusion.sum()), share))

    def top(self, places: int) -> float:
        """Share of images whose class is among the first so many places; where scores are
        equal, by the middle of their places.
        """
        return float((self.ranks <= places).mean())


def chance_rank(k: int, images: int) -> tuple[float, float]:
    """Mean rank of the true class, and its standard error, where every place is as likely: ``(k
    + 1) / 2``, ``sqrt((k^2 - 1) / 12 n)``.
    """
    return (k + 1) / 2, float(np.sqrt((k * k - 1) / (12 * images)))


def classify(templates: Template, split: Split, score: Score) -> Scored:
    """Score images against one template a class.

    Parameters
    ----------
    templates
        ``(k, C, H, W)``; a template with NaN is never chosen.
    split
        Images and labels in 0 ... k - 1.
    score
        ``dot``: inner product of image and template. ``correlation``: of both after each has had
        its mean over pixels subtracted and its length set to 1. ``cosine``: of both after their
        lengths are set to 1, each template scaled to [0, 1] by its own smallest and largest value
        before (the authors' score; those two values decide it as much as all others).
    """
    k, n = len(templates), len(split.labels)
    t, missing = _compared(templates, score)
    predicted, ranks = np.empty(n, dtype=np.int64), np.empty(n)
    for part, scores in _scores(t, missing, split.images):
        own = np.take_along_axis(scores, split.labels[part, None], axis=1)
        predicted[part] = scores.argmax(axis=1)
        ranks[part] = (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) + 1) / 2
    confusion = np.zeros((k, k), dtype=np.int64)
    np.add.at(confusion, (split.labels, predicted), 1)
    return Scored(float(np.trace(confusion)) / n, confusion, ranks)


def _compared(templates: Template, score: Score) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What images are multiplied by, ``(k, d)``, and which rows are no templates (they become
    zero).

    Mean and length of an image change all its scores alike, so images stay as they are.
    """
    t: NDArray[Any] = templates.reshape(len(templates), -1).astype(
        np.float64 if templates.size <= SINGLE else np.float32
    )
    missing = np.asarray(np.isnan(t).any(axis=1))
    t[missing] = 0
    if score == "correlation":
        t -= t.mean(axis=1, keepdims=True)
    if score == "cosine":
        low, high = t.min(axis=1, keepdims=True), t.max(axis=1, keepdims=True)
        t -= low
        t /= np.maximum(high - low, np.finfo(t.dtype).tiny)
    if score != "dot":
        t /= np.maximum(np.linalg.norm(t, axis=1, keepdims=True), np.finfo(t.dtype).tiny)
    return t, missing


def _scores(
    t: NDArray[Any], missing: NDArray[np.bool_], images: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Scores ``(m, k)`` of images, block by block; minus infinity for what is no template."""
    rows = max(1, BLOCK // max(t.shape))
    for a in range(0, len(images), rows):
        scores = images[a : a + rows].reshape(-1, t.shape[1]).astype(t.dtype) @ t.T
        scores[:, missing] = -np.inf
        yield slice(a, a + rows), scores


def shuffled(templates: Template, split: Split, score: Score, seed: int = 0) -> tuple[float, float]:
    """The control: accuracy of templates whose values are in random order, each in its own; mean
    and standard deviation of `SHUFFLES` (of fewer, where that is more than a minute's work).

    What is above it comes from where a map is bright, not from which values it has.
    """
    k, random = len(templates), np.random.default_rng(seed)
    t, missing = _compared(
        templates, score
    )  # the order of a template's values changes neither its mean nor its length
    shuffles = max(2, min(SHUFFLES, WORK // (t.size * len(split.labels))))
    at_once = max(1, min(shuffles, 2 * BLOCK // t.size))
    hits = np.zeros(-(-shuffles // at_once) * at_once, dtype=np.int64)
    for a in range(0, len(hits), at_once):
        order = random.permuted(np.tile(t, (at_once, 1)), axis=1)
        for part, scores in _scores(order, np.tile(missing, at_once), split.images):
            named = scores.reshape(-1, at_once, k).argmax(axis=2)
            hits[a : a + at_once] += (named == split.labels[part, None]).sum(axis=0)
    share = hits / len(split.labels)
    return float(share.mean()), float(share.std(ddof=1))


def mean_images(split: Split, k: int) -> NDArray[np.float64]:
    """``(k, C, H, W)``: mean image of each class; NaN where it has no images."""
    means = np.full((k, *split.images.shape[1:]), np.nan)
    for label in np.unique(split.labels):
        means[label] = split.images[split.labels == label].mean(axis=0, dtype=np.float64)
    return means


def on_cells(split: Split, cell: int) -> Split | None:
    """The mean of each image over the square cells of low-resolution noise; None where such cells
    do not tile the image.

    A map of cells scores an image through these means alone, so with one value a cell all scores
    keep their order.
    """
    n, c, height, width = split.images.shape
    if height % cell or width % cell:
        return None
    return Split(
        split.images.reshape(n, c, height // cell, cell, width // cell, cell).mean(axis=(3, 5)),
        split.labels,
    )
