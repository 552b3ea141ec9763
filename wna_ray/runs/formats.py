"""What the directory of a run needs to know of its kind: how large its objects may be, and
which it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from wna_ray.errors import RunError
from wna_ray.registry import Kind, kinds
from wna_ray.text import plain


class Extent(Protocol):
    """How large the objects of a run may be, as its ``spec.json`` says. Nothing else bounds
    what is read.
    """

    @property
    def samples(self) -> int:
        """N, the images (or trials) of the run."""

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of images after which it may have ended."""

    @property
    def kept(self) -> bool:
        """Whether the responses of every image are kept."""

    @property
    def figures(self) -> bool:
        """Whether a finished run may have figures."""

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished run beside segments, responses and figures; whether it must
        have them.
        """

    @property
    def arrays(self) -> tuple[str, ...]:
        """Those of them that stimuli are made of, which are written before the segments."""

    def until(self, samples: int) -> Extent:
        """Of the run as it ended, after so many images."""

    def most(self, name: str) -> int:
        """Most bytes that an object can have."""

    def holds(self, name: str, data: bytes) -> bool:
        """Whether the bytes of one of `arrays` are the array that the identity tells of."""

    def check(self, moments: Any) -> None:
        """`ValueError` where no images can have such sums."""


def extent_of(described: Mapping[str, Any], where: str) -> Extent:
    """How large the objects of a run may be, by the kind that its format names.

    Parameters
    ----------
    described
        What ``spec.json`` says, as it lies there: its kind knows what it must say.
    where
        It lies, for messages.

    Raises
    ------
    RunError
        No kind that is installed has this format, or ``spec.json`` does not say what it must.
    """
    kind = kind_of_format(described.get("format"), where)
    extent: Extent = kind.part("extent")(described, where)
    return extent


def kind_of_format(name: Any, where: str) -> Kind:
    """The kind that has a format, whatever was read as its name; `RunError` where none that is
    installed has it.
    """
    known = {kind.format: kind for kind in kinds()}
    if not isinstance(name, str) or name not in known:
        formats = ", ".join(map(repr, known))
        raise RunError(
            f"{where}: format {plain(str(name), 40)!r}, but this version reads {formats}"
        )
    return known[name]
