"""Hostile archives by what is in their files: other members, pickles, texts, weights."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from crafted_exports.archives import (
    Entry,
    altered,
    archive,
    described,
    entries,
    placed,
    renamed,
    zipped,
)
from crafted_exports.hidden import ENUM, TRAP, Payload, expressions, guards, saved
from crafted_exports.honest import CONSTANTS, PROGRAM, ROOT, SAMPLES, WEIGHTS, Honest

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
