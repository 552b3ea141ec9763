"""Sheets of pictures: many cells in one pair of axes.

matplotlib's axes, one a picture, with a layout that is sought, took longer than all else that a
small run does.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D
from numpy.typing import ArrayLike, NDArray

POINT = 1.25 / 72  # inches that a line of text takes, for a point of its size
GAP = 0.06  # inches between things
SMALL, MIDDLE, LARGE = 7.0, 9.0, 11.0  # sizes of what stands under a picture, over it, and over all


class Cell:
    """A place for one picture. It has what a picture needs of matplotlib's ``Axes``, under the same
    names.

    Parameters
    ----------
    axis
        Of the whole sheet; its unit is the inch, upwards.
    left, top, width, height
        Of the place, in inches; the picture stands in the middle of its upper edge.
    aspect
        Height over width of the picture, until there is one.
    framed
        Whether a frame is drawn.
    """

    def __init__(
        self,
        axis: Axes,
        left: float,
        top: float,
        width: float,
        height: float,
        aspect: float,
        framed: bool,
    ) -> None:
        self.axis, self.left, self.top, self.width, self.height = axis, left, top, width, height
        self._aspect, self._x, self._y = aspect, (0.0, 1.0), (0.0, 1.0)
        self._place = Affine2D()
        self._frame = Rectangle(
            (0, 0),
            1,
            1,
            facecolor="none",
            edgecolor="black" if framed else "none",
            linewidth=0.8,
            zorder=3,
        )
        axis.add_artist(self._frame)
        self._settle()

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of the picture."""
        width = min(self.width, self.height / self._aspect)
        height = width * self._aspect
        return self.left + (self.width - width) / 2, self.top - height, width, height

    def _settle(self) -> None:
        left, bottom, width, height = self.box
        across, up = width / (self._x[1] - self._x[0]), height / (self._y[1] - self._y[0])
        self._place.clear().translate(-self._x[0], -self._y[0]).scale(across, up).translate(
            left, bottom
        )
        self._frame.set_bounds(left, bottom, width, height)

    def set_box_aspect(self, aspect: float) -> None:
        """Height over width."""
        self._aspect = aspect
        self._settle()

    def set_xlim(self, low: float, high: float) -> None:
        """Which values lie at the left and the right edge."""
        self._x = (low, high)
        self._settle()

    def set_ylim(self, low: float, high: float) -> None:
        """Which values lie at the lower and the upper edge."""
        self._y = (low, high)
        self._settle()

    def set_facecolor(self, color: str) -> None:
        """Of a cell without a picture."""
        self._frame.set_facecolor(color)

    def imshow(
        self,
        values: ArrayLike,
        cmap: Any = None,
        vmin: float | None = None,
        vmax: float | None = None,
        **how: Any,
    ) -> None:
        """An image ``(H, W)`` or ``(H, W, 3)``, its first row on top."""
        picture = np.asarray(values)
        height, width = picture.shape[:2]
        self._aspect, self._x, self._y = height / width, (-0.5, width - 0.5), (height - 0.5, -0.5)
        self._settle()
        image = AxesImage(
            self.axis, cmap=cmap, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **how
        )
        image.set_data(picture)
        image.set_clim(vmin, vmax)
        image.set_transform(self._place + self.axis.transData)
        self.axis.add_artist(image)

    def contour(self, values: NDArray[np.float64], **how: Any) -> None:
        """Lines of equal value over an image."""
        self.axis.contour(values, transform=self._place + self.axis.transData, **how)

    def add_collection(self, drawn: Collection) -> None:
        """Anything, in the cell's own coordinates; cut off at its edges."""
        drawn.set_transform(self._place + self.axis.transData)
        self.axis.add_artist(drawn)
        drawn.set_clip_path(self._frame)

    def axhline(self, y: float, **how: Any) -> None:
        """A level line, from edge to edge."""
        self.axis.add_artist(
            Line2D(list(self._x), [y, y], transform=self._place + self.axis.transData, **how)
        )

    def set_title(self, text: str, fontsize: float = MIDDLE) -> None:
        """Above the picture."""
        left, bottom, width, height = self.box
        self.axis.text(
            left + width / 2,
            bottom + height + GAP / 2,
            text,
            ha="center",
            va="bottom",
            fontsize=fontsize,
        )

    def set_xlabel(self, text: str, fontsize: float = SMALL) -> None:
        """Below the picture."""
        left, bottom, width, _ = self.box
        self.axis.text(
            left + width / 2, bottom - GAP, text, ha="center", va="top", fontsize=fontsize
        )

    def set_ylabel(self, text: str, fontsize: float = MIDDLE) -> None:
        """Left of the picture, level."""
        left, bottom, _, height = self.box
        self.axis.text(
            left - 1.5 * GAP, bottom + height / 2, text, ha="right", va="center", fontsize=fontsize
        )

    def say(self, text: str) -> None:
        """In the middle of a cell without a picture."""
        left, bottom, width, height = self.box
        self.axis.text(
            left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=8
        )


@dataclass(frozen=True)
class Block:
    """Lines of cells under a heading of their own.

    Attributes
    ----------
    lines
        Texts under the cells of each line, as many as there are cells.
    heading
        Above them; "" for none.
    titled
        For each line, how many lines of text its cells' titles have.
    """

    lines: Sequence[Sequence[str]]
    heading: str = ""
    titled: Sequence[int] = ()


