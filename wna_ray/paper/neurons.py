"""E13 to E16: spike-triggered averages of convolutional units, and microstimulation of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.drawing.page import Figure, Number, Table
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.trials.result import Trials
from wna_ray.paper import charts
from wna_ray.paper.experiment import (
    Experiment,
    SectionParts,
    judged,
    percent,
    same,
    test_accuracy,
)
from wna_ray.paper.sources import Sources, figure, maps
from wna_ray.statistics.detection import area
from wna_ray.statistics.maps import cosine

FILTERS_TEXT = (
    "A unit of the first convolution is linear until it is rectified, so the noise it answers to"
    " must average to its own kernel: it does, for every unit. Units of the second convolution see"
    " 14 x 14 pixels through a rectification and a maximum; what they look for has no closed form,"
    " and is judged by how well two halves of the run agree."
)
TEN_WAY_TEXT = (
    (
        "Units of one layer get activity added or taken away, in proportion to their mean response"
        " to a class, by forward hooks; the model stays as it is. In fc1 the network sees the class"
        " more readily the more it is stimulated, and less when suppressed. In the convolutions,"
        " where every position of a channel is stimulated alike, the sign is not reliable: the"
        " authors' own figures say the same."
    ),
    (
        "The authors' legends are ten times too large, and their layers have different units (D13);"
        " here strength is in standard deviations of the layer's activity, signals and noise are"
        " the same in all conditions, and a shuffled profile is the control. By STA, how each unit"
        " goes with the class's logit over noise, the second convolution can be steered, too: what"
        " fails there is the class mean, not the layer."
    ),
)


def halves(run: Run, kind: str) -> NDArray[np.float64]:
    """``(k,)``: correlation of the maps of both halves, from the reliability of the whole
    (Spearman & Brown, backwards).
    """
    whole = next(r.split_half for r in run.readouts if r.kind == kind)
    assert whole is not None
    return np.asarray(whole / (2 - whole))


def filters(sources: Sources) -> SectionParts:
    """E13."""
    runs = sources.runs("units")
    conv1, conv2 = runs["conv1"], runs["conv2"]
    assert conv1.filters is not None
    close = {
        kind: cosine(next(r.bias for r in conv1.readouts if r.kind == kind), conv1.filters)
        for kind in ("activation", "rectified")
    }
    median, least = (float(of(close["rectified"])) for of in (np.nanmedian, np.nanmin))
    rectified = next(r for r in conv2.readouts if r.kind == "rectified")
    agreement = halves(conv2, "rectified")
    active = [i for i, note in enumerate(rectified.note) if not note]
    silent = [rectified.names[i] for i, note in enumerate(rectified.note) if note]
    median2 = float(np.median(agreement[active]))
    return SectionParts(
        judged(median >= 0.99, least >= 0.95, median2 >= 0.95),
        (
            FILTERS_TEXT,
            "Units that were active too rarely to be told anything about:"
            f" {', '.join(silent) or 'none'}.",
        ),
        (
            Number(
                "conv1, rectified: cosine with the kernels, median / smallest",
                f"{median:.4f} / {least:.4f}",
                "1.000 / .991 (visually identical)",
                same(median >= 0.99 and least >= 0.95),
            ),
            Number(
                "conv1, activation: median / smallest",
                f"{np.nanmedian(close['activation']):.4f} / {np.nanmin(close['activation']):.4f}",
            ),
            Number(
                "conv2: split-half correlation, median of the units that answer",
                f"{median2:.3f} ({len(active)} of {len(agreement)})",
                "44 of 50 oriented, by eye",
                same(median2 >= 0.95),
            ),
        ),
        (
            Figure(
                figure(conv1, "filters"),
                f"Kernels of conv1 and what noise found of them. N = {conv1.moments.images:,}.",
                "True kernels beside their averages, the same",
            ),
            Figure(
                figure(conv2, "bias_maps"),
                "What the units of conv2 look for, the most reliable ones. N ="
                f" {conv2.moments.images:,}.",
                "Oriented fields of the second convolution",
            ),
        ),
    )


def natural(sources: Sources) -> SectionParts:
    """E14."""
    run, noise = sources.run("units-images"), sources.runs("units")["conv1"]
    assert noise.filters is not None
    truth = noise.filters
    plain = cosine(next(r.bias for r in run.readouts if r.kind == "activation"), truth)
    white = run.whitened()[: len(truth)].reshape(
        len(truth), -1
    )  # of the activations, which come first
    both = np.isfinite(white).all(axis=1) & np.isfinite(plain)
    freed = cosine(white[both], truth[both])
    pictures = {
        "kernel": truth.reshape(-1, *run.stimulus.shape),
        "average of digits": maps(run, "activation"),
        "whitened": white.reshape(-1, *run.stimulus.shape),
    }
    some = slice(0, 12)
    return SectionParts(
        judged(
            float(np.nanmedian(plain)) < 0.95,
            float(np.nanmedian(freed)) > float(np.nanmedian(plain)),
        ),
        (
            (
                "The same average over 60,000 real digits: neighbouring pixels of digits are alike,"
                " so the average is a blurred stroke and not the kernel, as the authors found."
                " Divided by the covariance of the digits' own patches (a ridge where they hardly"
                " vary) the kernel comes back."
            ),
        ),
        (
            Number(
                "cosine of the plain average with the kernels, median",
                f"{np.nanmedian(plain):.3f}",
                "kernels not recovered",
                same(float(np.nanmedian(plain)) < 0.95),
            ),
            Number(
                "whitened: cosine, median / smallest",
                f"{np.nanmedian(freed):.3f} / {np.nanmin(freed):.3f}",
            ),
        ),
        (
            Figure(
                charts.sheet(
                    {k: v[some] for k, v in pictures.items()},
                    run.names[some],
                    f"conv1, twelve of {len(truth)} units, by {run.moments.images:,} training"
                    " digits; each in its own scale",
                ),
                "Kernels, averages of real digits, and the same freed of the digits' correlations.",
                "Three rows: kernels, blurred averages, whitened averages like the kernels",
            ),
        ),
    )


def areas(trials: Trials, profile: str) -> dict[tuple[str, str], list[float]]:
    """Area under the psychometric curve of each class by strength, rising; by layer and class
    that is stimulated.
    """
    assert trials.spec.stimulate is not None
    rows = [row for row in trials.table.to_pylist() if row["profile"] == profile]
    strengths, gammas = sorted(trials.spec.stimulate.strengths), sorted(trials.spec.gammas)
    kept: dict[tuple[Any, ...], float] = {
        (r["layer"], r["profile_class"], r["strength"], r["gamma"]): r["kept"] / r["own"]
        for r in rows
        if r["own"]
    }
    return {
        key: [area(gammas, [kept[(*key, s, g)] for g in gammas]) for s in strengths]
        for key in dict.fromkeys((r["layer"], r["profile_class"]) for r in rows if r["own"])
    }


def _rising(values: list[float]) -> bool:
    return bool((np.diff(values) > 0).all())


@dataclass(frozen=True)
class Stimulation:
    """How readily classes are seen when a layer is stimulated, or suppressed, in favour of each.

    Attributes
    ----------
    trials
        Where that was counted.
    areas, sham
        By layer and class, see `areas`: of the class's mean response, and of the same profile
        shuffled over units.
    """

    trials: Trials
    areas: Mapping[tuple[str, str], list[float]]
    sham: Mapping[tuple[str, str], list[float]]

    @classmethod
    def of(cls, trials: Trials) -> Stimulation:
        """Take the areas from trials."""
        return cls(trials, areas(trials, "class-mean"), areas(trials, "sham"))

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that were stimulated."""
        assert self.trials.spec.stimulate is not None
        return tuple(self.trials.spec.stimulate.layers)

    @property
    def strengths(self) -> list[float]:
        """In standard deviations of a layer's activity, rising."""
        assert self.trials.spec.stimulate is not None
        return sorted(self.trials.spec.stimulate.strengths)

    @property
    def classes(self) -> list[str]:
        """Classes in whose favour layers were stimulated."""
        return list(dict.fromkeys(c for _, c in self.areas))

    def rising(self, layer: str) -> int:
        """Classes whose area rises with strength."""
        return rising_classes(self.areas, layer)

    def numbers(self, published: Mapping[str, str], enough: float) -> Iterator[Number]:
        """Classes that rise, for each layer; of fc1 it is judged whether they are enough."""
        n = len(self.classes)
        for layer in self.layers:
            rising, sham = self.rising(layer), rising_classes(self.sham, layer)
            yield Number(
                f"{layer}: classes that rise with strength (sham)",
                f"{rising} of {n} ({sham} of {n})",
                published[layer],
                same(rising >= enough) if layer == "fc1" else None,
            )

    def table(self) -> Table:
        """Area by strength, of each layer and class."""
        rows = tuple(
            (
                layer,
                c,
                *(f"{v:.3f}" for v in self.areas[layer, c]),
                "yes" if _rising(self.areas[layer, c]) else "no",
            )
            for layer in self.layers
            for c in self.classes
        )
        return Table(
            ("layer", "class", *(f"{s:+g} sd" for s in self.strengths), "rises"),
            rows,
            "Area by strength",
        )

    def curves(self) -> bytes:
        """The same as a picture."""
        strengths, classes = self.strengths, self.classes
        panels = [
            charts.Panel(
                layer,
                [charts.Line(f"class {c}", strengths, self.areas[layer, c]) for c in classes]
                + [
                    charts.Line(
                        "sham, mean",
                        strengths,
                        np.mean([self.sham[layer, c] for c in classes], axis=0),
                        "--",
                        "0.4",
                    )
                ],
                "strength (sd of the layer's activity)",
                "area under the curve of right answers",
            )
            for layer in self.layers
        ]
        title = (
            "Area under the psychometric curve (mean share right over gamma 0 to 1) of the class"
            f" that is stimulated\n{self.trials.answers[0].sum():,} trials a condition; sham: the"
            " same profile, shuffled over units"
        )
        return charts.curves(panels, title, 3)


