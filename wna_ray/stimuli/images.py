"""Images of a data set as stimuli: their grid is the byte less 128."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.stimuli.base import Base
from wna_ray.stimuli.pictures import LEVELS, MIDDLE, Pictures, Source, cell_means


@dataclass(frozen=True)
class Images(Base):
    """Images ``offset + scale * (grid + 128) / 255``; in cells they are shown whole, and moments
    are kept of the cells' means.
    """

    @cached_property
    def noise(self) -> Source:
        """The images as grid values, in their order: ``(C, H, W)`` of what is shown."""
        spec = self.spec
        assert spec.dataset is not None, "the spec sees to it"
        return Pictures(
            spec.dataset,
            spec.split or "train",
            spec.classes,
            self.window,
            self.shown_shape,
            self.content,
        )

    @property
    def unit(self) -> float:
        """Size of one step of a byte in the stimulus's own units (pixels or network input)."""
        return self.spec.scale / LEVELS

    @property
    def sd(self) -> float:
        """NaN: nobody designed how pictures are distributed, so it is measured."""
        return math.nan

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that a stimulus can take."""
        return float(self.offset.min()), float(self.offset.max()) + self.spec.scale

    @cached_property
    def shown_offset(self) -> NDArray[np.float32]:
        """The image of what is shown where the grid is 0: the offset, and grey 128."""
        return self.bare_offset + np.float32(self.unit * MIDDLE)

    @cached_property
    def _levels(self) -> torch.Tensor:
        """``(256,)`` float32: the pixel of each byte."""
        return torch.from_numpy(
            (self.spec.scale * np.arange(LEVELS + 1) / LEVELS).astype(np.float32)
        )

    def images(
        self, grid: NDArray[np.int8] | torch.Tensor, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Turn bytes less 128, ``(n, C, H, W)`` int8, into images of that shape, float32 on
        `device`.
        """
        values = torch.as_tensor(grid, device=device)
        pixels = self._levels.to(device)[values.to(torch.int64) + MIDDLE]
        offset = self.bare_offset
        return pixels.add_(torch.tensor(offset, device=device)) if offset.any() else pixels

    def keep(self, grid: NDArray[np.int8]) -> NDArray[np.int8]:
        """What moments are kept of: patches ``(n * patches, C, h, w)`` of grid values ``(n, C, H',
        W')``, image by image, row by row; in cells of their means, rounded.
        """
        return super().keep(grid if self.spec.cell == 1 else cell_means(grid, self.spec.cell))
