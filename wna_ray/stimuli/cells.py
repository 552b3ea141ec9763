"""Noise with one value for each cell of its grid, white or filtered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.noise.stream import Noise
from wna_ray.stimuli.base import Base, over_cells, stream


@dataclass(frozen=True)
class CellNoise(Base):
    """Images ``offset + scale * unit * grid``, each cell's value over all its pixels; the grid is
    filtered first where `filtered` says so.
    """

    @cached_property
    def noise(self) -> Noise:
        """The stream of grid values, shape ``(C, ceil(H / cell), ceil(W / cell))`` of what is
        shown.
        """
        return stream(self.spec, self.in_cells(self.shown_shape), self.seed)

    @property
    def swing(self) -> float:
        """Largest value that an image can have for grid values of at most 1."""
        return 1.0

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that a stimulus can take."""
        low, high = (end * self.swing for end in self.noise.table.range)
        return (
            float(self.offset.min()) + self.unit * low,
            float(self.offset.max()) + self.unit * high,
        )

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
        values = torch.as_tensor(grid, device=device).to(torch.float32)
        scaled = self.filtered(values).mul_(np.float32(self.unit).item())
        offset = torch.tensor(self.shown_offset, device=device)
        return over_cells(scaled, self.spec.cell, self.shown_shape).add_(offset)
