"""Options of ``python:`` models become what the function's parameters expect, or are refused."""

from __future__ import annotations

import enum
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
import pytest
import torch

from wna_ray.errors import ModelError
from wna_ray.networks.factories import converted, value_of
from wna_ray.networks.models import load


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


def by_default(
    width: int = 3,
    share=0.5,
    inverted=True,
    name="a",
    sizes=(1, 2),
    pool=None,
    rate=0,
) -> None: ...


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("width", "7", 7),
        ("share", "1e-3", 1e-3),
        ("share", "2", 2.0),
        ("inverted", "False", False),
        ("inverted", "true", True),
        ("inverted", "0", False),
        ("name", "7", "7"),
        ("name", "false", "false"),
        ("name", '"x"', "x"),
        ("sizes", "3,4, 5", (3, 4, 5)),
        ("sizes", "(3, 4)", (3, 4)),
        ("pool", "max", "max"),
        ("rate", "1", 1),
        ("rate", "0.1", 0.1),
    ],
)
def test_options_are_what_their_defaults_are(option: str, text: str, value: Any) -> None:
    (got,) = converted(by_default, {option: text}, "net").values()
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("wanted", "text", "value"),
    [
        (int, "7", 7),
        (bool, "No", False),
        (Optional[int], "none", None),  # noqa: UP045  # as older code has it
        (int | None, "4", 4),
        (int | float | str, "4.5", 4.5),
        (int | str, "four", "four"),
        (Literal["max", 2], "2", 2),
        (Colour, "RED", Colour.RED),
        (Colour, "g", Colour.GREEN),
        (list[float], "1,2.5", [1.0, 2.5]),
        (tuple[int, ...], "1", (1,)),
        (tuple, "1,a", (1.0, "a")),
        (Path, "a/b", Path("a/b")),
        (Any, "7", "7"),
        (Any, "'true'", "true"),
    ],
)
def test_values_of_types(wanted: Any, text: str, value: Any) -> None:
    got = value_of(text, wanted)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("width", "wide", "net: width=wide: expected a whole number"),
        ("width", "1.5", "expected a whole number"),
        ("share", "half", "expected a number"),
        ("inverted", "maybe", "expected one of true, yes, on, 1, false"),
        ("pool", "False", "the parameter has no type, and as text this is true"),
        ("wdith", "3", "has no option 'wdith'; near it are width"),
    ],
)
def test_what_does_not_fit_is_refused(option: str, text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        converted(by_default, {option: text}, "net")


def test_functions_that_take_any_name() -> None:
    def make(**options: Any) -> None: ...

    assert converted(make, {"k": "3"}, "net") == {"k": "3"}
    with pytest.raises(ModelError, match="has no type"):
        converted(make, {"inverted": "False"}, "net")


def test_classes_are_functions_too() -> None:
    class Network:
        def __init__(self, k: int, inverted: bool = False) -> None: ...

    got = converted(Network, {"k": "3", "inverted": "yes"}, "net")
    assert got == {"k": 3, "inverted": True}


FACTORY = """
import torch
import warnings
import numpy as np

class Net(torch.nn.Module):
    def __init__(self, inverted):
        super().__init__()
        self.inverted = inverted
    def forward(self, x):
        y = x.flatten(1)[:, :3]
        return -y if self.inverted else y

def switched(inverted=True):
    return Net(inverted)

def settings():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(7)
    torch.set_grad_enabled(False)
    warnings.simplefilter("error")
    np.seterr(all="raise")
    return Net(False)

def lazy():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))

def leaves():
    raise SystemExit(3)

def quantised():
    import torch.ao.quantization as q
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    return q.quantize_dynamic(net, {torch.nn.Linear}, dtype=torch.qint8)

def scripted():
    return torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval())

def frozen():
    return torch.jit.freeze(scripted())
"""
SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
args = parser.parse_args()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules of one's own, from which a command is run."""
    (tmp_path / "own_factory.py").write_text(FACTORY)
    (tmp_path / "own_script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_factory", None)


@pytest.mark.parametrize(("text", "sign"), [("False", 1), ("true", -1)])
def test_a_switch_is_what_it_says(folder: Path, text: str, sign: int) -> None:
    """As text 'False' was true, and maps came out with the other sign."""
    model = load(f"python:own_factory:switched?inverted={text}")
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(model.module(x), sign * x.flatten(1)[:, :3])
    assert model.source == f"python:own_factory:switched?inverted={text}"


def test_what_a_factory_sets_for_the_process_is_put_back(folder: Path) -> None:
    before = (torch.get_num_threads(), np.geterr(), warnings.filters[:], torch.is_grad_enabled())
    load("python:own_factory:settings")
    after = (torch.get_num_threads(), np.geterr(), warnings.filters[:], torch.is_grad_enabled())
    assert after == before
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_factory:lazy", "layers that find their sizes in the first forward pass"),
        ("own_factory:leaves", r"does not take \{\} \(SystemExit: 3\)"),
        ("own_factory:quantised", "is no plain tensor"),
        ("own_factory:frozen", "with its weights built in"),
        ("own_script:args", "importing 'own_script' ended the program .*if __name__"),
        ("./own_factory.py:switched", "such as python:own_factory:switched"),
        ("own_factory.switched", "such as python:own_factory:switched"),
        ("own_factory:swiched", "has no function 'swiched'; near it are switched"),
    ],
)
def test_what_cannot_be_used_has_one_sentence(
    folder: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=words):
        load(f"python:{name}")
    assert "usage" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_networks_run(folder: Path) -> None:
    model = load("python:own_factory:scripted")
    weight, bias = model.module.state_dict().values()
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(model.module(x), x.flatten(1) @ weight.T + bias)


