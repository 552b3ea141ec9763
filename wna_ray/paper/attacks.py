"""E10, E12: bias maps mixed into stimuli, small steps of stated length, and the gradient's sign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.data.poison import PATTERNS
from wna_ray.drawing.page import Figure, Number, Table
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.trials.figures import SOURCES
from wna_ray.kinds.trials.result import Trials
from wna_ray.paper import charts
from wna_ray.paper.experiment import Experiment, SectionParts, judged, percent, same
from wna_ray.paper.sources import Sources, figure, maps

AUTHORS = {
    ("noise", "map"): [
        0.1,
        0.11273,
        0.12738,
        0.14923,
        0.17384,
        0.20746,
        0.27083,
        0.4286,
        0.66631,
        0.7427,
        0.9,
    ],
    ("images", "map"): [
        0.1,
        0.10007,
        0.1002,
        0.10038,
        0.10102,
        0.10197,
        0.10495,
        0.12264,
        0.21421,
        0.58679,
        0.9,
    ],
    ("noise", "mean"): [
        0.1,
        0.12702,
        0.17915,
        0.31265,
        0.61754,
        0.84162,
        0.98593,
        0.99997,
        1.0,
        1.0,
        1.0,
    ],
    ("images", "mean"): [
        0.1,
        0.10064,
        0.10256,
        0.10947,
        0.149,
        0.27971,
        0.53397,
        0.83038,
        0.99373,
        1.0,
        1.0,
    ],
}
"""Section 4.10's four curves: share predicted as the target, gamma 0 to 1 by tenths, mean over
ten targets; images of the target count.
"""
MEAN_TOLERANCE = 0.10  # of the mean image's curves, anywhere
VISIBLE = 2.0  # standard deviations of all other pixels by which a patch stands out to the eye


INJECTION_TEXT = (
    (
        "A map of the target is mixed into noise, or into a real image, with growing weight. The"
        " network is a black box: its maps came from its answers to noise. The authors' curves for"
        " bias maps are far too weak because their maps were read back from coloured screen shots"
        " (D5); with the maps themselves the attack is stronger. The mean training image, which"
        " needs no query at all, is stronger still."
    ),
    (
        "As small steps of stated length (second figure) maps beat their own shuffled pixels and"
        " random directions by far, and the white-box gradient beats all: a bias map is a"
        " first-order description of the whole network, not of one image's neighbourhood."
    ),
)
FGSM_TEXT = (
    (
        "One step along the sign of the gradient, test images only, steps cut to [0, 1] (the"
        " authors use the training set, gradients of probabilities and eps = 2, where any image is"
        " destroyed; D14). There is no defence in the notebook of that name. The authors see the"
        " patch in the mean gradient of the nine of their poisoned network. Ours hardly shows it:"
        " at real images, which have no ink there, what detects the patch is silent. Noise wakes"
        " it: the maps of the same network by noise show it at once (E11)."
    ),
)


def success(trials: Trials, source: str, own: bool) -> tuple[list[float], list[float]]:
    """Weights, and the share of trials that got the target, mean over targets; with or without
    signals of the target's own class.
    """
    rows: list[dict[str, Any]] = [
        row for row in trials.table.to_pylist() if row["attack"] == source
    ]
    weights = sorted({row["weight"] for row in rows})
    shares = []
    for w in weights:
        of_weight = [row for row in rows if row["weight"] == w]
        shares.append(
            float(
                np.mean(
                    [
                        (r["moved"] + r["kept"]) / r["trials"] if own else r["moved"] / r["others"]
                        for r in of_weight
                    ]
                )
            )
        )
    return weights, shares


@dataclass(frozen=True)
class Injection:
    """What was measured of templates mixed into stimuli.

    Attributes
    ----------
    off
        Largest distance of the mean images' curves from the authors'.
    strong, strong_published
        Share of real images with a map at gamma .8 that are called the target, here and published.
    free
        By source of the template: share of other digits' images called the target, at gamma .6.
        Without the target's own images no floor of 10 % is left; maps must beat their own pixels in
        random order.
    wrong
        By gamma: share of real images with a map that are named wrong, for each target.
    """

    off: float
    strong: float
    strong_published: float
    free: Mapping[str, float]
    wrong: Mapping[float, list[float]]

    @classmethod
    def of(cls, members: Mapping[str, Trials]) -> Injection:
        """Count the answers of trials, by stimuli."""
        mean = {s: np.array(success(members[s], "mean", own=True)[1]) for s in members}
        images = members["images"]
        weights, shares = success(images, "map", own=True)
        strong = weights.index(0.8)
        return cls(
            max(float(np.abs(mean[s] - AUTHORS[s, "mean"]).max()) for s in mean),
            shares[strong],
            AUTHORS["images", "map"][strong],
            {
                source: success(images, source, own=False)[1][weights.index(0.6)]
                for source in ("map", "permuted", "random", "mean")
            },
            {
                w: [
                    1 - r["correct"] / r["trials"]
                    for r in images.table.to_pylist()
                    if r["attack"] == "map" and r["weight"] == w
                ]
                for w in (0.0, 0.1, 0.6)
            },
        )

    @property
    def agrees(self) -> bool:
        """Whether the mean images' curves are the authors'."""
        return self.off <= MEAN_TOLERANCE

    def numbers(self) -> tuple[Number, ...]:
        """Beside the published ones."""
        return (
            Number(
                "image + bias map at gamma .8",
                percent(self.strong),
                "21.4 %",
                same(self.strong > 0.214),
            ),
            Number(
                "largest distance of the mean-image curves from the authors'",
                percent(self.off),
                "0",
                same(self.agrees),
            ),
            Number(
                "images of other digits called the target at gamma .6: map / shuffled / random /"
                " mean image",
                " / ".join(percent(self.free[s]) for s in ("map", "permuted", "random", "mean")),
                "shuffled: 1.7 %",
            ),
            Number(
                "untargeted: errors at gamma 0 / .1 / .6, by bias maps",
                " / ".join(percent(float(np.mean(v)), 2) for v in self.wrong.values()),
                "0.96 / 1.01 / 1.75 %",
            ),
        )


def injection(sources: Sources) -> SectionParts:
    """E10."""
    members = sources.trials("attack")
    measured = Injection.of(members)
    budget = sources.trials("attack-budget")
    return SectionParts(
        judged(
            measured.agrees,
            measured.strong > measured.strong_published,
            measured.free["map"] > measured.free["permuted"],
        ),
        INJECTION_TEXT,
        measured.numbers(),
        (
            _injection_curves(members),
            *(
                Figure(
                    figure(run, "attack"),
                    f"Steps of stated {name} length, cut to [0, 1]; images of the target left out.",
                    f"Attack success by {name} length: FGSM, mean image, map, controls",
                )
                for name, run in budget.items()
            ),
        ),
    )


def _injection_curves(members: Mapping[str, Trials]) -> Figure:
    """Success by weight of each template, the authors' curves beside."""
    panels = []
    for stimuli, name in (("noise", "noise + template"), ("images", "real images + template")):
        lines = []
        for i, source in enumerate(("map", "mean", "permuted", "random")):
            weights, shares = success(members[stimuli], source, own=True)
            lines.append(charts.Line(SOURCES[source], weights, shares, color=f"C{i}"))
            if (stimuli, source) in AUTHORS:
                lines.append(
                    charts.Line(
                        f"{SOURCES[source]} (authors)",
                        np.arange(11) / 10,
                        AUTHORS[stimuli, source],
                        "--",
                        f"C{i}",
                    )
                )
        panels.append(
            charts.Panel(name, lines, "gamma: weight of the template", "called the target")
        )
    return Figure(
        charts.curves(
            panels,
            "Templates mixed into stimuli, mean of ten targets, images of the target counted as in"
            f" the paper\n{members['images'].answers[0].sum():,} trials a condition; dashed:"
            " published",
        ),
        "Share called the target by weight of the template: bias maps, mean images and controls,"
        " beside the published curves.",
        "Four attack curves in noise and four in images; mean images first, then maps, controls"
        " last",
    )


