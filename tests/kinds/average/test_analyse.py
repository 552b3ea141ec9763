"""A module at hand: a first result in three lines, the same bytes on any executor, and the module
as it was.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks as foreign
import numpy as np
import pytest
import torch
from torch import nn

from wna_ray import Spec, analyse, check, open_run, run
from wna_ray.errors import ModelError, RunError, SpecError
from wna_ray.events import Event, RunFinished, ShardDone
from wna_ray.networks.architectures import mnist_cnn
from wna_ray.networks.live import live_model
from wna_ray.networks.models import state_digest

SHAPE = (3, foreign.SIDE, foreign.SIDE)
SMALL: dict[str, Any] = {"samples": 256, "progress": False}


class Normed(nn.Module):
    """Batch norm, dropout, and a parametrised layer: what modes and buffers are about."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.drop(self.norm(self.conv(x)).mean((2, 3))))
        return y


def frozen_backbone() -> nn.Module:
    network = Normed()
    network.conv.requires_grad_(False)
    network.norm.eval()
    return network.train(network.training)


def hooked() -> nn.Module:
    network = foreign.Body()
    network.head.register_forward_hook(lambda _module, _inputs, y: 2 * y)
    network.conv.register_forward_pre_hook(lambda _module, inputs: inputs)
    return network


MODULES: dict[str, Callable[[], nn.Module]] = {
    "a network": foreign.Body,
    "in train mode": lambda: Normed().train(),
    "a frozen backbone": frozen_backbone,
    "in bfloat16": lambda: foreign.Body().bfloat16(),
    "with hooks": hooked,
    "in channels_last": lambda: foreign.Body().to(memory_format=torch.channels_last),
    "with gradients": lambda: with_gradients(),
    "compiled": lambda: torch.compile(foreign.Body()),
    "data parallel": lambda: nn.DataParallel(foreign.Body()),
}


def with_gradients() -> nn.Module:
    network = foreign.Body()
    network(torch.ones(2, *SHAPE)).sum().backward()
    return network


def all_of(network: nn.Module) -> dict[str, Any]:
    """Everything that can be seen of a module, copied."""
    seen: dict[str, Any] = {
        f"mode {name}": (module.training, len(module._forward_hooks), id(module))  # noqa: SLF001
        for name, module in network.named_modules()
    }
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        gradient = None if value.grad is None else value.grad.clone()
        seen[name] = (
            id(value),
            value.dtype,
            value.device,
            value.stride(),
            value.requires_grad,
            value.detach().clone(),
            gradient,
        )
    return seen


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_left_as_it_is(name: str) -> None:
    network = MODULES[name]()
    before, random = all_of(network), torch.get_rng_state()
    settings = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())
    done = analyse(network, SHAPE, **SMALL)
    after = all_of(network)
    assert before.keys() == after.keys()
    assert [key for key in before if not same(before[key], after[key])] == []
    assert torch.equal(torch.get_rng_state(), random)
    now = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())
    assert now == settings
    assert done.moments.images == 256


def test_it_is_left_as_it_is_where_the_run_fails() -> None:
    network = foreign.BatchNormed().train()
    before = all_of(network)
    with pytest.raises(ModelError, match="neighbours"):
        analyse(network, SHAPE, **SMALL)
    after = all_of(network)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_maps_are_those_of_eval_mode_and_of_the_hooks() -> None:
    """Against a plain loop over the same images, with the module in eval mode by hand."""
    for make in (hooked, lambda: Normed().train()):
        network = make()
        done = analyse(network, SHAPE, responses=["logits"], **SMALL)
        x = done.stimulus.images(done.stimulus.noise.grid(0, 256))
        with torch.inference_mode():
            y = copy.deepcopy(network).eval()(x).numpy().astype(np.float64)
        flat = x.numpy().reshape(256, -1).astype(np.float64)
        expected = (y - y.mean(axis=0)).T @ flat / 256
        # A step of the responses is at most sd / 4,096; see test_foreign_outputs.
        most = 6 * y.std(axis=0).max() / 4096 / np.sqrt(12 * 256)
        assert np.abs(done.readouts[0].bias - expected).max() < most


@pytest.mark.ray
def test_the_same_bytes_on_ray(tmp_path: Path, ray_cluster: None) -> None:
    network = mnist_cnn()
    digests = set()
    for name, how in (
        ("local", {"executor": "local"}),
        ("one", {"executor": "ray", "workers": 1}),
        ("two", {"executor": "ray", "workers": 2}),
    ):
        spec = Spec.parse(
            {
                "model": "live:any",
                "stimulus": {
                    "kind": "gaussian",
                    "shape": [1, 28, 28],
                    "scale": 1,
                    "space": "input",
                },
                "samples": 2048,
                "execution": {"shard": 256, "segments": 4},
            }
        )
        done = run(spec, str(tmp_path / name), model=network, **how)
        digests.add(
            tuple(
                done.manifest.objects[part].sha256
                for part in ("result/moments.npz", "result/classes.parquet")
            )
        )
    assert len(digests) == 1
    assert done.spec.model == "live:torch.nn.modules.container.Sequential"


