"""Covariance: edges of the null spectrum, nested tests, Krylov, information; against closed
forms and naive loops.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from wna_ray.statistics.covariance import (
    Krylov,
    edges,
    ends_of,
    information,
    istac,
    nested_axes,
    null_edges,
)

Floats = NDArray[np.float64]


def axis(d: int, seed: int) -> Floats:
    v = np.random.default_rng(seed).standard_normal(d)
    return v / np.linalg.norm(v)


def covariance(x: Floats, r: Floats) -> Floats:
    r = (r - r.mean()) / r.std()
    return (x * r[:, None]).T @ x / len(x)


# --- edges


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 0.9])
def test_equal_weights_have_marchenko_and_pasturs_edges(ratio: float) -> None:
    low, high = edges(np.ones(100), ratio)
    assert (low, high) == (
        pytest.approx((1 - math.sqrt(ratio)) ** 2, rel=1e-9),
        pytest.approx((1 + math.sqrt(ratio)) ** 2, rel=1e-9),
    )


def test_small_ratios_have_the_semicircles_edges() -> None:
    """With d / N -> 0 the matrix is Wigner's: edges at +- 2 sqrt(c), corrections of order c
    E[r^3].
    """
    r = np.random.default_rng(0).standard_normal(10_000)
    r = (r - r.mean()) / r.std()
    assert null_edges(3 * r + 5, 0.1) == pytest.approx(edges(r, 0.1)), "in units of their own"
    assert np.isnan(null_edges(np.ones(9), 0.1)).all()
    low, high = edges(r, 1e-6)
    assert (low, high) == (pytest.approx(-2e-3, rel=3e-3), pytest.approx(2e-3, rel=3e-3))


@pytest.mark.parametrize("kind", ["gauss", "spikes", "rectified"])
def test_edges_are_where_simulated_spectra_end(kind: str) -> None:
    """Largest eigenvalue of d = 300 values: within 5 of its fluctuations, of order d^(-2/3) of
    the edge's size (Tracy & Widom).
    """
    random, d, n = np.random.default_rng(1), 300, 3000
    u = random.standard_normal(n)
    r = {"gauss": u, "spikes": (u > 1.2).astype(float), "rectified": np.maximum(u, 0)}[kind]
    r = (r - r.mean()) / r.std()
    low, high = edges(r, d / n)
    values = np.linalg.eigvalsh(covariance(random.standard_normal((n, d)), r))
    allowed = 5 * d ** (-2 / 3) * (high - low) / 4
    assert abs(values[-1] - high) < allowed
    assert abs(values[0] - low) < allowed


def test_edges_need_weights() -> None:
    with pytest.raises(ValueError, match="weights that are not zero"):
        edges(np.zeros(3), 0.1)


# --- axes


def planted(n: int, d: int, seed: int, nulls: int = 39) -> tuple[Floats, Floats]:
    """An excitatory and a weaker suppressive axis, and the matrices of responses and fresh
    noise.
    """
    random = np.random.default_rng(seed)
    truth = np.linalg.qr(np.stack([axis(d, 10), axis(d, 11)], axis=1))[0].T
    x = random.standard_normal((n, d))
    r = (x @ truth[0]) ** 2 - 0.7 * (x @ truth[1]) ** 2 + random.standard_normal(n)
    return (
        np.stack(
            [
                covariance(x, r),
                *(covariance(random.standard_normal((n, d)), r) for _ in range(nulls)),
            ]
        ),
        truth,
    )


def test_planted_axes_are_found_one_after_the_other() -> None:
    """E[r (xx' - 1)] of a quadratic form q is 2 q / sd(r): 2 / sd and -1.4 / sd along the axes,
    within 6 standard errors.
    """
    found, truth = planted(20_000, 30, 2)
    axes = nested_axes(found, 5)
    sd = math.sqrt(2 + 2 * 0.49 + 1)
    # Var of one estimate: E[r^2 (p^2 - 1)^2] / n, at most about 60 / n for these chi-square-like
    # responses
    assert np.abs(axes.values[:2] - np.array([2, -1.4]) / sd).max() < 6 * math.sqrt(60 / 20_000)
    assert (np.abs((axes.vectors[:2] * truth).sum(axis=1)) > 0.95).all()
    assert axes.significant() == 2
    assert axes.p_value[:2].tolist() == [0.05, 0.05]
    assert np.allclose(axes.vectors @ axes.vectors.T, np.eye(5), atol=1e-9)


def test_a_matrix_without_null_has_no_p_values() -> None:
    axes = nested_axes(planted(2000, 10, 3, nulls=0)[0], 3)
    assert np.isnan(axes.p_value).all()
    assert axes.significant() == 0


def test_the_nested_test_errs_as_often_as_it_says() -> None:
    """500 null runs of d = 12, with 39 fresh noises each: false alarms at 0.05 within 4 binomial
    errors (0.039), at the first step.

    And where one axis is real: at the second.
    """
    random, alarms = np.random.default_rng(4), np.zeros(2)
    for _ in range(500):
        r = np.maximum(random.standard_normal(200), 0)
        null = np.stack([covariance(random.standard_normal((200, 12)), r) for _ in range(40)])
        alarms[0] += nested_axes(null, 1).significant() > 0
    for _ in range(250):
        x = random.standard_normal((400, 8))
        r = x[:, 0] ** 2
        work = np.stack(
            [
                covariance(x, r),
                *(covariance(random.standard_normal((400, 8)), r) for _ in range(39)),
            ]
        )
        alarms[1] += nested_axes(work, 2).significant() > 1
    for count, runs in zip(alarms, (500, 250), strict=True):
        assert count / runs < 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs), alarms
    assert alarms[0] / 500 > 0.05 - 4 * math.sqrt(0.05 * 0.95 / 500), alarms


def test_ends_of_a_large_matrix() -> None:
    random = np.random.default_rng(5)
    matrix = random.standard_normal((300, 300))
    matrix += matrix.T
    values, vectors = ends_of(matrix)
    expected = np.linalg.eigvalsh(matrix)
    assert np.allclose(values, expected[[0, -1]], rtol=1e-9)
    assert np.allclose(matrix @ vectors.T, values * vectors.T, atol=1e-6)


@pytest.mark.parametrize("d, columns", [(40, 4), (41, 6), (5, 8)])
def test_krylov_ends_at_the_whole_spectrum(d: int, columns: int) -> None:
    random = np.random.default_rng(6)
    matrix = random.standard_normal((d, d))
    matrix += matrix.T
    krylov = Krylov(random.standard_normal((d, columns)))
    while krylov.next.shape[1]:
        krylov.add(krylov.next, matrix @ krylov.next)
    values, vectors = krylov.axes(4)
    expected = np.linalg.eigvalsh(matrix)
    assert np.allclose(np.abs(values), np.sort(np.abs(expected))[::-1][:4], rtol=1e-9)
    assert np.allclose(matrix @ vectors.T, values * vectors.T, atol=1e-7)


def test_krylov_finds_outliers_in_a_few_passes() -> None:
    random = np.random.default_rng(7)
    matrix = random.standard_normal((400, 400)) / 20
    matrix = (matrix + matrix.T) / math.sqrt(2)  # spectrum on [-2, 2]
    matrix += 4 * np.outer(axis(400, 1), axis(400, 1)) - 3.5 * np.outer(axis(400, 2), axis(400, 2))
    krylov = Krylov(random.standard_normal((400, 4)))
    for _ in range(6):
        krylov.add(krylov.next, matrix @ krylov.next)
    values, _ = krylov.axes(2)
    expected = np.linalg.eigvalsh(matrix)
    assert np.allclose(values, expected[[-1, 0]], rtol=1e-3)


# --- information


def test_istac_of_a_gaussian_case_in_closed_form() -> None:
    """Where mean and covariance share axes, each tells (m^2 + s - log s - 1) / 2 nats, and the
    best come first.
    """
    d = 6
    frame = np.linalg.qr(np.random.default_rng(8).standard_normal((d, d)))[0]
    m, s = np.array([0, 0.3, 0, 0, 0, 0]), np.array([2.5, 1, 0.2, 1.1, 0.95, 1])
    each = (m**2 + s - np.log(s) - 1) / 2
    order = np.argsort(-each)
    axes, told = istac(frame @ m, frame @ np.diag(s) @ frame.T, 3)
    assert np.allclose(told, np.cumsum(each[order[:3]]), rtol=1e-6)
    assert np.allclose(np.abs(axes @ frame[:, order[:3]]), np.eye(3), atol=1e-3)
    assert information(frame @ m, frame @ np.diag(s) @ frame.T, np.eye(d)) == pytest.approx(
        each.sum()
    )


def test_istac_weighs_mean_against_variance() -> None:
    """The first axis is better than the mean's and better than the covariance's: a fine search
    on the circle agrees.
    """
    mean, cov = np.array([0.8, 0.0]), np.array([[1.0, 0.5], [0.5, 1.9]])
    axes, told = istac(mean, cov, 1)
    angles = np.linspace(0, np.pi, 20_001)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    everywhere = np.array([information(mean, cov, v[None]) for v in circle])
    assert told[0] == pytest.approx(everywhere.max(), rel=1e-6)
    assert abs(axes[0] @ circle[everywhere.argmax()]) > 1 - 1e-5
