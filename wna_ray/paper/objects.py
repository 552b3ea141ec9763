"""E6, E7, E18: clothing, and small photographs in colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wna_ray.data.datasets import class_names
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
from wna_ray.paper.sources import (
    Maps,
    Sources,
    counts,
    data,
    label_means,
    maps,
    scored,
)
from wna_ray.statistics.classifier import mean_images

SEEDS = [f"cnn-{i}" for i in range(3)]
PUBLISHED_TRANSFORMS = {
    "none": ".813 to .820",
    "shrink-upper-left": ".204",
    "shrink-centre": ".203",
    "rotate-90": ".308",
    "rotate-180": ".319",
    "rotate-270": ".293",
    "zoom": ".377",
}
TRANSFORMED = {
    "paper-0": "paper's CNN",
    "centre": "trained on shrunken images",
    "resnet20": "ResNet-20",
}

FASHION_TEXT = (
    (
        "Uniform noise collapses to a label or two, Gabor-PCA noise spreads; maps by logits around"
        " the mean image name test images well above twice chance. The authors score their maps on"
        " the training set (D9), and their networks by raw pixels (D1), which is why theirs seem"
        " worse."
    ),
)
CIFAR_TEXT = (
    (
        "Small photographs, where a class has no single look: the mean image itself names few. Maps"
        " by logits do about as well as it. The authors' notebook of pixel noise on CIFAR-10 is"
        " lost; theirs is Gabor-PCA noise in colour, with RMS maps."
    ),
)


@dataclass(frozen=True)
class Clothing:
    """What was measured of networks of clothing.

    Attributes
    ----------
    right
        Test accuracy of the networks.
    best, authors
        Test accuracy of maps as classifiers: of our best ones, and of the authors'.
    mean_image
        Of the mean training images.
    pixel, gabor
        By network: how often each label was given to noise of pixels, and to Gabor-PCA noise.
    """

    right: Sequence[float]
    best: Sequence[float]
    authors: Sequence[float]
    mean_image: float
    pixel: Mapping[str, NDArray[np.int64]]
    gabor: Mapping[str, NDArray[np.int64]]

    @property
    def two(self) -> list[float]:
        """Share of the two commonest labels in noise of pixels, of each network."""
        return [float(np.sort(v)[-2:].sum() / v.sum()) for v in self.pixel.values()]

    @property
    def collapses(self) -> bool:
        """Whether noise of pixels gets one label or two."""
        return bool(np.median(self.two) > 0.8)

    @property
    def spreads(self) -> bool:
        """Whether Gabor-PCA noise gets more varied labels."""
        return all(entropy(v) > entropy(self.pixel[name]) for name, v in self.gabor.items())

    def numbers(self) -> tuple[Number, ...]:
        """Beside the published ones."""
        return (
            Number(
                "Gabor-PCA label means, cosine, test set (authors')",
                " / ".join(percent(x) for x in self.authors),
                "41.21 % (training set)",
                same(min(self.authors) >= 0.2),
            ),
            Number(
                "maps as classifier of the test set, improved",
                spread(self.best),
                "",
                same(min(self.best) >= 0.2),
            ),
            Number(
                "test accuracy of the networks",
                spread(self.right, 2),
                "85.3 to 87.6 % (fed 0 to 255)",
                same(min(self.right) >= 0.89),
            ),
            Number(
                "uniform noise: share of the two commonest labels",
                " / ".join(percent(x) for x in self.two),
                "75 to 99.9 %",
                same(self.collapses),
            ),
            Number(
                "labels spread more by Gabor-PCA noise",
                "yes" if self.spreads else "no",
                "yes",
                same(self.spreads),
            ),
        )

    def table(self, names: Sequence[str]) -> Table:
        """How often each label was given."""
        rows = tuple(
            (f"{n}, {noise}", *(f"{x:,}" for x in v), f"{entropy(v):.2f}")
            for noise, labels in (("U[0, 1]", self.pixel), ("Gabor-PCA", self.gabor))
            for n, v in labels.items()
        )
        return Table(("noise", *(n[:8] for n in names), "bits"), rows, "Labels given to noise")


def fashion(sources: Sources) -> SectionParts:
    """E6."""
    networks, runs, gabor = (
        sources.networks("fashion"),
        sources.runs("fashion-maps"),
        sources.runs("fashion-gabor"),
    )
    names = class_names("fashion-mnist")
    measured = Clothing(
        [test_accuracy(n) for n in networks.values()],
        [
            scored(maps(runs[f"{n}/mean"], "logits"), "fashion-mnist", "correlation").accuracy
            for n in SEEDS
        ],
        [
            scored(label_means(gabor[f"{n}/authors"]), "fashion-mnist", "cosine").accuracy
            for n in ("cnn-0", "wide-0")
        ],
        scored(mean_images(data("fashion-mnist", True), 10), "fashion-mnist", "cosine").accuracy,
        {n: counts(runs[f"{n}/uniform"]) for n in (*SEEDS, "wide-0")},
        {n: counts(gabor[f"{n}/authors"]) for n in ("cnn-0", "wide-0")},
    )
    return SectionParts(
        judged(
            min(measured.right) >= 0.89,
            min(measured.best) >= 0.2,
            measured.collapses,
            measured.spreads,
        ),
        FASHION_TEXT,
        measured.numbers(),
        tuple(_fashion_figures(runs, gabor["wide-0/authors"], measured, names)),
        (measured.table(names),),
    )


def _fashion_figures(
    runs: Mapping[str, Run], wide: Run, measured: Clothing, names: Sequence[str]
) -> Iterator[Figure]:
    """Maps by logits, the authors' mean images of the wide network, and accuracies of both."""
    yield Figure(
        charts.sheet(
            {f"seed {i}": maps(runs[f"{n}/mean"], "logits") for i, n in enumerate(SEEDS)},
            names,
            "Logit maps around the mean image, logits per pixel unit, N ="
            f" {runs['cnn-0/mean'].moments.images:,} a network",
        ),
        "What three networks look for in each kind of clothing.",
        "Logit maps of ten kinds of clothing",
    )
    yield Figure(
        charts.sheet(
            {"authors' Gabor-PCA": charts.unit_scaled(label_means(wide))},
            names,
            "Mean image of each label, the wide network with its double softmax, scaled to [0,"
            f" 1]\nN = {wide.moments.images:,}",
            True,
            {"authors' Gabor-PCA": [f"n {x:,}" for x in measured.gabor["wide-0"]]},
        ),
        "Mean images by the authors' Gabor-PCA noise.",
        "Mean images of ten labels by Gabor-PCA noise",
    )
    yield Figure(
        charts.dots(
            {
                "logits, noise around the mean": measured.best,
                "Gabor-PCA label means (authors')": measured.authors,
            },
            f"Maps as classifiers, {len(data('fashion-mnist', False).labels):,} test images",
            "named right",
            {"chance": 0.1, "mean training image (cosine)": measured.mean_image},
        ),
        "Accuracy of maps as classifiers.",
        "Accuracies between chance and the mean image",
    )


