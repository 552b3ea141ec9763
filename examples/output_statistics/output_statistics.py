"""Mean and variance of every output of a network that is shown noise: a kind of job of one's own.

Outputs are rounded once, to whole steps of 2^-16, so that their sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from rich.table import Table

from wna_ray.kinds import own

BITS = 16  # log2 of the steps in 1
SUMS = ("y", "yy_high", "yy_low")  # of outputs, and of their squares in two halves of 32 bits
TABLE = "result/outputs.parquet"
COLUMNS = {"name": pa.string(), "mean": pa.float64(), "variance": pa.float64()}

KIND = own.Kind(
    name="output-statistics",
    format="output-statistics/1",
    spec="output_statistics:OutputSpec",
    extent="output_statistics:extent",
    ask="output_statistics:OutputQuestion.of",
    opened="output_statistics:OutputStatistics",
    views="output_statistics:VIEWS",
)


class OutputSpec(own.NoiseSpec):
    """What a person writes: the keys of any job that shows noise, and which kind it is."""

    kind: Literal["output-statistics"]


def extent(described: Mapping[str, Any], where: str) -> own.SumsExtent:
    """How large the objects of such a run may be, so that a stranger's run is read safely."""
    run = own.DescribedSums.of(described, where)
    shapes, most = dict.fromkeys(SUMS, (len(run.names),)), (1 << 20) + 2_000 * len(run.names)
    return own.SumsExtent(run.samples, shapes, {TABLE: most})


@dataclass(frozen=True)
class OutputWork:
    """Adds up the outputs of any range of images; the same range always gives the same sums."""

    job: own.Job
    fingerprint: str

    def shard(self, host: own.Host, start: int, stop: int) -> tuple[own.Partial, dict[str, float]]:
        network, stimulus = host.network(self.job), self.job.stimulus
        batch, phase = self.job.spec.numerics.batch, own.Phases()
        sums = {name: np.zeros(len(self.job.names), np.int64) for name in SUMS}
        counted = nonfinite = 0
        for a in range(start, stop, batch):  # whole batches: the forward pass has one shape
            with phase("noise"):
                images = stimulus.images(stimulus.noise.grid(a, a + batch), network.device)
            with phase("forward"):
                outputs = network(images)[: stop - a].astype(np.float64)
            with phase("moments"):
                y = np.rint(np.ldexp(outputs, BITS))
                finite = np.isfinite(y).all(axis=1)
                y = y[finite & (np.abs(y) < 1 << 31).all(axis=1)].astype(np.int64)
                for name, values in zip(SUMS, (y, y**2 >> 32, y**2 & 0xFFFFFFFF), strict=True):
                    sums[name] += values.sum(axis=0)
                counted, nonfinite = counted + len(y), nonfinite + int((~finite).sum())
        moments = own.PassSums(counted, stop - start - counted - nonfinite, sums, nonfinite)
        return own.Partial(start, stop, moments), phase.seconds


class OutputQuestion(own.Question[OutputSpec]):
    """The pipeline: what is recorded of the job, and one round over all images."""

    def prepare(self, desk: own.Desk) -> own.Prepared:
        seen = desk.introduce()  # a worker loads the network and looks at it
        identity = {"job": seen.job.fingerprint, "bits": BITS}  # all that can change a result
        about = self.describe(KIND, identity, seen)
        work = OutputWork(seen.job, about.fingerprint)
        return own.Prepared(about, _rounds(work, self.spec, seen.batch_seconds))


def _rounds(work: OutputWork, spec: OutputSpec, batch_seconds: float) -> own.Rounds:
    k, cut = len(work.job.names), spec.execution
    size = own.Cut(spec.numerics.batch, batch_seconds, 3, 8 * k, 0, cut.shard, cut.segments)
    summed = yield own.Round(work, spec.samples, size, 24 * k, work.job.device)
    return {TABLE: own.to_parquet(own.table_of(COLUMNS, _lines(work, summed.moments)))}


def _lines(work: OutputWork, moments: own.PassSums) -> Iterator[tuple[str, float, float]]:
    """Mean and variance of each output, divided once: Python's whole numbers have no end."""
    n, sums = max(moments.images, 1), (moments.sums[name].tolist() for name in SUMS)
    for name, y, high, low in zip(work.job.names, *sums, strict=True):
        yield name, y / (n << BITS), (n * ((high << 32) + low) - y * y) / (n * n << 2 * BITS)


class OutputStatistics(own.NamedResult):
    """A finished job, read from its directory alone."""

    @property
    def outputs(self) -> pa.Table:
        """One row an output: its name, mean and variance."""
        return self.table(TABLE, COLUMNS)


class OutputViews(own.Views[OutputSpec, OutputStatistics]):
    """One table, for the terminal, the page and sweeps."""

    title, noun = "Output statistics", "outputs"

    def tables(self, finished: OutputStatistics) -> list[Table]:
        title, forms = f"{finished.images:,} images of noise", {"mean": "+.4f", "variance": ".4f"}
        return [own.terminal_table(title, finished.outputs, forms)]


VIEWS = OutputViews()
