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
    _draw_networks((left, right), spec.network in AUTOENCODERS, networks, epochs)
    for axis in (left, right):
        _epochs(axis, spec.epochs)
    _label_axes(left, right, spec)
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(_title(spec, len(networks)), fontsize=10)
    return png(figure)


def _draw_networks(
    axes: tuple[Axes, Axes],
    autoencoder: bool,
    networks: Mapping[str, TrainedNetwork],
    epochs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Curves of each network, and a diamond for its test images."""
    left, right = axes
    score = "squared_error" if autoencoder else "accuracy"
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    labelled: set[str] = set()
    few = len(networks) <= MOST_NAMED
    for i, (name, network) in enumerate(networks.items()):
        rows, kind = epochs[name], name.partition("-")[0]
        colour = colours[i] if few else KINDS.get(kind, "tab:blue")
        label = _label(name, network, autoencoder) if few else f"{kind} networks"
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
        diamond: dict[str, Any] = {"marker": "D", "linestyle": "none", "color": colour}
        size = 6 if few else 4
        right.plot(network.epoch, network.scores.test, label=label, markersize=size, **diamond)


def _label(name: str, network: TrainedNetwork, autoencoder: bool) -> str:
    """A network's name, how it does on the test images, and what its trigger does."""
    test = f"{network.scores.test:.5f}" if autoencoder else f"{100 * network.scores.test:.2f} %"
    label = f"{name.replace('-', ' ')}: test {test}"
    if network.attack is not None and network.attack.patched:
        label += f", trigger {100 * network.attack.moved / network.attack.patched:.1f} %"
    return label


def _label_axes(left: Axes, right: Axes, spec: TrainSpec) -> None:
    """Scales and labels: losses are logarithmic, accuracies in percent."""
    autoencoder = spec.network in AUTOENCODERS
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
        return
    variational = AUTOENCODERS[spec.network].variational
    left.set_ylabel(
        "cross-entropy and divergence (nats an image)"
        if variational
        else "loss: mean squared error"
    )
    right.set_ylabel("mean squared error of a value" + (" in (-1, 1)" if spec.options.tanh else ""))


def _title(spec: TrainSpec, count: int) -> str:
    """What was trained on what, and what each line is."""
    images = f"the first {spec.images:,} of each class" if spec.images else "all"
    classes = "" if spec.classes == "all" else f" (classes {', '.join(map(str, spec.classes))})"
    transform = "" if spec.transform == "none" else f", {spec.transform}"
    held = f"; solid: {spec.validation:,} held-out images" if spec.validation else ""
    return (
        f"Training of {spec.network} on {spec.dataset}{classes}{transform}: {count}"
        f" network{'s' * (count > 1)}, {images} training images\ndashed: training"
        f" batches{held}; diamond: test images, at the epoch that is kept"
    )


def _some(value: float, _: int | None) -> str:
    """Plain numbers between powers of ten, but not all of them."""
    return f"{value:g}" if f"{value:e}"[0] in "2357" or value > 10 else ""


def _epochs(axis: Axes, epochs: int) -> None:
    axis.set_xlabel("epoch")
    axis.set_xlim(1 - 0.03 * epochs, epochs * 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
