"""Backdoors seen in noise: how sensitive a network is at the pixels of a patch, and where it is
more so than honest networks are.

Of a known patch the null is known, too: the values of a z-map are independent and standard normal
where the response ignores the noise, so their sum over m pixels divided by sqrt(m) (Stouffer's Z)
is standard normal.

Of an unknown patch the known null is no help alone: every honest network has strokes that are as
significant. A trigger is found because honest networks of the same kind do not have it. So there
are two questions, and two p-values: is the sensitivity of a window more than noise (the known
null), and is it more than that of clean networks (their own scores, by rank)?

References
----------
Stouffer et al. (1949), The American Soldier, vol. 1: adding z. Sidak (1967), JASA 62:626: the
largest of many normal values. Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random
World: p-values by rank (conformal). Borji & Lin (2020), ICLR: bias maps of poisoned networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from wna_ray.data.poison import Pixel
from wna_ray.statistics.maps import sidak_p

Floats = NDArray[np.float64]

SIDES = range(3, 7)  # of windows, in pixels: those of the usual triggers
ALPHA = 0.05


def stouffer(z: Floats) -> Floats:
    """``sum z / sqrt(m)`` over the last axis: standard normal for m independent standard normal
    values.
    """
    return np.asarray(z.sum(axis=-1) / np.sqrt(z.shape[-1]))


@dataclass(frozen=True)
class PatchScores:
    """How sensitive each response is at the pixels of a known patch; k rows.

    Attributes
    ----------
    z
        ``(k,)``: Stouffer's Z of the patch's values in all channels; NaN where a row has no map.
    p_value
        ``(k,)``: chance of a Z at least so large if the response ignores the noise. One-sided: a
        trigger is brighter than what it covers, and its target likes it. Nothing is corrected for
        the number of rows.
    rank
        ``(k,)``: place of the patch's Z among those of all positions of the same shape, 1 the
        largest; 0 where there is no map.
    positions
        How many there are.
    """

    z: Floats
    p_value: Floats
    rank: NDArray[np.int64]
    positions: int


def patch_scores(z: Floats, pixels: Sequence[Pixel]) -> PatchScores:
    """Score a known patch in every map.

    A small p says that the response is sensitive there, not that there is a backdoor: honest logits
    are sensitive where strokes are (Z of 8 for the paper's "C"), so look at the rank, and at a
    clean network's Z. Labels of uniform noise on [0, 1] hardly are.

    Parameters
    ----------
    z
        ``(k, C, H, W)``: z-maps.
    pixels
        ``(row, column)`` of the patch.

    Raises
    ------
    ValueError
        The patch does not lie within the maps.
    """
    height, width = z.shape[-2:]
    rows, columns = np.array(pixels).T
    if (
        not len(pixels)
        or min(rows.min(), columns.min()) < 0
        or rows.max() >= height
        or columns.max() >= width
    ):
        raise ValueError(f"patch: not within the maps' {height} x {width} pixels")
    top, left = int(rows.min()), int(columns.min())
    down, right = height - int(rows.max()) + top, width - int(columns.max()) + left  # positions
    moved = [
        z[..., r : r + down, c : c + right] for r, c in zip(rows - top, columns - left, strict=True)
    ]
    everywhere = np.stack(moved, axis=-1).transpose(0, 2, 3, 1, 4).reshape(len(z), down * right, -1)
    scores = stouffer(everywhere)
    own = scores[:, top * right + left]
    rank = np.where(np.isnan(own), 0, (scores >= own[:, None]).sum(axis=1))
    return PatchScores(own, ndtr(-own), rank, down * right)


@dataclass(frozen=True)
class Window:
    """A rectangle of a map, by its upper left corner."""

    row: int
    column: int
    height: int
    width: int

    def overlaps(self, pixels: Sequence[Pixel]) -> bool:
        """Whether any of the pixels lies in it."""
        return any(
            0 <= r - self.row < self.height and 0 <= c - self.column < self.width for r, c in pixels
        )

    def __str__(self) -> str:
        return (
            f"rows {self.row}-{self.row + self.height - 1}, columns"
            f" {self.column}-{self.column + self.width - 1}"
        )


@dataclass(frozen=True)
class Suspicion:
    """Where a network differs most from clean ones.

    Attributes
    ----------
    response
        The row whose map has the window.
    window
        Where.
    score
        How far above the clean networks' mean it is there, in their standard deviations (see
        `suspicion`).
    z
        The same difference in standard errors of the noise.
    null_p
        Chance that noise makes any window of any row differ so much (Sidak); NaN where z is not
        normal, or values are not independent.
    panel_p
        ``(1 + clean networks with a score at least so large) / (1 + clean networks)``.
    others
        ``(n,)``: the clean networks' scores.
    """

    response: int
    window: Window
    score: float
    z: float
    null_p: float
    panel_p: float
    others: Floats

    def flagged(self, alpha: float = ALPHA) -> bool:
        """Whether it is both more than noise (where that is known) and more than clean networks
        have.
        """
        return self.panel_p <= alpha and not self.null_p > alpha


def suspicion(z: Floats, clean: Floats, independent: bool = True) -> Suspicion:
    """Look for a backdoor in the maps of a network, given those of clean networks of the same kind
    under the same noise.

    Each row's map is divided by its norm, and summed over every window of 3 to 6 pixels a side.
    What a window's sum exceeds the clean networks' mean by, in their standard deviations, is its
    score; the largest over windows and rows is the network's. (Of few networks a standard deviation
    is uncertain, so its square is averaged with the mean square over the row's windows of that
    shape.) Strokes that honest networks share cancel, and where they differ from each other a
    difference counts for less.

    The network's rank is exact however few the clean ones are: each of the n + 1 networks is scored
    against the n others, so if the suspect is one more of the same kind, each rank has the chance 1
    / (n + 1).

    The known null asks something else: whether the difference is more than the noise of both maps.
    Sidak's bound over windows and rows holds however they overlap.

    Parameters
    ----------
    z
        ``(k, C, H, W)``: z-maps of the suspect.
    clean
        ``(n, k, C, H, W)``: those of n clean networks, n >= 2.
    independent
        Whether values of a z-map are independent standard normal under the null: not those of
        gradients.

    Raises
    ------
    ValueError
        Fewer than two clean networks, maps of other shapes, or no row that all have a map of.
    """
    n = len(clean)
    if n < 2 or clean.shape[1:] != z.shape:
        raise ValueError(
            f"clean: expected two or more networks with maps {z.shape}, got {clean.shape}"
        )
    both = np.concatenate([clean, z[None]])
    rows = np.flatnonzero(
        np.isfinite(both).all(axis=(0, 2, 3, 4)) & (both != 0).any(axis=(2, 3, 4)).all(axis=0)
    )
    shapes = [(h, w) for h in SIDES for w in SIDES if h <= z.shape[-2] and w <= z.shape[-1]]
    if not len(rows) or not shapes:
        raise ValueError(
            "clean: there is no response that all networks have a map of, or maps are smaller than"
            " the least window"
        )
    both = both[:, rows]
    norm_of = np.sqrt(np.square(both).sum(axis=(2, 3, 4)))  # (n + 1, k)
    unit = both.sum(axis=2) / norm_of[..., None, None]  # channels pooled
    scores, best, tests = np.full(n + 1, -np.inf), (0, Window(0, 0, 0, 0)), 0
    for h, w in shapes:
        sums = window_sums(unit, h, w)
        tests += sums[0].size
        deviation = _against_the_others(sums)
        largest = deviation.max(axis=(1, 2, 3))
        if largest[-1] > scores[-1]:
            row, r, c = (
                int(i) for i in np.unravel_index(int(deviation[-1].argmax()), deviation.shape[1:])
            )
            best = row, Window(r, c, h, w)
        scores = np.maximum(scores, largest)
    row, at = best
    inside = unit[:, row, at.row : at.row + at.height, at.column : at.column + at.width].sum(
        axis=(1, 2)
    )
    own = norm_of[-1, row]
    values = z.shape[1] * at.height * at.width
    error = np.sqrt(values * (1 + own**2 * (1 / np.square(norm_of[:-1, row])).sum() / n**2))
    distance = float(own * (inside[-1] - inside[:-1].mean()) / error)
    null_p = float(sidak_p(np.array(abs(distance)), tests)) if independent else float("nan")
    return Suspicion(
        int(rows[row]),
        at,
        float(scores[-1]),
        distance,
        null_p,
        conformal_p(float(scores[-1]), scores[:-1]),
        np.asarray(scores[:-1]),
    )


def window_sums(maps: Floats, height: int, width: int) -> Floats:
    """Sums over every window of a shape: ``(..., H, W)`` to ``(..., H - height + 1, W - width +
    1)``.
    """
    total = np.zeros((*maps.shape[:-2], maps.shape[-2] + 1, maps.shape[-1] + 1))
    total[..., 1:, 1:] = maps.cumsum(axis=-2).cumsum(axis=-1)
    down = total[..., height:, :] - total[..., :-height, :]
    return np.asarray(down[..., width:] - down[..., :-width])


def _against_the_others(sums: Floats) -> Floats:
    """How far each network's sums ``(n + 1, k, h, w)`` are above the mean of the n others, in
    their standard deviations.
    """
    n = len(sums) - 1
    centred = sums - sums.mean(axis=0)  # so that squares do not cancel
    mean = -centred / n  # of the others: all add up to 0
    variance = (np.square(centred).sum(axis=0) - np.square(centred) - n * np.square(mean)) / (n - 1)
    return np.asarray(
        (centred - mean) / np.sqrt((variance + variance.mean(axis=(2, 3), keepdims=True)) / 2)
    )


def conformal_p(score: float, clean: Floats) -> float:
    """``(1 + clean scores at least so large) / (1 + clean scores)``."""
    return float((1 + (clean >= score).sum()) / (1 + len(clean)))
