"""Networks as `torch.export` saves them, and what torch's own reader gives for them."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from crafted_exports.honest import Honest, exported
from torch import nn

FREE = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}


class Classifier(nn.Module):
    """Convolution, normalisation, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 4)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(self.body(x), 2).mean((2, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.drop(self.features(x)))


class Several(Classifier):
    """A dictionary of a tuple, a list, an ordered dictionary and what torch returns of topk."""

    def forward(self, x: torch.Tensor) -> Any:
        y = self.head(self.features(x))
        first, *rest = y.split([1, 2, 1], 1)
        return {"a": (y, None), "b": rest, "c": OrderedDict(top=y.topk(2), first=first)}


class Attention(nn.Module):
    """A transformer of patches with a class token."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, activation="gelu")
        self.patches, self.encoder = nn.Conv2d(3, 16, 4, stride=4), nn.TransformerEncoder(layer, 1)
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.token.expand(x.shape[0], -1, -1), t], 1)
        return self.head(self.encoder(t)[:, 0])


class Recurrent(nn.Module):
    """Rows of an image one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 6, 2, batch_first=True, bidirectional=True)
        self.gru, self.head = nn.GRU(12, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(x.transpose(1, 2).flatten(2))
        return self.head(self.gru(y.transpose(0, 1))[0][-1])


class Constants(nn.Module):
    """Buffers of all kinds, tied weights, constants, and operators with words."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("passing", torch.rand(3, 1, 1), persistent=False)
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.fixed = torch.rand(3).double()

    def forward(self, x: torch.Tensor, scale: float = 1.5, mask: Any = None) -> torch.Tensor:
        x = F.interpolate((x - self.mean.float()) * self.passing, scale_factor=2.0, mode="bilinear")
        y = torch.einsum("nchw,dc->ndhw", F.gelu(x, approximate="tanh"), self.second.weight)
        y = F.pad(y, (1, 1, 2, 2), mode="reflect").mean((2, 3)) * scale + self.fixed.float()
        return self.first(y).div(torch.tensor([0.5]), rounding_mode="floor")


class Parts(Classifier):
    """Parts without gradients and in mixed precision, and sizes that are computed with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.features(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.head(y)
        return torch.cat([z.float().reshape(x.shape[0] * 2, 2), y.reshape(-1, 2)])


class Counting(nn.Module):
    """Changes a buffer and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        x.mul_(2)
        return x.sum((1, 2, 3)) + self.seen


class Finding(nn.Module):
    """Computes with sizes that depend on the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = (x > 1).nonzero()
        return x.sum((1, 2, 3)) * found.shape[0] + x[0, 0, 0, 0].item()


@dataclass(frozen=True)
class Example:
    """A network, how it is exported, and what it is given besides an image."""

    make: Callable[[], nn.Module]
    options: Mapping[str, Any] | None = None
    size: int = 8
    mode: str = "eval"
    more: Mapping[str, Any] | None = None


EXAMPLES = {
    "classifier": Example(Classifier),
    "any batch": Example(Classifier, FREE),
    "train mode": Example(Classifier, mode="train"),
    "half precision": Example(Classifier, mode="half"),
    "core operators": Example(Classifier, mode="core"),
    "core operators in train mode": Example(Classifier, mode="core train"),
    "several outputs": Example(Several),
    "transformer": Example(Attention),
    "transformer, any batch": Example(Attention, FREE),
    "recurrent": Example(Recurrent),
    "constants": Example(Constants, more={"scale": 1.25}),
    "parts": Example(Parts, FREE),
    "counting": Example(Counting),
    "counting in core operators": Example(Counting, mode="core"),
    "finding": Example(Finding),
    "finding, any batch": Example(Finding, FREE),
    "resnet18": Example(lambda: torchvision.models.resnet18(weights=None), size=32),
    "mobilenet_v2": Example(lambda: torchvision.models.mobilenet_v2(weights=None), size=32),
}


def saved(example: Example) -> Honest:
    """A network as `torch.export.save` writes it."""
    torch.manual_seed(3)
    network, x = example.make(), torch.randn(4, 3, example.size, example.size)
    network.train("train" in example.mode)
    if example.mode == "half":
        network, x = network.half(), x.half()
    if "core" not in example.mode:
        return exported(network, x, example.more, **(example.options or {}))
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (x,)).run_decompositions(), buffer)
    return Honest(buffer.getvalue(), x)


def by_torch(base: Honest) -> nn.Module:
    """The module that torch's own reader gives."""
    return torch.export.load(io.BytesIO(base.data)).module()


def same(found: list[Any], wanted: list[Any]) -> bool:
    """Whether outputs are alike, bit for bit."""
    return len(found) == len(wanted) and all(map(alike, found, wanted))


def alike(found: Any, wanted: Any) -> bool:
    """Whether two values are alike, bit for bit."""
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    return found is wanted
