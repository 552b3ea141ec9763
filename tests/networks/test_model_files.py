"""Files of models: weights of every kind, files of something else, and such as hide a payload."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks_for_tests
import pytest
import torch
from model_uris import BUNDLED, LINEAR, own_digest, refusal
from safetensors.torch import load_file, save_file

from wna_ray.errors import ModelError
from wna_ray.networks.models import Model, load

Pack = Callable[[dict[str, torch.Tensor], Path], None]

PACKS: dict[str, Pack] = {
    "net.safetensors": lambda state, path: save_file(state, path),
    "plain.pt": lambda state, path: torch.save(state, path),
    "wrapped.pt": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "parallel.pt": lambda state, path: torch.save(
        {f"module.{k}": v for k, v in state.items()}, path
    ),
    "both.pt": lambda state, path: torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}}, path
    ),
    "url.safetensors": lambda state, path: save_file(state, path),
}


@pytest.mark.parametrize("name", PACKS)
def test_weights_from_any_kind_of_file(name: str, tmp_path: Path) -> None:
    """One set of weights gives its numbers, one digest and one source, whatever file holds it."""
    state = {"w": networks_for_tests.weights(seed=9)}
    PACKS[name](state, tmp_path / name)
    path = f"file://{tmp_path / name}" if name.startswith("url") else tmp_path / name
    model = load(f"{LINEAR}?weights={path}")
    assert torch.equal(model.module.w, state["w"])
    assert (model.digest, model.source) == (own_digest(state), LINEAR)
    assert model.digest != load(LINEAR).digest


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_text_is_no_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("these are no weights\n")
    refusal(f"{LINEAR}?weights={tmp_path / name}", name, "neither safetensors nor a state dict")


def test_text_is_no_exported_program(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_text("this is no program\n")
    refusal(f"export:{tmp_path / 'net.pt2'}", "net.pt2", "torch.export")


def test_weights_of_something_else(tmp_path: Path) -> None:
    torch.save([torch.zeros(3, 16)], tmp_path / "list.pt")
    refusal(f"{LINEAR}?weights={tmp_path / 'list.pt'}", "hold list", "state dict")
    torch.save({"w": 3}, tmp_path / "number.pt")
    refusal(f"{LINEAR}?weights={tmp_path / 'number.pt'}", "expected a state dict")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    """Each kind of misfit alone, then all three at once, with counts."""
    path, w = tmp_path / "w.safetensors", torch.zeros(3, 16)
    cases: list[tuple[dict[str, torch.Tensor], tuple[str, ...]]] = [
        ({}, ("1 missing, 0 unknown, 0 of another shape", "no w")),
        ({"w": w, "b": w.clone()}, ("0 missing, 1 unknown, 0 of another shape", "unknown b")),
        (
            {"w": w[:, :15].clone()},
            ("0 missing, 0 unknown, 1 of another shape", "w is (3, 15), not (3, 16)"),
        ),
    ]
    for state, words in cases:
        save_file(state, path)
        refusal(f"{LINEAR}?weights={path}", "do not fit", *words)
    state = load_file(BUNDLED / "mnist-cnn.safetensors")
    state["fc3.bias"], state["fc1.bias"] = state.pop("fc2.bias"), torch.zeros(7)
    save_file(state, path)
    found = refusal(
        f"bundled:mnist-cnn?weights={path}",
        "1 missing, 1 unknown, 1 of another shape",
        "no fc2.bias",
        "unknown fc3.bias",
    )
    assert "fc1.bias is (7,), not (500,)" in found


# Files that would run code.


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that a payload would make; the payload is known to work."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Payload(path))).close()
    assert path.exists(), "the payload itself is broken"
    path.unlink()
    return path


def saved(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def rewrite(source: Path, target: Path, changed: dict[str, bytes]) -> None:
    """Copy a zip archive whose members lie in one folder, with some of them replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root, names = (
            old.namelist()[0].split("/")[0],
            {name.split("/", 1)[1] for name in old.namelist()},
        )
        for name in sorted(names | changed.keys()):
            new.writestr(
                f"{root}/{name}", changed[name] if name in changed else old.read(f"{root}/{name}")
            )


@pytest.mark.parametrize("forced", [False, True], ids=["plainly", "with weights_only switched off"])
@pytest.mark.parametrize("wrap", [False, True], ids=["zip", "bare pickle"])
def test_weights_with_a_payload(
    wrap: bool, forced: bool, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    state = {"w": networks_for_tests.weights(), "x": Payload(marker)}
    (tmp_path / "w.pt").write_bytes(pickle.dumps(state, protocol=2) if wrap else saved(state))
    refusal(f"{LINEAR}?weights={tmp_path / 'w.pt'}", "w.pt", "weights_only=True")
    assert not marker.exists()


def test_refusal_of_a_payload_is_plain_text(marker: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(saved({"w": Payload(marker)}))
    message = refusal(f"{LINEAR}?weights={tmp_path / 'w.pt'}")
    assert message.isprintable(), repr(message)


def payload_in(exported: Path, place: str, marker: Path) -> dict[str, bytes]:
    """Members of an exported program that hold a payload at a place."""
    with zipfile.ZipFile(exported) as archive:
        root = archive.namelist()[0].split("/")[0]
        config = json.loads(archive.read(f"{root}/data/weights/model_weights_config.json"))
        program = json.loads(archive.read(f"{root}/models/model.json"))
    entry = config["config"]["0.weight"]
    if place == "sample inputs":
        return {"data/sample_inputs/model.pt": saved(Payload(marker))}
    if place == "weights":
        entry["use_pickle"] = True
        return {
            "data/weights/model_weights_config.json": json.dumps(config).encode(),
            "data/weights/weight_0": saved(Payload(marker)),
        }
    if place in (
        "tensor_0",
        "custom_obj_0",
        "opaque_obj_0",
    ):  # constants: three ways to be unpickled
        constants = {"config": {"c": entry | {"path_name": place, "use_pickle": True}}}
        data = pickle.dumps(Payload(marker)) if place == "opaque_obj_0" else saved(Payload(marker))
        return {
            "data/constants/model_constants_config.json": json.dumps(constants).encode(),
            f"data/constants/{place}": data,
        }
    code = f"open({str(marker)!r}, 'w')"
    if place == "guards":
        program["guards_code"] = [code]
    else:
        program["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0] = {
            "as_expr": {"expr_str": code, "hint": {"as_int": 4}}
        }
    return {"models/model.json": json.dumps(program).encode()}


@pytest.mark.parametrize(
    "place",
    [
        "sample inputs",
        "weights",
        "tensor_0",
        "custom_obj_0",
        "opaque_obj_0",
        "sizes",
        "guards",
    ],
)
def test_exported_program_with_a_payload(
    place: str, exported: Path, marker: Path, tmp_path: Path
) -> None:
    rewrite(exported, tmp_path / "bad.pt2", payload_in(exported, place, marker))
    rewrite(exported, tmp_path / "same.pt2", {})
    assert isinstance(
        load(f"export:{tmp_path / 'same.pt2'}"), Model
    )  # so the rewriting is not what is refused
    with contextlib.suppress(
        ModelError
    ):  # what matters first is that the payload does not run, not even on the way to a refusal
        load(f"export:{tmp_path / 'bad.pt2'}").module(torch.zeros(4, 1, 4, 4))
    assert not marker.exists(), "the payload ran"
    refusal(f"export:{tmp_path / 'bad.pt2'}", "bad.pt2")
