"""Honest programs of torch.export, which the hostile ones are made of."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ROOT = "archive"
PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"


class Everything(nn.Module):
    """A small network with what graphs may hold: lists, words, parts, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.register_buffer("scale", torch.rand(4), persistent=False)
        self.shift = torch.rand(4)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = F.gelu(self.bn(self.conv(x)), approximate="tanh")
        with torch.no_grad():
            z = y.mean((2, 3)) * 2
        a, b = y.mean((2, 3)).chunk(2, 1)
        y = torch.cat([b, a], 1) * self.scale + self.shift + torch.tensor([0.5])
        y = torch.einsum("ij,kj->ik", y, self.head.weight) + z.sum()
        return {"first": y, "more": (z, y.reshape(x.shape[0] * 5))}


class Spoken(nn.Module):
    """A small network that is told a word."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, *, mode: str = "plain") -> torch.Tensor:
        return self.head(x) if mode == "plain" else self.head(-x)


@lru_cache(maxsize=8)
def unzipped(data: bytes) -> Mapping[str, bytes]:
    """Members of an honest archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


@dataclass(frozen=True)
class Honest:
    """An exported program, and what it takes."""

    data: bytes
    x: torch.Tensor
    more: Mapping[str, Any] = field(default_factory=dict)

    def members(self) -> dict[str, bytes]:
        """By their names in the archive's folder."""
        return dict(unzipped(self.data))

    def program(self) -> dict[str, Any]:
        """The description of the program."""
        parsed: dict[str, Any] = json.loads(self.members()[PROGRAM])
        return parsed

    def outputs(self, module: nn.Module) -> list[torch.Tensor]:
        """What a module gives for the input, flat."""
        with torch.inference_mode():
            outputs = module(self.x.clone(), **self.more)
        # torch has no public name for what flattens the outputs of every program.
        return list(torch.utils._pytree.tree_leaves(outputs))  # noqa: SLF001


def exported(
    network: nn.Module,
    x: torch.Tensor,
    more: Mapping[str, Any] | None = None,
    **options: Any,
) -> Honest:
    """A network as `torch.export.save` writes it."""
    buffer = io.BytesIO()
    program = torch.export.export(network, (x,), kwargs=dict(more or {}), **options)
    torch.export.save(program, buffer)
    return Honest(buffer.getvalue(), x, more or {})


def bases() -> dict[str, Honest]:
    """The honest programs that the hostile ones are made of."""
    torch.manual_seed(3)
    network, spoken = Everything().eval(), Spoken().eval()
    x, free = torch.randn(2, 3, 6, 6), ({0: torch.export.Dim("n")},)
    return {
        "fixed": exported(network, x),
        "free": exported(network, x, dynamic_shapes=free),
        "spoken": exported(spoken, torch.randn(2, 4), {"mode": "plain"}),
    }
