"""A local folder that objects are copied to, held open: nobody can put a link in its way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from wna_ray.canonical import sha256
from wna_ray.errors import StoreError
from wna_ray.runs.manifest import Entry
from wna_ray.storage.local import TEMPORARY
from wna_ray.storage.store import CHUNK_BYTES
from wna_ray.text import size

SPARE_BYTES = 16 << 20  # of the disk, beside the objects: folders and the like


def temporary_name(name: str, entry: Entry) -> str:
    """Name of an object while it is on its way: only its own bytes go on from there."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{TEMPORARY}{entry.sha256[:32]}-{last}"


def chunks_of(file: int) -> Iterator[bytes]:
    """The bytes of an open file, from where it is."""
    while chunk := os.read(file, CHUNK_BYTES):
        yield chunk


def write_all(file: int, data: bytes) -> None:
    """Write all of some bytes to an open file."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


@contextlib.contextmanager
def local_errors(what: str) -> Iterator[None]:
    """The local disk's refusals as sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, then run the same command again: what has come is kept"
        elif error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EMLINK):
            hint = (
                "a symbolic link, or something else that no run contains, is in its place; delete"
                " it, or give another folder"
            )
        else:
            hint = "give another folder, or mend this one"
        raise StoreError(
            f"cannot write '{what}' ({os.strerror(error.errno or 0)}); {hint}"
        ) from None


def _open_below(folder: int, part: str) -> int:
    """A descriptor of a folder in an open one, made where there is none; a link is refused."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, dir_fd=folder)
    return os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


class LocalFolder:
    """A local folder, held open: every name is looked up from its descriptors, so a link put in
    the way is found, not followed.
    """

    def __init__(self, path: Path, above: LocalFolder | None = None) -> None:
        self.path, self._above = path, above
        self._folders: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> LocalFolder:
        with local_errors(str(self.path)):
            if self._above is None:
                self.path.mkdir(parents=True, exist_ok=True)
                self._folders[""] = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            else:
                self._folders[""] = self._above.open_folder(self.path.relative_to(self._above.path))
        try:
            fcntl.flock(self._folders[""], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.__exit__()
            raise StoreError(
                f"another process is fetching to '{self.path}'; wait for it, or give another folder"
            ) from None
        except OSError:
            pass  # some file systems lock no folders
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._folders.values():
            os.close(descriptor)
        self._folders.clear()

    def open_folder(self, name: Path) -> int:
        """A descriptor of a folder in it, made where there is none; no link is followed."""
        descriptor = os.dup(self._folders[""])
        for part in name.parts:
            above = descriptor
            try:
                descriptor = _open_below(above, part)
            finally:
                os.close(above)
        return descriptor

    def require_space(self, needed: int) -> None:
        """`StoreError` where the disk has no room for so many bytes more."""
        disk = os.fstatvfs(self._folders[""])
        free = disk.f_bavail * disk.f_frsize
        if needed + SPARE_BYTES > free:
            raise StoreError(
                f"'{self.path}' needs {size(needed)} more, but the disk has {size(free)}; free some"
                " space, or give another folder"
            )

    def present(self, name: str, entry: Entry) -> int:
        """Bytes of an object that are there, under its name or on their way."""
        for at in (name, temporary_name(name, entry)):
            status = self._stat(at)
            if (
                status is not None
                and stat.S_ISREG(status.st_mode)
                and status.st_nlink == 1
                and status.st_size <= entry.bytes
            ):
                return status.st_size
        return 0

    def has(self, name: str) -> bool:
        """Whether there is something of that name, a link to nowhere included."""
        return self._stat(name) is not None

    @contextlib.contextmanager
    def open(self, name: str, flags: int) -> Iterator[int]:
        """A descriptor of a regular file that has no other name."""
        folder, last = self._at(name)
        file = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EISDIR, "")
            if status.st_nlink > 1 and flags & os.O_RDWR:
                raise OSError(errno.EMLINK, "")
            yield file
        finally:
            os.close(file)

    def put(self, name: str, data: bytes) -> bool:
        """Write a small file once all others are safe on the disk; returns whether it was there
        already.
        """
        entry = Entry(bytes=len(data), sha256=sha256(data))
        with local_errors(f"{self.path}/{name}"):
            for descriptor in self._folders.values():
                with contextlib.suppress(OSError):  # some file systems sync no folders
                    os.fsync(descriptor)
            if self.has(name):  # and is the same: that was looked at before
                return True
            temporary = temporary_name(name, entry)
            self.remove(temporary)
            with self.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL) as file:
                write_all(file, data)
                os.fsync(file)
            self.rename(temporary, name)
            with contextlib.suppress(OSError):
                os.fsync(self._folders[""])
        return False

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in whichever folder."""
        (folder, last), (_, final) = self._at(old), self._at(new)
        os.rename(last, final, src_dir_fd=folder, dst_dir_fd=folder)

    def remove(self, name: str) -> None:
        """Delete a file, where there is one of that name."""
        folder, last = self._at(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(last, dir_fd=folder)

    def _stat(self, name: str) -> os.stat_result | None:
        folder, last = self._at(name)
        try:
            return os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _at(self, name: str) -> tuple[int, str]:
        """The open folder of a name (made where there is none), and its last part."""
        folder, _, last = name.rpartition("/")
        with self._lock:
            for at in (
                [folder[:i] for i, c in enumerate(f"{folder}/") if c == "/"] if folder else []
            ):
                if at not in self._folders:
                    parent, _, part = at.rpartition("/")
                    self._folders[at] = _open_below(self._folders[parent], part)
            return self._folders[folder], last
