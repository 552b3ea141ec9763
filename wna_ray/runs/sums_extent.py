"""The extent of a run of named sums and some further objects: all that a simple kind needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from wna_ray.moments.counts import PassSums
from wna_ray.runs.manifest import expected_objects
from wna_ray.runs.names import ENVIRONMENT, MOMENTS, SEGMENTS, SPEC
from wna_ray.storage.bounds import ARCHIVE_BYTES, MOST_JSON, MOST_OTHER, Loose, validated

MOST_NAMES, MOST_NAME = 1_000_000, 1_000  # outputs of a network, and characters of a name


class DescribedSums(Loose):
    """What ``spec.json`` says of any run: types and bounds, so that names and sizes can be used.

    Attributes
    ----------
    samples
        N.
    names
        Of outputs or units.
    identity
        Everything that can change a result; its kind says what it must hold.
    spec
        As it was written.
    """

    samples: Annotated[int, Field(ge=1, le=1 << 40)]
    names: Annotated[
        list[Annotated[str, Field(max_length=MOST_NAME)]],
        Field(min_length=1, max_length=MOST_NAMES),
    ]
    identity: dict[str, Any]
    spec: dict[str, Any]

    @classmethod
    def of(cls, described: Mapping[str, Any], where: str) -> DescribedSums:
        """From what was read; `RunError` where it is anything else."""
        return validated(cls, described, where)


@dataclass(frozen=True)
class SumsExtent:
    """How large the objects of such a run may be (see `wna_ray.runs.formats.Extent`).

    Attributes
    ----------
    samples
        N.
    shapes
        Of the int64 sums, by name.
    results
        Most bytes of each further object of the result, by its name; a finished run has all.
    figures
        Whether it may have figures.
    """

    samples: int
    shapes: Mapping[str, tuple[int, ...]]
    results: Mapping[str, int]
    figures: bool = False
    kept: ClassVar[bool] = False
    arrays: ClassVar[tuple[str, ...]] = ()

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of images after which it may have ended: N alone."""
        return (self.samples,)

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished run beside segments and figures; it must have them all."""
        return expected_objects(dict.fromkeys(self.results, True))

    def until(self, samples: int) -> SumsExtent:
        """The same: such a run has one look."""
        return self

    def most(self, name: str) -> int:
        """Most bytes that an object can have."""
        sums = 8 * sum(math.prod(shape) for shape in self.shapes.values()) + ARCHIVE_BYTES
        known = {SPEC: MOST_JSON, ENVIRONMENT: MOST_JSON, MOMENTS: sums, **self.results}
        return sums if name.startswith(f"{SEGMENTS}/") else known.get(name, MOST_OTHER)

    def holds(self, name: str, data: bytes) -> bool:
        """Such a run keeps no array that stimuli are made of."""
        return False

    def check(self, moments: Any) -> None:
        """`ValueError` where the run cannot have such sums."""
        if not isinstance(moments, PassSums):
            raise ValueError("moments of a run of noise")
        shapes = {name: array.shape for name, array in moments.sums.items()}
        if shapes != dict(self.shapes):
            raise ValueError(f"sums of shapes {shapes}, not {dict(self.shapes)}")
