"""E9, E17, E19: other families of networks, codes instead of pixels, and other kinds of noise."""

from __future__ import annotations

import numpy as np

from wna_ray.drawing.page import Figure, Number, Table
from wna_ray.paper import charts
from wna_ray.paper.experiment import (
    Experiment,
    Made,
    entropy,
    judged,
    percent,
    same,
    spread,
    test_accuracy,
)
from wna_ray.paper.sources import Found, counts, figure, maps, scored, unit_length, weights_of
from wna_ray.statistics.maps import cosine
from wna_ray.studies import compare, compare_figures

DIGITS = [str(i) for i in range(10)]
SHOWN = 6  # images of each kind of noise


def families(found: Found) -> Made:
    """E9."""
    runs, cnn = found.runs("family-maps"), found.runs("mnist-maps")
    trained = {
        family: [test_accuracy(n) for n in found.networks(family).values()]
        for family in ("logistic", "mlp", "rnn", "lstm")
    }
    seeds = {
        family: [f"{family}-{i}" for i in range(len(values))] for family, values in trained.items()
    }
    close = [
        cosine(
            maps(runs[f"{n}/zero"], "logits").reshape(10, -1),
            weights_of(runs[f"{n}/zero"].spec.model),
        )
        for n in seeds["logistic"]
    ]
    labels = [
        cosine(
            maps(runs[f"{n}/zero"], "label").reshape(10, -1),
            weights_of(runs[f"{n}/zero"].spec.model),
        )
        for n in seeds["logistic"]
    ]
    template = {
        (family, noise): [
            scored(maps(runs[f"{n}/{noise}"], "logits"), "mnist", "correlation").accuracy
            for n in names
        ]
        for family, names in seeds.items()
        for noise in ("uniform", "zero", "mean")
    }
    share = {
        (family, noise): [
            float(counts(runs[f"{n}/{noise}"]).max() / runs[f"{n}/{noise}"].moments.images)
            for n in names
        ]
        for family, names in seeds.items()
        for noise in ("uniform", "zero")
    }
    narrow = all(
        np.mean(share[f, "uniform"]) > np.mean(share[f, "zero"]) for f in ("logistic", "mlp", "rnn")
    )
    others = {
        f"{n}": run
        for n, run in (
            (p.removesuffix("/mean"), r)
            for p, r in (runs | {k: v for k, v in cnn.items() if k.startswith("cnn")}).items()
            if p.endswith("/mean")
        )
    }
    measured = [compare.Measured.of(run, name, "logits") for name, run in others.items()]
    agreement = compare.mean_correlations(compare.correlations(measured))
    rows = tuple(
        (
            f"{n}, {noise}",
            *(f"{x:,}" for x in counts(runs[f"{n}/{noise}"])),
            f"{entropy(counts(runs[f'{n}/{noise}'])):.2f}",
        )
        for names in seeds.values()
        for n in names[:1]
        for noise in ("uniform", "zero", "mean")
    )
    first = {
        f"{n}": maps(runs[f"{n}/mean"], "logits")
        for n in ("logistic-0", "mlp-0", "rnn-0", "lstm-0")
    } | {"cnn-0": maps(cnn["cnn-0/mean"], "logits")}
    groups = {f"{family}, {noise}": values for (family, noise), values in template.items()}
    # The check's own score: label maps of length 1 and plain products, for a regression's decision
    # is a product with its weights.
    lr = [
        scored(unit_length(maps(runs[f"{n}/zero"], "label")), "mnist", "dot").accuracy
        for n in seeds["logistic"]
    ]
    return Made(
        judged(min(float(c.min()) for c in labels) >= 0.95, min(lr) >= 0.85, narrow),
        (
            (
                "A logistic regression is the best check of all: its maps must be its weights, and"
                " are. The paper's noise (mean one half) is far from digits, so all these networks"
                " give nearly all of it two or three labels; noise of mean zero, or around the mean"
                " digit, reaches the others."
            ),
            (
                "Maps of different networks, around the same mean image, agree within a family, and"
                " less between families (last figure; each network had noise of its own)."
            ),
        ),
        (
            Number(
                "logistic regression: correlation of label maps with its weights, smallest of 30",
                f"{min(float(c.min()) for c in labels):.3f}",
                "at least .95",
                same(min(float(c.min()) for c in labels) >= 0.95),
            ),
            Number("the same of logit maps", f"{min(float(c.min()) for c in close):.3f}"),
            Number(
                "logistic regression: label maps of length 1 as classifier (mean zero)",
                spread(lr),
                "88.9 %",
                same(min(lr) >= 0.85),
            ),
            Number(
                "perceptron, RNN: logit maps as classifier (mean zero)",
                f"{spread(template['mlp', 'zero'])}, {spread(template['rnn', 'zero'])}",
                "58.0 %, 52.0 %",
            ),
            Number(
                "largest label share under U[0, 1]: logistic / mlp / rnn",
                " / ".join(
                    percent(float(np.mean(share[f, "uniform"]))) for f in ("logistic", "mlp", "rnn")
                ),
                "98 % in 3 labels (mlp), 86 % (rnn)",
                same(narrow),
            ),
            Number(
                "test accuracy: logistic / mlp / rnn / lstm",
                " / ".join(percent(float(np.mean(v))) for v in trained.values()),
                "- / 98.30 / 96.36 / - %",
            ),
        ),
        (
            Figure(
                charts.sheet(
                    first,
                    DIGITS,
                    "Logit maps around the mean digit, logits per pixel unit, N ="
                    f" {next(iter(others.values())).moments.images:,} a network",
                ),
                "What five families look for.",
                "Logit maps of five families of networks",
            ),
            Figure(
                charts.dots(
                    groups,
                    "Logit maps as classifiers of 10,000 test digits (correlation)",
                    "named right",
                    {"chance": 0.1},
                ),
                "Accuracy of maps as classifiers, by family and noise, one dot a seed.",
                "Accuracy by family and noise",
            ),
            Figure(
                compare_figures.matrix(measured, agreement),
                "How alike the maps of different networks are.",
                "Matrix of correlations between maps of networks",
            ),
        ),
        (
            Table(
                ("network, noise", *DIGITS, "bits"),
                rows,
                "Labels given to noise, first seed of each family",
            ),
        ),
    )


