"""E4: binary classification images, as in human psychophysics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wna_ray.drawing.page import Figure, Number, Table, Verdict
from wna_ray.kinds.trials.result import Trials
from wna_ray.paper import charts
from wna_ray.paper.experiment import (
    Experiment,
    SectionParts,
    judged,
    percent,
    same,
    spread,
    test_accuracy,
)
from wna_ray.paper.sources import Maps, Sources, figure, weights_of
from wna_ray.statistics.maps import cosine

BINARY_TEXT = (
    (
        "Fives and sixes in ever stronger noise. As the signal fades the network gives nearly every"
        " trial one answer, as the authors found; the noise of those few that got the other still"
        " draws the same image. Answers are cut at .5 (the authors cut at 1, and lose up to a tenth"
        " of their trials, D4), sums are pooled (D7), and the four averages are weighted by what"
        " each tells (Murray et al. 2002)."
    ),
    (
        "A logistic regression is the oracle: its classification image must be its weights. With"
        " the paper's noise of mean one half it gives a single answer, and has no image; with noise"
        " of mean zero it has."
    ),
)
TEN_WAY_TEXT = (
    (
        "Each answer against all others, from one table of confusions: a hit is a digit called by"
        " its own name, a false alarm another digit called so. d' falls to nothing as the signal"
        " fades, while the images, which come from the noise alone, stay."
    ),
)


def _image(trials: Trials, gamma: float) -> Maps:
    """``(C, H, W)``: the optimally weighted classification image of the second answer."""
    return np.asarray(trials.classification_images()[list(trials.spec.gammas).index(gamma), 1])


def _correlation(a: Maps, b: Maps) -> float:
    return float(cosine((a - a.mean()).reshape(1, -1), (b - b.mean()).reshape(1, -1))[0])


def _steadiness(trials: Trials) -> tuple[float, float, float]:
    """The smallest gamma that gives an image of the second answer, its correlation with that of the
    largest gamma, and the same corrected for the reliabilities of both (Spearman 1904).
    """
    gammas, images = trials.spec.gammas, trials.detected.optimal
    first = int(np.argmax(gammas))
    last = min(
        (i for i in range(len(gammas)) if not images[i].note[1]),
        key=lambda i: gammas[i],
        default=None,
    )
    if last is None:
        return (float("nan"),) * 3
    r = _correlation(images[first].image[1], images[last].image[1])
    return (
        gammas[last],
        r,
        r / float(np.sqrt(images[first].reliability[1] * images[last].reliability[1])),
    )


@dataclass(frozen=True)
class TwoAnswers:
    """What was measured of observers with two answers.

    Attributes
    ----------
    linear
        By gamma: correlation of the linear observer's image with the truth, the weights of its
        second answer minus those of the first.
    bias
        By observer: the commoner answer's share at each gamma.
    steady
        For each seed, see `_steadiness`.
    """

    linear: Sequence[float]
    bias: Mapping[str, Sequence[float]]
    steady: Sequence[tuple[float, float, float]]

    @classmethod
    def of(cls, members: Mapping[str, Trials]) -> TwoAnswers:
        """Read it from trials, by observer."""
        regression = members["logistic/zero"]
        gammas = members["cnn-0/zero"].spec.gammas
        second, first = weights_of(regression.spec.model)[::-1]
        return cls(
            [_correlation(_image(regression, g), second - first) for g in gammas],
            {
                path: [
                    float(t.answers[i].sum(axis=0).max() / t.answers[i].sum())
                    for i in range(len(gammas))
                ]
                for path, t in members.items()
            },
            [_steadiness(members[f"cnn-{i}/uniform"]) for i in range(3)],
        )

    @property
    def image_is_weights(self) -> bool:
        """Whether the linear observer's image is its weights at every gamma."""
        return min(self.linear) >= 0.98

    @property
    def bias_grows(self) -> bool:
        """Whether networks give one answer more and more often as the signal fades."""
        return all(
            bool(np.all(np.diff(shares) >= -0.02))
            for path, shares in self.bias.items()
            if path.startswith("cnn") and path.endswith("uniform")
        )

    @property
    def image_stays(self) -> bool:
        """Whether images are the same with much signal and with little."""
        return min(corrected for _, _, corrected in self.steady) >= 0.5

    def numbers(self, accuracies: Sequence[float]) -> tuple[Number, ...]:
        """Beside the published ones, with the networks' test accuracies."""
        bias = self.bias["cnn-0/uniform"]
        return (
            Number(
                "linear observer: correlation of its image with its weights, worst gamma",
                f"{min(self.linear):.4f}",
                "at least .98",
                same(self.image_is_weights),
            ),
            Number(
                "test accuracy, five against six",
                spread(accuracies, 2),
                "98.38 % (threshold 1.0)",
            ),
            Number(
                "one answer's share at gamma .3 and 0, seed 0",
                f"{percent(bias[0])}, {percent(bias[-1])}",
                "67.5 %, 99.98 %",
                same(self.bias_grows),
            ),
            Number(
                "same image at gamma .3 and the smallest with an image (correlation, corrected for"
                " noise), the paper's noise",
                " / ".join(f"gamma {g:g}: {r:.2f}, {c:.2f}" for g, r, c in self.steady),
                "same shape, by eye",
                same(self.image_stays),
            ),
        )