@dataclass(frozen=True)
class Photographs:
    """Test accuracy of maps as classifiers of CIFAR-10.

    Attributes
    ----------
    accuracy
        Of maps by logits, by run.
    authors
        Of the authors' RMS maps, by run.
    mean, mean_accuracy
        The mean training images, and theirs.
    """

    accuracy: Mapping[str, float]
    authors: Mapping[str, float]
    mean: Maps
    mean_accuracy: float

    @classmethod
    def of(cls, runs: Mapping[str, Run], gabor: Mapping[str, Run]) -> Photographs:
        """Score the maps of runs by noise of low resolution, and by Gabor-PCA noise."""
        improved = {f"gabor {path}": run for path, run in gabor.items() if "improved" in path}
        accuracy = {
            path: scored(maps(run, "logits"), "cifar-10", "correlation").accuracy
            for path, run in {**runs, **improved}.items()
        }
        authors = {
            path: scored(run.rms_maps[:10], "cifar-10", "cosine").accuracy
            for path, run in gabor.items()
            if path.endswith("authors")
        }
        mean = mean_images(data("cifar-10", True), 10)
        return cls(accuracy, authors, mean, scored(mean, "cifar-10", "correlation").accuracy)

    @property
    def best(self) -> list[float]:
        """Of noise of low resolution around the mean, one a seed."""
        return [self.accuracy[name] for name in SEEDS]

    @property
    def best_enough(self) -> bool:
        """Whether all seeds are at twice chance."""
        return min(self.best) >= 0.2

    @property
    def authors_enough(self) -> bool:
        """Whether the authors' maps are above chance."""
        return max(self.authors.values()) >= 0.15

    def groups(self) -> dict[str, list[float]]:
        """All accuracies, by what a figure calls them."""
        others = {path: [v] for path, v in self.accuracy.items() if path not in SEEDS}
        authors = {f"RMS maps, {path} (authors)": [v] for path, v in self.authors.items()}
        return {
            "logits, low-resolution noise around the mean": self.best,
            **others,
            **authors,
        }