def rising_classes(of: Mapping[tuple[str, str], list[float]], layer: str) -> int:
    """How many classes' areas rise with the strength in a layer."""
    return sum(_rising(values) for (at, _), values in of.items() if at == layer)


def ten_way(sources: Sources) -> SectionParts:
    """E15."""
    trials = sources.one_trials("microstimulation")
    stimulation = Stimulation.of(trials)
    n = len(stimulation.classes)
    sta = areas(trials, "sta")
    published = {"fc1": "monotone", "conv2": "mixed", "conv1": "almost no effect"}
    return SectionParts(
        judged(stimulation.rising("fc1") >= 0.9 * n),
        TEN_WAY_TEXT,
        (
            *stimulation.numbers(published, 0.9 * n),
            Number(
                "the same by STA: " + " / ".join(stimulation.layers),
                " / ".join(f"{rising_classes(sta, layer)} of {n}" for layer in stimulation.layers),
            ),
        ),
        (
            Figure(
                stimulation.curves(),
                "How readily the stimulated class is seen, by strength and layer.",
                "Areas by strength in three layers; fc1 rises for all classes",
            ),
            Figure(
                figure(trials, "microstimulation"),
                "The psychometric curves themselves, pooled over classes.",
                "Psychometric curves by strength",
            ),
        ),
        (stimulation.table(),),
    )


