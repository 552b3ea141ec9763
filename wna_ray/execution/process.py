"""What a worker sets for its whole process: torch's threads and flags, and the allocator."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from wna_ray.shards.network import Device


def set_up_process(device: Device, threads: int) -> None:
    """Make this process ready for a worker on a device. A worker calls it once, when it starts.

    It holds for all that the process does from then on, not only for this worker.
    `InProcessExecutor.close` puts torch's settings back (see `Settings`); the allocator's stay.

    Parameters
    ----------
    device
        On ``cuda``, cuDNN takes the same deterministic kernels every time, without timing them,
        and float32 is not rounded to TF32: else the same images would not give the same bits.
    threads
        CPU threads of an operation. Sums over several threads have another order, so their number
        is part of a run's fingerprint.
    """
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    keep_freed_memory()


@dataclass(frozen=True)
class Settings:
    """What of torch `set_up_process` changes on a device, as it was before."""

    threads: int
    cuda: tuple[bool, bool, bool, bool] | None

    @classmethod
    def of(cls, device: Device) -> Settings:
        """As they are now. Flags of CUDA are looked at only where they will be changed."""
        threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
        if device == "cpu":
            return cls(threads, None)
        tf32 = (cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
        return cls(threads, (cudnn.benchmark, cudnn.deterministic, *tf32))

    def restore(self) -> None:
        """Set what they were."""
        torch.set_num_threads(self.threads)
        if self.cuda is not None:
            cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
            cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = self.cuda


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Keep a person's own state of torch and a run in the same process apart.

    Torch's random numbers go on afterwards as if there had been no run, whatever a network draws.
    What is set around the call (autocast, inference mode, a default type or device) does not reach
    the run, which would have other bits than on a worker.
    """
    dtype = torch.get_default_dtype()
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda else ()
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(False))
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


def keep_freed_memory() -> None:
    """Ask glibc not to give freed memory back to the system between batches; elsewhere, do nothing.

    Every forward pass frees and takes the same megabytes. Given back and taken again they cost a
    page fault every 4 kB, which halved the rate of small networks
    (docs/decisions/0007-freed-memory.md). It holds for the whole process and changes no result.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, (1 << 31) - 1)
        libc.mallopt(mmap_threshold, 32 << 20)  # the largest that glibc accepts
