"""Hostile programs by what their graphs say: packings, sizes, names, conditions, operators."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from crafted_exports.archives import altered, archive, described, placed, renamed
from crafted_exports.hidden import ENUM, LEAF, TRAP, expressions, guards, identifiers, saved
from crafted_exports.honest import CONSTANTS, PROGRAM, SAMPLES, WEIGHTS
from crafted_exports.in_archives import Bases, Case


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


REACHED = (
    *("torch.os.system", "torch.sys.exit", "torch.hub.load", "torch.load", "torch.save"),
    *("torch.os.popen", "torch.builtins.exec", "torch.ops.load_library", "torch.jit.load"),
    *("torch.ops.load_library.__call__", "torch.utils.cpp_extension.load_inline"),
    *("torch._dynamo.config.os.system", "torch.serialization.pickle.loads"),
    *("torch.package.PackageImporter", "torch.importlib.import_module", "torch.eval"),
    *("math.__loader__.load_module", "math.__spec__.loader.exec_module", "math.factorial"),
    *("_operator.methodcaller", "_operator.attrgetter", "_operator.call", "_operator.mul"),
    *("_operator.getitem", "_operator.__loader__.load_module", "_operator.concat"),
)
"""Objects that are no operators, which a name can reach from the modules of torch and Python."""


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
        for target in REACHED
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