def binary(sources: Sources) -> SectionParts:
    """E16."""
    trials = sources.one_trials("microstimulation-binary")
    (network,) = sources.networks("binary-28").values()
    stimulation = Stimulation.of(trials)
    n = len(stimulation.classes)
    published = {layer: "not specific" for layer in stimulation.layers} | {"fc1": "both"}
    return SectionParts(
        judged(stimulation.rising("fc1") == n),
        (
            (
                "The same with two classes, where every trial that is moved away from one answer is"
                " moved to the other. Specific in fc1, not in the convolutions, as in the authors'"
                " own figures."
            ),
        ),
        (
            *stimulation.numbers(published, n),
            Number(
                "test accuracy, two against eight",
                percent(test_accuracy(network), 2),
                "93.77 % (threshold 1.0, D4)",
            ),
        ),
        (
            Figure(
                stimulation.curves(),
                "How readily the stimulated class is seen, by strength and layer.",
                "Areas by strength in three layers of the binary network",
            ),
        ),
        (stimulation.table(),),
    )


EXPERIMENTS = (
    Experiment(
        "e13", "E13 Units of the convolutions", "Does noise give a unit's kernel back?", filters
    ),
    Experiment(
        "e14",
        "E14 The same by real digits",
        "Do natural images, averaged, give the kernel back?",
        natural,
    ),
    Experiment(
        "e15",
        "E15 Microstimulation",
        "Does activity added to a layer make the network see a class?",
        ten_way,
    ),
    Experiment(
        "e16",
        "E16 Microstimulation, two classes",
        "The same where there are only two answers.",
        binary,
    ),
)
