"""Compare what two trees made, name by name, and tell differences that are expected from others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

READINGS = "readings/"  # names of what Python reads of runs (see `same_readers`)
MOST_NAMED = 12  # differences of a group that are told


class Unreasoned(Exception):
    """A line of the expected differences is not as it should be; the message says why."""


@dataclass(frozen=True)
class Difference:
    """An object that is not the same, and how."""

    name: str
    how: str


@dataclass(frozen=True)
class Expected:
    """Names of objects that may differ, and why they do."""

    glob: str
    reason: str
    line: int


@dataclass(frozen=True)
class Verdict:
    """Differences that nobody expects, how many are expected, and lines that match none."""

    unexpected: tuple[Difference, ...]
    excused: int
    stale: tuple[Expected, ...]


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    """Find everything that is not the same, in the order of the names.

    A reading that only the newer side has is a new property of a reader, and changes nothing.
    """
    return list(_differences(before, after))


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Difference(name, "is missing here")
        elif name not in before:
            if not name.startswith(READINGS):
                yield Difference(name, "is new here")
        elif before[name] != after[name]:
            yield Difference(name, "differs")


def read_expected(text: str) -> list[Expected]:
    """Read lines ``glob  # reason``; raise `Unreasoned` where one has no reason."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        glob, _, reason = (part.strip() for part in line.partition("#"))
        if glob and not reason:
            raise Unreasoned(f"line {number}: {glob} has no reason; write {glob}  # WHY")
        if glob:
            found.append(Expected(glob, reason, number))
    return found


def judge(found: Sequence[Difference], expected: Sequence[Expected]) -> Verdict:
    """Tell expected differences from others. In a glob ``*`` stands for slashes, too."""
    matched = {e: [d for d in found if fnmatchcase(d.name, e.glob)] for e in expected}
    excused = {d for some in matched.values() for d in some}
    unexpected = tuple(d for d in found if d not in excused)
    return Verdict(unexpected, len(excused), tuple(e for e, some in matched.items() if not some))


def told(verdict: Verdict) -> Iterator[str]:
    """Say what is wrong: differences by the folders that they are in, and stale lines."""
    for folder, some in groupby(verdict.unexpected, lambda d: d.name.split("/")[0]):
        group = list(some)
        yield f"{folder}: {len(group)} differ"
        yield from (f"  {d.name} {d.how}" for d in group[:MOST_NAMED])
        if len(group) > MOST_NAMED:
            yield f"  and {len(group) - MOST_NAMED} more"
    for e in verdict.stale:
        yield f"expected.txt, line {e.line}: nothing that {e.glob} names differs; delete the line"
