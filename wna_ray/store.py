"""Objects under one URL: read, list, and two ways to write, both atomic.

``create`` puts an object only where there is none (the first writer wins, all others learn that they lost);
``replace`` puts it whatever was there. A reader sees a whole object or none. On a local file system that takes a
temporary file and a hard link or a rename; elsewhere it is one PUT by fsspec, conditional for ``create``.

What may pass (slow-down, server errors, timeouts, lost connections) is tried again with growing, random pauses until
the store's patience ends. What will not pass (credentials, permission, a missing bucket) is one sentence at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wna_ray.errors import StoreError

TEMPORARY = ".tmp-"
ABANDONED_SECONDS = 3600.0
PATIENCE_SECONDS = 60.0  # a storage server that restarts is back in a third of this
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0
CHUNK_BYTES = 8 << 20
MOST_BYTES = 5_000_000_000  # of an object: the most that one PUT takes on S3
PROBE = "probe"
CONDITIONAL = ("s3", "s3a", "memory")
"""Protocols whose ``mode="create"`` is known to be one conditional request; others look first, then write, as two writers can at once."""

_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*")
_PASSING_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict"}
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_SENTENCES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; correct the credentials",
    "InvalidAccessKeyId": "the server does not know this access key; correct the credentials",
    "ExpiredToken": "the credentials have expired; renew them, then run the same command again",
    "InvalidToken": "the session token is not valid; renew the credentials",
    "AccessDenied": "no permission; ask for the right to read, list and write there (s3:GetObject, s3:ListBucket, s3:PutObject)",
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
        S3 only: URL of the server. By default ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, else AWS.
    single_writer
        ``create`` may look first and write then: for stores that ignore conditions, when nobody else writes.
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
        self.url = asked.url if asked.url.endswith("://") else asked.url.rstrip("/") or "/"
        self.single_writer = asked.single_writer
        self.patience = PATIENCE_SECONDS
        self.retries = 0
        """Requests that were tried again."""
        self.written = 0
        """Bytes."""
        self._protocol = self.url.partition("://")[0] if "://" in self.url else "file"
        self.endpoint = _endpoint(asked.endpoint) if self._protocol in ("s3", "s3a") else None
        try:
            # Listings must be fresh: other processes write here.
            options = _s3_options(self.endpoint) if self._protocol in ("s3", "s3a") else {}
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **options)
        except Exception as error:  # each protocol has errors of its own
            raise StoreError(f"'{self.url}': no storage of that kind ({error}); give a path or an fsspec URL") from None
        self._local = isinstance(self._fs, LocalFileSystem)
        if options:
            self._fs.retries = 1  # all trying again is done here, where it is counted and ends

    @property
    def place(self) -> Place:
        """The place in a form that means the same in every process of this machine: local paths are absolute."""
        return Place(self._root if self._local else self.url, self.endpoint, self.single_writer)

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """The bytes of an object, or None where there is none; `StoreError` where it has more than `most`."""
        path = self._path(name)

        def get() -> bytes | None:
            try:
                if self._local:
                    return _read_file(path, name, most)
                if most is not None and int(self._fs.size(path) or 0) > most:
                    raise StoreError(_too_large(name, int(self._fs.size(path)), most))
                return bytes(self._fs.cat_file(path))
            except (FileNotFoundError, NotADirectoryError) as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

        return self._patiently("read", name, get)

    def size(self, name: str) -> int | None:
        """Bytes of an object, or None where there is none."""
        path = self._path(name)

        def look() -> int | None:
            try:
                return os.lstat(path).st_size if self._local else int(self._fs.size(path) or 0)
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._patiently("read", name, look)

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of an object from `start` on, 8 MiB at a time; nothing where there is no object."""
        size = self.size(name) or 0
        path = self._path(name)
        for a in range(start, size, CHUNK_BYTES):
            b = min(a + CHUNK_BYTES, size)

            def get(a: int = a, b: int = b) -> bytes:
                return _read_part(path, name, a, b) if self._local else bytes(self._fs.cat_file(path, start=a, end=b))

            yield self._patiently("read", name, get)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists; returns whether it now is this one.

        After a lost answer the second try finds the object of the first: the very same bytes count as written.
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
        """Names (below the URL) and sizes of all objects in a folder. Symbolic links are named, never followed."""
        root = self._path(prefix) if prefix else self._root

        def look() -> dict[str, int]:
            try:
                return dict(_walk(root)) if self._local else {p: int(i["size"] or 0) for p, i in self._fs.find(root, detail=True).items()}
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return {}

        start = len(self._root.rstrip("/")) + 1
        names = {path[start:]: size for path, size in sorted(self._patiently("list", prefix, look).items())}
        return {name: size for name, size in names.items() if name and not name.rpartition("/")[2].startswith(TEMPORARY)}

    def require_conditions(self) -> None:
        """Make sure that ``create`` is safe with several writers; `StoreError` names a store that ignores conditions.

        The proof is a small object, ``probe``: of two conditional writes of different bytes, one must lose.
        """
        if self._local or self.single_writer:
            return
        if self._protocol not in CONDITIONAL:
            why = f"{self._protocol}:// is not known to write on a condition"
        elif not all(self.create(PROBE, f"Conditional writes were tried with this object ({uuid.uuid4()}).\n".encode()) for _ in "ab"):
            return
        else:
            why = f"the server at {self.endpoint or self._protocol} ignores If-None-Match: it wrote over an object that was there"
        raise StoreError(
            f"'{self.url}': {why}. Two drivers could mix their work there and neither would notice; use a store that honours conditions "
            "(AWS S3, Ceph, MinIO, a local disk), or say --single-writer and see to it that only one driver runs"
        )

    def sweep(self) -> None:
        """Delete temporary files that killed writers left behind: those too old to belong to a living one."""
        if self._local:
            for path in Path(self._root).rglob(f"{TEMPORARY}*"):
                with contextlib.suppress(OSError):
                    if time.time() - path.lstat().st_mtime > ABANDONED_SECONDS:
                        path.unlink()

    def _path(self, name: str) -> str:
        if not all(_PART.fullmatch(part) for part in name.split("/")):
            raise StoreError(f"{name[:200]!r} is no name of an object: letters, digits and ._=- between slashes were expected")
        return f"{self._root.rstrip('/')}/{name}"

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
            raise StoreError(f"{len(data):,} bytes are more than one PUT takes ({MOST_BYTES:,}); give fewer responses or pixels")
        if self._protocol in ("s3", "s3a"):
            options["chunksize"] = MOST_BYTES  # never in parts: conditions do not hold for those everywhere
        self._fs.pipe_file(path, data, **options)

    def _patiently(self, verb: str, name: str, call: Callable[[], _T]) -> _T:
        """Call, and call again while the fault is one that may pass."""
        begin, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return call()
            except StoreError:
                raise
            except Exception as error:  # storage libraries raise of every family
                passing = not self._local and _may_pass(error)
                if not passing or time.monotonic() - begin + pause > self.patience:
                    raise self._refused(verb, name, error, passing, time.monotonic() - begin) from error
                if pause == FIRST_PAUSE:
                    _log.warning("cannot %s '%s/%s' now (%s); trying for up to %.0f s", verb, self.url, name, _reason(error), self.patience)
            self.retries += 1
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _refused(self, verb: str, name: str, error: Exception, passing: bool, seconds: float) -> StoreError:
        number = error.errno if isinstance(error, OSError) else None
        hint = "check that the place exists and that you may use it"
        if passing:
            hint = f"tried for {seconds:.0f} s; when the storage is well again, run the same command again"
        elif sentence := _sentence(error):
            hint = sentence
        elif number in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, then run the same command again"
        elif number in (errno.EPERM, errno.ENOTSUP) and self._local:
            hint = "the file system must allow hard links (they make a commit atomic), and you must have the right to write"
        where = f" (server {self.endpoint})" if self.endpoint else ""
        refusal = StoreError(
            f"cannot {verb} '{self.url}{'/' + name if name else ''}'{where}: {_reason(error)}; {hint}. What was committed before is safe"
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
        with contextlib.suppress(OSError):  # the name itself, durable; some file systems cannot sync a folder
            folder = os.open(os.path.dirname(final), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return True


def _endpoint(asked: str | None) -> str | None:
    return asked or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _s3_options(endpoint: str | None) -> dict[str, Any]:
    """For s3fs. Other servers than AWS want their name in no host name, and know no checksums in trailers."""
    config: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
    if endpoint is None:
        return {"config_kwargs": config}
    checksums: Literal["when_required"] = "when_required"
    config |= {"s3": {"addressing_style": "path"}, "request_checksum_calculation": checksums, "response_checksum_validation": checksums}
    return {"endpoint_url": endpoint, "config_kwargs": config}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> dict[str, Any]:
    """What the server answered, as botocore reads it; s3fs keeps it in the cause of its own errors."""
    return next((r for e in _causes(error) if isinstance(r := getattr(e, "response", None), dict)), {})


def _status(error: BaseException) -> int | None:
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _may_pass(error: Exception) -> bool:
    """Whether the same request may go well a little later."""
    if _response(error):
        return _code(error) in _PASSING_CODES or _status(error) in _PASSING_STATUS
    from aiohttp import ClientError
    from botocore.exceptions import HTTPClientError
    from botocore.parsers import ResponseParserError

    passing = (ConnectionError, TimeoutError, ClientError, HTTPClientError, ResponseParserError)
    return any(isinstance(e, passing) for e in _causes(error))


def _sentence(error: Exception) -> str | None:
    for cause in _causes(error):
        if type(cause).__name__ in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
            return "give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role (on every worker, too)"
    return _SENTENCES.get(_code(error))


def _reason(error: Exception) -> str:
    """One line."""
    code = _code(error)
    number = error.errno if isinstance(error, OSError) else None
    text = os.strerror(number) if number and not error.__cause__ else str(getattr(error, "strerror", None) or error)
    first = " ".join(text.split())[:300] or type(error).__name__
    return f"{code}: {first}" if code and code not in first else first


def _too_large(name: str, size: int, most: int) -> str:
    return f"'{name}' has {size:,} bytes, but at most {most:,} were expected; it is not of this run, or damaged"


def _open_file(path: str, name: str) -> int:
    """A descriptor of a regular file; links, devices and pipes that somebody put there are refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"'{name}' is a symbolic link, which no run contains; delete it") from None
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


def _walk(root: str) -> Iterator[tuple[str, int]]:
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):  # a temporary file that has just become an object
                yield path, os.lstat(path).st_size


def _temporary_file(final: str, data: bytes) -> str:
    """A complete, flushed file beside the final one."""
    folder = Path(final).parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # Ctrl-C, too
        temporary.unlink(missing_ok=True)
        raise
    return str(temporary)


def write_files(folder: Path, files: Mapping[str, bytes], option: str) -> None:
    """Write files into a local folder; `StoreError`, which names the command's `option` for another folder, where that cannot be done."""
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except OSError as error:
        raise StoreError(f"cannot write to '{folder}' ({error.strerror}); give another {option}") from None
