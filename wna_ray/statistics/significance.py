"""Where a map is significant: thresholds for single values, smoothed maps, clusters; each for the
whole map at once.

The null is known: if the response ignores the stimulus, the values of a z-map are independent and
standard normal (in the limit of many images, see `wna_ray.statistics.maps`). So a smoothed map has
a variance that is known at every pixel, borders included, and the largest cluster of the null can
be simulated instead of approximated.

All tests are two-sided. A family is one map (all its channels and pixels); nothing is corrected for
the number of maps.

References
----------
Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57:289: the false discovery rate. Chauvin, Worsley,
Schyns, Arguin & Gosselin (2005), J. Vision 5(9):1: smoothed classification images, pixel and
cluster test. Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9:39: p-values from random draws
are never zero. Sidak (1967), JASA 62:626. Worsley, Marrett, Neelin, Vandal, Friston & Evans (1996),
Human Brain Mapping 4:58: expected Euler characteristic, resels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, label
from scipy.optimize import brentq
from scipy.special import ndtr

from wna_ray.statistics.maps import z_threshold

Floats = NDArray[np.float64]
Shape = tuple[int, int, int]

FWHM = math.sqrt(8 * math.log(2))  # of a Gaussian, in standard deviations
KERNEL_SDS = 5.0  # the kernel is cut off there
CLUSTER_THRESHOLD = 2.7  # Chauvin et al. use 2.3 to 2.7
DRAWS = 1000


def fdr_threshold(z: Floats, alpha: float = 0.05) -> float:
    """Smallest |z| that is significant when, of all that is called so, a share of at most `alpha`
    may be wrong on average.

    Parameters
    ----------
    z
        One map's values, of any shape, not smoothed: Benjamini & Hochberg's rule is exact for
        independent values.

    Returns
    -------
    float
        Infinite where nothing is significant.
    """
    size = np.abs(z).ravel()
    ordered = np.sort(size)[::-1]
    below = 2 * ndtr(-ordered) * size.size / np.arange(1, size.size + 1) <= alpha
    return float(ordered[np.flatnonzero(below)[-1]]) if below.any() else math.inf


def smooth(z: Floats, sd: float) -> Floats:
    """Smooth maps by a Gaussian and give them unit variance again.

    Parameters
    ----------
    z
        ``(..., H, W)``; independent values of variance 1 under the null. Beyond the border there is
        nothing.
    sd
        Of the kernel, in map values (not in pixels, where cells are larger).

    Returns
    -------
    numpy.ndarray
        ``sum_q K(p, q) z(q) / sqrt(sum_q K(p, q)^2)``: standard normal at every p under the null,
        borders included.
    """
    if not sd > 0:
        raise ValueError(f"sd: expected a positive number of map values, got {sd}")
    rows, columns = (_kernel(n, sd) for n in z.shape[-2:])
    return np.asarray(rows @ z @ columns.T)


@lru_cache(maxsize=32)
def _kernel(n: int, sd: float) -> Floats:
    """``(n, n)``, each row of unit norm: in two dimensions norms multiply."""
    kernel = gaussian_filter1d(np.eye(n), sd, axis=0, mode="constant", truncate=KERNEL_SDS)
    return np.asarray(kernel / np.sqrt(np.square(kernel).sum(axis=1, keepdims=True)))


def expected_clusters(threshold: float, shape: Shape, sd: float) -> float:
    """Expected Euler characteristic of the places where a smoothed null map is above a threshold
    (one-sided).

    For high thresholds, the expected number of clusters, and so about the chance that there is one.
    Worsley et al. (1996), table II, for a rectangle: ``sum_D resels_D * density_D(t)`` with the
    map's smoothness FWHM = ``sqrt(8 ln 2) sd``; channels are independent, so they add.
    """
    channels, height, width = shape
    a, b = ((n - 1) / (FWHM * sd) for n in (height, width))
    tail, four_log_two = math.exp(-(threshold**2) / 2), 4 * math.log(2)
    densities = (
        float(ndtr(-threshold)),
        math.sqrt(four_log_two) / (2 * math.pi) * tail,
        four_log_two / (2 * math.pi) ** 1.5 * threshold * tail,
    )
    return float(channels * (densities[0] + (a + b) * densities[1] + a * b * densities[2]))


def field_threshold(shape: Shape, sd: float, alpha: float = 0.05) -> float:
    """|z| that the largest value of a smoothed null map exceeds with a probability of `alpha`.

    That probability is an upper bound, to first order.

    The smaller of two bounds: random field theory's (``2 * expected_clusters(t) = -log(1 -
    alpha)``; it assumes a smooth map, and is wasteful where `sd` is small) and Sidak's, which holds
    for normal values however they depend on each other.
    """
    wanted = -math.log1p(-alpha) / 2
    field = brentq(lambda t: expected_clusters(t, shape, sd) - wanted, 1.0, 40.0)
    return min(float(field), z_threshold(math.prod(shape), alpha))


@dataclass(frozen=True)
class Clusters:
    """Groups of neighbouring values of a smoothed map that are all above a threshold, or all below
    its negative.

    Attributes
    ----------
    map
        ``(C, H, W)``: the smoothed z-map.
    labels
        ``(C, H, W)`` int64: 0, or the number of the cluster, from 1 on; neighbours share a side, in
        one channel.
    size
        ``(n,)``: values in each, largest first.
    p_value
        ``(n,)``: chance that the largest cluster of a null map has at least this size, so already
        corrected for all clusters.
    """

    map: Floats
    labels: NDArray[np.int64]
    size: NDArray[np.int64]
    p_value: Floats

    def significant(self, alpha: float = 0.05) -> NDArray[np.bool_]:
        """``(C, H, W)``: where a cluster's p-value is at most `alpha`."""
        kept: NDArray[np.bool_] = np.concatenate([[False], self.p_value <= alpha])
        return kept[self.labels]


