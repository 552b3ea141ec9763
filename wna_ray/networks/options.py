"""Forms that one architecture can have."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from wna_ray.specs.base import Frozen


def without_defaults(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Without what only some networks have, where they do not have it: so the recipes of all
    others stay what they were.
    """
    return {
        name: value
        for name, value in values.items()
        if name not in names or value not in (None, False)
    }


class OptionsSpec(Frozen):
    """Forms of a network.

    Attributes
    ----------
    softmax
        The authors' double softmax: the network ends in a softmax, and is trained with
        cross-entropy all the same.
    code
        Autoencoders only: the numbers of a code.
    tanh
        Autoencoders only: pictures in (-1, 1), as the authors', not in [0, 1].
    """

    softmax: bool = False
    code: int | None = Field(default=None, ge=1, le=1 << 16)
    tanh: bool = False

    @model_serializer(mode="wrap")
    def _own(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(plain(self), "code", "tanh")
