"""Sweeps as they are written: the product of axes, changes in order, and what is refused with a
way out.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from wna_ray.errors import SpecError
from wna_ray.specs.covariance import StcSpec
from wna_ray.specs.run import Spec
from wna_ray.specs.sweep import SweepSpec, read_asked
from wna_ray.specs.trials import TrialSpec

BASE: dict[str, Any] = {
    "model": "python:networks_for_tests:linear",
    "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "scale": 1.0, "space": "input"},
    "samples": 640,
}
AXES: dict[str, Any] = {
    "network": {
        f"seed-{n}": {"model": f"python:networks_for_tests:linear?seed={n}"} for n in range(3)
    },
    "noise": {
        "plain": None,
        "wide": {"stimulus.scale": 2.0},
        "uniform": {"stimulus": BASE["stimulus"] | {"kind": "uniform"}},
    },
}


def written(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def test_members_are_the_product_in_order(tmp_path: Path) -> None:
    found = read_asked(written(tmp_path, {"sweep": AXES} | BASE))
    assert isinstance(found, SweepSpec)
    assert found.axes == {
        "network": ("seed-0", "seed-1", "seed-2"),
        "noise": ("plain", "wide", "uniform"),
    }
    assert list(found.members) == [f"{a}/{b}" for a, b in itertools.product(*found.axes.values())]
    for name, spec in found.members.items():
        seed, noise = name.split("/")
        alone = BASE | {"model": f"python:networks_for_tests:linear?seed={seed[-1]}"}
        stimulus = (
            BASE["stimulus"]
            | {"plain": {}, "wide": {"scale": 2.0}, "uniform": {"kind": "uniform"}}[noise]
        )
        assert spec == Spec.parse(alone | {"stimulus": stimulus}), name


def test_full_then_set_then_the_members(tmp_path: Path) -> None:
    """Each later one wins over the earlier ones."""
    data = {
        "sweep": {"n": {"some": {"seed": 5}, "few": {"samples": 64}}},
        "full": {"samples": 10_000, "stimulus.scale": 3.0},
    } | BASE
    path = written(tmp_path, data)

    def seen(*arguments: Any) -> list[tuple[Any, ...]]:
        found = read_asked(path, *arguments)
        assert isinstance(found, SweepSpec)
        return [
            (s.samples, s.stimulus.scale, s.seed)
            for s in found.members.values()
            if isinstance(s, Spec)
        ]

    assert seen() == [(640, 1.0, 5), (64, 1.0, 0)]
    assert seen({}, True) == [(10_000, 3.0, 5), (64, 3.0, 0)]
    assert seen({"samples": 99, "seed": 7}, True) == [(99, 3.0, 5), (64, 3.0, 7)]
    assert seen({"sweep.n.more": {"samples": 65}}) == [(640, 1.0, 5), (64, 1.0, 0), (65, 1.0, 0)]


def test_later_axes_change_what_earlier_ones_left() -> None:
    """And the changes of one member are no other's, though YAML's anchors make them one object."""
    shared = {"kind": "binary", "shape": [1, 4, 4], "scale": 0.5, "space": "input"}
    found = SweepSpec.parse(
        {
            "sweep": {
                "a": {"x": {"stimulus": shared}},
                "b": {"y": {"stimulus.scale": 0.25}, "z": {"stimulus.cell": 2}},
            }
        }
        | BASE
    )
    noises = [s.stimulus for s in found.members.values() if isinstance(s, Spec)]
    assert [(n.kind, n.scale, n.cell) for n in noises] == [("binary", 0.25, 1), ("binary", 0.5, 2)]
    assert shared["scale"] == 0.5


def test_every_kind_of_run_and_of_name(tmp_path: Path) -> None:
    trials = {"model": "bundled:mnist-cnn", "signals": {"dataset": "mnist"}}
    found = SweepSpec.parse({"sweep": {"r": {1: {"repeats": 1}, 2.5: {"repeats": 2}}}} | trials)
    assert [type(s) for s in found.members.values()] == [TrialSpec] * 2
    assert list(found.members) == ["1", "2.5"]
    axes = SweepSpec.parse({"sweep": {"of": {"a_b": {"run": "runs/a"}, "b.c": {"run": "runs/b"}}}})
    assert axes.members["b.c"] == StcSpec(run="runs/b")
    alone = read_asked(written(tmp_path, BASE | {"full": {"samples": 700}}), None, True)
    assert alone == Spec.parse(BASE | {"samples": 700})


BAD: dict[str, tuple[Any, str]] = {
    "no axes": ({}, "sweep: expected a mapping of axes to what they stand for, got nothing"),
    "a list": ([1], "sweep: expected a mapping of axes to what they stand for, got list"),
    "an empty axis": ({"a": {}}, "sweep.a: expected a mapping of named values"),
    "values without names": (
        {"a": ["x", "y"]},
        "sweep.a: expected a mapping of named values to what they stand for, got list",
    ),
    "a bare value": (
        {"a": {"x": 0.3}},
        "sweep.a.x: expected a mapping of dotted keys, such as stimulus.scale: 0.3, to what",
    ),
    "a large letter": (
        {"a": {"X": {"seed": 1}}},
        "sweep.a: 'X' is no name: up to 60 small letters",
    ),
    "a way out": ({"a": {"..": {"seed": 1}}}, "sweep.a: '..' is no name"),
    "a slash": ({"a": {"x/y": {"seed": 1}}}, "sweep.a: 'x/y' is no name"),
    "a truth value": (
        {"a": {True: {"seed": 1}}},
        "'True' is no name (YAML reads yes, no, on and off as truth values; put it in quotes)",
    ),
    "a taken name": (
        {"a": {"spec.json": {"seed": 1}}},
        "'spec.json' is the name of an object of the sweep itself",
    ),
    "a fault in a member": (
        {"a": {"x": {}, "y": {"samples": 0}}},
        "job: member y: samples: Input should be greater than or equal to 1",
    ),
    "an unknown key": (
        {"a": {"x": {"stimulus.sd": 1}}},
        "job: member x: stimulus.sd: unknown key; known here are kind, shape",
    ),
    "into a number": (
        {"a": {"x": {"samples.most": 1}}},
        "sweep.a.x: samples.most: 'samples' is not a mapping in job",
    ),
    "twice the same": (
        {"a": {"x": {"seed": 1}, "y": {"seed": 1}}},
        "the members x and y are the same run",
    ),
    "the same but for its shards": (
        {"a": {"x": None, "y": {"execution.shard": 64}}},
        "the members x and y are the same run",
    ),
    "too many": (
        {axis: {f"{i}": {f"{axis}": i} for i in range(50)} for axis in ("seed", "samples")},
        "2,500 members, but at most 2,000 make one sweep",
    ),
}


@pytest.mark.parametrize("asked, words", BAD.values(), ids=BAD.keys())
def test_what_is_refused(asked: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        SweepSpec.parse({"sweep": asked} | BASE, "job")
    assert words in str(caught.value)


def test_full_without_a_full_size(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"--full: \S+ does not say what its full size is; give it a key full:"
    ):
        read_asked(written(tmp_path, BASE), None, True)
