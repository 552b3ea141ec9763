"""Maps as pictures: signed colours, samples of noise, outlines, titles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray

from wna_ray.drawing.sheets import Block, Cell, Sheet
from wna_ray.drawing.words import noise_text, unit_of
from wna_ray.stimuli.stimulus import Stimulus

COLUMNS = 10
DIVERGING = "RdBu_r"

Picture = NDArray[np.float64]


def samples(stimulus: Stimulus, n: int = 6) -> bytes:
    """The first stimuli of a run as a network is shown them, each with its mean and range; grey
    levels (or colours) span [0, 1].

    Values beyond [0, 1] are drawn as black or white. Of noise in the network's input (``space:
    input``) the scale spans 2.5 standard deviations to both sides of the offset's mean.
    """
    images = stimulus.images(stimulus.noise.grid(0, n)).numpy().astype(np.float64)
    low, high = 0.0, 1.0
    if stimulus.spec.space == "input" and not stimulus.spec.measured:
        middle = float(stimulus.shown_offset.mean())
        low, high = middle - 2.5 * stimulus.sd, middle + 2.5 * stimulus.sd
    columns = min(n, COLUMNS)
    size = noise_text(
        stimulus, float(images.std(axis=0).mean()) if stimulus.spec.measured and n > 1 else None
    )
    words = (
        f"{size}; mean of these {n} images {images.mean():.3g}, values {images.min():.3g} to"
        f" {images.max():.3g}"
    )
    words += f"\nblack is {low:.3g}, white is {high:.3g} (in {unit_of(stimulus)}s)"
    title = "\n".join(line for text in words.split("\n") for line in wrap(text, 18 * columns))
    captions = [
        f"mean {image.mean():.2f}\n{image.min():.2f} to {image.max():.2f}" for image in images
    ]
    sheet = Sheet(
        title, [Block(in_lines(captions))], aspect=aspect_of(stimulus), narrowest=0, size=9
    )
    for i, (cell, image) in enumerate(zip(chain(*sheet.cells[0]), images, strict=True)):
        light(cell, np.clip((image - low) / (high - low), 0.0, 1.0))
        cell.set_title(f"image {i}", fontsize=8)
    return sheet.png()


def aspect_of(stimulus: Stimulus) -> float:
    """Height over width of its pictures; of codes, which are drawn as bars, 1."""
    _, h, w = stimulus.shape
    return 1.0 if is_line(stimulus.shape) else h / w


def in_lines(texts: Sequence[str]) -> list[list[str]]:
    """Texts of cells in lines of `COLUMNS`; one empty line where there are none."""
    return [list(texts[a : a + COLUMNS]) for a in range(0, len(texts), COLUMNS)] or [[]]


def light(cell: Cell | Axes, picture: NDArray[np.floating]) -> None:
    """Draw one picture ``(C, H, W)`` in [0, 1], grey or in colour; a grey field where it is not
    finite.
    """
    if not np.isfinite(picture).all():
        cell.set_facecolor("0.92")
        cell.set_box_aspect(picture.shape[1] / picture.shape[2])
    else:
        pixels = picture.transpose(1, 2, 0) if len(picture) == 3 else picture[0]
        cell.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def outline(axis: Cell | Axes, picture: Picture, threshold: float) -> None:
    """Mark where a map of z ``(C, H, W)`` passes a threshold."""
    peak = np.abs(picture).max(axis=0)
    if not (threshold < peak.max() and peak.min() < threshold):
        return
    if is_line(picture.shape):
        for level in (-threshold, threshold):
            axis.axhline(level, color="black", linewidth=0.5)
    else:
        axis.contour(peak, levels=[threshold], colors="black", linewidths=0.5)


def is_line(shape: tuple[int, ...]) -> bool:
    """Whether a map ``(C, H, W)`` is one line of values, as codes are."""
    return 1 in shape[1:] and max(shape[1:]) > 1


def limit_of(picture: Picture) -> float:
    """Where the symmetric scale of a map of its own ends; NaN where there is no map."""
    return (float(np.abs(picture).max()) or 1.0) if np.isfinite(picture).all() else math.nan


def show(axis: Cell | Axes, picture: Picture, limit: float | None) -> float:
    """Draw one map ``(C, H, W)``: one channel in diverging colours, three as light around grey,
    else the strongest; a line as bars.
    """
    if isinstance(axis, Axes):
        axis.set_xticks([])
        axis.set_yticks([])
    if not np.isfinite(picture).all():
        axis.set_facecolor("0.92")
        axis.set_box_aspect(picture.shape[1] / picture.shape[2])
        return float("nan")
    own = limit or limit_of(picture)
    if is_line(picture.shape):
        values = np.take_along_axis(picture, np.abs(picture).argmax(axis=0)[None], axis=0)[
            0
        ].ravel()
        x, zero = np.arange(len(values)), np.zeros(len(values))
        sides = np.stack(
            [
                np.stack([x + dx, y], axis=1)
                for dx, y in ((-0.5, zero), (-0.5, values), (0.5, values), (0.5, zero))
            ],
            axis=1,
        )
        colours = matplotlib.colormaps[DIVERGING](0.5 + values / (2 * own))
        axis.add_collection(
            PolyCollection(list(sides), facecolors=colours, linewidths=0)
        )  # bars would be drawn one by one
        axis.axhline(0, color="0.6", linewidth=0.4)
        axis.set_xlim(-1, len(values))
        axis.set_ylim(-1.05 * own, 1.05 * own)
        axis.set_box_aspect(1)
    elif len(picture) == 3 and limit is None:
        axis.imshow(0.5 + picture.transpose(1, 2, 0) / (2 * own), interpolation="nearest")
    else:
        strongest = np.take_along_axis(picture, np.abs(picture).argmax(axis=0)[None], axis=0)[0]
        axis.imshow(strongest, cmap=DIVERGING, vmin=-own, vmax=own, interpolation="nearest")
    return own
