"""Objects that are files of this machine: whole or not there, and never behind a link.

A new object is a temporary file first, complete and flushed, which then gets the object's name by a
hard link or a rename. The temporary file's name says which process writes it, so that what a killed
writer left behind is known.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
import uuid
from pathlib import Path

from wna_ray import processes as process
from wna_ray.errors import StoreError
from wna_ray.storage.faults import too_large

TEMPORARY = ".tmp-"
ABANDONED_SECONDS = 3600.0
Entry = tuple[str, int | None]
"""A name in a folder, and its size; None of a folder."""

_WRITER = re.compile(
    r"\.tmp-([0-9a-f]{12})-([0-9]{1,10})-([0-9]{1,20})-[0-9a-f]{32}"
)  # as `_writer` says


def read_file(path: str, name: str, most: int | None) -> bytes:
    """The bytes of a file; `StoreError` where it has more than `most`, or is no regular file."""
    with open(_open_file(path, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise too_large(name, size, most)
        return file.read(size)


def read_part(path: str, name: str, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` to `stop`; `StoreError` where it is no regular file."""
    with open(_open_file(path, name), "rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _open_file(path: str, name: str) -> int:
    """A descriptor of a regular file; links, devices and pipes that somebody put there are
    refused.
    """
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(
                f"'{name}' is a symbolic link, which no run contains; delete it"
            ) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"'{name}' is no regular file, but all objects of a run are; delete it")
    return descriptor


def create_file(final: str, data: bytes) -> bool:
    """Write a file where there is none; returns whether this call wrote it."""
    if os.path.lexists(final):
        return False
    temporary = temporary_file(final, data)
    try:
        os.link(temporary, final)  # atomic, and fails where the name is taken
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        folder = os.open(os.path.dirname(final), os.O_RDONLY)
        try:
            os.fsync(folder)  # the name itself is durable now
        finally:
            os.close(folder)
    return True


def temporary_file(final: str, data: bytes) -> str:
    """A complete, flushed file beside the final one."""
    folder = Path(final).parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY}{_writer()}{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # Ctrl-C, too
        temporary.unlink(missing_ok=True)
        raise
    return str(temporary)


def is_abandoned(path: str) -> bool:
    """Whether nobody writes to a temporary file any more."""
    writer, place = _WRITER.fullmatch(os.path.basename(path)), process.place()
    if writer is not None and writer[1] == _short(place):
        alive = process.lives(int(writer[2]), f"{place}/{writer[3]}")
        if alive is not None:
            return not alive
    try:
        return time.time() - os.lstat(path).st_mtime > ABANDONED_SECONDS
    except OSError:
        return False


def _writer() -> str:
    """What a temporary file's name says of who writes it; "" where processes have no names."""
    place, _, started = process.name_of(os.getpid()).rpartition("/")
    return f"{_short(place)}-{os.getpid()}-{started}-" if place else ""


def _short(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def scan(folder: str) -> list[Entry]:
    """What is in a local folder; links are no folders."""
    inside = list[Entry]()
    with os.scandir(folder) as entries:
        for entry in entries:
            # A temporary file may just have become an object.
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    inside.append((entry.name, None))
                else:
                    inside.append((entry.name, entry.stat(follow_symlinks=False).st_size))
    return inside


def first_link(root: str, name: str) -> str | None:
    """The first folder on the way to a name, up to its last slash, that is a symbolic link."""
    folders = name.split("/")[:-1]
    for depth in range(1, len(folders) + 1):
        folder = "/".join(folders[:depth])
        try:
            linked = stat.S_ISLNK(os.lstat(f"{root.rstrip('/')}/{folder}").st_mode)
        except OSError:  # there is none, or whoever opens it is told why not
            return None
        if linked:
            return folder
    return None
