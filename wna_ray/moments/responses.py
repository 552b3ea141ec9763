"""Responses: from a network's float outputs to exact integers.

A response is rounded once, here; after that there are only integers. One-hot kinds (`Selected`)
give each image one row and a weight; dense kinds (`Dense`) give each image a number for every row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from wna_ray.specs.response import ResponseKind, ResponseSpec

if TYPE_CHECKING:
    import torch

LIMIT = 1 << 23
"""Largest magnitude of a fixed-point response: an image beyond it is counted as out of range
and left out.
"""

CONFIDENCE_EXPONENT = -16
PROBABILITY_EXPONENT = -22
GRADIENT_LIMIT = 1 << 18
"""Largest magnitude of a fixed-point gradient: its square times any number of images fits where
``y x^2`` does.
"""

# log2 of a gradient's root mean square in a pilot, in its steps: rounding adds 1e-6 of its variance
GRADIENT_BITS = 8
# in a pilot, a row's standard deviation is at least 2**12 of its steps: rounding adds < 1e-8 of its
# variance
LOGIT_BITS = 12
# but a quiet row's step is at most this much finer than the loudest row's, so that it has room to
# wake up
FINEST_BITS = 6


@dataclass(frozen=True)
class FixedPoint:
    """How one kind of response is rounded: row j is ``y = (centre[j] + integer) * 2 **
    exponent[j]``.

    Attributes
    ----------
    exponent
        ``(k,)`` integers.
    centre
        ``(k,)`` integers, in steps; subtracted before the sums so that they stay small.
    threshold
        ``(k,)``: above which an activation is a spike; empty for other kinds.
    uncentred
        Rows of centred logits that are not centred, since they never varied in the pilot: less the
        mean over the outputs they would show what the others answer to.
    """

    exponent: tuple[int, ...]
    centre: tuple[int, ...]
    threshold: tuple[float, ...] = ()
    uncentred: tuple[int, ...] = ()

    @classmethod
    def parse(cls, identity: Mapping[str, Any]) -> FixedPoint:
        """Back from `identity`."""
        return cls(*(tuple(identity.get(f.name, ())) for f in fields(cls)))

    def identity(self) -> dict[str, Any]:
        """Plain JSON values; what is empty is left out."""
        return {f.name: list(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name)}

    @property
    def step(self) -> NDArray[np.float64]:
        """``(k,)``: value of one unit of the integers."""
        return np.ldexp(1.0, np.asarray(self.exponent, dtype=np.int64))


@dataclass(frozen=True)
class Selected:
    """Each image feeds one row: ``rows (n,)`` int64 and ``weights (n,)`` int64 > 0."""

    rows: NDArray[np.int64]
    weights: NDArray[np.int64]

    def keep(self, mask: NDArray[np.bool_]) -> Selected:
        """The images where `mask` ``(n,)`` is true."""
        return Selected(self.rows[mask], self.weights[mask])

    def part(self, images: slice) -> Selected:
        """Some of the images."""
        return Selected(self.rows[images], self.weights[images])


@dataclass(frozen=True)
class Dense:
    """Each image feeds every row: ``values (n, k)`` int64."""

    values: NDArray[np.int64]

    def keep(self, mask: NDArray[np.bool_]) -> Dense:
        """The images where `mask` ``(n,)`` is true."""
        return Dense(self.values[mask])


Response = Selected | Dense


def is_dense(kind: str) -> bool:
    """Whether a kind gives every image a number for every row."""
    return kind not in ("label", "confidence")


def is_rounded(kind: ResponseKind) -> bool:
    """Whether a kind is a real number for every row, rounded to the row's own step."""
    return is_dense(kind) and kind != "spikes"


def is_triggered(kind: ResponseKind) -> bool:
    """Whether a kind is never negative, so that its map is the response-weighted mean of the
    stimuli that triggered it.
    """
    return kind in ("label", "confidence", "rectified", "spikes")


def constant_rows(spec: ResponseSpec, outputs: NDArray[np.float32]) -> tuple[int, ...]:
    """Rows of centred logits that never vary in the pilot ``(n, k)``, finite; empty for other
    responses.
    """
    if not is_centred(spec, outputs.shape[1]) or len(outputs) < 2:
        return ()
    return tuple(int(row) for row in np.flatnonzero((outputs == outputs[0]).all(axis=0)))


def is_centred(spec: ResponseSpec, k: int) -> bool:
    """Whether the mean over the outputs is taken off."""
    return spec.kind == "logits" and spec.centred and k > 1