def test_another_number_of_classes() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = load("torchvision:resnet18?num_classes=7&in_chans=1&seed=3")
    assert model.module(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    assert (model.names, model.normalise) == ((), None)
    again = load("torchvision:resnet18?num_classes=7&in_chans=1&seed=3")
    assert again.digest == model.digest != load("torchvision:resnet18?num_classes=7&seed=3").digest
    with torch.random.fork_rng():
        torch.manual_seed(3)
        own = torchvision.models.resnet18(num_classes=7)
    assert torch.equal(
        load("torchvision:resnet18?num_classes=7&seed=3").module.fc.bias, own.fc.bias
    )


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("torchvision:resnet18?num_classes=0", "num_classes=0 in torchvision:resnet18 is no whole"),
        ("torchvision:resnet18?num_classes=ten", "is no whole number from 1"),
        (
            "torchvision:resnet18?num_classes=10&weights=IMAGENET1K_V1",
            "num_classes= needs other weights than those that the library knows",
        ),
        ("torchvision:vit_b_16?in_chans=0", "in_chans=0"),
    ],
)
def test_heads_that_cannot_be(uri: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load(uri)


def test_a_finetuned_head_says_how_it_fits(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "w.pth")
    uri = f"torchvision:resnet18?weights={tmp_path / 'w.pth'}"
    with pytest.raises(ModelError, match="for a head of so many outputs add num_classes=10"):
        load(uri)
    assert load(f"{uri}&num_classes=10").module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_tagged_names_of_timm() -> None:
    timm = pytest.importorskip("timm")
    model = load("timm:resnet18.a1_in1k?seed=0&num_classes=5&in_chans=1")
    assert model.module(torch.zeros(1, 1, 32, 32)).shape == (1, 5)
    tagged = load("timm:mobilenetv3_small_050.lamb_in1k?seed=0")
    assert tagged.digest == load("timm:mobilenetv3_small_050?seed=0").digest
    assert timm.is_model("mobilenetv3_small_050")
    for name, words in (
        ("resnet18.a1_in1k", "names trained weights, but without pretrained=true it is untrained"),
        ("resnet18.a1_in2k?seed=0", "has no weights 'a1_in2k'; near it are a1_in1k"),
        ("hf_hub:timm/resnet18.a1_in1k", "would be read from a hub"),
    ):
        with pytest.raises(ModelError, match=words):
            load(f"timm:{name}")
