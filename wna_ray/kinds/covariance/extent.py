"""How large the objects of a covariance may be, and what its ``spec.json`` must say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from wna_ray.errors import RunError, SpecError
from wna_ray.kinds.average.extent import MOST_NAME, MOST_NAMES
from wna_ray.moments.counts import PassSums, shapes
from wna_ray.runs.manifest import expected_objects
from wna_ray.runs.names import BLOCK
from wna_ray.specs.covariance import StcSpec
from wna_ray.specs.response import ResponseKind
from wna_ray.storage.arrays import from_npy
from wna_ray.storage.bounds import (
    ARCHIVE_BYTES,
    MOST_JSON,
    MOST_OTHER,
    NPY_BYTES,
    Loose,
    agree,
    require_same,
    unlike_spec,
    validated,
)


class _PassShape(Loose):
    units: Annotated[int, Field(ge=1, le=MOST_NAMES)]
    d: Annotated[int, Field(ge=1, le=1 << 40)]
    null: Annotated[int, Field(ge=0, le=1000)]
    columns: Annotated[int, Field(ge=0, le=1 << 20)]
    bins: Annotated[int, Field(ge=0, le=1 << 10)] = 0


class PassIdentity(Loose):
    """What the result of a pass is a function of. One in the folder of another is ``of`` it, and
    the other says what was asked.
    """

    of: str | None = None
    shape: _PassShape
    run: str | None = None
    kind: ResponseKind | None = None
    units: list[int] | None = None
    samples: int | None = None
    seed: str | None = None
    estimator: str | None = None


class _PassDescribed(Loose):
    identity: PassIdentity
    spec: dict[str, Any]
    samples: Annotated[int, Field(ge=1, le=1 << 40)]
    names: Annotated[
        list[Annotated[str, Field(max_length=MOST_NAME)]],
        Field(min_length=1, max_length=MOST_NAMES),
    ]


def check_pass(described: Mapping[str, Any], where: str) -> PassExtent:
    """Types of the ``spec.json`` of a pass over kept responses; how large its objects may be."""
    parsed = validated(_PassDescribed, described, where)
    identity, shape = parsed.identity, parsed.identity.shape
    if shape.units != len(parsed.names):
        raise RunError(f"{where} is damaged: it names {len(parsed.names)} units, not {shape.units}")
    try:
        spec = StcSpec.parse(parsed.spec, where)
    except SpecError as error:
        raise unlike_spec(error) from None
    if identity.of is not None:
        return PassExtent(parsed.samples, shape.model_dump(), inner=True)
    free = (spec.fresh, 0, 0) if spec.method == "dense" else (0, min(spec.axes, shape.d), 0)
    spec_json = spec.model_dump(mode="json", exclude={"run", "units", "seed"})
    require_same(
        where,
        {
            "run": identity.run is not None,
            "samples": identity.samples == parsed.samples,
            "response": identity.kind is not None and spec.response in (None, identity.kind),
            "units": (
                spec.units in ("all", tuple(parsed.names))
                and len(identity.units or ()) == len(parsed.names)
            ),
            "model": (spec.model is None) == (identity.estimator is None),
            "seed": identity.seed == str(spec.seed),
            "shape": (shape.null, shape.columns, shape.bins) == free,
            "method": agree(spec_json, described["identity"]),
        },
    )
    return PassExtent(parsed.samples, shape.model_dump())


@dataclass(frozen=True)
class PassExtent:
    """How large the objects of a pass over kept responses may be.

    Attributes
    ----------
    samples
        N.
    shape
        Units, values an image, fresh noises and columns (see `wna_ray.moments.counts`).
    inner
        Whether it is one of several passes that a covariance takes, and has sums only.
    """

    samples: int
    shape: Mapping[str, int]
    inner: bool = False
    kept: ClassVar[bool] = False

    @property
    def figures(self) -> bool:
        """Whether a finished run may have figures: where it is no inner pass."""
        return not self.inner

    @property
    def arrays(self) -> tuple[str, ...]:
        """The axes that a pass tests, where it has columns."""
        return (BLOCK,) * (not self.inner and self.shape["columns"] > 0)

    def until(self, samples: int) -> PassExtent:
        """The same: a pass has one look."""
        return self

    def holds(self, name: str, data: bytes) -> bool:
        """Whether the axes have the shape of the sums; their digest is in no identity."""
        try:
            array = from_npy(data)
        except ValueError:
            return False
        expected = self.shape["d"], self.shape["columns"]
        return array.shape == expected and array.dtype == np.float64

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished pass beside segments and figures, and whether it must have them."""
        whole, block = not self.inner, self.shape["columns"] > 0
        return expected_objects(
            {
                "block.npy": whole and block,
                "result/axes.parquet": whole,
                "result/axes.npy": whole,
                "result/profiles.parquet": whole,
                "result/spectra.npy": whole and not block,
            }
        )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of images after which it may have ended."""
        return (self.samples,)

    def most(self, name: str) -> int:
        """Most bytes that an object can have."""
        sums = 8 * sum(math.prod(s) for s in shapes(**self.shape).values()) + ARCHIVE_BYTES
        columns = 8 * self.shape["d"] * self.shape["columns"] + NPY_BYTES
        known = {
            "spec.json": MOST_JSON,
            "environment.json": MOST_JSON,
            "block.npy": columns,
            "result/moments.npz": sums,
        }
        return sums if name.startswith("segments/") else known.get(name, MOST_OTHER)

    def check(self, moments: PassSums) -> None:
        """`ValueError` where a pass cannot have such sums."""
        expected, actual = (
            shapes(**self.shape),
            {name: array.shape for name, array in moments.sums.items()},
        )
        if actual != expected:
            raise ValueError(f"sums of shapes {actual}, not {expected}")
