"""Figures of the paper: curves, dots by seed, and sheets of pictures. Each says N, units and
scale in its title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from wna_ray.drawing.maps import DIVERGING, light, show
from wna_ray.drawing.sheets import Block, Sheet, png

Pictures = NDArray[np.floating]
LETTER = 0.09  # inches that a letter of a line's label takes, wide ones too


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points, and how it is drawn."""

    label: str
    x: ArrayLike
    y: ArrayLike
    style: str = "-o"
    color: str | None = None


@dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes; shares are shown in percent."""

    title: str
    lines: Sequence[Line]
    x: str
    y: str
    log: bool = False
    shares: bool = True


def curves(panels: Sequence[Panel], title: str, columns: int = 2) -> bytes:
    """Panels side by side, one legend below them all."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.7 * columns + 0.4, 3.5 * rows + 1.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Line2D] = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        for i, line in enumerate(panel.lines):
            drawn = axis.plot(
                line.x,
                line.y,
                line.style,
                color=line.color or f"C{i}",
                markersize=3.5,
                label=line.label,
            )
            handles.setdefault(line.label, drawn[0])
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel(panel.x)
        axis.set_ylabel(panel.y)
        if panel.log:
            axis.set_xscale("log")
        if panel.shares:
            axis.set_ylim(-0.02, 1.02)
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    if len(handles) > 1:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(4, len(handles)),
            frameon=False,
            fontsize=9,
        )
    figure.suptitle(title, fontsize=10)
    return png(figure)


def dots(
    groups: Mapping[str, Sequence[float]],
    title: str,
    x: str,
    marks: Mapping[str, float] | None = None,
    shares: bool = True,
    each: Sequence[str] = (),
) -> bytes:
    """One row a group, one dot a network, a bar at their mean; dashed lines at `marks`. Where the
    networks of a group are of different kinds, `each` names them: they have colours then, and no
    mean.
    """
    figure = Figure(figsize=(8.8, 0.34 * len(groups) + 1.7), layout="constrained")
    axis = figure.subplots()
    for i, values in enumerate(groups.values()):
        for j, value in enumerate(values):
            name = each[j] if each and not i else None
            axis.plot(
                value,
                i,
                "o",
                color=f"C{j}" if each else "C0",
                markersize=6,
                alpha=0.65,
                markeredgewidth=0,
                label=name,
            )
        if len(values) > 1 and not each:
            axis.plot([float(np.mean(values))] * 2, [i - 0.3, i + 0.3], color="C0", linewidth=2.2)
    for i, (name, value) in enumerate((marks or {}).items()):
        axis.axvline(
            value, color=f"C{i + 1 + len(each)}", linestyle="--", linewidth=1.1, label=name
        )
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.set_xlabel(x)
    if shares:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if marks or each:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return png(figure)


def sheet(
    rows: Mapping[str, Pictures],
    names: Sequence[str],
    title: str,
    grey: bool = False,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """Pictures ``(k, C, H, W)``, one line of them a row.

    Parameters
    ----------
    names
        One a column.
    grey
        Pictures in [0, 1] as they are; else each in its own diverging scale around 0.
    captions
        A line under each picture, by row.
    """
    k = len(names)
    lines = [
        list(captions[label]) if captions is not None and label in captions else [""] * k
        for label in rows
    ]
    first = next(iter(rows.values()))
    diverging = not grey and first.shape[1] == 1  # colours are light around grey
    drawing = Sheet(
        title,
        [Block(lines, titled=[int(any(names))] + [0] * (len(rows) - 1))],
        aspect=first.shape[2] / first.shape[3],
        side=0.95,
        pitch=1.02,
        left=0.1 + LETTER * max(len(part) for label in rows for part in label.split("\n")),
        right=0.95 if diverging else 0.0,
        size=10,
        framed=False,
    )
    for line, (label, pictures) in zip(drawing.cells[0], rows.items(), strict=True):
        for cell, picture in zip(line, pictures, strict=True):
            if grey:
                light(cell, np.clip(picture, 0, 1))
            else:
                show(cell, np.asarray(picture, dtype=np.float64), None)
        line[0].set_ylabel(label)
    for cell, name in zip(drawing.cells[0][0], names, strict=True):
        cell.set_title(str(name)[:14])
    if diverging:
        bar = drawing.figure.colorbar(
            ScalarMappable(Normalize(-1, 1), DIVERGING), cax=drawing.bar(0)
        )
        bar.set_ticks([-1, 0, 1], labels=["-max", "0", "+max"], fontsize=7)
        bar.set_label("each map in its own scale", fontsize=7)
    return drawing.png()


def unit_scaled(pictures: Pictures) -> Pictures:
    """Each picture ``(k, C, H, W)`` scaled to [0, 1] by its own extremes, as the authors show
    them.
    """
    flat = pictures.reshape(len(pictures), -1)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((flat - low) / (high - low)).reshape(pictures.shape))