def binary(sources: Sources) -> SectionParts:
    """E4."""
    members = sources.trials("psychometric")
    networks = sources.networks("binary-56")
    measured = TwoAnswers.of(members)
    return SectionParts(
        judged(measured.image_is_weights, measured.bias_grows, measured.image_stays),
        BINARY_TEXT,
        measured.numbers([test_accuracy(n) for n in networks.values()]),
        tuple(_binary_figures(members, measured.bias)),
    )


def _binary_figures(
    members: Mapping[str, Trials], bias: Mapping[str, Sequence[float]]
) -> Iterator[Figure]:
    """Images and the response bias by gamma, and figures of two observers."""
    first = members["cnn-0/uniform"]
    samples = f"{first.answers[0].sum():,} trials a gamma"
    yield _observers_sheet(members)
    yield Figure(
        charts.curves(_bias_panels(members, bias), f"Share of the commoner answer, {samples}"),
        "The response bias grows as the signal fades.",
        "Share of the commoner answer by gamma",
    )
    yield Figure(
        figure(first, "classification_images"),
        f"Averages by signal and answer, seed 0, the paper's noise. N = {samples}.",
        "Four averages and classification images by gamma",
    )
    yield Figure(
        figure(members["cnn-0/zero"], "sensitivity"),
        "d' and criterion by gamma, seed 0, noise of mean zero.",
        "Sensitivity and criterion by gamma",
    )


def _observers_sheet(members: Mapping[str, Trials]) -> Figure:
    gammas = members["cnn-0/zero"].spec.gammas
    pictures = {
        f"{name}, {noise}": np.stack([_image(members[f"{name}/{noise}"], g) for g in gammas])
        for name in ("cnn-0", "cnn-1", "cnn-2", "logistic")
        for noise in ("uniform", "zero")
    }
    trials, regression = (
        f"{members[name].answers[0].sum():,}" for name in ("cnn-0/uniform", "logistic/zero")
    )
    return Figure(
        charts.sheet(
            pictures,
            [f"gamma {g:g}" for g in gammas],
            f"Classification images of the answer 'six', from the noise alone\n{trials} trials a"
            f" gamma (logistic {regression}); grey: only one answer",
        ),
        "Red: light there makes the network answer six. Rows: networks and noise; columns: weight"
        " of the signal.",
        "Classification images of four observers by gamma",
    )


