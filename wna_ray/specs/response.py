"""The responses of a spec, the units they are taken of, their moments, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from wna_ray.specs.base import Frozen, as_units

ResponseKind = Literal[
    "label", "confidence", "logits", "probabilities", "activation", "rectified", "spikes"
]
DIFFERENTIABLE: tuple[ResponseKind, ...] = ("logits", "probabilities", "activation", "rectified")
UNIT_KINDS: tuple[ResponseKind, ...] = ("activation", "rectified", "spikes")


class ResponseSpec(Frozen):
    """What is kept of the network's answer.

    Attributes
    ----------
    kind
        ``label``: one-hot of the largest logit. ``confidence``: the same, weighted by the label's
        probability. ``logits``, ``probabilities``: one real number a class. ``activation``: one
        real number a unit, as it is; ``rectified``: ``max(activation, 0)``; ``spikes``: 1 where the
        activation is above a threshold, else 0.
    centred
        ``logits`` only: subtract the mean over the outputs first. Softmax, and so every decision of
        a classifier, sees only these differences. Outputs that are independent of each other are
        mixed by it, so it must be asked for. With one output nothing is subtracted, and nothing is
        of an output that never varies.
    threshold
        ``spikes`` only: the threshold of every unit. 0 where neither it nor a quantile is given.
    quantile
        ``spikes`` only: each unit's threshold is this quantile of its own activation in a pilot
        (the run's first images).
    """

    kind: ResponseKind
    centred: bool = False
    threshold: FiniteFloat | None = None
    quantile: float | None = Field(default=None, gt=0, lt=1)

    later: ClassVar[Mapping[str, Any]] = {"threshold": None, "quantile": None}

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, data: Any) -> Any:
        """The key means nothing for other kinds, which are written as they always were: with the
        default that it had at first.
        """
        if isinstance(data, Mapping) and data.get("kind") not in (None, "logits"):
            return {"centred": True, **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> ResponseSpec:
        given = [name for name in ("threshold", "quantile") if getattr(self, name) is not None]
        if given and self.kind != "spikes":
            raise ValueError(f"{given[0]}: only spikes have one, not {self.kind}")
        if len(given) == 2:
            raise ValueError("spikes: give a threshold or a quantile, not both")
        return self


def as_response(value: Any) -> Any:
    value = {"kind": value} if isinstance(value, str) else value
    plain = (
        isinstance(value, Mapping)
        and value.get("kind") == "spikes"
        and value.get("threshold") is value.get("quantile") is None
    )
    return {**value, "threshold": 0.0} if plain else value


def _as_layer(value: Any) -> Any:
    """Layers of ``nn.Sequential`` have numbers, which YAML reads as such."""
    if isinstance(value, float):  # 0.10 and 0.1 are other layers
        raise ValueError(f"a layer's name is text; put it in quotes, such as '{value}'")
    return str(value) if type(value) is int and value >= 0 else value


class TargetSpec(Frozen):
    """Units inside the network, instead of its output.

    Attributes
    ----------
    layer
        Dotted name of a module, as ``named_modules()`` has it; its output is looked at.
    units
        Channels (of maps) or neurons, counted from 0; ``all`` of them by default.
    position
        Where in the layer's map: ``centre``, a coordinate ``[row, column]``, ``mean`` (over all
        positions), or ``pooled`` (all positions whose receptive field is whole, each with its own
        patch of the stimulus). Layers of neurons have none.
    evaluate
        What is shown: ``image`` (the whole), ``window`` (only what the units can see, where the
        network allows it), or ``auto`` (the window where the network allows it). The two show
        different noise.
    """

    layer: Annotated[str, BeforeValidator(_as_layer)] = Field(min_length=1, max_length=1000)
    units: (
        Literal["all"]
        | Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...], BeforeValidator(as_units)]
    ) = "all"
    position: (
        Literal["centre", "mean", "pooled"]
        | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    ) = "centre"
    evaluate: Literal["auto", "window", "image"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> TargetSpec:
        if self.units != "all" and (not self.units or len(set(self.units)) < len(self.units)):
            raise ValueError("units: give 'all', or a list of numbers, each once")
        if self.evaluate == "window" and self.position in ("mean", "pooled"):
            raise ValueError(
                f"evaluate: one window cannot hold all positions; with position: {self.position}"
                " leave it out"
            )
        return self


class MomentsSpec(Frozen):
    """Which sums are kept beside counts and first moments.

    Attributes
    ----------
    second
        Also keep the per-pixel second moments ``sum y x^2`` (variance maps, RMS maps).
    halves
        Also keep the moments of every second batch alone: how well the maps of two halves agree
        tells their reliability without any theory.
    """

    second: bool = False
    halves: bool = False

    later: ClassVar[Mapping[str, Any]] = {"halves": False}


class StopSpec(Frozen):
    """When a run has seen enough: looks at a schedule of prefixes, fixed before anything is
    computed.

    After ``first``, ``2 first``, ``4 first``, ... images the maps are read out, and the run ends at
    the first look at which they are reliable enough, or at ``samples``. So where it ends follows
    from the spec and the noise, not from machines or timing.

    Attributes
    ----------
    reliability
        What maps must reach (expected squared cosine with the true map).
    share
        Which share of the rows of a response must reach it; 1 by default.
    response
        The kind of response that is looked at; by default all.
    first
        Images before the first look, rounded up to whole batches.
    """

    reliability: float = Field(gt=0, lt=1)
    share: float = Field(default=1.0, gt=0, le=1)
    response: ResponseKind | None = None
    first: int = Field(default=1 << 16, ge=1, le=1 << 40)
