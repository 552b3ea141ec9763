"""Sheets of pictures, by what comes out of the PNG file."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.image import imread
from numpy.typing import NDArray

from wna_ray.drawing.maps import light, show
from wna_ray.drawing.sheets import Block, Cell, Sheet
from wna_ray.paper import charts

DPI = 130
RED, GREEN, BLUE, WHITE = (
    np.array(c, dtype=float) for c in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))
)


def drawn(sheet: Sheet) -> NDArray[np.float64]:
    """``(rows, columns, 3)``, the first row on top."""
    return np.asarray(imread(BytesIO(sheet.png()))[:, :, :3], dtype=np.float64)


def at(pixels: NDArray[np.float64], cell: Cell, x: float, y: float) -> NDArray[np.float64]:
    """The colour at a place of a cell, from its left and upper edge as shares of its size."""
    left, bottom, width, height = cell.box
    return np.asarray(
        pixels[int(len(pixels) - (bottom + height * (1 - y)) * DPI), int((left + width * x) * DPI)]
    )


def picture(*quarters: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(3, 2, 2)`` of four colours, row by row."""
    return np.stack(quarters, axis=1).reshape(3, 2, 2)


def test_every_picture_stands_in_its_cell_the_right_way_up() -> None:
    sheet = Sheet("title", [Block([["a", "b\nb"], ["c"]], "heading"), Block([[""]])])
    first, second = picture(RED, GREEN, BLUE, WHITE), picture(BLUE, BLUE, RED, GREEN)
    cells = [cell for block in sheet.cells for line in block for cell in line]
    assert len(cells) == 4
    for cell, shown in zip(cells, (first, second, second, first), strict=True):
        light(cell, shown)
    pixels = drawn(sheet)
    for cell, shown in zip(cells, (first, second, second, first), strict=True):
        for i, j in np.ndindex(2, 2):
            assert np.array_equal(at(pixels, cell, 0.25 + 0.5 * j, 0.25 + 0.5 * i), shown[:, i, j])


def test_nothing_overlaps_and_all_is_on_the_sheet() -> None:
    """Cells, and the texts around them, by the boxes that matplotlib measures."""
    lines = [["one\ntwo\nthree"] * 5, ["one"] * 5]
    sheet = Sheet(
        "a\ntitle",
        [Block(lines, "heading", titled=[2, 0]), Block([["x"] * 3], "another")],
        left=1,
        right=0.75,
    )
    for cell in sheet.cells[0][0]:
        cell.set_title("over\nit")
    sheet.cells[0][1][0].set_ylabel("line")
    sheet.bar(0)
    sheet.png()
    width, height = sheet.figure.get_size_inches() * sheet.figure.dpi
    texts = [text.get_window_extent() for text in sheet.axis.texts]
    boxes = [cell.box for block in sheet.cells for line in block for cell in line]
    frames = [
        [x * sheet.figure.dpi for x in (left, bottom, left + w, bottom + h)]
        for left, bottom, w, h in boxes
    ]
    every = [list(t.extents) for t in texts] + frames
    assert len(every) == 1 + 2 + 5 + 5 + 5 + 3 + 1 + 13
    for i, (left, bottom, right, top) in enumerate(every):
        assert min(left, bottom) >= 0
        assert right <= width
        assert top <= height
        for other in every[:i]:
            assert right <= other[0] or other[2] <= left or top <= other[1] or other[3] <= bottom


@pytest.mark.parametrize("shape", [(1, 20, 10), (1, 10, 20), (1, 7, 7)])
def test_a_picture_keeps_its_proportions(shape: tuple[int, int, int]) -> None:
    sheet = Sheet("", [Block([[""]])], side=1.0)
    cell = sheet.cells[0][0][0]
    light(cell, np.ones(shape))
    _, _, width, height = cell.box
    assert height / width == pytest.approx(shape[1] / shape[2])
    assert max(width, height) == pytest.approx(1.0)


def test_outlines_and_bars_stay_in_their_cell() -> None:
    """A bar far beyond the scale is cut off at the cell's edge; a contour runs where values
    pass its level.
    """
    sheet = Sheet("", [Block([["", ""]])])
    bars, image = sheet.cells[0][0]
    show(bars, np.array([1.0, -50.0, 50.0, 1.0]).reshape(1, 1, 4), 1.0)
    show(image, np.zeros((1, 8, 8)), 1.0)
    image.contour(
        np.repeat(np.arange(8.0)[None], 8, axis=0), levels=[3.5], colors="black", linewidths=1.0
    )
    pixels = drawn(sheet)
    assert not np.array_equal(at(pixels, bars, 0.6, 0.05), WHITE)
    assert np.array_equal(at(pixels, bars, 0.6, -0.1), WHITE)
    assert any(isinstance(artist, PolyCollection) for artist in sheet.axis.get_children())
    assert min(at(pixels, image, x, 0.5).max() for x in np.linspace(0.48, 0.52, 9)) < 0.5
    assert at(pixels, image, 0.3, 0.5).min() > 0.9


def test_labels_of_lines_have_room() -> None:
    """On a sheet of the paper, however long they are: nothing is drawn at the edges, and a
    colour bar only where there is one scale.
    """
    maps = np.random.default_rng(0).normal(size=(8, 1, 5, 5))
    label, widths = "logits around the mean, seed 0", []
    for pictures in (maps, np.repeat(maps, 3, axis=1)):
        png = charts.sheet({label: pictures, "b": pictures}, [str(i) for i in range(8)], "title")
        pixels = np.asarray(imread(BytesIO(png))[:, :, :3])
        for edge in (pixels[:, :4], pixels[:, -4:], pixels[:4], pixels[-4:]):
            assert (edge == 1).all()
        widths.append(pixels.shape[1])
    assert widths[0] == pytest.approx(widths[1] + 0.95 * DPI, abs=1), "the bar's room"


def test_a_missing_picture_is_a_grey_field() -> None:
    sheet = Sheet("", [Block([[""]])])
    cell = sheet.cells[0][0][0]
    assert np.isnan(show(cell, np.full((1, 4, 4), np.nan), None))
    assert at(drawn(sheet), cell, 0.5, 0.5) == pytest.approx(0.92, abs=0.01)
