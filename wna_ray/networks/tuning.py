"""What makes a forward pass faster and may change its last bits: compiling the network, and the
size of the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.text import first_line

CANDIDATES = tuple(1 << i for i in range(2, 11))  # batches of 4 to 1024 images
LONGEST_SECONDS = (
    1.0  # larger batches are not tried once one takes longer: a shard of few batches splits badly
)
SLICE_SECONDS = 0.1  # of each batch in a round, or one pass
ROUNDS = 3
ENOUGH = 0.97  # of the best rate: the smallest batch that has it takes the least memory


class Compiled:
    """A network compiled at its first batch; all have the same shape, so once. It is called in
    torch's inference mode.

    Parameters
    ----------
    module
        The network.
    mode
        Of ``torch.compile``.
    uri
        What it is, for errors.
    """

    def __init__(
        self, module: nn.Module, mode: Literal["default", "max-autotune"], uri: str
    ) -> None:
        self._module, self._mode, self._uri = module, mode, uri
        self._call: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of a batch; `ModelError` where the network cannot be compiled."""
        if not x.is_inference():
            x = (
                x.clone()
            )  # torch compiles once for tensors of its inference mode, and once for others
        if self._call is None:
            self._call = self._compiled(x)
        y = self._call(x)
        # A copy: the graphs that max-autotune records on CUDA give the same memory each time.
        return y.clone() if isinstance(y, torch.Tensor) else y

    def _compiled(self, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        # The compiler's settings have no public name: torch.compile takes options or a mode, not
        # both. They are imported only where a network is compiled, for that takes a second.
        from torch._inductor import config

        if not x.is_cuda:
            config.compile_threads = 1  # no pool of processes beside the worker
            config.freezing = True  # weights are packed and batch norms folded once
        try:
            call: Callable[[torch.Tensor], torch.Tensor] = torch.compile(
                self._module, mode=self._mode, dynamic=False
            )
            call(x)
        except torch.cuda.OutOfMemoryError:
            raise
        except (
            Exception
        ) as error:  # the compiler's, its backend's, or those of the program that it calls
            raise ModelError(
                f"numerics.compile: torch.compile fails on {self._uri} here"
                f" ({type(error).__name__}: {first_line(error)}); it needs a C++ compiler, and on"
                " CUDA Triton; leave numerics.compile out"
            ) from error
        return call


@dataclass(frozen=True)
class Tuned:
    """The batch that was chosen, images a second of each that was timed, and the seconds that
    it took.
    """

    batch: int
    images_per_second: dict[int, float]
    seconds: float


def choose_batch(
    prepared: Callable[[int], Callable[[], None]], clock: Callable[[], float] = time.perf_counter
) -> Tuned:
    """Time a few batches, which take turns, and choose the smallest that is within 3 % of the best.

    Parameters
    ----------
    prepared
        For so many images, what runs the network on them to the end.
    clock
        Seconds.

    Notes
    -----
    Each is timed in three rounds, of which the fastest counts: what else a machine does only makes
    them slower. Sizes beyond one whose pass takes a second, or for which a CUDA device lacks
    memory, are left out.
    """
    begin = clock()
    fastest: dict[int, float] = {}
    for batch in CANDIDATES:
        try:
            forward = prepared(batch)
            forward()  # the first pass of a shape looks for its kernels
        except torch.cuda.OutOfMemoryError:
            if not fastest:
                raise
            break
        fastest[batch] = _seconds(forward, clock)
        if fastest[batch] > LONGEST_SECONDS:
            break
    for _ in range(ROUNDS - 1):
        for batch in fastest:
            fastest[batch] = min(fastest[batch], _seconds(prepared(batch), clock))
    rates = {batch: batch / seconds for batch, seconds in fastest.items()}
    best = max(rates.values())
    return Tuned(
        next(batch for batch, rate in rates.items() if rate >= ENOUGH * best),
        rates,
        clock() - begin,
    )


def _seconds(forward: Callable[[], None], clock: Callable[[], float]) -> float:
    """Mean seconds of a pass."""
    begin, passes = clock(), 0
    while clock() - begin < SLICE_SECONDS or not passes:
        forward()
        passes += 1
    return (clock() - begin) / passes
