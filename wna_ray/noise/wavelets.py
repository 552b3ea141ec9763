"""Gabor wavelets on tiles, after Borji & Lin (2020): what OpenCV's ``getGaborKernel`` gives,
without OpenCV.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIDE = 3  # pixels: the smallest wavelets
SCALES = {28: (3, 7, 15), 32: (3, 5, 9, 17)}
"""Sides of the wavelets by the shorter side of the image, where the paper has them."""
ORIENTATIONS = (0, 45, 90, 135)
PHASES = (0, 90)
SIGMA, WAVELENGTH, ASPECT = 1 / 7, 1 / 2, 0.5
"""Of a wavelet: width of its envelope and length of its wave, both in sides, and how much
longer than wide the envelope is (inverse).
"""


def scales(height: int, width: int) -> tuple[int, ...]:
    """Sides of the wavelets of an image, odd: the paper's, else 3, 7, 15, ... up to half of its
    shorter side.
    """
    shorter = min(height, width)
    sides, k = [], SIDE
    while k <= max(SIDE, shorter // 2 + 1):
        sides.append(k)
        k = 2 * k + 1
    return SCALES.get(shorter, tuple(sides))


def wavelets(height: int, width: int) -> int:
    """How many wavelets an image has: 960 of 28 x 28 pixels, 1,520 of 32 x 32."""
    return (
        sum(-(-height // k) * -(-width // k) for k in scales(height, width))
        * len(ORIENTATIONS)
        * len(PHASES)
    )


def kernel(side: int, orientation: float, phase: float) -> Floats:
    """``(side, side)``: ``exp(-(x'^2 + aspect^2 y'^2) / (2 sigma^2)) cos(2 pi x' / wavelength +
    phase)``, angles in degrees.

    ``x' = x cos(theta) + y sin(theta)``, ``y' = y cos(theta) - x sin(theta)``. OpenCV keeps the
    value at (x, y) in row ``half - y`` and column ``half - x``, and so does this.
    """
    half, theta = side // 2, np.deg2rad(orientation)
    y, x = np.mgrid[half : -half - 1 : -1, half : -half - 1 : -1].astype(np.float64)
    along, across = x * np.cos(theta) + y * np.sin(theta), y * np.cos(theta) - x * np.sin(theta)
    envelope = np.exp(-(along**2 + ASPECT**2 * across**2) / (2 * (SIGMA * side) ** 2))
    return np.asarray(
        envelope * np.cos(2 * np.pi * along / (WAVELENGTH * side) + np.deg2rad(phase))
    )


def bank(height: int, width: int, stretched: bool) -> Floats:
    """All wavelets ``(wavelets, height * width)``: by side, orientation, phase, then row and column
    of the tile.

    Tiles do not overlap, begin in the corner, and are cropped where they stick out of the image.

    Parameters
    ----------
    stretched
        Each kernel scaled to [0, 1] by its smallest and largest value, as the authors have it (so
        it has a mean). Else each has its mean taken off, and the length ``side``, so that wavelets
        of all sides give a pixel the same variance.
    """
    wavelets = []
    for side in scales(height, width):
        rows, columns = -(-height // side), -(-width // side)
        for orientation in ORIENTATIONS:
            for phase in PHASES:
                one = kernel(side, orientation, phase)
                if stretched:
                    one = (one - one.min()) / (one.max() - one.min())
                else:
                    one = one - one.mean()
                    one *= side / np.linalg.norm(one)
                tiles = np.zeros((rows, columns, rows, side, columns, side))
                down, right = np.ogrid[:rows, :columns]
                tiles[down, right, down, :, right] = one
                whole = tiles.reshape(rows * columns, rows * side, columns * side)
                wavelets.append(whole[:, :height, :width].reshape(len(whole), -1))
    return np.concatenate(wavelets)
