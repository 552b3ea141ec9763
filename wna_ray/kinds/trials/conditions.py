"""Conditions of trials: what is done to the signals, the noise and the network in each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wna_ray.data.names import Transform
from wna_ray.errors import SpecError, near
from wna_ray.specs.trials import MOST_CONDITIONS, TrialSpec


@dataclass(frozen=True)
class Condition:
    """What is done in one condition.

    Attributes
    ----------
    gamma, transform
        Of the signal.
    attack, target, weight
        What is added (None: nothing), the response that is aimed at (None: away from the signal's
        own), and how much.
    layer, profile, profile_class, strength
        Where units are stimulated (None: nowhere), by what, of which class, and how strongly.
    """

    gamma: float
    transform: Transform
    attack: str | None = None
    target: int | None = None
    weight: float = 0.0
    layer: str | None = None
    profile: str | None = None
    profile_class: int | None = None
    strength: float = 0.0


def conditions(spec: TrialSpec, names: Sequence[str]) -> list[Condition]:
    """All conditions of a spec, whose network answers with `names`, in order.

    Raises
    ------
    SpecError
        A target or class is none of the names, or there are too many conditions.
    """
    _check_names(spec, names)
    attacks: list[tuple[Any, ...]] = [(None, None, 0.0)]
    if spec.attack is not None:
        targets = (
            range(len(names))
            if spec.attack.targets == "all"
            else [names.index(t) for t in spec.attack.targets]
        )
        attacks = [
            (source, target, weight)
            for source in spec.attack.by
            for target in ([None] if source == "fgsm-untargeted" else targets)
            for weight in spec.attack.weights
        ]
    stimulations: list[tuple[Any, ...]] = [(None, None, None, 0.0)]
    if spec.stimulate is not None:
        classes = (
            range(len(names))
            if spec.stimulate.classes == "all"
            else [names.index(c) for c in spec.stimulate.classes]
        )
        stimulations = list(
            itertools.product(
                spec.stimulate.layers, spec.stimulate.by, classes, spec.stimulate.strengths
            )
        )
    return [
        Condition(gamma, transform, *attack, *stimulation)
        for gamma, transform, attack, stimulation in itertools.product(
            spec.gammas, spec.transforms, attacks, stimulations
        )
    ]


def _check_names(spec: TrialSpec, names: Sequence[str]) -> None:
    numbers = [len(spec.gammas), len(spec.transforms)]
    if spec.attack is not None:
        numbers += [
            len(spec.attack.by),
            _chosen("attack.targets", spec.attack.targets, names),
            len(spec.attack.weights),
        ]
    if spec.stimulate is not None:
        layers, sources, strengths = (
            len(x) for x in (spec.stimulate.layers, spec.stimulate.by, spec.stimulate.strengths)
        )
        numbers += [
            layers,
            sources,
            _chosen("stimulate.classes", spec.stimulate.classes, names),
            strengths,
        ]
    if math.prod(numbers) > MOST_CONDITIONS:
        raise SpecError(
            f"{math.prod(numbers):,} conditions ({' x '.join(map(str, numbers))}) are more than"
            f" {MOST_CONDITIONS:,}; take fewer gammas, weights, targets or strengths"
        )


def _chosen(where: str, some: Literal["all"] | Sequence[str], names: Sequence[str]) -> int:
    """How many of the network's answers are chosen; `SpecError` where one is none."""
    unknown = [] if some == "all" else [name for name in some if name not in names]
    if unknown:
        raise SpecError(
            f"{where}: the network has no answer {unknown[0]!r}; near it are"
            f" {near(unknown[0], names)}"
        )
    return len(names) if some == "all" else len(some)