def cluster_test(
    z: Floats, sd: float, threshold: float = CLUSTER_THRESHOLD, draws: int = DRAWS
) -> Clusters:
    """Find the clusters of a smoothed map, and compare their sizes with the largest clusters of
    simulated null maps.

    Random field theory's formula for cluster sizes (Chauvin et al. 2005) calls up to 8 % of null
    maps of 28 x 28 significant at the 5 % level; here the null is known and can be drawn, so the
    level holds.

    Parameters
    ----------
    z
        ``(C, H, W)``: one map, not smoothed.
    sd
        Of the kernel, in map values.
    threshold
        Where clusters begin: a low one finds wide and weak ones, a high one narrow and strong ones.
    draws
        Null maps, always the same for one shape; the smallest p-value is ``1 / (draws + 1)``.
    """
    if z.ndim != 3:
        raise ValueError(f"z: expected one map (C, H, W), got shape {z.shape}")
    smoothed = smooth(z, sd)
    clusters = _clusters(smoothed, threshold)
    size = np.bincount(clusters.ravel())[1:]
    order = np.argsort(-size, kind="stable")
    number = np.zeros(len(size) + 1, dtype=np.int64)
    number[1 + order] = np.arange(1, len(size) + 1)
    null = _largest_of_null(z.shape, sd, threshold, draws)
    larger = draws - np.searchsorted(null, size[order], side="left")
    return Clusters(smoothed, number[clusters], size[order], (1 + larger) / (1 + draws))


@lru_cache(maxsize=32)
def _largest_of_null(shape: Shape, sd: float, threshold: float, draws: int) -> NDArray[np.int64]:
    """``(draws,)`` sorted: size of the largest cluster of each null map."""
    random = np.random.default_rng(0)
    maps = (smooth(random.standard_normal(shape), sd) for _ in range(draws))
    return np.array(
        sorted(int(np.bincount(_clusters(m, threshold).ravel())[1:].max(initial=0)) for m in maps),
        dtype=np.int64,
    )


def _clusters(smoothed: Floats, threshold: float) -> NDArray[np.int64]:
    """``(C, H, W)``: 0, or a number from 1 on."""
    sides = np.zeros((3, 3, 3), dtype=bool)
    sides[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]  # channels are no neighbours
    above, n = label(smoothed >= threshold, sides)
    below, _ = label(smoothed <= -threshold, sides)
    return np.asarray(np.where(below, below + n, above), dtype=np.int64)
