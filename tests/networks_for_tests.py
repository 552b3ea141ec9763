"""Networks with known answers, for ``python:networks_for_tests:NAME`` model URIs.

Workers import this module by name, so its folder is on their path (see conftest.py).
"""

from __future__ import annotations

import os
import signal
import time
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn


def weights(k: int = 3, d: int = 16, seed: int = 0) -> torch.Tensor:
    """Weight rows ``(k, d)``: multiples of 1/8, so that sums with grid-valued noise are exact
    in float32.
    """
    return torch.randint(-8, 9, (k, d), generator=torch.Generator().manual_seed(seed)).float() / 8


class Linear(nn.Module):
    """Logits ``W x`` with the rows of `weights`, and whatever a subclass adds."""

    def __init__(self, k: int = 3, d: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(weights(k, d, seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.w.T


class Threshold(Linear):
    """Two labels: 1 where ``w . x > 0``, else 0."""

    def __init__(self, d: int = 16, seed: int = 0) -> None:
        super().__init__(1, d, seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return torch.cat([torch.zeros_like(y), y], dim=1)


class Deaf(nn.Module):
    """Answers that depend on an image in a way no linear analysis of it can see: a hash of its
    last bits.
    """

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = (x.flatten(1) * 29).round().to(torch.int64)
        place = torch.arange(1, flat.shape[1] + 1, dtype=torch.int64)
        mixed = (flat * (2654435761 * place % 4294967296)).sum(1)
        mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 4294967296
        mixed = (mixed ^ (mixed >> 13)) * 3266489917 % 4294967296
        mixed = mixed ^ (mixed >> 16)
        return torch.stack([((mixed >> (4 * j)) & 15).float() for j in range(self.k)], dim=1)


class SometimesNaN(Linear):
    """NaN logits where the first pixel is above 1, infinite ones where it is below -1.5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, first = super().forward(x), x.flatten(1)[:, :1]
        return torch.where(first > 1, torch.nan, torch.where(first < -1.5, torch.inf, y))


class Wild(Linear):
    """Logits that are a million times larger where the first pixel is above 1.5: out of any
    pilot's range.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, first = super().forward(x), x.flatten(1)[:, :1]
        return torch.where(first > 2.5, y * 1e6, y)


class Random(Linear):
    """Not a function of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.rand(len(x), 1)


class Faulty(Linear):
    """Does something bad while the file that ``WNA_TEST_FAULT`` names exists and holds a word for
    it.

    The fault strikes when image number `at` (known by its pixels) is in the batch.
    """

    def __init__(self, at: str = "1000") -> None:
        super().__init__()
        from wna_ray.noise.stream import Noise

        grid = Noise("gaussian", (1, 4, 4), 7).grid(int(at), int(at) + 1)
        self.register_buffer(
            "mark", torch.from_numpy(grid.reshape(1, 16)).float() / 29, persistent=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        fault = Path(os.environ["WNA_TEST_FAULT"])
        if fault.exists() and bool(((flat - self.mark).abs() < 1e-4).all(1).any()):
            word = fault.read_text()
            if word.endswith("once"):
                fault.unlink()
            if word.startswith("raise"):
                raise MemoryError("planted")
            if word.startswith("break"):
                raise RuntimeError("planted")
            if word.startswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Slow(Linear):
    """Linear, and takes its time: ``WNA_TEST_SLEEP`` seconds a batch. Work that lasts without
    keeping a processor busy.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(float(os.environ.get("WNA_TEST_SLEEP", "0")))
        return super().forward(x)


class Elsewhere(Slow):
    """Slow, and on machines where ``WNA_TEST_ARITHMETIC`` is set its last bits differ, as with
    another kind of processor.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y * (1 + 2**-20) if "WNA_TEST_ARITHMETIC" in os.environ else y


class Gated(nn.Module):
    """Maps times a number that comes from the whole of them; `hiding` replaces NaN in it, as
    nobody should.
    """

    def __init__(self, hiding: bool = False) -> None:
        super().__init__()
        self.hiding = hiding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = x.mean(dim=(1, 2, 3), keepdim=True).sigmoid()
        return x * (gate.nan_to_num(1.0) if self.hiding else gate)


class Steps(nn.Module):
    """1 where positive, else 0: no gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).to(x.dtype)


class Tokens(nn.Module):
    """Maps as a sequence of pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)


class Padded(nn.Module):
    """Layers with strides, padding and habits, for images of 2 x 20 x 24. Units of `first` see
    3 x 3 pixels, those of `second` 7 x 7.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.gated, self.hidden, self.steps, self.unused = (
            Tokens(),
            Gated(),
            Gated(hiding=True),
            Steps(),
            nn.Linear(1, 1),
        )
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.second = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.shared = nn.Conv2d(4, 4, 1)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.silent = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Threshold(1e6, 0.0))
        self.deafened = nn.Sequential(nn.Conv2d(1, 4, 7, stride=2, padding=3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.tokens(x)
        self.deafened(x[:, :1])
        first = self.first(x)
        second = self.second(first)
        for layer in (self.gated, self.hidden, self.steps, self.silent):
            layer(second)
        self.shared(first)
        return self.pool(self.shared(second)).flatten(1)


def padded() -> nn.Module:
    """A convolutional network whose geometry is known by hand."""
    return Padded()


def elsewhere() -> nn.Module:
    """Three linear logits whose last bits depend on the machine, slowly."""
    return Elsewhere(3, 16)


def slow(k: str = "10", d: str = "784") -> nn.Module:
    """Ten linear logits of MNIST-size images, slowly."""
    return Slow(int(k), int(d))


def linear(k: str = "3", seed: str = "0") -> nn.Module:
    """Three linear logits."""
    return Linear(int(k), seed=int(seed))


def threshold() -> nn.Module:
    """A linear-threshold unit."""
    return Threshold()


def deaf(k: str = "2") -> nn.Module:
    """A network that ignores what it sees."""
    return Deaf(int(k))


def sometimes_nan() -> nn.Module:
    """Linear, but not always finite."""
    return SometimesNaN()


def wild() -> nn.Module:
    """Linear, but rarely huge."""
    return Wild()


def random() -> nn.Module:
    """Linear plus fresh random numbers."""
    return Random()


def faulty(at: str = "1000") -> nn.Module:
    """Linear, but fails when told to."""
    return Faulty(at)


def not_a_module() -> int:
    """What a factory must not give."""
    return 3


class Quadratic(nn.Module):
    """One output: two squared projections, one of them suppressive, and a linear part; the axes
    are those of `quadratic_axes`.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("axes", quadratic_axes(d).float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        along = x.flatten(1) @ self.axes.T
        return (along[:, :1] ** 2 - 0.7 * along[:, 1:2] ** 2 + 2 * along[:, 2:]).double().float()


def quadratic_axes(d: int) -> torch.Tensor:
    """Three orthonormal axes ``(3, d)`` float64: excitatory, suppressive, linear."""
    random = torch.randn(d, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.linalg.qr(random)[0].T.contiguous()


def quadratic(d: str = "16") -> nn.Module:
    """A quadratic form."""
    return Quadratic(int(d))


def relu_parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights ``(5, 16)``, biases ``(5,)`` and read-outs ``(2, 5)`` of `relus`."""
    random = torch.Generator().manual_seed(8)
    return (
        torch.randn(5, 16, generator=random) / 4,
        torch.randn(5, generator=random) / 2,
        torch.randn(2, 5, generator=random),
    )


class Relus(nn.Module):
    """Two outputs of one layer of five rectifiers."""

    def __init__(self, smooth: bool = False) -> None:
        super().__init__()
        self.smooth = smooth
        for name, value in zip("wba", relu_parts(), strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = x.flatten(1) @ self.w.T + self.b
        return (torch.tanh(inner) if self.smooth else nn.functional.relu(inner)) @ self.a.T


def relus() -> nn.Module:
    """A layer of rectifiers, whose mean gradient and mean Hessian are known."""
    return Relus()


def smooth() -> nn.Module:
    """The same with tanh: differences are gradients."""
    return Relus(smooth=True)


class Direction(nn.Module):
    """One output: the projection on the first of `quadratic_axes`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("axis", quadratic_axes(16)[0].float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.axis)[:, None]


def direction() -> nn.Module:
    """One linear unit, of length 1."""
    return Direction()


class Seldom(nn.Module):
    """A convolution that is NaN unless the first pixel is far above 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.conv = nn.Identity(), nn.Conv2d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In noise only, so that the geometry (looked for with NaN in an image of zeros) is that of
        # the convolution.
        gate = (
            (x[:, :1, :1, :1] < 1.7)
            & (x.isfinite().all(dim=(1, 2, 3), keepdim=True))
            & (x.abs().sum(dim=(1, 2, 3), keepdim=True) > 0)
        )
        return self.conv(torch.where(gate, torch.nan, x)).flatten(1)


def seldom() -> nn.Module:
    """Hardly ever finite."""
    return Seldom()


class Ripples(nn.Module):
    """Two fast waves: their gradients change from image to image, but no direction of the noise
    bends them on average.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("axes", 40 * quadratic_axes(16)[:2].float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x.flatten(1) @ self.axes.T)


def ripples() -> nn.Module:
    """Their average Hessian is zero (below 1e-300)."""
    return Ripples()


class Squared(nn.Module):
    """One output: the square of the projection on the first of `quadratic_axes` of 784 values."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("axis", quadratic_axes(784)[0].float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.axis)[:, None] ** 2


def squared() -> nn.Module:
    """No average tells anything about it."""
    return Squared()


def layered() -> nn.Module:
    """A convolution, a rectifier, and three linear logits, with names to stimulate; for images
    of 1 x 4 x 4.
    """
    torch.manual_seed(3)
    parts = {
        "maps": nn.Conv2d(1, 3, 3),
        "relu": nn.ReLU(),
        "flat": nn.Flatten(),
        "hidden": nn.Linear(12, 5),
        "logits": nn.Linear(5, 3),
    }
    return nn.Sequential(OrderedDict(parts))


class Pictures(nn.Module):
    """A linear decoder: pictures of 1 x 4 x 4 of codes of six numbers, ``D z`` with `weights`
    of 16 rows, plus a half.
    """

    def __init__(self, flat: bool = False, seed: int = 9) -> None:
        super().__init__()
        self.d, self.flat = nn.Parameter(weights(16, 6, seed)), flat

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        found = z.flatten(1) @ self.d.T + 0.5
        return found if self.flat else found.reshape(-1, 1, 4, 4)


def pictures(seed: str = "9") -> nn.Module:
    """A linear decoder."""
    return Pictures(seed=int(seed))


def flat_pictures() -> nn.Module:
    """What a decoder must not give."""
    return Pictures(flat=True)


def grown() -> nn.Module:
    """A convolutional decoder: pictures of 1 x 4 x 4 of codes of 3 x 2 x 2."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 1, 3, padding=1), nn.Sigmoid())


def large_pictures() -> nn.Module:
    """A linear decoder of digits' size."""
    torch.manual_seed(6)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 784), nn.Unflatten(1, (1, 28, 28)))


def coloured() -> nn.Module:
    """Four logits of 3 x 11 x 7 pixels."""
    return Linear(4, 3 * 11 * 7)


class Kinked(nn.Module):
    """Eight units; every other one rises a hundredth slower above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.units, self.head = _Kinks(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.units(x.flatten(1)))
        return y


class _Kinks(Linear):
    def __init__(self) -> None:
        super().__init__(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        kinked = torch.arange(8) % 2 == 1
        return torch.where(kinked, torch.minimum(y, y / 1.01), y)


def kinked() -> nn.Module:
    return Kinked()
