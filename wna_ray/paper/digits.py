"""E1, E2, E3, E5, E8: the digit networks, their bias maps, and bias maps as classifiers of
digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wna_ray.drawing.page import Figure, Number, Table
from wna_ray.kinds.average.run import Run
from wna_ray.paper import charts
from wna_ray.paper.experiment import (
    Experiment,
    SectionParts,
    entropy,
    judged,
    percent,
    same,
    spread,
    test_accuracy,
)
from wna_ray.paper.sources import Sources, counts, data, figure, label_means, maps, scored
from wna_ray.statistics.classifier import Score, mean_images, shuffled

DIGITS = [str(i) for i in range(10)]
FEW = 1000  # images under which a label's map is not interpreted
CNN = [f"cnn-{i}" for i in range(3)]
AUTHORS_GABOR = "Gabor-PCA noise, RMS maps, cosine (authors)"
AROUND_MEAN = "noise around the mean digit, logits, correlation"
DOUBLE_SOFTMAX = "the same, double softmax"

BIAS_MAPS_TEXT = (
    (
        "White noise of mean one half looks like very little to a digit network: one label takes"
        " most of it, some labels none at all. Which label wins depends on the seed of the"
        " training, so counts are reported, not asserted (D20). A network with the authors' double"
        " softmax (D2) spreads its labels a little more."
    ),
    (
        f"Maps of labels with fewer than {FEW:,} images are shown, and not interpreted: their"
        " reliability is in the table of each run."
    ),
)
CLASSIFIERS_TEXT = (
    (
        "A template per class and no network at all: an image gets the label whose map it resembles"
        " most. The improved estimator takes the covariance of noise and logit instead of means by"
        " label, noise around the mean training image instead of grey, and a correlation instead of"
        " a cosine of maps that were scaled by their two most extreme pixels (D6, D9, D10). Its"
        " noise was chosen on training images."
    ),
    (
        "The authors' number is one network at one seed. Above twice chance: yes; by how much"
        " depends on the noise, and with pixel noise on the seed."
    ),
)
GABOR_TEXT = (
    (
        "The noise is a random sum of Gabor wavelets, in directions in which digits vary: 960"
        " wavelets, 250 principal components of their weights. The authors scale each image to [0,"
        " 1] and drop the components' mean (D16, D17); their form is made as they made it, in 8"
        " bits. The improved form keeps the mean, leaves images as they are and keeps its moments"
        " by component, where the noise is white."
    ),
)


def train_networks(sources: Sources) -> SectionParts:
    """E1."""
    networks = sources.networks("mnist")
    fed = sources.trials("raw-inputs")
    right = [test_accuracy(n) for n in networks.values()]
    unit, raw = (
        [t.pooled["correct"][0].as_py() for path, t in fed.items() if path.endswith(of)]
        for of in ("/unit", "/raw")
    )
    rows = tuple(
        (
            name,
            f"{n.epoch} of {n.epochs}",
            percent(n.accuracy.train if n.accuracy else 0, 2),
            percent((n.accuracy and n.accuracy.validation) or 0, 2),
            percent(test_accuracy(n), 2),
            percent(b, 2),
        )
        for (name, n), b in zip(networks.items(), raw, strict=True)
    )
    lines = {"trained and fed 0 to 1": right, "trained on 0 to 1, fed 0 to 255 (authors)": raw}
    return SectionParts(
        judged(min(right) >= 0.988),
        (
            (
                "The authors evaluate on pixels of 0 to 255, though they train on 0 to 1 (D1). A"
                " network of ReLUs is nearly blind to scale, so that costs little here; both are"
                " shown."
            ),
            f"As a check, the trial job counts the same test images once more: {spread(unit, 2)}.",
        ),
        (
            Number("test accuracy", spread(right, 2), "98.9 to 99.2 %", same(min(right) >= 0.988)),
            Number(
                "test accuracy, fed 0 to 255",
                spread(raw, 2),
                "99.03 % (E1's own figure is of this kind)",
            ),
        ),
        (
            Figure(
                charts.dots(
                    lines,
                    f"Test accuracy of {len(right)} seeds, 10,000 images",
                    "images that are named right",
                    shares=False,
                ),
                "Test accuracy, one dot a seed.",
                "Accuracies of the digit networks, near 99 percent",
            ),
        ),
        (
            Table(
                ("network", "epoch", "training", "held out", "test", "test, fed 0 to 255"),
                rows,
                "accuracy",
            ),
        ),
    )


def bias_maps(sources: Sources) -> SectionParts:
    """E2."""
    runs = {
        path.removesuffix("/uniform"): run
        for path, run in sources.runs("mnist-maps").items()
        if path.endswith("/uniform")
    }
    labels = {name: counts(run) for name, run in runs.items()}
    shares = [n.max() / n.sum() for n in labels.values()]
    narrow = all(s > 0.5 for s in shares)
    first = next(iter(runs.values()))
    samples = f"{first.moments.images:,}"
    return SectionParts(
        judged(narrow),
        BIAS_MAPS_TEXT,
        (
            Number(
                "largest share of one label",
                " / ".join(percent(float(s)) for s in shares),
                "59.7 to 96.2 % (label 8)",
                same(narrow),
            ),
            Number(
                "labels that noise reaches, of 10",
                " / ".join(str(int((n > 0).sum())) for n in labels.values()),
                "10 of 10 at N = 10,000,000",
            ),
            Number(
                "entropy of the labels, bits",
                " / ".join(f"{entropy(n):.2f}" for n in labels.values()),
                "0.3 to 1.9",
            ),
        ),
        (
            _label_sheet(runs, samples),
            Figure(
                figure(first, "bias_maps"),
                f"The same of {next(iter(runs))} with reliabilities, and its logit maps. N ="
                f" {samples}.",
                "Bias maps of labels and logits with their reliability",
            ),
        ),
        (
            Table(
                ("network", *DIGITS, "largest", "bits", "labels"),
                tuple(
                    (
                        name,
                        *(f"{x:,}" for x in n),
                        percent(float(share)),
                        f"{entropy(n):.2f}",
                        str(int((n > 0).sum())),
                    )
                    for (name, n), share in zip(labels.items(), shares, strict=True)
                ),
                f"Labels given to {samples} images of noise",
            ),
        ),
    )


def _label_sheet(runs: Mapping[str, Run], samples: str) -> Figure:
    """What each network calls a digit."""
    return Figure(
        charts.sheet(
            {name: charts.unit_scaled(label_means(run)) for name, run in runs.items()},
            DIGITS,
            "Mean noise image of each label, each scaled to [0, 1] as the authors do\nU[0, 1]"
            f" noise, N = {samples} a network; n: images of the label; grey: none",
            True,
            {name: [f"n {x:,}" for x in counts(run)] for name, run in runs.items()},
        ),
        "What each network calls a digit in uniform noise, each picture in its own grey scale.",
        "Mean noise images of ten labels for four networks",
    )


@dataclass(frozen=True)
class MapClassifiers:
    """Test accuracy of maps as classifiers, one a seed.

    Attributes
    ----------
    compatible, improved
        By noise and estimator: the authors' own ones, and ours.
    control
        Of maps whose pixels are shuffled.
    mean_image
        Of the mean training images, which need no network.
    """

    compatible: Mapping[str, list[float]]
    improved: Mapping[str, list[float]]
    control: list[float]
    mean_image: float

    @classmethod
    def of(cls, runs: Mapping[str, Run], gabor: Mapping[str, Run]) -> MapClassifiers:
        """Score the maps of runs by pixel noise, and by Gabor-PCA noise."""
        compatible = {
            "pixel noise, label means, cosine (authors' score)": [
                scored(label_means(runs[f"{n}/uniform"]), "mnist", "cosine").accuracy for n in CNN
            ],
            DOUBLE_SOFTMAX: [
                scored(label_means(runs["softmax-0/uniform"]), "mnist", "cosine").accuracy
            ],
            AUTHORS_GABOR: authors_gabor(gabor),
        }
        improved = {
            AROUND_MEAN: [_test(runs[f"{n}/mean"], "logits", "correlation") for n in CNN],
            DOUBLE_SOFTMAX: [_test(runs["softmax-0/mean"], "logits", "correlation")],
            "Gabor-PCA noise around the mean, logits, correlation": [
                _test(gabor[f"{n}/improved"], "logits", "correlation") for n in CNN
            ],
            "pixel noise, logits, correlation": [
                _test(runs[f"{n}/uniform"], "logits", "correlation") for n in CNN
            ],
        }
        control = [
            shuffled(maps(runs[f"{n}/mean"], "logits"), data("mnist", False), "correlation")[0]
            for n in CNN
        ]
        mean_image = scored(mean_images(data("mnist", True), 10), "mnist", "cosine").accuracy
        return cls(compatible, improved, control, mean_image)

    @property
    def authors(self) -> list[float]:
        """Accuracies by the authors' best noise and estimator."""
        return self.compatible[AUTHORS_GABOR]

    @property
    def best(self) -> list[float]:
        """Accuracies by our best noise and estimator."""
        return self.improved[AROUND_MEAN]

    @property
    def control_fails(self) -> bool:
        """Whether shuffled maps are at chance."""
        return all(abs(c - 0.1) < 0.05 for c in self.control)

    def numbers(self) -> tuple[Number, ...]:
        """Beside the published ones."""
        return (
            Number(
                "test accuracy, Gabor-PCA RMS maps (authors')",
                spread(self.authors),
                "35.55 %",
                same(bool(np.mean(self.authors) >= 0.2)),
            ),
            Number("test accuracy, improved", spread(self.best), "", same(min(self.best) >= 0.4)),
            Number(
                "control: maps with shuffled pixels",
                spread(self.control),
                "",
                same(self.control_fails),
            ),
            Number("chance; majority class", "10.0 %; 11.35 %"),
        )

    def groups(self) -> dict[str, list[float]]:
        """All accuracies, by what a figure calls them."""
        # A blank tells the second double softmax from the first.
        improved = {
            (f"{name} " if name == DOUBLE_SOFTMAX else name): values
            for name, values in self.improved.items()
        }
        return {**self.compatible, **improved, "control: shuffled maps": self.control}


