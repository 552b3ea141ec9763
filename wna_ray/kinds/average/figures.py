"""Pictures of a run. Every sheet says N, the noise, its units and its scale."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
import pyarrow as pa
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wna_ray.drawing.maps import (
    DIVERGING,
    Picture,
    aspect_of,
    in_lines,
    is_line,
    light,
    limit_of,
    outline,
    show,
)
from wna_ray.drawing.sheets import Block, Sheet, png
from wna_ray.drawing.words import noise_text, tests_of, unit_of
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import is_dense, is_triggered
from wna_ray.statistics.maps import Readout, cosine, entropy, grid_variance, z_threshold
from wna_ray.stimuli.stimulus import Stimulus

MOST_MAPS = 30  # maps of one kind on a sheet: the most reliable ones
Z_LIMIT = (
    5  # z is shown up to this many thresholds, so that weak maps can be seen beside strong ones
)
STEP = (
    "the picture of a step along the map, of one standard deviation of the noise (root mean square)"
)


def draw(
    stimulus: Stimulus,
    readouts: list[Readout],
    moments: Moments,
    classes: pa.Table,
    filters: Picture | None = None,
) -> dict[str, bytes]:
    """PNG files by name.

    Parameters
    ----------
    stimulus, readouts, moments
        Of a finished run.
    classes
        The run's table, for what the network calls each map.
    filters
        ``(k, d)``: true filters of units that are linear, NaN for others.
    """
    noise = _noise_text(stimulus, moments) + (
        ", by gradients" if readouts[0].estimator == "gradient" else ""
    )
    called = dict(
        zip(
            zip(classes["kind"].to_pylist(), classes["response"].to_pylist(), strict=True),
            classes["self_label"].to_pylist(),
            strict=True,
        )
    )
    pictures = {
        "bias_maps.png": _sheet(
            stimulus,
            readouts,
            f"Bias maps   {noise}",
            lambda r, i: stimulus.expand(r.bias[i]),
            _bias_cell(called),
        ),
        "z_maps.png": _sheet(
            stimulus, readouts, f"z-maps   {noise}", lambda r, i: stimulus.expand_z(r.z[i]), None
        ),
    }
    if stimulus.spec.mixed:
        pictures["whitened_maps.png"] = _sheet(
            stimulus,
            readouts,
            f"Bias maps freed of the noise's correlations   {noise}",
            lambda r, i: stimulus.whitened(r.bias[i], r.reliability[i]),
            lambda r, i: (
                f"ridge {(1 - r.reliability[i]) / r.reliability[i]:.2g}\nreliability"
                f" {r.reliability[i]:.3f}"
            ),
            (
                "(S + ridge)$^{-1}$ times the average that bias_maps.png shows, S the noise's"
                " correlations, per {unit}"
                if stimulus.spec.basis is None
                else "regression on the image, within what the basis spans, per {unit}"
            ),
        )
    if filters is not None and np.isfinite(filters).any():
        title = (
            "Filters, and averages of pictures"
            if stimulus.spec.measured
            else "Filters recovered from noise"
        )
        pictures["filters.png"] = _recovery(stimulus, readouts[0], filters, f"{title}   {noise}")
    one_hot = next((r for r in readouts if not is_dense(r.kind)), None)
    if one_hot is not None:
        pictures["label_frequencies.png"] = _frequencies(
            one_hot, f"Labels given to noise   {noise}"
        )
    return pictures


def _noise_text(stimulus: Stimulus, moments: Moments) -> str:
    spec, images = stimulus.spec, moments.images
    black = " (0 black, 1 white)" if spec.space == "pixel" else ""
    patches = (
        ""
        if stimulus.patches_an_image == 1
        else f" ({images * stimulus.patches_an_image:,} patches)"
    )
    sd = (
        stimulus.unit * float(np.sqrt(grid_variance(moments).mean()))
        if spec.measured and images
        else None
    )
    return f"N = {images:,} images{patches} of {noise_text(stimulus, sd)}{black}"


def _bias_cell(called: dict[tuple[str, int], str | None]) -> Callable[[Readout, int], str]:
    def text(readout: Readout, row: int) -> str:
        label = called[readout.kind, row]
        said = f'called "{label}"\n' if label is not None else ""
        return f"{said}reliability {readout.reliability[row]:.3f}" + (
            f"\n{readout.note[row]}" if readout.note[row] else ""
        )

    return text


_UNITS = {
    "label": "class mean minus grand mean, in {unit}s",
    "confidence": "confidence-weighted class mean minus grand mean, in {unit}s",
    "rectified": "mean weighted by the rectified activation, minus grand mean, in {unit}s",
    "spikes": "spike-triggered average minus grand mean, in {unit}s",
    "activation": "cov(activation, x) / $\\sigma^2$, activation per {unit}",
    "logits": "cov(logit, x) / $\\sigma^2$, logits per {unit}",
    "probabilities": "cov(probability, x) / $\\sigma^2$, probability per {unit}",
}


def _sheet(
    stimulus: Stimulus,
    readouts: list[Readout],
    title: str,
    maps: Callable[[Readout, list[int]], Picture],
    cell: Callable[[Readout, int], str] | None,
    units: str | None = None,
) -> bytes:
    """One block of maps a response kind; `units` is what they are, and in which units, where it is
    not the average. Without `cell` the maps are z: one scale a block, threshold outlined.
    """
    threshold = z_threshold(tests_of(stimulus))
    blocks = [(r, _chosen(r)) for r in readouts]
    pictures = [maps(r, rows) if rows else np.zeros((0, *stimulus.shape)) for r, rows in blocks]
    captions = []
    for (readout, rows), some in zip(blocks, pictures, strict=True):
        drawn = [_visible(readout, row, p) for row, p in zip(rows, some, strict=True)]
        if cell is None:
            heading = _z_heading(stimulus, threshold)
            under = [_p_text(readout, row) if d else "" for row, d in zip(rows, drawn, strict=True)]
        else:
            heading = _map_heading(stimulus, readout, units)
            under = [
                f"±{limit_of(p):.2g}\n{cell(readout, row)}" if d else ""
                for row, p, d in zip(rows, some, drawn, strict=True)
            ]
        fewer = len(rows) < len(readout.names)
        part = f"   ({len(rows)} most reliable of {len(readout.names)})" if fewer else ""
        captions.append(Block(in_lines(under), f"{readout.kind}{part}: {heading}"))
    sheet = Sheet(title, captions, aspect=aspect_of(stimulus), right=0.75 if cell is None else 0)
    for i, ((readout, rows), some) in enumerate(zip(blocks, pictures, strict=True)):
        largest = float(np.abs(some[np.isfinite(some)]).max(initial=0.0))
        common = min(largest, Z_LIMIT * threshold) if cell is None and largest else None
        for place, row, picture in zip(chain(*sheet.cells[i]), rows, some, strict=True):
            visible = _visible(readout, row, picture)
            show(place, picture if visible else np.full_like(picture, np.nan), common)
            place.set_title(readout.names[row][:16])
            if not visible:
                place.say(readout.note[row] or "no map")
            elif cell is None and not readout.note[row]:
                outline(place, picture, threshold)
        if common is not None:
            _draw_bar(sheet, i, common, largest, threshold)
    return sheet.png()


def _z_heading(stimulus: Stimulus, threshold: float) -> str:
    """What maps of z are, and where they are outlined."""
    mark = "beyond the lines" if is_line(stimulus.shape) else "outline"
    strongest = "; of the channels the strongest" if stimulus.shape[0] > 1 else ""
    return (
        f"z{strongest}; {mark}: |z| > {threshold:.2f} (p < 0.05,"
        f" Sidak over {tests_of(stimulus):,} values)"
    )


def _map_heading(stimulus: Stimulus, readout: Readout, units: str | None) -> str:
    """What maps of a response are, and in which units."""
    by_noise = readout.estimator == "noise"
    usual = _UNITS[readout.kind] if by_noise else f"mean gradient, {readout.kind} per {{unit}}"
    text = (units or usual).replace("{unit}", unit_of(stimulus))
    if stimulus.synthesis is not None and by_noise and units is None and "sigma" in text:
        text = text.partition("$\\sigma^2$")[0] + "variance of a weight"
    if stimulus.spec.measured:
        text = text.replace("$\\sigma^2$", "mean var(x)")
    grey = ", grey is zero" if stimulus.shape[0] == 3 else ""
    return f"{text}; each map on its own symmetric scale{grey}"


def _draw_bar(sheet: Sheet, block: int, common: float, largest: float, threshold: float) -> None:
    """The scale that the maps of a block have in common, with the threshold on it."""
    mappable = ScalarMappable(Normalize(-common, common), DIVERGING)
    extend = "both" if largest > common else "neither"
    bar = sheet.figure.colorbar(mappable, cax=sheet.bar(block), extend=extend)
    bar.ax.tick_params(labelsize=7)
    bar.ax.axhline(threshold, color="black", linewidth=0.6)
    bar.ax.axhline(-threshold, color="black", linewidth=0.6)


def _visible(readout: Readout, row: int, picture: Picture) -> bool:
    return readout.note[row] != "constant" and bool(np.isfinite(picture).all())


def decoded(
    stimulus: Stimulus,
    readouts: list[Readout],
    moments: Moments,
    classes: pa.Table,
    pictures: NDArray[np.float32],
) -> bytes:
    """A PNG: the decoder's pictures ``(R, C, H, W)`` of the maps, one block a response kind,
    all on one scale of light.
    """
    called = iter(classes["self_label"].to_pylist())
    finite = pictures[np.isfinite(pictures)]
    low, high = (float(f(finite)) for f in (np.min, np.max)) if finite.size else (0.0, 1.0)
    if low >= -1 and high <= 1:  # a sigmoid's pictures, or a tanh's
        low, high = -1.0 if low < 0 else 0.0, 1.0
    blocks, kinds = [], []
    for readout, some in zip(readouts, np.split(pictures, len(readouts)), strict=True):
        rows, labels = _chosen(readout), [next(called) for _ in readout.names]
        of_all = (
            f"   ({len(rows)} most reliable of {len(readout.names)})"
            if len(rows) < len(readout.names)
            else ""
        )
        what = (
            "the picture of its mean code"
            if is_triggered(readout.kind) and readout.estimator == "noise"
            else STEP
        )
        finite_rows = {row: bool(np.isfinite(some[row]).all()) for row in rows}
        said = [
            (
                ("" if labels[row] is None else f'called "{labels[row]}"\n')
                + f"reliability {readout.reliability[row]:.3f}"
                if finite_rows[row]
                else ""
            )
            for row in rows
        ]
        blocks.append(Block(in_lines(said), f"{readout.kind}{of_all}: {what}"))
        kinds.append(
            [
                (
                    readout.names[row],
                    some[row],
                    "" if finite_rows[row] else readout.note[row] or "no map",
                )
                for row in rows
            ]
        )
    title = (
        f"Decoded maps   {_noise_text(stimulus, moments)}, as codes; black is {low:.3g}, white is"
        f" {high:.3g}"
    )
    sheet = Sheet(title, blocks, aspect=pictures.shape[2] / pictures.shape[3])
    for cells, parts in zip(sheet.cells, kinds, strict=True):
        for cell, (name, picture, missing) in zip(chain(*cells), parts, strict=True):
            light(cell, np.clip((picture - low) / (high - low or 1), 0, 1))
            cell.set_title(name[:16])
            if missing:
                cell.say(missing)
    return sheet.png()


def _recovery(stimulus: Stimulus, readout: Readout, filters: Picture, title: str) -> bytes:
    """True filters over the maps that noise gave, unit by unit, each on its own symmetric scale."""
    rows = [i for i in _chosen(readout) if np.isfinite(filters[i]).all()]
    cosines = cosine(readout.bias, filters)
    truth, recovered = (stimulus.expand(maps[rows]) for maps in (filters, readout.bias))
    known = cosines[np.isfinite(cosines)]
    caption = (
        f"cosine with the true filter: median {np.median(known):.4f}, smallest {known.min():.4f}"
        if known.size
        else "no maps"
    )
    count = f"{known.size} linear units of {len(readout.names)}, {len(rows)} shown"
    under = in_lines(
        [f"{cosines[row]:.4f}" if np.isfinite(cosines[row]) else readout.note[row] for row in rows]
    )
    lines, titled = list(chain(*(([""] * len(line), line) for line in under))), [1, 0] * len(under)
    sheet = Sheet(
        f"{title}\n{caption} ({count}); above the filter, below the map of its {readout.kind}",
        [Block(lines, titled=titled)],
        aspect=aspect_of(stimulus),
        side=0.9,
        pitch=1.0,
        size=10,
    )
    cells = sheet.cells[0]
    above, below = chain(*cells[::2]), chain(*cells[1::2])
    for filter_, map_, row, one, other in zip(truth, recovered, rows, above, below, strict=True):
        show(one, filter_, None)
        show(other, map_, None)
        one.set_title(f"unit {readout.names[row]}", fontsize=8)
    return sheet.png()


def reliability(curve: pa.Table, stimulus: Stimulus) -> bytes:
    """How reliable the maps had become at each look: the median row of each response, and the
    band of the middle half of the rows.
    """
    rows = curve.to_pylist()
    looks = sorted({row["samples"] for row in rows})
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for i, kind in enumerate(dict.fromkeys(row["kind"] for row in rows)):
        values = [
            [
                row["reliability"] or 0.0
                for row in rows
                if row["kind"] == kind and row["samples"] == n
            ]
            for n in looks
        ]
        low, middle, high = (
            np.array([np.quantile(v, q) for v in values]) for q in (0.25, 0.5, 0.75)
        )
        axis.fill_between(looks, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
        axis.plot(
            looks,
            middle,
            "o-",
            color=f"C{i}",
            markersize=4,
            label=f"{kind} ({len(values[0])} rows)",
        )
    axis.set_xscale("log")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("images")
    axis.set_ylabel("reliability (squared cosine with the true map)")
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    noise = noise_text(stimulus)
    figure.suptitle(
        f"Reliability at each look   {noise}\nmedian row, band: middle half of the rows",
        fontsize=10,
    )
    return png(figure)


def _chosen(readout: Readout) -> list[int]:
    """All rows where they fit on a sheet, else the most reliable ones in their own order."""
    if len(readout.names) <= MOST_MAPS:
        return list(range(len(readout.names)))
    order = np.argsort(-np.nan_to_num(readout.reliability, nan=-1.0), kind="stable")
    return sorted(int(i) for i in order[:MOST_MAPS] if readout.count[i])


def _p_text(readout: Readout, row: int) -> str:
    p = readout.p_value[row]
    if np.isnan(p):
        return readout.note[row] or "no p-value"
    return "p < 1e-300" if p < 1e-300 else f"p = {p:.2g}"


def _frequencies(readout: Readout, title: str) -> bytes:
    """How often each label was given; the most frequent ones where there are many."""
    rows = np.argsort(-readout.count, kind="stable")[:40]
    rows = np.sort(rows) if len(readout.names) <= 40 else rows
    figure = Figure(figsize=(max(7.5, 0.32 * len(rows) + 2), 3.6), layout="constrained")
    axis = figure.subplots()
    bars = axis.bar([readout.names[i][:18] for i in rows], readout.count[rows], color="0.45")
    axis.bar_label(bars, [f"{readout.share[i]:.2g}" for i in rows], fontsize=7)
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(0, max(10, 4 * int(readout.count.max())))
    axis.set_ylabel("images (log scale)")
    axis.set_xlabel(
        f"label given (above each bar its share of all images; entropy {entropy(readout.share):.2f}"
        " bits)"
    )
    axis.tick_params(axis="x", rotation=0 if len(rows) <= 12 else 90, labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return png(figure)


def confusion(matrix: NDArray[np.int64], names: list[str], title: str) -> bytes:
    """A confusion matrix ``(true, predicted)`` as shares of the true class."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            axis.text(
                column,
                row,
                f"{value:.2f}"[1:] if value < 1 else "1",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if value > 0.5 else "black",
            )
    drawn = [name[:18].replace("$", r"\$") for name in names]
    axis.set_xticks(range(len(names)), drawn, rotation=0 if max(map(len, drawn)) <= 3 else 90)
    axis.set_yticks(range(len(names)), drawn)
    axis.set_xlabel("predicted: the map with the largest score")
    axis.set_ylabel("true class")
    figure.colorbar(
        image, ax=axis, label="share of the true class (recall on the diagonal)", shrink=0.85
    )
    figure.suptitle(title, fontsize=10)
    return png(figure)


def ranks(places: NDArray[np.float64], k: int, title: str) -> bytes:
    """How often the true class was at each place among k scores, beside chance; few images a
    class, so no confusion matrix.
    """
    n, bins = len(places), min(k, 25)
    edges = np.linspace(0.5, k + 0.5, bins + 1)
    expected = n / bins
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    axis.hist(places, edges.tolist(), color="0.55", edgecolor="white")
    band = 2 * np.sqrt(expected * (1 - 1 / bins))
    axis.axhspan(expected - band, expected + band, color="C3", alpha=0.2, linewidth=0, zorder=0)
    axis.axhline(expected, color="C3", label="chance, and two standard errors")
    axis.set_xlim(0.5, k + 0.5)
    axis.set_xlabel("rank of the true class (1: its map has the largest score)")
    axis.set_ylabel(f"images, of {n:,}")
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return png(figure)
