"""Archives of programs, written anew: also such as no zip writer would make."""

from __future__ import annotations

import copy
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from crafted_exports.honest import CONSTANTS, PROGRAM, ROOT, WEIGHTS, Honest


@dataclass(frozen=True)
class Entry:
    """A member of an archive, as its two heads tell it."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    inner: str | None = None
    size: int | None = None
    crc: int | None = None
    before: bytes = b""
    behind: bytes = b""
    at: int | None = None


def zipped(entries: Sequence[Entry], before: bytes = b"", comment: bytes = b"") -> bytes:
    """An archive of these members; `before` lies before it."""
    body, heads = before, b""
    for entry in entries:
        body += entry.before
        start = len(body) if entry.at is None else entry.at
        size = len(entry.data) if entry.size is None else entry.size
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        method, flags, whole = entry.method, entry.flags, entry.data
        if method == zipfile.ZIP_DEFLATED:
            whole = deflated(entry.data)
        common = (flags, method, 0, 0x21, crc, len(whole), size)
        inner = (entry.name if entry.inner is None else entry.inner).encode()
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, *common, len(inner), 0)
        if entry.at is None:
            body += head + inner + whole + entry.behind
        name = entry.name.encode()
        told = (20, 20, *common, len(name), 0, 0, 0, 0, 0, start)
        heads += struct.pack("<4s6H3L5H2L", b"PK\1\2", *told) + name
    ends = (0, 0, len(entries), len(entries), len(heads), len(body), len(comment))
    return body + heads + struct.pack("<4s4H2LH", b"PK\5\6", *ends) + comment


@lru_cache(maxsize=64)
def deflated(data: bytes) -> bytes:
    """Compressed as archives compress."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


def entries(members: Mapping[str, bytes]) -> list[Entry]:
    """Members in the archive's folder."""
    return [Entry(f"{ROOT}/{name}", data) for name, data in members.items()]


def archive(base: Honest, changed: Mapping[str, bytes | None]) -> bytes:
    """An honest archive with some members changed, added, or (None) left out."""
    members = {**base.members(), **changed}
    return zipped(entries({name: data for name, data in members.items() if data is not None}))


def described(base: Honest, program: Any) -> bytes:
    """An honest archive with another description of its program."""
    return archive(base, {PROGRAM: json.dumps(program).encode()})


def altered(base: Honest, change: Callable[[dict[str, Any]], object]) -> bytes:
    """An honest archive whose description is changed."""
    program = base.program()
    change(program)
    return described(base, program)


def renamed(base: Honest, old: str, new: str) -> bytes:
    """An honest archive with a name changed everywhere."""
    before, after = json.dumps(old).encode(), json.dumps(new).encode()
    texts = {name: base.members()[name] for name in (PROGRAM, WEIGHTS, CONSTANTS)}
    return archive(base, {name: text.replace(before, after) for name, text in texts.items()})


def placed(tree: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of nested JSON with another value at a place."""
    found = copy.deepcopy(tree)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in nested JSON."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
