"""The graph of an exported program: calls one after another, read and run.

The operators that `exported_operators` finds are trusted, and Python's arithmetic on numbers that
stay as small as sizes. The order of the file's calls is not: each uses only what an earlier one
gives, and its results must be as many as are said.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wna_ray.networks.exported.archive import PYTHON, Refused, field, listed, odd, single, typed
from wna_ray.networks.exported.arguments import READERS, UNUSED, Known, Name, fresh, words
from wna_ray.networks.exported.operators import checked, find_overload, read_arguments, schema_of
from wna_ray.text import plain

MOST_BITS = 64  # of a size

Given = str | None | tuple[Any, ...]
"""Where a result goes: to a name, to nowhere, or its parts each somewhere."""

Block = tuple[Callable[..., Any], tuple[Any, ...]]
"""A call that runs a part of a graph, and what that is fed."""

_COMPARED = words("eq ne le ge lt gt neg pos abs mul add sub floordiv truediv mod pow")
_COMBINED = words("and_ or_ not_ lshift rshift")
_NUMBERS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in _COMPARED | _COMBINED},
    **{f"math.{name}": getattr(math, name) for name in words("trunc ceil floor")},
    **{f"torch.{name}": getattr(torch, name) for name in words("sym_int sym_float sym_not")},
    **{f"torch.{name}": getattr(torch, name) for name in words("sym_ite sym_max sym_min")},
}
"""Arithmetic on sizes, by the names that torch writes."""

_COUNTED = words("as_int as_float as_bool as_sym_int as_sym_float as_sym_bool")
_OUTPUTS = _COUNTED | words("as_none as_tensor")


# What a graph is made of.


@dataclass(frozen=True)
class _Step:
    """One call. `alone` where it gives one value, not several; `spent` are not needed after."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    gives: tuple[Given, ...]
    alone: bool
    spent: tuple[str, ...] = ()

    def run(self, values: dict[str, Any]) -> None:
        """Call, and put what it gives among the values."""
        arguments = [_filled(argument, values) for argument in self.arguments]
        named = {name: _filled(argument, values) for name, argument in self.named}
        result = self.call(*arguments, **named)
        _put(values, self.gives, (result,) if self.alone else result)
        for name in self.spent:
            del values[name]


@dataclass(frozen=True)
class Graph:
    """Calls one after another; `takes` has None for an input that none of them uses."""

    takes: tuple[str | None, ...]
    steps: tuple[_Step, ...]
    gives: tuple[Any, ...]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for inputs in order."""
        named = zip(self.takes, inputs, strict=True)
        values = {name: value for name, value in named if name is not None}
        for step in self.steps:
            step.run(values)
        return [_filled(argument, values) for argument in self.gives]


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:
    """An argument with values instead of their names."""
    if isinstance(argument, Name):
        return values[argument.text]
    if isinstance(argument, tuple):
        return [_filled(part, values) for part in argument]
    return argument


def _put(values: dict[str, Any], gives: Sequence[Given], results: Sequence[Any]) -> None:
    """Put results where they belong."""
    if len(gives) != len(results):
        raise ValueError(f"an operator gave {len(results)} values instead of {len(gives)}")
    for given, result in zip(gives, results, strict=True):
        if isinstance(given, str):
            values[given] = result
        elif given is not None:
            _put(values, given, result)


# How it is read.


def read_graph(description: Mapping[str, Any]) -> Graph:
    """The calls of a graph."""
    known = set[str]()
    takes = tuple(input_name(argument) for argument in field(description, "inputs", list))
    for name in takes:
        if name is not None:
            fresh(name, known)
    nodes = listed(description.get("nodes"), dict, "a node of its graph")
    steps = [_step(node, known) for node in nodes]
    gives = []
    for argument in field(description, "outputs", list):
        kind, value = single(argument, "an output of its graph")
        if kind not in _OUTPUTS:
            raise Refused(f"its graph gives {plain(kind, 40)}, which is no tensor", PYTHON)
        gives.append(READERS[kind](value, known))
    return Graph(takes, _released(steps, gives), tuple(gives))


def input_name(argument: Any) -> str | None:
    """The name under which a graph uses an input, None where it does not."""
    kind, value = single(argument, "an input of its graph")
    if kind in UNUSED:
        return None
    key = {"as_tensor": "name", "as_sym_int": "as_name"}.get(kind)
    if key is None:
        raise Refused(f"its graph takes {plain(kind, 40)}, which is no tensor", PYTHON)
    return field(typed(dict, value, "an input of its graph"), key, str)


def _released(steps: Sequence[_Step], gives: Iterable[Any]) -> tuple[_Step, ...]:
    """The steps, each with the values that nothing after it needs: they are let go."""
    needed, released = set(_names(gives)), []
    for step in reversed(steps):
        used = {*_names(step.arguments), *_names(argument for _, argument in step.named)}
        released.append(
            replace(step, spent=tuple(sorted((used | {*_places(step.gives)}) - needed)))
        )
        needed |= used
    return tuple(reversed(released))


def _names(arguments: Iterable[Any]) -> Iterator[str]:
    for argument in arguments:
        if isinstance(argument, Name):
            yield argument.text
        elif isinstance(argument, tuple):
            yield from _names(argument)


def _places(gives: Iterable[Given]) -> Iterator[str]:
    for given in gives:
        if isinstance(given, str):
            yield given
        elif given is not None:
            yield from _places(given)


def _step(node: Mapping[str, Any], known: Known) -> _Step:
    """A node of a graph as a call of something known."""
    target = field(node, "target", str)
    inputs = listed(node.get("inputs"), dict, "an argument in it")
    if target in _NUMBERS:
        arguments = _counted(inputs, known)
        gives = _results(node, known)
        if len(gives) != 1:
            raise odd("arithmetic in it gives more than a number")
        return _Step(_arithmetic(_NUMBERS[target]), arguments, (), gives, True)
    if target in _BLOCKS:
        call, arguments = _BLOCKS[target](inputs, known)
        return _Step(call, arguments, (), _results(node, known), False)
    overload = find_overload(target)
    positional, named = read_arguments(overload, inputs, known)
    gives, returned = _results(node, known), len(schema_of(overload).returns)
    if len(gives) != returned:
        raise odd(f"'{overload}' in it gives {len(gives)} values instead of {returned}")
    return _Step(checked(overload), positional, named, gives or (None,), returned <= 1)


def _results(node: Mapping[str, Any], known: Known) -> tuple[Given, ...]:
    """Where the results of a node go."""
    results: list[Given] = []
    for output in field(node, "outputs", list):
        kind, value = single(output, "a result in it")
        if kind == "as_none":
            results.append(None)
        elif kind == "as_tensors":
            parts = listed(value, dict, "a result in it")
            results.append(tuple(fresh(part.get("name"), known) for part in parts))
        elif kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
            entry = typed(dict, value, "a result in it")
            results.append(fresh(entry.get("name" if kind == "as_tensor" else "as_name"), known))
        else:
            raise odd(f"a result in it is {plain(kind, 40)}")
    return tuple(results)


# Arithmetic on sizes, and parts of graphs that run under ``torch.no_grad()`` and the like.


def _counted(inputs: Sequence[Mapping[str, Any]], known: Known) -> tuple[Any, ...]:
    """The arguments of arithmetic on sizes."""
    arguments = []
    for argument in inputs:
        kind, value = single(argument.get("arg"), "an argument in it")
        if kind not in _COUNTED:
            raise Refused(f"it counts with {plain(kind, 40)}, which is no number", PYTHON)
        arguments.append(READERS[kind](value, known))
    return tuple(arguments)


def _arithmetic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic on sizes that stay sizes: no numbers of a million digits."""

    def call(*values: Any) -> Any:
        for value in values:
            if not isinstance(value, int | float | torch.SymInt | torch.SymFloat | torch.SymBool):
                raise TypeError(f"arithmetic on sizes was given a {type(value).__name__}")
        if function in (operator.pow, operator.lshift) and values[1] > MOST_BITS:
            raise OverflowError(f"a size of more than {MOST_BITS} bits")
        result = function(*values)
        if type(result) is int and result.bit_length() > MOST_BITS:
            raise OverflowError(f"a size of more than {MOST_BITS} bits")
        return result

    return call


