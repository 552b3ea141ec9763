"""Files that a spec names: weights, exported programs, offsets, the folders of trained networks.

A name in a spec may lead anywhere: to a device that never ends, to a pipe that nobody writes to, to
a hundred gigabytes, to another machine. So what is read is a regular file (or a remote object), and
it has no more bytes than what is asked for can have. Everything else is refused in one sentence.
"""

from __future__ import annotations

import os
import re
import stat
from typing import IO

import fsspec

from wna_ray.errors import ModelError
from wna_ray.machine import available
from wna_ray.text import has_login, size

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "r2")
LOCAL = ("file", "local")
ELSEWHERE = (
    "reference",
    "generic",
    "dir",
    "dask",
    "jupyter",
    "jlab",
    "pyscript",
    "async_wrapper",
    "asyncwrapper",
)
"""Storages of fsspec that open what a file names (older ones by templates that run), or ask
another program to.
"""
PIECE_BYTES = 8 << 20
_VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\})", re.ASCII)  # as os.path.expandvars reads them
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def read_file(path: str, what: str, most: int, option: str = "model") -> bytes:
    """Read a file that a spec names.

    Parameters
    ----------
    path
        A local path or any fsspec URL, as it is (see `expanded`).
    what
        What was expected, for the error message: ``"safetensors or a PyTorch state dict"``.
    most
        Bytes that it can have at most.
    option
        Which part of the spec named it; error messages begin with it.

    Raises
    ------
    ModelError
        There is no such file, it is no regular file, it has more than `most` bytes, or the storage
        does not give it.
    """
    for part in _require_plain(path, option).split("::"):
        scheme, mark, rest = part.partition("://")
        if not mark or scheme in LOCAL:
            _require_regular(rest if mark else part, path, what, most, option)
    try:
        with fsspec.open(path, "rb") as file:
            data = _read(file, most + 1)
    except FileNotFoundError:
        raise ModelError(f"{option}: no file '{path}'; expected {what}") from None
    except MemoryError:
        raise ModelError(f"{option}: '{path}' does not fit into memory") from None
    except Exception as error:  # each storage has errors of its own
        first = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"{option}: cannot read '{path}' ({first}); expected {what}") from None
    if len(data) > most:
        raise ModelError(f"{option}: '{path}' has more than the {most:,} bytes of {what}")
    return data


def _read(file: IO[bytes], most: int) -> bytes:
    """Up to `most` bytes, piece by piece: a reader may take memory for all that it is asked for
    at once.
    """
    pieces = list[bytes]()
    while most and (piece := file.read(min(most, PIECE_BYTES))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def expanded(path: str, option: str = "model") -> str:
    """A path with ``$NAME`` replaced by the environment's value.

    In the URL of another machine a variable would be sent to that machine, so there it may not
    stand: a spec from somebody else could ask for ``http://them/$AWS_SECRET_ACCESS_KEY``. A
    variable that holds the whole URL is allowed, since whoever sets it names the machine.

    Raises
    ------
    ModelError
        A variable stands in the URL of another machine, or there is none of that name.
    """
    if not _VARIABLE.search(path):
        return path
    value = os.path.expandvars(path)
    if _VARIABLE.fullmatch(path):
        if value == path:
            raise ModelError(f"{option}: {path} is not set; export it, or write the path itself")
        return value
    if any(_is_remote(part) for text in (path, value) for part in text.split("::")):
        raise ModelError(
            f"{option}: '{path}' would send the value of a variable to another machine; write the"
            " URL without $, or put the whole URL into one variable and write only its name:"
            " $WEIGHTS_URL"
        )
    return value


def _require_plain(address: str, option: str) -> str:
    """The same address; `ModelError` where it is not opened."""
    if (fault := fault_of(address)) is not None:
        raise ModelError(f"{option}: {fault}")
    return address


def fault_of(address: str) -> str | None:
    """Why an address is not opened, for an error message: it holds a secret key, or leads
    elsewhere; None where it is.
    """
    parts = address.split("::")  # chained storages
    for part in parts:
        protocol, mark, _ = part.partition("://")
        if not mark and len(parts) == 1:  # a local path, whatever its name
            continue
        if protocol in ELSEWHERE:
            return (
                f"'{part}': a storage '{protocol}' leads to other files, or to programs elsewhere;"
                " name the file itself"
            )
        if protocol in OBJECT_STORES and has_login(part):
            return f"'{part}' {_LOGIN}"
    return None


_LOGIN = (
    "holds credentials, which would be stored and shown wherever the URL is; leave them out of it,"
    " and give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or the"
    " machine's role"
)


def _is_remote(part: str) -> bool:
    scheme, mark, _ = part.partition("://")
    return bool(mark) and scheme not in (*LOCAL, "memory")


def _require_regular(local: str, path: str, what: str, most: int, option: str) -> None:
    """`ModelError` where a local path is there, but no regular file of at most `most` bytes."""
    try:
        status = os.stat(local)
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return
    if not stat.S_ISREG(status.st_mode):
        kind = next(
            (name for test, name in _KINDS.items() if test(status.st_mode)), "no regular file"
        )
        raise ModelError(f"{option}: '{path}' is {kind}; expected {what}")
    if status.st_size > most:
        raise ModelError(f"{option}: '{path}' has more than the {most:,} bytes of {what}")
    room = available()
    if room is not None and status.st_size > room:
        raise ModelError(
            f"{option}: '{path}' has {size(status.st_size)}, but this machine has {size(room)} of"
            " memory free"
        )
