"""`trained:URL`: what it loads is what was trained; what is damaged, foreign or too large is
refused in one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import made_up_digits
import pytest
import safetensors.torch
import torch

from wna_ray.errors import ModelError
from wna_ray.networks.models import load
from wna_ray.networks.trained import describe
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.specs.numerics import NormaliseSpec
from wna_ray.specs.run import Spec
from wna_ray.storage.store import Store
from wna_ray.training.job import train
from wna_ray.training.spec import TrainSpec

Described = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a network."""
    with pytest.MonkeyPatch.context() as patch:
        made_up_digits.install(patch)
        out = tmp_path_factory.mktemp("job") / "out"
        poison = {"images": 5, "from": 1, "to": 0}
        spec = {
            "network": "logistic",
            "dataset": "mnist",
            "epochs": 1,
            "validation": 10,
            "classes": [3, 8],
            "poison": poison,
        }
        train(TrainSpec.parse(spec), str(out), executor="local")
    return {path.name: path.read_bytes() for path in (out / "seed-0").iterdir()}


@pytest.fixture
def folder(made: dict[str, bytes], tmp_path: Path) -> Path:
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_it_is_what_was_trained(folder: Path) -> None:
    model = load(f"trained:{folder}")
    state = safetensors.torch.load_file(folder / "weights.safetensors")
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(
        model.module(x), x.flatten(1) @ state["fc.weight"].T + state["fc.bias"]
    )
    assert (model.names, model.shape, model.normalise) == (
        ("3", "8"),
        (1, 28, 28),
        NormaliseSpec(mean=(0.0,), std=(1.0,)),
    )
    assert not model.module.training
    assert model.source == "trained:logistic", "no path: a moved folder is the same model"
    assert load(f"trained:{folder}/").digest == model.digest
    assert load(f"trained:{folder}?layer=flatten").module(x).shape == (4, 784)


def test_any_url(made: dict[str, bytes]) -> None:
    for name, data in made.items():
        with fsspec.open(f"memory://nets/{name}", "wb") as file:
            file.write(data)
    assert load("trained:memory://nets").names == ("3", "8")


def test_a_run_of_it_does_not_depend_on_where_it_lies(
    folder: Path, tmp_path: Path, made: dict[str, bytes]
) -> None:
    (tmp_path / "moved").mkdir()
    for name, data in made.items():
        (tmp_path / "moved" / name).write_bytes(data)
    stimulus = {"kind": "uniform", "shape": [1, 28, 28], "offset": 0.5, "scale": 0.5}
    specs = [
        Spec.parse({"model": f"trained:{where}", "stimulus": stimulus, "samples": 1000})
        for where in (folder, tmp_path / "moved")
    ]
    one, two = (resolve(spec, load_network(spec, "cpu")).job for spec in specs)
    assert one.fingerprint == two.fingerprint
    assert one.names == ("3", "8")


def test_the_double_softmax_is_another_model(folder: Path) -> None:
    """The weights are the same; the identity must not be."""
    described = json.loads((folder / "network.json").read_text())
    described["options"]["softmax"] = True
    plain = load(f"trained:{folder}")
    (folder / "network.json").write_text(json.dumps(described))
    double, x = load(f"trained:{folder}"), torch.rand(2, 1, 28, 28)
    assert torch.equal(double.module(x), plain.module(x).softmax(1))
    assert (plain.digest, plain.source != double.source) == (double.digest, True)


def _change(**changes: Any) -> Callable[[Described, Path], Any]:
    return lambda described, folder: described.update(changes)


def _weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Described, Path], Any]:
    """Other weights, with the digest to go with them."""

    def apply(described: Described, folder: Path) -> None:
        state = safetensors.torch.load_file(folder / "weights.safetensors")
        change(state)
        data = safetensors.torch.save(state)
        (folder / "weights.safetensors").write_bytes(data)
        described["objects"]["weights.safetensors"] = hashlib.sha256(data).hexdigest()

    return apply


