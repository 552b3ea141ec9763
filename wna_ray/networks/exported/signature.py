"""The signature of an exported program: its inputs and outputs, and how values are packed.

Nothing of the file is trusted. The signature must agree with the graph, of which it is the other
half. Values are packed into tuples, lists and dictionaries only, so that no type is looked up by a
name of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wna_ray.networks.exported.archive import (
    PYTHON,
    STATIC,
    Refused,
    dotted,
    field,
    natural,
    odd,
    read_json,
    single,
    typed,
    whole,
)
from wna_ray.networks.exported.arguments import READERS, UNUSED, Name
from wna_ray.networks.exported.graph import Graph, input_name
from wna_ray.networks.exported.program import Fed, Input, Range, Signature, Tree, Weight
from wna_ray.text import plain

_SYMBOL = re.compile(r"Symbol\('([a-z]\d{1,9})'(, [a-z]{1,20}=True){0,4}\)", re.ASCII)
_RETURNED = re.compile(r"torch\.return_types\.[a-z_]{1,50}")

_WRITTEN = {
    "buffer_mutation": "buffer_name",
    "parameter_mutation": "parameter_name",
    "user_input_mutation": "user_input_name",
}


def read_signature(
    module: Mapping[str, Any],
    graph: Graph,
    constraints: Mapping[str, Any],
) -> Signature:
    """How a program is fed and what it gives."""
    signature, described = field(module, "signature", dict), field(module, "graph", dict)
    metas = field(described, "tensor_values", dict)
    specs = field(signature, "input_specs", list)
    inputs = tuple(_input(*single(spec, "an input of it"), metas) for spec in specs)
    if tuple(taken.name for taken in inputs) != graph.takes:
        raise odd("its inputs are not those of its graph")
    outputs = field(described, "outputs", list)
    copied = _copied(field(signature, "output_specs", list), inputs, outputs, graph)
    takes, gives = _trees(field(module, "module_call_graph", list))
    if takes.leaves() != sum(isinstance(taken.source, Fed) for taken in inputs):
        raise odd("its arguments are not the inputs of its graph")
    if gives.leaves() != len(graph.gives) - len(copied):
        raise odd("its outputs are not those of its graph")
    return Signature(inputs, _ranges(constraints), copied, takes, gives)


def _input(kind: str, spec: Any, metas: Mapping[str, Any]) -> Input:
    spec = typed(dict, spec, "an input of it")
    if kind == "user_input":
        argument = spec.get("arg")
        return _user_input(input_name(argument), *single(argument, "an input of it"), metas)
    if kind == "constant_input":
        given, value = single(spec.get("value"), "an input of it")
        if given not in UNUSED:
            raise odd("an input of it is fixed to something unknown")
        name = plain(field(spec, "name", str), 80)
        return Input(None, Fed(name, "fixed", value=READERS[given](value, set())))
    name = field(typed(dict, spec.get("arg"), "an input of it"), "name", str)
    if kind == "parameter":
        return Input(name, Weight(dotted(spec.get("parameter_name")), "parameter"))
    if kind == "tensor_constant":
        return Input(name, Weight(dotted(spec.get("tensor_constant_name")), "constant"))
    if kind != "buffer":
        raise Refused(f"it takes a {plain(kind, 40)}, which is no tensor", PYTHON)
    lasting = field(spec, "persistent", bool)
    return Input(name, Weight(dotted(spec.get("buffer_name")), "buffer" if lasting else "passing"))


def _user_input(name: str | None, kind: str, _value: Any, metas: Mapping[str, Any]) -> Input:
    """An input of the caller's."""
    if name is None:
        raise odd("an input of it has no name")
    if kind == "as_sym_int":
        return Input(name, Fed(plain(name, 80), "number"))
    meta = typed(dict, metas.get(name), "an input of it")
    sizes = tuple(_size(size) for size in field(meta, "sizes", list))
    return Input(name, Fed(plain(name, 80), "tensor", sizes))


def _size(size: Any) -> int | str:
    """A size of an input: a number, or the name of one that is free."""
    kind, value = single(size, "a size in it")
    if kind == "as_int":
        return natural(value)
    text = field(typed(dict, value, "a size in it"), "expr_str", str)
    symbol = _SYMBOL.fullmatch(text) if kind == "as_expr" else None
    if symbol is None:
        raise Refused("a size of its input is more than a number or a free size", STATIC)
    return symbol[1]


