"""How large the objects of a run of trials may be, and what its ``spec.json`` must say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from wna_ray.data.datasets import SHAPES
from wna_ray.errors import SpecError
from wna_ray.kinds.average.extent import MOST_GRID, MOST_NAME, MOST_NAMES
from wna_ray.kinds.trials.conditions import conditions
from wna_ray.moments.counts import PassSums, trial_shapes
from wna_ray.runs.manifest import expected_objects
from wna_ray.specs.trials import MOST_CONDITIONS, TrialSpec
from wna_ray.stimuli.geometry import geometry_of
from wna_ray.storage.bounds import (
    ARCHIVE_BYTES,
    MOST_JSON,
    MOST_OTHER,
    Loose,
    agree,
    require_same,
    unlike_spec,
    validated,
    within,
)


class _TrialShape(Loose):
    conditions: Annotated[int, Field(ge=1, le=MOST_CONDITIONS)]
    classes: Annotated[int, Field(ge=1, le=MOST_NAMES)]
    responses: Annotated[int, Field(ge=1, le=MOST_NAMES)]
    gammas: Annotated[int, Field(ge=0, le=MOST_CONDITIONS)]
    d: Annotated[int, Field(ge=0, le=1 << 40)]
    signals: Annotated[int, Field(ge=0, le=1 << 40)]


class _Signals(Loose):
    count: Annotated[int, Field(ge=1, le=1 << 40)]


class TrialIdentity(Loose):
    """What the result of a run of trials is a function of."""

    shape: _TrialShape
    signals: _Signals
    attack: dict[str, Any] | None = None
    stimulate: dict[str, Any] | None = None
    classes: Annotated[
        list[Annotated[str, Field(max_length=MOST_NAME)]],
        Field(min_length=1, max_length=MOST_NAMES),
    ]
    correct: Annotated[
        list[Annotated[int, Field(ge=-1, le=MOST_NAMES)]],
        Field(min_length=1, max_length=MOST_NAMES),
    ]


class _TrialsDescribed(Loose):
    identity: TrialIdentity
    samples: Annotated[int, Field(ge=1, le=1 << 40)]
    names: Annotated[
        list[Annotated[str, Field(max_length=MOST_NAME)]],
        Field(min_length=1, max_length=MOST_NAMES),
    ]
    spec: dict[str, Any]


def check_trials(described: Mapping[str, Any], where: str) -> TrialExtent:
    """Types and consistency of the ``spec.json`` of a run of trials; how large its objects may
    be.
    """
    parsed = validated(_TrialsDescribed, described, where)
    shape, identity = parsed.identity.shape, parsed.identity
    try:
        spec = TrialSpec.parse(parsed.spec, where)
        expected = conditions(spec, parsed.names)
    except (SpecError, ValueError) as error:
        raise unlike_spec(error) from None
    noise = spec.noise_spec(SHAPES[spec.signals.dataset], parsed.samples).stimulus
    pixels, signals = geometry_of(noise, None).pixels, identity.signals.count
    spec_json = spec.model_dump(mode="json")
    counted = {key: spec_json[key] for key in ("gammas", "transforms", "moments", "repeats")}
    kept = (len(spec.gammas), pixels, signals) if spec.moments else (0, 0, 0)
    chosen = spec.signals.classes
    require_same(
        where,
        {
            "names": shape.responses == len(parsed.names),
            "classes": (
                shape.classes == len(identity.classes) == len(identity.correct)
                and max(identity.correct) < shape.responses
                and (chosen == "all" or len(chosen) == shape.classes)
            ),
            "conditions": shape.conditions == len(expected),
            "moments": (shape.gammas, shape.d, shape.signals) == kept,
            "samples": parsed.samples == spec.repeats * signals,
            "what was shown": agree(counted, described["identity"]),
            "attack": _is_part(spec_json["attack"], identity.attack),
            "stimulate": _is_part(spec_json["stimulate"], identity.stimulate),
        },
    )
    return TrialExtent(parsed.samples, shape.model_dump(), spec.moments)


def _is_part(wanted: Mapping[str, Any] | None, recorded: Mapping[str, Any] | None) -> bool:
    """Whether what is done to stimuli is what was asked for; digests are of no part of a spec."""
    if wanted is None or recorded is None:
        return wanted is recorded
    return agree(wanted, recorded, ("run", "templates", "profiles"))


@dataclass(frozen=True)
class TrialExtent:
    """How large the objects of a run of trials may be.

    Attributes
    ----------
    samples
        N.
    shape
        Conditions, classes, responses, and what moments are kept of (see `wna_ray.moments.counts`).
    moments
        Whether moments are kept.
    """

    samples: int
    shape: Mapping[str, int]
    moments: bool = False
    kept: ClassVar[bool] = False
    figures: ClassVar[bool] = True
    arrays: ClassVar[tuple[str, ...]] = ()

    def until(self, samples: int) -> TrialExtent:
        """The same: trials have one look."""
        return self

    def holds(self, name: str, data: bytes) -> bool:
        """Trials keep no array that stimuli are made of."""
        return False

    @property
    def objects(self) -> dict[str, bool]:
        """Objects of a finished run beside segments and figures, and whether it must have them."""
        return expected_objects(
            {
                "result/trials.parquet": True,
                "result/detection.parquet": self.moments,
                "result/classification_images.npy": self.moments,
                "result/classification_z_maps.npy": self.moments,
            }
        )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of trials after which it may have ended."""
        return (self.samples,)

    @property
    def cells(self) -> int:
        """Numbers of trials that are told: by condition, class and response."""
        return self.shape["conditions"] * self.shape["classes"] * self.shape["responses"]

    def most(self, name: str) -> int:
        """Most bytes that an object can have."""
        sums = 8 * sum(math.prod(s) for s in trial_shapes(**self.shape).values()) + ARCHIVE_BYTES
        known = {
            "spec.json": MOST_JSON,
            "environment.json": MOST_JSON,
            "result/moments.npz": sums,
            "result/trials.parquet": self.table,
        }
        return sums if name.startswith("segments/") else known.get(name, MOST_OTHER)

    @property
    def table(self) -> int:
        """Most bytes of the table of conditions, packed or not."""
        return (1 << 20) + 512 * self.shape["conditions"]

    def check(self, moments: PassSums) -> None:
        """`ValueError` where no trials can have such sums."""
        expected, actual = (
            trial_shapes(**self.shape),
            {name: array.shape for name, array in moments.sums.items()},
        )
        if actual != expected:
            raise ValueError(f"sums of shapes {actual}, not {expected}")
        n, answers = moments.images, moments.sums["answers"]
        noise, by_signal = (
            moments.sums.get(name, np.zeros(0, dtype=np.int64)) for name in ("noise", "by_signal")
        )
        if (
            not (within(answers, n, 0) and within(noise, MOST_GRID * n) and within(by_signal, n, 0))
            or (answers.sum(axis=(1, 2)) != n).any()
        ):
            raise ValueError("sums that no trials can have")
