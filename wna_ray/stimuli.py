"""Stimuli: noise on its grid, turned into images, and maps on the grid turned back into pictures."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import SpecError
from wna_ray.noise import Noise
from wna_ray.spec import StimulusSpec

BUNDLED_OFFSETS = {"bundled:mnist-mean": "mnist-mean.npy"}


def load_offset(spec: StimulusSpec) -> NDArray[np.float32]:
    """The offset as an image.

    Returns
    -------
    numpy.ndarray
        ``(C, H, W)`` float32 for an image, ``(1, 1, 1)`` for a number.

    Raises
    ------
    SpecError
        The file is missing, is not a plain ``.npy`` array, has another shape than the stimulus, or is not finite.
    """
    if not isinstance(spec.offset, str):
        return np.full((1, 1, 1), spec.offset, dtype=np.float32)
    name, where = spec.offset, f"stimulus.offset: '{spec.offset}'"
    if name in BUNDLED_OFFSETS:
        data = files("wna_ray").joinpath("bundled", BUNDLED_OFFSETS[name]).read_bytes()
    elif not Path(name).is_file():
        choices = ", ".join(BUNDLED_OFFSETS)
        raise SpecError(f"{where} is no file; give a number, a .npy file with a (C, H, W) image, or one of: {choices}")
    else:
        data = Path(name).read_bytes()
    try:
        image = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, BadZipFile) as error:
        raise SpecError(f"{where} is not a plain .npy array ({error})") from None
    if not isinstance(image, np.ndarray) or image.shape != spec.shape or image.dtype.kind not in "fiu":
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else "an archive"
        raise SpecError(f"{where} holds {found}; expected numbers of shape {spec.shape}, as stimulus.shape says")
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        raise SpecError(f"{where} holds values that are not finite")
    return image


@dataclass(frozen=True)
class Stimulus:
    """Images ``offset + scale * unit * grid``, addressable by index.

    Attributes
    ----------
    spec
        What was asked for.
    seed
        Noise seed.
    offset
        ``(C, H, W)`` or ``(1, 1, 1)`` float32.
    """

    spec: StimulusSpec
    seed: int
    offset: NDArray[np.float32]

    @cached_property
    def noise(self) -> Noise:
        """The stream of grid values, shape ``(C, ceil(H / cell), ceil(W / cell))``."""
        (c, h, w), cell = self.spec.shape, self.spec.cell
        return Noise(self.spec.kind, (c, -(-h // cell), -(-w // cell)), self.seed, self.spec.density)

    @property
    def unit(self) -> float:
        """Size of one grid unit in the stimulus's own units (pixels or network input)."""
        return float(self.spec.scale * self.noise.table.unit)

    @property
    def sd(self) -> float:
        """Exact standard deviation of a stimulus value around its offset."""
        return self.unit * math.sqrt(self.noise.table.variance)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that a stimulus can take."""
        low, high = self.noise.table.range
        return float(self.offset.min()) + self.unit * low, float(self.offset.max()) + self.unit * high

    @property
    def offset_digest(self) -> str:
        """SHA-256 of the offset's float32 values."""
        return hashlib.sha256(np.ascontiguousarray(self.offset, dtype="<f4").tobytes()).hexdigest()

    def images(self, grid: NDArray[np.int8], device: torch.device | str = "cpu") -> torch.Tensor:
        """Turn grid values into images.

        Parameters
        ----------
        grid
            ``(n, C, h, w)`` int8.

        Returns
        -------
        torch.Tensor
            ``(n, C, H, W)`` float32 on `device`. One product and one sum a value, each rounded to float32, so every
            IEEE device gives the same bits.
        """
        values = torch.from_numpy(grid).to(device).to(torch.float32).mul_(np.float32(self.unit).item())
        return self._expand(values).add_(torch.tensor(self.offset, device=device))

    def expand(self, maps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps on the grid ``(k, d)`` as pictures ``(k, C, H, W)``: each cell's value over all its pixels."""
        return self._expand(torch.from_numpy(maps.reshape(-1, *self.noise.shape))).numpy()

    def _expand(self, values: torch.Tensor) -> torch.Tensor:
        (_, h, w), cell = self.spec.shape, self.spec.cell
        if cell == 1:
            return values
        return values.repeat_interleave(cell, 2)[:, :, :h].repeat_interleave(cell, 3)[:, :, :, :w]
