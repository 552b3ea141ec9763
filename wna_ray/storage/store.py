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
import errno
import hashlib
import logging
import os
import random
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wna_ray import processes as process
from wna_ray.errors import StoreError
from wna_ray.files import fault_of
from wna_ray.text import printable, redacted

TEMPORARY = ".tmp-"
ABANDONED_SECONDS = 3600.0
PATIENCE_SECONDS = 60.0  # a storage server that restarts is back in a third of this
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0
CHUNK_BYTES = 8 << 20
MOST_BYTES = 5_000_000_000  # of an object: the most that one PUT takes on S3
PROBE = "probe"
CONDITIONAL = ("s3", "s3a", "memory")
"""Protocols whose ``mode="create"`` is known to be one conditional request; others look first,
then write, as two writers can at once.
"""
FLAT = ("s3", "s3a", "memory")
"""Protocols whose own ``find`` tells its failures; fsspec's general one leaves out what it
cannot list.
"""
MOST_DEPTH = 64  # folders in each other: a web server may answer for every path

_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*")
_WRITER = re.compile(
    r"\.tmp-([0-9a-f]{12})-([0-9]{1,10})-([0-9]{1,20})-[0-9a-f]{32}"
)  # as `_writer` says
_PASSING_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "ConditionalRequestConflict",
}
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_SENTENCES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; correct the credentials",
    "InvalidAccessKeyId": "the server does not know this access key; correct the credentials",
    "ExpiredToken": "the credentials have expired; renew them, then run the same command again",
    "InvalidToken": "the session token is not valid; renew the credentials",
    "AccessDenied": (
        "no permission; ask for the right to read, list and write there (s3:GetObject,"
        " s3:ListBucket, s3:PutObject)"
    ),
    "403": "no permission, or wrong credentials",
    "RequestTimeTooSkewed": "this machine's clock is wrong by minutes; set it",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION",
}
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
        asked = place if isinstance(place, Place) else Place(place)
        self._url = asked.url if asked.url.endswith("://") else asked.url.rstrip("/") or "/"
        self.url = redacted(self._url)
        """For people, without secrets; `place` has the address."""
        if (fault := fault_of(self._url)) is not None:
            raise StoreError(fault)
        self.single_writer = asked.single_writer
        self.patience = PATIENCE_SECONDS
        self.retries = 0
        """Requests that were tried again."""
        self.written = 0
        """Bytes."""
        self._protocol = self._url.partition("://")[0] if "://" in self._url else "file"
        self.endpoint = _endpoint(asked.endpoint) if self._protocol in ("s3", "s3a") else None
        try:
            # Listings must be fresh: other processes write here.
            options = _s3_options(self.endpoint) if self._protocol in ("s3", "s3a") else {}
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
                    return _read_file(path, name, most)
                if most is not None and int(self._fs.size(path) or 0) > most:
                    raise StoreError(_too_large(name, int(self._fs.size(path)), most))
                return bytes(self._fs.cat_file(path))
            except (FileNotFoundError, NotADirectoryError) as error:
                if not _is_absent(error):
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
                if not _is_absent(error):
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
                    _read_part(path, name, a, b)
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
                won = self._create_file(path, data)
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
                os.replace(_temporary_file(path, data), path)
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
        found = self._found(prefix) if self._protocol in FLAT else dict(self._walk(prefix))
        names = (n for n in sorted(found) if n and not n.rpartition("/")[2].startswith(TEMPORARY))
        return {name: found[name] for name in names}

    def _found(self, prefix: str) -> dict[str, int]:
        """What a store that knows no folders tells in one answer."""
        root = self._at(prefix)

        def look() -> dict[str, int]:
            try:
                infos = self._fs.find(root, detail=True)
                return {path: int(info["size"] or 0) for path, info in infos.items()}
            except FileNotFoundError as error:
                if not _is_absent(error):
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

            def look(path: str = path) -> list[_Entry]:
                try:
                    if self._local:
                        return _scan(path)
                    return _listing(self._fs.ls(path, detail=True), path)
                except FileNotFoundError as error:
                    if not _is_absent(error):
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
            if last.startswith(TEMPORARY) and _is_abandoned(path, last):
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
        folders = name.split("/")[:-1] if self._local else []
        for depth in range(1, len(folders) + 1):
            folder = "/".join(folders[:depth])
            try:
                linked = stat.S_ISLNK(os.lstat(self._at(folder)).st_mode)
            except OSError:  # there is none, or whoever opens it is told why not
                return
            if linked:
                way_out = "which would lead elsewhere; put the folder itself there"
                raise StoreError(f"'{self.url}/{folder}' is a symbolic link, {way_out}")

    def _put_new(self, path: str, data: bytes) -> bool:
        try:
            self._put(path, data, mode="create")
        except Exception as error:
            if _status(error) == 412 or isinstance(error, FileExistsError):
                return False
            raise
        return True

    def _put(self, path: str, data: bytes, **options: Any) -> None:
        if len(data) > MOST_BYTES:
            raise StoreError(
                f"{len(data):,} bytes are more than one PUT takes ({MOST_BYTES:,}); give fewer"
                " responses or pixels"
            )
        if self._protocol in ("s3", "s3a"):
            options["chunksize"] = (
                MOST_BYTES  # never in parts: conditions do not hold for those everywhere
            )
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
                passing = not self._local and _may_pass(error)
                if not passing or time.monotonic() - begin + pause > self.patience:
                    raise self._refused(
                        verb, name, error, passing, time.monotonic() - begin
                    ) from error
                if pause == FIRST_PAUSE:
                    told = f"cannot {verb} '{self.url}/{name}' now ({_reason(error)})"
                    _log.warning("%s", printable(f"{told}; trying for up to {self.patience:.0f} s"))
            self.retries += 1
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _refused(
        self, verb: str, name: str, error: Exception, passing: bool, seconds: float
    ) -> StoreError:
        number = error.errno if isinstance(error, OSError) else None
        hint = "check that the place exists and that you may use it"
        if passing:
            hint = (
                f"tried for {seconds:.0f} s; when the storage is well again, run the same command"
                " again"
            )
        elif sentence := _sentence(error):
            hint = sentence
        elif number in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, then run the same command again"
        elif number in (errno.EIO, errno.ESTALE):
            hint = "the disk or the network file system failed; run the same command again"
        elif number in (errno.EPERM, errno.ENOTSUP) and self._local and verb == "write":
            hint = (
                "the file system must allow hard links (they make a commit atomic), and you must"
                " have the right to write"
            )
        where = f" (server {self.endpoint})" if self.endpoint else ""
        refusal = StoreError(
            f"cannot {verb} '{self.url}{'/' + name if name else ''}'{where}: {_reason(error)};"
            f" {hint}. What was committed before is safe"
        )
        refusal.passing = passing
        return refusal

    def _create_file(self, final: str, data: bytes) -> bool:
        if os.path.lexists(final):
            return False
        temporary = _temporary_file(final, data)
        try:
            os.link(temporary, final)  # atomic, and fails where the name is taken
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        with contextlib.suppress(
            OSError
        ):  # the name itself, durable; some file systems cannot sync a folder
            folder = os.open(os.path.dirname(final), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return True


def _endpoint(asked: str | None) -> str | None:
    return (
        asked or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    )


def _s3_options(endpoint: str | None) -> dict[str, Any]:
    """For s3fs. Other servers than AWS want their name in no host name, and know no checksums
    in trailers.
    """
    config: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"total_max_attempts": 1},
    }
    if endpoint is None:
        return {"config_kwargs": config}
    checksums: Literal["when_required"] = "when_required"
    config |= {
        "s3": {"addressing_style": "path"},
        "request_checksum_calculation": checksums,
        "response_checksum_validation": checksums,
    }
    return {"endpoint_url": endpoint, "config_kwargs": config}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> dict[str, Any]:
    """What the server answered, as botocore reads it; s3fs keeps it in the cause of its own
    errors.
    """
    return next(
        (r for e in _causes(error) if isinstance(r := getattr(e, "response", None), dict)), {}
    )


