"""What makes a forward pass faster and may change its last bits: compiling the network, and the size of the batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from wna_ray import models
from wna_ray.errors import ModelError

CANDIDATES = tuple(1 << i for i in range(2, 11))  # batches of 4 to 1024 images
LONGEST_SECONDS = 1.0  # larger batches are not tried once one takes longer: a shard of few batches splits badly
SLICE_SECONDS = 0.1  # of each batch in a round, or one pass
ROUNDS = 3
ENOUGH = 0.97  # of the best rate: the smallest batch that has it takes the least memory


class Compiled:
    """A network compiled at its first batch; batches always have the same shape, so once.

    Parameters
    ----------
    module
        The network.
    mode
        Of ``torch.compile``.
    uri
        What it is, for errors.
    """

    def __init__(self, module: nn.Module, mode: Literal["default", "max-autotune"], uri: str) -> None:
        self._call: Callable[[torch.Tensor], torch.Tensor] = torch.compile(module, mode=mode, dynamic=False)
        self._uri, self._tried = uri, False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of a batch; `ModelError` where the network cannot be compiled."""
        if not self._tried:
            self._compile(x)
        # A copy: the graphs that max-autotune records on CUDA give the same memory each time.
        return self._call(x).clone()

    def _compile(self, x: torch.Tensor) -> None:
        import torch._inductor.config

        if not x.is_cuda:
            torch._inductor.config.compile_threads = 1  # no pool of processes beside the worker
        try:
            self._call(x)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler's, its backend's, or those of the program that it calls
            raise ModelError(
                f"numerics.compile: torch.compile fails on {self._uri} here ({type(error).__name__}: {models.first_line(error)}); "
                "it needs a C++ compiler, and on CUDA Triton; leave numerics.compile out"
            ) from error
        self._tried = True


@dataclass(frozen=True)
class Tuned:
    """The batch that was chosen, and images a second of each that was timed."""

    batch: int
    images_per_second: dict[int, float]


def choose_batch(forward: Callable[[int], object], clock: Callable[[], float] = time.perf_counter) -> Tuned:
    """Time a few batches, which take turns, and choose the smallest that is within 3 % of the best.

    Parameters
    ----------
    forward
        Runs the network on a batch of so many images, to the end.
    clock
        Seconds.

    Notes
    -----
    Each is timed in three rounds, of which the fastest counts: what else a machine does only makes them slower. Sizes beyond one whose pass
    takes a second, or for which a CUDA device lacks memory, are left out.
    """
    fastest: dict[int, float] = {}
    for batch in CANDIDATES:
        try:
            forward(batch)  # the first pass of a shape looks for its kernels
        except torch.cuda.OutOfMemoryError:
            break
        fastest[batch] = _seconds(forward, batch, clock)
        if fastest[batch] > LONGEST_SECONDS:
            break
    for _ in range(ROUNDS - 1):
        for batch in fastest:
            fastest[batch] = min(fastest[batch], _seconds(forward, batch, clock))
    rates = {batch: batch / seconds for batch, seconds in fastest.items()}
    best = max(rates.values())
    return Tuned(next(batch for batch, rate in rates.items() if rate >= ENOUGH * best), rates)


def _seconds(forward: Callable[[int], object], batch: int, clock: Callable[[], float]) -> float:
    """Mean seconds of a pass."""
    begin, passes = clock(), 0
    while clock() - begin < SLICE_SECONDS or not passes:
        forward(batch)
        passes += 1
    return (clock() - begin) / passes
