"""A network that lives in a running Python process: a module that a person hands over.

It is never touched: all is done to a copy, in eval mode. That takes its weights a second time.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.networks.models import Model, freeze, state_digest
from wna_ray.text import LIVE, first_line, plain

WAY = (
    "write a function that makes it, and give model: python:MODULE:FUNCTION, with its weights as"
    " weights=PATH"
)


def name_of(network: nn.Module) -> str:
    """What a spec says of a live module: ``live:package.module.Class``."""
    kind = type(_inner(network))
    return f"{LIVE}:{plain(f'{kind.__module__}.{kind.__qualname__}', 200)}"


def live_model(network: nn.Module) -> Model:
    """A copy of a module, frozen: in eval mode, on the CPU, without gradients.

    What `torch.compile` and ``nn.DataParallel`` have wrapped is taken out. Hooks of the module are
    copied, too, and run, since they may be part of what it does.

    Parameters
    ----------
    network
        The module; left as it is: parameters and buffers, modes of all its parts, gradients, device
        and hooks.

    Raises
    ------
    ModelError
        It is no module, it cannot be copied, or its weights cannot be told apart.
    """
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"model: expected a torch.nn.Module, got {type(network).__name__}; a function of yours"
            " is called by model: python:MODULE:FUNCTION"
        )
    name = name_of(network)
    try:
        with torch.no_grad():
            module = copy.deepcopy(_inner(network)).to("cpu")
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever the module's own parts raise
        raise ModelError(
            f"model: {name} cannot be copied ({type(error).__name__}: {first_line(error)}), and it"
            f" is not to be changed; {WAY}"
        ) from error
    freeze(module, name)
    return Model(module, name, state_digest(module))


def not_sent(name: str, error: BaseException) -> ModelError:
    """The error of a module that cannot travel to the workers of a cluster."""
    return ModelError(
        f"model: {name} cannot travel to Ray's workers ({type(error).__name__}:"
        f" {first_line(error)}); take executor='local', or {WAY}"
    )


def _inner(network: nn.Module) -> nn.Module:
    """The module itself, out of wrappers that change none of its numbers."""
    while True:
        inner: Any = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner
