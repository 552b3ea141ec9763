"""The work of a run of noise: moments of a network's responses, shard by shard."""

from __future__ import annotations

from dataclasses import dataclass

from wna_ray.moments.kept import Stored
from wna_ray.moments.moments import Partial
from wna_ray.shards.job import Job
from wna_ray.shards.shard import run_shard
from wna_ray.shards.work import Host


@dataclass(frozen=True)
class NoiseWork:
    """Shows noise to the network of a job, and adds it up by its responses.

    Attributes
    ----------
    job
        What is shown to which network.
    """

    job: Job

    @property
    def fingerprint(self) -> str:
        """The job's."""
        return self.job.fingerprint

    def shard(self, host: Host, start: int, stop: int) -> tuple[Partial, dict[str, float]]:
        """Moments of some images (and their responses, where they are kept), and seconds by
        phase.
        """
        job = self.job
        stored: list[Stored] | None = [] if job.spec.keep_responses else None
        moments, seconds = run_shard(job, host.network(job), start, stop, stored)
        return Partial(start, stop, moments, Stored.join(stored) if stored else None), seconds
