"""Responses: from a network's float outputs to exact integers.

A response is rounded once, here; after that there are only integers. One-hot kinds (`Selected`) give each image one
row and a weight; dense kinds (`Dense`) give each image a number for every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from wna_ray.spec import ResponseKind, ResponseSpec

LIMIT = 1 << 23
"""Largest magnitude of a fixed-point response: an image beyond it is counted as out of range and left out."""

CONFIDENCE_EXPONENT = -16
PROBABILITY_EXPONENT = -22
LOGIT_BITS = 12  # a pilot's largest standard deviation is at least 2**12 steps: rounding adds < 1e-8 of its variance


@dataclass(frozen=True)
class FixedPoint:
    """How one kind of response is rounded: ``y = centre + step * integer``.

    Attributes
    ----------
    exponent
        ``step = 2 ** exponent``.
    centre
        ``(k,)`` integers, in steps; subtracted before the sums so that they stay small.
    """

    exponent: int
    centre: tuple[int, ...]

    @property
    def step(self) -> float:
        """Value of one unit of the integers."""
        return 2.0**self.exponent


@dataclass(frozen=True)
class Selected:
    """Each image feeds one row: ``rows (n,)`` int64 and ``weights (n,)`` int64 > 0."""

    rows: NDArray[np.int64]
    weights: NDArray[np.int64]

    def keep(self, mask: NDArray[np.bool_]) -> Selected:
        """The images where `mask` ``(n,)`` is true."""
        return Selected(self.rows[mask], self.weights[mask])


@dataclass(frozen=True)
class Dense:
    """Each image feeds every row: ``values (n, k)`` int64."""

    values: NDArray[np.int64]

    def keep(self, mask: NDArray[np.bool_]) -> Dense:
        """The images where `mask` ``(n,)`` is true."""
        return Dense(self.values[mask])


Response = Selected | Dense


def is_dense(kind: ResponseKind) -> bool:
    """Whether a kind gives every image a number for every row."""
    return kind in ("logits", "probabilities")


def _real(spec: ResponseSpec, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Dense responses before rounding, ``(n, k)`` float64."""
    y = outputs.astype(np.float64)
    if spec.kind == "probabilities":
        return np.asarray(softmax(y, axis=1))
    return y - y.mean(axis=1, keepdims=True) if spec.centred and y.shape[1] > 1 else y


def calibrate(spec: ResponseSpec, outputs: NDArray[np.float32]) -> FixedPoint:
    """Choose the fixed point of a response from a pilot.

    Parameters
    ----------
    outputs
        ``(n, k)`` float32 outputs of the run's first batch; rows that are not finite are ignored.

    Returns
    -------
    FixedPoint
        For logits: a centre at the pilot's mean, and the largest power of two as step with which the output that
        varies most has a standard deviation of at least 4096 steps. Fixed for the other kinds.
    """
    k = outputs.shape[1]
    if spec.kind == "confidence":
        return FixedPoint(CONFIDENCE_EXPONENT, (0,) * k)
    if spec.kind != "logits":
        return FixedPoint(PROBABILITY_EXPONENT if spec.kind == "probabilities" else 0, (0,) * k)
    finite = outputs[np.isfinite(outputs).all(axis=1)]
    y = _real(spec, finite) if len(finite) else np.zeros((1, k))
    largest = float(y.std(axis=0).max()) or float(np.abs(y).max()) or 1.0
    exponent = int(np.floor(np.log2(largest))) - LOGIT_BITS
    return FixedPoint(exponent, tuple(int(c) for c in np.rint(np.ldexp(y.mean(axis=0), -exponent))))


def respond(spec: ResponseSpec, point: FixedPoint, outputs: NDArray[np.float32]) -> tuple[Response, NDArray[np.bool_]]:
    """Integer responses of finite outputs.

    Parameters
    ----------
    outputs
        ``(n, k)`` float32, finite.

    Returns
    -------
    response
        `Selected` or `Dense`, one entry an image. Ties of the largest logit go to the lowest index.
    within
        ``(n,)`` bool: false where a value leaves the fixed point's range (its entry is then meaningless).
    """
    n = len(outputs)
    everything = np.ones(n, dtype=bool)
    if not is_dense(spec.kind):
        rows = outputs.argmax(axis=1).astype(np.int64)
        if spec.kind == "label":
            return Selected(rows, np.ones(n, dtype=np.int64)), everything
        top = softmax(outputs.astype(np.float64), axis=1)[np.arange(n), rows]
        weights = np.rint(np.ldexp(top, -point.exponent)).astype(np.int64)
        return Selected(rows, np.maximum(weights, 1)), everything
    steps = np.rint(np.ldexp(_real(spec, outputs), -point.exponent)) - np.asarray(point.centre, dtype=np.float64)
    within = (np.abs(steps) <= LIMIT).all(axis=1)
    return Dense(np.where(within[:, None], steps, 0).astype(np.int64)), within
