"""The ROC curve and its area against naive loops, and the error of the area against the spread
of many areas.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from wna_ray.statistics.roc import Rate, auc, auc_error, judge, roc


def scores(seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clean, poisoned = rng.normal(0, 1, 23), rng.normal(1, 1.5, 31)
    return (clean.round(), poisoned.round()) if ties else (clean, poisoned)


@pytest.mark.parametrize("ties", [False, True])
def test_area_is_the_share_of_pairs_in_order(ties: bool) -> None:
    clean, poisoned = scores(0, ties)
    pairs = [1.0 if p > c else 0.5 if p == c else 0.0 for p in poisoned for c in clean]
    assert auc(clean, poisoned) == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_has_that_area_and_each_of_its_points(ties: bool) -> None:
    clean, poisoned = scores(1, ties)
    false, true = roc(clean, poisoned)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auc(clean, poisoned), abs=1e-12)
    for level in (-1.0, 0.0, 2.0):
        point = (
            sum(c >= level for c in clean) / len(clean),
            sum(p >= level for p in poisoned) / len(poisoned),
        )
        assert any(np.allclose(point, both) for both in zip(false, true, strict=True))


def test_error_of_the_area_is_the_spread_of_areas() -> None:
    """Exponential scores, for which Hanley & McNeil's formula is exact: 2,000 areas of 20 and 20
    networks.

    A standard deviation of 2,000 values is known to about 1 / sqrt(4,000) = 1.6 % (of near-normal
    values); within four of these.
    """
    rng = np.random.default_rng(2)
    areas = [auc(rng.exponential(1, 20), rng.exponential(5, 20)) for _ in range(2000)]
    assert np.mean(areas) == pytest.approx(5 / 6, abs=4 * np.std(areas) / math.sqrt(2000))
    assert np.std(areas) == pytest.approx(auc_error(5 / 6, 20, 20), rel=4 / math.sqrt(4000))
    assert auc_error(1.0, 20, 20) == 0


def test_judgement_counts() -> None:
    found = judge(
        [3.0, 1.0, 2.0, 0.0], [True, True, False, False], [1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]
    )
    assert found.area == 0.75
    rates = [
        (rate.hits, rate.trials) for rate in (found.found, found.alarms, found.target, found.place)
    ]
    assert rates == [(1, 2), (1, 2), (2, 2), (1, 2)]


def test_interval_and_text_of_a_rate() -> None:
    """Wilson's interval by its defining equation: ``(share - p)^2 = z^2 p (1 - p) / n`` at both
    ends.
    """
    rate = Rate.of([True] * 18 + [False] * 2)
    for end in (rate.low, rate.high):
        assert (0.9 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 20, rel=1e-5)
    assert str(rate) == "18 of 20 (0.90, 95 % interval 0.70 to 0.97)"
    assert math.isnan(Rate.of([]).share)


def test_faults_are_named() -> None:
    with pytest.raises(ValueError, match="got 0 negative and 1 positive"):
        auc([], [1.0])
    with pytest.raises(ValueError, match="some are NaN"):
        roc([1.0], [math.nan])
