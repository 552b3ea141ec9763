"""Networks of mistakes, for `test_mistakes`; workers import this module, too."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    """Three outputs of 16 values."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.first(x.flatten(1)).relu())
        return y


class Two(Net):
    """Two inputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x + y)


class Noisy(Net):
    """Random in its forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.randn_like(x))


def good(k: int = 3) -> nn.Module:
    return Net(k)


def raises() -> nn.Module:
    raise RuntimeError("no such data")


def number() -> int:
    return 3


def two() -> nn.Module:
    return Two()


def noisy() -> nn.Module:
    return Noisy()


def numbered() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def drawn() -> nn.Module:
    """Weights of a generator that nobody seeds."""
    network = Net()
    with torch.no_grad():
        network.last.bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=3)))
    return network