def latent(found: Found) -> Made:
    """E17."""
    runs = found.runs("latent")
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
    return Made(
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


def kinds(found: Found) -> Made:
    """E19, and convergence."""
    runs = found.runs("noise-kinds")
    reliable = {
        name: float(np.nanmedian(next(r for r in run.readouts if r.kind == "logits").reliability))
        for name, run in runs.items()
    }
    accuracy = {
        name: scored(maps(run, "logits"), "mnist", "correlation").accuracy
        for name, run in runs.items()
    }
    measured = [compare.Measured.of(run, name, "logits") for name, run in runs.items()]
    needed = {
        row["run"]: row["images_0.9"] or np.inf
        for row in compare.images_needed(measured).to_pylist()
    }
    fewer = needed["gabor-pca"] < needed["gaussian"] and needed["pca"] < needed["gaussian"]
    rows = tuple(
        (
            name,
            str(run.stimulus.pixels),
            f"{reliable[name]:.3f}",
            f"{needed[name]:,.0f}",
            percent(accuracy[name]),
            f"{entropy(counts(run)):.2f}",
        )
        for name, run in runs.items()
    )
    return Made(
        judged(fewer, accuracy["stripes"] < accuracy["gaussian"]),
        (
            (
                "Every kind of noise that there is, on one network. No output of the authors'"
                " stripes, binary noise and sparse blocks survives but the remark that stripes did"
                " not work: they tell of columns only. Their blocks never reach the last row and"
                " column (D21); here they do, and each cell is independent."
            ),
            (
                "The point of parametric noise is fewer images: fewer numbers are asked for, and in"
                " directions in which digits vary."
            ),
        ),
        (
            Number(
                "images for a reliability of .9 (median digit): pixel noise / PCA / Gabor-PCA",
                " / ".join(f"{needed[k]:,.0f}" for k in ("gaussian", "pca", "gabor-pca")),
                "fewer by Gabor-PCA",
                same(fewer),
            ),
            Number(
                "stripes as classifier (pixel noise in brackets)",
                f"{percent(accuracy['stripes'])} ({percent(accuracy['gaussian'])})",
                "did not work",
                same(accuracy["stripes"] < accuracy["gaussian"]),
            ),
        ),
        (
            Figure(
                compare_figures.convergence(measured),
                "Reliability of the median digit's logit map by number of images.",
                "Reliability against N for ten kinds of noise",
            ),
            Figure(
                charts.sheet(
                    {
                        name: run.stimulus.images(run.stimulus.noise.grid(0, SHOWN)).numpy()
                        for name, run in runs.items()
                    },
                    [f"image {i}" for i in range(SHOWN)],
                    "The first images of each kind of noise, black 0 to white 1",
                    grey=True,
                ),
                "Six images of each kind of noise.",
                "Samples of ten kinds of noise",
            ),
        ),
        (
            Table(
                (
                    "noise",
                    "values an image",
                    "reliability",
                    "N for .9",
                    "as classifier",
                    "bits of labels",
                ),
                rows,
                f"{next(iter(runs.values())).moments.images:,} images each, logit maps of one"
                " network",
            ),
        ),
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
