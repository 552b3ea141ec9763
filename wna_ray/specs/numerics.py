"""The arithmetic of a spec, its batch and threads, and how its shards are cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat

from wna_ray.specs.base import Frozen


class NumericsSpec(Frozen):
    """What decides the last bits of a response. All of it is part of the fingerprint.

    Attributes
    ----------
    dtype
        Arithmetic of the forward pass.
    batch
        Images in a forward pass. Batches are aligned to the image index and always full.
    threads
        CPU threads of a forward pass.
    device
        ``auto`` is ``cuda`` where the workers have it, else ``cpu``.
    compile
        Compile the network (``torch.compile``): half a minute for each worker, which a long run
        gets back (``wna plan`` tells when). ``max-autotune`` also tries out kernels, and on CUDA
        records graphs; which ones win may differ from worker to worker, and then their bits do,
        which is found out before they compute anything. Not compiled by default.
    memory_format
        How images and weights lie in memory. ``auto``: ``channels_last``, which is faster, or
        ``contiguous`` where the network does not run so (``x.view(n, -1)`` after a convolution);
        the run says which.
    tune
        Choose the batch by timing a few on the first worker, once: it is written into the run,
        which from then on has that batch.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(default=128, ge=1, le=1 << 16)
    threads: int = Field(default=1, ge=1, le=256)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: Literal["default", "max-autotune"] | None = None
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    tune: bool = False

    later: ClassVar[Mapping[str, Any]] = {"compile": None}
    apart: ClassVar[frozenset[str]] = frozenset({"tune"})
    unwritten: ClassVar[frozenset[str]] = frozenset({"memory_format"})

    def identity(self) -> dict[str, Any]:
        """As of every part; of memory formats only the one that is not the first: what ``auto``
        has become is written by the run, and ``channels_last`` was the only one once.
        """
        values = super().identity()
        if self.memory_format != "contiguous":
            values.pop("memory_format", None)
        return values


class NormaliseSpec(Frozen):
    """Per-channel ``(pixel - mean) / std`` between pixel space and the network's input."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class ExecutionSpec(Frozen):
    """How the work is cut. Nothing here changes a result, so nothing here is in the fingerprint.

    Attributes
    ----------
    shard
        Images in a shard (one call to a worker), rounded up to whole batches; by default about two
        seconds of work.
    segments
        Segments (commits) of a whole run; by default 64, fewer where they would take over 16 GiB
        together.
    attempts
        How often a shard is tried before it is named and left out.
    patience
        Seconds without any worker after which a run stops and says how to go on.
    endpoint
        URL of the S3 server, where it is not AWS; by default ``AWS_ENDPOINT_URL_S3`` or
        ``AWS_ENDPOINT_URL``.
    """

    shard: int | None = Field(default=None, ge=1)
    segments: int | None = Field(default=None, ge=1)
    attempts: int = Field(default=4, ge=1)
    patience: float = Field(default=600.0, gt=0, le=1e6)
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+$")


class PassNumerics(Frozen):
    """What a pass over kept responses runs on: processors.

    Attributes
    ----------
    threads
        CPU threads of a worker.
    """

    threads: int = Field(default=1, ge=1, le=256)

    @property
    def device(self) -> Literal["cpu"]:
        """Where a worker computes."""
        return "cpu"
