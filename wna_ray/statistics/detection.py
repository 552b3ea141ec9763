"""Signal detection theory: how well an observer tells signals in noise apart, and which noise makes
it say so.

Rates and sensitivities come from counts alone. Classification images come from sums of the noise by
the class of the signal and the response. The noise is independent of the signal and of known
variance, so if a response ignores the noise, every value of an image of differences of means has a
known standard error, and its z is standard normal in the limit of many trials.

References
----------
Ahumada (2002), J. Vision 2(1):8; Murray (2011), J. Vision 11(5):2: classification images from
two-by-two designs. Gourevitch & Galanter (1967), Psychometrika 32:25: the standard error of d'.
Green & Swets (1966), Signal Detection Theory and Psychophysics: d', criterion. Hautus (1995),
Behav. Res. Methods 27:46: the log-linear correction. Murray, Bennett & Sekuler (2002), J. Vision
2(1):6: the optimal weighting of trials. Wilson (1927), JASA 22:209: intervals of shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from wna_ray.statistics.maps import fewest_images, normal_density, reliability

Floats = NDArray[np.float64]
Weighting = Literal["standard", "optimal"]


@dataclass(frozen=True)
class Sensitivity:
    """What an observer of two alternatives is worth; arrays of one shape, any.

    Attributes
    ----------
    hit_rate, false_alarm_rate
        Log-linear: ``(count + 1/2) / (trials + 1)``, so never 0 or 1 (Hautus 1995).
    d_prime, d_prime_error
        ``z(H) - z(F)`` and its standard error (Gourevitch & Galanter 1967).
    criterion, criterion_error
        ``-(z(H) + z(F)) / 2``: positive where the answer is withheld; and its standard error.
    """

    hit_rate: Floats
    false_alarm_rate: Floats
    d_prime: Floats
    d_prime_error: Floats
    criterion: Floats
    criterion_error: Floats


def sensitivity(
    hits: ArrayLike, signals: ArrayLike, false_alarms: ArrayLike, others: ArrayLike
) -> Sensitivity:
    """Sensitivity and criterion of one answer.

    ``Var d' = H (1 - H) / (N_signal phi(z_H)^2) + F (1 - F) / (N_other phi(z_F)^2)`` with phi the
    normal density.

    Parameters
    ----------
    hits, signals
        Trials with the signal that got the answer, and all trials with it.
    false_alarms, others
        Trials without the signal that got the answer, and all trials without it.

    Returns
    -------
    Sensitivity
        NaN where there are no trials of either sort.

    Raises
    ------
    ValueError
        More answers than trials, or fewer than none.
    """
    h, n, f, m = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (hits, signals, false_alarms, others))
    )
    if ((h < 0) | (h > n) | (f < 0) | (f > m)).any():
        raise ValueError("hits and false_alarms: expected counts between 0 and their trials")
    nothing = (n == 0) | (m == 0)
    rates = [
        np.where(nothing, np.nan, (count + 0.5) / (trials + 1))
        for count, trials in ((h, n), (f, m))
    ]
    z = [ndtri(rate) for rate in rates]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(
            sum(
                p * (1 - p) / (t * normal_density(q) ** 2)
                for p, t, q in zip(rates, (n, m), z, strict=True)
            )
        )
    return Sensitivity(rates[0], rates[1], z[0] - z[1], error, -(z[0] + z[1]) / 2, error / 2)


def by_class(confusion: NDArray[np.int64], correct: NDArray[np.int64]) -> Sensitivity:
    """Sensitivity of every class against all others, from one table of many alternatives.

    Parameters
    ----------
    confusion
        ``(..., s, k)``: trials by class of the signal and by response.
    correct
        ``(s,)``: the response that names each class; -1 where none does.

    Returns
    -------
    Sensitivity
        Arrays ``(..., s)``. A hit is a class given its own response, a false alarm any other class
        given that. NaN where a class has no response of its own.
    """
    named = correct >= 0
    own = np.where(named, correct, 0)
    columns = np.moveaxis(confusion[..., own], -1, -2)  # (..., s, signal)
    hits = np.diagonal(columns, axis1=-2, axis2=-1)
    trials = confusion.sum(axis=-1)
    alarms = columns.sum(axis=-1) - hits
    others = trials.sum(axis=-1, keepdims=True) - trials
    return sensitivity(
        np.where(named, hits, 0), np.where(named, trials, 0), np.where(named, alarms, 0), others
    )


def wilson(
    successes: ArrayLike, trials: ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of a share that is right in about `confidence` of all experiments (Wilson 1927);
    NaN where there are no trials.
    """
    k, n = np.broadcast_arrays(
        np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    )
    z = -float(ndtri((1 - confidence) / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = k / n
        middle, half = (
            (p + z**2 / (2 * n)) / (1 + z**2 / n),
            z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)),
        )
    return np.asarray(np.clip(middle - half, 0, 1)), np.asarray(np.clip(middle + half, 0, 1))


