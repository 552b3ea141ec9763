"""Arguments of the calls in an exported program: numbers, names of values, enumerations of torch.

Nothing of the file is trusted. A name must be that of a value which is made before it is used, and
names stay keys of dictionaries. Types, layouts and formats are numbers that are looked up in tables
of what is known, and a device is a CPU or one of the first 64 GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wna_ray.networks.exported.archive import (
    AGAIN,
    PLAIN,
    Refused,
    field,
    odd,
    real,
    single,
    typed,
    whole,
)
from wna_ray.text import plain

Known = set[str]
"""Names of the values that are made so far."""

Reader = Callable[[Any, Known], Any]
"""Gives an argument, from JSON and the names that it may use."""

_VALUE = re.compile(r"[^\W\d]\w{0,999}")

_DTYPES: dict[int, torch.dtype] = {
    **dict(
        enumerate(
            (
                *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
                *(torch.float16, torch.float32, torch.float64),
                *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.bfloat16),
            ),
            start=1,
        ),
    ),
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
    33: torch.float8_e8m0fnu,
    34: torch.uint32,
    35: torch.uint64,
}

_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Name:
    """A value that an input or an earlier step gives."""

    text: str


def fresh(value: Any, known: Known) -> str:
    """The name of a new value, which is known from now on."""
    name = typed(str, value, "a name in it")
    if not _VALUE.fullmatch(name):
        raise odd(f"a name in it is '{plain(name, 80)}'")
    if name in known:
        raise odd(f"it makes '{plain(name, 80)}' twice")
    known.add(name)
    return name


def _used(value: Any, known: Known) -> Name:
    """The name of a value that is known."""
    name = typed(str, value, "a name in it")
    if name not in known:
        raise odd(f"it uses '{plain(name, 80)}' before it is made")
    return Name(name)


def read_dtype(value: Any) -> torch.dtype:
    """A type of numbers."""
    number = whole(value)
    if number not in _DTYPES:
        raise Refused(f"it has numbers of a type that is unknown here ({number})", AGAIN)
    return _DTYPES[number]


def _read_format(value: Any) -> torch.memory_format:
    number = whole(value)
    if number not in _FORMATS:
        raise odd("a memory format in it is unknown")
    return _FORMATS[number]


def read_layout(value: Any) -> torch.layout:
    """A layout in memory, which must be the plain one."""
    if whole(value) != _STRIDED:
        raise Refused("it holds sparse or packed tensors", PLAIN)
    return torch.strided


def read_device(value: Any) -> torch.device:
    """A device, which must be a CPU or a GPU."""
    device = typed(dict, value, "a device in it")
    kind, index = field(device, "type", str), device.get("index")
    if kind not in ("cpu", "cuda") or (index is not None and not 0 <= whole(index) < 64):
        raise Refused(f"it runs on '{plain(kind, 40)}'", "export it again on the CPU")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _complex(value: Any) -> complex:
    number = typed(dict, value, "a number in it")
    return complex(real(number.get("real")), real(number.get("imag")))


def _truth(value: Any) -> bool:
    return typed(bool, value, "a truth value in it")


def _text(value: Any) -> str:
    return typed(str, value, "a word in it")


def _simply(read: Callable[[Any], Any]) -> Reader:
    return lambda value, known: read(value)


def _many(read: Reader) -> Reader:
    def reader(value: Any, known: Known) -> tuple[Any, ...]:
        return tuple(read(part, known) for part in typed(list, value, "an argument in it"))

    return reader


def _named_or(key: str, read: Callable[[Any], Any]) -> Reader:
    """A number, or the name of one that is computed."""

    def reader(value: Any, known: Known) -> Any:
        kind, inside = single(value, "an argument in it")
        if kind == "as_name":
            return _used(inside, known)
        if kind != key:
            raise odd(f"a number in it is {plain(kind, 40)}")
        return read(inside)

    return reader


def _read_tensor(value: Any, known: Known) -> Name:
    return _used(typed(dict, value, "an argument in it").get("name"), known)


def _read_optional(value: Any, known: Known) -> Name | None:
    kind, inside = single(value, "an argument in it")
    if kind not in ("as_tensor", "as_none"):
        raise odd(f"a tensor in it is {plain(kind, 40)}")
    return None if kind == "as_none" else _read_tensor(inside, known)


READERS: dict[str, Reader] = {
    "as_none": lambda value, known: None,
    "as_int": _simply(whole),
    "as_float": _simply(real),
    "as_bool": _simply(_truth),
    "as_complex": _simply(_complex),
    "as_string": _simply(_text),
    "as_scalar_type": _simply(read_dtype),
    "as_memory_format": _simply(_read_format),
    "as_layout": _simply(read_layout),
    "as_device": _simply(read_device),
    "as_tensor": _read_tensor,
    "as_optional_tensor": _read_optional,
    "as_sym_int": _named_or("as_int", whole),
    "as_sym_float": _named_or("as_float", real),
    "as_sym_bool": _named_or("as_bool", _truth),
    "as_ints": _many(_simply(whole)),
    "as_floats": _many(_simply(real)),
    "as_bools": _many(_simply(_truth)),
    "as_tensors": _many(_read_tensor),
    "as_optional_tensors": _many(_read_optional),
    "as_sym_ints": _many(_named_or("as_int", whole)),
    "as_sym_floats": _many(_named_or("as_float", real)),
    "as_sym_bools": _many(_named_or("as_bool", _truth)),
}
"""What an argument may be: numbers, values by their names, and torch's own enumerations."""

UNUSED = words("as_none as_int as_float as_bool as_string")
"""Kinds of inputs that a graph does not use: their values are fixed."""
