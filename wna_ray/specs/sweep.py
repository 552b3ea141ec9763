"""A sweep: one file that asks for a run under each of many conditions.

    sweep:
      network:
        seed-0: {model: trained:nets/mnist/seed-0}
        seed-1: {model: trained:nets/mnist/seed-1}
      noise:
        uniform: {stimulus.kind: uniform}
        mean: {stimulus.offset: bundled:mnist-mean, stimulus.scale: 0.3}
    full: {samples: 10_000_000}     # what --full changes first
    model: ...                      # all other keys are the base: a spec of any kind

Each axis has named values, and each value is a mapping of changes: dotted keys, as ``--set`` has
them (a key without a dot replaces all that stood there). The members are the product of the axes,
in order, and each is named by its path: ``seed-0/uniform``. Later axes change what earlier ones
left. A member is an ordinary run, so everything about it, its result too, is as if its spec had
stood in a file alone.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wna_ray.canonical import canonical
from wna_ray.errors import SpecError
from wna_ray.specs.base import apply, read_yaml
from wna_ray.specs.job import JobSpec
from wna_ray.specs.parse import parse_spec

NAME = r"[a-z0-9_][a-z0-9._-]{0,59}"
MOST_MEMBERS = 2_000
TAKEN = ("spec.json", "probe")  # objects of the sweep's own directory


@dataclass(frozen=True)
class SweepSpec:
    """A sweep.

    Attributes
    ----------
    axes
        Names of the values of each axis, by the axis's name, in order.
    members
        The spec of each member, by its name, in the order of the product: the last axis goes
        fastest.
    """

    axes: Mapping[str, tuple[str, ...]]
    members: Mapping[str, JobSpec]

    @classmethod
    def parse(cls, data: Mapping[str, Any], source: str = "sweep") -> SweepSpec:
        """The sweep of a mapping that has a key ``sweep``.

        Raises
        ------
        SpecError
            An axis or a name is not as it should be, two members are the same run, or a member's
            spec has a fault, which is then named with the member.
        """
        base = {key: value for key, value in data.items() if key != "sweep"}
        axes = _axes(data["sweep"], f"{source}: sweep")
        count = 1
        for values in axes.values():
            count *= len(values)
        if count > MOST_MEMBERS:
            raise SpecError(
                f"{source}: sweep: {count:,} members, but at most {MOST_MEMBERS:,} make one sweep;"
                " cut it in several files"
            )
        members, seen = dict[str, JobSpec](), dict[str, str]()
        for chosen in itertools.product(*(values.items() for values in axes.values())):
            name = "/".join(value for value, _ in chosen)
            member = copy.deepcopy(base)
            for axis, (value, changes) in zip(axes, chosen, strict=True):
                apply(member, copy.deepcopy(changes), f"sweep.{axis}.{value}:", source)
            spec = parse_spec(member, f"{source}: member {name}")
            text = f"{type(spec).__name__} {canonical(identity(spec))}"
            if text in seen:
                raise SpecError(
                    f"{source}: sweep: the members {seen[text]} and {name} are the same run; let"
                    " their values change what differs"
                )
            members[name], seen[text] = spec, name
        return cls({axis: tuple(values) for axis, values in axes.items()}, members)


def identity(spec: JobSpec) -> dict[str, Any]:
    """What a member is, as plain JSON values: all but how its work is cut, and what is scored
    beside it.
    """
    return spec.model_dump(mode="json", exclude={"execution", "evaluation"})


def read_asked(
    path: str | Path, changes: Mapping[str, Any] | None = None, full: bool = False
) -> JobSpec | SweepSpec:
    """What a YAML file asks for: a sweep where it has a key ``sweep``, else one run. Changes
    (and full size) are those of the base.
    """
    data = read_yaml(path, changes, full)
    return SweepSpec.parse(data, str(path)) if "sweep" in data else parse_spec(data, str(path))


def _axes(written: Any, where: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Axes, their values, and the changes of each, checked."""
    axes = {}
    for axis, values in _mapping(written, where, "axes").items():
        place = f"{where}.{_name(axis, where)}"
        named = {
            _name(value, place): changes
            for value, changes in _mapping(values, place, "named values").items()
        }
        axes[_name(axis, where)] = {
            value: (
                {}
                if changes in (None, {})
                else _mapping(
                    changes, f"{place}.{value}", "dotted keys, such as stimulus.scale: 0.3,"
                )
            )
            for value, changes in named.items()
        }
    taken = [value for value in next(iter(axes.values())) if value in TAKEN]
    if taken:
        raise SpecError(
            f"{where}: {taken[0]!r} is the name of an object of the sweep itself; give another"
        )
    return axes


def _mapping(value: Any, where: str, of: str) -> dict[Any, Any]:
    if not isinstance(value, dict) or not value:
        actual = "nothing" if value in (None, {}) else type(value).__name__
        raise SpecError(f"{where}: expected a mapping of {of} to what they stand for, got {actual}")
    return value


def _name(key: Any, where: str) -> str:
    text = str(key) if type(key) in (str, int, float) else ""
    if not re.fullmatch(NAME, text):
        hint = (
            " (YAML reads yes, no, on and off as truth values; put it in quotes)"
            if isinstance(key, bool)
            else ""
        )
        raise SpecError(
            f"{where}: {str(key)[:80]!r} is no name{hint}: up to 60 small letters, digits, dashes,"
            " dots and underscores were expected, without a dot or a dash in front"
        )
    return text
