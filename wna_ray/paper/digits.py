"""E1, E2, E3, E5, E8: the digit networks, their bias maps, and bias maps as classifiers of
digits.
"""

from __future__ import annotations

import numpy as np

from wna_ray.drawing.page import Figure, Number, Table
from wna_ray.kinds.average.run import Run
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
from wna_ray.paper.sources import Found, counts, data, figure, label_means, maps, scored
from wna_ray.statistics.classifier import mean_images, shuffled

DIGITS = [str(i) for i in range(10)]
FEW = 1000  # images under which a label's map is not interpreted


def train_networks(found: Found) -> Made:
    """E1."""
    networks = found.networks("mnist")
    fed = found.trials("raw-inputs")
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
    return Made(
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


def bias_maps(found: Found) -> Made:
    """E2."""
    runs = {
        path.removesuffix("/uniform"): run
        for path, run in found.runs("mnist-maps").items()
        if path.endswith("/uniform")
    }
    shares, means, told, rows = [], {}, {}, []
    for name, run in runs.items():
        n = counts(run)
        shares.append(n.max() / n.sum())
        means[name] = charts.unit_scaled(label_means(run))
        told[name] = [f"n {x:,}" for x in n]
        rows.append(
            (
                name,
                *(f"{x:,}" for x in n),
                percent(float(shares[-1])),
                f"{entropy(n):.2f}",
                str(int((n > 0).sum())),
            )
        )
    first = next(iter(runs.values()))
    samples = f"{first.moments.images:,}"
    return Made(
        judged(all(s > 0.5 for s in shares)),
        (
            (
                "White noise of mean one half looks like very little to a digit network: one label"
                " takes most of it, some labels none at all. Which label wins depends on the seed"
                " of the training, so counts are reported, not asserted (D20). A network with the"
                " authors' double softmax (D2) spreads its labels a little more."
            ),
            (
                f"Maps of labels with fewer than {FEW:,} images are shown, and not interpreted:"
                " their reliability is in the table of each run."
            ),
        ),
        (
            Number(
                "largest share of one label",
                " / ".join(percent(float(s)) for s in shares),
                "59.7 to 96.2 % (label 8)",
                same(all(s > 0.5 for s in shares)),
            ),
            Number(
                "labels that noise reaches, of 10",
                " / ".join(r[-1] for r in rows),
                "10 of 10 at N = 10,000,000",
            ),
            Number("entropy of the labels, bits", " / ".join(r[-2] for r in rows), "0.3 to 1.9"),
        ),
        (
            Figure(
                charts.sheet(
                    means,
                    DIGITS,
                    "Mean noise image of each label, each scaled to [0, 1] as the authors do\nU[0,"
                    f" 1] noise, N = {samples} a network; n: images of the label; grey: none",
                    True,
                    told,
                ),
                "What each network calls a digit in uniform noise, each picture in its own grey"
                " scale.",
                "Mean noise images of ten labels for four networks",
            ),
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
                tuple(rows),
                f"Labels given to {samples} images of noise",
            ),
        ),
    )


def _test(run: Run, kind: str, score: str) -> float:
    return scored(maps(run, kind), "mnist", score).accuracy  # type: ignore[arg-type]