@pytest.mark.ray
def test_a_module_that_cannot_travel(tmp_path: Path, ray_cluster: None) -> None:
    class Locked(foreign.Body):
        def __deepcopy__(self, _memo: Any) -> Locked:
            return self

    network = Locked()
    network.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot travel to Ray's workers .* python:MODULE"):
        analyse(network, SHAPE, out=str(tmp_path / "run"), executor="ray", **SMALL)


def test_a_module_that_cannot_be_copied() -> None:
    network = foreign.Body()
    network.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"Body cannot be copied .* python:MODULE:FUNCTION"):
        analyse(network, SHAPE, **SMALL)


@pytest.mark.parametrize(
    ("net", "more", "words"),
    [
        ("bundled:mnist-cnn", {}, "expected a torch.nn.Module, got str"),
        (foreign.Body, {}, "expected a torch.nn.Module, got type"),
        (foreign.Body(), {"units": [1]}, "give layer=NAME, too"),
        (foreign.Body(), {"layer": "hed"}, "no layer 'hed'; near it are head"),
        (foreign.Body(), {"classes": ["a"]}, "classes: 1 names"),
        (foreign.Body(), {"noise": {"sale": 2}}, "stimulus.sale: unknown key"),
        (foreign.Body(), {"responses": ["lables"]}, "responses"),
        (nn.LazyLinear(3), {}, "sizes in the first forward pass"),
        (foreign.Body(), {"executor": "ray"}, "in this process's memory"),
    ],
)
def test_mistakes_have_one_sentence(net: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelError, SpecError), match=words):
        analyse(net, SHAPE, **{**SMALL, **more})


def test_a_run_goes_on_with_the_same_weights_only(tmp_path: Path) -> None:
    network, out = foreign.Body(), str(tmp_path / "run")
    first = analyse(network, SHAPE, out=out, **SMALL)
    assert first.spec.model == "live:foreign_networks.Body"
    assert first.described.identity["model"]["digest"] == state_digest(network)
    again = analyse(foreign.Body(), SHAPE, out=out, **SMALL)
    assert again.fingerprint == first.fingerprint == open_run(out).fingerprint
    with torch.no_grad():
        network.head.bias += 1
    with pytest.raises(RunError, match=r"model\.digest: "):
        analyse(network, SHAPE, out=out, **SMALL)


def test_a_live_model_is_none_of_a_file(tmp_path: Path) -> None:
    done = analyse(foreign.Body(), SHAPE, **SMALL)
    with pytest.raises(ModelError, match=r"was a module of a running Python process; call"):
        run(done.spec, str(tmp_path / "run"), executor="local")


def test_layers_units_and_names() -> None:
    done = analyse(foreign.Body(), SHAPE, layer="conv", units=[1, 5], **SMALL)
    assert (done.names, done.readouts[0].kind) == (["1", "5"], "activation")
    named = analyse(foreign.Body(), SHAPE, classes=list("abcdefghij"), **SMALL)
    assert named.names == list("abcdefghij")


def test_progress_is_said_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    events = list[Event]()
    analyse(foreign.Body(), SHAPE, samples=256, progress=events.append)
    assert {ShardDone, RunFinished} <= {type(event) for event in events}
    assert "noise: gaussian around 0" in capsys.readouterr().err
    analyse(foreign.Body(), SHAPE, samples=256, progress=True, noise={"scale": 0.5})
    said = capsys.readouterr().err
    assert "256 of 256 images" in said
    assert "noise: gaussian" not in said
    analyse(foreign.Body(), SHAPE, **SMALL)
    assert capsys.readouterr().err == ""


def test_results_in_memory_are_apart() -> None:
    runs = [analyse(foreign.Body(), SHAPE, seed=seed, **SMALL) for seed in (0, 1)]
    assert runs[0].directory.url != runs[1].directory.url
    assert not np.array_equal(runs[0].bias_maps, runs[1].bias_maps)
    assert runs[0].directory.verify() == []
    assert runs[0].derive().keys() == runs[1].derive().keys()


def test_a_copy_is_in_eval_mode_and_has_no_gradients() -> None:
    model = live_model(Normed().train())
    assert not any(module.training for module in model.module.modules())
    assert not any(value.requires_grad for value in model.module.parameters())


def test_a_first_look_at_a_module() -> None:
    network = Normed().train()
    before = all_of(network)
    checked = check(network, SHAPE)
    assert (checked.sound, len(checked.names)) == (True, 5)
    assert [key for key, value in all_of(network).items() if not same(before[key], value)] == []