def fgsm(sources: Sources) -> SectionParts:
    """E12."""
    trials = sources.one_trials("fgsm")
    rows = [row for row in trials.table.to_pylist() if row["attack"] == "fgsm-untargeted"]
    right = {row["weight"]: row["correct"] / row["trials"] for row in rows}
    runs = sources.runs("gradients")
    gradients = {name: maps(run, "logits") for name, run in runs.items()}
    contrast = {name: patch_contrast(of_classes[9, 0]) for name, of_classes in gradients.items()}
    visible = contrast["poisoned-0"] > VISIBLE
    return SectionParts(
        judged(right[2.0] < 0.2, right[0.3] < 0.5, visible),
        FGSM_TEXT,
        (
            Number(
                "accuracy at eps 2 (authors: training set)",
                percent(right[2.0], 2),
                "4.55 %",
                same(right[2.0] < 0.2),
            ),
            Number(
                "accuracy at eps 0 / .1 / .2 / .3",
                " / ".join(percent(right[e]) for e in (0.0, 0.1, 0.2, 0.3)),
            ),
            Number(
                "mean gradient of nine on the patch, in sd of all other pixels: poisoned / clean",
                f"{contrast['poisoned-0']:.1f} / {contrast['clean-0']:.1f}",
                "visible by eye",
                same(visible),
            ),
        ),
        (_fgsm_curve(trials, right), _gradient_sheet(runs, gradients)),
        (
            Table(
                ("eps", "named right"),
                tuple((f"{e:g}", percent(r, 2)) for e, r in right.items()),
                "Untargeted FGSM",
            ),
        ),
    )


