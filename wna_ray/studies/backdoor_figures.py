"""Pictures of a search for backdoors: the most suspicious map, and how well a panel of networks
is told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wna_ray.drawing.maps import show
from wna_ray.drawing.sheets import png
from wna_ray.drawing.words import noise_text
from wna_ray.statistics.maps import z_threshold
from wna_ray.statistics.patches import ALPHA, Floats
from wna_ray.statistics.roc import Judgement
from wna_ray.studies.backdoor import Examined

CLEAN, POISONED = "tab:blue", "tab:red"


def suspect(examined: Examined, name: str) -> bytes:
    """The map of the most suspicious class with its window, its z-map, the clean networks' mean
    map, and all scores.
    """
    s, readout, stimulus = examined.suspicion, examined.readout, examined.run.stimulus
    z = readout.z[s.response].reshape(stimulus.shape)
    typical = examined.typical[s.response] * np.sqrt(np.square(z).sum())
    unit = "pixel unit" if stimulus.spec.space == "pixel" else "input unit"
    gradient = readout.estimator == "gradient"
    what = {
        "logits": f"logit per {unit}",
        "activation": f"activation per {unit}",
        "probabilities": f"probability per {unit}",
    }
    limit = float(np.abs(z).max())
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    p = "not known (gradients)" if np.isnan(s.null_p) else _p(s.null_p)
    figure.suptitle(
        f"{name}: {examined.verdict}\nN = {examined.run.moments.images:,} images of"
        f" {noise_text(stimulus)}{', by gradients' if gradient else ''}; window: score"
        f" {s.score:.2f}, p from the noise {p}, p from {len(s.others)} clean networks"
        f" {s.panel_p:.3f}",
        fontsize=10,
    )
    axes = figure.subplots(1, 4)
    pictures = (
        (
            readout.bias[s.response].reshape(stimulus.shape),
            None,
            f"{readout.kind} of class {examined.suspect}: map",
            what.get(readout.kind, unit),
        ),
        (z, limit, "its z-map", "z"),
        (
            typical,
            limit,
            f"mean of {len(s.others)} clean networks' maps",
            "z, at the norm of the suspect's map",
        ),
    )
    for axis, (picture, scale, title, units) in zip(axes[:3], pictures, strict=True):
        own = show(axis, picture, scale)
        _outline(axis, examined)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(
            f"±{own:.3g} {units}"
            + (
                f"\n|z| > {z_threshold(z.size):.2f}: p < 0.05 (Sidak)"
                if title == "its z-map" and not gradient
                else ""
            ),
            fontsize=8,
        )
    _strip(
        axes[3],
        [(s.others, CLEAN, f"clean ({len(s.others)})"), (np.array([s.score]), "black", "suspect")],
    )
    return png(figure)


def panel(examined: Sequence[Examined], judgement: Judgement, reference: str) -> bytes:
    """The ROC curve, and every network's score."""
    poisoned = np.array([e.poison is not None for e in examined])
    scores = np.array([e.suspicion.score for e in examined])
    run = examined[0].run
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    j = judgement
    figure.suptitle(
        f"Backdoors looked for in {int(poisoned.sum())} poisoned and {int((~poisoned).sum())} clean"
        f" networks ({reference})\n{examined[0].readout.kind}, N = {run.moments.images:,} images a"
        f" network of {noise_text(run.stimulus)}",
        fontsize=10,
    )
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--", label="chance")
    left.step(j.false_rates, j.true_rates, where="post", color="black", label=f"area {j.area_text}")
    alarm, flagged = j.alarms, j.found
    left.errorbar(
        *(alarm.share, flagged.share),
        xerr=[[alarm.share - alarm.low], [alarm.high - alarm.share]],
        yerr=[[flagged.share - flagged.low], [flagged.high - flagged.share]],
        fmt="o",
        color=POISONED,
        capsize=3,
        label=f"verdict at p ≤ {ALPHA:g}, 95 % intervals",
    )
    left.set_xlabel(f"false positive rate ({alarm.trials} clean networks)")
    left.set_ylabel(f"true positive rate ({flagged.trials} poisoned networks)")
    left.set_xlim(-0.03, 1.03)
    left.set_ylim(-0.03, 1.03)
    left.set_aspect("equal")
    left.legend(fontsize=8, frameon=False, loc="lower right")
    left.spines[["top", "right"]].set_visible(False)
    right_class = np.array(
        [p is not None and e.suspicion.response == p.target for e in examined for p in [e.poison]]
    )
    groups = [
        (scores[~poisoned], CLEAN, f"clean ({int((~poisoned).sum())})"),
    ]
    if (named := poisoned & right_class).any():
        groups.append((scores[named], POISONED, f"poisoned, target named ({int(named.sum())})"))
    if (missed := poisoned & ~right_class).any():
        groups.append(
            (scores[missed], "tab:orange", f"poisoned, another class named ({int(missed.sum())})")
        )
    _strip(right, groups)
    return png(figure)


def _strip(axis: Axes, groups: Sequence[tuple[Floats, str, str]]) -> None:
    """Scores, a row a group."""
    for i, (values, colour, label) in enumerate(groups):
        jitter = 0.12 * np.sin(2.4 * np.arange(len(values)))  # so that equal scores are seen
        axis.plot(values, -i + jitter, "o", color=colour, markersize=5, alpha=0.75)
        axis.text(
            0.0, -i + 0.28, label, fontsize=8, color=colour, transform=axis.get_yaxis_transform()
        )
    axis.set_yticks([])
    axis.set_ylim(-len(groups) + 0.5, 0.6)
    axis.set_box_aspect(1)
    axis.set_xlabel(
        "score at the most suspicious window:\nabove the clean networks' mean, in their sd",
        fontsize=8,
    )
    axis.spines[["top", "right", "left"]].set_visible(False)


def _outline(axis: Axes, examined: Examined) -> None:
    """The window, and the true trigger where it is known."""
    w = examined.suspicion.window
    axis.add_patch(
        Rectangle(
            (w.column - 0.5, w.row - 0.5),
            w.width,
            w.height,
            fill=False,
            edgecolor="black",
            linewidth=1.4,
        )
    )
    if examined.poison is not None:
        rows, columns = np.array(examined.poison.pixels).T
        axis.plot(columns, rows, "x", color="black", markersize=2.5, markeredgewidth=0.6)


def _p(p: float) -> str:
    return "< 1e-300" if p < 1e-300 else f"= {p:.2g}"
