"""Coloured noise: white noise through a filter, so that its values correlate over space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from wna_ray.stimuli.base import Floats, over_cells, ridge_of
from wna_ray.stimuli.cells import CellNoise


@dataclass(frozen=True)
class ColouredNoise(CellNoise):
    """Images ``offset + scale * unit * (grid, filtered)``, whose amplitudes fall as
    ``1 / f^spectrum``.
    """

    @cached_property
    def gain(self) -> Floats:
        """``(h, w // 2 + 1)``: amplitude of the filter at each frequency, ``f^-spectrum`` up to a
        factor.

        The mean of its square over all h * w frequencies is 1, so every value of the noise keeps
        its variance. The mean of an image (f = 0) has the amplitude of the lowest other frequency.
        """
        assert self.spec.spectrum is not None, "only noise with a spectrum is coloured"
        h, w = self.noise.shape[1:]
        frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
        frequency[0, 0] = min(frequency[frequency > 0], default=1.0)
        gain = frequency**-self.spec.spectrum
        return np.asarray((gain / np.sqrt(np.square(gain).mean()))[:, : w // 2 + 1])

    @cached_property
    def swing(self) -> float:
        """Largest value of the filtered grid for values of at most 1."""
        return float(np.abs(np.fft.irfft2(self.gain, s=self.noise.shape[1:])).sum())

    def filtered(self, values: torch.Tensor, ridge: float | None = None) -> torch.Tensor:
        """White values ``(n, C, h, w)`` on the whole grid with the noise's spectrum: each channel
        convolved with its symmetric kernel.

        Parameters
        ----------
        ridge
            The inverse instead, ``gain / (gain^2 + ridge)`` at each frequency.
        """
        gain = torch.from_numpy(self.gain).to(values.device)
        if ridge is not None:
            gain = gain / (gain.square() + float(ridge))
        filtered: torch.Tensor = torch.fft.irfft2(
            torch.fft.rfft2(values) * gain.to(values.dtype), s=values.shape[2:]
        )
        return filtered

    def adjoint(self, values: torch.Tensor) -> torch.Tensor:
        """Slopes by pixel ``(n, C, h, w)`` as slopes by grid value: filtered once more, since a
        symmetric kernel is its own adjoint.
        """
        return self.filtered(values)

    def expand(self, maps: Floats) -> Floats:
        """Maps on the grid ``(k, d)`` as pictures ``(k, C, H, W)``, filtered as the noise itself.

        Means of the grid become means of images; z stay of variance 1, but correlate as the noise
        does.
        """
        return self._pictures(maps)

    def whitened(self, maps: Floats, reliability: Floats) -> Floats:
        """Maps on the grid freed of the noise's correlations, against the error that this
        amplifies.

        With S the covariance of the stimulus, of unit variance, S^(1/2) the filter and a a map on
        the grid, the regression of the response on the stimulus is ``S^(-1/2) a``, and with a ridge
        ``(S + ridge)^-1 S^(1/2) a`` (see `wna_ray.stimuli.base.ridge_of`). S is what the noise
        was made with, never a sample's.

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
        return self._pictures(maps, ridge_of(reliability))

    def _pictures(self, maps: Floats, ridge: Floats | None = None) -> Floats:
        values = torch.from_numpy(maps.reshape(-1, *self.grid_shape))
        pictures = np.empty((len(maps), *self.shape))
        # One at a time: a transform takes several times the memory of what it transforms.
        for i, picture in enumerate(pictures):
            one = self.filtered(values[i : i + 1], None if ridge is None else ridge[i])
            picture[:] = over_cells(one, self.spec.cell, self.shape)[0].numpy()
        return pictures
