"""Pictures of runs compared: a matrix of correlations, and reliability by the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wna_ray.drawing.maps import DIVERGING
from wna_ray.drawing.sheets import png
from wna_ray.studies.compare import LEAST_RELIABLE, Measured, projected

MOST_CELLS = 24  # runs whose cells still hold numbers
MOST_BANDS = 6  # runs whose quartiles are drawn
POINTS = 200


def matrix(runs: Sequence[Measured], mean: pa.Table) -> bytes:
    """A PNG: runs by runs; below the diagonal r as measured, above it corrected for reliability, on
    it the median reliability.

    Parameters
    ----------
    mean
        As `wna_ray.studies.compare.mean_correlations` gives it.
    """
    place = {run.label: i for i, run in enumerate(runs)}
    n = len(runs)
    values = np.full((n, n), np.nan)
    shared = np.zeros((n, n), dtype=bool)
    for row in mean.to_pylist():
        i, j = place[row["a"]], place[row["b"]]
        values[j, i] = np.nan if row["r"] is None else row["r"]
        values[i, j] = np.nan if row["corrected"] is None else row["corrected"]
        shared[i, j] = row["lift"] is not None
    side = max(4.6, 0.55 * n + 2.6)
    figure = Figure(figsize=(side + 1.4, side + 0.6), layout="constrained")
    axis = figure.subplots()
    axis.set_facecolor("0.92")
    image = axis.imshow(values, cmap=DIVERGING, vmin=-1, vmax=1)
    size = 9 if n <= 8 else 7 if n <= 14 else 5
    for i in range(n if n <= MOST_CELLS else 0):
        for j in range(n):
            value = _median_reliability(runs[i]) if i == j else values[i, j]
            text = (
                f"R {value:.2f}"
                if i == j
                else (
                    f"{value + 0.0 if abs(value) >= 0.005 else 0.0:.2f}"
                    if np.isfinite(value)
                    else "same\nnoise"
                    if shared[i, j]
                    else "-"
                )
            )
            colour = "white" if i != j and abs(value) > 0.6 else "black"
            axis.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize=size,
                color=colour,
                style="italic" if i == j else "normal",
            )
    labels = [_text(run.label) for run in runs]
    slant: dict[str, Any] = (
        {}
        if max(map(len, labels)) * n < 48
        else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    )
    axis.set_xticks(range(n), labels, **slant)
    axis.set_yticks(range(n), labels)
    axis.tick_params(labelsize=8)
    figure.colorbar(
        image, ax=axis, label="correlation over the values of a map, mean of classes", shrink=0.8
    )
    figure.suptitle(
        f"How alike are the maps of {len(runs)} networks? {runs[0].kind}, {len(runs[0].names)}"
        f" classes\n{_title(runs)}\nbelow the diagonal as measured, above it corrected for"
        f" reliability (classes with R of {LEAST_RELIABLE:g} and more);\ndiagonal: median"
        " reliability R",
        fontsize=9,
    )
    return png(figure)


def convergence(runs: Sequence[Measured]) -> bytes:
    """A PNG: reliability by the number of images; measured looks are solid, what rho^2 lets
    expect is dashed.
    """
    figure = Figure(figsize=(8.2, 4.8 + 0.17 * len(runs)), layout="constrained")
    axis = figure.subplots()
    colours = matplotlib.colormaps["tab10" if len(runs) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    low, high = _range(runs)
    for i, run in enumerate(runs):
        colour = colours[i % len(colours)]
        label = f"{_text(run.label)}: d = {run.d:,}, {run.noise}"
        if run.looks is not None and run.reliability is not None:
            x, values = run.looks, np.nan_to_num(run.reliability)
            style, label = "o-", f"{label}; measured"
        else:
            x = np.geomspace(low, high, POINTS)
            values, style = projected(np.nan_to_num(run.gain), x), "--"
            label = f"{label}; projected from N = {run.samples:,}"
        quartiles = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
        axis.plot(x, quartiles[1], style, color=colour, markersize=3.5, linewidth=1.4, label=label)
        if len(runs) <= MOST_BANDS:
            axis.fill_between(x, quartiles[0], quartiles[2], color=colour, alpha=0.15, linewidth=0)
    for level in (0.5, 0.9):
        axis.axhline(level, color="0.6", linewidth=0.6, zorder=0)
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(0, 1.02)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1.0])
    axis.set_xlabel("images N")
    axis.set_ylabel("reliability (squared cosine with the true map)")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower left"
    )
    band = "; band: middle half of the rows" if len(runs) <= MOST_BANDS else ""
    figure.suptitle(
        f"How many images does a map take? {runs[0].kind}; median row{band}", fontsize=10
    )
    return png(figure)


def _range(runs: Sequence[Measured]) -> tuple[float, float]:
    """From where the quickest median is hardly reliable to where the slowest nearly is;
    measured looks are all inside.
    """
    ends: list[float] = [
        float(x) for run in runs if run.looks is not None for x in (run.looks[0], run.looks[-1])
    ]
    for run in runs:
        median = float(np.median(np.nan_to_num(run.gain)))
        if run.looks is None:
            ends += [0.03 / median, 30 / median] if median > 0 else [float(run.samples)]
    low, high = max(1.0, min(ends)), max(ends)
    return low / 1.2, max(high, 10 * low) * 1.2


def _title(runs: Sequence[Measured]) -> str:
    counts, noises = sorted({run.samples for run in runs}), sorted({run.noise for run in runs})
    images = f"N = {counts[0]:,}" if len(counts) == 1 else f"N = {counts[0]:,} to {counts[-1]:,}"
    noise = noises[0] if len(noises) == 1 else f"{len(noises)} kinds of noise"
    return f"{images} images of {noise}, d = {runs[0].d:,}"


def _median_reliability(run: Measured) -> float:
    known: NDArray[np.float64] = run.gain[np.isfinite(run.gain)] * run.samples
    return float(np.median(known / (1 + known))) if known.size else 0.0


def _text(label: str) -> str:
    short = label if len(label) <= 40 else f"...{label[-37:]}"
    return short.replace("$", r"\$")