def patch_contrast(gradient: NDArray[np.float64]) -> float:
    """How far a mean gradient ``(H, W)`` on the patch C stands out from all other pixels, in their
    standard deviations.
    """
    rows, columns = np.array(PATTERNS["C"]).T
    rest = np.ones_like(gradient, dtype=bool)
    rest[rows, columns] = False
    return float((gradient[rows, columns].mean() - gradient[rest].mean()) / gradient[rest].std())


def _fgsm_curve(trials: Trials, right: Mapping[float, float]) -> Figure:
    line = charts.Line("test accuracy", list(right)[:-1], list(right.values())[:-1])
    return Figure(
        charts.curves(
            (charts.Panel("FGSM", (line,), "eps (Linf, pixel units)", "named right"),),
            f"Untargeted FGSM on {trials.answers[0].sum():,} test digits",
            1,
        ),
        "Accuracy under one step along the gradient's sign.",
        "Accuracy falls with eps",
    )


def _gradient_sheet(
    runs: Mapping[str, Run], gradients: Mapping[str, NDArray[np.float64]]
) -> Figure:
    return Figure(
        charts.sheet(
            gradients,
            [str(i) for i in range(10)],
            f"Mean gradient of each logit over {next(iter(runs.values())).moments.images:,}"
            " training images, logits per pixel unit",
        ),
        "The patch C would be at the upper right of the nine; at real images it hardly shows.",
        "Mean gradients of ten classes for a clean and a poisoned network, much alike",
    )


EXPERIMENTS = (
    Experiment(
        "e10",
        "E10 Maps as a black-box attack",
        "Does a bias map, mixed into a stimulus, make the network name its class?",
        injection,
    ),
    Experiment(
        "e12",
        "E12 FGSM and mean gradients",
        "What does a white box reach, and do mean gradients show a backdoor?",
        fgsm,
    ),
)
