"""A network's forward pass, and nothing else: what it is fed is made by a `Feed`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from wna_ray.networks.tuning import Compiled

Device = Literal["cpu", "cuda"]


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
    """

    def __init__(
        self,
        module: nn.Module,
        uri: str,
        device: torch.device,
        dtype: torch.dtype,
        mode: Literal["default", "max-autotune"] | None = None,
    ) -> None:
        module = module.to(device, dtype)
        if not uri.startswith("export:"):
            module = module.to(memory_format=torch.channels_last)
        self.module, self.device, self.dtype = module, device, dtype
        self._compiled = None if mode is None else Compiled(module, mode, uri)

    def forward(self, fed: torch.Tensor) -> torch.Tensor:
        """What it gives for a batch, compiled where it is. All batches must have one shape then;
        ``module`` itself takes batches of any.
        """
        output: torch.Tensor = (self._compiled or self.module)(fed)
        return output
