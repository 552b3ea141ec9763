"""Models: every scheme against a computation without the package, weights from files, and what
is refused and how.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import networks_for_tests
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from model_uris import BUNDLED, LINEAR, exportable, own_digest, refusal
from safetensors.torch import load_file, save_file
from torch import nn

from wna_ray.data import datasets
from wna_ray.errors import ModelError
from wna_ray.networks.models import ModelURI, load
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.specs.numerics import NormaliseSpec
from wna_ray.specs.run import Spec


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The bundled network and its recipe.


def test_bundled_recipe_is_that_of_the_files() -> None:
    recipe = json.loads((BUNDLED / "mnist-cnn.json").read_text())
    found = {
        name: hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest()
        for name in ("mnist-cnn.safetensors", "mnist-mean.npy")
    }
    assert found == recipe["sha256"]
    assert 0.99 <= recipe["test_accuracy"] <= 1, recipe["test_accuracy"]
    assert (BUNDLED / "mnist-cnn.safetensors").stat().st_size <= 2 << 20


def test_bundled_is_the_papers_network() -> None:
    """Against the same layers written with functions on the weights of the file."""
    model, w, x = (
        load("bundled:mnist-cnn"),
        load_file(BUNDLED / "mnist-cnn.safetensors"),
        noise(3, 1, 28, 28),
    )
    h = F.max_pool2d(F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"])), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, w["conv2.weight"], w["conv2.bias"])), 2).flatten(1)
    expected = F.relu(h @ w["fc1.weight"].T + w["fc1.bias"]) @ w["fc2.weight"].T + w["fc2.bias"]
    assert sum(p.numel() for p in model.module.parameters()) == 431_080
    np.testing.assert_allclose(model.module(x).numpy(), expected.numpy(), rtol=0, atol=1e-4)
    assert (model.source, model.digest, model.shape) == (
        "bundled:mnist-cnn",
        own_digest(w),
        (1, 28, 28),
    )
    assert model.names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert model.normalise == NormaliseSpec(mean=(0.0,), std=(1.0,))


def test_bundled_accuracy_is_the_recorded_one(wna_data: Path) -> None:
    recorded = json.loads((BUNDLED / "mnist-cnn.json").read_text())["test_accuracy"]
    split, module = datasets.load("mnist", train=False), load("bundled:mnist-cnn").module
    predicted = torch.cat(
        [module(x).argmax(1) for x in torch.from_numpy(split.images).split(1000)]
    ).numpy()
    measured = np.count_nonzero(predicted == split.labels) / 10_000
    assert abs(measured - recorded) <= 1e-4, (measured, recorded)


# The other schemes.


def test_torchvision_with_random_weights() -> None:
    model = load("torchvision:squeezenet1_1?seed=5")
    torch.manual_seed(5)
    own, x = torchvision.models.squeezenet1_1().eval(), noise(2, 3, 64, 64)
    assert torch.equal(model.module(x), own(x))
    assert not model.module.training
    assert model.normalise == NormaliseSpec(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )  # ImageNet's
    assert (len(model.names), model.names[0], model.names[999]) == (1000, "tench", "toilet tissue")
    assert model.source == "torchvision:squeezenet1_1?seed=5"
    torch.manual_seed(6)
    before = torch.get_rng_state()
    assert (
        load("torchvision:squeezenet1_1").digest
        == load("torchvision:squeezenet1_1?seed=0").digest
        != model.digest
    )
    assert torch.equal(torch.get_rng_state(), before), (
        "whoever loads a model keeps their own random numbers"
    )


def test_the_bundled_network_untrained() -> None:
    trained, one, two = (load(f"bundled:mnist-cnn{which}") for which in ("", "?seed=1", "?seed=2"))
    assert len({trained.digest, one.digest, two.digest}) == 3
    assert one.digest == load("bundled:mnist-cnn?seed=1").digest
    assert [tuple(p.shape) for p in one.module.parameters()] == [
        tuple(p.shape) for p in trained.module.parameters()
    ]
    assert (one.names, one.shape, one.normalise) == (
        trained.names,
        trained.shape,
        trained.normalise,
    )


def test_torchvision_with_a_file(wna_data: Path) -> None:
    path = wna_data / "weights" / "mobilenet_v2-imagenet-int8.pth"
    model, own = (
        load(f"torchvision:mobilenet_v2?weights={path}"),
        torchvision.models.mobilenet_v2().eval(),
    )
    own.load_state_dict(torch.load(path, weights_only=True))
    x = noise(2, 3, 64, 64)
    assert torch.equal(model.module(x), own(x))
    assert model.digest == own_digest(own.state_dict())
    assert model.source == "torchvision:mobilenet_v2"


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    model = load("timm:mobilenetv3_small_050?seed=5")
    torch.manual_seed(5)
    own, x = timm.create_model("mobilenetv3_small_050").eval(), noise(2, 3, 64, 64)
    assert torch.equal(model.module(x), own(x))
    assert model.normalise == NormaliseSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["linear", "threshold", "deaf", "wild"])
def test_python_factories(name: str) -> None:
    model, own, x = (
        load(f"python:networks_for_tests:{name}"),
        getattr(networks_for_tests, name)(),
        noise(5, 1, 4, 4),
    )
    assert torch.equal(model.module(x), own(x))
    assert model.digest == own_digest(own.state_dict())
    assert (model.normalise, model.shape, model.names) == (None, None, ())


def test_python_options_reach_the_factory() -> None:
    model = load(f"{LINEAR}?k=5")
    assert model.module(torch.zeros(2, 1, 4, 4)).shape == (2, 5)
    assert torch.equal(model.module.w, networks_for_tests.weights(5))
    assert model.source == f"{LINEAR}?k=5"


def test_python_finds_modules_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_of_this_folder.py").write_text("from torch.nn import Identity\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))  # also restores sys.path afterwards
    assert isinstance(load("python:net_of_this_folder:Identity").module, nn.Identity)


def test_export(exported: Path) -> None:
    model, x = load(f"export:{exported}"), noise(4, 1, 4, 4)
    assert torch.equal(model.module(x), exportable()(x))
    assert model.digest == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert model.source == "export:"


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_export_leaves_the_environment_as_it_was(
    exported: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    if before is not None:
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", before)
    load(f"export:{exported}")
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


# layer= and digests.


def test_one_changed_bit_changes_the_digest(tmp_path: Path) -> None:
    state = load_file(BUNDLED / "mnist-cnn.safetensors")
    bits = state["fc2.bias"].view(torch.int32)
    bits[3] ^= 1
    save_file(state, tmp_path / "w.safetensors")
    assert load(f"bundled:mnist-cnn?weights={tmp_path / 'w.safetensors'}").digest == own_digest(
        state
    )
    assert load("bundled:mnist-cnn").digest != own_digest(state)


@pytest.mark.parametrize(
    "layer, depth, size",
    [("conv1", 1, 20 * 24 * 24), ("pool2", 6, 800), ("fc1", 8, 500), ("fc2", 10, 10)],
)
def test_layer_is_the_network_cut_there(layer: str, depth: int, size: int) -> None:
    model, x = load(f"bundled:mnist-cnn?layer={layer}"), noise(3, 1, 28, 28)
    whole = load("bundled:mnist-cnn")
    assert isinstance(whole.module, nn.Sequential)
    expected = whole.module[:depth](x).flatten(1)
    assert expected.shape == (3, size)
    assert torch.equal(model.module(x), expected)
    assert (model.names, model.digest) == ((), whole.digest)
    assert model.source == f"bundled:mnist-cnn?layer={layer}"


def test_layer_before_an_in_place_activation() -> None:
    model = load("torchvision:squeezenet1_1?layer=features.0&seed=5")
    torch.manual_seed(5)
    own, x = torchvision.models.squeezenet1_1().eval(), noise(1, 3, 32, 32)
    expected, got = own.features[0](x).flatten(1), model.module(x)
    assert torch.equal(got, expected), f"least value {got.min():.3f}, expected {expected.min():.3f}"


def test_weights_that_name_a_torchvision_entry_are_no_path() -> None:
    assert ModelURI.parse("torchvision:alexnet?weights=IMAGENET1K_V1").weights_path is None
    assert ModelURI.parse("torchvision:alexnet?weights=a/b").weights_path == "a/b"
    assert ModelURI.parse("torchvision:alexnet?weights=b.pt").weights_path == "b.pt"
    assert ModelURI.parse("timm:resnet18?weights=IMAGENET1K_V1").weights_path == "IMAGENET1K_V1"


# What is refused.


@pytest.mark.parametrize(
    "uri, words",
    [
        ("keras:vgg", ("'keras:vgg'", "bundled, torchvision, timm, python, export")),
        ("mnist-cnn", ("'mnist-cnn'", "SCHEME:NAME")),
        ("bundled:", ("'bundled:'", "SCHEME:NAME")),
        ("bundled:mnist-cnn?layer", ("'bundled:mnist-cnn?layer'", "key=value")),
        ("bundled:mnist", ("'mnist'", "mnist-cnn")),
        ("bundled:mnist-cnn?wieghts=a.pt", ("'wieghts'", "weights, layer")),
        ("bundled:mnist-cnn?seed=-1", ("seed=-1", "from 0 to 2^63 - 1")),
        ("bundled:mnist-cnn?seed=1&weights=a.pt", ("seed=1", "has weights already")),
        ("torchvision:alexnet?seed=0&weights=IMAGENET1K_V1", ("seed=0", "has weights already")),
        ("bundled:mnist-cnn?layer=conv", ("'conv'", "conv1", "conv2")),
        ("bundled:mnist-cnn?weights=no/such.pt", ("no file 'no/such.pt'", "safetensors")),
        ("bundled:mnist-cnn?weights=/", ("'/' is a folder; expected safetensors",)),
        ("bundled:mnist-cnn?weights=gopher://a.pt", ("cannot read 'gopher://a.pt'", "gopher")),
        ("torchvision:resnet5", ("'resnet5'", "resnet50", "resnet18")),
        ("torchvision:alexnet?weights=IMAGENET1K_V9", ("'IMAGENET1K_V9'", "IMAGENET1K_V1", "path")),
        ("torchvision:alexnet?pretrained=true", ("'pretrained'", "weights, layer")),
        ("python:networks_for_tests", ("networks_for_tests", "python:package.module:factory")),
        ("python:no_such_package.net:make", ("cannot import 'no_such_package.net'",)),
        ("python:networks_for_tests:liner", ("no function 'liner'", "linear")),
        ("python:networks_for_tests:not_a_module", ("not_a_module gave int", "torch.nn.Module")),
        (
            f"{LINEAR}?depth=2",
            ("networks_for_tests:linear", "no option 'depth'", "near it are k, seed"),
        ),
        ("export:no/such.pt2", ("no file 'no/such.pt2'", "torch.export.save")),
    ],
)
def test_faults_name_the_thing_and_what_would_do(uri: str, words: tuple[str, ...]) -> None:
    refusal(uri, *words)


def test_timm_faults() -> None:
    pytest.importorskip("timm")
    refusal("timm:resnet5", "'resnet5'", "resnet50")
    refusal("timm:resnet18?weight=a.pt", "'weight'", "weights, layer, pretrained")


def test_timm_pretrained_is_true_or_false() -> None:
    pytest.importorskip("timm")
    refusal("timm:mobilenetv3_small_050?pretrained=ja", "pretrained", "true")


@pytest.mark.parametrize("uri", ["python::make", "python:.net:make", "python:builtins:int?x=1"])
def test_python_names_that_cannot_be(uri: str) -> None:
    refusal(uri)


def test_exported_programs_take_no_weights(exported: Path, tmp_path: Path) -> None:
    refusal(f"export:{exported}?weights={tmp_path / 'w.pt'}", "holds its own weights", "weights=")


# Networks and the stimulus they are fed.


def test_bundled_network_says_what_shape_it_takes(make_spec: Callable[..., Spec]) -> None:
    spec = make_spec(model="bundled:mnist-cnn", stimulus={"shape": [1, 14, 28], "space": "pixel"})
    with pytest.raises(
        ModelError,
        match=r"^stimulus\.shape: \(1, 14, 28\), but bundled:mnist-cnn takes \(1, 28, 28\)$",
    ):
        load_network(spec, "cpu")


def test_python_network_says_what_shape_it_was_fed(make_spec: Callable[..., Spec]) -> None:
    spec = make_spec(stimulus={"shape": [1, 5, 4]})
    words = (
        r"linear does not take a float32 batch of shape \(64, 1, 5, 4\).*16.*see stimulus\.shape"
    )
    with pytest.raises(ModelError, match=words) as caught:
        resolve(spec, load_network(spec, "cpu"))
    assert "\n" not in str(caught.value)


def test_pixel_space_needs_a_normalisation(make_spec: Callable[..., Spec]) -> None:
    with pytest.raises(
        ModelError,
        match=(
            r"^stimulus\.space: pixel, but python:.*:linear declares no"
            r" normalisation.*normalise:.*space: input"
        ),
    ):
        load_network(make_spec(stimulus={"space": "pixel"}), "cpu")
    spec = make_spec(
        stimulus={"space": "pixel", "shape": [3, 4, 4]},
        normalise={"mean": [0, 0], "std": [1, 1, 1]},
    )
    with pytest.raises(ModelError, match=r"^normalise: 2 means and 3 stds for 3 channels"):
        load_network(spec, "cpu")


def test_normalisation_stands_between_pixels_and_network(make_spec: Callable[..., Spec]) -> None:
    spec = make_spec(stimulus={"space": "pixel"}, normalise={"mean": [0.5], "std": [0.25]})
    x = torch.arange(2 * 16).reshape(2, 1, 4, 4) / 32  # exact in float32, as are the weights
    expected = (
        x.reshape(2, 16).numpy().astype(np.float64) * 4 - 2
    ) @ networks_for_tests.weights().numpy().astype(np.float64).T
    assert np.array_equal(load_network(spec, "cpu")(x), expected)


def test_the_working_directory_is_searched_for_a_network_of_ones_own_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network.py").write_text(
        "import own_sibling\n\ndef make():\n    import own_late_sibling\n    return"
        " own_sibling.network()\n"
    )
    (tmp_path / "own_sibling.py").write_text(
        "import torch\n\ndef network():\n    return torch.nn.Linear(2, 3)\n"
    )
    (tmp_path / "own_late_sibling.py").write_text("")
    (tmp_path / "own_stranger.py").write_text("")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert isinstance(load("python:own_network:make").module, nn.Linear)
    assert sys.path == before
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("own_stranger")


def test_secrets_of_urls_are_no_part_of_what_a_network_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_url_network.py").write_text(
        "import torch\n\ndef make(address):\n    return torch.nn.Linear(2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    source = load("python:own_url_network:make?address=http://me:pw@host/x").source
    assert source == "python:own_url_network:make?address=http://***@host/x"