def cifar(sources: Sources) -> SectionParts:
    """E7."""
    networks, runs, gabor = (
        sources.networks("cifar"),
        sources.runs("cifar-maps"),
        sources.runs("cifar-gabor"),
    )
    published: dict[str, Run] = {}
    if sources.is_finished("cifar-maps-resnet20"):
        published = sources.runs("cifar-maps-resnet20")
    runs = runs | published
    names = class_names("cifar-10")
    measured = Photographs.of(runs, gabor)
    return SectionParts(
        judged(measured.best_enough, measured.authors_enough),
        CIFAR_TEXT,
        (
            Number(
                "Gabor-PCA RMS maps (authors')",
                " / ".join(f"{p.split('/')[0]} {percent(v)}" for p, v in measured.authors.items()),
                "21.67 %",
                same(measured.authors_enough),
            ),
            Number(
                "maps as classifier, improved",
                spread(measured.best),
                "",
                same(measured.best_enough),
            ),
            Number("mean training image, correlation", percent(measured.mean_accuracy)),
            Number(
                "test accuracy of the three networks",
                spread([test_accuracy(n) for n in networks.values()], 1),
                "81 to 82 % (six convolutions)",
            ),
        ),
        tuple(_cifar_figures({n: runs[n] for n in (*SEEDS, *published)}, measured, names)),
        (
            Table(
                ("noise", *names, "bits"),
                tuple(
                    (path, *(f"{x:,}" for x in counts(run)), f"{entropy(counts(run)):.2f}")
                    for path, run in gabor.items()
                ),
                "Labels given to Gabor-PCA noise",
            ),
        ),
    )


def _cifar_figures(
    runs: Mapping[str, Run], measured: Photographs, names: Sequence[str]
) -> Iterator[Figure]:
    """Maps of runs by noise of low resolution below the mean images, and all accuracies."""
    yield Figure(
        charts.sheet(
            {
                "mean image": measured.mean - measured.mean.mean(axis=0),
                **{
                    f"{name}\nN = {run.moments.images:,}": maps(run, "logits")
                    for name, run in runs.items()
                },
            },
            names,
            "Logit maps, logits per pixel unit, light around grey; above: mean training image minus"
            " the mean of all",
        ),
        "What CIFAR-10 networks look for: three seeds, and a ResNet-20 with published weights where"
        " they are at hand.",
        "Logit maps of ten kinds of objects",
    )
    yield Figure(
        charts.dots(
            measured.groups(),
            f"Maps as classifiers, {len(data('cifar-10', False).labels):,} test images",
            "named right",
            {
                "chance": 0.1,
                "mean training image": measured.mean_accuracy,
                "authors": 0.2167,
            },
        ),
        "Accuracy of maps as classifiers of CIFAR-10.",
        "Accuracies between chance and the mean image",
    )


