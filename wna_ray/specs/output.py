"""How a network's output is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from wna_ray.specs.base import Frozen

MOST_NAME = 1000  # characters of a field, or of a class


class OutputSpec(Frozen):
    """Which tensor of a network's output is read, and as what; in YAML also the field alone.

    Attributes
    ----------
    field
        Path of the tensor, where the network gives several (``logits``, ``0``, ``heads.colour``);
        by default the one that is obvious, if any is.
    read
        ``auto``: what the run's first images show. ``logits``: scores of classes, or one logit.
        ``probabilities``: in [0, 1], adding up to 1 (or the one of class 1). ``values``: numbers as
        they are.
    """

    field: str | None = Field(default=None, min_length=1, max_length=MOST_NAME)
    read: Literal["auto", "logits", "probabilities", "values"] = "auto"


def as_class_names(value: Any) -> Any:
    """Names of classes; numbers are names, too."""
    if isinstance(value, list | tuple):
        return tuple(str(name) if type(name) in (int, float) else name for name in value)
    return value


def as_output(value: Any) -> Any:
    """The short form: a field alone, or its number."""
    if isinstance(value, str) or type(value) is int:
        return {"field": str(value)}
    if isinstance(value, Mapping) and type(value.get("field")) is int:
        return {**value, "field": str(value["field"])}
    return value


Output = Annotated[OutputSpec | None, BeforeValidator(as_output)]
Classes = (
    Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=MOST_NAME)], ...],
        BeforeValidator(as_class_names),
        Field(min_length=1),
    ]
    | Annotated[str, Field(min_length=1)]
    | None
)
"""Names of outputs, or a file of them."""
