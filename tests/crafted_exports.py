"""Exported programs that somebody made to do harm, out of honest ones.

Each would make a file, the marker, if what is hidden in it ran; some by importing the module
`TRAP`, which makes it. They are the same in each run of the tests.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

TRAP = "trap_of_exports"
ROOT = "archive"
PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
RANDOM_CASES = 150


class Everything(nn.Module):
    """A small network with what graphs may hold: lists, words, parts, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.register_buffer("scale", torch.rand(4), persistent=False)
        self.shift = torch.rand(4)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = F.gelu(self.bn(self.conv(x)), approximate="tanh")
        with torch.no_grad():
            z = y.mean((2, 3)) * 2
        a, b = y.mean((2, 3)).chunk(2, 1)
        y = torch.cat([b, a], 1) * self.scale + self.shift + torch.tensor([0.5])
        y = torch.einsum("ij,kj->ik", y, self.head.weight) + z.sum()
        return {"first": y, "more": (z, y.reshape(x.shape[0] * 5))}


class Spoken(nn.Module):
    """A small network that is told a word."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, *, mode: str = "plain") -> torch.Tensor:
        return self.head(x) if mode == "plain" else self.head(-x)


@lru_cache(maxsize=8)
def unzipped(data: bytes) -> Mapping[str, bytes]:
    """Members of an honest archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


@dataclass(frozen=True)
class Honest:
    """An exported program, and what it takes."""

    data: bytes
    x: torch.Tensor
    more: Mapping[str, Any] = field(default_factory=dict)

    def members(self) -> dict[str, bytes]:
        """By their names in the archive's folder."""
        return dict(unzipped(self.data))

    def program(self) -> dict[str, Any]:
        """The description of the program."""
        parsed: dict[str, Any] = json.loads(self.members()[PROGRAM])
        return parsed

    def outputs(self, module: nn.Module) -> list[torch.Tensor]:
        """What a module gives for the input, flat."""
        with torch.inference_mode():
            found = module(self.x.clone(), **self.more)
        return list(torch.utils._pytree.tree_leaves(found))


@dataclass(frozen=True)
class Crafted:
    """A hostile archive: what is hidden in it, its bytes, and the program that it was made of."""

    name: str
    data: bytes
    base: Honest


def exported(
    network: nn.Module,
    x: torch.Tensor,
    more: Mapping[str, Any] | None = None,
    **options: Any,
) -> Honest:
    """A network as `torch.export.save` writes it."""
    buffer = io.BytesIO()
    program = torch.export.export(network, (x,), kwargs=dict(more or {}), **options)
    torch.export.save(program, buffer)
    return Honest(buffer.getvalue(), x, more or {})


def bases() -> dict[str, Honest]:
    """The honest programs that the hostile ones are made of."""
    torch.manual_seed(3)
    network, spoken = Everything().eval(), Spoken().eval()
    x, free = torch.randn(2, 3, 6, 6), ({0: torch.export.Dim("n")},)
    return {
        "fixed": exported(network, x),
        "free": exported(network, x, dynamic_shapes=free),
        "spoken": exported(spoken, torch.randn(2, 4), {"mode": "plain"}),
    }


# Archives, also such as no zip writer would make.


@dataclass(frozen=True)
class Entry:
    """A member of an archive, as its two heads tell it."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    inner: str | None = None
    size: int | None = None
    crc: int | None = None
    before: bytes = b""
    behind: bytes = b""
    at: int | None = None


def zipped(entries: Sequence[Entry], before: bytes = b"", comment: bytes = b"") -> bytes:
    """An archive of these members; `before` lies before it."""
    body, heads = before, b""
    for entry in entries:
        body += entry.before
        start = len(body) if entry.at is None else entry.at
        size = len(entry.data) if entry.size is None else entry.size
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        method, flags, whole = entry.method, entry.flags, entry.data
        if method == zipfile.ZIP_DEFLATED:
            whole = deflated(entry.data)
        common = (flags, method, 0, 0x21, crc, len(whole), size)
        inner = (entry.name if entry.inner is None else entry.inner).encode()
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, *common, len(inner), 0)
        if entry.at is None:
            body += head + inner + whole + entry.behind
        name = entry.name.encode()
        told = (20, 20, *common, len(name), 0, 0, 0, 0, 0, start)
        heads += struct.pack("<4s6H3L5H2L", b"PK\1\2", *told) + name
    ends = (0, 0, len(entries), len(entries), len(heads), len(body), len(comment))
    return body + heads + struct.pack("<4s4H2LH", b"PK\5\6", *ends) + comment


@lru_cache(maxsize=64)
def deflated(data: bytes) -> bytes:
    """Compressed as archives compress."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


def entries(members: Mapping[str, bytes]) -> list[Entry]:
    """Members in the archive's folder."""
    return [Entry(f"{ROOT}/{name}", data) for name, data in members.items()]


def archive(base: Honest, changed: Mapping[str, bytes | None]) -> bytes:
    """An honest archive with some members changed, added, or (None) left out."""
    members = {**base.members(), **changed}
    return zipped(entries({name: data for name, data in members.items() if data is not None}))


def described(base: Honest, program: Any) -> bytes:
    """An honest archive with another description of its program."""
    return archive(base, {PROGRAM: json.dumps(program).encode()})


def altered(base: Honest, change: Callable[[dict[str, Any]], object]) -> bytes:
    """An honest archive whose description is changed."""
    program = base.program()
    change(program)
    return described(base, program)


def renamed(base: Honest, old: str, new: str) -> bytes:
    """An honest archive with a name changed everywhere."""
    before, after = json.dumps(old).encode(), json.dumps(new).encode()
    texts = {name: base.members()[name] for name in (PROGRAM, WEIGHTS, CONSTANTS)}
    return archive(base, {name: text.replace(before, after) for name, text in texts.items()})


