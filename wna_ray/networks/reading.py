"""How a network's output is read, as a run records it; `wna_ray.networks.outputs` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["scores", "one logit", "probabilities", "one probability"]

SAID: dict[Kind, str] = {
    "scores": "",
    "one logit": (
        "the network gives one number an image, read as the logit of class 1 against class 0;"
        " output: {read: values} takes it as it is"
    ),
    "probabilities": (
        "the network gives probabilities (in [0, 1], adding up to 1): no second softmax is taken,"
        " and logits are their logarithms; output: {read: values} takes them as they are"
    ),
    "one probability": (
        "the network gives one number in [0, 1] an image, read as the probability of class 1, and"
        " logits are logarithms; output: {read: logits} or {read: values} reads it otherwise"
    ),
}
NOTES: dict[Kind, str] = {
    "scores": "",
    "one logit": "of one logit",
    "probabilities": "of probabilities",
    "one probability": "of one probability",
}
"""What the table of a run has of it, in each row."""


@dataclass(frozen=True)
class Reading:
    """How a network's output is read.

    Attributes
    ----------
    field
        Path of the tensor that is taken (``logits``, ``0``, ``heads.color``); "" where the output
        is a tensor itself.
    kind
        ``scores``: rows as they are. ``one logit``: a second row, of zeros, stands before the one.
        ``probabilities``: their logarithms, whose softmax they are. ``one probability``: the
        logarithms of 1 - p and p.
    constant
        Rows that never varied in the pilot, which no centring touches (see
        `wna_ray.moments.responses.FixedPoint.uncentred`, which is recorded).
    """

    field: str = ""
    kind: Kind = "scores"
    constant: tuple[int, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Plain JSON values; empty for a tensor of scores, which was the only way once."""
        values = {"field": self.field, "read": "" if self.kind == "scores" else self.kind}
        return {name: value for name, value in values.items() if value}

    @classmethod
    def parse(cls, identity: Mapping[str, Any]) -> Reading:
        """Back from `identity`."""
        return cls(identity.get("field", ""), identity.get("read", "scores"))

    @property
    def said(self) -> tuple[str, ...]:
        """What is assumed, in lines."""
        taken = f"of what the network gives, the field '{self.field}' is read" if self.field else ""
        return tuple(line for line in (taken, SAID[self.kind]) if line)

    @property
    def note(self) -> str:
        """What is assumed, in a few words, for every row of a table."""
        taken = f"field {self.field[:60]}" if self.field else ""
        return "; ".join(part for part in (taken, NOTES[self.kind]) if part)


AS_IT_IS = Reading()