def _status(error: BaseException) -> int | None:
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _is_absent(error: OSError) -> bool:
    """Whether what was not found is not there, rather than its bucket, or a server that answers.

    fsspec's HTTP says of everything that goes wrong that there is no file.
    """
    causes = list(_causes(error))[1:]
    if not causes or _response(error):
        return _code(error) != "NoSuchBucket"
    from aiohttp import ClientError, ClientResponseError

    statuses = [cause.status for cause in causes if isinstance(cause, ClientResponseError)]
    if statuses:
        return statuses[0] in (404, 410)
    return not any(
        isinstance(cause, ClientError | ConnectionError | TimeoutError) for cause in causes
    )


def _may_pass(error: Exception) -> bool:
    """Whether the same request may go well a little later."""
    if _response(error):
        return _code(error) in _PASSING_CODES or _status(error) in _PASSING_STATUS
    from aiohttp import ClientError, ClientResponseError
    from botocore.exceptions import HTTPClientError
    from botocore.parsers import ResponseParserError

    statuses = [cause.status for cause in _causes(error) if isinstance(cause, ClientResponseError)]
    if statuses:
        return statuses[0] in _PASSING_STATUS
    passing = (ConnectionError, TimeoutError, ClientError, HTTPClientError, ResponseParserError)
    return any(isinstance(e, passing) for e in _causes(error))


