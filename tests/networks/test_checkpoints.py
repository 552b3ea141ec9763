"""Layouts of weights as training scripts write them: the one set that fits exactly is taken, with
the numbers and the digest of the plain state dict; all else is called what it is.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks as foreign
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wna_ray.errors import ModelError
from wna_ray.networks.models import load, state_digest

URI = "python:foreign_networks:make?name=Body"
State = dict[str, torch.Tensor]


def state(shift: float = 1.0) -> State:
    """Weights that are not those the network begins with."""
    return {k: v + shift for k, v in foreign.Body().state_dict().items()}


def before(beginning: str, shift: float = 1.0) -> State:
    return {beginning + k: v for k, v in state(shift).items()}


def loaded(path: Path, more: str = "") -> str:
    """Digest of the network with the weights of a file."""
    return load(f"{URI}&weights={path}{more}").digest


def expected(shift: float = 1.0) -> str:
    network = foreign.Body()
    network.load_state_dict(state(shift))
    return state_digest(network)


def refusal(path: Path, more: str = "") -> str:
    with pytest.raises(ModelError) as error:
        loaded(path, more)
    message = str(error.value)
    assert message.isprintable(), repr(message)
    return message


LAYOUTS: dict[str, Callable[[], Any]] = {
    "plain": state,
    "state_dict": lambda: {"state_dict": state(), "epoch": 3, "best_acc1": torch.tensor(71.2)},
    "model": lambda: {"model": state(), "optimizer": {"lr": 0.1}, "epoch": 3},
    "net": lambda: {"net": before("module."), "acc": 95.2},
    "model_state_dict": lambda: {"model_state_dict": state(), "loss": 0.1},
    "two levels": lambda: {"checkpoint": {"network": state()}},
    "lightning": lambda: {"state_dict": before("model."), "hyper_parameters": {"lr": 0.1}},
    "compiled": lambda: before("_orig_mod."),
    "compiled and parallel": lambda: {"model": before("_orig_mod.module.")},
    "the same twice": lambda: {"model": state(), "model_ema": state()},
    "an average of another size": lambda: {"model": state(), "ema": {"decay": torch.zeros(1)}},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_training_scripts(name: str, tmp_path: Path) -> None:
    torch.save(LAYOUTS[name](), tmp_path / "w.pth")
    assert loaded(tmp_path / "w.pth") == expected() != load(URI).digest


def test_a_wrapper_around_the_network_takes_its_weights(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pth")
    wrapped = load(f"python:foreign_networks:wrapped?weights={tmp_path / 'w.pth'}")
    assert torch.equal(wrapped.module.net.head.bias, state()["head.bias"])


def test_several_sets_are_listed(tmp_path: Path) -> None:
    """Those of the network and of its average: which one is meant is not to be known."""
    path = tmp_path / "w.pth"
    torch.save({"model": state(1), "model_ema": state(2), "epoch": 1}, path)
    assert "2 sets of other numbers that fit: model, model_ema; weights_key=" in refusal(path)
    assert loaded(path, "&weights_key=model_ema") == expected(2)
    assert loaded(path, "&weights_key=model") == expected(1)
    assert "holds no such weights, but model, model_ema" in refusal(path, "&weights_key=ema")


@pytest.mark.parametrize("key", ["net.", "state_dict/net."])
def test_a_part_of_a_set_is_taken_where_it_is_named(key: str, tmp_path: Path) -> None:
    """Never by itself: the rest may belong to the network, too."""
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": before("net.") | {"loss.weight": torch.ones(10)}}, path)
    message = refusal(path)
    assert "(4 missing, 5 unknown, 0 of another shape) of 'state_dict'" in message
    assert "state_dict/net." in message
    assert loaded(path, f"&weights_key={key}") == expected()


def test_a_key_without_a_file() -> None:
    with pytest.raises(ModelError, match="weights_key= says what of a file; give weights=PATH"):
        load(f"{URI}&weights_key=model")


def test_a_key_is_no_part_of_what_the_network_is(tmp_path: Path) -> None:
    torch.save({"model": state()}, tmp_path / "w.pth")
    named = load(f"{URI}&weights={tmp_path / 'w.pth'}&weights_key=model")
    assert (named.source, named.digest) == (load(URI).source, expected())


def sharded(folder: Path) -> Path:
    """Weights in two files, and their index."""
    names = sorted(state())
    parts = {"a-1.safetensors": names[:2], "a-2.safetensors": names[2:]}
    for file, keys in parts.items():
        save_file({k: state()[k] for k in keys}, folder / file)
    index = {"metadata": {}, "weight_map": {k: f for f, keys in parts.items() for k in keys}}
    (folder / "a.safetensors.index.json").write_text(json.dumps(index))
    return folder / "a.safetensors.index.json"


def test_weights_in_parts(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    assert loaded(index) == expected()
    (tmp_path / "a-2.safetensors").rename(tmp_path / "away")
    assert "no file" in refusal(index)
    save_file({"odd": torch.zeros(1)}, tmp_path / "a-2.safetensors")
    assert "do not have the tensors that" in refusal(index)
    (tmp_path / "a-2.safetensors").write_bytes(b"damaged")
    assert "are no safetensors" in refusal(index)


@pytest.mark.parametrize(
    "name", ["../up.safetensors", "/etc/passwd", "s3://b/a.safetensors", ".a.safetensors", 7]
)
def test_an_index_names_files_beside_it_only(name: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"head.bias": name}}))
    assert "which is no safetensors file beside it" in refusal(path)


def test_an_index_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors.index.json"
    path.write_text('{"weight_map": ')
    assert "a damaged index" in refusal(path)
    path.write_text('{"weight_map": {}}')
    assert "without a weight_map" in refusal(path)
    path.write_text('{"weight_map": ' + "[" * 100_000)
    assert "a damaged index" in refusal(path)


MORE: dict[str, Callable[[], Any]] = {
    "a namespace": lambda: {"state_dict": state(), "args": argparse.Namespace(lr=0.1)},
    "a NumPy number": lambda: {"state_dict": state(), "best": np.float64(71.2)},
    "a whole network": foreign.Body,
}


@pytest.mark.parametrize("name", MORE)
def test_pickles_of_more_than_tensors_have_a_recipe(name: str, tmp_path: Path) -> None:
    """And the recipe works."""
    path = tmp_path / "w.pth"
    torch.save(MORE[name](), path)
    message = refusal(path)
    assert "a pickle of more than tensors, which may run code when it is read" in message
    code = message[message.index("c = torch.load") : message.index("'weights.pth')") + 14]
    subprocess.run([sys.executable, "-c", f"import torch; {code}"], cwd=tmp_path, check=True)
    assert load(f"{URI}&weights={tmp_path / 'weights.pth'}").module is not None


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "w.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "a Git LFS pointer",
        ),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("w.pth", b"<!DOCTYPE html><html>404</html>", "a web page"),
        ("w.pth", gzip.compress(b"weights"), "packed by gzip"),
        ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        ("w.onnx", b"\x08\x09\x12\x07pytorch" + bytes(50), "an ONNX file"),
        ("w.pth", b"\x08\x09\x12\x07pytorch" + bytes(50), "an ONNX file"),
        ("config.json", b'{"architectures": []}', "JSON; expected weights"),
    ],
)
def test_other_files_are_called_what_they_are(
    name: str, data: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    assert words in refusal(tmp_path / name)


def test_other_archives_are_called_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    assert "NumPy arrays (.npz)" in refusal(tmp_path / "w.npz")
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(foreign.Heads().eval()).save(tmp_path / "w.pt")
    assert "a TorchScript program, not a state dict" in refusal(tmp_path / "w.pt")


def test_a_file_is_what_it_holds_whatever_its_name(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.pth")
    torch.save(state(), tmp_path / "w.safetensors")
    assert loaded(tmp_path / "w.pth") == loaded(tmp_path / "w.safetensors") == expected()


@pytest.mark.parametrize(
    "name",
    ["net 1.pth", "a+b.pth", "100%25.pth", "schön-模型.pth", "a&b.pth", "a#b.pth", "v1;2.pth"],
)
def test_names_of_files(name: str, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / name)
    assert loaded(tmp_path / name) == expected()


def test_escapes_in_names_of_files(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a&layer=b.pth")
    assert loaded(tmp_path / "a%26layer=b.pth") == expected()


HOSTILE = {
    # A header that promises 40 GB; tensors that overlap; a hundred thousand levels; many keys.
    "promise": (
        (
            len(h := json.dumps({"w": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4]}}))
        ).to_bytes(8, "little")
        + h.encode()
        + bytes(4)
    ),
    "long header": (40 << 30).to_bytes(8, "little") + b"{" + bytes(100),
    "deep": pickle.dumps({"a": 1}, protocol=2)[:2] + b"]" * 100_000 + b".",
    "many keys": pickle.dumps({f"k{i}": i for i in range(1_000_000)}, protocol=2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_take_no_memory(name: str, tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured; the network's own is a few hundred MB."""
    (tmp_path / "w.pth").write_bytes(HOSTILE[name])
    code = (
        "import resource, sys\n"
        "from wna_ray.networks.models import load\n"
        f"load({URI!r})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        f"    load({URI!r} + '&weights=w.pth')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, len(str(error)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, grown = done.stdout.splitlines()
    assert first.startswith("ModelError")
    assert int(first.split()[1]) < 2000
    assert int(grown) < 300 << 10, f"{int(grown) >> 10} MB"