def _copied(
    specs: Sequence[Any],
    inputs: Sequence[Input],
    outputs: Sequence[Any],
    graph: Graph,
) -> tuple[tuple[int, int], ...]:
    """Which outputs of the graph are written over which of its inputs."""
    if len(specs) != len(outputs):
        raise odd("its outputs are not those of its graph")
    pairs = []
    for place, (kind, spec) in enumerate(single(spec, "an output of it") for spec in specs):
        entry = typed(dict, spec, "an output of it")
        key = _WRITTEN.get(kind)
        if kind == "user_output":
            if entry.get("arg") != outputs[place]:
                raise odd("its outputs are not those of its graph")
        elif key is None:
            raise Refused(f"it gives a {plain(kind, 40)}, which is no output", PYTHON)
        else:
            if graph.gives[place] != Name(field(field(entry, "arg", dict), "name", str)):
                raise odd("its outputs are not those of its graph")
            pairs.append((place, _written_over(field(entry, key, str), kind, inputs)))
    return tuple(pairs)


def _written_over(target: str, kind: str, inputs: Sequence[Input]) -> int:
    """Which input an output is written over."""
    kinds = ("parameter",) if kind == "parameter_mutation" else ("buffer", "passing")
    for place, taken in enumerate(inputs):
        source = taken.source
        if isinstance(source, Fed):
            if kind == "user_input_mutation" and (source.kind, taken.name) == ("tensor", target):
                return place
        elif kind != "user_input_mutation" and source.path == target and source.kind in kinds:
            return place
    raise odd(f"it changes '{plain(target, 80)}', which it does not take")


def _ranges(constraints: Mapping[str, Any]) -> dict[str, Range]:
    """Least and most of free sizes. Where torch has seen no less than 2, it lets less pass."""
    ranges = {}
    for name, limits in constraints.items():
        entry = typed(dict, limits, "a range in it")
        least, most = entry.get("min_val"), entry.get("max_val")
        low = 0 if least is None else whole(least)
        ranges[name] = (low if low > 2 else 0, math.inf if most is None else whole(most))
    return ranges


# How values are packed.


def _trees(calls: Sequence[Any]) -> tuple[Tree, Tree]:
    """How arguments and outputs are packed."""
    first = typed(dict, calls[0] if calls else None, "its first call")
    if first.get("fqn") != "":
        raise odd("its first call is not of the whole network")
    signature = field(first, "signature", dict)
    takes, gives = (_packing(field(signature, key, str)) for key in ("in_spec", "out_spec"))
    if takes.kind != "tuple" or [child.kind for child in takes.children] != ["tuple", "dict"]:
        raise odd("its inputs are no arguments of a function")
    return takes, gives


def _packing(text: str) -> Tree:
    """How values are packed, from JSON."""
    pair = typed(list, read_json(text.encode(), "a packing in it"), "a packing in it")
    if len(pair) != 2 or pair[0] != 1:
        raise odd("a packing in it is of another version")
    return _tree(pair[1])


def _tree(node: Any) -> Tree:
    entry = typed(dict, node, "a packing in it")
    kind, context = entry.get("type"), entry.get("context")
    children = tuple(_tree(child) for child in field(entry, "children_spec", list))
    if kind is None and context is None and not children:
        return Tree("leaf")
    name = typed(str, kind, "a packing in it")
    inside = read_json(typed(str, context, "a packing in it").encode(), "a packing in it")
    if name in ("builtins.tuple", "builtins.list") or _RETURNED.fullmatch(name):
        if inside is not None:
            raise odd("a packing in it has more than its parts")
        return Tree("list" if name == "builtins.list" else "tuple", (), children)
    if name not in ("builtins.dict", "collections.OrderedDict"):
        way = "export it again with tensors, tuples, lists and dictionaries"
        raise Refused(f"it packs values into '{plain(name, 80)}', which torch would import", way)
    keys = typed(list, inside, "a packing in it")
    if any(type(key) not in (str, int) for key in keys):
        raise Refused("it packs values under keys that are not words", "use words")
    if len(keys) != len(children) or len({*keys}) != len(keys):
        raise odd("a packing in it has other keys than parts")
    return Tree("dict" if name == "builtins.dict" else "ordered", tuple(keys), children)
