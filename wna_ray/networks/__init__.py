"""Networks: architectures, models by URI, units, tuning; programs of torch.export in a folder of
their own.

Public are the architectures, so that ``python:wna_ray.networks:cifar_resnet20`` is a model. They
are imported when they are named, since other rooms need parts of this one without torch. May be
imported from here: specs, stimuli and what lies below them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import an architecture when it is first named."""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return getattr(import_module("wna_ray.networks.architectures"), name)
    except AttributeError:
        raise AttributeError(f"module 'wna_ray.networks' has no attribute '{name}'") from None
