"""The archive of an exported program, its members, and the JSON in them.

Nothing of the file is trusted. The end of its archive is looked at before Python's own reader of
archives gets it, and the size and depth of text before its reader of JSON does; each value is of
the type that is asked for, or the file is refused. What is trusted are these readers: ``zipfile``,
``json``, and ``pickletools``, which lists what a pickle would do and does nothing of it.
"""

from __future__ import annotations

import json
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import torch

from wna_ray.text import plain

MOST_TEXT = 64 << 20  # bytes of JSON; a large transformer's graph has 20 MB, most of it traces
MOST_DEPTH = 200  # of JSON; a graph has 7, and each graph inside it 6 more
MOST_DIRECTORY = 8 << 20  # bytes of the archive's directory; 5,000 weights take 0.5 MB

# Ways out, for the end of a refusal.
AGAIN = f"export it again with this torch ({torch.__version__})"
STATIC = "export it again with static sizes"
PLAIN = "export it again with plain tensors, without custom objects and quantised types"
PYTHON = "load the network as python:MODULE:FUNCTION instead"

T = TypeVar("T")

_ROOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_MEMBER = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|models/model\.json"
    r"|data/weights/(model_weights_config\.json|weight_[0-9]{1,6})"
    r"|data/constants/(model_constants_config\.json|tensor_[0-9]{1,6})"
    r"|data/sample_inputs/model\.pt"
    r"|extra/([A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}/){0,9}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}",
)
_QUOTED = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_PATH = re.compile(r"[\w-]{1,200}(\.[\w-]{1,200}){0,99}")
_SAMPLES = re.compile(
    r"torch [A-Za-z]+Storage|torch (Size|device|u?int\d+|b?float\d+|bool)"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)|collections OrderedDict"
    r"|torch\.storage UntypedStorage|torch\.serialization _get_layout",
)


class Refused(Exception):
    """The file holds what could run, or is not as torch writes it: what, and the way out."""

    def __init__(self, *parts: str) -> None:
        super().__init__("; ".join(parts))


def odd(what: str) -> Refused:
    """The refusal of what torch does not write."""
    return Refused(f"{what}, which torch does not write", AGAIN)


# The archive.


def read_members(data: bytes) -> dict[str, memoryview]:
    """Members of the archive by their names in its one folder."""
    members: dict[str, memoryview] = {}
    roots, folded = set[str](), set[str]()
    for full, member in _stored_members(data):
        root, _, name = full.partition("/")
        label = plain(full, 80)
        if not _ROOT.fullmatch(root) or not _MEMBER.fullmatch(name):
            raise Refused(f"it holds '{label}', which is no part of one program", PLAIN)
        if name.casefold() in folded:
            raise Refused(f"it holds '{label}' twice", AGAIN)
        roots.add(root)
        folded.add(name.casefold())
        members[name] = member
    if len(roots) != 1:
        raise odd("its members are in several folders")
    return members


def _stored_members(data: bytes | memoryview) -> Iterator[tuple[str, memoryview]]:
    """Full names and bytes of members, which must fill the archive, one after another."""
    view = memoryview(data)
    end = _directory(view)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (ValueError, NotImplementedError, struct.error) as error:  # of damaged directories
        raise zipfile.BadZipFile("a directory that cannot be read") from error
    starts = [info.header_offset for info in infos] + [end]
    if starts[0] != 0:
        raise odd("something lies before its members")
    for info, start, after in zip(infos, starts[:-1], starts[1:], strict=True):
        label = plain(info.orig_filename, 80)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise odd(f"its member '{label}' is compressed")
        if info.flag_bits & ~0x808:  # sizes may follow, and names may be in UTF-8
            raise odd(f"its member '{label}' is encrypted or patched")
        member = _member(view[start:after], info)
        if member is None:
            raise odd(f"its member '{label}' is not where its directory says")
        if zlib.crc32(member) != info.CRC:
            raise Refused(f"its member '{label}' is damaged: its checksum is another")
        yield info.orig_filename, member


def _member(part: memoryview, info: zipfile.ZipInfo) -> memoryview | None:
    """The bytes of a member, of all up to the next; None where its own head says something else."""
    if len(part) < 30:
        return None
    mark, _, flags, method, *_, name, extra = struct.unpack("<4s5H3L2H", part[:30])
    start = 30 + name + extra
    rest = len(part) - start - info.file_size
    same_name = bytes(part[30 : 30 + name]) == info.orig_filename.encode()
    if mark != b"PK\3\4" or (flags, method) != (info.flag_bits, 0) or not same_name:
        return None
    if info.flag_bits & 8:  # checksum and sizes again, behind it
        if rest not in (16, 24) or bytes(part[-rest : 4 - rest]) != b"PK\7\x08":
            return None
    elif rest:
        return None
    return part[start : start + info.file_size]


