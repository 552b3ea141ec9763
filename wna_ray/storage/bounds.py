"""Bounds and strict types of JSON objects that may come from anybody."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wna_ray.errors import RunError
from wna_ray.text import plain

MOST_JSON = 16 << 20
MOST_OTHER = 1 << 30  # bytes of a figure, or of an object that this version does not know
ARCHIVE_BYTES = 1 << 17  # of a packed object beside its arrays
NPY_BYTES = 1 << 10  # of a .npy beside its array
_SHA256 = re.compile("[0-9a-f]{64}")


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object; `RunError` where it is none, or holds numbers that JSON does not have."""

    def refuse(text: str) -> float:
        raise ValueError(f"{text} is no number")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text[:20])

    try:
        value = json.loads(data, parse_constant=refuse, parse_float=finite)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except RecursionError:
        raise RunError(f"{where} is damaged (nested too deeply)") from None
    except ValueError as error:
        raise RunError(f"{where} is damaged ({plain(str(error), 200)})") from None
    return value


class Loose(BaseModel):
    """Types are strict, keys that a later version may add are not."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


_M = TypeVar("_M", bound=BaseModel)
Count = Annotated[int, Field(ge=0, le=1 << 41)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def is_digest(text: Any) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def agree(a: Mapping[str, Any], b: Mapping[str, Any], but: Collection[str] = ()) -> bool:
    """Whether two mappings say the same where both say anything: versions know different keys."""
    return all(a[key] == b[key] for key in a.keys() & b.keys() if key not in but)


def require_same(where: str, same: Mapping[str, bool]) -> None:
    """`RunError` where something in a spec is not as its identity says."""
    if not all(same.values()):
        raise RunError(
            f"{where} is damaged: its spec and its identity differ in"
            f" {', '.join(k for k, v in same.items() if not v)}"
        )


def unlike_spec(error: Exception) -> RunError:
    """What is wrong with a spec that lies in a run directory; its first fault in full."""
    lines = str(error).splitlines() or ["its spec is damaged"]
    return RunError(plain(lines[0], 300) + f" (and {len(lines) - 1} more)" * (len(lines) > 1))


def validated(model: type[_M], value: Mapping[str, Any], where: str) -> _M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        at = plain(".".join(str(part) for part in first["loc"]), 100)
        raise RunError(
            f"{where} is damaged"
            f" ({at + ': ' if at else ''}{first['msg'].removeprefix('Value error, ')})"
        ) from None


def within(values: NDArray[np.int64], most: int, least: int | None = None) -> bool:
    if not values.size:
        return True
    return (-most if least is None else least) <= int(values.min()) and int(values.max()) <= most
