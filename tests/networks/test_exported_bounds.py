"""What an exported program may take and call: memory for weights, sizes, operators and their
arguments.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import torch
from crafted_exports.archives import altered, archive
from crafted_exports.honest import WEIGHTS, Honest, exported
from exported_examples import EXAMPLES, saved
from torch import nn

from wna_ray.networks.exported.archive import Refused
from wna_ray.networks.exported.operators import OPERATORS, find_overload, schema_of
from wna_ray.networks.exported.reader import load_exported


def test_weights_that_share_bytes_may_not_take_much_more_than_the_file() -> None:
    """Else a number repeated a thousand million times would, as soon as its type is changed."""
    base = exported(nn.Linear(4, 3), torch.randn(2, 4))
    told = json.loads(base.members()[WEIGHTS])
    meta = told["config"]["weight"]["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 1 << 28}, {"as_int": 4}], [{"as_int": 0}] * 2
    data = archive(base, {WEIGHTS: json.dumps(told).encode()})
    with pytest.raises(Refused, match="overlap, and would take 4,294,967,"):
        load_exported(data)


def test_too_little_memory_for_weights_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    data = exported(nn.Linear(4, 3), torch.randn(2, 4)).data

    def empty(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(MemoryError, match="bytes of weights"):
        load_exported(data)


@pytest.mark.parametrize("data", [b"", b"PK", b"this is no program\n", bytes(1000)])
def test_what_is_no_archive_is_no_program(data: bytes) -> None:
    with pytest.raises(zipfile.BadZipFile):
        load_exported(data)


def count(program: dict[str, Any], target: str, *values: int) -> None:
    """Replace the arithmetic on the batch by other arithmetic on it."""
    nodes = program["graph_module"]["graph"]["nodes"]
    node = next(node for node in nodes if node["target"] == "_operator.mul")
    rest = [{"name": "b", "arg": {"as_int": value}, "kind": 1} for value in values]
    node.update(target=target, inputs=[*node["inputs"][:1], *rest])


@pytest.mark.parametrize(
    "target, value",
    [("_operator.pow", 1 << 62), ("_operator.lshift", 1 << 62), ("_operator.mul", 1 << 62)],
)
def test_sizes_do_not_grow_without_end(
    target: str,
    value: int,
    bases: Mapping[str, Honest],
) -> None:
    base = bases["free"]
    module = load_exported(altered(base, lambda program: count(program, target, value)))
    with pytest.raises(OverflowError, match="more than 64 bits"):
        module(torch.zeros(1 << 4, 3, 6, 6))


def rewire(program: dict[str, Any], target: str, argument: str, value: dict[str, Any]) -> None:
    """Give an operator another argument."""
    nodes = program["graph_module"]["graph"]["nodes"]
    node = next(node for node in nodes if node["target"] == target)
    next(given for given in node["inputs"] if given["name"] == argument)["arg"] = value


@pytest.mark.parametrize(
    "example, target, argument, value",
    [
        (
            "core operators",
            "torch.ops.aten._native_batch_norm_legit_no_training.default",
            "running_mean",
            {"as_tensor": {"name": "p_head_bias"}},
        ),
        (
            "recurrent",
            "torch.ops.aten.lstm.input",
            "batch_first",
            {"as_bool": False},
        ),
        ("recurrent", "torch.ops.aten.lstm.input", "num_layers", {"as_int": 1 << 60}),
        ("recurrent", "torch.ops.aten.gru.input", "bidirectional", {"as_bool": True}),
        (
            "transformer",
            "torch.ops.aten.scaled_dot_product_attention.default",
            "value",
            {"as_tensor": {"name": "p_head_weight"}},
        ),
    ],
)
def test_operators_that_trust_their_callers_are_given_what_fits(
    example: str,
    target: str,
    argument: str,
    value: dict[str, Any],
) -> None:
    """Torch itself reads, and some of them write, beyond the memory of such tensors."""
    base = saved(EXAMPLES[example])
    module = load_exported(altered(base, lambda p: rewire(p, target, argument, value)))
    with pytest.raises(ValueError, match="was given tensors that do not fit together"):
        base.outputs(module)


def test_no_operator_on_the_list_takes_a_file_a_pointer_or_a_function() -> None:
    """Whatever words torch's operators take, they are of these arguments."""
    worded = set[str]()
    for name in sorted(OPERATORS | {f"{name}_" for name in OPERATORS}):
        packet = getattr(torch.ops.aten, name, None)
        for overload in () if packet is None else packet.overloads():
            with suppress(Refused):
                schema = schema_of(find_overload(f"torch.ops.aten.{packet.__name__}.{overload}"))
                worded |= {a.name for a in schema.arguments if "str" in str(a.type)}
    assert worded <= {
        *("approximate", "assert_msg", "driver", "equation", "indexing", "interpolation", "mode"),
        *("ord", "padding", "reduce", "rounding_mode", "side", "UPLO"),
    }, worded


def test_every_operator_on_the_list_is_one_of_torch() -> None:
    assert [name for name in sorted(OPERATORS) if not hasattr(torch.ops.aten, name)] == []
