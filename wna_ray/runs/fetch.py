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

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from wna_ray.canonical import sha256
from wna_ray.errors import RunError, StoreError
from wna_ray.registry import kinds
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.local_folder import (
    LocalFolder,
    chunks_of,
    local_errors,
    temporary_name,
    write_all,
)
from wna_ray.runs.manifest import Entry, Manifest, manifest_faults
from wna_ray.runs.names import MANIFEST, RESULT, SEGMENTS, SPEC
from wna_ray.storage.bounds import MOST_JSON, parse_json
from wna_ray.storage.store import Place
from wna_ray.text import plain

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
    """`StoreError` where a folder is given as a URL."""
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
    wanted: Mapping[str, Entry]
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
        where = f"{directory.url}/{MANIFEST}"
        faults = manifest_faults(spec.fingerprint, manifest, extent)
        if faults:
            raise RunError(f"{where} is not one of a whole run: {'; '.join(faults[:3])}")
        text = directory.store.read(MANIFEST, most=MOST_JSON) or b""
        if not text or Manifest.parse(parse_json(text, MANIFEST), MANIFEST) != manifest:
            raise RunError(f"{where} has just changed; run the same command again")
        if digest is not None and sha256(text) != digest:
            raise RunError(f"{where} is not what {lister} lists; was this member made again?")
        listed, beginning = manifest.listed, f"{SEGMENTS}/"
        wanted = {
            name: entry
            for name, entry in listed.items()
            if segments or not name.startswith(beginning)
        }
        left_out = 0 if segments else len(manifest.segments)
        return cls(directory, spec.fingerprint, text, frozenset(listed), wanted, left_out)

    @property
    def total(self) -> int:
        """Bytes of all that is to be there beside the manifest."""
        return sum(entry.bytes for entry in self.wanted.values())

    def missing(self, folder: LocalFolder) -> int:
        """Bytes that a folder still lacks; `RunError` where it holds something else."""
        _refuse_another_run(folder, self)
        present = sum(folder.present(name, entry) for name, entry in self.wanted.items())
        return self.total - present + len(self.text)

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
    copy = RunDirectory(str(folder.path))
    copy.store.refuse_links(source.names)
    name = (copy.read_json(SPEC) or {}).get("format")
    if name is not None and name not in [kind.format for kind in kinds()]:
        raise RunError(
            f"'{folder.path}' holds no run but something else (format {plain(str(name), 40)!r});"
            " give another folder"
        )
    if (
        copy.store.size(SPEC) is not None
        and (fingerprint := copy.spec().fingerprint) != source.fingerprint
    ):
        raise RunError(
            f"'{folder.path}' holds another run ({fingerprint[:12]}..., not"
            f" {source.fingerprint[:12]}...); give another folder"
        )
    if (
        copy.store.size(MANIFEST) is not None
        and copy.store.read(MANIFEST, most=MOST_JSON) != source.text
    ):
        raise RunError(
            f"'{folder.path}/{MANIFEST}' is not that of '{source.directory.url}'; give another"
            " folder, or delete it"
        )
    for name in [*copy.store.list(SEGMENTS), *copy.store.list(RESULT)]:
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
        self._directory, self._folder = directory, folder
        self._total, self._callback = total, callback
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._done = 0
        self.kept = self.downloaded = 0

    def all(self, wanted: Mapping[str, Entry], workers: int) -> None:
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
                self._directory.store.give_up_after(0.0)
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _one(self, name: str, entry: Entry) -> None:
        if self._stop.is_set():
            return
        with local_errors(f"{self._folder.path}/{name}"):
            if self._folder.has(name):
                self._kept(name, entry)
                return
            stored = self._directory.store.size(name)
            if stored != entry.bytes:
                fault = "is missing" if stored is None else f"is damaged: {stored:,} bytes"
                raise RunError(
                    f"{self._directory.url}/{name} {fault}; {MANIFEST} says {entry.bytes:,}."
                    " Nothing of it was put in place"
                )
            for resume in (True, False):  # a part that was damaged here must not damage the whole
                digest, resumed = self._download(name, entry, resume)
                if digest in (entry.sha256, None) or not resumed:
                    break
            if digest is None:
                return
            if digest != entry.sha256:
                raise RunError(
                    f"{self._directory.url}/{name} is damaged: SHA-256 {digest[:12]}...; {MANIFEST}"
                    f" says {entry.sha256[:12]}.... Nothing of it was put in place"
                )

    def _kept(self, name: str, entry: Entry) -> None:
        """Make sure that a file which is there is the object."""
        digest, at = hashlib.sha256(), 0
        with self._folder.open(name, os.O_RDONLY) as file:
            if os.fstat(file).st_size == entry.bytes:
                for chunk in chunks_of(file):
                    if self._stop.is_set():
                        return
                    digest.update(chunk)
                    at += len(chunk)
                    self._tell(len(chunk))
        if at != entry.bytes or digest.hexdigest() != entry.sha256:
            raise RunError(
                f"'{self._folder.path}/{name}' is there with other content than the run's; delete"
                " it, or give another folder"
            )
        self._folder.remove(temporary_name(name, entry))
        with self._lock:
            self.kept += 1

    def _download(self, name: str, entry: Entry, resume: bool) -> tuple[str | None, bool]:
        """The digest (None where all is being stopped) and whether a part was there already;
        the right bytes get their name.
        """
        temporary, digest, at = temporary_name(name, entry), hashlib.sha256(), 0
        if not resume or self._folder.present(name, entry) == 0:
            self._folder.remove(temporary)
        with self._folder.open(temporary, os.O_RDWR | os.O_CREAT) as file:
            for chunk in chunks_of(file):
                digest.update(chunk)
                at += len(chunk)
            resumed = at > 0
            self._tell(at)
            for chunk in self._directory.store.chunks(name, at) if at < entry.bytes else ():
                if self._stop.is_set():
                    return None, resumed
                write_all(file, chunk)
                digest.update(chunk)
                at += len(chunk)
                self._tell(len(chunk), downloaded=len(chunk))
                if at > entry.bytes:
                    break
            os.fsync(file)
        if (at, digest.hexdigest()) == (entry.bytes, entry.sha256):
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
