"""A finished run, or a finished sweep, copied to a local folder.

Only what ``MANIFEST.json`` lists is copied, so ``evaluation/`` (which has no digests), drivers and
journals stay where they are. An object has its name only once all its bytes are there and give the
digest that the manifest says; until then it is a ``.tmp-`` file beside it, from whose length the
next call goes on. The manifest comes last. No symbolic link below the folder is followed, and no
file that is there is ever overwritten.

Of a sweep every member is copied so, into a folder of its own, and ``spec.json`` and ``SWEEP.json``
come last of all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wna_ray.canonical import sha256
from wna_ray.errors import RunError, StoreError
from wna_ray.registry import kinds
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.manifest import listed, manifest_faults
from wna_ray.runs.names import MANIFEST, RESULT, SEGMENTS, SPEC
from wna_ray.storage.bounds import MOST_JSON, parse_json
from wna_ray.storage.store import CHUNK_BYTES, TEMPORARY, Place
from wna_ray.text import plain, size

SPARE_BYTES = 16 << 20  # of the disk, beside the objects: folders and the like

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """What lies in the folder now.

    Attributes
    ----------
    folder
        The local copy.
    fingerprint
        Of the run.
    objects, bytes
        All that is there of the run.
    kept
        Objects that were there before.
    downloaded
        Bytes that came from the storage.
    left_out
        Segments that were not asked for.
    """

    folder: Path
    fingerprint: str
    objects: int
    bytes: int
    kept: int
    downloaded: int
    left_out: int


def fetch(
    place: Place | str,
    dest: Path,
    workers: int = 8,
    segments: bool = True,
    callback: Progress | None = None,
) -> Fetched:
    """Copy a finished run to a local folder, or go on with it; every object's SHA-256 is checked on
    the way.

    Parameters
    ----------
    place
        The run: a path, any fsspec URL, or a `Place`.
    dest
        The folder; made where there is none. What is there of this run is kept, another run's is
        refused.
    workers
        Objects under way at a time.
    segments
        Also copy the segments. Without them the copy can be opened and reported on, but
        `RunDirectory.verify` says that they are missing: that they add up to the result cannot be
        proved. Another call brings them.
    callback
        Called with (bytes that are there, bytes of all), from several threads but one at a time.

    Raises
    ------
    RunError
        The run is not finished, an object of it is damaged (it is named, and not put in place), its
        list of objects is not one of such a run, or `dest` holds something else.
    StoreError
        The storage or the local disk refused; the same call goes on.
    """
    require_local(dest)
    source = Source.of(RunDirectory(place), segments)
    with LocalFolder(Path(dest)) as folder, local_errors(str(dest)):
        folder.require_space(source.missing(folder))
        return source.copy(folder, workers, callback)


def require_local(dest: Path) -> None:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(dest)):
        raise StoreError(
            f"'{dest}' is a URL, but runs are fetched to a local folder; give its path"
        )


@dataclass(frozen=True)
class Source:
    """A finished run, and what of it is to be copied.

    Attributes
    ----------
    directory
        The run.
    fingerprint
        Its own.
    text
        Its manifest, as it is stored.
    names
        All that the manifest lists.
    wanted
        Size and digest of what is to be copied, by name.
    left_out
        Segments that are not.
    """

    directory: RunDirectory
    fingerprint: str
    text: bytes
    names: frozenset[str]
    wanted: Mapping[str, Mapping[str, Any]]
    left_out: int

    @classmethod
    def of(
        cls, directory: RunDirectory, segments: bool, digest: str | None = None, lister: str = ""
    ) -> Source:
        """Look at a run, whose manifest must have this digest where an object (`lister`) lists one.

        Raises
        ------
        RunError
            It is not finished, or its manifest is not that of a whole run.
        """
        spec, manifest, extent = directory.finished()
        where, faults = f"{directory.url}/{MANIFEST}", manifest_faults(spec, manifest, extent)
        if faults:
            raise RunError(f"{where} is not one of a whole run: {'; '.join(faults[:3])}")
        text = directory.store.read(MANIFEST, most=MOST_JSON) or b"{}"
        if parse_json(text, MANIFEST) != manifest:
            raise RunError(f"{where} has just changed; run the same command again")
        if digest is not None and sha256(text) != digest:
            raise RunError(f"{where} is not what {lister} lists; was this member made again?")
        names, beginning = listed(manifest), f"{SEGMENTS}/"
        wanted = {n: entry for n, entry in names.items() if segments or not n.startswith(beginning)}
        left_out = 0 if segments else len(manifest["segments"])
        return cls(directory, spec["fingerprint"], text, frozenset(names), wanted, left_out)

    @property
    def total(self) -> int:
        """Bytes of all that is to be there beside the manifest."""
        return sum(int(entry["bytes"]) for entry in self.wanted.values())

    def missing(self, folder: LocalFolder) -> int:
        """Bytes that a folder still lacks; `RunError` where it holds something else."""
        _refuse_another_run(folder, self)
        there = sum(folder.there(name, entry) for name, entry in self.wanted.items())
        return self.total - there + len(self.text)

    def copy(self, folder: LocalFolder, workers: int, callback: Progress | None) -> Fetched:
        """Copy what is missing; the manifest comes last."""
        rest, copy = dict(self.wanted), _Copy(self.directory, folder, self.total, callback)
        copy.all({SPEC: rest.pop(SPEC)}, 1)  # first, so that the folder says whose it is
        copy.all(rest, workers)
        copy.kept += folder.put(MANIFEST, self.text)
        return Fetched(
            folder=folder.path,
            fingerprint=self.fingerprint,
            objects=len(self.wanted) + 1,
            bytes=self.total + len(self.text),
            kept=copy.kept,
            downloaded=copy.downloaded,
            left_out=self.left_out,
        )


def _refuse_another_run(folder: LocalFolder, source: Source) -> None:
    here = RunDirectory(str(folder.path))
    here.store.refuse_links(source.names)
    said = (here.read_json(SPEC) or {}).get("format")
    if said is not None and said not in {kind.format for kind in kinds()}:
        raise RunError(
            f"'{folder.path}' holds no run but something else (format {plain(str(said), 40)!r});"
            " give another folder"
        )
    if (
        here.store.size(SPEC) is not None
        and (found := here.spec()["fingerprint"]) != source.fingerprint
    ):
        raise RunError(
            f"'{folder.path}' holds another run ({found[:12]}..., not"
            f" {source.fingerprint[:12]}...); give another folder"
        )
    if (
        here.store.size(MANIFEST) is not None
        and here.store.read(MANIFEST, most=MOST_JSON) != source.text
    ):
        raise RunError(
            f"'{folder.path}/{MANIFEST}' is not that of '{source.directory.url}'; give another"
            " folder, or delete it"
        )
    for name in [*here.store.list(SEGMENTS), *here.store.list(RESULT)]:
        if name not in source.names:
            raise RunError(
                f"'{folder.path}/{plain(name, 200)}' is not of this run; move it away, or give"
                " another folder"
            )


def folders_above(folder: str) -> set[str]:
    """A folder and all that it lies in."""
    parts = folder.split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}


class _Copy:
    """Objects on their way from a run to a folder."""

    def __init__(
        self, directory: RunDirectory, folder: LocalFolder, total: int, callback: Progress | None
    ) -> None:
        self._directory, self._folder, self._total, self._callback = (
            directory,
            folder,
            total,
            callback,
        )
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._done = 0
        self.kept = self.downloaded = 0

    def all(self, wanted: Mapping[str, Mapping[str, Any]], workers: int) -> None:
        """Copy objects; the first failure stops the others between two chunks, and what they
        have stays.
        """
        with ThreadPoolExecutor(max(1, workers), thread_name_prefix="fetch") as pool:
            try:
                for future in as_completed(
                    [pool.submit(self._one, name, entry) for name, entry in wanted.items()]
                ):
                    future.result()
            except BaseException:  # Ctrl-C, too
                self._stop.set()
                self._directory.store.patience = 0.0
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _one(self, name: str, entry: Mapping[str, Any]) -> None:
        if self._stop.is_set():
            return
        with local_errors(f"{self._folder.path}/{name}"):
            if self._folder.has(name):
                self._kept(name, entry)
                return
            found = self._directory.store.size(name)
            if found != entry["bytes"]:
                said = "is missing" if found is None else f"is damaged: {found:,} bytes"
                raise RunError(
                    f"{self._directory.url}/{name} {said}; {MANIFEST} says {entry['bytes']:,}."
                    " Nothing of it was put in place"
                )
            for resume in (True, False):  # a part that was damaged here must not damage the whole
                digest, resumed = self._download(name, entry, resume)
                if digest in (entry["sha256"], None) or not resumed:
                    break
            if digest is None:
                return
            if digest != entry["sha256"]:
                raise RunError(
                    f"{self._directory.url}/{name} is damaged: SHA-256 {digest[:12]}...; {MANIFEST}"
                    f" says {entry['sha256'][:12]}.... Nothing of it was put in place"
                )

    def _kept(self, name: str, entry: Mapping[str, Any]) -> None:
        """Make sure that a file which is there is the object."""
        digest, at = hashlib.sha256(), 0
        with self._folder.open(name, os.O_RDONLY) as file:
            if os.fstat(file).st_size == entry["bytes"]:
                for chunk in _chunks(file):
                    if self._stop.is_set():
                        return
                    digest.update(chunk)
                    at += len(chunk)
                    self._tell(len(chunk))
        if at != entry["bytes"] or digest.hexdigest() != entry["sha256"]:
            raise RunError(
                f"'{self._folder.path}/{name}' is there with other content than the run's; delete"
                " it, or give another folder"
            )
        self._folder.remove(_temporary(name, entry))
        with self._lock:
            self.kept += 1

    def _download(
        self, name: str, entry: Mapping[str, Any], resume: bool
    ) -> tuple[str | None, bool]:
        """The digest (None where all is being stopped) and whether a part was there already;
        the right bytes get their name.
        """
        temporary, digest, at = _temporary(name, entry), hashlib.sha256(), 0
        if not resume or self._folder.there(name, entry) == 0:
            self._folder.remove(temporary)
        with self._folder.open(temporary, os.O_RDWR | os.O_CREAT) as file:
            for chunk in _chunks(file):
                digest.update(chunk)
                at += len(chunk)
            resumed = at > 0
            self._tell(at)
            for chunk in self._directory.store.chunks(name, at) if at < entry["bytes"] else ():
                if self._stop.is_set():
                    return None, resumed
                _write(file, chunk)
                digest.update(chunk)
                at += len(chunk)
                self._tell(len(chunk), downloaded=len(chunk))
                if at > entry["bytes"]:
                    break
            os.fsync(file)
        if (at, digest.hexdigest()) == (entry["bytes"], entry["sha256"]):
            self._folder.rename(temporary, name)
        else:
            self._folder.remove(temporary)
            self._tell(-at)
        return digest.hexdigest(), resumed

    def _tell(self, done: int, downloaded: int = 0) -> None:
        with self._lock:
            self._done += done
            self.downloaded += downloaded
            if done and self._callback is not None:
                self._callback(self._done, self._total)


def _temporary(name: str, entry: Mapping[str, Any]) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{TEMPORARY}{entry['sha256'][:32]}-{last}"


def _chunks(file: int) -> Iterator[bytes]:
    while chunk := os.read(file, CHUNK_BYTES):
        yield chunk


def _write(file: int, data: bytes) -> None:
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

    def there(self, name: str, entry: Mapping[str, Any]) -> int:
        """Bytes of an object that are there, under its name or on their way."""
        for at in (name, _temporary(name, entry)):
            found = self._stat(at)
            if (
                found is not None
                and stat.S_ISREG(found.st_mode)
                and found.st_nlink == 1
                and found.st_size <= entry["bytes"]
            ):
                return found.st_size
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
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EISDIR, "")
            if found.st_nlink > 1 and flags & os.O_RDWR:
                raise OSError(errno.EMLINK, "")
            yield file
        finally:
            os.close(file)

    def put(self, name: str, data: bytes) -> bool:
        """Write a small file once all others are safe on the disk; returns whether it was there
        already.
        """
        entry = {"sha256": sha256(data)}
        with local_errors(f"{self.path}/{name}"):
            for descriptor in self._folders.values():
                with contextlib.suppress(OSError):  # some file systems sync no folders
                    os.fsync(descriptor)
            if self.has(name):  # and is the same: that was looked at before
                return True
            temporary = _temporary(name, entry)
            self.remove(temporary)
            with self.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL) as file:
                _write(file, data)
                os.fsync(file)
            self.rename(temporary, name)
            with contextlib.suppress(OSError):
                os.fsync(self._folders[""])
        return False

    def rename(self, old: str, new: str) -> None:
        (folder, last), (_, final) = self._at(old), self._at(new)
        os.rename(last, final, src_dir_fd=folder, dst_dir_fd=folder)

    def remove(self, name: str) -> None:
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
