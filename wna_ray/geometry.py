"""Rectangles of pixels and ranges of images."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """Rows ``top ... top + height - 1`` and columns ``left ... left + width - 1`` of an image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Pixels in a channel."""
        return self.height * self.width

    @property
    def where(self) -> tuple[slice, slice]:
        """Index of its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def within(self, other: Box) -> bool:
        """Whether it is a part of another."""
        rows = other.top <= self.top < self.top + self.height <= other.top + other.height
        return rows and other.left <= self.left < self.left + self.width <= other.left + other.width

    def seen_from(self, other: Box) -> Box:
        """The same place, counted from the corner of another box."""
        return Box(self.top - other.top, self.left - other.left, self.height, self.width)


@dataclass(frozen=True)
class Patches:
    """The parts of a shown image that moments are kept of: `rows` x `columns` boxes, each `step`
    pixels from the last.

    Attributes
    ----------
    first
        The first of them; cells of the noise are never cut, except by the border of the image.
    rows, columns, step
        One box where both are 1.
    """

    first: Box
    rows: int = 1
    columns: int = 1
    step: tuple[int, int] = (1, 1)

    @property
    def count(self) -> int:
        """Patches in an image."""
        return self.rows * self.columns

    @property
    def middle(self) -> Box:
        """The one in the middle."""
        first, (down, right) = self.first, self.step
        return Box(
            first.top + self.rows // 2 * down,
            first.left + self.columns // 2 * right,
            first.height,
            first.width,
        )


Span = tuple[int, int]
