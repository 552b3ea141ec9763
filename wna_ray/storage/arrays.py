"""Arrays as objects: ``.npy``, and ``.npz`` with a JSON header and a digest over all of it.

Reading trusts no byte: nothing is unpickled, nothing is unpacked (members are stored, never
compressed), and a size is compared with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wna_ray.canonical import canonical
from wna_ray.errors import RunError, StoreError
from wna_ray.machine import require_memory
from wna_ray.storage.bounds import NPY_BYTES
from wna_ray.storage.faults import no_memory
from wna_ray.text import plain

MEMBERS = 128  # seven kinds of responses have 53, with halves 105
DIRECTORY_BYTES = 256  # of the archive's directory, a member
HEADER_BYTES = 1 << 16
DTYPES = ("<i8", "<i4", "<f4", "<f8", "|u1")
DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError),
    *(NotImplementedError, RecursionError),
    *(struct.error, zipfile.BadZipFile, zlib.error, pa.ArrowException),
)
"""What readers of zip, npy, JSON and Parquet raise where bytes are not what they seem."""
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<|][a-z]\d)', 'fortran_order': (True|False), 'shape':"
    rb" \(((?:\d{1,18},? ?){0,8})\), \} *\n",
    re.DOTALL,
)
_MEMBER = re.compile(r"([a-z_]+(?:/[a-z_]+)?)\.npy")


def pack(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A self-describing ``.npz``: the arrays, and a JSON header with a digest over header and
    arrays.

    The bytes are a function of the content: NumPy stores no time in the archive.
    """
    text = canonical(dict(header) | {"digest": _digest(header, arrays)})
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        header=np.frombuffer(text.encode(), dtype=np.uint8),
        **dict(sorted(arrays.items())),
    )
    return buffer.getvalue()


def unpack(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of a packed object; `RunError` where a bit of it is not as it was
    written.
    """
    require_memory(len(data), where)
    with reading(where, "damaged or not a segment", "; delete it and run the same command again"):
        arrays = {name: from_npy(member) for name, member in _members(data).items()}
        text = arrays.pop("header").tobytes()
        if len(text) > HEADER_BYTES:
            raise ValueError("its header is too long")
        header = json.loads(text)
        whole = header.pop("digest") == _digest(header, arrays)
    if not whole:
        raise RunError(
            f"{where} is damaged: its digest does not match; delete it and run the same command"
            " again"
        )
    return header, arrays


@contextlib.contextmanager
def reading(where: str, damaged: str = "damaged", way_out: str = "") -> Iterator[None]:
    """Tell what goes wrong while the bytes of an object are parsed as what it is.

    Only bytes that are not what they seem are damage, which deleting them mends. A reader that has
    no memory, or lacks a codec, would fail on sound bytes, too.

    Parameters
    ----------
    where
        The object.
    damaged, way_out
        What it is if it is damaged, and what to do then.

    Raises
    ------
    RunError
        It is damaged; or this pyarrow cannot read it.
    StoreError
        The memory does not suffice, or the machine failed while it read: both may pass.
    """
    try:
        yield
    except MemoryError:
        raise no_memory(where) from None
    except OSError as error:
        if error.errno is None:  # Arrow's word for Parquet that it does not understand
            raise RunError(f"{where} is {damaged} ({_reason(error)}){way_out}") from None
        reason = f"cannot be read now ({os.strerror(error.errno)})"
        refusal = StoreError(f"{where} {reason}; run the same command again")
        refusal.passing = True
        raise refusal from None
    except DAMAGE as error:
        if isinstance(error, pa.ArrowNotImplementedError) and "codec" in str(error).lower():
            reason = f"cannot be read by this pyarrow ({_reason(error)})"
            raise RunError(f"{where} {reason}; install one with that codec") from None
        raise RunError(f"{where} is {damaged} ({_reason(error)}){way_out}") from None


def _reason(error: Exception) -> str:
    return plain(" ".join(str(error).split()) or type(error).__name__, 200)


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    total = hashlib.sha256(canonical(dict(header)).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def to_npy(array: NDArray[Any]) -> bytes:
    """An array as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def from_npy(data: bytes | memoryview) -> NDArray[Any]:
    """An array of plain numbers; `ValueError` where the bytes are not exactly that.

    The header is matched, not evaluated as Python as NumPy does it.
    """
    header = _NPY.match(data[:NPY_BYTES])
    if (
        header is None
        or len(header[0]) != 10 + int.from_bytes(header[1], "little")
        or header[2].decode() not in DTYPES
    ):
        raise ValueError("no .npy of plain numbers")
    shape, dtype = (
        tuple(int(n) for n in header[4].split(b",") if n.strip()),
        np.dtype(header[2].decode()),
    )
    if math.prod(shape) * dtype.itemsize != len(data) - len(header[0]):
        raise ValueError(
            f"{len(data)} bytes, which do not hold an array of the shape that they say"
        )
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    values = np.frombuffer(data, dtype, offset=len(header[0]))
    return values.reshape(
        shape, order="F" if header[3] == b"True" else "C"
    ).copy()  # of its own: aligned, and the object can go


def _members(data: bytes) -> dict[str, memoryview]:
    """Members of an archive, by name, as parts of its bytes."""
    end = _directory(data)
    whole, members, at = memoryview(data), dict[str, memoryview](), 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len(infos) > MEMBERS:
        raise ValueError(f"{len(infos)} members")
    for info in infos:
        name = _MEMBER.fullmatch(info.orig_filename)
        if name is None or name[1] in members:
            raise ValueError(f"a member {info.orig_filename[:80]!r}, or two")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.flag_bits
            or info.file_size != info.compress_size
        ):
            raise ValueError(f"{name[0]} is not stored as it is")
        local = struct.unpack("<4s5H3L2H", data[info.header_offset : info.header_offset + 30])
        start = info.header_offset + 30 + local[-2] + local[-1]
        said = data[info.header_offset + 30 : start - local[-1]]
        if (
            info.header_offset < at
            or local[0] != b"PK\3\4"
            or local[2:4] != (0, 0)
            or said != info.orig_filename.encode()
        ):
            raise ValueError(f"{name[0]} is not where the archive says")
        at = start + info.file_size
        if at > end:
            raise ValueError(f"{name[0]} is cut short")
        member = whole[start:at]
        if zlib.crc32(member) != info.CRC:
            raise ValueError(f"bad CRC-32 of {name[0]}")
        members[name[1]] = member
    return members


def _directory(data: bytes) -> int:
    """Where the archive's directory begins, which must be small: it is read into memory whole."""
    at = len(data) - 22
    if at < 0:
        raise ValueError("no end of an archive")
    mark, _, _, _, _, length, start, comment = struct.unpack("<4s4H2LH", data[at:])
    if mark != b"PK\5\6" or comment:
        raise ValueError("no end of an archive")
    if data[at - 20 : at - 16] == b"PK\6\7":  # sizes beyond 4 GB are in a record before it
        at -= 76
        mark, _, _, _, _, _, _, _, length, start = struct.unpack(
            "<4sQ2H2L4Q", data[max(at, 0) : at + 56]
        )
        if mark != b"PK\6\6":
            raise ValueError("no end of an archive")
    if length > MEMBERS * DIRECTORY_BYTES or start + length != at:
        raise ValueError("its directory is not as it was written")
    return int(start)