def classifiers(found: Found) -> Made:
    """E3 on MNIST; the other data sets have sections of their own."""
    runs, gabor = found.runs("mnist-maps"), found.runs("mnist-gabor")
    cnn = [f"cnn-{i}" for i in range(3)]
    compatible = {
        "pixel noise, label means, cosine (authors' score)": [
            scored(label_means(runs[f"{n}/uniform"]), "mnist", "cosine").accuracy for n in cnn
        ],
        "the same, double softmax": [
            scored(label_means(runs["softmax-0/uniform"]), "mnist", "cosine").accuracy
        ],
        "Gabor-PCA noise, RMS maps, cosine (authors)": [
            scored(gabor[f"{n}/authors"].rms_maps[:10], "mnist", "cosine").accuracy for n in cnn
        ],
    }
    improved = {
        "noise around the mean digit, logits, correlation": [
            _test(runs[f"{n}/mean"], "logits", "correlation") for n in cnn
        ],
        "the same, double softmax": [_test(runs["softmax-0/mean"], "logits", "correlation")],
        "Gabor-PCA noise around the mean, logits, correlation": [
            _test(gabor[f"{n}/improved"], "logits", "correlation") for n in cnn
        ],
        "pixel noise, logits, correlation": [
            _test(runs[f"{n}/uniform"], "logits", "correlation") for n in cnn
        ],
    }
    best = improved["noise around the mean digit, logits, correlation"]
    control = [
        shuffled(maps(runs[f"{n}/mean"], "logits"), data("mnist", False), "correlation")[0]
        for n in cnn
    ]
    mean = scored(mean_images(data("mnist", True), 10), "mnist", "cosine").accuracy
    groups = (
        {f"{name}": values for name, values in compatible.items()}
        | {
            (f"{name} " if name == "the same, double softmax" else name): values
            for name, values in improved.items()
        }
        | {"control: shuffled maps": control}
    )
    theirs = compatible["Gabor-PCA noise, RMS maps, cosine (authors)"]
    return Made(
        judged(min(best) >= 0.4, np.mean(theirs) >= 0.2, all(abs(c - 0.1) < 0.05 for c in control)),
        (
            (
                "A template per class and no network at all: an image gets the label whose map it"
                " resembles most. The improved estimator takes the covariance of noise and logit"
                " instead of means by label, noise around the mean training image instead of grey,"
                " and a correlation instead of a cosine of maps that were scaled by their two most"
                " extreme pixels (D6, D9, D10). Its noise was chosen on training images."
            ),
            (
                "The authors' number is one network at one seed. Above twice chance: yes; by how"
                " much depends on the noise, and with pixel noise on the seed."
            ),
        ),
        (
            Number(
                "test accuracy, Gabor-PCA RMS maps (authors')",
                spread(theirs),
                "35.55 %",
                same(bool(np.mean(theirs) >= 0.2)),
            ),
            Number("test accuracy, improved", spread(best), "", same(min(best) >= 0.4)),
            Number(
                "control: maps with shuffled pixels",
                spread(control),
                "",
                same(all(abs(c - 0.1) < 0.05 for c in control)),
            ),
            Number("chance; majority class", "10.0 %; 11.35 %"),
        ),
        (
            Figure(
                charts.dots(
                    groups,
                    "Maps as classifiers of 10,000 test digits (N ="
                    f" {runs['cnn-0/mean'].moments.images:,} noise images a map)",
                    "test digits that are named right",
                    {
                        "chance": 0.1,
                        "mean training image (cosine)": mean,
                        "authors, Gabor-PCA": 0.3555,
                    },
                ),
                "Accuracy of maps as classifiers, one dot a seed, a bar at the mean.",
                "Accuracies of map classifiers by noise and estimator, between chance and the mean"
                " image",
            ),
            Figure(
                charts.sheet(
                    {f"seed {i}": maps(runs[f"{n}/mean"], "logits") for i, n in enumerate(cnn)},
                    DIGITS,
                    "Logit maps around the mean digit, logits per pixel unit, N ="
                    f" {runs['cnn-0/mean'].moments.images:,} a network",
                ),
                "The maps of the improved estimator: red, more light there and the network finds"
                " the digit likelier.",
                "Logit maps of ten digits for three seeds, most look like the digit",
            ),
        ),
    )


def gabor(found: Found) -> Made:
    """E5."""
    runs, pixel = found.runs("mnist-gabor"), found.runs("mnist-maps")
    cnn = [f"cnn-{i}" for i in range(3)]
    bits = {
        n: (entropy(counts(pixel[f"{n}/uniform"])), entropy(counts(runs[f"{n}/authors"])))
        for n in cnn
    }
    flat = all(b > a for a, b in bits.values())
    theirs = [scored(runs[f"{n}/authors"].rms_maps[:10], "mnist", "cosine").accuracy for n in cnn]
    ours = [_test(runs[f"{n}/improved"], "logits", "correlation") for n in cnn]
    first = runs["cnn-0/authors"]
    rows = tuple(
        (
            n,
            *(f"{x:,}" for x in counts(runs[f"{n}/authors"])),
            f"{bits[n][1]:.2f}",
            f"{bits[n][0]:.2f}",
        )
        for n in cnn
    )
    pictures = {
        "mean (authors)": charts.unit_scaled(label_means(first)),
        "RMS (authors)": charts.unit_scaled(first.rms_maps[:10]),
    }
    return Made(
        judged(flat, np.mean(theirs) >= 0.3),
        (
            (
                "The noise is a random sum of Gabor wavelets, in directions in which digits vary:"
                " 960 wavelets, 250 principal components of their weights. The authors scale each"
                " image to [0, 1] and drop the components' mean (D16, D17); their form is made as"
                " they made it, in 8 bits. The improved form keeps the mean, leaves images as they"
                " are and keeps its moments by component, where the noise is white."
            ),
        ),
        (
            Number(
                "entropy of labels, bits (pixel noise in brackets)",
                " / ".join(f"{b:.2f} ({a:.2f})" for a, b in bits.values()),
                "2.91 (0.3 to 1.9)",
                same(flat),
            ),
            Number(
                "RMS maps as classifier (authors')",
                spread(theirs),
                "35.55 %",
                same(bool(np.mean(theirs) >= 0.3)),
            ),
            Number("logit maps as classifier (improved)", spread(ours)),
        ),
        (
            Figure(
                charts.sheet(
                    pictures,
                    DIGITS,
                    "Gabor-PCA noise as the authors made it: each label's mean and root mean"
                    f" square, scaled to [0, 1]\ncnn-0, N = {first.moments.images:,}",
                    True,
                    {"mean (authors)": [f"n {x:,}" for x in counts(first)]},
                ),
                "Mean and RMS images of each label, seed 0, each in its own grey scale.",
                "Digit-like mean images of ten labels",
            ),
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
                rows,
                "Labels given to the authors' Gabor-PCA noise",
            ),
        ),
    )


def mean_baseline(_: Found) -> Made:
    """E8."""
    train, test = data("mnist", True), data("mnist", False)
    templates = mean_images(train, 10)
    dot, cosine, centred = (
        scored(templates, "mnist", s).accuracy for s in ("dot", "cosine", "correlation")
    )
    fashion = mean_images(data("fashion-mnist", True), 10)
    f_dot, f_cosine = (scored(fashion, "fashion-mnist", s).accuracy for s in ("dot", "cosine"))
    return Made(
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