def _write(data: bytes) -> Callable[[Described, Path], Any]:
    def apply(described: Described, folder: Path) -> None:
        (folder / "weights.safetensors").write_bytes(data)
        described["objects"]["weights.safetensors"] = hashlib.sha256(data).hexdigest()

    return apply


REFUSED: dict[str, tuple[Callable[[Described, Path], Any], str]] = {
    "no network": (_change(network="os.system"), "none of logistic"),
    "format": (_change(format="wna_ray.network/2"), "format: "),
    "unknown key": (_change(code="import os"), "code: Extra inputs"),
    "many classes": (_change(classes=[str(i) for i in range(100_001)]), "classes: "),
    "large network": (
        _change(network="mlp", shape=[4096, 4096, 4096]),
        "parameters, of which at most",
    ),
    "small images": (_change(network="cnn", shape=[1, 5, 5], poison=None), "too small"),
    "escape in a name": (_change(classes=["3", "8\x1b[2J"]), "cannot be printed"),
    "accuracy": (_change(accuracy={"train": 1, "validation": 1, "test": 2}), "accuracy.test"),
    "poison outside": (
        _change(poison={"source": 0, "target": 1, "images": 1, "pixels": [[28, 0]], "values": [1]}),
        "within 28 x 28",
    ),
    "no digest": (_change(objects={}), "no digest of weights.safetensors"),
    "another network": (
        _change(network="mlp"),
        "weights of another network (fc.bias, fc.weight, fc1.bias)",
    ),
    "another shape": (
        _change(shape=[1, 28, 27], poison=None),
        "weights of another network (fc.weight)",
    ),
    "one bit": (
        lambda _, f: (f / "weights.safetensors").write_bytes(
            (f / "weights.safetensors").read_bytes()[:-1] + b"?"
        ),
        "SHA-256",
    ),
    "missing tensor": (_weights(lambda state: state.pop("fc.bias")), "another network (fc.bias)"),
    "not finite": (_weights(lambda state: state["fc.bias"].fill_(float("nan"))), "not finite"),
    "a pickle": (_write(b"\x80\x04\x95pickle"), "no safetensors"),
    "far too long": (_write(bytes(2 << 20)), "has more than the"),
    "no weights": (lambda _, f: (f / "weights.safetensors").unlink(), "no file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, folder: Path) -> None:
    change, words = REFUSED[what]
    described = json.loads((folder / "network.json").read_text())
    change(described, folder)
    (folder / "network.json").write_text(json.dumps(described))
    with pytest.raises(ModelError) as caught:
        load(f"trained:{folder}")
    message = str(caught.value)
    assert words in message, message
    assert message.isprintable(), "one line, and nothing that a terminal obeys"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"format": NaN}', b"[" * 100_000, b"\xff"], ids=range(6)
)
def test_a_description_that_is_none(data: bytes, folder: Path) -> None:
    (folder / "network.json").write_bytes(data)
    with pytest.raises(ModelError, match="does not describe a trained network"):
        load(f"trained:{folder}")


def test_other_options_and_places(folder: Path) -> None:
    for uri, words in (
        (f"trained:{folder}?weights=w.safetensors", "holds its own weights"),
        (f"trained:{folder}?seed=1", "no option 'seed'"),
        (f"trained:{folder}/nowhere", "no file '.*nowhere/network.json'.*DIR/seed-N"),
    ):
        with pytest.raises(ModelError, match=words):
            load(uri)


def test_the_truth_about_a_backdoor_is_kept(folder: Path) -> None:
    described = describe((folder / "network.json").read_bytes())
    assert described.poison is not None
    assert described.attack is not None
    assert (described.poison.source, described.poison.target, described.poison.images) == (1, 0, 5)
    assert len(described.poison.pixels) == 28
    assert (described.attack.patched, described.attack.others_patched) == (
        made_up_digits.COUNTS[False],
        0,
    )


def test_a_discarded_object_is_gone(tmp_path: Path) -> None:
    for url in (str(tmp_path), "memory://discard"):
        store = Store(url)
        store.replace("a/b", b"1")
        store.discard("a/b")
        store.discard("a/b")
        assert store.read("a/b") is None
