"""Signal detection theory against closed forms, naive loops and simulated observers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from wna_ray.statistics.detection import (
    area,
    by_class,
    classification_images,
    crossing,
    sensitivity,
    wilson,
)

RANDOM = np.random.default_rng


def observed(
    seed: int, n: int, d: int, shift: float, criterion: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """A linear observer of two signals in noise of variance 2, uniform on -2 ... 2: sums, counts,
    template.

    It answers 1 where ``w.x + shift * s > criterion`` with ``|w| sd = 1``, so its d' is `shift`.
    """
    random = RANDOM(seed)
    template = random.standard_normal(d)
    template /= np.linalg.norm(template) * math.sqrt(2)
    x = random.integers(-2, 3, (n, d))
    signal = np.arange(n) % 2
    answer = (x @ template + shift * signal > criterion).astype(int)
    noise, counts = np.zeros((2, 2, d), np.int64), np.zeros((2, 2), np.int64)
    np.add.at(noise, (signal, answer), x)
    np.add.at(counts, (signal, answer), 1)
    return noise, counts, template


def test_d_prime_and_criterion_of_known_rates() -> None:
    """With z(H) = 1 and z(F) = -1: d' = 2 and criterion 0, up to the correction of half a count
    in a million.
    """
    n = 1_000_000
    found = sensitivity(n * norm.cdf(1), n, n * norm.cdf(-1), n)
    assert found.d_prime == pytest.approx(2, abs=1e-5)
    assert found.criterion == pytest.approx(0, abs=1e-9)
    assert found.d_prime_error == pytest.approx(2 * found.criterion_error)


def test_standard_errors_are_those_of_simulated_experiments() -> None:
    """20,000 experiments: the sd of d' has a relative error of 1 / sqrt(2 * 20,000) = .005;
    four of them, and 1 % for the delta method.
    """
    random = RANDOM(1)
    hits, alarms = random.binomial(400, 0.8, 20_000), random.binomial(600, 0.3, 20_000)
    found = sensitivity(hits, 400, alarms, 600)
    assert found.d_prime.std() == pytest.approx(
        math.sqrt(np.square(found.d_prime_error).mean()), rel=0.03
    )
    assert found.criterion.std() == pytest.approx(
        math.sqrt(np.square(found.criterion_error).mean()), rel=0.03
    )
    assert found.d_prime.mean() == pytest.approx(
        norm.ppf(0.8) - norm.ppf(0.3), abs=4 * found.d_prime.std() / math.sqrt(20_000) + 0.004
    )


def test_perfect_and_empty_tables_have_an_answer() -> None:
    perfect = sensitivity(10, 10, 0, 10)
    assert perfect.hit_rate == pytest.approx(10.5 / 11)
    assert perfect.d_prime == pytest.approx(2 * norm.ppf(10.5 / 11))
    assert np.isnan(sensitivity(0, 0, 1, 10).d_prime)
    with pytest.raises(ValueError, match="between 0 and their trials"):
        sensitivity(11, 10, 0, 10)


def test_linear_observer_has_the_sensitivity_of_its_template() -> None:
    """d' = shift; its noise is a sum of 40 small values, so nearly normal; within four standard
    errors.
    """
    _, counts, _ = observed(2, 200_000, 40, 1.3, 0.4)
    found = sensitivity(counts[1, 1], counts[1].sum(), counts[0, 1], counts[0].sum())
    assert abs(found.d_prime - 1.3) < 4 * found.d_prime_error
    assert abs(found.criterion - (0.4 - 1.3 / 2)) < 4 * found.criterion_error


def test_each_class_against_the_rest_by_a_naive_loop() -> None:
    confusion = RANDOM(3).integers(0, 50, (2, 3, 4)).astype(np.int64)
    correct = np.array([2, -1, 0])
    found = by_class(confusion, correct)
    for g in range(2):
        for s, k in enumerate(correct):
            if k < 0:
                assert np.isnan(found.d_prime[g, s])
                continue
            others = [i for i in range(3) if i != s]
            one = sensitivity(
                confusion[g, s, k],
                confusion[g, s].sum(),
                confusion[g, others, k].sum(),
                confusion[g, others].sum(),
            )
            assert found.d_prime[g, s] == one.d_prime
            assert found.criterion_error[g, s] == one.criterion_error


def test_wilson_is_scipys() -> None:
    for k, n in ((0, 10), (3, 10), (10, 10), (123, 1000)):
        theirs = binomtest(k, n).proportion_ci(0.9, method="wilson")
        assert [float(v) for v in wilson(k, n, 0.9)] == pytest.approx(
            [theirs.low, theirs.high], abs=1e-12
        )
    assert np.isnan(wilson(0, 0)[0])


def test_half_point_of_a_normal_curve_and_its_error() -> None:
    """Answers rise as Phi((x - .37) / .2), 2,000 experiments. The mean crossing is .37 within four
    standard errors, and .002 for the straight line between levels .05 apart; the errors are the
    spread, whose own error is 1.6 %.
    """
    levels = np.linspace(0, 1, 21)
    random = RANDOM(4)
    counts = random.binomial(500, norm.cdf((levels - 0.37) / 0.2), (2000, 21))
    found = np.array([crossing(levels, c, np.full(21, 500)) for c in counts])
    assert found[:, 0].mean() == pytest.approx(
        0.37, abs=0.002 + 4 * found[:, 0].std() / math.sqrt(2000)
    )
    assert found[:, 0].std() == pytest.approx(math.sqrt(np.square(found[:, 1]).mean()), rel=0.15)


def test_half_point_of_curves_that_do_not_cross() -> None:
    assert np.isnan(crossing([0, 1], [1, 2], [10, 10])).all()
    assert crossing([0, 1], [6, 10], [10, 10])[0] == 0
    with pytest.raises(ValueError, match="rising"):
        crossing([1, 0], [1, 2], [10, 10])


def test_area_of_a_straight_curve() -> None:
    assert area([0.2, 0.4, 1.0], [0.2, 0.4, 1.0]) == pytest.approx(0.6)


def test_images_against_a_naive_loop() -> None:
    random = RANDOM(5)
    x, s, y = (
        random.integers(-3, 4, (500, 6)),
        random.integers(0, 2, 500),
        random.integers(0, 2, 500),
    )
    noise, counts = np.zeros((2, 2, 6), np.int64), np.zeros((2, 2), np.int64)
    np.add.at(noise, (s, y), x)
    np.add.at(counts, (s, y), 1)
    found = classification_images(noise, counts, 2.0, 0.1, "standard")
    means = {(i, j): x[(s == i) & (y == j)].mean(axis=0) for i in (0, 1) for j in (0, 1)}
    paper = (means[0, 1] + means[1, 1]) - (means[0, 0] + means[1, 0])
    error = 2.0 * math.sqrt(sum(1 / ((s == i) & (y == j)).sum() for i in (0, 1) for j in (0, 1)))
    np.testing.assert_allclose(found.image[1], 0.1 * paper, atol=1e-12)
    np.testing.assert_allclose(found.z[1], paper / error, atol=1e-12)
    np.testing.assert_allclose(found.image[0], -found.image[1], atol=1e-12)


@pytest.mark.parametrize("weighting", ["standard", "optimal"])
def test_z_is_standard_normal_where_answers_ignore_the_noise(weighting: str) -> None:
    """200 experiments of 30 values: the mean square of 6,000 normal values is 1 within four
    standard errors, 4 sqrt(2 / 6000).
    """
    random = RANDOM(6)
    z = []
    for _ in range(200):
        x, s = random.integers(-2, 3, (600, 30)), random.integers(0, 3, 600)
        y = (random.random(600) < np.array([0.1, 0.5, 0.8])[s]).astype(int)
        noise, counts = np.zeros((3, 2, 30), np.int64), np.zeros((3, 2), np.int64)
        np.add.at(noise, (s, y), x)
        np.add.at(counts, (s, y), 1)
        z.append(classification_images(noise, counts, math.sqrt(2), 1.0, weighting).z[1])  # type: ignore[arg-type]
    assert np.square(z).mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 6000))


def test_template_of_a_linear_observer_is_recovered() -> None:
    """The squared cosine with the true template is the reliability: over 25 observers they
    agree within four standard errors.
    """
    pairs = []
    for seed in range(25):
        noise, counts, template = observed(100 + seed, 4000, 60, 1.0, 0.5)
        found = classification_images(noise, counts, math.sqrt(2), 1.0, "optimal")
        pairs.append(
            (
                found.reliability[1],
                (found.image[1] @ template) ** 2
                / (found.image[1] @ found.image[1])
                / (template @ template),
            )
        )
        assert found.note == ("", "")
    told, true = np.array(pairs).T
    assert true.mean() > 0.9
    assert told.mean() == pytest.approx(
        true.mean(), abs=4 * (told - true).std() / math.sqrt(25) + 2 / 60
    )


def test_optimal_weighting_has_the_signal_that_theory_says() -> None:
    """One signal is nearly always seen, so its cell of misses is small, and standard weighting pays
    for it.

    z along the template, of unit length: ``sqrt(sum_s N_s phi(z_s)^2 / (P_s (1 - P_s)))`` for
    optimal weighting and ``sum_s phi / (P (1 - P)) / sqrt(sum_s 1 / (N_s P (1 - P)))`` for standard
    (Murray et al. 2002), each with a standard error of 1. The template's sum of 400 values is
    normal but for an excess kurtosis of -1.3 * 3 / 400, which moves a tail's mean by less than 1 %.
    """
    noise, counts, template = observed(7, 60_000, 400, 2.5, 0.2)
    direction = template / np.linalg.norm(template)
    p = np.array([norm.sf(0.2), norm.sf(0.2 - 2.5)])
    phi, cell = norm.pdf(norm.ppf(p)), p * (1 - p)
    expected = {
        "optimal": math.sqrt((30_000 * phi**2 / cell).sum()),
        "standard": (phi / cell).sum() / math.sqrt((1 / (30_000 * cell)).sum()),
    }
    assert expected["optimal"] > 1.1 * expected["standard"]
    for weighting, z in expected.items():
        found = classification_images(noise, counts, math.sqrt(2), 1.0, weighting)  # type: ignore[arg-type]
        assert found.z[1] @ direction == pytest.approx(z, abs=4 + 0.01 * z), weighting


def test_responses_that_never_vary_have_no_image() -> None:
    noise, counts = np.zeros((2, 2, 3), np.int64), np.array([[0, 50], [0, 50]])
    found = classification_images(noise, counts, 1.0, 1.0, "standard")
    assert found.note == ("no trials", "no trials")
    assert np.isnan(found.image).all()


def test_rare_responses_are_flagged() -> None:
    noise, counts = np.zeros((2, 2, 3), np.int64), np.array([[5000, 3], [4000, 2]])
    assert classification_images(noise, counts, 1.0, 1.0, "standard").note == (
        "too few trials",
        "too few trials",
    )
