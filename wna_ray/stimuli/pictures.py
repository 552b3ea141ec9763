"""Sources of grid values; among them the pictures of a data set, whose grid is the byte less 128.

Nobody designed how bytes of pictures are distributed, and their pixels correlate; so their mean and
variance are measured, pixel by pixel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wna_ray.data.datasets import DatasetName, NotAtHand, load_bytes
from wna_ray.errors import CanaryError, SpecError
from wna_ray.noise.stream import Table

LEVELS = 255  # steps of a byte
MIDDLE = 128  # the byte of grid value 0


class Source(Protocol):
    """Grid values by index: noise, or pictures."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, h, w)`` of the grid."""

    @property
    def pixels(self) -> int:
        """Values in one image."""

    @property
    def table(self) -> Table:
        """The family of noise; `SpecError` where values are not designed."""

    def grid(self, start: int, stop: int) -> NDArray[np.int8]:
        """``(stop - start, C, h, w)``."""


class Bytes:
    """Grid values that are bytes less 128, whose distribution nobody designed."""

    @property
    def table(self) -> Table:
        """No family has such values: `SpecError`."""
        raise SpecError(
            "stimulus: nobody designed the distribution of pictures, which this needs; take noise"
            " (gaussian, uniform, ...)"
        )


@lru_cache(maxsize=2)
def images_of(
    dataset: DatasetName, split: str, classes: tuple[int, ...] | None
) -> tuple[NDArray[np.uint8], str]:
    """Images ``(n, C, H, W)`` of a data set in their order, of some of its classes where they are
    given; and their SHA-256.

    Raises
    ------
    SpecError
        It is not at hand, or has no such images.
    """
    try:
        images, labels = load_bytes(dataset, train=split == "train")
    except NotAtHand as reason:
        raise SpecError(f"stimulus.dataset: {reason}") from None
    if classes is not None:
        images = images[np.isin(labels, classes)]
    if not len(images):
        raise SpecError(
            f"stimulus.classes: {dataset} has no images of {', '.join(map(str, classes or ()))}"
        )
    total = hashlib.sha256(str(images.shape).encode())
    total.update(np.ascontiguousarray(images).data)
    return images, total.hexdigest()


def cell_means(grid: NDArray[np.int8], cell: int) -> NDArray[np.int8]:
    """Means of pictures ``(n, C, H, W)`` over square cells, ``(n, C, ceil(H / cell), ceil(W /
    cell))``, rounded (half up).

    Cells at the lower and right border are as large as the picture lets them be. Rounding errs by
    half a byte at most.
    """
    rows, columns = (np.arange(0, side, cell) for side in grid.shape[2:])
    total = np.add.reduceat(np.add.reduceat(grid, rows, axis=2, dtype=np.int64), columns, axis=3)
    sizes = [
        np.diff([*starts, side])
        for starts, side in zip((rows, columns), grid.shape[2:], strict=True)
    ]
    area = np.outer(*sizes)
    return np.asarray((2 * total + area) // (2 * area), dtype=np.int8)


@dataclass(frozen=True)
class Pictures(Bytes):
    """Images of a data set; after the last the first comes again.

    Attributes
    ----------
    dataset, split, classes
        Which ones.
    where
        Rows and columns that are shown.
    shape
        ``(C, H, W)`` of what is shown.
    digest
        What the images must be; "" where that is not known yet.
    """

    dataset: DatasetName
    split: str
    classes: tuple[int, ...] | None
    where: tuple[slice, slice]
    shape: tuple[int, int, int]
    digest: str = ""

    @property
    def pixels(self) -> int:
        """Values in one image."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @cached_property
    def _images(self) -> NDArray[np.uint8]:
        images, digest = images_of(self.dataset, self.split, self.classes)
        if self.digest not in ("", digest):
            raise CanaryError(
                f"stimulus.dataset: the {self.dataset} at hand here has other images than the run"
                " began with; set WNA_DATA to the same data set on all machines, or start a"
                " new run"
            )
        return images

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._images)

    def grid(self, start: int, stop: int) -> NDArray[np.int8]:
        """``(stop - start, C, H, W)`` int8: bytes less 128."""
        chosen = self._images[np.arange(start, stop) % self.count]
        return (np.ascontiguousarray(chosen[:, :, *self.where]) ^ np.uint8(MIDDLE)).view(np.int8)
