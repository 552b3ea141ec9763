"""How well a score tells two groups apart: the curve of hits against false alarms, the area under
it, and rates at one threshold.

References
----------
Hanley & McNeil (1982), Radiology 143:29: the area under the curve, and its standard error.
Wilson (1927), JASA 22:209: intervals of shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wna_ray.statistics.detection import wilson

Floats = NDArray[np.float64]


def auc(negative: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a positive's score is above a negative's, ties counted half: the area under the
    ROC curve (Mann & Whitney's U).

    Raises
    ------
    ValueError
        One group is empty, or a score is NaN.
    """
    n, p = _groups(negative, positive)
    from scipy.stats import rankdata  # takes a second to import, and nothing else here needs it

    ranks = rankdata(np.concatenate([n, p]))[len(n) :]
    return float((ranks.sum() - len(p) * (len(p) + 1) / 2) / (len(n) * len(p)))


def auc_error(area: float, negatives: int, positives: int) -> float:
    """Standard error of an area (Hanley & McNeil 1982, eq. 2, with their Q1 and Q2 of exponential
    scores).

    It is 0 for an area of 0 or 1, where no error can be told from so many scores; the rates'
    intervals then say more.
    """
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    )
    return float(np.sqrt(max(variance, 0.0) / (negatives * positives)))


def roc(negative: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates at every threshold, strictest first; both from 0 to 1.

    A score is called positive where it is at or above the threshold, so equal scores are one step.
    """
    n, p = _groups(negative, positive)
    levels = np.unique(np.concatenate([n, p]))[::-1]
    false, true = ((group[:, None] >= levels).mean(axis=0) for group in (n, p))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def _groups(negative: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats]:
    n, p = np.asarray(negative, dtype=np.float64), np.asarray(positive, dtype=np.float64)
    if not len(n) or not len(p):
        raise ValueError(
            f"scores of both groups are needed, got {len(n)} negative and {len(p)} positive ones"
        )
    if np.isnan(n).any() or np.isnan(p).any():
        raise ValueError("scores: some are NaN; leave those networks out, and say so")
    return n, p


@dataclass(frozen=True)
class Rate:
    """A share ``hits / trials`` with the ends of its 95 % interval (Wilson 1927); NaN where
    there are no trials.
    """

    hits: int
    trials: int
    low: float
    high: float

    @classmethod
    def of(cls, happened: ArrayLike) -> Rate:
        """Of yes and no."""
        hits = np.asarray(happened, dtype=bool)
        low, high = wilson(hits.sum(), hits.size)
        return cls(int(hits.sum()), int(hits.size), float(low), float(high))

    @property
    def share(self) -> float:
        """hits / trials."""
        return self.hits / self.trials if self.trials else float("nan")

    def __str__(self) -> str:
        return (
            f"{self.hits} of {self.trials} ({self.share:.2f}, 95 % interval {self.low:.2f} to"
            f" {self.high:.2f})"
        )


@dataclass(frozen=True)
class Judgement:
    """What a detector is worth, on networks whose truth is known.

    Attributes
    ----------
    false_rates, true_rates
        The ROC curve.
    area, area_error
        Under it, and its standard error.
    found, alarms
        Flagged among the poisoned (true positives), and among the clean (false positives).
    target, place
        Of the poisoned: those whose most suspicious class is the target, and whose window overlaps
        the trigger; flagged or not.
    """

    false_rates: Floats
    true_rates: Floats
    area: float
    area_error: float
    found: Rate
    alarms: Rate
    target: Rate
    place: Rate

    @property
    def area_text(self) -> str:
        """The area with its standard error, where there is one."""
        if self.area_error == 0:
            return (
                f"{self.area:.3f} (no pair in wrong order, so no standard error)"
                if self.area == 1
                else f"{self.area:.3f}"
            )
        return f"{self.area:.3f} ± {self.area_error:.3f} (standard error)"


def judge(
    score: ArrayLike, poisoned: ArrayLike, flagged: ArrayLike, target: ArrayLike, place: ArrayLike
) -> Judgement:
    """Judge a detector.

    Parameters
    ----------
    score
        ``(n,)``: the larger, the more suspicious.
    poisoned
        ``(n,)`` bool: the truth.
    flagged
        ``(n,)`` bool: the verdict.
    target, place
        ``(n,)`` bool: whether the class that was named is the target, and the window overlaps the
        trigger; of poisoned ones only.

    Raises
    ------
    ValueError
        One of both groups is empty, or a score is NaN.
    """
    s, truth = np.asarray(score, dtype=np.float64), np.asarray(poisoned, dtype=bool)
    verdict, named, placed = (np.asarray(x, dtype=bool) for x in (flagged, target, place))
    area = auc(s[~truth], s[truth])
    false, true = roc(s[~truth], s[truth])
    rates = (Rate.of(x) for x in (verdict[truth], verdict[~truth], named[truth], placed[truth]))
    return Judgement(
        false, true, area, auc_error(area, int((~truth).sum()), int(truth.sum())), *rates
    )