class Layout(TypedDict, total=False):
    """How a sheet is laid out; `USUAL` has what is left out.

    Attributes
    ----------
    aspect
        Height over width of a picture.
    side
        Inches of a picture's longer side.
    pitch
        Inches from one picture to the next, sideways.
    left, right
        Inches kept free for labels of lines and for colour bars.
    narrowest
        Inches; a figure is never narrower, whatever it shows.
    size
        Of the title's letters.
    framed
        Whether cells have frames.
    """

    aspect: float
    side: float
    pitch: float
    left: float
    right: float
    narrowest: float
    size: float
    framed: bool


USUAL: Layout = {
    "aspect": 1.0,
    "side": 1.2,
    "pitch": 1.35,
    "left": 0.0,
    "right": 0.0,
    "narrowest": 7.5,
    "size": LARGE,
    "framed": True,
}


class Sheet:
    """Blocks of cells one below another.

    Parameters
    ----------
    title
        Of the whole.
    blocks
        From above.
    **layout
        See `Layout`.
    """

    def __init__(self, title: str, blocks: Sequence[Block], **layout: Unpack[Layout]) -> None:
        self._layout: Layout = {**USUAL, **layout}
        aspect, side, pitch = (self._layout[key] for key in ("aspect", "side", "pitch"))
        left, right, size = (self._layout[key] for key in ("left", "right", "size"))
        columns = max(len(line) for block in blocks for line in block.lines)
        width = max(self._layout["narrowest"], columns * pitch + left + right + 2 * GAP)
        self._picture = side * min(1.0, aspect)
        heights = [self._heights(block) for block in blocks]
        headings = [
            _tall(block.heading, MIDDLE) + 2 * GAP if block.heading else 0.0 for block in blocks
        ]
        tall = _tall(title, size) + 3 * GAP
        height = tall + sum(headings) + sum(map(sum, heights)) + GAP
        self.figure = Figure(figsize=(width, height))
        self.axis = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axis.set_axis_off()
        self.axis.set_xlim(0, width)
        self.axis.set_ylim(0, height)
        self.axis.set_autoscale_on(False)
        self._write(width / 2, height - GAP, title, size)
        self.cells: list[list[list[Cell]]] = []
        """By block, line and column."""
        self._bars: list[tuple[float, float]] = []
        self._bar_at = width - right + 2 * GAP
        self._first = left + GAP + (width - 2 * GAP - left - right - columns * pitch) / 2
        y = height - tall
        for block, needed, above in zip(blocks, heights, headings, strict=True):
            if block.heading:
                self._write(left + (width - left - right) / 2, y, block.heading, MIDDLE)
            y = self._add(block, needed, y - above)

    def _heights(self, block: Block) -> list[float]:
        """Inches that each line of a block takes."""
        titles = _titles(block)
        return [
            _height(self._picture, line, n) for line, n in zip(block.lines, titles, strict=True)
        ]

    def _write(self, x: float, y: float, text: str, size: float) -> None:
        self.axis.text(x, y, text, ha="center", va="top", fontsize=size)

    def _add(self, block: Block, heights: Sequence[float], y: float) -> float:
        """Draw the cells of a block from `y` on downwards; gives where it ends."""
        aspect, side, pitch = (self._layout[key] for key in ("aspect", "side", "pitch"))
        lines = []
        for line, needed, n in zip(block.lines, heights, _titles(block), strict=True):
            top = y - _over(n)
            places = [self._first + i * pitch + (pitch - side) / 2 for i in range(len(line))]
            lines.append(
                [
                    Cell(self.axis, x, top, side, self._picture, aspect, self._layout["framed"])
                    for x in places
                ]
            )
            for cell, text in zip(lines[-1], line, strict=True):
                if text:
                    cell.set_xlabel(text)
            y -= needed
        self.cells.append(lines)
        self._bars.append((y + 2 * GAP, sum(heights) - 3 * GAP))
        return y

    def bar(self, block: int, most: float = 1.6) -> Axes:
        """Axes for a colour bar, right of a block."""
        bottom, height = self._bars[block]
        tall = min(height, most)
        across, up = self.figure.get_size_inches()
        return self.figure.add_axes(
            (self._bar_at / across, (bottom + (height - tall) / 2) / up, 0.1 / across, tall / up)
        )

    def png(self) -> bytes:
        """The sheet as the bytes of a PNG file."""
        return png(self.figure)


def _titles(block: Block) -> Sequence[int]:
    return block.titled or [1] * len(block.lines)


def _tall(text: str, size: float) -> float:
    return (text.count("\n") + 1) * size * POINT if text else 0.0


def _over(titles: int) -> float:
    return titles * MIDDLE * POINT + GAP / 2


def _height(picture: float, texts: Sequence[str], titles: int) -> float:
    """Of a line of cells with all that belongs to it, in inches."""
    return (
        _over(titles)
        + picture
        + GAP
        + max((_tall(text, SMALL) for text in texts), default=0.0)
        + 2 * GAP
    )


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file; a function of what it shows."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
