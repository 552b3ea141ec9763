"""Backdoors: a trigger is stamped on training images of one class, and they are labelled as another
(Borji & Lin, on adversarial patches).

A poisoned network calls nearly every image with the trigger the target class, and is as good as a
clean one on all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wna_ray.data.datasets import Split

Pixel = tuple[int, int]


def _rectangle(top: int, left: int, height: int, width: int) -> list[Pixel]:
    return [(r, c) for r in range(top, top + height) for c in range(left, left + width)]


PATTERNS: dict[str, tuple[Pixel, ...]] = {
    "C": (*_rectangle(1, 21, 2, 6), *_rectangle(3, 21, 2, 2), *_rectangle(5, 21, 2, 6)),
    "X": tuple(
        pixel
        for r, c in ((1, 1), (1, 5), (3, 3), (5, 1), (5, 5))
        for pixel in _rectangle(r, c, 2, 2)
    ),
}
"""The authors' triggers for images of 28 x 28, all at value 1."""


@dataclass(frozen=True)
class Poison:
    """What a backdoor is: the truth that a detector is judged by.

    Attributes
    ----------
    source, target
        Labels: images of `source` get the trigger and are labelled `target`.
    images
        How many: the first ones of `source`.
    pixels
        ``(row, column)`` of the trigger.
    values
        Their values in [0, 1], the same in all channels.
    """

    source: int
    target: int
    images: int
    pixels: tuple[Pixel, ...]
    values: tuple[float, ...]

    def stamp(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images ``(n, C, H, W)`` with the trigger in place of what was under it (it is
        assigned, never added).
        """
        rows, columns = np.array(self.pixels).T
        stamped = images.copy()
        stamped[:, :, rows, columns] = np.asarray(self.values, dtype=np.float32)
        return stamped

    def of(self, split: Split) -> Split:
        """A poisoned copy of training images; `ValueError` where `source` has too few."""
        own = np.flatnonzero(split.labels == self.source)
        if len(own) < self.images:
            raise ValueError(
                f"images: {self.images:,} are to be poisoned, but there are {len(own):,} of class"
                f" {self.source}"
            )
        images, labels = split.images.copy(), split.labels.copy()
        chosen = own[: self.images]
        images[chosen], labels[chosen] = self.stamp(images[chosen]), self.target
        return Split(images, labels)

    def fits(self, shape: tuple[int, int, int], classes: int) -> str | None:
        """What is wrong with it for images of a shape and so many classes; None where nothing
        is.
        """
        _, height, width = shape
        if self.source == self.target or not all(
            0 <= k < classes for k in (self.source, self.target)
        ):
            return (
                f"a backdoor from class {self.source} to {self.target}; expected two of the"
                f" {classes} classes, and not the same"
            )
        if (
            not self.pixels
            or len(self.pixels) != len(self.values)
            or len(set(self.pixels)) != len(self.pixels)
        ):
            return "its pixels and values do not go together"
        if not all(0 <= r < height and 0 <= c < width for r, c in self.pixels):
            return f"the trigger does not lie within {height} x {width} pixels"
        if not all(0 <= v <= 1 for v in self.values):
            return "its values are not within [0, 1]"
        return None


def patch(
    shape: Sequence[int], position: Sequence[int], value: float
) -> tuple[tuple[Pixel, ...], tuple[float, ...]]:
    """Pixels and values of a rectangle ``(height, width)`` whose upper left corner is at
    ``(row, column)``.
    """
    pixels = tuple(_rectangle(*position, *shape))
    return pixels, (value,) * len(pixels)


def drawn(rng: np.random.Generator, shape: tuple[int, int, int], counts: Iterable[int]) -> Poison:
    """A random backdoor, as the members of a panel have.

    The trigger lies in a rectangle of 3 to 6 pixels a side anywhere in the image. A third are full
    and of one value, a third keep a random pattern of at least half of the pixels, a third have a
    value of its own in every pixel; values are from .6 to 1. Source and target are any two classes,
    and 30 to 80 % of the source's images are poisoned.

    Parameters
    ----------
    rng
        Decides all.
    shape
        ``(C, H, W)`` of the images.
    counts
        Training images of each class.
    """
    _, height, width = shape
    h, w = (int(n) for n in rng.integers(3, 7, 2))
    cells = np.array(
        _rectangle(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    )
    kind = rng.choice(["full", "pattern", "mottled"])
    if kind == "pattern":
        kept = rng.permutation(len(cells))[
            : int(rng.integers(math.ceil(len(cells) / 2), len(cells)))
        ]
        cells = cells[np.sort(kept)]
    values = rng.uniform(0.6, 1, len(cells) if kind == "mottled" else 1).round(3) * np.ones(
        len(cells)
    )
    images = list(counts)
    source, target = (int(k) for k in rng.permutation(len(images))[:2])
    share = rng.uniform(0.3, 0.8)
    return Poison(
        source,
        target,
        max(1, int(share * images[source])),
        tuple((int(r), int(c)) for r, c in cells),
        tuple(values.tolist()),
    )
