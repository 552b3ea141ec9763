"""Objects under one URL: read, list, and two ways to write, both atomic.

``create`` puts an object only where there is none (the first writer wins, all others learn that they lost);
``replace`` puts it whatever was there. A reader sees a whole object or none. On a local file system that takes a
temporary file and a hard link or a rename; elsewhere it is one PUT by fsspec, conditional for ``create``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wna_ray.errors import StoreError

TEMPORARY = ".tmp-"


class Store:
    """Objects under `url`: a local path or any fsspec URL.

    Parameters
    ----------
    url
        ``runs/demo``, ``s3://bucket/run``, ``memory://run``, ...
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        try:
            # Listings must be fresh: other processes write here.
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        except (ValueError, ImportError) as error:
            raise StoreError(f"'{url}': no storage of that kind ({error}); give a path or an fsspec URL") from None
        self._local = isinstance(self._fs, LocalFileSystem)

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, or None where there is none."""
        try:
            return bytes(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused("read", name, error) from error

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists; returns whether this call wrote it."""
        try:
            if self._local:
                return self._create_file(name, data)
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        except OSError as error:
            raise self._refused("write", name, error) from error
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, whatever was there."""
        try:
            if self._local:
                os.replace(self._temporary_file(name, data), self._path(name))
            else:
                self._fs.pipe_file(self._path(name), data)
        except OSError as error:
            raise self._refused("write", name, error) from error

    def remove(self, name: str) -> None:
        """Delete an object; no matter if it is gone already."""
        try:
            self._fs.rm_file(self._path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused("delete", name, error) from error

    def list(self, prefix: str = "") -> dict[str, int]:
        """Names (below the URL) and sizes of all objects whose name starts with `prefix`, a folder."""
        try:
            found = self._fs.find(self._path(prefix) if prefix else self._root, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._refused("list", prefix, error) from error
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: int(info["size"] or 0) for path, info in sorted(found.items())}

    def sweep(self) -> None:
        """Delete temporary files that a killed writer left behind."""
        for name in self.list():
            if name.rpartition("/")[2].startswith(TEMPORARY):
                self.remove(name)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _refused(self, verb: str, name: str, error: OSError) -> StoreError:
        reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
        hint = (
            "free some space, then run the same command again"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ("check that the place exists and that you may use it")
        )
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
        except OSError:
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
