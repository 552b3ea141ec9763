"""Names of a network's outputs."""

from __future__ import annotations

import json

from wna_ray.errors import SpecError
from wna_ray.files import read_file
from wna_ray.networks.field import Field
from wna_ray.networks.models import Model
from wna_ray.specs.output import MOST_NAME
from wna_ray.specs.run import Spec
from wna_ray.text import plain

MOST_BYTES = 64 << 20  # of a file of names


def names_of(spec: Spec, model: Model, k: int, field: Field | None) -> tuple[str, ...]:
    """Names of k outputs: the spec's, or those that the model's source knows, or numbers; units of
    a layer have their numbers there.

    Raises
    ------
    SpecError
        The spec has another number of names, or the same one twice; or its file holds no names.
    """
    if field is not None:
        return tuple(str(unit) for unit in field.units)
    if spec.classes is None:
        return model.names if len(model.names) == k else tuple(str(i) for i in range(k))
    names = _read(spec.classes) if isinstance(spec.classes, str) else spec.classes
    if len(names) != k:
        raise SpecError(
            f"classes: {len(names):,} names, but {spec.model} has {k:,} outputs"
            f" ({plain(names[0], 40)}, ...); give one name an output, in their order"
        )
    twice = next((name for name in names if names.count(name) > 1), None) if k < 5000 else None
    if twice is not None:
        raise SpecError(f"classes: '{plain(twice, 80)}' stands twice; each output needs its own")
    return names


def _read(path: str) -> tuple[str, ...]:
    """Names from a file: a JSON list, or one a line."""
    data = read_file(path, "class names, one a line, or a JSON list", MOST_BYTES, "classes")
    try:
        text = data.decode()
        names = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except ValueError as error:
        raise SpecError(f"classes: '{path}' is no text of names ({error})") from None
    while names and names[-1] == "":
        names.pop()
    if not names or not all(isinstance(name, str) and 0 < len(name) <= MOST_NAME for name in names):
        raise SpecError(
            f"classes: '{path}' does not hold names: expected one of 1 to {MOST_NAME} characters a"
            " line, or a JSON list of such"
        )
    return tuple(names)
