"""Kinds of jobs: where the parts of each lie, found by name, by the format on disk, or by a spec's
key.

Every kind of job is one folder that gives one `Kind`. Those of this package are listed in
`BUILT_IN`; others are found by the entry point group ``wna_ray.kinds``. A part is named as an entry
point is, ``module:name``, and imported when it is used: ``wna status`` needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

from wna_ray.errors import SpecError
from wna_ray.text import plain

GROUP = "wna_ray.kinds"
FALLBACK = "run"  # the kind of a spec that has no other's key
BUILT_IN = (
    "wna_ray.kinds.average:KIND",
    "wna_ray.kinds.covariance:KIND",
    "wna_ray.kinds.trials:KIND",
)


@dataclass(frozen=True)
class Kind:
    """A kind of job; each part is ``module:name`` and is imported when it is asked for.

    Attributes
    ----------
    name
        What its directories are called in messages, and what ``kind:`` in a spec says.
    format
        What ``format`` says in the ``spec.json`` of its directories.
    spec
        The class of its specs (see `wna_ray.specs.base.Written`).
    extent
        From what ``spec.json`` says, and where it lies, to a `wna_ray.runs.formats.Extent`.
    ask
        From a spec and the `wna_ray.storage.store.Place` of its directory to a
        `wna_ray.execution.rounds.Question`.
    opened
        The class of its finished directories (see `wna_ray.runs.finished.Finished`).
    views
        What people see of it (see `wna_ray.kinds.views.Views`).
    key
        The key that only its specs have, None where ``kind:`` must name it.
    """

    name: str
    format: str
    spec: str
    extent: str
    opened: str
    ask: str
    views: str
    key: str | None = None

    def part(self, name: str) -> Any:
        """One of its parts, imported."""
        return resolve_name(getattr(self, name))

    def recognises(self, data: Mapping[str, Any]) -> bool:
        """Whether a spec that names no kind is one of this kind."""
        return self.key in data if self.key is not None else self.name == FALLBACK


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds that are installed: those of this package first, then others by their names."""
    others = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return (*(resolve_name(where) for where in BUILT_IN), *(point.load() for point in others))


def kind_of_spec(data: Mapping[str, Any], source: str) -> Kind:
    """The kind of job that a spec asks for: by its key ``kind``, else by the key that only one has.

    Raises
    ------
    SpecError
        ``kind`` names none that is installed.
    """
    if "kind" in data:
        known = {kind.name: kind for kind in kinds()}
        if data["kind"] not in known:
            raise SpecError(
                f"{source}: kind: no kind of job {plain(str(data['kind']), 40)!r} is installed;"
                f" there are {', '.join(known)}"
            )
        return known[data["kind"]]
    return next(kind for kind in reversed(kinds()) if kind.recognises(data))
