"""One directory, one job: make a directory that of a job, or say what differs from the job that
is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wna_ray.errors import RunError
from wna_ray.storage.store import Store

MOST_LISTED = 12  # differences that an error names


def claim(
    store: Store,
    name: str,
    described: bytes,
    differs: Callable[[], Iterable[str]],
    what: str,
    began: str,
) -> None:
    """Publish what a directory is of, once.

    Parameters
    ----------
    store, name
        Where.
    described
        What it is of.
    differs
        Where something is there already: what differs from it, one line each (there -> asked for).
    what, began
        What such a directory holds where something differs (``a run of another spec``), and what
        began it (``spec``).

    Raises
    ------
    RunError
        Another job is there; what differs is listed.
    """
    if store.size(name) is None and store.create(name, described):
        return
    lines = list(differs())
    if not lines:
        return
    rest = [f"and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    listed = "\n".join(f"  {line}" for line in lines[:MOST_LISTED] + rest)
    raise RunError(
        f"'{store.url}' holds {what}; what differs (there -> asked for):\n{listed}\n"
        f"Give another --out, or the {began} that began it"
    )