def _with_gradients(inputs: Sequence[Mapping[str, Any]], known: Known) -> Block:
    """A part of a graph that runs with gradients on or off."""
    (enabled,), inside, rest = _block(inputs, ("as_bool",), known)

    def call(*values: Any) -> list[Any]:
        with torch.set_grad_enabled(enabled):
            return inside.run(values)

    return call, rest


def _with_autocast(inputs: Sequence[Mapping[str, Any]], known: Known) -> Block:
    """A part of a graph that runs in mixed precision."""
    kinds = ("as_string", "as_scalar_type", "as_bool", "as_bool")
    (device, dtype, enabled, cached), inside, rest = _block(inputs, kinds, known)
    if device not in ("cpu", "cuda") or not isinstance(enabled, bool):
        raise Refused("it is in mixed precision on another device", "export it again on the CPU")

    def call(*values: Any) -> list[Any]:
        with torch.autocast(device, dtype, enabled, cached):
            return inside.run(values)

    return call, rest


_BLOCKS: dict[str, Callable[[Sequence[Mapping[str, Any]], Known], Block]] = {
    "torch.ops.higher_order.wrap_with_set_grad_enabled": _with_gradients,
    "torch.ops.higher_order.wrap_with_autocast": _with_autocast,
}


def _block(
    inputs: Sequence[Mapping[str, Any]],
    kinds: Sequence[str],
    known: Known,
) -> tuple[list[Any], Graph, tuple[Any, ...]]:
    """The settings of a block, which are of these kinds or none; its graph; what that is fed."""
    arguments = [single(argument.get("arg"), "an argument in it") for argument in inputs]
    if any(argument.get("name") != "" for argument in inputs) or len(inputs) <= len(kinds):
        raise odd("a part of its graph is given other arguments than it takes")
    values = []
    for place, (kind, value) in enumerate(arguments):
        if place == len(kinds) and kind == "as_graph":
            part = field(typed(dict, value, "a part of its graph"), "graph", dict)
            values.append(read_graph(part))
            continue
        fits = place > len(kinds) or kind in (*kinds[place : place + 1], "as_none")
        if kind not in READERS or place == len(kinds) or not fits:
            raise odd(f"a part of its graph is given {plain(kind, 40)}")
        values.append(READERS[kind](value, known))
    if values[0] is None:
        raise odd("a part of its graph has no setting")
    return values[: len(kinds)], values[len(kinds)], tuple(values[len(kinds) + 1 :])
