"""Wavelets: the formula, kernel by kernel, and where tiles lie."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wna_ray.noise.wavelets import bank, kernel, scales, wavelets


@pytest.mark.parametrize("side", [3, 5, 7, 9, 15, 17])
@pytest.mark.parametrize("orientation", [0, 45, 90, 135])
@pytest.mark.parametrize("phase", [0, 90])
def test_kernels_value_by_value(side: int, orientation: float, phase: float) -> None:
    """OpenCV's loop: ``kernel[half - y, half - x]`` holds the value at (x, y)."""
    half, theta, psi = side // 2, math.radians(orientation), math.radians(phase)
    expected = np.zeros((side, side))
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            xr, yr = (
                x * math.cos(theta) + y * math.sin(theta),
                -x * math.sin(theta) + y * math.cos(theta),
            )
            v = math.exp(-(xr**2 + 0.25 * yr**2) / (2 * (side / 7) ** 2)) * math.cos(
                2 * math.pi * xr / (side / 2) + psi
            )
            expected[half - y, half - x] = v
    np.testing.assert_allclose(kernel(side, orientation, phase), expected, atol=1e-15)


def test_the_papers_banks_have_960_and_1520() -> None:
    assert (scales(28, 28), scales(32, 32), scales(8, 12)) == ((3, 7, 15), (3, 5, 9, 17), (3,))
    assert (wavelets(28, 28), len(bank(28, 28, True))) == (960, 960)
    assert (wavelets(32, 32), len(bank(32, 32, True))) == (1520, 1520)
    assert (wavelets(16, 20), len(bank(16, 20, False))) == ((6 * 7 + 3 * 3) * 8,) * 2


@pytest.mark.parametrize("stretched", [True, False])
def test_tiles_cover_the_image_and_are_cropped(stretched: bool) -> None:
    """Each tile by itself, against cutting the kernel by hand; the last ones stick out of 7 x 8
    pixels.
    """
    h, w, side = 7, 8, 3
    found, i = bank(h, w, stretched).reshape(-1, h, w), 0
    for orientation in (0, 45, 90, 135):
        for phase in (0, 90):
            one = kernel(side, orientation, phase)
            if stretched:
                one = (one - one.min()) / (one.max() - one.min())
            else:
                one = (one - one.mean()) * side / np.sqrt(((one - one.mean()) ** 2).sum())
            for top in range(0, h, side):
                for left in range(0, w, side):
                    expected = np.zeros((h, w))
                    for y in range(top, min(top + side, h)):
                        for x in range(left, min(left + side, w)):
                            expected[y, x] = one[y - top, x - left]
                    np.testing.assert_allclose(found[i], expected, atol=1e-15)
                    i += 1
    assert i == len(found)
