"""What all specs share: strict numbers, unknown keys refused with the near ones, dotted
changes, YAML files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from wna_ray.errors import SpecError
from wna_ray.specs.yaml_text import parse_yaml, read_text

MOST_FAULTS = 12  # of a spec, that an error names


class Frozen(BaseModel):
    """A part of a spec: values do not change, and unknown keys are refused.

    Attributes
    ----------
    later
        Keys that came after the first version, each with the default that it came with.
    apart
        Keys that change no result.
    unwritten
        Keys that are written only where they have another value than their default, since files
        were written before there were these keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[Mapping[str, Any]] = {}
    apart: ClassVar[frozenset[str]] = frozenset()
    unwritten: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = handler(self)
        fields = type(self).model_fields
        for name in self.unwritten & values.keys():
            if getattr(self, name) == fields[name].default:
                del values[name]
        return values

    def identity(self) -> dict[str, Any]:
        """What of it can change a result, as plain JSON values, of which fingerprints are taken.

        There is one rule (docs/decisions/0047-identities.md). A key of `later` is left out where it
        has the default that it came with, so that the fingerprints of all runs that do not use it
        stay what they were. Should a default change, `later` keeps the old one, and the new one is
        written out. Keys of `apart` are left out.
        """
        old = {name for name, default in self.later.items() if getattr(self, name) == default}
        values = self.model_dump(mode="json", exclude=old | self.apart)
        parts = {name: getattr(self, name) for name in values}
        return values | {
            n: part.identity() for n, part in parts.items() if isinstance(part, Frozen)
        }

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, data: Any) -> Any:
        """Python takes true for 1, so ``samples: yes`` would be a run of one image."""
        for name, value in data.items() if isinstance(data, Mapping) else ():
            if isinstance(name, str) and name in _numeric(cls) and _holds_truth(value):
                raise ValueError(
                    f"{name}: expected no truth value (YAML reads yes, no, on and off as such; put"
                    " words in quotes)"
                )
        return data


@cache
def _numeric(model: type[BaseModel]) -> frozenset[str]:
    """Fields of a model that take no truth values."""
    return frozenset(
        name for name, field in model.model_fields.items() if not _takes_truth(field.annotation)
    )


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(part) for part in get_args(annotation))


def _holds_truth(value: Any, levels: int = 4) -> bool:
    """Whether a number, or a list of them (a few levels deep, as any field is), is a truth
    value.
    """
    if isinstance(value, list | tuple) and levels:
        return any(_holds_truth(part, levels - 1) for part in value)
    return isinstance(value, bool)


def as_number(value: Any) -> Any:
    """Numbers such as 1.0e3 are strings to YAML 1.1, which wants a sign in the exponent."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def as_units(value: Any) -> Any:
    return [value] if type(value) is int else value


def as_classes(value: Any) -> Any:
    if not isinstance(value, str):
        return as_units(value)
    parts = value.split(":")
    if (
        not 2 <= len(parts) <= 3
        or not all(part.isdecimal() and len(part) < 6 for part in parts)
        or int(parts[-1]) == 0
    ):
        raise ValueError(f"'{value}' is no range; give numbers, or START:STOP or START:STOP:STEP")
    return tuple(range(*map(int, parts)))


def as_names(value: Any) -> Any:
    return tuple(str(name) for name in value) if isinstance(value, list) else value


class Written(Frozen):
    """What a person writes as a YAML file."""

    @classmethod
    def parse(cls, data: Mapping[str, Any], source: str = "spec") -> Self:
        """Validate a mapping; every fault found is one line of a `SpecError` that starts with
        `source`.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = []
            faults = error.errors()
            for fault in faults:
                if fault["type"] == "too_short" and _has_faults(fault["loc"], faults):
                    continue  # pydantic drops faulty items, then finds too few of them
                where = ".".join(
                    str(part)
                    for part in fault["loc"]
                    if not isinstance(part, str) or "[" not in part
                )
                message = fault["msg"].removeprefix("Value error, ")
                if fault["type"] == "extra_forbidden":
                    message = (
                        f"unknown key; known here are {', '.join(_keys(cls, fault['loc'][:-1]))}"
                    )
                lines.append(f"{source}: {where + ': ' if where else ''}{message}")
            if len(lines) > MOST_FAULTS:
                lines[MOST_FAULTS:] = [f"{source}: and {len(lines) - MOST_FAULTS:,} more faults"]
            raise SpecError("\n".join(lines)) from None
        except UnicodeEncodeError:
            raise SpecError(
                f"{source}: holds half a character (a lone surrogate), which is no text"
            ) from None

    def chosen_from(self, done: Self) -> Self:
        """With what a job chooses when it begins taken from the spec of one that has begun;
        most choose nothing.
        """
        return self

    @classmethod
    def load(
        cls, path: str | Path, changes: Mapping[str, Any] | None = None, full: bool = False
    ) -> Self:
        """Read a YAML file (see `read_yaml`)."""
        return cls.parse(read_yaml(path, changes, full), str(path))


def read_yaml(
    path: str | Path, changes: Mapping[str, Any] | None = None, full: bool = False
) -> dict[str, Any]:
    """Read the YAML file of a spec. Its key ``full``, where it has one, is no part of the spec.

    Parameters
    ----------
    path
        The file. A relative ``stimulus.offset`` or ``weights=`` path stays relative to the working
        directory.
    changes
        ``{"stimulus.scale": 0.5}``: dotted keys set after reading.
    full
        First make the changes that the file keeps under ``full`` (dotted keys: what its full size
        is).
    """
    data = parse_yaml(read_text(path), str(path))
    if not isinstance(data, dict):
        raise SpecError(
            f"{path}: expected a mapping (model:, stimulus:, samples:, ...), got"
            f" {type(data).__name__}"
        )
    larger = data.pop("full", None)
    if full and not isinstance(larger, dict):
        raise SpecError(
            f"--full: {path} does not say what its full size is; give it a key full: {{samples:"
            " ...}, or leave --full out"
        )
    apply(data, larger if full else {}, "full:", str(path))
    apply(data, changes or {}, "--set", str(path))
    return data


def apply(data: dict[str, Any], changes: Mapping[str, Any], where: str, source: str) -> None:
    """Make changes of dotted keys in nested mappings; `told` is what an error calls them, in
    `source`.
    """
    for key, value in changes.items():
        _set(data, str(key), value, where, source)


def _has_faults(where: tuple[int | str, ...], faults: Sequence[Any]) -> bool:
    """Whether a list has faults in it."""
    return any(
        len(fault["loc"]) > len(where) and fault["loc"][: len(where)] == where for fault in faults
    )


def _keys(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Keys that a spec knows at a place."""
    for part in where:
        nested = (
            _models(model.model_fields[part].annotation)
            if isinstance(part, str) and part in model.model_fields
            else ()
        )
        model = next(iter(nested), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _set(data: dict[str, Any], key: str, value: Any, where: str, source: str) -> None:
    *path, last = key.split(".")
    node = data
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise SpecError(f"{where} {key}: '{part}' is not a mapping in {source}")
    node[last] = value
