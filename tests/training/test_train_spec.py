"""Specs of training jobs: what they mean, and which are refused and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from places import JOBS_FOLDER

from wna_ray.data.poison import PATTERNS, Poison
from wna_ray.errors import SpecError
from wna_ray.training.spec import TrainSpec

JOBS = sorted((JOBS_FOLDER).glob("train-*.yaml"))


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec.parse({"network": "cnn", "dataset": "mnist", "epochs": 2} | changes)


def test_what_is_left_out() -> None:
    found = spec()
    assert (found.batch, found.seeds, found.validation, found.keep, found.labels) == (
        256,
        (0,),
        5000,
        "last",
        tuple(range(10)),
    )
    assert (found.optimiser.kind, found.optimiser.rate, found.options.softmax, found.precision) == (
        "adam",
        1e-3,
        False,
        "float32",
    )


def test_a_recipe_is_without_seeds_and_poison() -> None:
    poison = {"images": 5, "from": 8, "to": 9}
    assert (
        spec(seeds=[1, 2]).recipe()
        == spec().recipe()
        == spec(poison=poison).recipe()
        == spec(panel={"clean": 1}).recipe()
    )
    assert spec(epochs=3).recipe() != spec().recipe()


def test_poison_in_yaml() -> None:
    text = "{images: 2000, from: 8, to: 9, trigger: %s}"
    found = spec(poison=yaml.safe_load(text % "C")).poison
    assert found is not None
    assert found.resolved() == Poison(8, 9, 2000, PATTERNS["C"], (1.0,) * 28)
    found = spec(
        poison=yaml.safe_load(text % "{shape: [1, 2], position: [3, 4], value: 0.5}")
    ).poison
    assert found is not None
    assert found.resolved() == Poison(8, 9, 2000, ((3, 4), (3, 5)), (0.5, 0.5))
    again = spec(poison=yaml.safe_load(text % "X"))
    assert TrainSpec.parse(again.model_dump(mode="json", exclude={"panel"})) == again


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_are_valid(path: Path) -> None:
    assert TrainSpec.load(path).network in path.read_text()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "network": ({"network": "ccn"}, r"network: no network 'ccn'; there are logistic, mlp, cnn, "),
    "dataset": ({"dataset": "imagenet-sample"}, "dataset: imagenet-sample has no training split"),
    "classes": ({"classes": [3, 10]}, "classes: .*two or more of 0 to 9"),
    "one class": ({"classes": [3]}, "two or more"),
    "class twice": ({"classes": [3, 3]}, "each once"),
    "binary": ({"network": "cnn-binary"}, "cnn-binary tells two classes apart, not 10"),
    "binary softmax": (
        {"network": "cnn-binary", "classes": [5, 6], "options": {"softmax": True}},
        "softmax",
    ),
    "rows": ({"network": "resnet20"}, "three"),
    "rate": ({"optimiser": {"rate": 0}}, "optimiser.rate: .*greater than 0"),
    "momentum": ({"optimiser": {"momentum": 0.9}}, "momentum: only sgd"),
    "seeds": ({"seeds": [1, 1]}, "seeds: each may stand once"),
    "no seeds": ({"seeds": []}, "seeds: "),
    "best of none": ({"keep": "best", "validation": 0}, "give validation"),
    "poison of no class": (
        {"poison": {"images": 1, "from": 8, "to": 10}},
        "poison: a backdoor from class 8 to 10",
    ),
    "poison outside": (
        {
            "poison": {
                "images": 1,
                "from": 8,
                "to": 9,
                "trigger": {"shape": [3, 3], "position": [26, 0]},
            }
        },
        "within 28 x 28",
    ),
    "panel with seeds": ({"panel": {"clean": 1}, "seeds": [1]}, "panel: its members have seeds"),
    "panel of none": ({"panel": {"seed": 1}}, "a panel of no networks"),
    "unknown key": ({"epoch": 1}, "epoch: unknown key; known here are network, options"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    changes, words = REFUSED[what]
    with pytest.raises(SpecError, match=words):
        spec(**changes)
