"""A job in this process, without a run directory: what many tests look at."""

from __future__ import annotations

from wna_ray.analysis import Readout
from wna_ray.moments import Moments
from wna_ray.results import read_outs
from wna_ray.shard import Job, Network, resolve
from wna_ray.spec import Spec


def prepared(spec: Spec) -> tuple[Job, Network]:
    """A resolved spec, and its network."""
    network = Network(spec, "cpu")
    return resolve(spec, network), network


def read(job: Job, moments: Moments) -> list[Readout]:
    """What moments say, response by response."""
    return read_outs(job.spec, job.stimulus, moments, job.identity, list(job.names))
