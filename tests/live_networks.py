"""Networks that are in memory, in the many states that a notebook leaves them in, and what they
are made of, to be compared before and after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations


class Small(nn.Module):
    """A small convolutional network for images (1, 8, 8), with batch normalisation and dropout."""

    def __init__(self, seed: int = 0, outputs: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6 * 36, outputs)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in (*self.parameters(), self.norm.running_mean):
                value.copy_(torch.randn(value.shape, generator=generator) / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu()).flatten(1))


class Remembering(Small):
    """Keeps its last activations, with their graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.norm(self.conv(x)).relu()
        self.all = {"conv": self.last}
        return self.head(self.last.flatten(1))


class Locked(Small):
    """Holds what no copy can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Selfish(Small):
    """Is its own copy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Selfish:
        return self


def trained() -> nn.Module:
    """In train mode but for one part, with gradients."""
    net = Small().train()
    net.drop.eval()
    net(torch.ones(2, 1, 8, 8)).sum().backward()
    return net


def frozen() -> nn.Module:
    """A backbone that is not trained, before a head that is, in another memory format."""
    net = Small().eval().to(memory_format=torch.channels_last)
    net.conv.requires_grad_(False)
    return net


def half() -> nn.Module:
    """In bfloat16."""
    return Small().eval().to(torch.bfloat16)


def hooked() -> nn.Module:
    """With hooks that double what comes out of one layer and halve what goes into another."""
    net = Small().eval()
    net.conv.register_forward_hook(lambda _module, _inputs, output: output * 2)
    net.head.register_forward_pre_hook(lambda _module, inputs: (inputs[0] / 2,))
    return net


def compiled() -> nn.Module:
    """Compiled as a whole."""
    return torch.compile(Small().eval(), backend="eager")


def compiled_inside() -> nn.Module:
    """One part of it compiled."""
    net = Small().eval()
    net.conv = torch.compile(net.conv, backend="eager")
    return net


def parallel() -> nn.Module:
    """Wrapped for several devices."""
    return nn.DataParallel(Small().eval())


def parametrised() -> nn.Module:
    """Spectral norm by parametrisation, in train mode, where each pass changes its buffers."""
    net = Small().train()
    parametrizations.spectral_norm(net.head)
    return net


def old_norm() -> nn.Module:
    """Spectral norm by hooks, after a pass: its weight is a tensor with a graph."""
    net = nn.utils.spectral_norm(nn.Linear(64, 4))
    net = nn.Sequential(nn.Flatten(), net).train()
    net(torch.ones(2, 1, 8, 8))
    return net


def remembering() -> nn.Module:
    """After a pass whose activations it keeps."""
    net = Remembering().eval()
    net(torch.ones(2, 1, 8, 8))
    return net


STATES: dict[str, Callable[[], nn.Module]] = {
    "eval": lambda: Small().eval(),
    "trained": trained,
    "frozen": frozen,
    "bfloat16": half,
    "hooks": hooked,
    "compiled": compiled,
    "compiled inside": compiled_inside,
    "parallel": parallel,
    "parametrised": parametrised,
    "old spectral norm": old_norm,
    "remembering": remembering,
}


def described(net: nn.Module) -> list[Any]:
    """All that a run must leave as it is: modules, modes, hooks and other attributes by identity;
    tensors by place, strides, type, mode, bytes and gradient.
    """
    lines: list[Any] = []
    for name, module in net.named_modules():
        lines += [(name, id(module), type(module), module.training)]
        for key, value in sorted(vars(module).items()):
            lines.append((name, key, _identity(value)))
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        lines.append((name, *_tensor(value), None if value.grad is None else _tensor(value.grad)))
    return lines


def _identity(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, id(part)) for key, part in value.items()]
    return id(value) if not isinstance(value, int | str) else value


def _tensor(value: torch.Tensor) -> tuple[Any, ...]:
    data = value.detach()
    return (
        value.data_ptr(),
        value.stride(),
        value.dtype,
        value.device,
        value.requires_grad,
        value._version,  # noqa: SLF001  # rises with every change in place
        data.contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
    )
