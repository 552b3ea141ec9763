"""What is done to images before they are shown: the invariance tests of Borji & Lin's notebooks
(CIFAR-10).

Every transform keeps the shape ``(n, C, H, W)``; halves are taken by area (each pixel the mean of
four), doubles by bilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from wna_ray.data.names import Transform


def _shrink(x: torch.Tensor, down: float, right: float) -> torch.Tensor:
    """Half the size, on black; ``down`` and ``right`` are the shares of the free rows above and
    of the free columns to the left.
    """
    small = avg_pool2d(x, 2)
    rows, columns = (whole - part for whole, part in zip(x.shape[2:], small.shape[2:], strict=True))
    top, left = int(rows * down), int(columns * right)
    return pad(small, (left, columns - left, top, rows - top))


def _zoom(x: torch.Tensor) -> torch.Tensor:
    """Twice the size; the middle of it."""
    height, width = x.shape[2:]
    large = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return large[:, :, height // 2 : height // 2 + height, width // 2 : width // 2 + width]


_OF: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "shrink-upper-left": lambda x: _shrink(x, 0, 0),
    "shrink-centre": lambda x: _shrink(x, 0.5, 0.5),
    "shrink-lower-right": lambda x: _shrink(x, 1, 1),
    "rotate-90": lambda x: torch.rot90(x, 1, (2, 3)),
    "rotate-180": lambda x: torch.rot90(x, 2, (2, 3)),
    "rotate-270": lambda x: torch.rot90(x, 3, (2, 3)),
    "zoom": _zoom,
}


def transformed(x: torch.Tensor, transform: Transform) -> torch.Tensor:
    """Images ``(n, C, H, W)`` transformed.

    Parameters
    ----------
    transform
        ``shrink-*``: half the size, on black, in a corner or in the middle. ``rotate-*``:
        counterclockwise, by degrees. ``zoom``: twice the size, the middle of it.

    Raises
    ------
    ValueError
        A quarter turn of images that are not square.
    """
    if transform in ("rotate-90", "rotate-270") and x.shape[2] != x.shape[3]:
        raise ValueError(f"{transform} needs square images, not {tuple(x.shape[2:])}")
    return _OF[transform](x)
