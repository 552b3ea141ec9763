"""The memory of a machine: how much is free, and a refusal where more is needed."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wna_ray.errors import RunError
from wna_ray.text import size


def available() -> int | None:
    """Bytes that this process may still take: of the machine, or of its container; None where
    that is not told.
    """
    limits = []
    with suppress(OSError, StopIteration, ValueError):
        line = next(
            x
            for x in Path("/proc/meminfo").read_text().splitlines()
            if x.startswith("MemAvailable")
        )
        limits.append(int(line.split()[1]) << 10)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limits.append(
            int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        )
    if not limits:
        with suppress(OSError, ValueError, AttributeError):
            limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits) if limits else None


@dataclass(frozen=True)
class Machine:
    """What a machine has for its workers.

    Attributes
    ----------
    name
        Its address.
    memory, store
        Bytes for processes, and of the object store (None where there is none).
    workers
        Workers that have a place there.
    """

    name: str
    memory: int
    store: int | None
    workers: int


def require_memory(needed: int, what: str) -> None:
    """`RunError` where this process cannot have so many bytes more."""
    free = available()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        taken = (
            int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            if sys.platform == "linux"
            else 0
        )
        free = limit - taken if free is None else min(free, limit - taken)
    if free is not None and needed > free:
        raise RunError(
            f"{what} needs {size(needed)} of memory, but this machine has {size(free)} free; take"
            " a larger machine"
        )
