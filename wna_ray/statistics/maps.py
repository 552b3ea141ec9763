"""Maps, and the formulas that say how sure they are.

Symbols: N images counted in, d independent noise values an image, noise sd sigma (known exactly),
response y, and ``A = sum (y - mean y) x``, the summed product of response and noise. Given the
responses, the noise values of a stimulus are independent with known mean 0 and variance sigma^2,
whatever the network; so if the response ignores the stimulus, every element of

    z = A / (sigma * sqrt(sum (y - mean y)^2))

has mean 0 and variance exactly 1, and is normal in the limit. Everything else follows from z.

Of pictures no distribution is known; what holds of them instead is in `wna_ray.statistics.nulls`.
Sums become maps in `wna_ray.statistics.readouts`.

References
----------
Ahumada (1996), Perception 25 (ECVP): classification images. Murray (2011), J. Vision 11(5):2:
review, significance. Marmarelis & Marmarelis (1978), Analysis of Physiological Systems:
cross-correlation with white noise. Borji & Lin (2020), ICLR: bias maps of networks. James & Stein
(1961); Efron & Morris (1973), JASA 68:117: the shrinkage factor behind the reliability. Sidak
(1967), JASA 62:626: the corrected threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtr, ndtri, stdtr

from wna_ray.moments.moments import Moments
from wna_ray.specs.response import ResponseKind

Floats = NDArray[np.float64]

FEWEST = 30
"""Effective images under which a row gets no p-value."""
KURTOSIS_ERROR, TAIL_ERROR = 0.02, 0.1
"""Largest relative errors of Var(||z||^2), and of the chance to pass the threshold, from the
noise's kurtosis (see `fewest_images`).
"""


def explained_variance(z_squared: Floats, d: int, images: int) -> Floats:
    """rho^2: share of the response's variance that is linear in the noise, ``(||z||^2 - d) / N``.

    Unbiased when the response ignores the stimulus (``E ||z||^2 = d`` exactly). Otherwise its bias
    is at most of the order sqrt(d) / N, from a correlation of y^2 with ||x||^2 (none for a linear
    response to Gaussian noise). It can be negative; it is not clipped.
    """
    return (z_squared - d) / images


def normal_density(x: Floats | float) -> Floats:
    """Of the standard normal distribution."""
    return np.asarray(np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi))


def fewest_images(excess_kurtosis: float, d: int) -> float:
    """Effective images under which a row gets no p-value: 30, and more where the noise's kurtosis
    moves what its sums are compared with.

    The whole map: Var(||z||^2), by less than `KURTOSIS_ERROR`. The largest value, of noise with
    heavy tails (sparse): the chance to pass `z_threshold`, by less than `TAIL_ERROR` (first order
    of Edgeworth's series, ``k (x^3 - 3 x) / (24 n)`` times density over tail).
    """
    level = z_threshold(d)
    tail = (
        excess_kurtosis * (level**3 - 3 * level) / 24 * float(normal_density(level) / ndtr(-level))
    )
    return max(FEWEST, abs(excess_kurtosis) / (2 * KURTOSIS_ERROR), tail / TAIL_ERROR)


def chi_square_p(z_squared: Floats, d: int) -> Floats:
    """P(chi^2 with d degrees of freedom >= ||z||^2): one test for the whole map, so no
    correction over pixels is due.
    """
    return np.asarray(chdtrc(d, z_squared))


def reliability(z_squared: Floats, d: int) -> Floats:
    """Expected squared cosine between the measured and the true map, ``max(0, 1 - d / ||z||^2)``.

    A map of signal energy ``S = N rho^2`` (in units of z) carries noise energy d on average, so its
    squared cosine with the true map is about ``S / (S + d)``, and ``||z||^2 - d`` estimates S
    without bias. The same number is the factor by which Stein's estimator shrinks the map towards 0
    (James & Stein 1961, with d for d - 2; the positive part as in Efron & Morris 1973), and the
    reliability of classical test theory: true over total variance.
    """
    with np.errstate(divide="ignore"):
        return np.maximum(0.0, 1.0 - d / z_squared)


def images_for(squared_cosine: float, rho2: float, d: int) -> float:
    """Images for which a map of explained variance `rho2` reaches a reliability: ``N = (d / rho^2)
    c^2 / (1 - c^2)``.

    Infinite where `rho2` is not positive.
    """
    return d / rho2 * squared_cosine / (1 - squared_cosine) if rho2 > 0 else float("inf")


def z_threshold(tests: int, alpha: float = 0.05) -> float:
    """|z| that the largest of `tests` independent null values exceeds with probability `alpha`.

    Two-sided, after Sidak.
    """
    return -float(ndtri((1 - (1 - alpha) ** (1 / tests)) / 2))


def sidak_p(largest: Floats, tests: int, freedom: float = np.inf) -> Floats:
    """Chance that the largest |z| of so many null values is at least `largest`; at most that where
    they are dependent (Sidak 1967).

    Values are normal, or, with degrees of freedom, Student's t: divided by errors that were
    measured.
    """
    return np.asarray(-np.expm1(tests * np.log1p(-2 * stdtr(freedom, -largest))))


def entropy(share: Floats) -> float:
    """Entropy of a distribution, in bits: ``-sum p log2 p``."""
    seen = share[share > 0]
    return float(-(seen * np.log2(seen)).sum()) + 0.0


@dataclass(frozen=True)
class Readout:
    """All that is read out of one kind of response; k rows, maps on the noise grid (d values).

    Attributes
    ----------
    kind, names
        The response, and a name a row.
    bias
        ``(k, d)``. Label, confidence, rectified, spikes: response-weighted mean of the stimuli
        minus their grand mean (spike-triggered average), in the stimulus's units. Others: ``cov(y,
        x) / sigma^2``, response units per stimulus unit, which for a linear network are its
        weights.
    z
        ``(k, d)``, see the module's text. NaN where a row has no variance.
    standard_error
        ``(k,)``: of every value of the map, in its units, if the response ignores the stimulus
        (``bias / z``).
    count
        ``(k,)`` images (or patches) that fed the row; spikes for ``spikes``.
    share
        ``(k,)``: count / N for one-hot kinds and spikes, mean response for probabilities, NaN for
        others.
    rho2, p_value, reliability
        ``(k,)``, see the functions. NaN where not defined (such as `rho2` of pictures); `p_value`
        also where it is not deserved, and `note` says why. A p-value is about its own row; nothing
        is corrected for the number of rows.
    note
        ``(k,)``: "", or "no images", "no spikes", "constant" (the response never varied), "below
        resolution" (it varied by less than four steps of its fixed point), "too few images" (for
        the normal approximation).
    estimator
        What the maps come from: noise and responses, or gradients.
    split_half
        ``(k,)``, where halves were kept: reliability by `spearman_brown`; NaN where a half has no
        map.
    """

    kind: ResponseKind
    names: tuple[str, ...]
    bias: Floats
    z: Floats
    standard_error: Floats
    count: NDArray[np.int64]
    share: Floats
    rho2: Floats
    p_value: Floats
    reliability: Floats
    note: tuple[str, ...]
    estimator: Literal["noise", "gradient"] = "noise"
    split_half: Floats | None = None


def grid_variance(moments: Moments) -> Floats:
    """``(d,)``: measured variance of each grid value, ``E[x^2] - E[x]^2`` in grid units;
    exactly 0 where it never varied.
    """
    n = max(moments.images, 1)
    exact = [
        (n * int(xx) - int(x) ** 2) / n**2
        for x, xx in zip(moments.sum_x, moments.sum_xx, strict=True)
    ]
    return np.array(exact, dtype=np.float64)


def whiten(maps: Floats, covariance: Floats, ridge: Floats | float) -> Floats:
    """Regression of a response on correlated stimuli, from their covariance with it: ``(C +
    ridge)^-1 maps``.

    Averages of natural images triggered by a unit show what images look like as much as what the
    unit does; this takes the former out (Theunissen et al. 2001, Network 12:289).

    Parameters
    ----------
    maps
        ``(k, d)``: cov(y, x), or spike-triggered averages less the mean (the same, over the mean
        response).
    covariance
        ``(d, d)``, C of the stimuli.
    ridge
        One for all, or ``(k,)``; in units of the covariance. NaN gives NaN. Directions that never
        vary get 0.

    Returns
    -------
    numpy.ndarray
        ``(k, d)``.
    """
    values, vectors = np.linalg.eigh(covariance)
    known = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    total = (
        np.where(known, values, 1.0)
        + np.broadcast_to(np.asarray(ridge, dtype=np.float64), len(maps))[:, None]
    )
    return np.asarray((maps @ vectors * (known / total)) @ vectors.T)


def best_ridge(covariance: Floats, reliability: Floats) -> Floats:
    """``(k,)``: the ridge for `whiten` that errs least for a white true map: noise over signal
    (Hoerl & Kennard 1970).

    With w of variance t in each value, z has the signal ``N t / var(y) * sum_j (C^2)_jj / C_jj``
    and the noise of one a pixel, and the best ridge is ``var(y) / (N t)``. So it is ``(1 - R) / R``
    times the mean of ``(C^2)_jj / C_jj`` over pixels that vary; NaN where nothing is reliable.
    """
    varied = np.diag(covariance) > 0
    size = (np.square(covariance).sum(axis=0)[varied] / np.diag(covariance)[varied]).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(reliability > 0, (1 - reliability) / reliability * size, np.nan))


def cosine(a: Floats, b: Floats) -> Floats:
    """``(k,)``: cosine of the angle between the rows of two sets of maps ``(k, d)``; NaN where
    a row is zero, or has a NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            (a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
        )


