"""The layers of a network, as one forward pass goes through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Layer:
    """A module that takes part in a forward pass.

    Attributes
    ----------
    name, kind
        Dotted name, as ``target: {layer: NAME}`` takes it, and class.
    shape
        Of its output for one image; empty where that is no tensor.
    units
        How many units it has: channels of maps, or neurons; 0 where it has none.
    why
        Why it has no units.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    units: int
    why: str = ""

    @property
    def shape_text(self) -> str:
        """Its shape, to print."""
        return " x ".join(map(str, self.shape)) or "-"


def layers_of(module: nn.Module, fed: torch.Tensor) -> tuple[Layer, ...]:
    """The modules that take part in a forward pass, in the order of the network.

    Parameters
    ----------
    fed
        What the network is fed, a batch of any size.
    """
    outputs = dict[str, Any]()
    kinds = {name: type(inner).__name__ for name, inner in module.named_modules() if name}
    handles = [
        inner.register_forward_hook(
            lambda _module, _inputs, y, name=name: outputs.update({name: _seen(y)})
        )
        for name, inner in module.named_modules()
        if name
    ]
    try:
        module(fed)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(_layer(name, kinds[name], outputs[name]) for name in kinds if name in outputs)


def _seen(output: Any) -> tuple[int, ...] | str:
    """The shape of a tensor for one image, or what else was given."""
    return tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else type(output).__name__


def _layer(name: str, kind: str, seen: tuple[int, ...] | str) -> Layer:
    if isinstance(seen, str):
        return Layer(name, kind, (), 0, f"gives {seen}, no tensor")
    if len(seen) not in (1, 3):
        return Layer(name, kind, seen, 0, "neither neurons nor maps")
    return Layer(name, kind, seen, seen[0])
