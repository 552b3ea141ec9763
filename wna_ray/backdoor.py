"""Backdoors seen in noise: how sensitive a network is at the pixels of a patch, and where it is more so than honest networks are.

Of a known patch the null is known, too: the values of a z-map are independent and standard normal where the response ignores the noise, so
their sum over m pixels divided by sqrt(m) (Stouffer's Z) is standard normal.

Of an unknown patch the known null is no help alone: every honest network has strokes that are as significant. A trigger is found because
honest networks of the same kind do not have it. So there are two questions, and two p-values: is the sensitivity of a window more than
noise (the known null), and is it more than that of clean networks (their own scores, by rank)?

References
----------
Stouffer et al. (1949), The American Soldier, vol. 1: adding z.
Sidak (1967), JASA 62:626: the largest of many normal values.
Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World: p-values by rank (conformal).
Borji & Lin (2020), ICLR: bias maps of poisoned networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from wna_ray.poison import Pixel

Floats = NDArray[np.float64]


def stouffer(z: Floats) -> Floats:
    """``sum z / sqrt(m)`` over the last axis: standard normal for m independent standard normal values."""
    return np.asarray(z.sum(axis=-1) / np.sqrt(z.shape[-1]))


@dataclass(frozen=True)
class PatchScores:
    """How sensitive each response is at the pixels of a known patch; k rows.

    Attributes
    ----------
    z
        ``(k,)``: Stouffer's Z of the patch's values in all channels; NaN where a row has no map.
    p_value
        ``(k,)``: chance of a Z at least so large if the response ignores the noise. One-sided: a trigger is brighter than what it covers,
        and its target likes it. Nothing is corrected for the number of rows.
    rank
        ``(k,)``: place of the patch's Z among those of all positions of the same shape, 1 the largest; 0 where there is no map.
    positions
        How many there are.
    """

    z: Floats
    p_value: Floats
    rank: NDArray[np.int64]
    positions: int


def patch_scores(z: Floats, pixels: Sequence[Pixel]) -> PatchScores:
    """Score a known patch in every map.

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
    if not len(pixels) or min(rows.min(), columns.min()) < 0 or rows.max() >= height or columns.max() >= width:
        raise ValueError(f"patch: not within the maps' {height} x {width} pixels")
    top, left = int(rows.min()), int(columns.min())
    down, right = height - int(rows.max()) + top, width - int(columns.max()) + left  # positions
    moved = [z[..., r : r + down, c : c + right] for r, c in zip(rows - top, columns - left, strict=True)]
    everywhere = np.stack(moved, axis=-1).transpose(0, 2, 3, 1, 4).reshape(len(z), down * right, -1)
    scores = stouffer(everywhere)
    own = scores[:, top * right + left]
    rank = np.where(np.isnan(own), 0, (scores >= own[:, None]).sum(axis=1))
    return PatchScores(own, norm.sf(own), rank, down * right)
