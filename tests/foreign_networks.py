"""Networks as people have them: outputs that are no single tensor of scores, independent outputs,
``view`` after a convolution, answers that depend on the batch. Small, untrained, our own.
"""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SIDE = 12  # of the images, of three channels
HEADS_SIDE = 8  # of those for `Heads`


class Body(nn.Module):
    """A convolution, a mean over positions, and a linear layer."""

    def __init__(self, k: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, k)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)).mean((2, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.features(x))


class Pair(Body):
    def forward(self, x: torch.Tensor) -> Any:
        features = self.features(x)
        return self.head(features), features


class WithMaps(Body):
    """Maps first, then the one tensor with a row an image."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(x), self.head(self.features(x))


class InMapping(Body):
    def forward(self, x: torch.Tensor) -> Any:
        features = self.features(x)
        return {"features": features, "logits": self.head(features), "loss": None}


@dataclass
class Answer:
    logits: torch.Tensor
    loss: Any = None


class InDataclass(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return Answer(super().forward(x))


Named = namedtuple("Named", ["scores", "aux"])


class InNamedTuple(Body):
    def forward(self, x: torch.Tensor) -> Any:
        features = self.features(x)
        return Named(self.head(features), features)


class Nested(Body):
    def forward(self, x: torch.Tensor) -> Any:
        features = self.features(x)
        return {"heads": {"color": self.head(features), "size": features}}


class OneLogit(Body):
    """A binary classifier by one logit ``(n,)``, around 0."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: torch.Tensor) -> Any:
        # The features' weights, so that both decisions occur.
        return (self.features(x) @ torch.linspace(-1, 1, 8)).squeeze()


class OneProbability(OneLogit):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.sigmoid(super().forward(x))[:, None]


class Softmaxed(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.softmax(super().forward(x), 1)


class Decided(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x).argmax(1)


class Masked(Body):
    """Classes 5 to 9 are switched off."""

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x).clone()
        y[:, 5:] = -torch.inf
        return y


class NeverWhole(Body):
    """Each image has one output that is no number, never the same."""

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x).clone()
        y[torch.arange(len(y)), torch.arange(len(y)) % 10] = torch.nan
        return y


class ForEveryPixel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(torch.relu(self.first(x)))


class Boxes(Body):
    """A detector: a list of mappings, one an image."""

    def forward(self, x: torch.Tensor) -> Any:
        return [{"boxes": y[None, :4], "scores": y[:1]} for y in super().forward(x)]


class Heads(nn.Module):
    """Independent outputs: the first sees the left half, the second the upper half, the others
    nothing at all.
    """

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        picture = torch.zeros(k, 3, HEADS_SIDE, HEADS_SIDE)
        half = HEADS_SIDE // 2
        picture[0, :, :, :half], picture[1, :, :half] = 0.05, 0.05
        self.w = nn.Parameter(picture.flatten(1))
        self.b = nn.Parameter(torch.linspace(-1, 1, k))

    def forward(self, x: torch.Tensor) -> Any:
        return x.flatten(1) @ self.w.T + self.b


class Viewed(Body):
    """Flattens by ``view``, which needs contiguous memory."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.head = nn.Linear(8 * 5 * 5, 10)

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.relu(self.conv(x))
        return self.head(y.view(len(y), -1))


class Movies(nn.Module):
    """Three dimensions, of images whose channels are colours and times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x.reshape(len(x), 3, -1, *x.shape[2:]))
        return self.head(y.relu().mean((2, 3, 4)))


class BatchNormed(Body):
    """Normalised by the statistics of the batch, in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(10, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(super().forward(x))


class BatchCentred(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x - x.mean())


class SelfCentred(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x - x.mean((1, 2, 3), keepdim=True))


class Branching(Body):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return y if x.mean() > 0 else 2 * y


class Random(Body):
    """Always drops out."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(nn.functional.dropout(self.features(x), 0.5))


class Tokens(nn.Module):
    """Layers that are neither maps nor neurons, or no tensor at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> Any:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return self.head(self.norm(tokens).mean(1))


class NoNan(Body):
    """Refuses NaN, as careful networks do."""

    def forward(self, x: torch.Tensor) -> Any:
        if not torch.isfinite(x).all():
            raise ValueError("input has NaN or Inf")
        return super().forward(x)


class Choosy(Body):
    """Refuses images that are louder than it is used to."""

    def forward(self, x: torch.Tensor) -> Any:
        if x.abs().max() > 6:
            raise ValueError("too loud")
        return super().forward(x)


NETWORKS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, nn.Module)
}


def make(name: str, k: int | None = None) -> nn.Module:
    """One of them: ``python:foreign_networks:make?name=Pair``."""
    return NETWORKS[name]() if k is None else NETWORKS[name](k)


class Wrapped(nn.Module):
    """The plain network inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Body()

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


def wrapped() -> nn.Module:
    """A wrapper, whose weights have longer names than the network's own."""
    return Wrapped()
