"""Read-outs: from exact sums to maps and to how sure they are.

`read_out` takes sums of responses to stimuli, and one of the two nulls of
`wna_ray.statistics.nulls`; `read_out_gradient` takes sums of gradients, whose errors are measured.
The formulas are those of `wna_ray.statistics.maps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wna_ray.errors import RunError
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import FixedPoint, is_dense, is_rounded, is_triggered
from wna_ray.specs.response import ResponseKind
from wna_ray.statistics.maps import Floats, Readout, reliability, sidak_p
from wna_ray.statistics.nulls import Null

FEWEST_GRADIENTS = 2000
"""Images under which a row of ``estimator: gradient`` gets no p-value: values of a gradient are
skewed, and no known null helps. With a skewness of 1 the largest of 784 values is then called
significant in 5.6 % of null maps (second order of Edgeworth's series at z = 4).
"""
RESOLUTION = 4
"""Steps of the fixed point in one standard deviation under which a dense row is called too
coarse to judge.
"""


def read_out(
    moments: Moments, kind: ResponseKind, point: FixedPoint, null: Null, names: Sequence[str]
) -> Readout:
    """Maps and statistics of one kind of response.

    Parameters
    ----------
    moments
        Sums of a whole run.
    point
        Fixed point of the response.
    null
        What the stimuli are: `KnownNoise`, or `MeasuredPictures` (whose `moments` keep second
        moments).
    names
        One a row; their number is k.
    """
    sums, n = moments.responses[kind], moments.images * null.patches
    k, d = len(names), moments.sum_x.size
    if sums.rows.size and int(sums.rows[-1]) >= k:
        raise RunError(
            f"the moments of '{kind}' have a row {int(sums.rows[-1])}, but there are only {k}"
            " responses"
        )
    count = _all_rows(sums.count, sums.rows, k).astype(np.int64)
    if n == 0:
        return _without_images(kind, names, d, count)
    total = _all_rows(sums.sum_y, sums.rows, k)
    product = _all_rows(sums.sum_yx, sums.rows, k)
    product -= total[:, None] / n * moments.sum_x  # A, from exact sums
    variation = _all_rows(sums.variation(n), sums.rows, k)
    spread = null.spread(moments)
    variance, varied = float(spread.mean()) if d else 0.0, spread > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        z = product / np.sqrt(np.where(varied, spread, 1.0) * variation[:, None])
        z[:, ~varied] = 0.0
        z[variation == 0] = np.nan
        largest = _all_rows(sums.peak, sums.rows, k) + (
            np.abs(total) / n if is_dense(kind) else 0.0
        )  # >= |y - mean y|, or near it
        size = _map_scale(kind, point, total, n, variance, null.unit)
        bias, standard_error = product * size[:, None], np.sqrt(variance * variation) * size
        standard_error[variation == 0] = np.nan
        # The kurtosis of A is the noise's, divided by (sum c^2)^2 / sum c^4 with c = y - mean y,
        # which is at least this.
        effective = variation / largest**2
    significance = null.significance(z, effective, spread, moments)
    if kind == "spikes":
        count = total.astype(np.int64)
    note = _notes(kind, count, variation, significance.deserved, n)
    return Readout(
        kind,
        tuple(names),
        bias=bias,
        z=z,
        standard_error=standard_error,
        count=count,
        share=_share(kind, point, total, count, n),
        rho2=null.rho2(z, n),
        p_value=np.where([bool(text) for text in note], np.nan, significance.p_value),
        reliability=reliability(np.square(z).sum(axis=1), int(varied.sum())),
        note=note,
    )


def read_out_gradient(
    moments: Moments,
    kind: ResponseKind,
    point: FixedPoint,
    exponent: Sequence[int],
    sd: float,
    names: Sequence[str],
) -> Readout:
    """Maps and statistics of ``estimator: gradient``, whose sums ``y x`` and ``y x^2`` are those of
    the gradient and of its square.

    The map is the mean gradient. Neither null of `wna_ray.statistics.nulls` is used, for the
    distribution of a gradient is the network's, whether the stimuli are noise or pictures. The null
    is that the true mean of a value is 0: its error is measured, value by value, from how gradients
    differ between images, so the mean over its error is Student's t with ``N - 1`` degrees of
    freedom. Gradients are correlated over the image, so the p-value is Sidak's of the largest.
    ``|mean|^2 - sum error^2`` estimates the true map's energy without bias; reliability and rho^2
    follow from it as they do for noise.

    Parameters
    ----------
    exponent
        ``(k,)``: log2 of each row's step.
    sd
        Of the noise, in the stimulus's units; of pictures, NaN, which makes rho^2 NaN.
    names
        One a row; their number is k.
    """
    sums, n, k, d = moments.responses[kind], moments.images, len(names), moments.sum_x.size
    if n < 2 or not len(sums.rows):
        return _without_images(kind, names, d, np.full(k, n), "gradient")
    step = np.ldexp(1.0, np.asarray(exponent))[:, None]
    mean = sums.sum_yx / n
    spread = (sums.sum_yxx - n * np.square(mean)) / (n - 1) + 1 / 12  # and that of rounding
    bias, error = mean * step, np.sqrt(spread / n) * step
    z, energy = bias / error, np.square(bias).sum(axis=1)
    signal, variance = energy - np.square(error).sum(axis=1), sums.variation(n) / n * point.step**2
    varied = variance > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        rho2, reliable = (
            np.where(varied, sd**2 * signal / variance, np.nan),
            np.where(varied, np.maximum(0.0, signal / energy), np.nan),
        )
    bias[~varied], z[~varied] = 0.0, np.nan
    note = tuple(
        "constant" if not v else "too few images" if n < FEWEST_GRADIENTS else "" for v in varied
    )
    p_value = np.where(
        [bool(text) for text in note], np.nan, sidak_p(np.abs(z).max(axis=1), d, n - 1)
    )
    share = _mean_response(point, sums.sum_y, n) if kind == "probabilities" else np.full(k, np.nan)
    typical = np.where(varied, np.sqrt(np.square(error).mean(axis=1)), np.nan)
    return Readout(
        kind,
        tuple(names),
        bias=bias,
        z=z,
        standard_error=typical,
        count=sums.count.copy(),
        share=share,
        rho2=rho2,
        p_value=p_value,
        reliability=reliable,
        note=note,
        estimator="gradient",
    )


def _all_rows(values: NDArray[np.generic], rows: NDArray[np.int64], k: int) -> Floats:
    """Sums of the rows that have any, as float64 sums of all k rows; the others are 0."""
    out = np.full((k, *values.shape[1:]), 0.0)
    out[rows] = values
    return out


def _without_images(
    kind: ResponseKind,
    names: Sequence[str],
    d: int,
    count: NDArray[np.int64],
    estimator: Literal["noise", "gradient"] = "noise",
) -> Readout:
    """The read-out of sums over no images."""
    k = len(names)
    nothing, maps = np.full(k, np.nan), np.full((k, d), np.nan)
    return Readout(
        kind,
        tuple(names),
        bias=maps,
        z=maps,
        standard_error=nothing,
        count=count,
        share=nothing,
        rho2=nothing,
        p_value=nothing,
        reliability=nothing,
        note=("no images",) * k,
        estimator=estimator,
    )


def _map_scale(
    kind: ResponseKind, point: FixedPoint, total: Floats, n: int, variance: float, unit: float
) -> Floats:
    """``(k,)``: what A is multiplied by to be a map: a mean stimulus, or a slope."""
    if not is_triggered(kind):
        return point.step / (n * variance * unit)
    zero = np.asarray(
        point.centre if is_dense(kind) else 0
    )  # the fixed point's steps below its centre
    return np.asarray(unit / (total + n * zero))


def _notes(
    kind: ResponseKind,
    count: NDArray[np.int64],
    variation: Floats,
    deserved: NDArray[np.bool_],
    n: int,
) -> tuple[str, ...]:
    """Why a row has no map, or no p-value; "" where it has both."""
    none = "no spikes" if kind == "spikes" else "no images"
    coarse = is_rounded(kind) * n * RESOLUTION**2  # others are not rounded to their own size
    return tuple(
        str(note)
        for note in np.select(
            [count == 0, variation == 0, variation < coarse, ~deserved],
            [none, "constant", "below resolution", "too few images"],
            "",
        )
    )


def _share(
    kind: ResponseKind, point: FixedPoint, total: Floats, count: NDArray[np.int64], n: int
) -> Floats:
    """``(k,)``: see `Readout`."""
    if kind in ("logits", "activation", "rectified"):
        return np.full(len(count), np.nan)
    if kind == "probabilities":
        return _mean_response(point, total, n)
    return np.asarray(count / n)


def _mean_response(point: FixedPoint, total: Floats | NDArray[np.int64], n: int) -> Floats:
    """``(k,)``: the mean response, in its own units."""
    return np.asarray((total / n + np.asarray(point.centre)) * point.step)
