"""Known patches against scipy and loops; blind search in linear networks whose planted
sensitivity, or lack of it, is known.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import combine_pvalues, norm

from wna_ray.data.poison import PATTERNS
from wna_ray.statistics.patches import (
    SIDES,
    Suspicion,
    Window,
    conformal_p,
    patch_scores,
    stouffer,
    suspicion,
    window_sums,
)

SHAPE, CLASSES, IMAGES = (1, 12, 12), 3, 2000


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def z_of_linear(seed: int, weights: np.ndarray) -> np.ndarray:
    """z-maps ``(k, C, H, W)`` of a linear network that was shown Gaussian noise."""
    x = normals(seed, IMAGES, math.prod(SHAPE))
    y = x @ weights.T
    y -= y.mean(axis=0)
    return (y.T @ x / np.sqrt(np.square(y).sum(axis=0))[:, None]).reshape(-1, *SHAPE)


def honest(seed: int) -> np.ndarray:
    """Weights ``(k, d)`` of an honest network: strokes that all of them have, and as much of
    its own.
    """
    shared = np.repeat(np.repeat(normals(0, CLASSES, 4, 4), 3, axis=1), 3, axis=2).reshape(
        CLASSES, -1
    )
    return np.asarray(shared + normals(1000 + seed, CLASSES, math.prod(SHAPE)))


def with_trigger(seed: int, window: Window, strength: float) -> np.ndarray:
    weights = honest(seed).reshape(CLASSES, *SHAPE[1:])
    weights[
        1, window.row : window.row + window.height, window.column : window.column + window.width
    ] += strength
    return weights.reshape(CLASSES, -1)


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return np.stack([z_of_linear(seed, honest(seed)) for seed in range(20)])


def test_stouffer_is_scipys() -> None:
    z = normals(1, 3, 1, 28, 28)
    found = patch_scores(z, PATTERNS["C"])
    rows, columns = np.array(PATTERNS["C"]).T
    for i in range(3):
        expected = combine_pvalues(norm.sf(z[i, 0, rows, columns]), "stouffer")
        assert (found.z[i], found.p_value[i]) == pytest.approx(
            (expected.statistic, expected.pvalue)
        )
    assert found.positions == 529  # the paper's: 23 x 23


def test_rank_among_all_positions_by_a_loop() -> None:
    z, pixels = normals(2, 2, 3, 7, 8), ((2, 3), (2, 4), (4, 3))
    found = patch_scores(z, pixels)
    for i in range(2):
        every = [
            sum(z[i, c, r + dr, s + ds] for c in range(3) for r, s in pixels) / 3
            for dr in range(-2, 3)
            for ds in range(-3, 4)
        ]
        own = stouffer(np.array([z[i, c, r, s] for c in range(3) for r, s in pixels]))
        assert found.z[i] == pytest.approx(own)
        assert (found.rank[i], found.positions) == (
            sum(e >= own - 1e-12 for e in every),
            len(every),
        )


def test_rows_without_a_map_and_patches_outside() -> None:
    z = normals(3, 2, 1, 6, 6)
    z[0] = np.nan
    found = patch_scores(z, ((0, 0),))
    assert (
        math.isnan(found.z[0]),
        math.isnan(found.p_value[0]),
        found.rank[0],
        found.rank[1] > 0,
    ) == (True, True, 0, True)
    for outside in (((0, 6),), ((-1, 0),)):
        with pytest.raises(ValueError, match="not within the maps' 6 x 6 pixels"):
            patch_scores(z, outside)


def test_window_sums_by_a_loop() -> None:
    maps = normals(4, 2, 5, 6)
    expected = [
        [[maps[i, r : r + 3, c : c + 2].sum() for c in range(5)] for r in range(3)]
        for i in range(2)
    ]
    assert np.allclose(window_sums(maps, 3, 2), expected)


@pytest.mark.parametrize("window", [Window(0, 7, 4, 5), Window(5, 4, 3, 3)], ids=str)
def test_a_planted_sensitivity_is_found(clean: np.ndarray, window: Window) -> None:
    """In the planted row, in a window that shares at least half its pixels, beyond the noise (p
    < 0.001), beyond all clean networks.
    """
    found = suspicion(z_of_linear(99, with_trigger(99, window, 2.0)), clean)
    assert found.response == 1
    inside = {(r, c) for r in range(12) for c in range(12) if window.overlaps(((r, c),))}
    named = {(r, c) for r in range(12) for c in range(12) if found.window.overlaps(((r, c),))}
    assert len(inside & named) >= 0.5 * len(inside | named), found.window
    assert found.null_p < 0.001
    assert found.panel_p == pytest.approx(1 / 21)
    assert found.flagged()


def test_scores_by_a_loop(clean: np.ndarray) -> None:
    """The definition written out: every network against the others, over all windows."""
    z = z_of_linear(50, with_trigger(50, Window(2, 2, 3, 3), 1.0))
    found = suspicion(z, clean[:4])
    unit = [m / np.sqrt(np.square(m).sum(axis=(1, 2, 3), keepdims=True)) for m in (*clean[:4], z)]
    scores = [-math.inf] * 5
    for h in SIDES:
        for w in SIDES:
            sums = np.stack([window_sums(m.sum(axis=1), h, w) for m in unit])
            for i in range(5):
                others = np.delete(sums, i, axis=0)
                variance = others.var(axis=0, ddof=1)
                for k in range(CLASSES):
                    sd = np.sqrt((variance[k] + variance[k].mean()) / 2)
                    scores[i] = max(
                        scores[i], float(((sums[i, k] - others[:, k].mean(axis=0)) / sd).max())
                    )
    assert found.score == pytest.approx(scores[4])
    assert found.others == pytest.approx(np.array(scores[:4]))
    assert found.panel_p == (1 + sum(s >= scores[4] for s in scores[:4])) / 5


def test_honest_networks_are_seldom_flagged(clean: np.ndarray) -> None:
    """One in 21 by the ranks: 5 of 105 honest networks, in five groups of 21 that share their 20
    clean ones.

    A group's share is then Beta(1, 20), so its count is beta-binomial: sd 1.35 a group, 3.0 in all;
    within four of these.
    """
    alarms = 0
    for group in range(5):
        seeds = range(100 + 41 * group, 141 + 41 * group)
        maps = np.stack([z_of_linear(seed, honest(seed)) for seed in seeds])
        alarms += sum(suspicion(z, maps[21:]).flagged() for z in maps[:21])
    assert alarms <= 5 + 4 * 3.0


def test_the_known_null_alone_flags_only_what_is_there() -> None:
    """Networks that are all the same differ by noise alone: p < 0.05 in at most 0.05 of 60,
    within four binomial sd.
    """
    weights = honest(0)
    maps = [z_of_linear(seed, weights) for seed in range(70)]
    alarms = sum(suspicion(z, np.stack(maps[60:])).null_p < 0.05 for z in maps[:60])
    assert alarms / 60 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 60)


def test_gradients_have_no_p_value_of_the_null(clean: np.ndarray) -> None:
    found = suspicion(
        z_of_linear(99, with_trigger(99, Window(0, 7, 4, 5), 2.0)), clean, independent=False
    )
    assert math.isnan(found.null_p)
    assert found.flagged(), "by the clean networks alone"


def test_rows_that_some_network_lacks_are_not_searched(clean: np.ndarray) -> None:
    z = z_of_linear(99, with_trigger(99, Window(0, 7, 4, 5), 2.0))
    lacking = clean.copy()
    lacking[3, 1] = np.nan
    assert suspicion(z, lacking).response != 1
    lacking[3] = np.nan
    with pytest.raises(ValueError, match="no response that all networks have a map of"):
        suspicion(z, lacking)
    with pytest.raises(ValueError, match="two or more"):
        suspicion(z, clean[:1])


def test_ranks() -> None:
    assert conformal_p(2.0, np.array([1.0, 2.0, 3.0])) == 0.75
    few = Suspicion(
        0, Window(0, 0, 3, 3), 9.0, 9.0, 1e-9, conformal_p(9.0, np.zeros(18)), np.zeros(18)
    )
    assert not few.flagged(), "18 clean networks cannot give 0.05"
    assert str(Window(1, 21, 6, 6)) == "rows 1-6, columns 21-26"