def spearman_brown(
    moments: Moments, kind: ResponseKind, k: int, gradient: bool = False
) -> Floats | None:
    """Reliability from how well the maps of even and of odd batches agree, without any theory of
    the noise.

    With r the cosine of both maps, the whole run's reliability is ``2 r / (1 + r)`` (Spearman 1910,
    Br. J. Psychol. 3:271; Brown 1910, 3:296): for maps of signal S and noise d each, r is S / (S +
    d) on average, and the whole has 2 S. The same number as `reliability`, but noisy: the standard
    error of r is about ``sqrt((1 - r^2) / d)``.

    Parameters
    ----------
    k
        Rows.
    gradient
        Whether the sums are those of gradients.

    Returns
    -------
    numpy.ndarray
        ``(k,)``, at least 0; NaN where a half has no map. None where halves were not kept.
    """
    if moments.odd is None:
        return None
    whole, half, d = moments.responses[kind], moments.odd.responses[kind], moments.sum_x.size
    maps = np.full((2, k, d), np.nan)
    odd = np.zeros((len(whole.rows), d), dtype=np.int64)
    odd[np.searchsorted(whole.rows, half.rows)] = half.sum_yx
    total = np.zeros(len(whole.rows), dtype=np.int64)
    total[np.searchsorted(whole.rows, half.rows)] = half.sum_y
    for i, (slopes, y, x, n) in enumerate(
        (
            (odd, total, moments.odd.sum_x, moments.odd.images),
            (
                whole.sum_yx - odd,
                whole.sum_y - total,
                moments.sum_x - moments.odd.sum_x,
                moments.images - moments.odd.images,
            ),
        )
    ):
        if n:
            maps[i, whole.rows] = slopes if gradient else slopes - (y / n)[:, None] * x
    r = cosine(maps[0], maps[1])
    return np.asarray(
        np.where(np.isnan(r), np.nan, np.maximum(0.0, 2 * r / (1 + np.maximum(r, 0.0))))
    )


def variance_maps(moments: Moments, kind: ResponseKind, unit: float, k: int) -> Floats:
    """Per-pixel variance of the stimuli of each row of a one-hot response, in squared stimulus
    units.

    Returns
    -------
    numpy.ndarray
        ``(k, d)``: ``E[x^2 | row] - E[x | row]^2``, weighted as the response is; NaN where a row
        has no images.
    """
    sums, d = moments.responses[kind], moments.sum_x.size
    out = np.full((k, d), np.nan)
    weight = sums.sum_y[:, None].astype(np.float64)
    mean = sums.sum_yx / weight
    out[sums.rows] = (sums.sum_yxx / weight - mean**2) * unit**2
    return out
