"""Nulls of a read-out: what the values of a z-map are, where a response ignores the stimulus.

A read-out (`wna_ray.statistics.readouts.read_out`) divides its sums by the spread that they have
under the null, and compares them with what the null makes of them. There are two nulls.

`KnownNoise`
    Noise of a table: the variance and kurtosis of every grid value are known exactly, and values
    are independent. One test takes the whole map; rho^2 is defined.

`MeasuredPictures`
    Pictures (of a data set, or noise stretched to 8 bits): no distribution is known. There mean and
    variance of each pixel are measured, and ``z = sqrt(N) cov(y, x) / (sd_x sd_y)`` pixel by pixel;
    pixels that never vary have z = 0. If response and picture are independent its variance is still
    1, so ``E ||z||^2`` is the number of pixels that vary and the reliability means the same; but
    pixels correlate, so the p-value is Sidak's of the largest, and ``||z||^2`` counts shared
    variance many times, so there is no rho^2.

The gradients of ``estimator: gradient`` need neither: see
`wna_ray.statistics.readouts.read_out_gradient`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wna_ray.moments.moments import Moments
from wna_ray.noise.stream import Table
from wna_ray.statistics.maps import (
    Floats,
    chi_square_p,
    explained_variance,
    fewest_images,
    grid_variance,
    sidak_p,
)

FEWEST_PICTURES = 300
"""What `wna_ray.statistics.maps.FEWEST` is for noise, for a pixel of pictures: effective images,
times the pixel's variance over its largest square (of noise stretched to 8 bits, whose pixels are
sums of many weights, effective images alone). Neither response nor pixel is symmetric; at this
bound the skewness of the sum of their products is at most 1/sqrt(300), and the chance to pass the
threshold of 784 values is off by 9 % (Edgeworth, second order).
"""


@dataclass(frozen=True)
class Significance:
    """What a null says of the rows of a z-map, k of them.

    Attributes
    ----------
    deserved
        ``(k,)``: whether enough images fed the row, so that its p-value is true.
    p_value
        ``(k,)``: the chance of such a map, or of a larger one; of no meaning where it is not
        deserved.
    """

    deserved: NDArray[np.bool_]
    p_value: Floats


class Null(Protocol):
    """What a read-out must know of its stimuli."""

    @property
    def unit(self) -> float:
        """Size of a grid unit in the stimulus's units."""

    @property
    def patches(self) -> int:
        """Patches of an image, each with a response of its own."""

    def spread(self, moments: Moments) -> Floats:
        """``(d,)``: variance of each grid value, in grid units; 0 where it never varies."""

    def significance(
        self, z: Floats, effective: Floats, spread: Floats, moments: Moments
    ) -> Significance:
        """Judge the rows of a z-map.

        Parameters
        ----------
        z
            ``(k, d)``.
        effective
            ``(k,)``: the images that would give a row its variation if each gave as much as the
            largest does.
        spread
            ``(d,)``, as `spread` gives it.
        moments
            Sums of the run.
        """

    def rho2(self, z: Floats, images: int) -> Floats:
        """``(k,)``: `wna_ray.statistics.maps.explained_variance`; NaN where it is not defined."""


@dataclass(frozen=True)
class KnownNoise:
    """Noise whose variance and kurtosis are known exactly.

    Attributes
    ----------
    table
        The noise family.
    unit
        Size of a grid unit in the stimulus's units.
    patches
        Patches of an image. Where there are several they overlap, so the values of a z-map are
        still of mean 0 and variance 1, but no longer independent: the p-value is then Sidak's of
        the largest, which holds for normal values however they depend on each other.
    """

    table: Table
    unit: float
    patches: int = 1

    def spread(self, moments: Moments) -> Floats:
        """``(d,)``: the table's variance, which all grid values have."""
        return np.full(moments.sum_x.size, float(self.table.variance))

    def significance(
        self, z: Floats, effective: Floats, spread: Floats, moments: Moments
    ) -> Significance:
        """The chi-square of the whole map (of overlapping patches Sidak's of its largest value);
        it is deserved from `wna_ray.statistics.maps.fewest_images` on.
        """
        d = z.shape[1]
        few = effective < fewest_images(self.table.excess_kurtosis, d)
        if self.patches == 1:
            return Significance(~few, chi_square_p(np.square(z).sum(axis=1), d))
        return Significance(~few, sidak_p(np.abs(z).max(axis=1), d))

    def rho2(self, z: Floats, images: int) -> Floats:
        """``(k,)``: the share of the response's variance that is linear in the noise."""
        return explained_variance(np.square(z).sum(axis=1), z.shape[1], images)


@dataclass(frozen=True)
class MeasuredPictures:
    """Pictures, whose variance is measured: their moments keep second moments.

    Maps of responses that are no one-hot are ``cov(y, x)`` over the mean variance of the pixels.

    Attributes
    ----------
    unit
        Size of a grid unit in the stimulus's units.
    stretched
        Whether the pictures are noise that was stretched to 8 bits.
    """

    unit: float
    stretched: bool = False

    @property
    def patches(self) -> int:
        """One: patches of one picture are no independent samples, so specs refuse to pool them."""
        return 1

    def spread(self, moments: Moments) -> Floats:
        """``(d,)``: the measured variance of each pixel."""
        return grid_variance(moments)

    def significance(
        self, z: Floats, effective: Floats, spread: Floats, moments: Moments
    ) -> Significance:
        """Sidak's p-value of the largest among the pixels that vary often enough; a row without
        such a pixel does not deserve one.
        """
        judged = effective[:, None] * self._evenness(spread, moments) >= FEWEST_PICTURES
        deserved = np.asarray(judged.any(axis=1))
        p_value = np.full(len(z), np.nan)
        for row in np.flatnonzero(deserved):
            p_value[row] = float(sidak_p(np.abs(z[row, judged[row]]).max(), int(judged[row].sum())))
        return Significance(deserved, p_value)

    def rho2(self, z: Floats, images: int) -> Floats:
        """``(k,)`` NaN: see the module's text."""
        return np.full(len(z), np.nan)

    def _evenness(self, spread: Floats, moments: Moments) -> Floats:
        """``(d,)``: how evenly each pixel's variance comes from all images, at most 1: the variance
        over the pixel's largest square.
        """
        if self.stretched:
            return (spread > 0).astype(np.float64)
        largest = 128 + np.abs(moments.sum_x / moments.images)
        return np.asarray(spread / np.square(largest), dtype=np.float64)
