"""A network's forward pass, and nothing else: what it is fed is made by a `Feed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.networks.tuning import Compiled

T = TypeVar("T")
Device = Literal["cpu", "cuda"]
MemoryFormat = Literal["channels_last", "contiguous"]
FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


class Network:
    """A module on its device, in its arithmetic.

    Parameters
    ----------
    module
        Takes ``(n, C, H, W)``.
    uri
        What it is; an exported program has a memory format built in, so it keeps its own.
    device, dtype
        Where it runs, and in which arithmetic.
    mode
        Of ``torch.compile``; None where the module is run as it is.
    memory_format
        Of its weights, and of what it is fed. Weights that have no such format (of networks for
        movies, say) stay as they are.
    """

    def __init__(
        self,
        module: nn.Module,
        uri: str,
        device: torch.device,
        dtype: torch.dtype,
        mode: Literal["default", "max-autotune"] | None = None,
        memory_format: MemoryFormat = "channels_last",
    ) -> None:
        module = module.to(device, dtype)
        if not uri.startswith("export:") and _has_images(module):
            module = module.to(memory_format=FORMATS[memory_format])
        self.module, self.device, self.dtype = module, device, dtype
        self.memory_format, self._uri, self._mode = memory_format, uri, mode
        self._compiled = None if mode is None else Compiled(module, mode, uri)

    def in_format(self, memory_format: MemoryFormat) -> Network:
        """The same network in another memory format."""
        if memory_format == self.memory_format:
            return self
        return Network(self.module, self._uri, self.device, self.dtype, self._mode, memory_format)

    def forward(self, fed: torch.Tensor) -> Any:
        """What it gives for a batch, compiled where it is. All batches must have one shape then;
        ``module`` itself takes batches of any.
        """
        return (self._compiled or self.module)(fed)


def first_that_runs(
    wanted: MemoryFormat | Literal["auto"], attempt: Callable[[MemoryFormat], T]
) -> T:
    """What an attempt gives in the memory format that is wanted; of ``auto`` in channels_last,
    which is the fastest for convolutions, or else in the contiguous format, which
    ``x.view(n, -1)`` after a convolution needs. What then fails, fails in plain PyTorch, too.
    """
    if wanted != "auto":
        return attempt(wanted)
    try:
        return attempt("channels_last")
    except (ModelError, MemoryError):
        raise
    except Exception:  # whatever the network's own code raises
        return attempt("contiguous")


def _has_images(module: nn.Module) -> bool:
    """Whether all its weights can be laid out for images: those of three dimensions cannot."""
    return all(value.ndim != 5 for value in (*module.parameters(), *module.buffers()))
