"""Objects under one URL: read, list, and two ways to write, both atomic.

``create`` puts an object only where there is none (the first writer wins, all others learn that they lost);
``replace`` puts it whatever was there. A reader sees a whole object or none. On a local file system that takes a
temporary file and a hard link or a rename; elsewhere it is one PUT by fsspec, conditional for ``create``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wna_ray.errors import StoreError

TEMPORARY = ".tmp-"
ABANDONED_SECONDS = 3600.0


class Store:
    """Objects under `url`: a local path or any fsspec URL.

    Parameters
    ----------
    url
        ``runs/demo``, ``s3://bucket/run``, ``memory://run``, ...
    """

    def __init__(self, url: str) -> None:
        self.url = url if url.endswith("://") else url.rstrip("/") or "/"
        try:
            # Listings must be fresh: other processes write here.
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        except Exception as error:  # each protocol has errors of its own
            raise StoreError(f"'{url}': no storage of that kind ({error}); give a path or an fsspec URL") from None
        self._local = isinstance(self._fs, LocalFileSystem)

    @property
    def location(self) -> str:
        """The URL in a form that means the same in every process of this machine: local paths are absolute."""
        return self._root if self._local else self.url

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, or None where there is none."""
        try:
            return bytes(self._fs.cat_file(self._path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            raise self._refused("read", name, error) from error

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists; returns whether this call wrote it."""
        try:
            if self._local:
                return self._create_file(name, data)
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except Exception as error:
                if _lost_race(error):
                    return False
                raise
        except Exception as error:
            raise self._refused("write", name, error) from error
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, whatever was there."""
        try:
            if self._local:
                os.replace(self._temporary_file(name, data), self._path(name))
            else:
                self._fs.pipe_file(self._path(name), data)
        except Exception as error:
            raise self._refused("write", name, error) from error

    def list(self, prefix: str = "") -> dict[str, int]:
        """Names (below the URL) and sizes of all objects whose name starts with `prefix`, a folder."""
        try:
            found = self._fs.find(self._path(prefix) if prefix else self._root, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise self._refused("list", prefix, error) from error
        start = len(self._root.rstrip("/")) + 1
        names = {path[start:]: int(info["size"] or 0) for path, info in sorted(found.items())}
        return {name: size for name, size in names.items() if not name.rpartition("/")[2].startswith(TEMPORARY)}

    def sweep(self) -> None:
        """Delete temporary files that killed writers left behind: those too old to belong to a living one."""
        if self._local:
            for path in Path(self._root).rglob(f"{TEMPORARY}*"):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                        path.unlink()

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _refused(self, verb: str, name: str, error: Exception) -> StoreError:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number and not error.__cause__ else str(error) or type(error).__name__
        hint = "check that the place exists and that you may use it"
        if number in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, then run the same command again"
        elif number in (errno.EPERM, errno.ENOTSUP) and self._local:
            hint = "the file system must allow hard links (they make a commit atomic), and you must have the right to write"
        return StoreError(f"cannot {verb} '{self.url}/{name}': {reason}; {hint}. What was committed before is safe")

    def _temporary_file(self, name: str, data: bytes) -> str:
        """A complete, flushed file beside the final one."""
        final = Path(self._path(name))
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # Ctrl-C, too
            temporary.unlink(missing_ok=True)
            raise
        return str(temporary)

    def _create_file(self, name: str, data: bytes) -> bool:
        final = self._path(name)
        if os.path.lexists(final):
            return False
        temporary = self._temporary_file(name, data)
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


def _lost_race(error: BaseException | None) -> bool:
    """Whether a conditional write failed because the object exists.

    fsspec says FileExistsError; S3 servers answer 412 or (two writers at once) 409, which s3fs passes on as OSErrors.
    """
    while error is not None:
        response = getattr(error, "response", None)
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        if isinstance(error, FileExistsError) or status in (409, 412):
            return True
        error = error.__cause__ or error.__context__
    return False
