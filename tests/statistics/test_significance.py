"""Thresholds and clusters: against naive loops, and calibrated on null maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from wna_ray.errors import RunError
from wna_ray.kinds.average.job import run
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import z_threshold
from wna_ray.statistics.significance import (
    FWHM,
    KERNEL_SDS,
    cluster_test,
    expected_clusters,
    fdr_threshold,
    field_threshold,
    smooth,
)

RUNS, ALPHA = 600, 0.05
FAMILYWISE = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
"""Three binomial standard errors above the nominal rate: 0.0767."""


def naive_fdr(z: np.ndarray, alpha: float) -> float:
    """Benjamini & Hochberg, as in their paper: the largest i with p_(i) <= i alpha / m."""
    p = sorted((2 * (1 - norm.cdf(abs(value))), abs(value)) for value in z.ravel())
    passing = [i for i in range(len(p)) if p[i][0] <= (i + 1) * alpha / len(p)]
    return float(p[passing[-1]][1]) if passing else math.inf


def test_false_discovery_rate_as_in_the_paper() -> None:
    rng = np.random.default_rng(1)
    z = rng.standard_normal((3, 8, 8))
    assert fdr_threshold(z[:1, :2, :2] * 0) == math.inf
    z[0, :4] += 4
    assert fdr_threshold(z) == naive_fdr(z, 0.05)
    assert fdr_threshold(z, 0.2) == naive_fdr(z, 0.2) < fdr_threshold(z)


def test_false_discoveries_are_as_rare_as_promised() -> None:
    """A fifth of 400 values has signal; the mean share of false discoveries is at most alpha
    times the share of nulls.
    """
    rng, shares = np.random.default_rng(2), []
    for _ in range(RUNS):
        z = rng.standard_normal(400)
        z[:80] += 3.5
        called = np.abs(z) >= fdr_threshold(z)
        shares.append(called[80:].sum() / max(1, called.sum()))
    error = np.std(shares) / math.sqrt(RUNS)
    assert abs(np.mean(shares) - 0.8 * ALPHA) < 4 * error, (
        "exactly this share, for independent values"
    )


@pytest.mark.parametrize("sd", [0.7, 2.0])
def test_smoothing_is_a_gaussian_filter_of_unit_variance(sd: float) -> None:
    rng = np.random.default_rng(3)
    z = rng.standard_normal((2, 9, 14))
    got = smooth(z, sd)
    for channel in range(2):
        filtered = gaussian_filter(z[channel], sd, mode="constant", truncate=KERNEL_SDS)
        impulses = np.eye(9 * 14).reshape(-1, 9, 14)
        weights = np.array(
            [gaussian_filter(i, sd, mode="constant", truncate=KERNEL_SDS) for i in impulses]
        )
        np.testing.assert_allclose(
            got[channel], filtered / np.sqrt(np.square(weights).sum(axis=0)), rtol=1e-9, atol=1e-12
        )
    with pytest.raises(ValueError, match="sd: expected a positive number"):
        smooth(z, 0.0)


def test_expected_clusters_are_those_of_simulated_maps() -> None:
    """Above a high threshold the Euler characteristic is the number of clusters (no holes); 4
    standard errors of its mean.

    Neighbours here touch by side or corner: the formula is about continuous maps.
    """
    from scipy.ndimage import label

    rng, sd, shape, threshold = np.random.default_rng(4), 4.0, (1, 48, 48), 2.5
    margin = 20  # the formula is about maps without borders: take the middle of larger ones
    counts = []
    for _ in range(1500):
        wide = smooth(rng.standard_normal((48 + 2 * margin, 48 + 2 * margin)), sd)[
            margin:-margin, margin:-margin
        ]
        counts.append(label(wide >= threshold, np.ones((3, 3)))[1])
    error = np.std(counts) / math.sqrt(len(counts))
    assert abs(np.mean(counts) - expected_clusters(threshold, shape, sd)) < 4 * error
    assert expected_clusters(3.0, (3, 48, 48), sd) == pytest.approx(
        3 * expected_clusters(3.0, shape, sd)
    )


@pytest.mark.parametrize("sd", [1.0, 3.0])
def test_null_maps_are_rarely_called_significant(sd: float) -> None:
    """Family-wise error of pixel and cluster test over 600 null maps each, within three
    binomial standard errors of 0.05.
    """
    rng, shape = np.random.default_rng(5), (1, 24, 24)
    limit = field_threshold(shape, sd)
    pixel = cluster = 0
    for _ in range(RUNS):
        z = rng.standard_normal(shape)
        found = cluster_test(z, sd)
        pixel += bool(np.abs(found.map).max() >= limit)
        cluster += bool(found.significant(ALPHA).any())
    assert 0.3 * ALPHA < pixel / RUNS < FAMILYWISE, "and not much too careful either"
    assert 0.3 * ALPHA < cluster / RUNS < FAMILYWISE


def test_smooth_maps_need_a_lower_threshold() -> None:
    assert field_threshold((1, 64, 64), 0.5) == z_threshold(64 * 64), (
        "Sidak's, where the map is rough"
    )
    assert field_threshold((1, 64, 64), 4.0) < z_threshold(64 * 64) - 0.3
    t = field_threshold((1, 64, 64), 4.0)
    assert 1 - math.exp(-2 * expected_clusters(t, (1, 64, 64), 4.0)) == pytest.approx(0.05)
    assert pytest.approx(2.3548, abs=1e-4) == FWHM


def test_a_weak_wide_patch_is_a_cluster() -> None:
    """Where no single value is significant: every value of an 8 x 8 patch has a mean of 1.2."""
    rng = np.random.default_rng(6)
    z = rng.standard_normal((2, 28, 28))
    z[1, 5:13, 10:18] += 1.2
    found = cluster_test(z, 2.0)
    assert np.abs(z).max() < z_threshold(z.size), "or this would be too easy"
    assert found.p_value[0] == pytest.approx(1 / 1001)
    assert found.size.tolist() == sorted(found.size, reverse=True)
    assert found.size[0] == (found.labels == 1).sum()
    patch = found.significant()
    assert not patch[0].any(), "the other channel"
    assert patch[1, 9, 14]
    assert set(np.unique(found.labels)) == set(range(len(found.size) + 1))
    assert np.array_equal(cluster_test(-z, 2.0).significant(), patch), "two-sided"


def test_clusters_of_a_run(tmp_path: Path, make_spec: Callable[..., Spec]) -> None:
    done = run(make_spec(), str(tmp_path / "run"), executor="local")
    found = done.clusters("logits", "1", sd=0.6)
    np.testing.assert_allclose(found.map, smooth(done.readouts[1].z[1].reshape(1, 4, 4), 0.6))
    for kind, name in (("logits", "9"), ("probabilities", "1")):
        with pytest.raises(RunError, match="has no response"):
            done.clusters(kind, name)  # type: ignore[arg-type]
