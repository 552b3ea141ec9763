"""Download a whole sweep, with every digest compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wna_ray.canonical import sha256
from wna_ray.errors import RunError
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.fetch import Fetched, Progress, Source, folders_above, require_local
from wna_ray.runs.local_folder import LocalFolder, local_errors
from wna_ray.runs.names import MANIFEST, SPEC
from wna_ray.storage.bounds import MOST_JSON
from wna_ray.storage.store import Place, Store
from wna_ray.sweeps.directory import SWEEP, SweepDirectory
from wna_ray.text import plain


@dataclass(frozen=True)
class FetchedSweep:
    """What lies in the folder now.

    Attributes
    ----------
    folder
        The local copy.
    members
        How many runs the sweep has.
    objects, bytes
        All that is there of them.
    kept
        Objects that were there before.
    downloaded
        Bytes that came from the storage.
    left_out
        Segments that were not asked for.
    """

    folder: Path
    members: int
    objects: int
    bytes: int
    kept: int
    downloaded: int
    left_out: int


def fetch_sweep(
    place: Place | str,
    dest: Path,
    workers: int = 8,
    segments: bool = True,
    callback: Progress | None = None,
) -> FetchedSweep:
    """Copy a finished sweep to a local folder, or go on with it: every member into ``DEST/NAME``.

    Members are copied as `fetch` copies a run. Before anything is written, every member's manifest
    is compared with the digest that ``SWEEP.json`` has for it. ``spec.json`` and ``SWEEP.json``
    come last, so an unfinished copy is not taken for a sweep; `SweepDirectory.verify` proves the
    finished one.

    Parameters
    ----------
    place
        The sweep: a path, any fsspec URL, or a `Place`.
    dest
        The folder; made where there is none. What is there of this sweep is kept, another sweep (or
        a run) is refused.
    workers, segments, callback
        As for `fetch`; bytes are those of all members.

    Raises
    ------
    RunError
        The sweep is not finished, a member is damaged or is not what was published, or `dest` holds
        something else.
    StoreError
        The storage or the local disk refused, or a folder of `dest` is a symbolic link; the same
        call goes on.
    """
    require_local(dest)
    sweep = SweepDirectory(place)
    texts = {name: sweep.store.read(name, most=MOST_JSON) or b"" for name in (SPEC, SWEEP)}
    published = sweep.published()
    faults = sweep.wanted_faults(published)[1]
    same = (
        sha256(texts[SPEC]) == published.spec
        and sweep.store.read(SWEEP, most=MOST_JSON) == texts[SWEEP]
    )
    if not same:
        faults.append(f"{SWEEP} has just changed; run the same command again")
    if faults:
        raise RunError(f"'{sweep.url}': {faults[0]}")
    digests = {done.name: done.manifest for done in published.members}

    def source(name: str) -> Source:
        return Source.of(RunDirectory(sweep.member(name)), segments, digests[name], SWEEP)

    totals = {
        name: source(name).total for name in digests
    }  # looks at all before it writes anything
    total, rest = sum(totals.values()), sum(map(len, texts.values()))
    begun, got = 0, list[Fetched]()
    with LocalFolder(Path(dest)) as whole, local_errors(str(dest)):
        _refuse_another_sweep(whole.path, sweep.url, texts, set(digests))
        needed = rest
        for name in digests:
            with LocalFolder(whole.path / name, whole) as folder:
                needed += source(name).missing(folder)
        whole.require_space(needed)
        for name in digests:
            with LocalFolder(whole.path / name, whole) as folder:
                got.append(source(name).copy(folder, workers, _part(callback, begun, total)))
            begun += totals[name]
        kept = sum(whole.put(name, text) for name, text in texts.items())
    return FetchedSweep(
        folder=Path(dest),
        members=len(got),
        objects=sum(one.objects for one in got) + len(texts),
        bytes=sum(one.bytes for one in got) + rest,
        kept=sum(one.kept for one in got) + kept,
        downloaded=sum(one.downloaded for one in got),
        left_out=sum(one.left_out for one in got),
    )


def _part(callback: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one of several runs as progress of all."""
    return None if callback is None else lambda done, _: callback(before + done, total)


def _refuse_another_sweep(
    dest: Path, url: str, texts: Mapping[str, bytes], members: set[str]
) -> None:
    copy = Store(str(dest))
    for name, text in texts.items():
        if copy.size(name) is not None and copy.read(name, most=MOST_JSON) != text:
            raise RunError(
                f"'{dest}/{name}' is not that of '{url}'; give another folder, or delete it"
            )
    if copy.size(MANIFEST) is not None:
        raise RunError(f"'{dest}' holds a run; give another folder")
    for name in copy.list():
        folder, _, last = name.rpartition("/")
        if folder and last == SPEC and not folders_above(folder) & members:
            raise RunError(
                f"'{dest}/{plain(folder, 200)}' is not of this sweep; move it away, or give another"
                " folder"
            )
