"""What a worker sets for its whole process: torch's threads and flags, and the allocator."""

from __future__ import annotations

import contextlib
import ctypes

import torch

from wna_ray.shards.network import Device


def set_up_process(device: Device, threads: int) -> None:
    """Make this process ready for a worker on a device. A worker calls it once, when it starts.

    It holds for all that the process does from then on, not only for this worker.
    `InProcessExecutor.close` gives a process its former number of threads back; all else stays.

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