def crossing(
    levels: ArrayLike, successes: ArrayLike, trials: ArrayLike, share: float = 0.5
) -> tuple[float, float]:
    """Level at which a psychometric curve first rises through a share, and its standard error.

    Straight lines between levels; the error is that of the two shares beside the crossing, through
    the line (delta method).

    Parameters
    ----------
    levels
        ``(g,)``, rising.
    successes, trials
        ``(g,)``: counts at each level.

    Returns
    -------
    tuple of float
        NaN, NaN where the curve never rises through it; the first level, NaN where it begins above.
    """
    x, n = np.asarray(levels, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if (np.diff(x) <= 0).any():
        raise ValueError(f"levels: expected a rising sequence, got {x.tolist()}")
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.asarray(successes, dtype=np.float64) / n
    if p[0] >= share:
        return float(x[0]), float("nan")
    above = np.flatnonzero(p >= share)
    if not len(above):
        return float("nan"), float("nan")
    j = int(above[0])
    i = j - 1
    rise, run = p[j] - p[i], x[j] - x[i]
    t = (share - p[i]) / rise
    variance = p * (1 - p) / n
    return float(x[i] + t * run), float(
        run / rise * np.sqrt((1 - t) ** 2 * variance[i] + t**2 * variance[j])
    )


def area(levels: ArrayLike, shares: ArrayLike) -> float:
    """Mean height of a psychometric curve: its area by trapezia, over the range of its levels."""
    x = np.asarray(levels, dtype=np.float64)
    return float(np.trapezoid(np.asarray(shares, dtype=np.float64), x) / (x[-1] - x[0]))


@dataclass(frozen=True)
class ClassificationImages:
    """Which noise makes an observer give each response; k rows, maps on the noise grid (d values).

    Attributes
    ----------
    image
        ``(k, d)``, in the unit of the noise; NaN where no class of signals got both the response
        and another.
    z
        ``(k, d)``: standard normal where the response ignores the noise.
    reliability
        ``(k,)``: expected squared cosine with the image of infinitely many trials.
    note
        ``(k,)``: "", "no trials", or "too few trials" (the normal approximation is not good
        enough).
    """

    image: Floats
    z: Floats
    reliability: Floats
    note: tuple[str, ...]


def classification_images(
    noise: NDArray[np.int64],
    counts: NDArray[np.int64],
    sd: float,
    unit: float,
    weighting: Weighting,
    excess_kurtosis: float = 0.0,
) -> ClassificationImages:
    """Classification images of all responses, from sums by the class of the signal and the
    response.

    For each response k and class s, ``D_s = mean noise of the trials answered k - mean noise of the
    others``. ``standard`` adds them: of two classes and responses, ``(n12 + n22) - (n11 + n21)``
    with n the mean noise by stimulus and response. ``optimal`` is their mean, weighted by ``N_s
    phi(z_s)``, z_s the normal quantile of the share of k among the N_s trials: for a linear
    observer the signal of D_s over its variance, so no other weighting has less error (Murray,
    Bennett & Sekuler 2002). Classes that got k always, or never, tell nothing and are left out.

    Parameters
    ----------
    noise
        ``(s, k, d)``: sums of the noise, in grid units.
    counts
        ``(s, k)``: trials.
    sd, unit
        Of a value of the noise: its exact standard deviation in grid units, and the size of a grid
        unit.
    weighting
        See above.
    excess_kurtosis
        Of the noise; decides how many trials are enough (see
        `wna_ray.statistics.maps.fewest_images`).
    """
    k, d = counts.shape[1], noise.shape[2]
    n = counts.sum(axis=1, keepdims=True)
    rest = n - counts
    total = noise.sum(axis=1)
    image, z = np.full((k, d), np.nan), np.full((k, d), np.nan)
    effective = np.zeros(k)
    few = fewest_images(excess_kurtosis, d)
    for row in range(k):
        s = np.flatnonzero((counts[:, row] > 0) & (rest[:, row] > 0))
        if not len(s):
            continue
        yes, no = counts[s, row].astype(np.float64), rest[s, row].astype(np.float64)
        weight = np.ones(len(s))
        if weighting == "optimal":
            weight = (yes + no) * normal_density(ndtri((yes + 0.5) / (yes + no + 1)))
            weight /= weight.sum()
        difference = noise[s, row] / yes[:, None] - (total[s] - noise[s, row]) / no[:, None]
        variance = float((weight**2 * (1 / yes + 1 / no)).sum()) * sd**2
        image[row] = weight @ difference * unit
        z[row] = weight @ difference / np.sqrt(variance)
        # Each trial adds its noise times a coefficient; the sum's kurtosis is the noise's over (sum
        # c^2)^2 / sum c^4.
        effective[row] = (weight**2 * (1 / yes + 1 / no)).sum() ** 2 / (
            weight**4 * (1 / yes**3 + 1 / no**3)
        ).sum()
    note = tuple("no trials" if e == 0 else "too few trials" if e < few else "" for e in effective)
    return ClassificationImages(image, z, reliability(np.square(z).sum(axis=1), d), note)