def classifiers(sources: Sources) -> SectionParts:
    """E3 on MNIST; the other data sets have sections of their own."""
    runs, gabor = sources.runs("mnist-maps"), sources.runs("mnist-gabor")
    measured = MapClassifiers.of(runs, gabor)
    samples = f"{runs['cnn-0/mean'].moments.images:,}"
    return SectionParts(
        judged(min(measured.best) >= 0.4, np.mean(measured.authors) >= 0.2, measured.control_fails),
        CLASSIFIERS_TEXT,
        measured.numbers(),
        (
            Figure(
                charts.dots(
                    measured.groups(),
                    f"Maps as classifiers of 10,000 test digits (N = {samples} noise images a map)",
                    "test digits that are named right",
                    {
                        "chance": 0.1,
                        "mean training image (cosine)": measured.mean_image,
                        "authors, Gabor-PCA": 0.3555,
                    },
                ),
                "Accuracy of maps as classifiers, one dot a seed, a bar at the mean.",
                "Accuracies of map classifiers by noise and estimator, between chance and the mean"
                " image",
            ),
            Figure(
                charts.sheet(
                    {f"seed {i}": maps(runs[f"{n}/mean"], "logits") for i, n in enumerate(CNN)},
                    DIGITS,
                    "Logit maps around the mean digit, logits per pixel unit, N ="
                    f" {samples} a network",
                ),
                "The maps of the improved estimator: red, more light there and the network finds"
                " the digit likelier.",
                "Logit maps of ten digits for three seeds, most look like the digit",
            ),
        ),
    )


