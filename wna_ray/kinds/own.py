"""All that a kind of job of one's own needs, in one place; docs/kinds.md explains each name.

A kind is a package that gives one `Kind` by the entry point group ``wna_ray.kinds``. Names that are
not listed here may move between releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
from pydantic import Field
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.drawing.tables import MOST_ROWS, fill, form_of
from wna_ray.execution.plan import Cut
from wna_ray.execution.rounds import Desk, Prepared, Round, Rounds
from wna_ray.execution.worker import Introduction
from wna_ray.kinds.views import Views
from wna_ray.moments.counts import PassSums
from wna_ray.moments.moments import Partial
from wna_ray.registry import Kind
from wna_ray.runs.directory import Description
from wna_ray.runs.finished import Finished
from wna_ray.runs.sums_extent import DescribedSums, SumsExtent
from wna_ray.shards.job import Job
from wna_ray.shards.timing import Phases
from wna_ray.shards.work import Host
from wna_ray.specs.base import Written
from wna_ray.specs.numerics import ExecutionSpec, NumericsSpec
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.storage.arrays import to_parquet
from wna_ray.storage.store import Place
from wna_ray.storage.tables import read_parquet, table_of
from wna_ray.text import plain

__all__ = [
    "Cut",
    "DescribedSums",
    "Description",
    "Desk",
    "Finished",
    "Host",
    "Introduction",
    "Job",
    "Kind",
    "NamedResult",
    "NoiseSpec",
    "Partial",
    "PassSums",
    "Phases",
    "Prepared",
    "Question",
    "Round",
    "Rounds",
    "SumsExtent",
    "Views",
    "fill",
    "form_of",
    "read_parquet",
    "table_of",
    "terminal_table",
    "to_parquet",
]


class NoiseSpec(Written):
    """Base of the specs of jobs that show noise to a network; a kind adds ``kind`` and more keys.

    Attributes
    ----------
    model
        URI of the network.
    stimulus
        What is shown.
    samples
        N.
    seed
        Of the noise.
    numerics, execution
        See their classes.
    """

    model: str
    stimulus: StimulusSpec
    samples: int = Field(ge=1, le=1 << 40)
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    numerics: NumericsSpec = NumericsSpec()
    execution: ExecutionSpec = ExecutionSpec()

    @property
    def network(self) -> Spec:
        """The run of noise that shows the same images to the same network."""
        same = ("model", "stimulus", "samples", "seed", "numerics", "execution")
        return Spec.parse({name: getattr(self, name) for name in same} | {"responses": ["label"]})


class NamedResult(Finished):
    """A finished job whose tables have one row a name."""

    def table(self, name: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
        """One of its tables; `RunError` where it has other columns, rows or names than it must."""
        names, words = self.names, [c for c, kind in columns.items() if kind == pa.string()]
        rows, most = range(len(names), len(names) + 1), self.extent.most(name)

        def parse(data: bytes) -> pa.Table:
            return read_parquet(data, columns, rows, most, words)

        return self._parsed(name, parse)


def terminal_table(title: str, values: pa.Table, forms: Mapping[str, str]) -> Table:
    """A table for the terminal and the page; `forms` are format strings of columns of numbers."""
    table = Table(box=SIMPLE, title=title, title_justify="left")
    known = dict.fromkeys(values.column_names, plain) | {n: form_of(f) for n, f in forms.items()}
    fill(table, values, known, values.slice(0, MOST_ROWS).to_pylist())
    if values.num_rows > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {values.num_rows:,} rows"
    return table


S = TypeVar("S", bound=NoiseSpec)


@dataclass(frozen=True)
class Question(Generic[S]):
    """Base of a kind's question: a spec that needs no other data. A kind adds `prepare`.

    Attributes
    ----------
    spec
        What was written.
    """

    spec: S

    @classmethod
    def of(cls, spec: S, place: Place) -> Self:
        """From a spec; where the result lies tells nothing."""
        return cls(spec)

    @property
    def held(self) -> Spec:
        """The spec whose network the workers load."""
        return self.spec.network

    @property
    def announced(self) -> int:
        """N."""
        return self.spec.samples

    def describe(self, kind: Kind, identity: Mapping[str, Any], seen: Introduction) -> Description:
        """What ``spec.json`` says of a job whose identity is known, and whose network was seen."""
        return Description(
            format=kind.format,
            identity=identity,
            samples=self.spec.samples,
            names=seen.job.names,
            spec=self.spec.model_dump(mode="json"),
            environment=seen.environment,
        )

    def prepare(self, desk: Desk) -> Prepared:
        """What ``spec.json`` says of the job, and its rounds."""
        raise NotImplementedError
