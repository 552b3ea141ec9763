"""Exported programs that somebody made to do harm, out of honest ones.

Each would make a file, the marker, if what is hidden in it ran; some by importing the module
`hidden.TRAP`, which makes it. They are the same in each run of the tests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from crafted_exports import in_archives, in_graphs
from crafted_exports.archives import archive, placed, places
from crafted_exports.hidden import TRAP, expressions, identifiers
from crafted_exports.honest import CONSTANTS, PROGRAM, WEIGHTS, Honest
from crafted_exports.in_archives import Bases, Case

RANDOM_CASES = 150


@dataclass(frozen=True)
class Crafted:
    """A hostile archive: what is hidden in it, its bytes, and the program that it was made of."""

    name: str
    data: bytes
    base: Honest


def crafted(honest: Mapping[str, Honest], marker: Path) -> list[Crafted]:
    """All hostile archives."""
    cases, where = [], str(marker)
    for make in (
        in_archives.members,
        in_archives.twins,
        in_archives.foreign,
        in_archives.archives,
        in_graphs.treespecs,
        in_graphs.sizes,
        in_graphs.names,
        in_graphs.conditions,
        in_graphs.targets,
        in_graphs.arguments,
        in_archives.pickles,
        in_archives.metadata,
        in_archives.versions,
        in_archives.texts,
        in_archives.weights,
        struck,
    ):
        for name, base, data in make(honest, where):
            cases.append(Crafted(f"{make.__name__}: {name}", data, honest[base]))
    return cases


def struck(honest: Bases, marker: str) -> Iterator[Case]:
    """Something hostile anywhere in what is told of a program."""
    chance, made = random.Random(11), expressions(marker)[0]
    values = [
        made,
        {"as_expr": {"expr_str": made, "hint": None}},
        [made],
        {"__enum__": True, "fqn": f"{TRAP}:Trap", "name": "A"},
        {"as_operator": "torch.os.system"},
        {"as_string": made},
        None,
        identifiers(marker)[2],
        {"as_graph": {"name": made, "graph": {}}},
        [[[]]],
    ]
    for place in range(RANDOM_CASES):
        name = chance.choice(list(honest))
        base = honest[name]
        file = chance.choice([PROGRAM, PROGRAM, PROGRAM, WEIGHTS, CONSTANTS])
        told = json.loads(base.members()[file])
        found = [path for path in places(told) if "metadata" not in path]
        path, value = chance.choice(found), chance.choice(values)
        text = json.dumps(placed(told, path, value)).encode()
        where = ".".join(str(key) for key in path)
        yield f"{place}: {str(value)[:30]} at {where}", name, archive(base, {file: text})