def placed(tree: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of nested JSON with another value at a place."""
    found = copy.deepcopy(tree)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in nested JSON."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


# What is hidden.


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def trap(marker: str) -> str:
    """The source of the module `TRAP`."""
    return (
        "import enum, collections\n"
        f"open({marker!r}, 'w').close()\n"
        "class Trap(enum.Enum):\n    A = 1\n"
        "Pair = collections.namedtuple('Pair', 'a b')\n"
    )


def saved(payload: Any, protocol: int = 2) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(payload, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def expressions(marker: str) -> list[str]:
    """Sizes that do something when they are evaluated."""
    made = f"open({marker!r}, 'w')"
    return [
        made,
        f"__import__({TRAP!r})",
        f"Integer({made} and 2)",
        f"Max(2, len([{made}]))",
        f"eval({made!r})",
        f"exec({made!r})",
        f"(lambda: {made})()",
        f"getattr(__import__('io'), 'open')({marker!r}, 'w')",
        f"Symbol('s0', positive={made})",
        f"Mul(Integer(2), {made})",
    ]


def identifiers(marker: str) -> list[str]:
    """Names that are more than names where they become source."""
    made = f"open({marker!r}, 'w')"
    return [
        f"x={made}",
        f"x, y={made}",
        f"x):\n    {made}\ndef forward(self, x",
        f"x\n{made}\n",
        f"x; {made}; y",
        f"x' + str({made}) + '",
        f'x" + str({made}) + "',
        f"x\nimport {TRAP}\n",
        f"x: {made}",
    ]


def guards(marker: str) -> list[str]:
    """Conditions that do something when they are compiled or asked."""
    made = f"open({marker!r}, 'w')"
    return [
        made,
        f"__import__({TRAP!r})",
        f"True, 'a')\n  {made}\n  torch._assert(True",
        f"L['x'].size()[0] == 2 or {made}",
        f"True)\nopen({marker!r}, 'w')\n(lambda: 0",
        f'True, "") or {made} #',
    ]


# The crafted archives, by what they use.


def crafted(honest: Mapping[str, Honest], marker: Path) -> list[Crafted]:
    """All hostile archives."""
    found, where = [], str(marker)
    for make in (
        members,
        twins,
        foreign,
        archives,
        treespecs,
        sizes,
        names,
        conditions,
        targets,
        arguments,
        pickles,
        metadata,
        versions,
        texts,
        weights,
        struck,
    ):
        for name, base, data in make(honest, where):
            found.append(Crafted(f"{make.__name__}: {name}", data, honest[base]))
    return found


Case = tuple[str, str, bytes]
Bases = Mapping[str, Honest]


def hostile_programs(base: Honest, marker: str) -> dict[str, bytes]:
    """Descriptions of programs that would do harm."""
    program, input_name = base.program(), base.program()["graph_module"]["graph"]["inputs"][-1]
    told = ("graph_module", "graph", "tensor_values", input_name["as_tensor"]["name"], "sizes", 0)
    size = {"as_expr": {"expr_str": expressions(marker)[0], "hint": {"as_int": 2}}}
    return {
        "size": json.dumps(placed(program, told, size)).encode(),
        "guard": json.dumps(program | {"guards_code": guards(marker)[2:3]}).encode(),
    }


def members(honest: Bases, marker: str) -> Iterator[Case]:
    """Other names, suffixes and cases."""
    base = honest["fixed"]
    for kind, program in hostile_programs(base, marker).items():
        for name in (
            *("model.xson", "model.JSON", "model.jsoN", "model.txt", "model_json", "model.json "),
            *("Model.json", "MODEL.JSON", "other.json", "m.json", "../model.json", "a/b.json"),
            *("model.json/", "model.json\u0000", ".json", "mod\u0435l.json", "model.json.json"),
        ):
            yield f"{kind} in models/{name!r}", "fixed", archive(base, {f"models/{name}": program})
            called = {  # torch takes the last five letters off, and reads these, too
                WEIGHTS.replace("model_", f"{name[:-5]}_"): base.members()[WEIGHTS],
                CONSTANTS.replace("model_", f"{name[:-5]}_"): base.members()[CONSTANTS],
                SAMPLES.replace("model.", f"{name[:-5]}."): base.members()[SAMPLES],
            }
            whole = {**called, **base.members(), f"models/{name}": program}
            yield f"{kind} in models/{name!r}, complete", "fixed", zipped(entries(whole))
        for folder in ("Models/", "MODELS/", "models//", "./models/", "models\\"):
            yield f"{kind} in {folder}", "fixed", archive(base, {f"{folder}model.json": program})


def twins(honest: Bases, marker: str) -> Iterator[Case]:
    """Two members of one name, in both orders, and such as differ in their case alone."""
    base, opaque = honest["fixed"], pickle.dumps(Payload(marker))
    constants = json.loads(base.members()[CONSTANTS])
    entry = next(iter(constants["config"].values()))
    constants["config"]["shift"] = entry | {"path_name": "opaque_obj_0", "use_pickle": True}
    weights = json.loads(base.members()[WEIGHTS])
    weights["config"]["head.bias"] |= {"use_pickle": True}
    evil = {
        PROGRAM: hostile_programs(base, marker)["size"],
        CONSTANTS: json.dumps(constants).encode(),
        WEIGHTS: json.dumps(weights).encode(),
        SAMPLES: saved((Payload(marker),)),
        "data/weights/weight_0": saved(Payload(marker)),
        "data/constants/tensor_0": saved(Payload(marker)),
        "archive_format": b"pt3",
        "byteorder": b"big",
    }
    for name, data in evil.items():
        rest = dict(base.members())
        kept = rest.pop(name)
        path = f"{ROOT}/data/constants/OPAQUE_OBJ_0"  # torch finds names in any case
        hidden = [Entry(path, opaque)] * (name == CONSTANTS)
        pair = [Entry(f"{ROOT}/{name}", data), Entry(f"{ROOT}/{name}", kept)]
        yield f"{name}, hostile first", "fixed", zipped([*pair, *entries(rest), *hidden])
        yield f"{name}, hostile last", "fixed", zipped([*pair[::-1], *entries(rest), *hidden])
        spread = [pair[0], *entries(rest), *hidden, pair[1]]
        yield f"{name}, around the others", "fixed", zipped(spread)
        yield (
            f"{name}, in another folder, too",
            "fixed",
            zipped(
                [replace(pair[0], name=f"other/{name}"), *entries(base.members()), *hidden],
            ),
        )
        for other in (name.upper(), name.title()):
            yield f"{other}", "fixed", archive(base, {other: data})


def foreign(honest: Bases, marker: str) -> Iterator[Case]:
    """Members that torch unpickles, runs as machine code, or that older versions had."""
    base, payload = honest["fixed"], Payload(marker)
    for name in (
        *("data/aotinductor/model/model.so", "data/aotinductor/model/wrapper.cpp"),
        *("data/weights/model.pt", "data/constants/model.pt", "data/constants/opaque_obj_0"),
        *("data/constants/custom_obj_0", "data/executorch/model.pte", "data/weights/weight_x"),
        *("data/xl_model_weights/model_param_config.json", "data/weights/model.bin"),
        *("module_info.json", "models/model.py", "extra/../../evil", "/etc/passwd", "data.pkl"),
        *("data/sample_inputs/other.pt", "data/constants/", "code/model.py", "extra/.hidden"),
    ):
        yield name, "fixed", archive(base, {name: saved(payload)})
    for name in ("data/weights/model.pt", "data/constants/model.pt"):
        config = WEIGHTS if "weights" in name else CONSTANTS
        alone = {name: saved({"a": payload}), config: None}
        yield f"{name} instead of {config}", "fixed", archive(base, alone)
    old = {
        "version": b"8.1",
        "serialized_exported_program.json": base.members()[PROGRAM],
        "serialized_state_dict.pt": saved({"a": payload}),
        "serialized_constants.pt": saved({"a": payload}),
        "serialized_example_inputs.pt": saved((payload,)),
    }
    yield "the layout of 2.7", "fixed", zipped([Entry(name, data) for name, data in old.items()])
    both = [*entries(base.members()), *(Entry(name, data) for name, data in old.items())]
    yield "the layout of 2.7, too", "fixed", zipped(both)


def archives(honest: Bases, marker: str) -> Iterator[Case]:
    """Archives that their readers see in different ways, or that fill memory."""
    base, program = honest["fixed"], hostile_programs(honest["fixed"], marker)["size"]
    whole = entries(base.members())
    evil = Entry(f"{ROOT}/{PROGRAM}", program)
    place = next(i for i, entry in enumerate(whole) if entry.name == evil.name)
    kept = whole[place]

    def instead(entry: Entry) -> bytes:
        return zipped([*whole[:place], entry, *whole[place + 1 :]])

    yield "bytes before it", "fixed", zipped(whole, before=b"#!/bin/sh\n")
    yield "another archive before it", "fixed", zipped([evil]) + zipped(whole)
    yield "a comment", "fixed", zipped(whole, comment=b"PK\5\6" + b"\0" * 18)
    yield "bytes behind it", "fixed", zipped(whole) + b"more"
    yield "another archive behind it", "fixed", zipped(whole) + zipped([evil])
    yield "another archive as its comment", "fixed", zipped(whole, comment=zipped([evil]))
    yield "a member within another", "fixed", zipped([*whole, replace(kept, at=0)])
    yield "a member twice as large as told", "fixed", instead(replace(kept, size=10))
    yield "a member half as large as told", "fixed", instead(replace(kept, size=1 << 31))
    yield "compressed", "fixed", zipped([replace(entry, method=8) for entry in whole])
    yield "a hostile member compressed", "fixed", instead(replace(evil, method=8))
    yield "an unknown compression", "fixed", instead(replace(evil, method=12))
    yield "encrypted", "fixed", instead(replace(kept, flags=1))
    yield "strongly encrypted", "fixed", instead(replace(kept, flags=0x41))
    yield "patched", "fixed", instead(replace(kept, flags=0x20))
    yield "sizes that do not follow", "fixed", instead(replace(kept, flags=8))
    yield "sizes that follow elsewhere", "fixed", instead(replace(kept, flags=8, behind=b"x" * 16))
    yield "another name inside", "fixed", instead(replace(evil, inner=f"{ROOT}/models/other.json"))
    yield "a hostile name inside", "fixed", instead(replace(kept, inner=f"{ROOT}/models/x.json"))
    yield "another name outside", "fixed", instead(replace(evil, name=f"{ROOT}/x", inner=kept.name))
    yield "a damaged member", "fixed", instead(replace(kept, crc=1))
    yield "a gap", "fixed", instead(replace(kept, before=evil.data))
    yield "a folder", "fixed", zipped([*whole, Entry(f"{ROOT}/models/", b"")])
    yield "no folder", "fixed", zipped([Entry(name, data) for name, data in base.members().items()])
    for root in ("..", "/", "", "a/b", "a\\b", "\u0000", ".", "-rf", "a b", "$HOME"):
        moved = [Entry(f"{root}/{name}", data) for name, data in base.members().items()]
        yield f"the folder {root!r}", "fixed", zipped(moved)
    yield "nothing", "fixed", zipped([])
    yield "half of it", "fixed", base.data[: len(base.data) // 2]
    yield "its end alone", "fixed", base.data[-22:]
    zeros = bytes(1 << 26)
    bomb = Entry(f"{ROOT}/extra/zeros", zeros, method=8, crc=zlib.crc32(zeros))
    yield "a bomb", "fixed", zipped([*whole, bomb])
    yield "bombs", "fixed", zipped([*whole, bomb, *[replace(bomb, at=0)] * 1000])
    lying = replace(kept, size=(1 << 32) - 2)
    yield "a bomb of 4 GB that lies", "fixed", instead(lying)


LEAF = {"type": None, "context": None, "children_spec": []}
ENUM = {"__enum__": True, "fqn": f"{TRAP}:Trap", "name": "A"}


def trees(child: Mapping[str, Any]) -> dict[str, Any]:
    """Packings that import something, or build what should not be built."""
    factory = {"default_factory_module": TRAP, "default_factory_name": "Trap", "dict_context": "[]"}
    deep: dict[str, Any] = dict(child)
    for _ in range(150):
        deep = {"type": "builtins.tuple", "context": "null", "children_spec": [deep]}

    def tree(kind: Any, context: Any, *children: Any) -> dict[str, Any]:
        return {"type": kind, "context": context, "children_spec": list(children or (child,))}

    return {
        "a key that is an enum": tree("builtins.dict", json.dumps([ENUM])),
        "an ordered key that is an enum": tree("collections.OrderedDict", json.dumps([ENUM])),
        "a tuple with an enum": tree("builtins.tuple", json.dumps(ENUM)),
        "a list with an enum": tree("builtins.list", json.dumps([[ENUM]])),
        "a queue with an enum": tree("collections.deque", json.dumps(ENUM)),
        "an enum within a key": tree("builtins.dict", json.dumps([{"a": ENUM}])),
        "an enum in a list": tree("torch.return_types.topk", json.dumps(ENUM), child, child),
        "a default that is imported": tree("collections.defaultdict", factory),
        "a default in words": tree("collections.defaultdict", json.dumps(factory)),
        "a default with enums": tree(
            "collections.defaultdict",
            factory | {"default_factory_module": "builtins", "dict_context": json.dumps([ENUM])},
        ),
        "a named tuple": tree("collections.namedtuple", f"{TRAP}.Pair"),
        "a named tuple in words": tree("collections.namedtuple", json.dumps(f"{TRAP}.Pair")),
        "a class": tree(f"{TRAP}.Trap", "null"),
        "a class of torch": tree("torch.Size", "null"),
        "a data class": tree("transformers.modeling_outputs.ImageClassifierOutput", '["logits"]'),
        "a returned type with a path": tree("torch.return_types.../x", "null"),
        "depth": deep,
        "a context that is deep": tree("builtins.dict", "[" * 5_000 + "]" * 5_000),
        "no type": tree(None, "null"),
        "a leaf with leaves": tree(None, None),
        "a type that is a number": tree(3, "null"),
        "a key that is a dictionary": tree("builtins.dict", '[{"a": 1}]'),
        "keys that are one": tree("builtins.dict", '["a", "a"]', child, child),
        "keys that are too many": tree("builtins.dict", '["a", "b"]'),
        "a key that is source": tree("builtins.dict", json.dumps([f"a']\nimport {TRAP}\n#"])),
    }


def treespecs(honest: Bases, marker: str) -> Iterator[Case]:
    """Packings of inputs and outputs, which are JSON within a string."""
    base = honest["spoken"]
    for name, tree in trees(LEAF).items():
        specs = {
            "as the arguments": {"in_spec": tree},
            "among the arguments": {"in_spec": pack(pack(tree), keyed(LEAF, "mode"))},
            "among the keywords": {"in_spec": pack(pack(LEAF), keyed(tree, "mode"))},
            "given": {"out_spec": tree},
            "given, packed": {"out_spec": pack(tree)},
        }
        for where, spec in specs.items():
            told = {key: json.dumps([1, value]) for key, value in spec.items()}
            yield f"{name}, {where}", "spoken", altered(base, partial(respec, **told))
    for text in ("", "[]", "[1]", "[2, null]", "[1, null]", '["1", {}]', "{}", "nonsense", "1e999"):
        yield f"packed as {text!r}", "spoken", altered(base, partial(respec, out_spec=text))


def pack(*children: Any) -> dict[str, Any]:
    """A tuple."""
    return {"type": "builtins.tuple", "context": "null", "children_spec": list(children)}


def keyed(child: Any, key: str) -> dict[str, Any]:
    """A dictionary."""
    return {"type": "builtins.dict", "context": json.dumps([key]), "children_spec": [child]}


def respec(program: dict[str, Any], **specs: Any) -> None:
    """Change how inputs and outputs are packed."""
    program["graph_module"]["module_call_graph"][0]["signature"].update(specs)


def sizes(honest: Bases, marker: str) -> Iterator[Case]:
    """Sizes that torch evaluates as Python, wherever it takes one."""
    base, told = honest["free"], honest["free"].program()
    graph = told["graph_module"]["graph"]
    inner = next(i for i, n in enumerate(graph["nodes"]) if "higher_order" in n["target"])
    for place, expression in enumerate(expressions(marker)):
        size = {"as_expr": {"expr_str": expression, "hint": {"as_int": 2}}}
        for name in ("x", "p_head_weight", "conv2d", "gelu"):
            for key in ("sizes", "strides"):
                path = ("graph_module", "graph", "tensor_values", name, key, 0)
                data = described(base, placed(told, path, size))
                yield f"{place} in {key} of {name}", "free", data
        values = {
            "sym_int_values": {"as_expr": {"expr_str": expression, "hint": None}},
            "sym_float_values": {"as_expr": {"expr_str": expression}},
            "sym_bool_values": {"as_expr": {"expr_str": expression}},
        }
        for key, value in values.items():
            for name in (next(iter(graph["sym_int_values"])), "unknown"):
                path = ("graph_module", "graph", key)
                yield (
                    f"{place} in {key} as {name}",
                    "free",
                    described(
                        base,
                        placed(told, path, {**graph[key], name: value}),
                    ),
                )
        within = ("graph_module", "graph", "nodes", inner, "inputs", 1, "arg", "as_graph", "graph")
        submetas = graph["nodes"][inner]["inputs"][1]["arg"]["as_graph"]["graph"]["tensor_values"]
        path = (*within, "tensor_values", next(iter(submetas)), "sizes", 0)
        yield f"{place} inside a part", "free", described(base, placed(told, path, size))
        ranges = {expression: {"min_val": 0, "max_val": None}, "s0": {"min_val": expression}}
        data = described(base, told | {"range_constraints": ranges})
        yield f"{place} in the ranges", "free", data
        for config in (WEIGHTS, CONSTANTS):
            entry = json.loads(base.members()[config])
            path = ("config", next(iter(entry["config"])), "tensor_meta", "sizes", 0)
            text = json.dumps(placed(entry, path, size)).encode()
            yield f"{place} in {config}", "free", archive(base, {config: text})


def names(honest: Bases, marker: str) -> Iterator[Case]:
    """Names that become source in torch."""
    fixed, spoken = honest["fixed"], honest["spoken"]
    first = fixed.program()["graph_module"]["graph"]["nodes"][0]
    for place, name in enumerate(identifiers(marker)):
        for old in ("x", "p_head_weight", "b_scale", "gelu", "getitem_3", "submod_1", "einsum"):
            yield f"{place} for {old}", "fixed", renamed(fixed, old, name)
        for old in ("head.weight", "bn.running_mean", "scale", "shift", "first", "aten"):
            yield f"{place} for {old}", "fixed", renamed(fixed, old, name)
        for old in ("x", "mode", "linear", "head.bias", "p_head_weight"):
            yield f"{place} for {old}, spoken", "spoken", renamed(spoken, old, name)

        def called(program: dict[str, Any], new: str = name) -> None:
            signature = program["graph_module"]["module_call_graph"][0]["signature"]
            signature["forward_arg_names"][0] = new

        yield f"{place} for an argument", "fixed", altered(fixed, called)

        def keyword(program: dict[str, Any], new: str = name) -> None:
            pair = [1, pack(pack(LEAF), keyed(LEAF, new))]
            respec(program, in_spec=json.dumps(pair), forward_arg_names=["x", new])

        yield f"{place} for a keyword", "spoken", altered(spoken, keyword)

        def node(program: dict[str, Any], new: str = name) -> None:
            program["graph_module"]["graph"]["nodes"][0]["name"] = new

        yield f"{place} for a node", "fixed", altered(fixed, node)

        def argument(program: dict[str, Any], new: str = name) -> None:
            added = copy.deepcopy(first["inputs"][0]) | {"name": new, "kind": 2}
            program["graph_module"]["graph"]["nodes"][0]["inputs"].append(added)

        yield f"{place} for an operator's argument", "fixed", altered(fixed, argument)

        def handed(program: dict[str, Any], new: str = name) -> None:
            part = a_part(program)
            part["inputs"].append(part["inputs"][2] | {"name": new, "kind": 2})

        yield f"{place} for a part's argument", "fixed", altered(fixed, handed)


def a_part(program: dict[str, Any]) -> dict[str, Any]:
    """The node that runs a part of the graph without gradients."""
    nodes = program["graph_module"]["graph"]["nodes"]
    found: dict[str, Any] = next(node for node in nodes if "higher_order" in node["target"])
    return found


def conditions(honest: Bases, marker: str) -> Iterator[Case]:
    """Conditions that torch compiles, and that it makes of words and sample inputs."""
    for place, guard in enumerate(guards(marker)):
        for base in ("fixed", "free"):
            text = {"guards_code": [guard]}
            yield (
                f"{place} in a guard, {base}",
                base,
                described(
                    honest[base],
                    honest[base].program() | text,
                ),
            )
        yield (
            f"{place} in two guards",
            "fixed",
            described(
                honest["fixed"],
                honest["fixed"].program() | {"guards_code": ["True", guard]},
            ),
        )
    base, made = honest["spoken"], f"open({marker!r}, 'w')"
    for place, word in enumerate(
        (
            f"' or {made} or '",
            f"', 'a')\n  {made}\n  torch._assert(True or '",
            f"' == '', 'a')\n  return\n{made}\ndef _(*args):\n  (True or '",
            f"plain' if {made} else '",
        ),
    ):
        told = base.program()
        graph, signature = told["graph_module"]["graph"], told["graph_module"]["signature"]
        graph["inputs"][-1] = {"as_string": word}
        signature["input_specs"][-1]["constant_input"]["value"] = {"as_string": word}
        yield f"{place} in a word", "spoken", described(base, told)
    for place, key in enumerate(
        (f'"); {made}; ("', f'mode"\n  {made}\n  #', f"mode'] or {made} or L['mode"),
    ):
        words = saved(((torch.randn(2, 4),), {key: "plain"}))
        yield f"{place} in a sample's key", "spoken", archive(base, {SAMPLES: words})
        told = base.program()
        spec = json.dumps([1, pack(pack(LEAF), keyed(LEAF, key))])
        respec(told, in_spec=spec)
        changed = {SAMPLES: words, PROGRAM: json.dumps(told).encode()}
        yield f"{place} in a sample's key and packing", "spoken", archive(base, changed)


def targets(honest: Bases, marker: str) -> Iterator[Case]:
    """Operators that open files, run programs, or are any object that torch can reach."""
    base = honest["fixed"]
    word = {"name": "", "arg": {"as_string": f"touch {marker}"}, "kind": 1}
    file = {"name": "filename", "arg": {"as_string": marker}, "kind": 1}
    more = [
        {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
        {"name": "size", "arg": {"as_int": 4}, "kind": 1},
    ]
    tensor = {"name": "item", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}
    made = {"as_tensor": {"name": "made"}}
    nothing = {"as_none": True}
    calls: list[tuple[str, list[Any], list[Any]]] = [
        ("torch.ops.aten.from_file.default", [file, *more], [made]),
        ("torch.ops.aten.save.default", [tensor, file], []),
        ("torch.ops.aten._print.default", [file | {"name": "s"}], []),
        ("torch.ops.aten.warn.default", [file | {"name": "message"}], []),
        ("torch.ops.debugprims.load_tensor.default", [file], [made]),
        ("torch.ops.higher_order.aoti_call_delegate", [file], [made]),
        ("torch.ops.higher_order.call_torchbind", [file], [made]),
        ("torch.ops.higher_order.cond", [word], [made]),
        ("torch.ops.higher_order.while_loop", [word], [made]),
        ("torch.ops.higher_order.print", [word], [nothing]),
        ("torch.ops.quantized.linear.default", [tensor], [made]),
        ("torch.ops.aten.set_.source_Tensor", [tensor], [made]),
        ("torch.ops.aten.resize_.default", [tensor], [made]),
        ("torch.ops.aten._fft_c2r.default", [tensor], [made]),
        ("torch.ops.aten.max_pool2d_with_indices_backward.default", [tensor], [made]),
        ("torch.ops.aten.add.out", [tensor], [made]),
        ("torch.ops.aten.add.t", [tensor], [made]),
        ("torch.ops.aten.add.str", [tensor], [made]),
        ("torch.ops.aten.add.__class__", [tensor], [made]),
        ("torch.ops.aten.__class__.mro", [tensor], [made]),
        ("torch.ops.aten._dir.append", [word], [made]),
        ("torch.ops.aten.add", [word], [made]),
        ("torch.ops.aten..", [word], [made]),
        ("torch.ops.aten.manual_seed.default", [word], [nothing]),
        ("#evil:op", [word], [made]),
        ("", [word], [made]),
        ("aten.add.Tensor", [word], [made]),
    ]
    calls += [
        (f"torch.ops.aten.{name}.default", [tensor], [made])
        for name in ("_reshape_alias", "data", "set_data", "record_stream", "pin_memory", "_cummax")
    ]
    calls += [
        (target, [word], outputs)
        for target in (
            *("torch.os.system", "torch.sys.exit", "torch.hub.load", "torch.load", "torch.save"),
            *("torch.os.popen", "torch.builtins.exec", "torch.ops.load_library", "torch.jit.load"),
            *("torch.ops.load_library.__call__", "torch.utils.cpp_extension.load_inline"),
            *("torch._dynamo.config.os.system", "torch.serialization.pickle.loads"),
            *("torch.package.PackageImporter", "torch.importlib.import_module", "torch.eval"),
            *("math.__loader__.load_module", "math.__spec__.loader.exec_module", "math.factorial"),
            *("_operator.methodcaller", "_operator.attrgetter", "_operator.call", "_operator.mul"),
            *("_operator.getitem", "_operator.__loader__.load_module", "_operator.concat"),
        )
        for outputs in ([made], [{"as_sym_int": {"as_name": "made"}}], [nothing], [])
    ]
    for target, inputs, outputs in calls:
        new = {"target": target, "inputs": inputs, "outputs": outputs, "metadata": {}}
        found = [next(iter(output)) for output in outputs]
        yield f"{target} -> {found}", "fixed", altered(base, partial(add_node, node=new))


def add_node(program: dict[str, Any], node: dict[str, Any]) -> None:
    """Call something before everything else."""
    graph = program["graph_module"]["graph"]
    graph["nodes"].insert(0, node)
    for output in node["outputs"]:
        if "as_tensor" in output:
            graph["tensor_values"]["made"] = graph["tensor_values"]["x"]
        elif "as_sym_int" in output:
            graph["sym_int_values"]["made"] = {"as_int": 3}


def arguments(honest: Bases, marker: str) -> Iterator[Case]:
    """Arguments that are functions, files or objects, among honest ones."""
    base = honest["fixed"]
    program = base.program()
    touch = {"name": "", "arg": {"as_string": f"touch {marker}"}, "kind": 1}

    def system(told: dict[str, Any], function: str) -> None:
        part = a_part(told)
        part["inputs"] = [part["inputs"][0], {**touch, "arg": {"as_operator": function}}, touch]
        part["outputs"] = [{"as_none": True}]
        told["graph_module"]["graph"]["outputs"][1] = {"as_tensor": {"name": "x"}}
        told["graph_module"]["signature"]["output_specs"][1] = {
            "user_output": {"arg": {"as_tensor": {"name": "x"}}},
        }

    for function in ("torch.os.system", "torch.os.popen", "torch.ops.aten.save.default"):
        yield (
            f"{function} under no_grad",
            "fixed",
            altered(
                base,
                lambda p, f=function: system(p, f),
            ),
        )
    values: list[dict[str, Any]] = [
        {"as_operator": "torch.os.system"},
        {"as_custom_obj": {"name": "shift", "class_fqn": "__torch__.torch.classes.evil"}},
        {"as_string": marker},
        {"as_strings": [marker]},
        {"as_string_to_argument": {"a": {"as_operator": "torch.os.system"}}},
        {"as_device": {"type": marker, "index": None}},
        {"as_device": {"type": "privateuseone", "index": 0}},
        {"as_device": {"type": "cpu", "index": "0"}},
        {"as_layout": 1},
        {"as_scalar_type": 99},
        {"as_memory_format": 9},
        {"as_nested_tensors": [[{"name": "x"}]]},
        {"as_tensor": {"name": "unknown"}},
        {"as_tensor": {"name": "y"}, "as_int": 1},
        {"as_int": 1 << 80},
        {"as_int": "1"},
        {"as_int": True},
        {"as_float": "nan(evil)"},
        {"as_ints": [[1]]},
        {"as_unknown": 1},
        {},
    ]
    nodes = program["graph_module"]["graph"]["nodes"]
    spots = [(n, i) for n, node in enumerate(nodes) for i in range(len(node["inputs"]))]
    chosen = random.Random(5).sample(spots, 4)
    for n, i in chosen:
        for value in values:
            path = ("graph_module", "graph", "nodes", n, "inputs", i, "arg")
            yield f"{value} at {n}, {i}", "fixed", described(base, placed(program, path, value))


def pickles(honest: Bases, marker: str) -> Iterator[Case]:
    """Weights, constants and sample inputs that are pickles."""
    base, payload = honest["fixed"], Payload(marker)
    for config, folder, prefix in (
        (WEIGHTS, "data/weights", "weight_"),
        (CONSTANTS, "data/constants", "tensor_"),
    ):
        told = json.loads(base.members()[config])
        first = next(iter(told["config"]))
        for kind in (f"{prefix}0", "custom_obj_0", "opaque_obj_0", "../evil", "/etc/passwd", ""):
            for protocol, flag in ((2, True), (4, True), (2, 1), (2, "no"), (2, None)):
                entry = told["config"][first] | {"path_name": kind, "use_pickle": flag}
                changed = {config: json.dumps(placed(told, ("config", first), entry)).encode()}
                data = pickle.dumps(payload) if "opaque" in kind else saved(payload, protocol)
                changed[f"{folder}/{kind}"] = data
                yield f"{kind} in {folder}, {protocol}, {flag}", "fixed", archive(base, changed)
        more = told["config"][first] | {"path_name": "opaque_obj_7", "use_pickle": True}
        changed = {config: json.dumps(placed(told, ("config", "evil"), more)).encode()}
        changed[f"{folder}/opaque_obj_7"] = pickle.dumps(payload)
        yield f"one more in {folder}", "fixed", archive(base, changed)
    samples = {
        "a payload": saved(payload),
        "a tuple": saved(((payload,), {})),
        "protocol 4": saved(((payload,), {}), 4),
        "a bare pickle": pickle.dumps(payload),
        "an old bare pickle": pickle.dumps(payload, 0),
        "half a pickle": saved(payload)[:200],
        "no pickle": b"nonsense",
        "an import": saved(payload).replace(b"cio\nopen", b"cos\nsystem"),
    }
    for name, data in samples.items():
        yield f"sample inputs: {name}", "fixed", archive(base, {SAMPLES: data})


def metadata(honest: Bases, marker: str) -> Iterator[Case]:
    """What is told of nodes besides: not needed, so not read."""
    base, made = honest["fixed"], f"open({marker!r}, 'w')"
    told: dict[str, str] = {
        "stack_trace": f'File "x", line 1\n{made}',
        "nn_module_stack": f"L__self__,,{TRAP}.Trap",
        "source_fn_stack": "a,torch.os.system",
        "torch_fn": f"{TRAP};os.system",
        "custom": json.dumps({"a": ENUM}),
        "from_node": json.dumps([{"name": made, "target": "os.system", "pass_name": TRAP}]),
        "evil": made,
    }
    for key, value in told.items():

        def change(program: dict[str, Any], k: str = key, v: str = value) -> None:
            for node in program["graph_module"]["graph"]["nodes"]:
                node["metadata"][k] = v

        yield key, "fixed", altered(base, change)
    whole = {
        "metadata": {"custom": json.dumps(ENUM)},
        "treespec_namedtuple_fields": {f"{TRAP}.Pair": {"field_names": ["a", made]}},
    }
    for key, value in whole.items():
        yield (
            f"{key} of the module",
            "fixed",
            altered(
                base,
                lambda p, k=key, v=value: p["graph_module"].update({k: v}),
            ),
        )


def versions(honest: Bases, marker: str) -> Iterator[Case]:
    """Versions, verifiers and formats."""
    base, made = honest["fixed"], f"open({marker!r}, 'w')"
    for change in (
        {"schema_version": {"major": 7, "minor": 0}},
        {"schema_version": {"major": 0, "minor": 0}},
        {"schema_version": {"major": made, "minor": 0}},
        {"schema_version": None},
        {"opset_version": {"aten": made}},
        {"opset_version": None},
        {"torch_version": made},
        {"torch_version": {"a": 1}},
        {"verifiers": []},
        {"verifiers": ["EDGE"]},
        {"verifiers": [made]},
        {"verifiers": made},
        {"verifiers": [["TRAINING"]]},
        {"range_constraints": None},
        {"range_constraints": {"s0": made}},
        {"guards_code": made},
        {"guards_code": {"a": made}},
        {"graph_module": None},
        {"evil": made},
    ):
        yield f"{change}", "fixed", described(base, base.program() | change)
    for name in ("archive_format", "archive_version", "byteorder", ".data/version"):
        for data in (b"", b"9", made.encode(), b"\xff\xfe", None):
            yield f"{name} is {data!r}", "fixed", archive(base, {name: data})
    for name in base.members():
        yield f"without {name}", "fixed", archive(base, {name: None})


def texts(honest: Bases, marker: str) -> Iterator[Case]:
    """Text that is not JSON, or JSON that fills memory."""
    base = honest["fixed"]
    program = base.members()[PROGRAM]
    for name in (PROGRAM, WEIGHTS, CONSTANTS):
        for what, data in {
            "empty": b"",
            "null": b"null",
            "a list": b"[]",
            "depth": b"[" * 300_000,
            "depth that ends": b"[" * 300_000 + b"]" * 300_000,
            "depth of objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            "depth in a field": program[:-1] + b', "x": ' + b"[" * 300_000 + b"]" * 300_000 + b"}",
            "quotes": b'"' + b'\\"' * 500_000,
            "a number": b"1" * 1_000_000,
            "a byte order mark": b"\xef\xbb\xbf" + program,
            "two bytes a letter": program.decode().encode("utf-16"),
            "half": program[: len(program) // 2],
            "a zero": program + b"\0",
            "code": f"open({marker!r}, 'w')".encode(),
            "a pickle": pickle.dumps(Payload(marker)),
        }.items():
            yield f"{what} as {name}", "fixed", archive(base, {name: data})
    doubled = b'{"guards_code": ["open(%r, \'w\')"], ' % marker + program[1:]
    yield "a key twice", "fixed", archive(base, {PROGRAM: doubled})


def weights(honest: Bases, marker: str) -> Iterator[Case]:
    """Weights that reach beyond their bytes, overlap, or are of other kinds."""
    base = honest["fixed"]
    told = json.loads(base.members()[WEIGHTS])
    name = "head.weight"
    meta = told["config"][name]["tensor_meta"]
    for change in (
        {"sizes": [{"as_int": 5}, {"as_int": 400}]},
        {"sizes": [{"as_int": -5}, {"as_int": 4}]},
        {"sizes": [{"as_int": 1 << 40}, {"as_int": 1 << 40}], "strides": [{"as_int": 0}] * 2},
        {"sizes": [{"as_int": 1 << 62}, {"as_int": 4}]},
        {"sizes": [{"as_int": 1 << 70}, {"as_int": 4}]},
        {"sizes": [{"as_int": 0}, {"as_int": 1 << 62}]},
        {"sizes": [{"as_int": 1}] * 100, "strides": [{"as_int": 1}] * 100},
        {"sizes": [{"as_int": True}, {"as_int": 4}]},
        {"sizes": [{"as_int": 5.0}, {"as_int": 4}]},
        {"strides": [{"as_int": 4_000}, {"as_int": 1}]},
        {"strides": [{"as_int": -4}, {"as_int": 1}]},
        {"strides": [{"as_int": 1}]},
        {"storage_offset": {"as_int": 1 << 40}},
        {"storage_offset": {"as_int": -1}},
        {"storage_offset": {"as_expr": {"expr_str": f"open({marker!r}, 'w')"}}},
        {"dtype": 8},
        {"dtype": 99},
        {"dtype": "float32"},
        {"dtype": 5},
        {"layout": 1},
        {"layout": 6},
        {"device": {"type": "meta", "index": None}},
        {"device": {"type": marker, "index": None}},
        {"device": None},
        {"requires_grad": 1},
    ):
        path = ("config", name, "tensor_meta")
        text = json.dumps(placed(told, path, meta | change)).encode()
        yield f"{change}", "fixed", archive(base, {WEIGHTS: text})
    for payload in (b"", bytes(79), bytes(3)):
        file = f"data/weights/{told['config'][name]['path_name']}"
        yield f"{len(payload)} bytes", "fixed", archive(base, {file: payload})
    big = {"as_int": 1 << 26}
    wide = {"sizes": [big, {"as_int": 4}], "strides": [{"as_int": 0}, {"as_int": 1}]}
    alias = told["config"][name] | {"tensor_meta": meta | wide}
    many = {"config": {**told["config"], **{f"w{i}": alias for i in range(1_000)}}}
    yield "a thousand times 1 GB", "fixed", archive(base, {WEIGHTS: json.dumps(many).encode()})
    for taken in ("forward", "__class__", "_graph", "_modules", "training", "a..b", "", "."):
        yield f"named {taken!r}", "fixed", renamed(base, name, taken)
        yield f"named {taken + '.w'!r}", "fixed", renamed(base, name, taken + ".w")


def struck(honest: Bases, marker: str) -> Iterator[Case]:
    """Something hostile anywhere in what is told of a program."""
    chance, made = random.Random(11), expressions(marker)[0]
    values = [
        made,
        {"as_expr": {"expr_str": made, "hint": None}},
        [made],
        {"__enum__": True, "fqn": f"{TRAP}:Trap", "name": "A"},
        {"as_operator": "torch.os.system"},
        {"as_string": made},
        None,
        identifiers(marker)[2],
        {"as_graph": {"name": made, "graph": {}}},
        [[[]]],
    ]
    for place in range(RANDOM_CASES):
        name = chance.choice(list(honest))
        base = honest[name]
        file = chance.choice([PROGRAM, PROGRAM, PROGRAM, WEIGHTS, CONSTANTS])
        told = json.loads(base.members()[file])
        found = [path for path in places(told) if "metadata" not in path]
        path, value = chance.choice(found), chance.choice(values)
        text = json.dumps(placed(told, path, value)).encode()
        where = ".".join(str(key) for key in path)
        yield f"{place}: {str(value)[:30]} at {where}", name, archive(base, {file: text})