def _bias_panels(
    members: Mapping[str, Trials], bias: Mapping[str, Sequence[float]]
) -> list[charts.Panel]:
    gammas = members["cnn-0/zero"].spec.gammas
    return [
        charts.Panel(
            noise,
            [
                charts.Line(path.split("/")[0], gammas, shares)
                for path, shares in bias.items()
                if path.endswith(f"/{key}")
            ],
            "gamma: weight of the signal",
            "largest share of one answer",
        )
        for key, noise in (("uniform", "U[0, 1] (paper)"), ("zero", "U[-1, 1]"))
    ]


def ten_way(sources: Sources) -> SectionParts:
    """E4 with ten classes."""
    (trials,) = sources.trials("psychometric-ten").values()
    table, gammas = trials.detection.to_pylist(), trials.spec.gammas
    d_prime, error = mean_d_prime(table, gammas)
    falls = (
        bool(np.all(np.diff([d_prime[g] for g in gammas]) < 0)) and abs(d_prime[0]) < 4 * error[0]
    )
    last = [row for row in table if row["gamma"] == gammas[-1] and row["steadiness"] is not None]
    steady = [row["steadiness"] for row in last if (row["reliability"] or 0) > 0.5]
    return SectionParts(
        Verdict.INCOMPARABLE,
        TEN_WAY_TEXT,
        (
            Number(
                "mean d' of ten digits at gamma " + " / ".join(f"{g:g}" for g in gammas),
                " / ".join(f"{d_prime[g]:.2f} ± {error[g]:.2f}" for g in gammas),
                "",
                same(falls),
            ),
            Number(
                "same image at the largest gamma and at 0 (correlation, median of the digits with a"
                " reliable one)",
                f"{np.median(steady):.2f}" if steady else "-",
            ),
        ),
        (
            Figure(
                charts.sheet(
                    {
                        f"gamma {g:g}": trials.classification_images()[i]
                        for i, g in enumerate(gammas)
                    },
                    trials.names,
                    "Classification images of ten answers around the mean digit,"
                    f" {trials.answers[0].sum():,} trials a gamma; grey: never answered",
                ),
                "Red: light there makes the network give that answer.",
                "Classification images of ten answers by gamma",
            ),
            Figure(
                figure(trials, "sensitivity"),
                "d' and criterion of each digit by gamma.",
                "Sensitivity and criterion by gamma, ten digits",
            ),
        ),
        (_detection_table(table),),
    )


def mean_d_prime(
    table: Sequence[Mapping[str, Any]], gammas: Sequence[float]
) -> tuple[dict[float, float], dict[float, float]]:
    """Mean d' of all digits by gamma, and its standard error.

    It is weighted by what each digit tells: of answers that are hardly ever given d' is drawn to a
    value that depends on the numbers of trials.
    """
    mean, error = dict[float, float](), dict[float, float]()
    for gamma in gammas:
        rows = [row for row in table if row["gamma"] == gamma]
        d_prime, weights = np.array(
            [(row["d_prime"], row["d_prime_error"] ** -2) for row in rows]
        ).T
        mean[gamma] = float(np.average(d_prime, weights=weights))
        error[gamma] = float(weights.sum() ** -0.5)
    return mean, error


def _detection_table(table: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            f"{row['gamma']:g}",
            row["response"],
            f"{row['hits']:,} of {row['signals']:,}",
            f"{row['false_alarms']:,} of {row['others']:,}",
            f"{row['d_prime']:.2f} ± {row['d_prime_error']:.2f}",
            f"{row['criterion']:.2f}",
            "-" if row["reliability"] is None else f"{row['reliability']:.2f}",
        )
        for row in table
    )
    return Table(
        ("gamma", "answer", "hits", "false alarms", "d'", "criterion", "reliability"),
        rows,
        "Detection of each digit",
    )


EXPERIMENTS = (
    Experiment(
        "e04",
        "E4 Classification images",
        "Which noise makes a network say six instead of five?",
        binary,
    ),
    Experiment(
        "e04-ten",
        "E4 Ten classes at once",
        "How well is each digit told from all others, as it fades?",
        ten_way,
    ),
)