def _directory(data: memoryview) -> int:
    """Where the archive's directory begins. It must be small: it is read into memory whole."""
    at = len(data) - 22
    if at < 0 or bytes(data[at : at + 4]) != b"PK\5\6":
        raise zipfile.BadZipFile("no end of an archive")
    length, start, comment = struct.unpack("<12x2LH", data[at:])
    if at >= 76 and bytes(data[at - 20 : at - 16]) == b"PK\6\7":  # 64-bit sizes are before it
        at -= 76
        mark, length, start = struct.unpack("<4s36x2Q", data[at : at + 56])
        if mark != b"PK\6\6":
            raise odd("the end of its archive is not where it should be")
    if comment or not length or start + length != at:
        raise odd("its archive is empty, or something lies behind or within it")
    if length > MOST_DIRECTORY:
        raise Refused(f"the directory of its archive takes {length:,} bytes", AGAIN)
    return int(start)


def check_samples(payload: memoryview | None) -> None:
    """Refuse sample inputs that are more than tensors. They are looked through, and never read."""
    if not payload:
        return
    try:
        members = dict(_stored_members(payload))
        (pickled,) = (data for name, data in members.items() if name.endswith("/data.pkl"))
        called = [
            str(argument) if code.name == "GLOBAL" else code.name
            for code, argument, _ in pickletools.genops(bytes(pickled))
            if code.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
        ]
    except (ValueError, zipfile.BadZipFile):  # no archive, or no pickle
        called = ["nothing known"]
    if not all(map(_SAMPLES.fullmatch, called)):
        raise Refused("its sample inputs are a pickle of more than tensors", PLAIN)


# Text.


def parsed(members: Mapping[str, memoryview], name: str) -> dict[str, Any]:
    """A member that is a JSON object."""
    if name not in members:
        raise Refused(f"it lacks {name}: another version of torch has written it", AGAIN)
    return typed(dict, read_json(bytes(members[name]), name), name)


def read_json(data: bytes, what: str) -> Any:
    """JSON of bounded size and depth."""
    if len(data) > MOST_TEXT:
        raise Refused(f"{what} has {len(data):,} bytes, more than any graph")
    bare = np.frombuffer(_QUOTED.sub(b"", data), np.uint8)
    brackets = bare[np.isin(bare, np.frombuffer(b"[]{}", np.uint8))]
    turns = np.where(np.isin(brackets, np.frombuffer(b"[{", np.uint8)), np.int8(1), np.int8(-1))
    if len(turns) and int(turns.cumsum(dtype=np.int32).max()) > MOST_DEPTH:
        raise Refused(f"{what} is nested deeper than any graph")
    try:
        return json.loads(data.decode())
    except ValueError as error:
        raise Refused(f"{what} is no JSON ({plain(str(error), 80)})", AGAIN) from None


def typed(kind: type[T], value: Any, what: str) -> T:
    """A value that must be of this type, and no other."""
    if type(value) is not kind:
        raise odd(f"{what} is {type(value).__name__} instead of {kind.__name__}")
    return value


def field(of: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """A value that must be there."""
    if key not in of:
        raise odd(f"'{key}' is missing in it")
    return typed(kind, of[key], f"'{key}' in it")


def listed(value: Any, kind: type[T], what: str) -> list[T]:
    """A list whose parts must be of this type."""
    return [typed(kind, part, what) for part in typed(list, value, what)]


def single(value: Any, what: str) -> tuple[str, Any]:
    """The one key of an object, and what is there."""
    union = typed(dict, value, what)
    if len(union) != 1:
        raise odd(f"{what} has {len(union)} kinds")
    return next(iter(union.items()))


def whole(value: Any) -> int:
    """A whole number of at most 64 bits."""
    number = typed(int, value, "a whole number in it")
    if not -(1 << 63) <= number < 1 << 63:
        raise odd("a whole number in it has more than 64 bits")
    return number


def natural(value: Any) -> int:
    """A whole number that is not negative."""
    number = whole(value)
    if number < 0:
        raise odd("a size in it is negative")
    return number


def real(value: Any) -> float:
    """A number, which may be infinite or not a number."""
    if value in ("Infinity", "-Infinity", "NaN"):
        return float(value)
    return float(whole(value)) if type(value) is int else typed(float, value, "a number in it")


def dotted(value: Any) -> str:
    """The dotted name of a weight."""
    path = typed(str, value, "a name in it")
    if not _PATH.fullmatch(path):
        raise Refused(f"a weight of it is named '{plain(path, 80)}'", "use letters, digits, _ - .")
    return path
