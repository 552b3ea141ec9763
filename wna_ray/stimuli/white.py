"""White noise: the values of all cells are independent."""

from __future__ import annotations

from dataclasses import dataclass

from wna_ray.stimuli.cells import CellNoise


@dataclass(frozen=True)
class WhiteNoise(CellNoise):
    """Images ``offset + scale * unit * grid``, each cell's value over all its pixels."""

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is a function of one grid value and its channel alone: where the
        offset is a number.
        """
        return self.offset.size == 1
