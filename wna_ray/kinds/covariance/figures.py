"""Pictures of a covariance: spectra with the band of the null, and axes as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wna_ray.drawing.maps import DIVERGING
from wna_ray.drawing.sheets import png

MOST_UNITS = 12  # on a sheet
ALPHA = 0.05
TICKS = [m * 10.0**e for e in range(-6, 3) for m in (1, 3)]  # of eigenvalues


def p_text(p: float) -> str:
    """A p-value in two digits, with its sign of comparison."""
    return "< 1e-300" if p < 1e-300 else f"= {p:.2g}"


def draw(
    names: Sequence[str],
    axes: pa.Table,
    pictures: NDArray[np.float32],
    spectra: NDArray[np.float64] | None,
    profiles: pa.Table,
    title: str,
    gradient: bool = False,
) -> dict[str, bytes]:
    """PNG files by name.

    Parameters
    ----------
    names
        Units.
    axes, pictures
        The table of axes, and ``(axes, C, H, W)``.
    spectra
        ``(units, d)`` where all eigenvalues are known.
    profiles
        Mean response along the STA and along each axis.
    title
        Response, model, N and noise.
    gradient
        Whether it is the average Hessian, from gradients.
    """
    matrix = "average Hessian, by gradients" if gradient else "covariance"
    rows = axes.to_pylist()
    by_unit = {
        name: [i for i, row in enumerate(rows) if row["unit"] == name]
        for name in names[:MOST_UNITS]
    }
    drawn = {
        "axes.png": _axes(by_unit, rows, pictures, f"Axes of the {matrix}   {title}"),
        "profiles.png": _profiles(list(by_unit), profiles, title),
    }
    if spectra is not None:
        null = (
            "with fresh noise"
            if gradient
            else "if the response ignores the noise (Marchenko & Pastur)"
        )
        drawn["spectra.png"] = _spectra(
            by_unit,
            rows,
            spectra,
            f"Eigenvalues of the {matrix}   {title}\nband: where they lie {null}",
        )
    return drawn


def _axes(
    by_unit: dict[str, list[int]],
    rows: list[dict[str, Any]],
    pictures: NDArray[np.float32],
    title: str,
) -> bytes:
    columns = max(len(some) for some in by_unit.values())
    figure = Figure(
        figsize=(max(7.5, 1.25 * columns + 1), 0.8 + 1.75 * len(by_unit)), layout="constrained"
    )
    figure.suptitle(
        f"{title}\nλ: eigenvalue in sd of the response; red frame: p ≤ {ALPHA} after those"
        " before it",
        fontsize=10,
    )
    panels = figure.subplots(len(by_unit), columns, squeeze=False)
    for line, (name, some) in zip(panels, by_unit.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, i in zip(line, some, strict=False):
            axis.set_axis_on()
            axis.set_xticks([])
            axis.set_yticks([])
            picture = np.take_along_axis(
                pictures[i], np.abs(pictures[i]).argmax(axis=0)[None], axis=0
            )[0]
            limit = float(np.abs(picture).max()) or 1.0
            axis.imshow(picture, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
            p, out = rows[i]["p_value"], rows[i]["distance"]
            value = rows[i]["eigenvalue"]
            axis.set_title("λ not known" if value is None else f"λ = {value:+.3f}", fontsize=8)
            far = "" if out is None else f"\n{out:.0f} sd out"
            axis.set_xlabel("not tested" if p is None else f"p {p_text(p)}{far}", fontsize=7)
            if p is not None and p <= ALPHA:
                axis.spines[:].set(color="crimson", linewidth=2)
        line[0].set_ylabel(f"unit {name[:14]}", fontsize=8)
    return png(figure)


def _spectra(
    by_unit: dict[str, list[int]],
    rows: list[dict[str, Any]],
    spectra: NDArray[np.float64],
    title: str,
) -> bytes:
    columns = min(4, len(by_unit))
    lines = -(-len(by_unit) // columns)
    figure = Figure(figsize=(max(10.0, 3.2 * columns), 0.9 + 2.5 * lines), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(lines, columns, squeeze=False)
    for axis in panels.flat[len(by_unit) :]:
        axis.set_axis_off()
    for axis, (name, some), values in zip(panels.flat, by_unit.items(), spectra, strict=False):
        first = rows[some[0]]
        low, high = (
            (0.0, 0.0) if first["low_edge"] is None else (first["low_edge"], first["high_edge"])
        )
        order = np.arange(1, len(values) + 1)
        axis.axhspan(low, high, color="0.88")
        axis.plot(order, values[::-1], ".", color="0.35", markersize=3)
        taken = [
            rows[i]["eigenvalue"]
            for i in some
            if rows[i]["p_value"] is not None and rows[i]["p_value"] <= ALPHA
        ]
        outside = int(((values < low) | (values > high)).sum())
        for value in taken:
            axis.plot(
                order[np.abs(values[::-1] - value).argmin()],
                value,
                "o",
                color="crimson",
                markersize=5,
                fillstyle="none",
            )
        axis.set_yscale(
            "symlog", linthresh=2 * max(-low, high) or 1e-3 * float(np.abs(values).max()) or 1.0
        )
        marks = [
            sign * size
            for size in TICKS
            for sign in (-1, 1)
            if values.min() <= sign * size <= values.max() and size > 0.4 * high
        ]
        axis.set_yticks([0.0, *marks], labels=["0", *(f"{mark:+g}" for mark in marks)], minor=False)
        axis.yaxis.minorticks_off()
        axis.set_title(f"unit {name[:14]}: {len(taken)} significant, {outside} outside", fontsize=8)
        axis.set_xlabel("rank", fontsize=7)
        axis.set_ylabel("eigenvalue (sd of response)", fontsize=7)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _profiles(names: Sequence[str], profiles: pa.Table, title: str) -> bytes:
    """Response along each direction, each on its own scale."""
    rows = profiles.to_pylist()
    of = {name: [row for row in rows if row["unit"] == name] for name in names}
    directions = [None, *sorted({row["axis"] for row in rows if row["axis"] is not None})]
    figure = Figure(
        figsize=(max(7.5, 1.5 * len(directions) + 0.6), 0.9 + 1.6 * len(names)),
        layout="constrained",
    )
    caption = (
        "mean, and twice its standard error, by the noise's projection in sd; each on its own scale"
    )
    figure.suptitle(f"Response along each direction   {title}\n{caption}", fontsize=10)
    panels = figure.subplots(len(names), len(directions), squeeze=False, sharex=True)
    for i, name in enumerate(names):
        for axis, direction in zip(panels[i], directions, strict=True):
            some = [
                row for row in of[name] if row["axis"] == direction and row["response"] is not None
            ]
            at = [row["projection"] for row in some]
            mean = np.array([row["response"] for row in some])
            error = np.array([row["standard_error"] or 0.0 for row in some])
            axis.fill_between(at, mean - 2 * error, mean + 2 * error, color="0.8", linewidth=0)
            axis.plot(at, mean, color="0.2" if direction is not None else "crimson", linewidth=1)
            axis.tick_params(labelsize=6)
            axis.spines[["top", "right"]].set_visible(False)
            if i == 0:
                axis.set_title("STA" if direction is None else f"axis {direction}", fontsize=8)
        panels[i, 0].set_ylabel(f"unit {name[:14]}", fontsize=7)
    return png(figure)
