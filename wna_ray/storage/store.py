"""Objects under one URL: read, list, and two ways to write, both atomic.

``create`` puts an object only where there is none (the first writer wins, all others learn that
they lost); ``replace`` puts it whatever was there. A reader sees a whole object or none. On a local
file system that takes a temporary file and a hard link or a rename; elsewhere it is one PUT by
fsspec, conditional for ``create``.

What may pass (slow-down, server errors, timeouts, lost connections) is tried again with growing,
random pauses until the store's patience ends. What will not pass (credentials, permission, a
missing bucket) is one sentence at once.

Three things hold of every call. A folder that cannot be listed is an error, never an empty folder:
only one that is not there is empty. Of a local place, no folder on the way to an object may be a
symbolic link, which would lead elsewhere; the place itself may be one, since the user has named it.
And a URL that is shown tells no secrets.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wna_ray.errors import StoreError
from wna_ray.files import fault_of
from wna_ray.storage import local
from wna_ray.storage.faults import (
    is_absent,
    may_pass,
    no_memory,
    reason,
    status,
    too_large,
    way_out,
)
from wna_ray.storage.s3 import S3, s3_endpoint, s3_options
from wna_ray.text import printable, redacted

PATIENCE_SECONDS = 60.0  # a storage server that restarts is back in a third of this
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0
CHUNK_BYTES = 8 << 20
MOST_BYTES = 5_000_000_000  # of an object: the most that one PUT takes on S3
PROBE = "probe"
CONDITIONAL = (*S3, "memory")
"""Protocols whose ``mode="create"`` is known to be one conditional request; others look first,
then write, as two writers can at once.
"""
FLAT = (*S3, "memory")
"""Protocols whose own ``find`` tells its failures; fsspec's general one leaves out what it
cannot list.
"""
MOST_DEPTH = 64  # folders in each other: a web server may answer for every path

_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*")
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """Where objects are, in a form that can be sent to other processes.

    Attributes
    ----------
    url
        A path or any fsspec URL: ``runs/demo``, ``s3://bucket/run``, ``memory://run``, ...
    endpoint
        S3 only: URL of the server. By default ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, else
        AWS.
    single_writer
        ``create`` may look first and write then: for stores that ignore conditions, when nobody
        else writes.
    """

    url: str
    endpoint: str | None = None
    single_writer: bool = False


class Store:
    """Objects at a place.

    Parameters
    ----------
    place
        A `Place`, or its URL.
    """

    def __init__(self, place: Place | str) -> None:
        if isinstance(place, str):
            place = Place(place)
        self._url = place.url if place.url.endswith("://") else place.url.rstrip("/") or "/"
        self.url = redacted(self._url)
        """For people, without secrets; `place` has the address."""
        if (fault := fault_of(self._url)) is not None:
            raise StoreError(fault)
        self.single_writer = place.single_writer
        self.patience = PATIENCE_SECONDS
        self.retries = 0
        """Requests that were tried again."""
        self.written = 0
        """Bytes."""
        self._protocol = self._url.partition("://")[0] if "://" in self._url else "file"
        self.endpoint = s3_endpoint(place.endpoint) if self._protocol in S3 else None
        try:
            # Listings must be fresh: other processes write here.
            options = s3_options(self.endpoint) if self._protocol in S3 else {}
            self._fs, self._root = fsspec.core.url_to_fs(
                self._url, use_listings_cache=False, **options
            )
        except Exception as error:  # each protocol has errors of its own
            raise StoreError(
                f"'{self.url}': no storage of that kind ({error}); give a path or an fsspec URL"
            ) from None
        self._local = isinstance(self._fs, LocalFileSystem)
        if options:
            self._fs.retries = 1  # all trying again is done here, where it is counted and ends

    @property
    def place(self) -> Place:
        """The place in a form that means the same in every process of this machine: local paths
        are absolute.
        """
        return Place(self._root if self._local else self._url, self.endpoint, self.single_writer)

    def give_up_after(self, seconds: float) -> None:
        """Have patience for so long only, from now on, with what may pass."""
        self.patience = seconds

    def below(self, name: str) -> Place:
        """The place of a folder; `StoreError` where a folder on the way, or it itself, is a
        link.
        """
        self._path(f"{name}/x")
        place = self.place
        return replace(place, url=f"{place.url}{'' if place.url.endswith('/') else '/'}{name}")

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """The bytes of an object, or None where there is none; `StoreError` where it has more
        than `most`.
        """
        path = self._path(name)

        def get() -> bytes | None:
            try:
                if self._local:
                    return local.read_file(path, name, most)
                if most is not None and int(self._fs.size(path) or 0) > most:
                    raise too_large(name, int(self._fs.size(path)), most)
                return bytes(self._fs.cat_file(path))
            except (FileNotFoundError, NotADirectoryError) as error:
                if not is_absent(error):
                    raise
                return None

        return self._patiently("read", name, get)

    def size(self, name: str) -> int | None:
        """Bytes of an object, or None where there is none."""
        path = self._path(name)

        def look() -> int | None:
            try:
                return os.lstat(path).st_size if self._local else int(self._fs.size(path) or 0)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not is_absent(error):
                    raise
                return None

        return self._patiently("read", name, look)

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of an object from `start` on, 8 MiB at a time; nothing where there is no
        object.
        """
        size = self.size(name) or 0
        path = self._path(name)
        for a in range(start, size, CHUNK_BYTES):
            b = min(a + CHUNK_BYTES, size)

            def get(a: int = a, b: int = b) -> bytes:
                return (
                    local.read_part(path, name, a, b)
                    if self._local
                    else bytes(self._fs.cat_file(path, start=a, end=b))
                )

            yield self._patiently("read", name, get)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists; returns whether it now is this one.

        After a lost answer the second try finds the object of the first: the very same bytes count
        as written.
        """
        path = self._path(name)

        def put() -> bool:
            if self._local:
                won = local.create_file(path, data)
            elif self.single_writer and self._fs.exists(path):
                won = False
            else:
                won = self._put_new(path, data)
            return won

        won = self._patiently("write", name, put) or self.read(name) == data
        self.written += won * len(data)
        return won

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, whatever was there."""
        path = self._path(name)

        def put() -> None:
            if self._local:
                os.replace(local.temporary_file(path, data), path)
            else:
                self._put(path, data)

        self._patiently("write", name, put)
        self.written += len(data)

    def discard(self, name: str) -> None:
        """Delete an object that nobody needs any more; where that is not permitted, it stays."""
        path = self._path(name)

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path) if self._local else self._fs.rm_file(path)

        with contextlib.suppress(StoreError):
            self._patiently("delete", name, remove)

    def list(self, prefix: str = "") -> dict[str, int]:
        """Names (below the URL) and sizes of all objects in a folder; none where there is no
        folder.

        Symbolic links are named, never followed.

        Raises
        ------
        StoreError
            The folder, or one in it, cannot be listed: it is named.
        """
        if prefix:
            self._path(f"{prefix}/x")  # refuses what leads elsewhere
        sizes = self._flat(prefix) if self._protocol in FLAT else dict(self._walk(prefix))
        return {
            name: sizes[name]
            for name in sorted(sizes)
            if name and not name.rpartition("/")[2].startswith(local.TEMPORARY)
        }

    def _flat(self, prefix: str) -> dict[str, int]:
        """What a store that knows no folders tells in one answer."""
        root = self._at(prefix)

        def look() -> dict[str, int]:
            try:
                infos = self._fs.find(root, detail=True)
                return {path: int(info["size"] or 0) for path, info in infos.items()}
            except FileNotFoundError as error:
                if not is_absent(error):
                    raise
                return {}

        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: size for path, size in self._patiently("list", prefix, look).items()}

    def _walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names and sizes, temporary files included, one folder after the other."""
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            path = self._at(folder)
            if folder.count("/") >= MOST_DEPTH:
                raise StoreError(
                    f"'{self.url}/{folder[:200]}...' has folders in each other without an end"
                )

            def look(path: str = path) -> list[local.Entry]:
                try:
                    if self._local:
                        return local.scan(path)
                    return _listing(self._fs.ls(path, detail=True), path)
                except FileNotFoundError as error:
                    if not is_absent(error):
                        raise
                    return []  # it is not there, or not any more

            for last, size in self._patiently("list", folder, look):
                name = f"{folder}/{last}" if folder else last
                if size is None:
                    waiting.append(name)
                else:
                    yield name, size

    def require_conditions(self) -> None:
        """Make sure that ``create`` is safe with several writers; `StoreError` names a store that
        ignores conditions.

        The proof is a small object, ``probe``: of two conditional writes of different bytes, one
        must lose.
        """
        if self._local or self.single_writer:
            return
        if self._protocol not in CONDITIONAL:
            why = f"{self._protocol}:// is not known to write on a condition"
        elif not all(
            self.create(
                PROBE,
                f"Conditional writes were tried with this object ({uuid.uuid4()}).\n".encode(),
            )
            for _ in "ab"
        ):
            return
        else:
            why = (
                f"the server at {self.endpoint or self._protocol} ignores If-None-Match: it wrote"
                " over an object that was there"
            )
        raise StoreError(
            f"'{self.url}': {why}. Two drivers could mix their work there and neither would notice;"
            " use a store that honours conditions (AWS S3, Ceph, MinIO, a local disk), or say"
            " --single-writer and see to it that only one driver runs"
        )

    def sweep(self) -> None:
        """Delete temporary files that killed writers left behind.

        A writer of this machine is known by its process: its file goes as soon as it is no more,
        and stays as long as it lives. Of other writers, files go that are too old for a living one.

        Raises
        ------
        StoreError
            A folder cannot be listed. A file that may not be deleted stays.
        """
        for name, _ in self._walk("") if self._local else ():
            path, last = self._at(name), name.rpartition("/")[2]
            if last.startswith(local.TEMPORARY) and local.is_abandoned(path):
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def refuse_links(self, names: Iterable[str]) -> None:
        """`StoreError` where a folder on the way to one of these objects is a symbolic link."""
        for folder in {name.rpartition("/")[0] for name in names} - {""}:
            self._refuse_link(f"{folder}/")

    def _path(self, name: str) -> str:
        if not all(_PART.fullmatch(part) for part in name.split("/")):
            raise StoreError(
                f"{name[:200]!r} is no name of an object: letters, digits and ._=- between slashes"
                " were expected"
            )
        self._refuse_link(name)
        return self._at(name)

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def _refuse_link(self, name: str) -> None:
        """`StoreError` where a folder on the way to a local name, up to its last slash, is a
        link.
        """
        folder = local.first_link(self._root, name) if self._local else None
        if folder is not None:
            advice = "which would lead elsewhere; put the folder itself there"
            raise StoreError(f"'{self.url}/{folder}' is a symbolic link, {advice}")

    def _put_new(self, path: str, data: bytes) -> bool:
        try:
            self._put(path, data, mode="create")
        except Exception as error:
            if status(error) == 412 or isinstance(error, FileExistsError):
                return False
            raise
        return True

    def _put(self, path: str, data: bytes, **options: Any) -> None:
        if len(data) > MOST_BYTES:
            raise StoreError(
                f"{len(data):,} bytes are more than one PUT takes ({MOST_BYTES:,}); give fewer"
                " responses or pixels"
            )
        if self._protocol in S3:
            # Never in parts: conditions do not hold for those everywhere.
            options["chunksize"] = MOST_BYTES
        self._fs.pipe_file(path, data, **options)

    def _patiently(self, verb: str, name: str, call: Callable[[], _T]) -> _T:
        """Call, and call again while the fault is one that may pass."""
        begin, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return call()
            except StoreError:
                raise
            except MemoryError:
                raise no_memory(f"'{self.url}/{name}'") from None
            except Exception as error:  # storage libraries raise of every family
                passing, seconds = not self._local and may_pass(error), time.monotonic() - begin
                if not passing or seconds + pause > self.patience:
                    refusal = self._refused(verb, name, error, seconds if passing else None)
                    raise refusal from error
                if pause == FIRST_PAUSE:
                    fault = f"cannot {verb} '{self.url}/{name}' now ({reason(error)})"
                    trying = f"trying for up to {self.patience:.0f} s"
                    _log.warning("%s", printable(f"{fault}; {trying}"))
            self.retries += 1
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _refused(self, verb: str, name: str, error: Exception, seconds: float | None) -> StoreError:
        """The error for the user; `seconds` is for how long a fault that may pass was waited
        out.
        """
        advice = (
            way_out(error, verb, self._local)
            if seconds is None
            else f"tried for {seconds:.0f} s; when the storage is well again, run the same command"
            " again"
        )
        where = f" (server {self.endpoint})" if self.endpoint else ""
        refusal = StoreError(
            f"cannot {verb} '{self.url}{'/' + name if name else ''}'{where}: {reason(error)};"
            f" {advice}. What was committed before is safe"
        )
        refusal.passing = seconds is not None
        return refusal


def _listing(infos: Iterable[Mapping[str, Any]], folder: str) -> list[local.Entry]:
    """What fsspec tells of a folder."""
    entries = list[local.Entry]()
    for info in infos:
        path = str(info["name"]).rstrip("/")
        if path.strip("/") != folder.strip("/"):  # some tell of the folder itself, too
            is_folder = info["type"] == "directory"
            entries.append((path.rpartition("/")[2], None if is_folder else int(info["size"] or 0)))
    return entries
