"""Networks of libraries with another number of classes, or of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wna_ray.errors import ModelError

MOST = 1 << 24  # classes, or channels


@dataclass(frozen=True)
class Head:
    """What a URI says of a network's ends.

    Attributes
    ----------
    classes
        ``num_classes`` as a keyword, or nothing.
    channels
        ``in_chans``; None for the network's own.
    """

    classes: dict[str, Any]
    channels: int | None


def head_of(name: str, options: Mapping[str, str], trained: bool) -> Head:
    """What a URI says of a network's ends.

    Parameters
    ----------
    name
        The model, for errors.
    options
        Of the URI.
    trained
        Whether weights that the library knows are asked for.

    Raises
    ------
    ModelError
        A number is none, or weights that the library knows come with other ends.
    """
    wanted = [option for option in ("num_classes", "in_chans") if option in options]
    given = {option: _number(name, option, options[option]) for option in wanted}
    if given and trained:
        raise ModelError(
            f"model: {name}: {wanted[0]}= needs other weights than those that the library knows;"
            f" leave {wanted[0]}= out, or give a file of your own by weights=PATH"
        )
    classes = {"num_classes": given["num_classes"]} if "num_classes" in given else {}
    return Head(classes, given.get("in_chans"))


def take_channels(module: nn.Module, channels: int, name: str) -> None:
    """Let the first convolution of a network take so many channels: it is drawn anew.

    Raises
    ------
    ModelError
        The network has no convolution of three channels that comes first.
    """
    first = next((n for n, m in module.named_modules() if isinstance(m, nn.Conv2d)), None)
    old = None if first is None else module.get_submodule(first)
    if first is None or not isinstance(old, nn.Conv2d) or old.in_channels != 3 or old.groups != 1:
        raise ModelError(
            f"model: {name} does not begin with a convolution of three channels, so in_chans="
            " cannot be given; take timm:, or a function of your own by python:"
        )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    if old.bias is not None and new.bias is not None:
        with torch.no_grad():
            new.bias.copy_(old.bias)
    parent, _, leaf = first.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)


def _number(name: str, option: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST:
        raise ModelError(f"model: {option}={text} in {name} is no whole number from 1 to {MOST:,}")
    return int(text)
