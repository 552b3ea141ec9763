"""Microstimulation: change what the units of a layer do while the network answers, and measure what
they do by themselves.

Everything is done by forward hooks that are taken away again; the user's model is never edited.
Units are the channels of a layer of maps, or the neurons of a flat one; a channel is stimulated
alike at every position, which is the same as changing its bias (Borji & Lin 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wna_ray.errors import ModelError, near
from wna_ray.specs.trials import StimulateSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stimulation:
    """What happens to a layer's output ``y``: it becomes ``(1 + scale) y + add``.

    Attributes
    ----------
    layer
        Dotted name of a module.
    add, scale
        ``(u,)`` float32, one a unit.
    """

    layer: str
    add: NDArray[np.float32]
    scale: NDArray[np.float32]


@contextmanager
def stimulated(module: nn.Module, stimulation: Stimulation | None) -> Iterator[None]:
    """While this lasts, the network answers with its units stimulated.

    Raises
    ------
    ModelError
        There is no such layer, or it has other units.
    """
    if stimulation is None:
        yield
        return

    def change(_module: nn.Module, _inputs: Any, output: Any) -> torch.Tensor:
        units = _units_of(output, stimulation.layer)
        if units != len(stimulation.add):
            raise ModelError(
                f"stimulate.layers: '{stimulation.layer}' has {units} units, but"
                f" {len(stimulation.add)} are stimulated"
            )
        shape = (1, -1) + (1,) * (output.ndim - 2)
        add, scale = (
            torch.from_numpy(v).to(output).view(shape) for v in (stimulation.add, stimulation.scale)
        )
        return torch.addcmul(output + add, output, scale)

    handle = find(module, stimulation.layer).register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def find(module: nn.Module, layer: str) -> nn.Module:
    """A layer by its dotted name; `ModelError` names those near it."""
    modules: dict[str, nn.Module] = dict(module.named_modules())
    if layer not in modules or layer == "":
        raise ModelError(
            f"stimulate.layers: no layer '{layer}'; near it are"
            f" {near(layer, (n for n in modules if n))}"
        )
    return modules[layer]


def _units_of(output: Any, layer: str) -> int:
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4):
        given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"stimulate.layers: '{layer}' gives {given}; expected neurons (n, u) or maps (n, u,"
            " h, w)"
        )
    return int(output.shape[1])


@dataclass(frozen=True)
class Activity:
    """What the units of a layer do by themselves.

    Attributes
    ----------
    mean
        ``(k, u)``: mean of the rectified output over images of each class (and over positions); NaN
        for a class without images.
    sd
        Standard deviation of the output over all images and positions, root mean square over units.
    sta
        ``(k, u)``: correlation-like weight of each unit, ``cov(output, logit) / sd(logit)`` over
        noise: by how much it is up when the class's logit is one standard deviation up.
    """

    mean: Floats
    sd: float
    sta: Floats


@dataclass
class _Kept:
    """Hooks that keep the outputs of layers."""

    layers: Sequence[str]
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        handles = []
        for layer in self.layers:

            def keep(_module: nn.Module, _inputs: Any, output: Any, layer: str = layer) -> None:
                _units_of(output, layer)
                self.outputs[layer] = (
                    output.detach().float().clone()
                )  # the module after it may work in place

            handles.append(find(module, layer).register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, layer: str, n: int) -> torch.Tensor:
        """The first `n` outputs of a layer, ``(n, u, positions)`` float64."""
        if layer not in self.outputs:
            raise ModelError(
                f"stimulate.layers: '{layer}' takes no part in the forward pass of this network"
            )
        return (
            self.outputs[layer][:n].flatten(2).double()
            if self.outputs[layer].ndim == 4
            else self.outputs[layer][:n, :, None].double()
        )


def measure(
    network: Any,
    layers: Sequence[str],
    images: Iterator[tuple[torch.Tensor, NDArray[np.int64]]],
    noise: Iterator[torch.Tensor],
    k: int,
) -> dict[str, Activity]:
    """Activity of the units of some layers.

    Parameters
    ----------
    network
        Called with batches of images, gives outputs ``(n, k)``; its ``module`` is looked into.
    images
        Batches ``(n, C, H, W)`` and the class (response) of each image.
    noise
        Batches of noise.
    k
        Classes.
    """
    kept = _Kept(layers)
    n, per_class = 0, np.zeros(k)
    sums: dict[str, Floats] = {}
    first: dict[str, Floats] = {}
    second: dict[str, Floats] = {}
    with kept.watching(network.module):
        for batch, classes in images:
            network(batch)
            one_hot = np.zeros((k, len(classes)))
            one_hot[classes, np.arange(len(classes))] = 1
            n, per_class = n + len(classes), per_class + one_hot.sum(axis=1)
            for layer in layers:
                y = kept.take(layer, len(classes))
                sums[layer] = (
                    sums.get(layer, 0.0) + one_hot @ y.clamp(min=0).mean(dim=2).cpu().numpy()
                )
                first[layer] = first.get(layer, 0.0) + y.mean(dim=2).sum(dim=0).cpu().numpy()
                second[layer] = (
                    second.get(layer, 0.0) + y.square().mean(dim=2).sum(dim=0).cpu().numpy()
                )
        logits: list[Floats] = []
        answers: dict[str, list[Floats]] = {layer: [] for layer in layers}
        for batch in noise:
            logits.append(network(batch).astype(np.float64))
            for layer in layers:
                answers[layer].append(kept.take(layer, len(batch)).mean(dim=2).cpu().numpy())
    activities = {}
    for layer in layers:
        variance = np.maximum(second[layer] / n - np.square(first[layer] / n), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums[layer] / per_class[:, None]
        activities[layer] = Activity(
            mean, float(np.sqrt(variance.mean())), _sta(logits, answers[layer], k)
        )
    return activities


def _sta(logits: Sequence[Floats], activity: Sequence[Floats], k: int) -> Floats:
    if not logits:
        return np.zeros((k, 0))
    y, a = np.concatenate(logits), np.concatenate(activity)
    y = y - y.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=0)
    sd = y.std(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            np.where(sd[:, None] > 0, y.T @ (a - a.mean(axis=0)) / (len(y) * sd[:, None]), 0.0)
        )


def profile(spec: StimulateSpec, activity: Activity, source: str, row: int, seed: int) -> Floats:
    """What strength 1 adds to each unit (or, with ``mode: scale``, by what share it changes it):
    ``(u,)`` float64.

    Parameters
    ----------
    source
        One of ``spec.by``.
    row
        The class.
    seed
        Of the shuffle of ``sham``.
    """
    p = activity.sta[row] if source == "sta" else activity.mean[row]
    if source == "sham":
        p = np.random.Generator(
            np.random.Philox(key=np.array([seed, row], dtype=np.uint64))
        ).permutation(p)
    if spec.units != "all":
        chosen = np.zeros(len(p), dtype=bool)
        chosen[list(spec.units)] = True
        p = np.where(chosen, p, 0.0)
    largest = float(np.abs(p).max(initial=0.0))
    if largest == 0:
        return np.zeros(len(p))
    if spec.mode == "scale" or spec.unit == "max":
        return np.asarray(p / largest)
    return (
        p if spec.unit == "activity" else np.asarray(p / np.sqrt(np.square(p).mean()) * activity.sd)
    )