def authors_gabor(gabor: Mapping[str, Run]) -> list[float]:
    """Test accuracy of RMS maps by the authors' Gabor-PCA noise, one a seed."""
    return [scored(gabor[f"{n}/authors"].rms_maps[:10], "mnist", "cosine").accuracy for n in CNN]


def _test(run: Run, kind: str, score: Score) -> float:
    return scored(maps(run, kind), "mnist", score).accuracy


def gabor(sources: Sources) -> SectionParts:
    """E5."""
    runs, pixel = sources.runs("mnist-gabor"), sources.runs("mnist-maps")
    bits = {
        n: (entropy(counts(pixel[f"{n}/uniform"])), entropy(counts(runs[f"{n}/authors"])))
        for n in CNN
    }
    flat = all(b > a for a, b in bits.values())
    authors = authors_gabor(runs)
    improved = [_test(runs[f"{n}/improved"], "logits", "correlation") for n in CNN]
    return SectionParts(
        judged(flat, np.mean(authors) >= 0.3),
        GABOR_TEXT,
        (
            Number(
                "entropy of labels, bits (pixel noise in brackets)",
                " / ".join(f"{b:.2f} ({a:.2f})" for a, b in bits.values()),
                "2.91 (0.3 to 1.9)",
                same(flat),
            ),
            Number(
                "RMS maps as classifier (authors')",
                spread(authors),
                "35.55 %",
                same(bool(np.mean(authors) >= 0.3)),
            ),
            Number("logit maps as classifier (improved)", spread(improved)),
        ),
        (
            _gabor_sheet(runs["cnn-0/authors"]),
            Figure(
                figure(runs["cnn-0/improved"], "bias_maps"),
                "The improved form, seed 0: label and logit maps. N ="
                f" {runs['cnn-0/improved'].moments.images:,}.",
                "Bias maps by Gabor-PCA noise around the mean digit",
            ),
        ),
        (
            Table(
                ("network", *DIGITS, "bits", "bits, pixel noise"),
                tuple(
                    (
                        n,
                        *(f"{x:,}" for x in counts(runs[f"{n}/authors"])),
                        f"{bits[n][1]:.2f}",
                        f"{bits[n][0]:.2f}",
                    )
                    for n in CNN
                ),
                "Labels given to the authors' Gabor-PCA noise",
            ),
        ),
    )


