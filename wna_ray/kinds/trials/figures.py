"""Pictures of trials: how answers change with the signal's weight, under attack, and while
units are stimulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from wna_ray.drawing.maps import DIVERGING, limit_of, outline, show
from wna_ray.drawing.sheets import Block, Sheet, png
from wna_ray.drawing.words import noise_text
from wna_ray.kinds.trials.detection import Detected
from wna_ray.specs.trials import StimulateSpec, TrialSpec
from wna_ray.statistics.maps import z_threshold
from wna_ray.stimuli.stimulus import Stimulus

Row = dict[str, Any]
SOURCES = {
    "map": "bias map",
    "mean": "mean training image",
    "permuted": "bias map, pixels shuffled",
    "random": "random direction",
    "fgsm": "FGSM (white box)",
    "fgsm-untargeted": "FGSM, untargeted: errors",
}
PROFILES = {"class-mean": "class mean", "sta": "STA", "sham": "sham (shuffled)"}


def draw(
    spec: TrialSpec,
    table: pa.Table,
    names: Sequence[str],
    classes: Sequence[str],
    answers: NDArray[np.int64],
    noise: str,
) -> dict[str, bytes]:
    """PNG files by name.

    Parameters
    ----------
    table
        One row a condition.
    names, classes
        Of the responses, and of the signals' classes.
    answers
        ``(c, s, k)``.
    noise
        What the noise is, in words.
    """
    rows = table.to_pylist()
    title = (
        f"{rows[0]['trials']:,} trials a condition, signals from {spec.signals.dataset}"
        f" ({spec.signals.split})" + (f"; {noise}" if min(spec.gammas) < 1 else "")
    )
    drawn = {}
    if spec.attack is not None:
        drawn["attack.png"] = _attack(spec, rows, title)
    if spec.stimulate is not None:
        drawn["microstimulation.png"] = _stimulation(spec, rows, title)
    if spec.attack is None and spec.stimulate is None:
        if len(spec.gammas) > 1:
            drawn["psychometric.png"] = _psychometric(spec, rows, answers, names, classes, title)
        if len(spec.transforms) > 1:
            drawn["transforms.png"] = _transforms(spec, rows, title)
    return drawn


def _share(rows: Sequence[Row], of: str, among: str) -> float:
    """Pooled share of trials; NaN where there are none."""
    whole = sum(row[among] or 0 for row in rows)
    return sum(row[of] or 0 for row in rows) / whole if whole else float("nan")


def _shares(axis: Axes, label: str) -> None:
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_ylabel(label)
    axis.spines[["top", "right"]].set_visible(False)


def _attack(spec: TrialSpec, rows: Sequence[Row], title: str) -> bytes:
    """Success by weight, one panel a signal weight (and transform), one line a source; the band
    spans the targets.
    """
    assert spec.attack is not None
    panels = [(g, t) for g in spec.gammas for t in spec.transforms]
    figure = Figure(figsize=(5.2 * len(panels) + 1.6, 4.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (gamma, transform) in zip(axes, panels, strict=True):
        panel = [row for row in rows if (row["gamma"], row["transform"]) == (gamma, transform)]
        for i, source in enumerate(spec.attack.by):
            some = [row for row in panel if row["attack"] == source]
            _attack_curve(axis, some, source, spec.attack.weights, f"C{i}")
        axis.set_title(_base(gamma, transform), fontsize=10)
        axis.set_xlabel(
            {
                "mix": "weight w of the template, (1 - w) stimulus + w template",
                "l2": "length of the step (L2, pixel units)",
            }.get(spec.attack.form, "length of the step (Linf, pixel units)")
        )
        _shares(axis, "share of trials that get the target")
        axis.label_outer()
    axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(
        f"Attack: signals of other classes that are given the target's label\n{title}\n"
        "line: mean over targets; band: middle half of the targets",
        fontsize=9,
    )
    return png(figure)


def _attack_curve(
    axis: Axes, rows: Sequence[Row], source: str, weights: Sequence[float], color: str
) -> None:
    """Success of one source by weight, with the middle half of its targets."""
    style: dict[str, Any] = {"color": color, "label": SOURCES[source]}
    style |= {"marker": "o", "markersize": 3}
    by_weight = [[row for row in rows if row["weight"] == w] for w in weights]
    if source == "fgsm-untargeted":
        error = [1 - _share(some, "correct", "trials") for some in by_weight]
        axis.plot(weights, error, "--", **style)
        return
    curves = np.array(
        [[row["moved"] / row["others"] for row in some if row["others"]] for some in by_weight]
    )
    axis.plot(weights, curves.mean(axis=1), **style)
    low, high = np.quantile(curves, (0.25, 0.75), axis=1)
    axis.fill_between(weights, low, high, color=color, alpha=0.12, linewidth=0)


def _base(gamma: float, transform: str) -> str:
    what = {0.0: "noise alone", 1.0: "images alone"}.get(
        gamma, f"images in noise, gamma = {gamma:g}"
    )
    return what if transform == "none" else f"{what}, {transform}"


def _stimulation(spec: TrialSpec, rows: Sequence[Row], title: str) -> bytes:
    """One panel a layer and profile: psychometric curves by strength, or, with one signal
    weight, answers by strength.
    """
    assert spec.stimulate is not None
    layers, sources, strengths = spec.stimulate.layers, spec.stimulate.by, spec.stimulate.strengths
    figure = Figure(
        figsize=(4.2 * len(sources) + 1.4, 3.2 * len(layers) + 0.9), layout="constrained"
    )
    grid = figure.subplots(len(layers), len(sources), squeeze=False, sharex=True, sharey=True)
    along_gamma = len(spec.gammas) > 1
    norm = TwoSlopeNorm(0, min(min(strengths), -1e-9), max(max(strengths), 1e-9))
    mappable = ScalarMappable(norm, DIVERGING)
    for (i, j), axis in np.ndenumerate(grid):
        panel = [row for row in rows if (row["layer"], row["profile"]) == (layers[i], sources[j])]
        if along_gamma:
            _curves_by_gamma(axis, panel, spec, mappable)
        else:
            _curves_by_strength(axis, panel, spec.stimulate)
        axis.set_title(f"{layers[i]}: {PROFILES[sources[j]]}", fontsize=10)
        axis.set_facecolor("0.96")
        _shares(axis, "answers: the class\nwhose profile it is")
        axis.label_outer()
    if along_gamma:
        unit = {
            "sd": "sd of the layer's activity",
            "max": "of the strongest unit",
            "activity": "times the mean activity",
        }[spec.stimulate.unit]
        figure.colorbar(mappable, ax=grid, shrink=0.8, label=f"strength ({unit}); black: none")
    own = "signals of the class itself; " if along_gamma else ""
    figure.suptitle(
        f"Microstimulation: {own}pooled over {len({r['profile_class'] for r in rows})}"
        f" classes\n{title}",
        fontsize=9,
    )
    return png(figure)


def _curves_by_gamma(
    axis: Axes, rows: Sequence[Row], spec: TrialSpec, mappable: ScalarMappable
) -> None:
    """How often signals of the class keep it, by their weight: one line a strength."""
    assert spec.stimulate is not None
    for s in spec.stimulate.strengths:
        cells = [[r for r in rows if (r["gamma"], r["strength"]) == (g, s)] for g in spec.gammas]
        axis.plot(
            spec.gammas,
            [_share(cell, "kept", "own") for cell in cells],
            color=mappable.to_rgba(np.array(s)) if s else "black",
            linewidth=1.6,
            zorder=3 if s == 0 else 2,
        )
    axis.set_xlabel("signal weight gamma")


def _curves_by_strength(axis: Axes, rows: Sequence[Row], spec: StimulateSpec) -> None:
    """How often signals of the class, and of others, are given it, by strength."""
    for label, of, among in (
        ("signals of the class itself", "kept", "own"),
        ("signals of other classes", "moved", "others"),
    ):
        cells = [[r for r in rows if r["strength"] == s] for s in spec.strengths]
        curve = [_share(cell, of, among) for cell in cells]
        axis.plot(spec.strengths, curve, marker="o", markersize=3, label=label)
    units = {"sd": " (sd of the layer's activity)", "max": " (of the strongest unit)"}
    axis.set_xlabel("strength" + units.get(spec.unit, ""))
    axis.legend(fontsize=8, frameon=False)


def _psychometric(
    spec: TrialSpec,
    rows: Sequence[Row],
    answers: NDArray[np.int64],
    names: Sequence[str],
    classes: Sequence[str],
    title: str,
) -> bytes:
    """Share of right answers by signal weight, and how often each answer is given."""
    chosen = [i for i, row in enumerate(rows) if row["transform"] == spec.transforms[0]]
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    given = answers[chosen].sum(axis=1) / answers[chosen].sum(axis=(1, 2))[:, None]
    known = [(c, names.index(name)) for c, name in enumerate(classes) if name in names]
    for c, k in known[:10]:
        total = answers[chosen, c].sum(axis=1)
        left.plot(
            spec.gammas,
            answers[chosen, c, k] / np.maximum(total, 1),
            color=f"C{k % 10}",
            linewidth=1,
            label=classes[c],
        )
    left.plot(
        spec.gammas,
        [rows[i]["correct"] / rows[i]["trials"] for i in chosen],
        color="black",
        linewidth=2,
        label="all",
    )
    left.set_xlabel("signal weight gamma")
    left.set_title("right answers, by class of the signal", fontsize=10)
    _shares(left, "share of trials")
    left.legend(fontsize=7, frameon=False, ncols=2)
    most = np.argsort(-given.max(axis=0), kind="stable")[:10]
    for k in sorted(most.tolist()):
        right.plot(spec.gammas, given[:, k], color=f"C{k % 10}", linewidth=1, label=names[k])
    right.set_xlabel("signal weight gamma")
    right.set_title("answers given, whatever the signal", fontsize=10)
    _shares(right, "share of trials")
    right.legend(fontsize=7, frameon=False, ncols=2)
    figure.suptitle(f"Signals in noise\n{title}", fontsize=9)
    return png(figure)


def _transforms(spec: TrialSpec, rows: Sequence[Row], title: str) -> bytes:
    """Right answers by transform."""
    figure = Figure(
        figsize=(7.5, 0.36 * len(spec.transforms) * len(spec.gammas) + 1.4), layout="constrained"
    )
    axis = figure.subplots()
    labels = [
        row["transform"] if len(spec.gammas) == 1 else f"{row['transform']}, gamma {row['gamma']:g}"
        for row in rows
    ]
    shares = [row["correct"] / row["trials"] for row in rows]
    bars = axis.barh(labels[::-1], shares[::-1], color="0.45")
    axis.bar_label(bars, [f"{share:.4f}" for share in shares[::-1]], fontsize=8, padding=3)
    axis.set_xlim(0, 1.08)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("right answers")
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Transformed signals\n{title}", fontsize=9)
    return png(figure)


def draw_images(
    spec: TrialSpec,
    stimulus: Stimulus,
    detected: Detected,
    detection: pa.Table,
    names: Sequence[str],
    classes: Sequence[str],
    answers: NDArray[np.int64],
) -> dict[str, bytes]:
    """PNG files of what the noise of trials tells, by name; `detection` is the table of the
    same.
    """
    drawn = {"sensitivity.png": _sensitivity(spec, detection.to_pylist(), names, answers)}
    if answers.shape[1:] == (2, 2):
        drawn["classification_images.png"] = _two_by_two(
            spec, stimulus, detected, detection.to_pylist(), names, classes, answers
        )
    else:
        drawn["classification_images.png"] = _by_response(
            spec, stimulus, detected, detection.to_pylist(), names, answers
        )
    return drawn


def _heading(spec: TrialSpec, stimulus: Stimulus, answers: NDArray[np.int64], what: str) -> str:
    level = z_threshold(stimulus.pixels)
    return (
        f"{what}\n{answers[0].sum():,} trials a signal weight, signals from {spec.signals.dataset}"
        f" ({spec.signals.split}); {noise_text(stimulus)}\nred: more light there; each picture on"
        f" its own symmetric scale, in pixel units; outline: |z| > {level:.2f} (p < 0.05, Sidak"
        f" over {stimulus.pixels:,} values)"
    )


@dataclass(frozen=True)
class _Image:
    """A map on the noise grid ``(d,)``, and z that outlines it where it is beyond the
    threshold; what is written over and under it.
    """

    image: NDArray[np.float64]
    z: NDArray[np.float64] | None
    caption: str
    title: str = ""


def _sheet(
    title: str,
    stimulus: Stimulus,
    lines: Sequence[Sequence[_Image]],
    labels: Sequence[str],
    pitch: float,
) -> bytes:
    """Lines of maps, each line with its label; titles over the first."""
    expanded = [stimulus.expand(np.stack([part.image for part in line])) for line in lines]

    def under(part: _Image, picture: NDArray[np.float64]) -> str:
        limit = limit_of(picture)
        return (
            f"\u00b1{limit:.2g}{part.caption and chr(10)}{part.caption}"
            if np.isfinite(limit)
            else part.caption
        )

    texts = [
        [under(*both) for both in zip(line, maps, strict=True)]
        for line, maps in zip(lines, expanded, strict=True)
    ]
    titled = [max(part.title.count("\n") + 1 for part in lines[0])] + [0] * (len(lines) - 1)
    _, height, width = stimulus.shape
    sheet = Sheet(
        title,
        [Block(texts, titled=titled)],
        aspect=height / width,
        side=1.15,
        pitch=pitch,
        left=1.1,
        size=9,
    )
    for line, cells, maps in zip(lines, sheet.cells[0], expanded, strict=True):
        for part, cell, picture in zip(line, cells, maps, strict=True):
            if np.isnan(show(cell, picture, None)):
                cell.say("no trials")
            elif part.z is not None:
                outline(cell, stimulus.expand(part.z[None])[0], z_threshold(stimulus.pixels))
            if part.title:
                cell.set_title(part.title, fontsize=8)
    for line_cells, label in zip(sheet.cells[0], labels, strict=True):
        line_cells[0].set_ylabel(label, fontsize=8)
    return sheet.png()


def _two_by_two(
    spec: TrialSpec,
    stimulus: Stimulus,
    detected: Detected,
    rows: Sequence[Row],
    names: Sequence[str],
    classes: Sequence[str],
    answers: NDArray[np.int64],
) -> bytes:
    """A line a signal weight: mean noise of the four cells, and the images of the second
    response by both weightings.
    """
    lines, labels = [], []
    for g, gamma in enumerate(spec.gammas):
        of_row = rows[g * 2 + 1]
        line = [
            _Image(
                detected.cells[g, s, k],
                None,
                f"{answers[g, s, k]:,} trials",
                f'signal "{classes[s]}"\nanswer "{names[k]}"',
            )
            for s, k in ((0, 0), (0, 1), (1, 0), (1, 1))
        ]
        for images, kind in ((detected.standard[g], "standard"), (detected.optimal[g], "optimal")):
            reliable = of_row["standard_reliability" if kind == "standard" else "reliability"]
            caption = images.note[1] or f"reliability {reliable:.3f}"
            line.append(
                _Image(images.image[1], images.z[1], caption, f'image of "{names[1]}"\n{kind}')
            )
        lines.append([replace(part, title="") for part in line] if g else line)
        caption = (
            ""
            if of_row["d_prime"] is None
            else f"\nd' = {of_row['d_prime']:.2f} \u00b1 {of_row['d_prime_error']:.2f}"
        )
        labels.append(f"gamma {gamma:g}{caption}")
    title = _heading(
        spec, stimulus, answers, "Mean noise by signal and answer, and classification images"
    )
    return _sheet(title, stimulus, lines, labels, 1.55)


def _by_response(
    spec: TrialSpec,
    stimulus: Stimulus,
    detected: Detected,
    rows: Sequence[Row],
    names: Sequence[str],
    answers: NDArray[np.int64],
) -> bytes:
    """A line a signal weight, a column a response (the first ten that were given most)."""
    columns = np.sort(np.argsort(-answers.sum(axis=(0, 1)), kind="stable")[:10])
    lines = []
    for g in range(len(spec.gammas)):
        line = []
        for k in columns:
            row = rows[g * len(names) + int(k)]
            said = "" if row["d_prime"] is None else f"\nd' {row['d_prime']:.2f}"
            caption = (row["note"] or f"rel. {row['reliability']:.3f}") + said
            line.append(
                _Image(
                    detected.optimal[g].image[k],
                    detected.optimal[g].z[k],
                    caption,
                    "" if g else names[k][:12],
                )
            )
        lines.append(line)
    title = _heading(
        spec,
        stimulus,
        answers,
        "Classification images of the answers, optimally weighted over signals",
    )
    return _sheet(title, stimulus, lines, [f"gamma {gamma:g}" for gamma in spec.gammas], 1.25)


def _sensitivity(
    spec: TrialSpec, rows: Sequence[Row], names: Sequence[str], answers: NDArray[np.int64]
) -> bytes:
    """d' and criterion by signal weight, with standard errors."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    axes = figure.subplots(1, 2)
    chosen = list(dict.fromkeys(row["response"] for row in rows if row["d_prime"] is not None))[:10]
    if len(names) == 2:
        chosen = chosen[-1:]
    for axis, value, label in (
        (axes[0], "d_prime", "d'"),
        (axes[1], "criterion", "criterion (positive: the answer is withheld)"),
    ):
        for i, name in enumerate(chosen):
            mine = sorted(
                (row for row in rows if row["response"] == name), key=lambda row: row["gamma"]
            )
            x, y, error = ([row[key] for row in mine] for key in ("gamma", value, f"{value}_error"))
            axis.errorbar(
                x, y, error, color=f"C{i}", marker="o", markersize=3, linewidth=1, label=name
            )
        axis.axhline(0, color="0.6", linewidth=0.6)
        axis.set_xlabel("signal weight gamma")
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    if chosen:
        lines, labels = axes[1].get_legend_handles_labels()
        figure.legend(
            lines,
            labels,
            fontsize=7,
            frameon=False,
            title="answer",
            title_fontsize=7,
            loc="outside right center",
        )
    figure.suptitle(
        f"How well each class is told from the others\n{answers[0].sum():,} trials a signal weight,"
        f" signals from {spec.signals.dataset} ({spec.signals.split}); bars: standard errors",
        fontsize=9,
    )
    return png(figure)
