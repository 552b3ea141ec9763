"""A finished sweep, opened: what its members hold. How far a sweep is, `directory` tells alone."""

from __future__ import annotations

from functools import cached_property

from wna_ray.kinds.any import open_any
from wna_ray.runs.finished import Finished
from wna_ray.storage.store import Place
from wna_ray.sweeps.directory import SweepDirectory


class Sweep:
    """A finished sweep, read from storage alone.

    Parameters
    ----------
    place
        A path, any fsspec URL, or a `Place`.

    Raises
    ------
    RunError
        There is none, it is not finished, or something in it is damaged.
    """

    def __init__(self, place: Place | str) -> None:
        self.directory = SweepDirectory(place)
        self._published = self.directory.published()

    @property
    def url(self) -> str:
        """Where the sweep lies."""
        return self.directory.url

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Names of the values of each axis, in order."""
        return self.directory.axes_of(self._published)

    @cached_property
    def members(self) -> dict[str, Finished]:
        """Every member opened, by its name, in the order of the product; each must be what was
        published.
        """
        opened = dict[str, Finished]()
        for member in self._published.members:
            self.directory.require_published(member)
            opened[member.name] = open_any(self.directory.member(member.name))
        return opened


def open_sweep(url: Place | str) -> Sweep:
    """Open a finished sweep: ``.members["seed-0/uniform"]`` is an opened run, ``.axes`` the
    names of all values.
    """
    return Sweep(url)
