"""What all kinds of stimuli share: a seed and an offset, patches of images, maps over cells.

Each kind is a class on top of `Base`, in a file of its own. It says where grid values come from and
how they become images, and replaces what else is not as it is for white noise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.geometry import Shape
from wna_ray.noise.stream import Noise
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli.geometry import Geometry
from wna_ray.stimuli.offsets import offset_digest
from wna_ray.stimuli.pictures import Source

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Base(Geometry, ABC):
    """A stimulus of any kind: grid values by index, how they become images, and how maps on the
    grid become pictures.

    Attributes
    ----------
    seed
        Noise seed.
    offset
        ``(C, H, W)`` or ``(1, 1, 1)`` float32, of the whole image.
    basis
        ``(1 + d, C * H * W)`` int32, of the whole image (see `wna_ray.stimuli.bases.build`); None
        but for mixtures, which only need it to make images and pictures.
    content
        SHA-256 of what a data set has given, a basis or images; "" where it is not known yet, or
        nothing was given.
    """

    seed: int
    offset: NDArray[np.float32]
    basis: NDArray[np.int32] | None = None
    content: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """What travels between processes: not what can be made again, such as the images of a
        data set.
        """
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def with_seed(self, seed: int) -> Self:
        """The same stimulus with noise of another seed."""
        return replace(self, seed=seed)

    @property
    @abstractmethod
    def noise(self) -> Source:
        """The stream of grid values of all that is shown."""

    @abstractmethod
    def images(
        self, grid: NDArray[np.int8] | torch.Tensor, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Turn grid values ``(n, C, h, w)`` int8 into images ``(n, C, H, W)`` float32."""

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that a stimulus can take."""

    # Sizes and correlations of values

    @property
    def unit(self) -> float:
        """Size of one grid unit in the stimulus's own units (pixels or network input)."""
        return float(self.spec.scale * self.noise.table.unit)

    @property
    def sd(self) -> float:
        """Exact standard deviation of a stimulus value around its offset."""
        return self.unit * math.sqrt(self.noise.table.variance)

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is a function of one grid value and its channel alone."""
        return False

    @property
    def gain(self) -> Floats | None:
        """Amplitude of the noise's filter at each frequency; None where nothing is filtered."""
        return None

    @property
    def synthesis(self) -> Floats | None:
        """The matrix that mixes images of weights; None where images are no such mixtures."""
        return None

    def filtered(self, values: torch.Tensor) -> torch.Tensor:
        """Values ``(n, C, h, w)`` on the whole grid with the noise's spectrum: here unchanged."""
        return values

    def adjoint(self, values: torch.Tensor) -> torch.Tensor:
        """Slopes by pixel ``(n, C, h, w)``, of all that is shown, as slopes by grid value: the
        transpose of what makes images.
        """
        return values

    # Offsets

    @property
    def bare_offset(self) -> NDArray[np.float32]:
        """The offset alone, of what is shown."""
        if self.shown is None or self.offset.size == 1:
            return self.offset
        return self.offset[:, *self.shown.where]

    @property
    def shown_offset(self) -> NDArray[np.float32]:
        """The image of what is shown where the grid is 0."""
        return self.bare_offset

    @property
    def kept_offset(self) -> NDArray[np.float32]:
        """The same of a patch, the middle one: ``(C, H, W)``."""
        whole = np.broadcast_to(self.shown_offset, self.shown_shape)
        return whole if self.patches is None else whole[:, *self.patches.middle.where]

    @property
    def offset_digest(self) -> str:
        """SHA-256 of the offset's float32 values."""
        return offset_digest(self.offset)

    # Maps on the grid as pictures

    def expand(self, maps: Floats) -> Floats:
        """Maps on the grid ``(k, d)`` as pictures ``(k, C, H, W)`` of a patch, as the noise itself:
        each cell's value over all its pixels.
        """
        values = torch.from_numpy(maps.reshape(-1, *self.grid_shape))
        return over_cells(values, self.spec.cell, self.shape).numpy()

    def expand_z(self, z: Floats) -> Floats:
        """z on the grid ``(k, d)`` as pictures ``(k, C, H, W)`` whose every value has variance
        1 if the response ignores the stimulus.
        """
        return self.expand(z)

    def whitened(self, maps: Floats, reliability: Floats) -> Floats:
        """Maps ``(k, d)`` of reliability ``(k,)`` on the grid freed of the noise's correlations, as
        pictures ``(k, C, H, W)``: here there are none.
        """
        return self.expand(maps)

    def place(self, maps: Floats) -> Floats:
        """Maps ``(k, d)`` as pictures of all that is shown: in the middle one of the patches,
        zero elsewhere.
        """
        pictures = self.expand(maps)
        if self.patches is None:
            return pictures
        whole = np.zeros((len(pictures), *self.shown_shape))
        whole[:, :, *self.patches.middle.where] = pictures
        return whole

    # Patches of the grid

    def keep(self, grid: NDArray[np.int8]) -> NDArray[np.int8]:
        """What moments are kept of: patches ``(n * patches, C, h, w)`` of grid values ``(n, C, H',
        W')``, image by image, row by row.
        """
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


def stream(spec: StimulusSpec, shape: Shape, seed: int) -> Noise:
    """The noise of a spec on a grid ``(C, h, w)``."""
    assert spec.kind != "images", "images of a data set are no noise"
    return Noise(spec.kind, shape, seed, spec.density)


def over_cells(values: torch.Tensor, cell: int, shape: Shape) -> torch.Tensor:
    """Values of cells ``(n, C, h, w)`` over all pixels of each: ``(n, C, H, W)`` of `shape`."""
    if cell == 1:
        return values
    _, h, w = shape
    # Contiguous where something is cut off, too: the memory format that a network gets must not
    # depend on how images were made.
    return (
        values.repeat_interleave(cell, 2)[:, :, :h]
        .repeat_interleave(cell, 3)[:, :, :, :w]
        .contiguous()
    )


def ridge_of(reliability: Floats) -> Floats:
    """The ridge ``(k,)`` that errs least for maps of a reliability R, ``(1 - R) / R``; NaN where
    nothing is reliable.

    It is noise over signal in each value, for a true map that is white (Hoerl & Kennard 1970,
    Technometrics 12:55).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(reliability > 0, (1 - reliability) / reliability, np.nan)
