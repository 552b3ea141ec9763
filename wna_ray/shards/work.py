"""What a worker does piece by piece, whatever kind of job it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from wna_ray.moments.moments import Partial
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.job import Job

K = TypeVar("K")
T = TypeVar("T")


class Host(Protocol):
    """What a worker keeps at hand for the pieces of work it does."""

    def network(self, job: Job) -> FedNetwork:
        """The network of a job, once it has answered the first batch with the bits on record."""

    def source(self, place: K, opened: Callable[[K], T]) -> T:
        """A finished run whose responses are read; the last one stays open."""


class Work(Protocol):
    """A job that can be cut into ranges of images: the same range always gives the same sums."""

    @property
    def fingerprint(self) -> str:
        """Names everything that can change a sum."""

    def shard(self, host: Host, start: int, stop: int) -> tuple[Partial, dict[str, float]]:
        """Sums of the images ``start ... stop - 1``, and seconds by phase."""


class NetworkWork(Work, Protocol):
    """Work that asks a network."""

    @property
    def job(self) -> Job:
        """The network and the noise, as a run of noise has them."""
