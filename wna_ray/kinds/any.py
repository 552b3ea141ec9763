"""Jobs of any kind: open a finished directory, run a spec."""

from __future__ import annotations

from typing import Any

from wna_ray.execution.drive import How, drive
from wna_ray.execution.rounds import Question
from wna_ray.kinds.views import Views
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.finished import Finished
from wna_ray.specs.job import JobSpec
from wna_ray.specs.parse import kind_of
from wna_ray.storage.store import Place


def open_any(place: Place | str) -> Finished:
    """A finished directory of any kind, opened by the class of its kind.

    Raises
    ------
    RunError
        There is none, it is not finished, or something in it is damaged.
    """
    opened: type[Finished] = RunDirectory(place).kind().part("opened")
    return opened(place)


def views_of(finished: Finished) -> Views[Any, Any]:
    """What people see of a finished directory."""
    views: Views[Any, Any] = finished.kind.part("views")
    return views


def views_of_spec(spec: JobSpec) -> Views[Any, Any]:
    """What people see of a job that is still to be done."""
    views: Views[Any, Any] = kind_of(spec).part("views")
    return views


def run_any(spec: JobSpec, out: str, **how: Any) -> Finished:
    """Run a spec of any kind, or go on with it; `how` is as for `wna_ray.execution.drive.How`."""
    kind, choice = kind_of(spec), How(**how)
    place = Place(out, spec.execution.endpoint, choice.single_writer)
    question: Question = kind.part("ask")(spec, place)
    opened: type[Finished] = kind.part("opened")
    return opened(drive(question, spec, out, choice))
