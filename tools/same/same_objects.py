"""The objects of a tree's runs: what of each is compared, and the few that hold clock's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

LEFT_OUT = {
    "given/*": "what both trees were given",
    "*drivers/*.json": "who drove a run, and when: host, process, times and rates",
    "*events/*.jsonl": "times; the names of events and of their fields are compared instead",
}
"""Objects that are not compared, and why."""


@dataclass(frozen=True)
class Clocked:
    """Objects with values of the clock, of which all other values are compared."""

    names: str
    without: Callable[[dict[str, Any]], dict[str, Any]]
    reason: str


def without_seconds(network: dict[str, Any]) -> dict[str, Any]:
    """Leave out of the description of a network how long its training took."""
    return {key: value for key, value in network.items() if key != "seconds"}


def without_descriptions(manifest: dict[str, Any]) -> dict[str, Any]:
    """Leave sizes and digests of descriptions out of a training's manifest; a run's stays."""
    if "networks" not in manifest:
        return manifest
    listed = manifest["objects"]
    plain = {name: None if name.endswith("network.json") else listed[name] for name in listed}
    return manifest | {"objects": plain}


CLOCKED = (
    Clocked("*network.json", without_seconds, "`seconds`: how long the training took"),
    Clocked("*MANIFEST.json", without_descriptions, "of a training: lists network.json"),
)


def compared(name: str, data: bytes) -> bytes:
    """Return what is compared of an object: its bytes, but for values of the clock."""
    for clocked in CLOCKED:
        if fnmatchcase(name, clocked.names):
            value = json.loads(data)
            rest = clocked.without(value)
            return data if rest == value else json.dumps(rest).encode()
    return data


def objects(runs: Path) -> Iterator[tuple[str, str]]:
    """Find name and digest of every object of a folder, and what kinds of events there were."""
    for path in sorted(runs.rglob("*")):
        name = path.relative_to(runs).as_posix()
        if path.name == "events" and path.is_dir():
            yield f"{name}: names and fields", "; ".join(sorted(set(events(path))))
        elif path.is_file() and not any(fnmatchcase(name, glob) for glob in LEFT_OUT):
            yield name, hashlib.sha256(compared(name, path.read_bytes())).hexdigest()


def events(folder: Path) -> Iterator[str]:
    """Read each event of a run: its name, and the names of its fields."""
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            yield f"{event.pop('event')}({', '.join(fields(event))})"


def fields(value: dict[str, Any]) -> Iterator[str]:
    """Name fields, and those that they hold, with a dot for each level."""
    for name, inner in value.items():
        yield name
        if isinstance(inner, dict):
            yield from (f"{name}.{below}" for below in fields(inner))
