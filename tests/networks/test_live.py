"""Modules of this process as models: what is taken off them, how they are copied, and named."""

from __future__ import annotations

import hashlib

import pytest
import torch
from live_networks import STATES, Locked, Selfish, Small, compiled, described, hooked, parallel
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.networks.live import (
    arithmetic_of,
    model_of,
    notes_on,
    places_of,
    require_loadable,
    unwrapped,
    uri_of,
)


@pytest.mark.parametrize("state", STATES)
def test_a_copy_is_in_eval_mode_and_shares_nothing(state: str) -> None:
    net = STATES[state]()
    before = described(net)
    copy = model_of(net).module
    assert described(net) == before
    assert not any(part.training for part in copy.modules())
    assert not any(value.requires_grad for value in copy.parameters())
    assert not places_of(net) & places_of(copy)
    assert not {id(part) for part in net.modules()} & {id(part) for part in copy.modules()}


@pytest.mark.parametrize("state", ["eval", "trained", "frozen", "bfloat16", "hooks", "remembering"])
def test_a_copy_answers_as_the_module_in_eval_mode(state: str) -> None:
    net = STATES[state]()
    copy = model_of(net).module
    dtype = next(net.parameters()).dtype
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        assert torch.equal(copy(x), net.eval()(x))


def test_a_digest_is_of_names_types_shapes_and_bytes() -> None:
    """By a hash of one's own over the state dict."""
    net = Small()
    total = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.numpy().tobytes())
    assert model_of(net).digest == total.hexdigest()
    assert model_of(compiled()).digest == model_of(parallel()).digest == model_of(Small()).digest
    assert model_of(Small(seed=1)).digest != model_of(Small()).digest


def test_wrappers_are_taken_off() -> None:
    inner = Small()
    wrapped = nn.DataParallel(torch.compile(inner, backend="eager"))
    assert unwrapped(wrapped) is inner
    assert uri_of(wrapped) == model_of(wrapped).source == "live:Small"
    wrapped.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match="hooks are on the DataParallel around OptimizedModule"):
        unwrapped(wrapped)


def test_what_cannot_be_copied_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"live:Locked cannot be copied .*model: python:"):
        model_of(Locked())
    with pytest.raises(ModelError, match=r"a copy of live:Selfish shares its parts .*python:"):
        model_of(Selfish())
    with pytest.raises(ModelError, match=r"'conv.weight' of live:Small has no values yet"):
        model_of(Small().to("meta"))
    with pytest.raises(ModelError, match=r"'0.weight' of live:Sequential has no values yet"):
        model_of(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ModelError, match=r"function is no torch.nn.Module; wrap a function"):
        model_of(described)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"TopLevelTracedModule is TorchScript, which may have"):
        model_of(torch.jit.trace(Small().eval(), torch.ones(2, 1, 8, 8)))
    program = torch.export.export(Small().eval(), (torch.ones(2, 1, 8, 8),)).module()
    with pytest.raises(ModelError, match=r"mode built in .*give model: export:PATH"):
        model_of(program)


def test_a_name_alone_is_not_a_model() -> None:
    require_loadable("bundled:mnist-cnn")
    with pytest.raises(ModelError, match=r"'live:Net' was a module .* call run\(spec, model=net\)"):
        require_loadable("live:Net")


def test_the_arithmetic_is_that_of_the_weights() -> None:
    mixed = Small()
    mixed.head.to(torch.bfloat16)
    nets = (Small(), Small().to(torch.bfloat16), Small().half(), Small().double(), mixed)
    expected = ["float32", "bfloat16", "float16", "float32", "float32"]
    assert [arithmetic_of(net) for net in nets] == expected
    assert notes_on(Small(), "float32") == notes_on(Small().half(), "float16") == []
    (line,) = notes_on(Small().double(), "float32")
    assert line == "weights are float64; the copy computes in float32"
    (line,) = notes_on(mixed, "float32")
    assert line.startswith("weights are bfloat16, float32;")


def test_hooks_are_named() -> None:
    (line,) = notes_on(hooked(), "float32")
    assert line.startswith("hooks of 2 modules run on the copy, for every batch of noise")
