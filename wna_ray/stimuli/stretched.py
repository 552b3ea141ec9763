"""Mixtures of a basis that are stretched to 8 bits: images of bytes that are not of a data set.

This is how Borji & Lin (2020) show their noise. Nobody designed how its bytes are distributed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.geometry import Shape
from wna_ray.noise.stream import Noise
from wna_ray.stimuli.base import stream
from wna_ray.stimuli.images import Images
from wna_ray.stimuli.mixture import whole_basis
from wna_ray.stimuli.pictures import LEVELS, MIDDLE, Bytes, Source


@dataclass(frozen=True)
class StretchedMixture(Images):
    """Images whose bytes are mixtures of a basis, each channel of each image stretched."""

    @cached_property
    def noise(self) -> Source:
        """The stretched mixtures as grid values: ``(C, H, W)`` of what is shown."""
        spec = self.spec
        assert spec.basis is not None, "only mixtures of a basis are stretched"
        weights = stream(spec, (1, 1, spec.basis.coefficients(spec.shape)), self.seed)
        return Rescaled(weights, whole_basis(self.basis), spec.shape, self.window, self.shown_shape)


@dataclass(frozen=True)
class Rescaled(Bytes):
    """Mixtures of a basis, each channel of each image stretched to 0 ... 255 and rounded (to even,
    where it is half way).

    Mixtures are sums of whole numbers below 2^53, so they are exact; so are the stretched ones but
    for one division. The same bytes everywhere.

    Attributes
    ----------
    noise
        The weights.
    basis
        ``(1 + d, C * H * W)`` whole numbers: centre and pictures (see
        `wna_ray.stimuli.bases.build`).
    whole
        ``(C, H, W)`` of an image.
    where, shape
        Rows and columns that are shown, and ``(C, H, W)`` of them.
    """

    noise: Noise
    basis: NDArray[np.int32] = field(repr=False)
    whole: Shape
    where: tuple[slice, slice]
    shape: Shape

    @property
    def pixels(self) -> int:
        """Values in one image."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @cached_property
    def _mixture(self) -> torch.Tensor:
        """``(1 + d, C * H * W)`` float64; the centre in steps of the weights, too."""
        mixture = torch.from_numpy(self.basis.astype(np.float64))
        mixture[0] *= round(1 / self.noise.table.unit)
        return mixture

    def grid(self, start: int, stop: int) -> NDArray[np.int8]:
        """``(stop - start, C, H, W)`` int8: bytes less 128."""
        weights = (
            torch.from_numpy(self.noise.grid(start, stop))
            .reshape(stop - start, self.noise.pixels)
            .to(torch.float64)
        )
        mixed = (
            (self._mixture[0] + weights @ self._mixture[1:])
            .numpy()
            .reshape(stop - start, self.whole[0], self.whole[1] * self.whole[2])
        )
        low, high = mixed.min(axis=2, keepdims=True), mixed.max(axis=2, keepdims=True)
        bytes_ = np.rint((mixed - low) * LEVELS / np.maximum(high - low, 1.0)).astype(np.uint8)
        window = bytes_.reshape(stop - start, *self.whole)[:, :, *self.where]
        return (np.ascontiguousarray(window) ^ np.uint8(MIDDLE)).view(np.int8)
