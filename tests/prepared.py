"""A job in this process, without a run directory: what many tests look at."""

from __future__ import annotations

from wna_ray.kinds.average.result import read_outs
from wna_ray.moments.moments import Moments
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.job import Job
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import Readout


def prepared(spec: Spec) -> tuple[Job, FedNetwork]:
    """A resolved spec, and its network."""
    resolved = resolve(spec, load_network(spec, "cpu"))
    return resolved.job, resolved.network


def read(job: Job, moments: Moments) -> list[Readout]:
    """What moments say, response by response."""
    return read_outs(job.spec, job.stimulus, moments, job.identity, list(job.names))
