"""E9, E17, E19: other families of networks, codes instead of pixels, and other kinds of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from wna_ray.paper.sources import Sources, counts, figure, maps, scored, unit_length, weights_of
from wna_ray.statistics.maps import cosine
from wna_ray.studies import compare, compare_figures

DIGITS = [str(i) for i in range(10)]
SAMPLES = 6  # images of each kind of noise that are drawn
FAMILIES = ("logistic", "mlp", "rnn", "lstm")

FAMILIES_TEXT = (
    (
        "A logistic regression is the best check of all: its maps must be its weights, and are. The"
        " paper's noise (mean one half) is far from digits, so all these networks give nearly all"
        " of it two or three labels; noise of mean zero, or around the mean digit, reaches the"
        " others."
    ),
    (
        "Maps of different networks, around the same mean image, agree within a family, and less"
        " between families (last figure; each network had noise of its own)."
    ),
)
KINDS_TEXT = (
    (
        "Every kind of noise that there is, on one network. No output of the authors' stripes,"
        " binary noise and sparse blocks survives but the remark that stripes did not work: they"
        " tell of columns only. Their blocks never reach the last row and column (D21); here they"
        " do, and each cell is independent."
    ),
    (
        "The point of parametric noise is fewer images: fewer numbers are asked for, and in"
        " directions in which digits vary."
    ),
)


@dataclass(frozen=True)
class RegressionMaps:
    """How the maps of logistic regressions compare with the truth, their weights; noise of mean
    zero.

    Attributes
    ----------
    labels, logits
        Smallest correlation of a map by label, or by logit, with its weights, of all seeds.
    accuracy
        Test accuracy of the label maps, one a seed, by the check's own score: maps of length 1 and
        plain products, for a regression's decision is a product with its weights.
    """

    labels: float
    logits: float
    accuracy: list[float]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> RegressionMaps:
        """Compare the maps of runs with the weights of their networks."""
        logits, labels = (
            min(
                float(cosine(maps(run, kind).reshape(10, -1), weights_of(run.spec.model)).min())
                for run in runs
            )
            for kind in ("logits", "label")
        )
        accuracy = [
            scored(unit_length(maps(run, "label")), "mnist", "dot").accuracy for run in runs
        ]
        return cls(labels, logits, accuracy)

    @property
    def are_weights(self) -> bool:
        """Whether the maps by label are the weights."""
        return self.labels >= 0.95

    @property
    def classify(self) -> bool:
        """Whether the maps name test images as well as a regression does."""
        return min(self.accuracy) >= 0.85


def families(sources: Sources) -> SectionParts:
    """E9."""
    runs, cnn = sources.runs("family-maps"), sources.runs("mnist-maps")
    trained = {
        family: [test_accuracy(n) for n in sources.networks(family).values()] for family in FAMILIES
    }
    seeds = {
        family: [f"{family}-{i}" for i in range(len(values))] for family, values in trained.items()
    }
    regression = RegressionMaps.of([runs[f"{n}/zero"] for n in seeds["logistic"]])
    template = {
        (family, noise): [
            scored(maps(runs[f"{n}/{noise}"], "logits"), "mnist", "correlation").accuracy
            for n in names
        ]
        for family, names in seeds.items()
        for noise in ("uniform", "zero", "mean")
    }
    share = {
        (family, noise): float(np.mean([largest_share(runs[f"{n}/{noise}"]) for n in names]))
        for family, names in seeds.items()
        for noise in ("uniform", "zero")
    }
    narrow = all(share[f, "uniform"] > share[f, "zero"] for f in ("logistic", "mlp", "rnn"))
    return SectionParts(
        judged(regression.are_weights, regression.classify, narrow),
        FAMILIES_TEXT,
        (
            *_regression_numbers(regression),
            Number(
                "perceptron, RNN: logit maps as classifier (mean zero)",
                f"{spread(template['mlp', 'zero'])}, {spread(template['rnn', 'zero'])}",
                "58.0 %, 52.0 %",
            ),
            Number(
                "largest label share under U[0, 1]: logistic / mlp / rnn",
                " / ".join(percent(share[f, "uniform"]) for f in ("logistic", "mlp", "rnn")),
                "98 % in 3 labels (mlp), 86 % (rnn)",
                same(narrow),
            ),
            Number(
                "test accuracy: logistic / mlp / rnn / lstm",
                " / ".join(percent(float(np.mean(v))) for v in trained.values()),
                "- / 98.30 / 96.36 / - %",
            ),
        ),
        tuple(_family_figures(runs, cnn, template)),
        (_family_labels(runs, [f"{family}-0" for family in FAMILIES]),),
    )


def largest_share(run: Run) -> float:
    """Share of the noise that gets the commonest label."""
    return float(counts(run).max() / run.moments.images)


def _regression_numbers(regression: RegressionMaps) -> tuple[Number, ...]:
    return (
        Number(
            "logistic regression: correlation of label maps with its weights, smallest of 30",
            f"{regression.labels:.3f}",
            "at least .95",
            same(regression.are_weights),
        ),
        Number("the same of logit maps", f"{regression.logits:.3f}"),
        Number(
            "logistic regression: label maps of length 1 as classifier (mean zero)",
            spread(regression.accuracy),
            "88.9 %",
            same(regression.classify),
        ),
    )


def _family_figures(
    runs: Mapping[str, Run],
    cnn: Mapping[str, Run],
    template: Mapping[tuple[str, str], list[float]],
) -> Iterator[Figure]:
    """Maps of each family, their accuracies as classifiers, and how alike they are."""
    around_mean = {
        path.removesuffix("/mean"): run
        for path, run in {**runs, **{k: v for k, v in cnn.items() if k.startswith("cnn")}}.items()
        if path.endswith("/mean")
    }
    first = {f"{family}-0": maps(runs[f"{family}-0/mean"], "logits") for family in FAMILIES}
    yield Figure(
        charts.sheet(
            first | {"cnn-0": maps(cnn["cnn-0/mean"], "logits")},
            DIGITS,
            "Logit maps around the mean digit, logits per pixel unit, N ="
            f" {next(iter(around_mean.values())).moments.images:,} a network",
        ),
        "What five families look for.",
        "Logit maps of five families of networks",
    )
    yield Figure(
        charts.dots(
            {f"{family}, {noise}": values for (family, noise), values in template.items()},
            "Logit maps as classifiers of 10,000 test digits (correlation)",
            "named right",
            {"chance": 0.1},
        ),
        "Accuracy of maps as classifiers, by family and noise, one dot a seed.",
        "Accuracy by family and noise",
    )
    measured = [compare.Measured.of(run, name, "logits") for name, run in around_mean.items()]
    agreement = compare.mean_correlations(compare.correlations(measured))
    yield Figure(
        compare_figures.matrix(measured, agreement),
        "How alike the maps of different networks are.",
        "Matrix of correlations between maps of networks",
    )


def _family_labels(runs: Mapping[str, Run], names: Sequence[str]) -> Table:
    rows = tuple(
        (
            f"{n}, {noise}",
            *(f"{x:,}" for x in counts(runs[f"{n}/{noise}"])),
            f"{entropy(counts(runs[f'{n}/{noise}'])):.2f}",
        )
        for n in names
        for noise in ("uniform", "zero", "mean")
    )
    return Table(
        ("network, noise", *DIGITS, "bits"),
        rows,
        "Labels given to noise, first seed of each family",
    )


def latent(sources: Sources) -> SectionParts:
    """E17."""
    runs = sources.runs("latent")
    n = {name: counts(run) for name, run in runs.items()}
    bits = {name: entropy(v) for name, v in n.items()}
    rows = tuple((name, *(f"{x:,}" for x in v), f"{bits[name]:.2f}") for name, v in n.items())
    own = {
        name: sum(
            row["self_label"] == row["name"]
            for row in run.classes.to_pylist()
            if row["kind"] == "label"
        )
        for name, run in runs.items()
    }
    narrow = bits["tanh"] < bits["vae"] - 0.5
    return SectionParts(
        judged(narrow, own["tanh"] <= 2, own["vae"] >= 9),
        (
            (
                "Noise on the code of an autoencoder, and the digit network answers to the decoded"
                " picture; moments are kept of the codes. A plain autoencoder's codes are not"
                " normal, so normal codes decode to few kinds of pictures, and the labels are"
                " uneven, as the authors found; their stronger finding, four empty classes and all"
                " maps called 4, belongs to their one autoencoder and its pictures in -1 to 1, and"
                " does not come back with ours. A variational one's codes are normal by training:"
                " its noise reaches all digits, and the maps are digits."
            ),
        ),
        (
            Number(
                "entropy of the labels, bits: tanh (authors') / autoencoder / variational",
                " / ".join(f"{b:.2f}" for b in bits.values()),
                "1.7 (6 of 10 hit)",
                same(narrow),
            ),
            Number(
                "label maps called by their own name",
                " / ".join(str(v) for v in own.values()),
                "1 of 10 (all are called 4)",
                same(own["tanh"] <= 2),
            ),
            Number(
                "digits reached", " / ".join(str(int((v > 0).sum())) for v in n.values()), "6 of 10"
            ),
        ),
        tuple(
            Figure(
                figure(run, "decoded_maps"),
                f"{name}: what each answer's mean code decodes to. N = {run.moments.images:,}.",
                f"Decoded mean codes of ten digits, {name}",
            )
            for name, run in runs.items()
        ),
        (Table(("decoder", *DIGITS, "bits"), rows, "Labels given to decoded codes"),),
    )


@dataclass(frozen=True)
class NoiseKinds:
    """What was measured of each kind of noise, by its name.

    Attributes
    ----------
    reliable
        Reliability of the median digit's logit map.
    accuracy
        Of the logit maps as classifiers of test digits.
    needed
        Images for a reliability of .9.
    """

    reliable: Mapping[str, float]
    accuracy: Mapping[str, float]
    needed: Mapping[str, float]

    @classmethod
    def of(cls, runs: Mapping[str, Run], measured: Sequence[compare.Measured]) -> NoiseKinds:
        """Read them from runs."""
        reliable = {
            name: float(
                np.nanmedian(next(r for r in run.readouts if r.kind == "logits").reliability)
            )
            for name, run in runs.items()
        }
        accuracy = {
            name: scored(maps(run, "logits"), "mnist", "correlation").accuracy
            for name, run in runs.items()
        }
        needed = {
            row["run"]: row["images_0.9"] or np.inf
            for row in compare.images_needed(measured).to_pylist()
        }
        return cls(reliable, accuracy, needed)

    @property
    def parametric_needs_fewer(self) -> bool:
        """Whether noise in directions in which digits vary needs fewer images than pixels."""
        needed = self.needed
        return needed["gabor-pca"] < needed["gaussian"] and needed["pca"] < needed["gaussian"]

    @property
    def stripes_fail(self) -> bool:
        """Whether maps by stripes name fewer images than those by noise of pixels."""
        return self.accuracy["stripes"] < self.accuracy["gaussian"]

    def numbers(self) -> tuple[Number, ...]:
        """Beside the published ones."""
        return (
            Number(
                "images for a reliability of .9 (median digit): pixel noise / PCA / Gabor-PCA",
                " / ".join(f"{self.needed[k]:,.0f}" for k in ("gaussian", "pca", "gabor-pca")),
                "fewer by Gabor-PCA",
                same(self.parametric_needs_fewer),
            ),
            Number(
                "stripes as classifier (pixel noise in brackets)",
                f"{percent(self.accuracy['stripes'])} ({percent(self.accuracy['gaussian'])})",
                "did not work",
                same(self.stripes_fail),
            ),
        )

    def table(self, runs: Mapping[str, Run]) -> Table:
        """All of them, with how varied the labels are."""
        rows = tuple(
            (
                name,
                str(run.stimulus.pixels),
                f"{self.reliable[name]:.3f}",
                f"{self.needed[name]:,.0f}",
                percent(self.accuracy[name]),
                f"{entropy(counts(run)):.2f}",
            )
            for name, run in runs.items()
        )
        return Table(
            (
                "noise",
                "values an image",
                "reliability",
                "N for .9",
                "as classifier",
                "bits of labels",
            ),
            rows,
            f"{next(iter(runs.values())).moments.images:,} images each, logit maps of one network",
        )


def kinds(sources: Sources) -> SectionParts:
    """E19, and convergence."""
    runs = sources.runs("noise-kinds")
    curves = [compare.Measured.of(run, name, "logits") for name, run in runs.items()]
    measured = NoiseKinds.of(runs, curves)
    return SectionParts(
        judged(measured.parametric_needs_fewer, measured.stripes_fail),
        KINDS_TEXT,
        measured.numbers(),
        (
            Figure(
                compare_figures.convergence(curves),
                "Reliability of the median digit's logit map by number of images.",
                "Reliability against N for ten kinds of noise",
            ),
            Figure(
                charts.sheet(
                    {
                        name: run.stimulus.images(run.stimulus.noise.grid(0, SAMPLES)).numpy()
                        for name, run in runs.items()
                    },
                    [f"image {i}" for i in range(SAMPLES)],
                    "The first images of each kind of noise, black 0 to white 1",
                    grey=True,
                ),
                "Six images of each kind of noise.",
                "Samples of ten kinds of noise",
            ),
        ),
        (measured.table(runs),),
    )


EXPERIMENTS = (
    Experiment(
        "e09",
        "E9 Other families of networks",
        "Do regressions, perceptrons and recurrent networks have such maps, too?",
        families,
    ),
    Experiment(
        "e17", "E17 Noise on codes", "What if noise is decoded by an autoencoder first?", latent
    ),
    Experiment(
        "e19",
        "E19 Other kinds of noise",
        "Which kinds of noise work, and how many images does each need?",
        kinds,
    ),
)