def _gabor_sheet(run: Run) -> Figure:
    """Mean and root mean square of each label, as the authors show them."""
    return Figure(
        charts.sheet(
            {
                "mean (authors)": charts.unit_scaled(label_means(run)),
                "RMS (authors)": charts.unit_scaled(run.rms_maps[:10]),
            },
            DIGITS,
            "Gabor-PCA noise as the authors made it: each label's mean and root mean square, scaled"
            f" to [0, 1]\ncnn-0, N = {run.moments.images:,}",
            True,
            {"mean (authors)": [f"n {x:,}" for x in counts(run)]},
        ),
        "Mean and RMS images of each label, seed 0, each in its own grey scale.",
        "Digit-like mean images of ten labels",
    )


def mean_baseline(_: Sources) -> SectionParts:
    """E8."""
    train, test = data("mnist", True), data("mnist", False)
    templates = mean_images(train, 10)
    dot, cosine, centred = (
        scored(templates, "mnist", s).accuracy for s in ("dot", "cosine", "correlation")
    )
    fashion = mean_images(data("fashion-mnist", True), 10)
    f_dot, f_cosine = (scored(fashion, "fashion-mnist", s).accuracy for s in ("dot", "cosine"))
    return SectionParts(
        judged(abs(dot - 0.631) <= 0.002, abs(cosine - 0.822) <= 0.002),
        (
            (
                "The mean training image of each class as a template: what a map must be compared"
                " with. It needs the training data, and no network."
            ),
        ),
        (
            Number(
                "MNIST, cosine", percent(cosine, 2), "82.2 %", same(abs(cosine - 0.822) <= 0.002)
            ),
            Number(
                "MNIST, inner product", percent(dot, 2), "63.1 %", same(abs(dot - 0.631) <= 0.002)
            ),
            Number("MNIST, correlation", percent(centred, 2)),
            Number(
                "Fashion-MNIST, inner product; cosine",
                f"{percent(f_dot, 2)}; {percent(f_cosine, 2)}",
                "30.4 %; 66.5 %",
                same(abs(f_dot - 0.304) <= 0.002 and abs(f_cosine - 0.665) <= 0.002),
            ),
        ),
        (
            Figure(
                charts.sheet(
                    {"MNIST": templates, "Fashion": fashion},
                    DIGITS,
                    f"Mean training image of each class ({len(train.labels):,} images each set),"
                    " black 0 to white 1",
                    True,
                ),
                f"Mean images; {len(test.labels):,} test images are classified by each set.",
                "Mean images of ten digits and of ten kinds of clothing",
            ),
        ),
    )


EXPERIMENTS = (
    Experiment(
        "e01", "E1 The digit network", "How well does the paper's CNN name digits?", train_networks
    ),
    Experiment(
        "e02",
        "E2 Bias maps by pixel noise",
        "What does a digit network see in uniform noise?",
        bias_maps,
    ),
    Experiment(
        "e03",
        "E3 Bias maps as classifiers",
        "Do bias maps name test images, better than chance?",
        classifiers,
    ),
    Experiment(
        "e05",
        "E5 Gabor-PCA noise",
        "Does noise made of wavelets give flatter labels and clearer maps?",
        gabor,
    ),
    Experiment("e08", "E8 Mean images", "How well does the mean training image do?", mean_baseline),
)
