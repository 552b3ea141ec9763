"""Pictures of a training job: loss and accuracy (of autoencoders: squared error) by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatter,
    MaxNLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from wna_ray.drawing.sheets import png
from wna_ray.networks.autoencoders import AUTOENCODERS
from wna_ray.networks.trained import TrainedNetwork
from wna_ray.training.spec import TrainSpec

MOST_NAMED = 10  # networks that get a colour and a line of the legend of their own
KINDS = {"clean": "tab:blue", "poisoned": "tab:red", "seed": "tab:blue"}


def curves(
    spec: TrainSpec,
    networks: Mapping[str, TrainedNetwork],
    epochs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> bytes:
    """A PNG: loss and accuracy, or squared error, by epoch of each network, with that of the test
    images at the end.

    Parameters
    ----------
    networks, epochs
        By name; `epochs` as ``curves.json`` has them.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    autoencoder = spec.network in AUTOENCODERS
    score = "squared_error" if autoencoder else "accuracy"
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    labelled: set[str] = set()
    for i, (name, network) in enumerate(networks.items()):
        rows = epochs[name]
        kind = name.partition("-")[0]
        few = len(networks) <= MOST_NAMED
        colour = colours[i] if few else KINDS.get(kind, "tab:blue")
        test = f"{network.scores.test:.5f}" if autoencoder else f"{100 * network.scores.test:.2f} %"
        label = f"{name.replace('-', ' ')}: test {test}" if few else f"{kind} networks"
        if network.attack is not None and few and network.attack.patched:
            label += f", trigger {100 * network.attack.moved / network.attack.patched:.1f} %"
        label = "" if label in labelled else label
        labelled.add(label)
        style: dict[str, Any] = {
            "color": colour,
            "linewidth": 1.6 if few else 0.8,
            "alpha": 1.0 if few else 0.6,
            "markersize": 3,
        }
        x = [row["number"] for row in rows]
        marker = "o" if len(rows) < 30 else None
        for axis, key, held in (
            (left, "loss", "validation_loss"),
            (right, score, f"validation_{score}"),
        ):
            axis.plot(x, [row[key] for row in rows], linestyle="--", marker=None, **style)
            if rows[0][held] is not None:
                axis.plot(x, [row[held] for row in rows], marker=marker, **style)
        right.plot(
            network.epoch,
            network.scores.test,
            marker="D",
            linestyle="none",
            label=label,
            color=colour,
            markersize=6 if few else 4,
        )
    for axis in (left, right):
        _epochs(axis, spec.epochs)
    for axis in (left, right) if autoencoder else (left,):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(
            FuncFormatter(_some) if autoencoder else LogFormatter(minor_thresholds=(2, 0.5))
        )
    if not autoencoder:
        left.set_ylabel(
            "cross-entropy (nats)" + (" of the double softmax" if spec.options.softmax else "")
        )
        right.set_ylabel("accuracy")
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    else:
        variational = AUTOENCODERS[spec.network].variational
        left.set_ylabel(
            "cross-entropy and divergence (nats an image)"
            if variational
            else "loss: mean squared error"
        )
        right.set_ylabel(
            "mean squared error of a value" + (" in (-1, 1)" if spec.options.tanh else "")
        )
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    images = f"the first {spec.images:,} of each class" if spec.images else "all"
    classes = "" if spec.classes == "all" else f" (classes {', '.join(map(str, spec.classes))})"
    shown = "" if spec.transform == "none" else f", {spec.transform}"
    held = f"; solid: {spec.validation:,} held-out images" if spec.validation else ""
    figure.suptitle(
        f"Training of {spec.network} on {spec.dataset}{classes}{shown}: {len(networks)}"
        f" network{'s' * (len(networks) > 1)}, {images} training images\ndashed: training"
        f" batches{held}; diamond: test images, at the epoch that is kept",
        fontsize=10,
    )
    return png(figure)


def _some(value: float, _: int | None) -> str:
    """Plain numbers between powers of ten, but not all of them."""
    return f"{value:g}" if f"{value:e}"[0] in "2357" or value > 10 else ""


def _epochs(axis: Axes, epochs: int) -> None:
    axis.set_xlabel("epoch")
    axis.set_xlim(1 - 0.03 * epochs, epochs * 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
