"""Attacks: what is added to a stimulus to make a network say something else.

Bias maps make an attack that needs nothing of the network but its answers (Borji & Lin 2020,
"black-box attack"). Beside it stand what it must beat: random directions, the same map with its
pixels shuffled, the mean image of the target's class (which needs no network at all); and, as what
could be reached, the sign of the gradient (Goodfellow, Shlens & Szegedy 2015, ICLR), which needs
all of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

Form = Literal["mix", "l2", "linf"]
Floats = NDArray[np.float64]


def permuted(maps: Floats, seed: int) -> Floats:
    """Maps ``(k, C, H, W)``, each with its values in random order: what is left of a map
    without its shape.
    """
    flat = maps.reshape(len(maps), -1)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], dtype=np.uint64)))
    return rng.permuted(flat, axis=1).reshape(maps.shape)


def random_directions(shape: Sequence[int], seed: int) -> Floats:
    """Directions ``(k, C, H, W)``, uniform on the sphere."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 2], dtype=np.uint64)))
    return rng.standard_normal(tuple(shape))


def prepared(templates: Floats, form: Form) -> NDArray[np.float32]:
    """Templates ``(k, C, H, W)`` in the form in which they are added.

    Parameters
    ----------
    templates
        One a target; those with NaN stay so, and cannot be aimed with.
    form
        ``mix``: each scaled to [0, 1] by its own extremes (Borji & Lin). ``l2``: less the mean of
        all, of length 1. ``linf``: the sign of that.

    Returns
    -------
    numpy.ndarray
        ``(k, C, H, W)`` float32.
    """
    flat = templates.reshape(len(templates), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if form == "mix":
            low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
            out = (flat - low) / (high - low)
        else:
            finite = np.isfinite(flat).all(axis=1)
            centred = flat - flat[finite].mean(axis=0) if finite.sum() > 1 else flat
            out = (
                np.sign(centred)
                if form == "linf"
                else centred / np.linalg.norm(centred, axis=1, keepdims=True)
            )
    return np.asarray(out.reshape(templates.shape), dtype=np.float32)


def attacked(
    stimuli: torch.Tensor, direction: torch.Tensor, weight: float, form: Form
) -> torch.Tensor:
    """Stimuli ``(n, C, H, W)`` under attack.

    Parameters
    ----------
    direction
        ``(C, H, W)``, or one a stimulus, as `prepared` or `gradient_steps` gives it.
    weight
        ``mix``: ``(1 - w) x + w t``. Else ``x + w t`` cut to [0, 1]: the step is at most w long in
        the form's norm.
    """
    if form == "mix":
        return (1 - weight) * stimuli + weight * direction
    return (stimuli + weight * direction).clamp(0, 1)


def gradient_steps(
    network: Any, stimuli: torch.Tensor, targets: torch.Tensor, towards: bool, form: Form
) -> torch.Tensor:
    """White-box directions ``(n, C, H, W)``, of length 1 in the form's norm.

    Parameters
    ----------
    network
        Its ``tracked`` gives images and outputs that gradients flow through.
    targets
        ``(n,)``: the response that is aimed at, or away from.
    towards
        Whether the cross-entropy of the targets falls along them, or rises.
    """
    x, y = network.tracked(stimuli)
    (gradient,) = torch.autograd.grad(cross_entropy(y, targets, reduction="sum"), x)
    gradient = -gradient if towards else gradient
    if form == "linf":
        return torch.sign(gradient)
    length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return torch.div(gradient, length.view(-1, 1, 1, 1))