def _sentence(error: Exception) -> str | None:
    for cause in _causes(error):
        if type(cause).__name__ in (
            "NoCredentialsError",
            "PartialCredentialsError",
            "CredentialRetrievalError",
        ):
            return (
                "give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the"
                " machine's role (on every worker, too)"
            )
    return _SENTENCES.get(_code(error))


def _reason(error: Exception) -> str:
    """One line."""
    code = _code(error)
    number = error.errno if isinstance(error, OSError) else None
    text = (
        os.strerror(number)
        if number and not error.__cause__
        else str(getattr(error, "strerror", None) or error)
    )
    first = " ".join(text.split())[:300] or type(error).__name__
    return f"{code}: {first}" if code and code not in first else first


def _too_large(name: str, size: int, most: int) -> str:
    return (
        f"'{name}' has {size:,} bytes, but at most {most:,} were expected; it is not of this run,"
        " or damaged"
    )


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


def _read_file(path: str, name: str, most: int | None) -> bytes:
    with open(_open_file(path, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise StoreError(_too_large(name, size, most))
        return file.read(size)


def _read_part(path: str, name: str, start: int, stop: int) -> bytes:
    with open(_open_file(path, name), "rb") as file:
        file.seek(start)
        return file.read(stop - start)


_Entry = tuple[str, int | None]  # a name, and its size; None of a folder


def _scan(folder: str) -> list[_Entry]:
    """What is in a local folder; links are no folders."""
    found = list[_Entry]()
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(
                FileNotFoundError
            ):  # a temporary file that has just become an object
                if entry.is_dir(follow_symlinks=False):
                    found.append((entry.name, None))
                else:
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
    return found


def _listing(infos: Iterable[Mapping[str, Any]], folder: str) -> list[_Entry]:
    """What fsspec tells of a folder."""
    found = list[_Entry]()
    for info in infos:
        path = str(info["name"]).rstrip("/")
        if path.strip("/") != folder.strip("/"):  # some tell of the folder itself, too
            is_folder = info["type"] == "directory"
            found.append((path.rpartition("/")[2], None if is_folder else int(info["size"] or 0)))
    return found


def no_memory(what: str) -> StoreError:
    """What to say of something that does not fit into memory: nothing is wrong with it."""
    way_out = "end what else runs here, or take a larger machine"
    refusal = StoreError(f"{what} does not fit into the memory that is free; {way_out}")
    refusal.passing = True
    return refusal


def _writer() -> str:
    """What a temporary file's name says of who writes it; "" where processes have no names."""
    place, _, started = process.name_of(os.getpid()).rpartition("/")
    return f"{_short(place)}-{os.getpid()}-{started}-" if place else ""


def _short(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def _is_abandoned(path: str, last: str) -> bool:
    """Whether nobody writes to a temporary file any more."""
    told, place = _WRITER.fullmatch(last), process.place()
    if told is not None and told[1] == _short(place):
        alive = process.lives(int(told[2]), f"{place}/{told[3]}")
        if alive is not None:
            return not alive
    try:
        return time.time() - os.lstat(path).st_mtime > ABANDONED_SECONDS
    except OSError:
        return False


def _temporary_file(final: str, data: bytes) -> str:
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
