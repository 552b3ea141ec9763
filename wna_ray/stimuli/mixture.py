"""Mixtures of a basis: each image is a sum of pictures with independent weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.noise.stream import Noise
from wna_ray.stimuli import bases
from wna_ray.stimuli.base import Base, Floats, ridge_of, stream

RANK = 1e-9  # eigenvalues of a basis's Gram matrix below this share of the largest are rounding


@dataclass(frozen=True)
class Mixture(Base):
    """Images ``offset + centre + scale * unit * S grid``, with S the synthesis matrix; the grid is
    one of weights, ``(1, 1, d)``.
    """

    @cached_property
    def noise(self) -> Noise:
        """The stream of weights, shape ``(1, 1, d)``."""
        return stream(self.spec, self.grid_shape, self.seed)

    @cached_property
    def _basis(self) -> NDArray[np.int32]:
        """``(1 + d, pixels)``: of what is shown."""
        whole = whole_basis(self.basis).reshape(-1, *self.spec.shape)
        return np.ascontiguousarray(whole[:, :, *self.window]).reshape(len(whole), -1)

    @cached_property
    def synthesis(self) -> Floats:
        """S ``(C * H * W, d)`` of what is shown: what a weight of 1 adds to each pixel, for a scale
        of 1.
        """
        return np.asarray(self._basis[1:].T * bases.STEP)

    @cached_property
    def _loud(self) -> Floats:
        """``(C * H * W,)``: standard deviation of each pixel for weights of variance 1."""
        return np.asarray(np.sqrt(np.square(self.synthesis).sum(axis=1)))

    @cached_property
    def _modes(self) -> tuple[Floats, Floats]:
        """Eigenvalues ``(d,)`` and vectors ``(d, d)`` of ``S' S``; 0 where rounding has made
        them.
        """
        values, vectors = np.linalg.eigh(self.synthesis.T @ self.synthesis)
        return np.where(values > RANK * values[-1], values, 0.0), vectors

    @cached_property
    def shown_offset(self) -> NDArray[np.float32]:
        """The image of what is shown where all weights are 0: the offset and the basis's centre."""
        centre = self._basis[0].reshape(self.shown_shape) * bases.STEP
        return np.asarray(self.bare_offset + centre.astype(np.float32))

    @property
    def sd(self) -> float:
        """Root mean square over pixels of their exact standard deviations."""
        return super().sd * math.sqrt(np.square(self._loud).mean())

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that a stimulus can take."""
        most = self.unit * self.noise.table.range[1] * np.abs(self.synthesis).sum(axis=1)
        whole = np.broadcast_to(self.shown_offset, self.shown_shape)
        centre = whole.reshape(-1).astype(np.float64)
        return float((centre - most).min()), float((centre + most).max())

    def adjoint(self, values: torch.Tensor) -> torch.Tensor:
        """Slopes by pixel ``(n, C, h, w)``, of all that is shown, as slopes by weight."""
        s = torch.from_numpy(self.synthesis).to(values.device, values.dtype)
        return (values.reshape(len(values), -1) @ s).reshape(len(values), *self.grid_shape)

    def images(
        self, grid: NDArray[np.int8] | torch.Tensor, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Turn weights ``(n, 1, 1, d)`` int8 into images ``(n, C, H, W)`` float32 on `device`."""
        values = torch.as_tensor(grid, device=device)
        offset = torch.tensor(self.shown_offset, device=device)
        # A product of whole numbers, exact in any order.
        mixed = values.reshape(len(values), -1).to(torch.float64) @ self._pictures_on(
            torch.device(device)
        )
        scaled = mixed.mul_(self.unit * bases.STEP).to(torch.float32)
        return scaled.reshape(len(values), *self.shown_shape).add_(offset)

    def _pictures_on(self, device: torch.device) -> torch.Tensor:
        """``(d, pixels)`` float64 whole numbers of a basis on a device, copied to it once."""
        copies: dict[torch.device, torch.Tensor] = self.__dict__.setdefault("_copies", {})
        if device not in copies:
            copies[device] = torch.from_numpy(self._basis[1:].astype(np.float64)).to(device)
        return copies[device]

    def expand(self, maps: Floats) -> Floats:
        """Maps of weights ``(k, d)`` as pictures ``(k, C, H, W)``, mixed as the noise itself.

        Means of weights become means of images; for z see `expand_z`.
        """
        return self._mixed(maps.reshape(-1, self.pixels))

    def expand_z(self, z: Floats) -> Floats:
        """z of weights ``(k, d)`` as pictures ``(k, C, H, W)`` whose every value has variance
        1 if the response ignores the stimulus.
        """
        pictures = self.expand(z)
        with np.errstate(invalid="ignore", divide="ignore"):
            pictures /= self._loud.reshape(self.shape)
        pictures[:, (self._loud == 0).reshape(self.shape)] = 0.0
        return pictures

    def whitened(self, maps: Floats, reliability: Floats) -> Floats:
        """Maps of weights freed of the noise's correlations, against the error that this
        amplifies.

        A linear response w has the map ``a = S' w``, and the regression on the image, within what
        the basis spans, is ``S (S'S + ridge)^-1 a``. The ridge is that of
        `wna_ray.stimuli.base.ridge_of` times the mean square of a column of S.

        Parameters
        ----------
        maps
            ``(k, d)``.
        reliability
            ``(k,)``.

        Returns
        -------
        numpy.ndarray
            ``(k, C, H, W)``: response units per stimulus unit, where `maps` are; NaN where nothing
            is reliable.
        """
        ridge, (values, vectors) = ridge_of(reliability), self._modes
        with np.errstate(divide="ignore"):
            inverse = np.where(values > 0, 1 / (values + ridge[:, None] * values.mean()), 0.0)
        inverse[np.isnan(ridge)] = np.nan
        return self._mixed((maps.reshape(-1, self.pixels) @ vectors * inverse) @ vectors.T)

    def _mixed(self, weights: Floats) -> Floats:
        """Pictures ``(k, C, H, W)`` of weights ``(k, d)``."""
        return np.asarray(weights @ self.synthesis.T).reshape(-1, *self.shape)


def whole_basis(basis: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """A basis that was given; `ValueError` where none was."""
    if basis is None:
        raise ValueError("a stimulus with a basis makes no images without it")
    return basis