def _real(
    spec: ResponseSpec, outputs: NDArray[np.float32], uncentred: Collection[int]
) -> NDArray[np.float64]:
    """Dense responses before rounding, ``(n, k)`` float64."""
    y = outputs.astype(np.float64)
    if spec.kind == "probabilities":
        return np.asarray(softmax(y, axis=1))
    if spec.kind == "rectified":
        return np.maximum(y, 0.0)
    if not is_centred(spec, y.shape[1]):
        return y
    centred: NDArray[np.float64] = y - y.mean(axis=1, keepdims=True)
    if uncentred:
        centred[:, list(uncentred)] = y[:, list(uncentred)]
    return centred


def differentiable(
    spec: ResponseSpec, outputs: torch.Tensor, uncentred: Collection[int] = ()
) -> torch.Tensor:
    """The same responses, before rounding, of outputs ``(n, k)`` that gradients flow through."""
    if spec.kind == "probabilities":
        return outputs.softmax(dim=1)
    if spec.kind == "rectified":
        return outputs.relu()
    if not is_centred(spec, outputs.shape[1]):
        return outputs
    mean = outputs.mean(dim=1, keepdim=True)
    if not uncentred:
        return outputs - mean
    kept = outputs.new_ones(outputs.shape[1])
    kept[list(uncentred)] = 0
    return outputs - mean * kept


def calibrate(spec: ResponseSpec, outputs: NDArray[np.float32]) -> FixedPoint:
    """Choose the fixed point of a response from a pilot.

    Parameters
    ----------
    outputs
        ``(n, k)`` float32 outputs of the run's first images; rows that are not finite are ignored.

    Returns
    -------
    FixedPoint
        For real kinds a centre at the pilot's mean. For logits and activations, as a row's step,
        the largest power of two with which its standard deviation is at least 4096 steps, but at
        most 64 times finer than the loudest row's. Fixed steps for others. For spikes the
        threshold, or the quantile of each row in the pilot.
    """
    k = outputs.shape[1]
    finite = outputs[np.isfinite(outputs).all(axis=1)]
    if spec.kind == "spikes":
        if spec.quantile is None or not len(finite):
            threshold = np.full(k, spec.threshold or 0.0)
        else:
            threshold = np.quantile(finite.astype(np.float64), spec.quantile, axis=0)
        return FixedPoint((0,) * k, (0,) * k, tuple(float(t) for t in threshold))
    if not is_dense(spec.kind):
        return FixedPoint((CONFIDENCE_EXPONENT if spec.kind == "confidence" else 0,) * k, (0,) * k)
    uncentred = constant_rows(spec, finite)
    y = _real(spec, finite, uncentred) if len(finite) else np.zeros((1, k))
    if spec.kind == "probabilities":
        exponent = np.full(k, PROBABILITY_EXPONENT)
    else:
        size = np.abs(y).max()
        sd = np.where(
            y.std(axis=0) > size * 2.0**-30, y.std(axis=0), 0.0
        )  # less is the rounding of a constant
        loudest = float(sd.max()) or float(size) or 1.0
        coarsest = int(np.floor(np.log2(loudest))) - LOGIT_BITS
        own = np.floor(np.log2(np.where(sd > 0, sd, loudest))).astype(np.int64) - LOGIT_BITS
        exponent = np.clip(own, coarsest - FINEST_BITS, coarsest)
    centre = np.rint(np.ldexp(y.mean(axis=0), -exponent))
    return FixedPoint(
        tuple(int(e) for e in exponent), tuple(int(c) for c in centre), uncentred=uncentred
    )


def respond(
    spec: ResponseSpec, point: FixedPoint, outputs: NDArray[np.float32]
) -> tuple[Response, NDArray[np.bool_]]:
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
        ``(n,)`` bool: false where a value leaves the fixed point's range (its entry is then
        meaningless).
    """
    n = len(outputs)
    everything = np.ones(n, dtype=bool)
    if not is_dense(spec.kind):
        rows = outputs.argmax(axis=1).astype(np.int64)
        if spec.kind == "label":
            return Selected(rows, np.ones(n, dtype=np.int64)), everything
        top = softmax(outputs.astype(np.float64), axis=1)[np.arange(n), rows]
        weights = np.rint(np.ldexp(top, -CONFIDENCE_EXPONENT)).astype(np.int64)
        return Selected(rows, np.maximum(weights, 1)), everything
    if spec.kind == "spikes":
        return Dense((outputs > np.asarray(point.threshold)).astype(np.int64)), everything
    real = _real(spec, outputs, point.uncentred)
    steps = np.rint(real / point.step) - np.asarray(point.centre, dtype=np.float64)
    within = (np.abs(steps) <= LIMIT).all(axis=1)
    return Dense(np.where(within[:, None], steps, 0).astype(np.int64)), within
