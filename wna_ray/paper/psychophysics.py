"""E4: binary classification images, as in human psychophysics."""

from __future__ import annotations

import numpy as np

from wna_ray.drawing.page import Figure, Number, Table, Verdict
from wna_ray.kinds.trials.result import Trials
from wna_ray.paper import charts
from wna_ray.paper.experiment import Experiment, Made, judged, percent, same, spread, test_accuracy
from wna_ray.paper.sources import Found, Maps, figure, weights_of
from wna_ray.statistics.maps import cosine


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


def binary(found: Found) -> Made:
    """E4."""
    members = found.trials("psychometric")
    networks = found.networks("binary-56")
    gammas = members["cnn-0/zero"].spec.gammas
    first = members["cnn-0/uniform"]
    # The truth of the linear observer: the weights of its second answer minus those of the first.
    second, first_row = weights_of(members["logistic/zero"].spec.model)[::-1]
    weights = second - first_row
    linear = [_correlation(_image(members["logistic/zero"], g), weights) for g in gammas]
    bias = {
        path: [
            float(t.answers[i].sum(axis=0).max() / t.answers[i].sum()) for i in range(len(gammas))
        ]
        for path, t in members.items()
    }
    grows = all(
        np.all(np.diff(v) >= -0.02)
        for path, v in bias.items()
        if path.startswith("cnn") and path.endswith("uniform")
    )
    steady = [_steadiness(members[f"cnn-{i}/uniform"]) for i in range(3)]
    right = [test_accuracy(n) for n in networks.values()]
    pictures = {
        f"{name}, {noise}": np.stack([_image(members[f"{name}/{noise}"], g) for g in gammas])
        for name in ("cnn-0", "cnn-1", "cnn-2", "logistic")
        for noise in ("uniform", "zero")
    }
    panels = [
        charts.Panel(
            noise,
            [
                charts.Line(path.split("/")[0], gammas, v)
                for path, v in bias.items()
                if path.endswith(f"/{key}")
            ],
            "gamma: weight of the signal",
            "largest share of one answer",
        )
        for key, noise in (("uniform", "U[0, 1] (paper)"), ("zero", "U[-1, 1]"))
    ]
    return Made(
        judged(min(linear) >= 0.98, grows, min(c for _, _, c in steady) >= 0.5),
        (
            (
                "Fives and sixes in ever stronger noise. As the signal fades the network gives"
                " nearly every trial one answer, as the authors found; the noise of those few that"
                " got the other still draws the same image. Answers are cut at .5 (the authors cut"
                " at 1, and lose up to a tenth of their trials, D4), sums are pooled (D7), and the"
                " four averages are weighted by what each tells (Murray et al. 2002)."
            ),
            (
                "A logistic regression is the oracle: its classification image must be its weights."
                " With the paper's noise of mean one half it gives a single answer, and has no"
                " image; with noise of mean zero it has."
            ),
        ),
        (
            Number(
                "linear observer: correlation of its image with its weights, worst gamma",
                f"{min(linear):.4f}",
                "at least .98",
                same(min(linear) >= 0.98),
            ),
            Number("test accuracy, five against six", spread(right, 2), "98.38 % (threshold 1.0)"),
            Number(
                "one answer's share at gamma .3 and 0, seed 0",
                f"{percent(bias['cnn-0/uniform'][0])}, {percent(bias['cnn-0/uniform'][-1])}",
                "67.5 %, 99.98 %",
                same(grows),
            ),
            Number(
                "same image at gamma .3 and the smallest with an image (correlation, corrected for"
                " noise), the paper's noise",
                " / ".join(f"gamma {g:g}: {r:.2f}, {c:.2f}" for g, r, c in steady),
                "same shape, by eye",
                same(min(c for _, _, c in steady) >= 0.5),
            ),
        ),
        (
            Figure(
                charts.sheet(
                    pictures,
                    [f"gamma {g:g}" for g in gammas],
                    "Classification images of the answer 'six', from the noise"
                    f" alone\n{first.answers[0].sum():,} trials a gamma (logistic"
                    f" {members['logistic/zero'].answers[0].sum():,}); grey: only one answer",
                ),
                "Red: light there makes the network answer six. Rows: networks and noise; columns:"
                " weight of the signal.",
                "Classification images of four observers by gamma",
            ),
            Figure(
                charts.curves(
                    panels,
                    f"Share of the commoner answer, {first.answers[0].sum():,} trials a gamma",
                ),
                "The response bias grows as the signal fades.",
                "Share of the commoner answer by gamma",
            ),
            Figure(
                figure(first, "classification_images"),
                "Averages by signal and answer, seed 0, the paper's noise. N ="
                f" {first.answers[0].sum():,} trials a gamma.",
                "Four averages and classification images by gamma",
            ),
            Figure(
                figure(members["cnn-0/zero"], "sensitivity"),
                "d' and criterion by gamma, seed 0, noise of mean zero.",
                "Sensitivity and criterion by gamma",
            ),
        ),
    )


def ten_way(found: Found) -> Made:
    """E4 with ten classes."""
    (trials,) = found.trials("psychometric-ten").values()
    table = trials.detection.to_pylist()
    gammas = trials.spec.gammas
    # Weighted by what each digit tells: of answers that are hardly ever given d' is drawn to a
    # value that depends on the numbers of trials.
    known = {
        g: (
            np.array(
                [(row["d_prime"], row["d_prime_error"] ** -2) for row in table if row["gamma"] == g]
            ).T
        )
        for g in gammas
    }
    d_prime = {g: float(np.average(d, weights=w)) for g, (d, w) in known.items()}
    error = {g: float(w.sum() ** -0.5) for g, (_, w) in known.items()}
    images = {f"gamma {g:g}": trials.classification_images()[i] for i, g in enumerate(gammas)}
    last = [row for row in table if row["gamma"] == gammas[-1] and row["steadiness"] is not None]
    steady = [row["steadiness"] for row in last if (row["reliability"] or 0) > 0.5]
    falls = (
        bool(np.all(np.diff([d_prime[g] for g in gammas]) < 0)) and abs(d_prime[0]) < 4 * error[0]
    )
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
    return Made(
        Verdict.INCOMPARABLE,
        (
            (
                "Each answer against all others, from one table of confusions: a hit is a digit"
                " called by its own name, a false alarm another digit called so. d' falls to"
                " nothing as the signal fades, while the images, which come from the noise alone,"
                " stay."
            ),
        ),
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
                    images,
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
        (
            Table(
                ("gamma", "answer", "hits", "false alarms", "d'", "criterion", "reliability"),
                rows,
                "Detection of each digit",
            ),
        ),
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
