"""Hostile specs by chance: honest ones of every kind, with something else in one place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz_fixtures import TRIALS
from fuzz_mutations import MARKUP, paths
from fuzz_spec_cases import AMBIGUOUS, NO_NUMBERS, ODD_NUMBERS
from fuzz_spec_text import (
    KEYED,
    LINEAR,
    LOGIN,
    PLAN,
    RUN,
    SIGNED,
    TRAIN,
    Case,
    digits,
    layered,
    spec,
    stimulus,
)

At = tuple[Any, ...]  # a path in nested mappings and lists


class Raw(str):
    """YAML that is written as it is."""


TAGS = [f"!!python/{what}:trap_for_tests" for what in ("name", "module")]
TAGS += ["!!python/object/apply:trap_for_tests.x []", "!!str 1", "!!float '1'", "!!binary aGk="]
TAGS += ["!!set {a}", "!!omap [a: 1]", "!!timestamp x", "!mine x"]
SHAPES = ["*nowhere", "&a 1", "&a [*a]", "&a {b: *a}", "{a: 1}", "[1]", "[[[[1]]]]"]
SHAPES += ["[" * 300 + "]" * 300, "{a: " * 100 + "1" + "}" * 100]
TEXTS = ["\0", "\x1b[2J\x1b]0;x\a", "\u202eabc", "\ud800", "a\nb", "x" * 2000, "[/red]", *MARKUP]
TEXTS += [KEYED, LOGIN, SIGNED, "$HOME", "../../x", "%s", "{}", "trained:/dev", "/dev/zero"]
TRAPS = [*NO_NUMBERS, *ODD_NUMBERS, *TAGS, *SHAPES, *map(json.dumps, TEXTS)]
KEYS = ['"\\e[2J"', "'[/red]'", "x", "5", "~", "yes", "? [a]", "1:30", "__class__", "*a", "&a x"]

SMALL: dict[str, Any] = {"model": LINEAR, "samples": 200, "numerics": {"batch": 50}}
LARGE: dict[str, Any] = SMALL | {"model": "bundled:mnist-cnn", "evaluation": {"dataset": "none"}}
BASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "noise": (
        PLAN,
        SMALL
        | {
            "stimulus": {
                "kind": "gaussian",
                "shape": [1, 4, 4],
                "space": "input",
                "scale": 1.0,
                "offset": 0.5,
                "cell": 2,
            },
            "responses": ["label", {"kind": "logits", "centred": False}],
            "seed": 3,
            "moments": {"second": True, "halves": True},
            "numerics": {"batch": 50, "threads": 1, "dtype": "float32"},
            "normalise": {"mean": [0.0], "std": [1.0]},
            "execution": {"shard": 50, "segments": 2, "attempts": 2, "patience": 1.0},
            "keep_responses": True,
            "stop": {"reliability": 0.5, "first": 100},
        },
    ),
    "units": (
        PLAN,
        LARGE
        | {
            "stimulus": {
                "kind": "sparse",
                "shape": [1, 28, 28],
                "offset": 0.5,
                "scale": 0.3,
                "density": 0.1,
            },
            "target": {"layer": "conv1", "units": [0, 3], "position": "centre"},
            "responses": ["rectified", {"kind": "spikes", "quantile": 0.9}],
        },
    ),
    "images": (
        PLAN,
        LARGE
        | {
            "stimulus": {
                "kind": "images",
                "dataset": "mnist",
                "split": "test",
                "classes": [1, 2],
                "shape": [1, 28, 28],
            },
            "samples": 20,
            "numerics": {"batch": 10},
        },
    ),
    "basis": (
        PLAN,
        LARGE
        | {
            "stimulus": {
                "kind": "uniform",
                "shape": [1, 28, 28],
                "scale": 1,
                "basis": {"kind": "stripes", "spread": "sd", "centre": True},
            },
        },
    ),
    "trials": (PLAN, TRIALS | {"numerics": {"batch": 20}, "transforms": ["none"], "seed": 1}),
    "covariance": (
        RUN,
        {
            "run": "nowhere",
            "response": "rectified",
            "units": ["0"],
            "method": "dense",
            "fresh": 19,
            "seed": 1,
            "clip": 4.0,
        },
    ),
    "sweep": (
        PLAN,
        {
            "sweep": {
                "noise": {"a": {"stimulus.kind": "gaussian"}, "b": {"stimulus.kind": "uniform"}},
                "seed": {"c": {"seed": 1}},
            },
            "full": {"samples": 400},
            "stimulus": {"kind": "binary", "shape": [1, 4, 4], "space": "input", "scale": 1.0},
        }
        | SMALL,
    ),
    "training": (
        TRAIN,
        {
            "network": "logistic",
            "dataset": "mnist",
            "epochs": 1,
            "images": 5,
            "validation": 2,
            "batch": 16,
            "seeds": [1],
            "optimiser": {"kind": "adam", "rate": 0.001, "decay": "none"},
            "options": {"softmax": False},
            "classes": [1, 2],
        },
    ),
}
ORIGINALS: dict[str, Callable[[str], str]] = {  # files of which copies are broken, and their specs
    "offset.npy": lambda name: spec(stimulus=stimulus(offset=f"FILES/{name}")),
    "weights.safetensors": lambda name: layered(f"FILES/{name}"),
    "weights.pt": lambda name: layered(f"FILES/{name}"),
    "net.pt2": lambda name: spec(model=f"export:FILES/{name}"),
    "trained": lambda name: digits(model=f"trained:FILES/{name}"),
}
WAYS = {"value": 40, "twice": 15, "more": 8, "merge": 8, "set": 12, "file": 25}  # how often


def honest() -> list[Case]:
    """All that is broken, as it was before."""
    known = [(kind, argv, written(base)) for kind, (argv, base) in BASES.items()]
    known = [(kind, argv, text) for kind, argv, text in known if kind != "covariance"]
    return [
        *(Case("honest", kind, text, argv, honest=True) for kind, argv, text in known),
        *(Case("honest", name, text(name), honest=True) for name, text in ORIGINALS.items()),
    ]


def written(value: Any, again: At = (), text: str = "") -> str:
    """A mapping as YAML; the key at the path `again` is written again, with other text."""
    return "".join(f"{key}: {item}\n" for key, item in _items(value, again, text, ()))


def _items(value: dict[str, Any], again: At, text: str, at: At) -> list[tuple[str, str]]:
    items = [(key, _inner(item, again, text, (*at, key))) for key, item in value.items()]
    return [*items, (again[-1], text)] if again and at == again[:-1] else items


def _inner(value: Any, again: At, text: str, at: At) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {v}" for k, v in _items(value, again, text, at)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inner(v, again, text, (*at, i)) for i, v in enumerate(value)) + "]"
    return json.dumps(value)


def generated(seed: int, index: int) -> Case:
    """A case by chance."""
    rng = Random(f"{seed}/{index}")
    way, kind = rng.choices(list(WAYS), list(WAYS.values()))[0], rng.choice(list(BASES))
    if way == "file":
        original = rng.choice(list(ORIGINALS))
        name = f"broken-{rng.randrange(10**9)}-{original}"
        return Case("chance", f"{index}: {name}", ORIGINALS[original](name), PLAN)
    argv, base = BASES[kind][0], copy.deepcopy(BASES[kind][1])
    where, trap = rng.choice(list(paths(base))), rng.choice(TRAPS)
    if kind == "training":  # which asks for no more work than it has
        trap = rng.choice([trap for trap in TRAPS if not trap[:1].isdigit()])
    *above, last = where
    node: Any = base
    for key in above:
        node = node[key]
    old, name = node[last], ".".join(map(str, where))
    about = f"{index}: {kind}, {name}"
    number = isinstance(old, int | float) and not isinstance(old, bool)
    refused = number and trap in AMBIGUOUS and where[0] != "full"  # which nobody asks for
    keyed = isinstance(node, dict)
    if way == "set" and all(isinstance(key, str) for key in where) and where[0] != "sweep":
        argv = (*argv, "--set", f"{name}={trap}")
        return Case("chance", f"{about}, --set {trap[:40]}", written(base), argv, refused)
    if way == "twice" and keyed:
        text = written(base, where, trap if rng.random() < 0.6 else _inner(old, (), "", ()))
        return Case("chance", f"{about} twice", text, argv, refused=True)
    if way in ("more", "merge") and keyed:
        key = "<<" if way == "merge" else rng.choice(KEYS)
        mappings = [f"{{{last}: {trap}}}", "[{a: 1}, {a: 2}]", "&m {<<: *m}"]
        node[key] = Raw(rng.choice([trap, *mappings]))
        return Case("chance", f"{about}, beside it {key}: {node[key][:40]}", written(base), argv)
    node[last] = Raw(trap)
    return Case("chance", f"{about}: {trap[:40]}", written(base), argv, refused)
