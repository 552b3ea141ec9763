"""Stimuli: noise on its grid, turned into images, and maps on the grid turned back into
pictures.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.geometry import Box, Patches
from wna_ray.noise.stream import Noise
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli import bases
from wna_ray.stimuli.pictures import LEVELS, MIDDLE, Pictures, Rescaled, Source, cell_means

MOST_NAMED = 12  # classes that a title names one by one
RANK = 1e-9  # eigenvalues of a basis's Gram matrix below this share of the largest are rounding


def stimulus_text(spec: StimulusSpec, formula: bool = False) -> str:
    """What is shown, in a few words; exponents as a `formula` where a figure draws it."""
    if spec.kind == "images":
        chosen = spec.classes or ()
        numbers = (
            ", ".join(map(str, chosen))
            if len(chosen) <= MOST_NAMED
            else f"{chosen[0]}, {chosen[1]} ... {chosen[-1]} ({len(chosen)})"
        )
        classes = "" if spec.classes is None else f", classes {numbers}"
        return f"{spec.dataset} {spec.split} pictures{classes}"
    if spec.basis is not None:
        basis = spec.basis
        of = [] if basis.dataset is None else [basis.dataset, f"{basis.components} components"]
        of += ["grey"] * basis.grey + ["stretched to 8 bits"] * (basis.rescale is not None)
        return basis.kind + (f" ({', '.join(of)})" if of else "") + f" {spec.kind}"
    if spec.spectrum is None:
        return spec.kind
    power = (
        ""
        if spec.spectrum == 1
        else f"$^{{{spec.spectrum}}}$"
        if formula
        else f"^{spec.spectrum:g}"
    )
    return f"{spec.kind} 1/f{power}"


@dataclass(frozen=True)
class Stimulus:
    """Images ``offset + scale * unit * grid``, addressable by index; where there is a spectrum, the
    grid is filtered first.

    With a basis the grid is one of weights, ``(1, 1, d)``, and the image ``offset + centre + scale
    * unit * S grid``, with S the synthesis matrix. Pictures (of a data set, or stretched to 8 bits)
    have their bytes for a grid, ``offset + scale * (grid + 128) / 255``; in cells they are shown
    whole, and moments are kept of the cells' means (see `keep`).

    Attributes
    ----------
    spec
        What was asked for.
    seed
        Noise seed.
    offset
        ``(C, H, W)`` or ``(1, 1, 1)`` float32, of the whole image.
    shown
        The part of the image that is shown, and that there is noise for; the whole by default.
    patches
        The parts of what is shown that moments are kept of; all of it, as one, by default.
    basis
        ``(1 + d, C * H * W)`` int32, of the whole image (see `wna_ray.stimuli.bases.build`); only
        needed to make images and pictures.
    content
        SHA-256 of the images of a data set that are shown; "" where they are not known yet, or
        there are none.
    """

    spec: StimulusSpec
    seed: int
    offset: NDArray[np.float32]
    shown: Box | None = None
    patches: Patches | None = None
    basis: NDArray[np.int32] | None = None
    content: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """What travels between processes: not what can be made again, such as the images of a
        data set.
        """
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def noise(self) -> Source:
        """The stream of grid values, shape ``(C, ceil(H / cell), ceil(W / cell))`` of what is
        shown; ``(1, 1, d)`` with a basis.
        """
        spec = self.spec
        if spec.kind == "images":
            assert spec.dataset is not None, "the spec sees to it"
            return Pictures(
                spec.dataset,
                spec.split or "train",
                spec.classes,
                self._shown_where,
                self.shown_shape,
                self.content,
            )
        if spec.basis is not None:
            weights = Noise(
                spec.kind, (1, 1, spec.basis.coefficients(spec.shape)), self.seed, spec.density
            )
            return (
                Rescaled(
                    weights, self._whole_basis, spec.shape, self._shown_where, self.shown_shape
                )
                if spec.measured
                else weights
            )
        c, *sides = self.shown_shape
        h, w = (-(-n // self.spec.cell) for n in sides)
        return Noise(spec.kind, (c, h, w), self.seed, self.spec.density)

    @property
    def _shown_where(self) -> tuple[slice, slice]:
        return (slice(None), slice(None)) if self.shown is None else self.shown.where

    @property
    def _whole_basis(self) -> NDArray[np.int32]:
        if self.basis is None:
            raise ValueError("a stimulus with a basis makes no images without it")
        return self.basis

    @cached_property
    def _shown_basis(self) -> NDArray[np.int32]:
        """``(1 + d, pixels)``: of what is shown."""
        whole = self._whole_basis.reshape(-1, *self.spec.shape)
        return np.ascontiguousarray(whole[:, :, *self._shown_where]).reshape(len(whole), -1)

    @cached_property
    def synthesis(self) -> NDArray[np.float64] | None:
        """S ``(C * H * W, d)`` of what is shown: what a weight of 1 adds to each pixel, for a scale
        of 1. None without a basis, or where its mixtures are stretched to 8 bits.
        """
        if self.spec.basis is None or self.spec.measured:
            return None
        return np.asarray(self._shown_basis[1:].T * bases.STEP)

    @cached_property
    def _loud(self) -> NDArray[np.float64]:
        """``(C * H * W,)``: standard deviation of each pixel for weights of variance 1."""
        return np.asarray(np.sqrt(np.square(self._synthesis).sum(axis=1)))

    @property
    def _synthesis(self) -> NDArray[np.float64]:
        assert self.synthesis is not None, "asked only of mixtures of a basis"
        return self.synthesis

    @cached_property
    def _modes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues ``(d,)`` and vectors ``(d, d)`` of ``S' S``; 0 where rounding has made
        them.
        """
        values, vectors = np.linalg.eigh(self._synthesis.T @ self._synthesis)
        return np.where(values > RANK * values[-1], values, 0.0), vectors

    @property
    def _has_basis(self) -> bool:
        """Whether moments are kept of the weights of a basis."""
        return self.spec.basis is not None and not self.spec.measured

    @property
    def shown_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of what is shown."""
        return (
            self.spec.shape
            if self.shown is None
            else (self.spec.shape[0], self.shown.height, self.shown.width)
        )

    @cached_property
    def shown_offset(self) -> NDArray[np.float32]:
        """The image of what is shown where the grid is 0: the offset, and the centre of a
        basis; grey 128 for pictures.
        """
        offset = (
            self.offset
            if self.shown is None or self.offset.size == 1
            else self.offset[:, *self.shown.where]
        )
        if self._has_basis:
            centre = self._shown_basis[0].reshape(self.shown_shape) * bases.STEP
            return np.asarray(offset + centre.astype(np.float32))
        return offset + np.float32(self.unit * MIDDLE) if self.spec.measured else offset

    @property
    def kept_offset(self) -> NDArray[np.float32]:
        """The same of a patch, the middle one: ``(C, H, W)``."""
        whole = np.broadcast_to(self.shown_offset, self.shown_shape)
        return whole if self.patches is None else whole[:, *self.patches.middle.where]

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of a patch, and so of a map."""
        return (
            self.shown_shape
            if self.patches is None
            else (self.spec.shape[0], self.patches.first.height, self.patches.first.width)
        )

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``: independent noise values of a patch (bytes, of pictures)."""
        if self._has_basis and self.spec.basis is not None:
            return 1, 1, self.spec.basis.coefficients(self.spec.shape)
        c, h, w = self.shape
        return c, -(-h // self.spec.cell), -(-w // self.spec.cell)

    @property
    def pixels(self) -> int:
        """d: independent noise values of a patch."""
        return math.prod(self.grid_shape)

    @property
    def patches_an_image(self) -> int:
        """How often an image is counted: once for each of its patches."""
        return 1 if self.patches is None else self.patches.count

    @property
    def middle_patch(self) -> int:
        """Number of the patch in the middle."""
        return (
            0
            if self.patches is None
            else self.patches.rows // 2 * self.patches.columns + self.patches.columns // 2
        )

    def keep(self, grid: NDArray[np.int8]) -> NDArray[np.int8]:
        """What moments are kept of: patches ``(n * patches, C, h, w)`` of grid values ``(n, C, H',
        W')``, image by image, row by row; of pictures in cells their means, rounded.
        """
        if self.spec.kind == "images" and self.spec.cell > 1:
            grid = cell_means(grid, self.spec.cell)
        if self.patches is None:
            return grid
        (_, h, w), p = self.grid_shape, self.patches
        if p.count == 1:
            return self.middle(grid)
        down, right = p.step  # no cells here: the spec sees to it
        views = np.lib.stride_tricks.sliding_window_view(
            grid[:, :, p.first.top :, p.first.left :], (h, w), axis=(2, 3)
        )
        chosen = views[:, :, : p.rows * down : down, : p.columns * right : right]
        return chosen.transpose(0, 2, 3, 1, 4, 5).reshape(len(grid) * p.count, grid.shape[1], h, w)

    @property
    def unit(self) -> float:
        """Size of one grid unit in the stimulus's own units (pixels or network input); in units
        of `scale` times a weight, with a basis.
        """
        return (
            self.spec.scale / LEVELS
            if self.spec.measured
            else float(self.spec.scale * self.noise.table.unit)
        )

    @property
    def sd(self) -> float:
        """Exact standard deviation of a stimulus value around its offset; of a basis its root
        mean square over pixels, NaN for pictures.
        """
        if self.spec.measured:
            return math.nan
        loud = math.sqrt(np.square(self._loud).mean()) if self._has_basis else 1.0
        return self.unit * math.sqrt(self.noise.table.variance) * loud

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that a stimulus can take."""
        if self.spec.measured:
            return float(self.offset.min()), float(self.offset.max()) + self.spec.scale
        if self._has_basis:
            most = self.unit * self.noise.table.range[1] * np.abs(self._synthesis).sum(axis=1)
            centre = (
                np.broadcast_to(self.shown_offset, self.shown_shape).reshape(-1).astype(np.float64)
            )
            return float((centre - most).min()), float((centre + most).max())
        low, high = (end * self._swing for end in self.noise.table.range)
        return (
            float(self.offset.min()) + self.unit * low,
            float(self.offset.max()) + self.unit * high,
        )

    @cached_property
    def gain(self) -> NDArray[np.float64] | None:
        """``(h, w // 2 + 1)``: amplitude of the filter at each frequency, ``f^-spectrum`` up to a
        factor; None for white noise.

        The mean of its square over all h * w frequencies is 1, so every value of the noise keeps
        its variance. The mean of an image (f = 0) has the amplitude of the lowest other frequency.
        """
        if self.spec.spectrum is None:
            return None
        h, w = self.noise.shape[1:]
        frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
        frequency[0, 0] = min(frequency[frequency > 0], default=1.0)
        gain = frequency**-self.spec.spectrum
        return np.asarray((gain / np.sqrt(np.square(gain).mean()))[:, : w // 2 + 1])

    @cached_property
    def _swing(self) -> float:
        """Largest value of the filtered grid for values of at most 1."""
        return (
            1.0
            if self.gain is None
            else float(np.abs(np.fft.irfft2(self.gain, s=self.noise.shape[1:])).sum())
        )

    def filtered(self, values: torch.Tensor, ridge: float | None = None) -> torch.Tensor:
        """White values ``(n, C, h, w)`` on the whole grid with the noise's spectrum: each channel
        convolved with its symmetric kernel.

        Parameters
        ----------
        ridge
            The inverse instead, ``gain / (gain^2 + ridge)`` at each frequency.
        """
        if self.gain is None:
            return values
        gain = torch.from_numpy(self.gain).to(values.device)
        if ridge is not None:
            gain = gain / (gain.square() + float(ridge))
        found: torch.Tensor = torch.fft.irfft2(
            torch.fft.rfft2(values) * gain.to(values.dtype), s=values.shape[2:]
        )
        return found

    def adjoint(self, values: torch.Tensor) -> torch.Tensor:
        """Slopes by pixel ``(n, C, h, w)``, of all that is shown, as slopes by grid value: the
        transpose of what makes images.
        """
        if self._has_basis:
            s = torch.from_numpy(self._synthesis).to(values.device, values.dtype)
            return (values.reshape(len(values), -1) @ s).reshape(len(values), *self.grid_shape)
        return self.filtered(values)  # its kernel is symmetric, and so its own adjoint

    def whitened(
        self, maps: NDArray[np.float64], reliability: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Maps on the grid freed of the noise's correlations, against the error that this
        amplifies.

        With S the covariance of the stimulus, of unit variance, S^(1/2) the filter and a a map on
        the grid, the regression of the response on the stimulus is ``S^(-1/2) a``, and with a ridge
        ``(S + ridge)^-1 S^(1/2) a``. The ridge that errs least is noise over signal (in each value,
        for a true map that is white), ``(1 - R) / R`` for a map of reliability R (Hoerl & Kennard
        1970, Technometrics 12:55). S is what the noise was made with, never a sample's.

        With a basis of synthesis matrix S, a linear response w has the map ``a = S' w``, and the
        regression on the image, within what the basis spans, is ``S (S'S + ridge)^-1 a``; the ridge
        is that times the mean square of a column of S, which is 1 in the other case.

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
        with np.errstate(divide="ignore", invalid="ignore"):
            ridge = np.where(reliability > 0, (1 - reliability) / reliability, np.nan)
        return self._pictures(maps, ridge)

    @property
    def offset_digest(self) -> str:
        """SHA-256 of the offset's float32 values."""
        return hashlib.sha256(np.ascontiguousarray(self.offset, dtype="<f4").tobytes()).hexdigest()

    def images(
        self, grid: NDArray[np.int8] | torch.Tensor, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Turn grid values into images.

        Parameters
        ----------
        grid
            ``(n, C, h, w)`` int8, wherever they are.

        Returns
        -------
        torch.Tensor
            ``(n, C, H, W)`` float32 on `device`: what is shown. Of white noise it is one product
            and one sum a value, each rounded to float32, so every IEEE device gives the same bits.
        """
        offset, values = (
            torch.tensor(self.shown_offset, device=device),
            torch.as_tensor(grid, device=device),
        )
        if self.spec.measured:
            pixels = self._levels.to(device)[values.to(torch.int64) + MIDDLE]
            where = (
                self.offset
                if self.shown is None or self.offset.size == 1
                else self.offset[:, *self.shown.where]
            )
            return pixels if not where.any() else pixels.add_(torch.tensor(where, device=device))
        if self._has_basis:  # a product of whole numbers, exact in any order
            mixed = values.reshape(len(values), -1).to(torch.float64) @ self._pictures_on(
                torch.device(device)
            )
            return (
                mixed.mul_(self.unit * bases.STEP)
                .to(torch.float32)
                .reshape(len(values), *self.shown_shape)
                .add_(offset)
            )
        white = self.filtered(values.to(torch.float32)).mul_(np.float32(self.unit).item())
        return self._expand(white, self.shown_shape).add_(offset)

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is a function of one grid value and its channel alone."""
        return not self.spec.measured and not self.spec.mixed and self.offset.size == 1

    @cached_property
    def _levels(self) -> torch.Tensor:
        """``(256,)`` float32: the pixel of each byte."""
        return torch.from_numpy(
            (self.spec.scale * np.arange(LEVELS + 1) / LEVELS).astype(np.float32)
        )

    def _pictures_on(self, device: torch.device) -> torch.Tensor:
        """``(d, pixels)`` float64 whole numbers of a basis on a device, made once."""
        kept: dict[torch.device, torch.Tensor] = self.__dict__.setdefault("_placed", {})
        if device not in kept:
            kept[device] = torch.from_numpy(self._shown_basis[1:].astype(np.float64)).to(device)
        return kept[device]

    def expand_z(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """z on the grid ``(k, d)`` as pictures ``(k, C, H, W)`` whose every value has variance
        1 if the response ignores the stimulus.
        """
        pictures = self.expand(z)
        if self._has_basis:
            with np.errstate(invalid="ignore", divide="ignore"):
                pictures /= self._loud.reshape(self.shape)
            pictures[:, (self._loud == 0).reshape(self.shape)] = 0.0
        return pictures

    def expand(self, maps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps on the grid ``(k, d)`` as pictures ``(k, C, H, W)`` of a patch, as the noise itself:
        filtered, each cell's value over all its pixels, or mixed by the basis. Means of the grid
        become means of images; z stay of variance 1 (see `expand_z` for a basis), but correlate as
        the noise does.
        """
        return self._pictures(maps)

    def _pictures(
        self, maps: NDArray[np.float64], ridge: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        if self._has_basis:
            weights = maps.reshape(-1, self.pixels)
            if ridge is not None:
                values_, vectors = self._modes
                with np.errstate(divide="ignore"):
                    inverse = np.where(
                        values_ > 0, 1 / (values_ + ridge[:, None] * values_.mean()), 0.0
                    )
                inverse[np.isnan(ridge)] = np.nan
                weights = (weights @ vectors * inverse) @ vectors.T
            return np.asarray(weights @ self._synthesis.T).reshape(-1, *self.shape)
        values = torch.from_numpy(maps.reshape(-1, *self.grid_shape))
        if self.gain is None:
            return self._expand(values, self.shape).numpy()
        out = np.empty((len(maps), *self.shape))
        for i, picture in enumerate(
            out
        ):  # one at a time: a transform takes several times the memory of what it transforms
            picture[:] = self._expand(
                self.filtered(values[i : i + 1], None if ridge is None else ridge[i]), self.shape
            )[0].numpy()
        return out

    def place(self, maps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps ``(k, d)`` as pictures of all that is shown: in the middle one of the patches,
        zero elsewhere.
        """
        pictures = self.expand(maps)
        if self.patches is None:
            return pictures
        whole = np.zeros((len(pictures), *self.shown_shape))
        whole[:, :, *self.patches.middle.where] = pictures
        return whole

    def middle(self, grid: NDArray[Any]) -> NDArray[Any]:
        """The middle one of the patches, ``(n, C, h, w)``, of values on the grid of all that is
        shown.
        """
        if self.patches is None:
            return grid
        (_, h, w), box, cell = self.grid_shape, self.patches.middle, self.spec.cell
        return grid[
            :, :, box.top // cell : box.top // cell + h, box.left // cell : box.left // cell + w
        ]

    def _expand(self, values: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
        (_, h, w), cell = shape, self.spec.cell
        if cell == 1:
            return values
        # Contiguous where something is cut off, too: the memory format that a network gets must not
        # depend on how images were made.
        return (
            values.repeat_interleave(cell, 2)[:, :, :h]
            .repeat_interleave(cell, 3)[:, :, :, :w]
            .contiguous()
        )
