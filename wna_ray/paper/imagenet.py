"""E20: a thousand classes of photographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtrc

from wna_ray.drawing.page import Figure, Number, Table, Verdict
from wna_ray.kinds.average.run import Run
from wna_ray.paper import charts
from wna_ray.paper.experiment import Experiment, SectionParts, entropy, percent, same
from wna_ray.paper.sources import Missing, Sources, counts, figure, held_out
from wna_ray.statistics.classifier import Scored

# of a thousand classes: one photograph of each tells more by its rank than by the first place alone
PLACES = 10
COMMONEST = 8  # labels of noise that are listed

IMAGENET_TEXT = (
    (
        "The authors' ImageNet notebook is lost, so there is nothing to compare with. White noise"
        " reaches a handful of the thousand labels; so maps of all thousand classes come from"
        " logits, by noise of low resolution around the mean colour, and are scored on one image of"
        " each class. In noise the network is far from photographs: the maps are reliable and yet"
        " name none, and more noise does not help. Photographs as stimuli do: those of every other"
        " class are shown, and the whitened maps of all classes name those of the classes between."
    ),
)


@dataclass(frozen=True)
class NoiseScores:
    """How maps by noise name one image of each class.

    Attributes
    ----------
    accuracy, p_value
        Share of images that are named right, and the chance of so many.
    rank
        Mean rank of the true class.
    chance, chance_error
        The mean rank by chance, and its standard error.
    """

    accuracy: float
    p_value: float
    rank: float
    chance: float
    chance_error: float

    @classmethod
    def of(cls, run: Run) -> NoiseScores:
        """Read the evaluation of a run; `Missing` where it was not scored."""
        report: dict[str, Any] | None = run.directory.read_json("evaluation/classifier.json")
        if report is None:
            raise Missing(
                "the maps of runs/imagenet were not scored: the ImageNet sample was not at hand"
                " (set WNA_DATA to a folder that holds imagenet-sample)"
            )
        logits, chance = report["templates"]["logits"], report["chance_rank"]
        return cls(
            logits["accuracy"]["correlation"],
            logits["p_value"]["correlation"],
            logits["mean_rank"]["correlation"],
            chance["mean"],
            chance["standard_error"],
        )

    def ranked(self, mean: float) -> str:
        """A mean rank, with that of chance."""
        return f"{mean:.1f} (chance {self.chance:.1f} ± {self.chance_error:.1f})"


def imagenet(sources: Sources) -> SectionParts:
    """E20."""
    runs = sources.runs("imagenet")
    run, white = runs["low-resolution"], runs["white"]
    scores = NoiseScores.of(run)
    by_photographs = sources.runs("imagenet-photographs")
    photographs = held_out(by_photographs.values())
    n = counts(run)
    return SectionParts(
        Verdict.INCOMPARABLE,
        IMAGENET_TEXT,
        (*_classifier_numbers(scores, photographs, len(run.names)), *_label_numbers(run, white)),
        tuple(_imagenet_figures(run, by_photographs)),
        (
            Table(
                ("label", "count"),
                tuple((run.names[i], f"{n[i]:,}") for i in np.argsort(-n)[:COMMONEST]),
                "The commonest labels of noise",
            ),
        ),
    )


def _classifier_numbers(
    scores: NoiseScores, photographs: Scored, classes: int
) -> tuple[Number, ...]:
    """How maps by noise, and by photographs of other classes, name images."""
    right, images = int(np.trace(photographs.confusion)), int(photographs.confusion.sum())
    first = int((photographs.ranks <= PLACES).sum())
    return (
        Number(
            "maps by noise as classifier",
            f"{percent(scores.accuracy, 2)} (chance 0.10 %, p = {scores.p_value:.1g})",
            "",
            same(scores.accuracy >= 0.002),
        ),
        Number("the same, mean rank of the true class, of 1,000", scores.ranked(scores.rank)),
        Number(
            "maps by photographs of other classes as classifier",
            f"{percent(photographs.accuracy, 2)} ({right} of {images:,}; chance 0.10 %, p ="
            f" {photographs.p_value(1 / classes):.1g})",
            "",
            same(photographs.accuracy >= 2 / classes),
        ),
        Number(
            f"the same, true class among the first {PLACES}",
            f"{percent(first / images, 1)} (chance {percent(PLACES / classes, 1)}, p ="
            f" {bdtrc(first - 1, images, PLACES / classes):.1g})",
        ),
        Number(
            "the same, mean rank of the true class",
            scores.ranked(float(photographs.ranks.mean())),
        ),
    )


def _label_numbers(run: Run, white: Run) -> tuple[Number, ...]:
    """Labels that noise of low resolution and white noise reach, and maps that are significant."""
    n, of_white = counts(run), counts(white)
    readout = next(r for r in run.readouts if r.kind == "logits")
    return (
        Number(
            "labels that noise reaches, of 1,000; entropy in bits",
            f"{int((n > 0).sum())}; {entropy(n):.2f}",
        ),
        Number("the same by white noise", f"{int((of_white > 0).sum())}; {entropy(of_white):.2f}"),
        Number(
            "classes with a significant map (p < .05 / 1,000)",
            f"{int(np.nansum(readout.p_value < 0.05 / 1000))}",
        ),
    )


def _imagenet_figures(run: Run, by_photographs: Mapping[str, Run]) -> Iterator[Figure]:
    """The most reliable maps by noise and by photographs, and the labels of noise."""
    yield Figure(
        _strongest(
            run,
            "The twenty most reliable of 1,000 logit maps of MobileNet-V2 by noise,"
            f" {run.stimulus.pixels:,} values an image",
        ),
        "Logit maps, light around grey, each in its own scale; R: reliability.",
        "Twenty low-resolution logit maps of ImageNet classes by noise",
    )
    yield Figure(
        _strongest(
            by_photographs["even"],
            "The same by photographs of every other class, in means over cells of 32 pixels",
        ),
        "Logit maps by photographs (not whitened), as above.",
        "Twenty low-resolution logit maps of ImageNet classes by photographs, orange for a"
        " jack-o'-lantern, blue for an airship",
    )
    yield Figure(
        figure(run, "label_frequencies"),
        f"Labels given to noise. N = {run.moments.images:,}.",
        "Label counts of noise, a few labels take all",
    )


def _strongest(run: Run, title: str) -> bytes:
    """A sheet of the twenty most reliable logit maps of a run."""
    readout = next(r for r in run.readouts if r.kind == "logits")
    strong = np.argsort(-readout.reliability)[:20]
    pictures = run.stimulus.expand(readout.bias[strong])
    captions = [f"{readout.names[i][:15]}\nR {readout.reliability[i]:.2f}" for i in strong]
    return charts.sheet(
        {"": pictures[:10], " ": pictures[10:]},
        [""] * 10,
        f"{title}, N = {run.moments.images:,}",
        captions={"": captions[:10], " ": captions[10:]},
    )


EXPERIMENTS = (
    Experiment(
        "e20",
        "E20 ImageNet",
        "What do maps of a thousand classes look like, and do they name images?",
        imagenet,
    ),
)
