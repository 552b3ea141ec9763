"""What people see of a kind of job: its tables, its page, its row in a sweep, its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.table import Table

from wna_ray.drawing.page import Section
from wna_ray.runs.finished import Finished
from wna_ray.specs.job import JobSpec

S = TypeVar("S", bound=JobSpec)
F = TypeVar("F", bound=Finished)


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is made for.

    Attributes
    ----------
    images
        That a pilot shows.
    workers
        On one machine.
    memory
        Bytes of that machine; None: as this one has.
    machine
        How it is called.
    """

    images: int
    workers: int
    memory: int | None = None
    machine: str = "this machine"


class Views(Generic[S, F]):
    """Views of a kind of job, for `wna plan`, `wna report` and sweeps; a kind overrides what it
    has.

    Attributes
    ----------
    title
        Of its page, before the name of the model.
    noun
        In the table of a sweep.
    counted
        What its sums count: images, or trials.
    lead
        One or two sentences under the title of its page.
    captions
        Of its figures, by their names.
    """

    title: ClassVar[str] = "Job"
    noun: ClassVar[str] = "job"
    counted: ClassVar[str] = "images"
    lead: ClassVar[str] = ""
    captions: ClassVar[Mapping[str, str]] = {}

    def model(self, finished: F) -> str:
        """What the page is about."""
        return str(getattr(finished.spec, "model", ""))

    def tables(self, finished: F) -> list[Table]:
        """Tables of the result; long ones end after `wna_ray.drawing.tables.MOST_ROWS` rows,
        and say so.
        """
        return []

    def further_tables(self, finished: F) -> list[Table]:
        """Tables of what lies beside the result and has no digest."""
        return []

    def headline(self, finished: F) -> tuple[str, str]:
        """Its responses and their reliability, in a word each, for the table of a sweep."""
        return "-", "-"

    def facts(self, finished: F) -> list[tuple[str, Any]]:
        """What the page says beside N, fingerprint and environment."""
        return []

    def sections(self, finished: F) -> Iterator[Section]:
        """Sections of the page between the figures and the proof."""
        return iter(())

    def in_short(self, spec: S) -> str:
        """One line of a plan of a sweep."""
        return self.noun

    def images(self, spec: S) -> int:
        """Images that a spec asks for; 0 where that is not known from the spec alone."""
        return 0

    def plan(self, path: str, spec: S, options: PlanOptions) -> Iterator[str | Table]:
        """Lines and tables that say what a job would take and give."""
        yield f"{path}: {self.in_short(spec)}"