def invariance(sources: Sources) -> SectionParts:
    """E18."""
    members, best = sources.trials("transforms"), "paper-0"
    if sources.is_finished("transforms-resnet20"):
        members, best = members | sources.trials("transforms-resnet20"), "resnet20"
    (paper,), (centre,) = (
        sources.networks("cifar-paper").values(),
        sources.networks("cifar-centre").values(),
    )
    right: dict[str, dict[str, float]] = {
        name: {row["transform"]: row["correct"] / row["trials"] for row in trials.table.to_pylist()}
        for name, trials in members.items()
    }
    net, own = right[best], right["centre"]
    falls = all(v < 0.65 * net["none"] for t, v in net.items() if t != "none")
    return SectionParts(
        judged(falls, own["shrink-centre"] > own["none"]),
        _invariance_text(percent(test_accuracy(centre)), percent(test_accuracy(paper))),
        _invariance_numbers(right, net, falls),
        (
            Figure(
                charts.dots(
                    {f"{t}": [right[n][t] for n in right] for t in net},
                    f"Right answers to {members[best].answers[0].sum():,} transformed test images"
                    " of CIFAR-10",
                    "named right",
                    {"chance": 0.1},
                    each=[TRANSFORMED[n] for n in right],
                ),
                "Accuracy by transform, one dot a network.",
                "Accuracy falls under every transform",
            ),
        ),
        (
            Table(
                ("transform", *right, "authors"),
                tuple(
                    (t, *(percent(right[n][t]) for n in right), PUBLISHED_TRANSFORMS.get(t, ""))
                    for t in net
                ),
                "Named right",
            ),
        ),
    )


def _invariance_text(centre: str, paper: str) -> tuple[str, ...]:
    """What was done, with the accuracies of two networks."""
    return (
        (
            "None of these networks was trained on images that are shrunk, moved, turned or"
            " enlarged, and none recognises them well. The authors' network was never put into"
            " eval mode (D8); shrinking and moving are separated here by shrinking to three"
            " places. A network that was trained on shrunken images in the centre"
            f" ({centre} of them right) does not know images of full size."
        ),
        (
            "The paper's own six-convolution network was trained here on few images at the small"
            f" size ({paper} right); a ResNet-20 with published weights stands beside it where they"
            " are at hand, and is the one whose numbers are listed."
        ),
    )


def _invariance_numbers(
    right: Mapping[str, Mapping[str, float]], net: Mapping[str, float], falls: bool
) -> tuple[Number, ...]:
    own = right["centre"]
    return (
        Number(
            f"unmodified: {' / '.join(right)}",
            " / ".join(percent(right[n]["none"]) for n in right),
            "81.3 to 82.0 %",
        ),
        Number(
            "shrunk to the upper left / centre / lower right",
            " / ".join(
                percent(net[f"shrink-{t}"]) for t in ("upper-left", "centre", "lower-right")
            ),
            "20.4 / 20.3 %",
            same(falls),
        ),
        Number(
            "rotated by 90 / 180 / 270",
            " / ".join(percent(net[f"rotate-{t}"]) for t in (90, 180, 270)),
            "30.8 / 31.9 / 29.3 %",
        ),
        Number("enlarged twice", percent(net["zoom"]), "37.7 %"),
        Number(
            "trained on shrunken images: shrunken / full size",
            f"{percent(own['shrink-centre'])} / {percent(own['none'])}",
            "72.4 / 37.9 %",
            same(own["shrink-centre"] > own["none"]),
        ),
    )


EXPERIMENTS = (
    Experiment("e06", "E6 Fashion-MNIST", "The same for clothing.", fashion),
    Experiment("e07", "E7 CIFAR-10", "The same for small photographs in colour.", cifar),
    Experiment(
        "e18",
        "E18 Invariance",
        "Are objects recognised when they are shrunk, moved, turned or enlarged?",
        invariance,
    ),
)
