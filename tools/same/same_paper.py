"""The job files of ``wna paper`` with little of everything: then the paper takes two minutes.

They are made of those of the older tree: what it can read, a newer one must read, too, and give the
same. What needs CIFAR-10 or published weights, which no made-up file can stand for, fails, and the
report says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Spec = dict[str, Any]

PANEL = ("clean-00", "clean-01", "clean-02", "clean-03", "poisoned-00", "poisoned-01")
IMAGES, BATCH, COMPONENTS, FIRST = 64, 32, 20, 32
CUT = {"shard": IMAGES, "segments": 1}


def write_small_jobs(jobs: Path, to: Path) -> None:
    """Write small forms of all job files that the paper can need."""
    for path in sorted([*jobs.glob("train-*.yaml"), *jobs.glob("paper/*.yaml")]):
        place = to / path.relative_to(jobs)
        place.parent.mkdir(parents=True, exist_ok=True)
        found = yaml.safe_load(path.read_text())
        small = small_run(found) if path.parent != jobs else small_training(found)
        place.write_text(yaml.safe_dump(small, sort_keys=False))


def small_training(spec: Spec) -> Spec:
    """Leave one epoch of a hundred images."""
    small = spec | {"epochs": 1, "images": 10, "validation": 5, "batch": BATCH}
    small.pop("panel", None)  # the paper sets its own
    return small | ({"poison": spec["poison"] | {"images": 5}} if "poison" in spec else {})


def small_run(spec: Spec) -> Spec:
    """Leave a few images, and of a panel a few networks."""
    small = {key: value for key, value in spec.items() if key != "full"}
    axes: dict[str, dict[str, Spec]] = small.get("sweep", {})
    for axis in axes.values():
        for name in [n for n in axis if PANEL[0] in axis and n not in PANEL]:
            del axis[name]
    for changes in (change for axis in axes.values() for change in axis.values()):
        shrink(changes)
    shrink(small)
    if "signals" in small:
        small["signals"] |= {"images": 2}
    if "attack" in small or "stimulate" in small:
        small["gammas"] = small.get("gammas", [1])[:: max(1, len(small.get("gammas", [1])) - 1)]
    small["numerics"] = small.get("numerics", {}) | {"batch": BATCH}
    return small | {"execution": CUT}


def shrink(spec: Spec) -> None:
    """Make the numbers small that a spec, or the changes of a member, has. Logits are centred, as
    they were by default when older job files were written.
    """
    if "responses" in spec:
        centred = {"kind": "logits", "centred": True}
        spec["responses"] = [centred if kind == "logits" else kind for kind in spec["responses"]]
    for key, most in (("samples", IMAGES), ("repeats", 2)):
        if key in spec:
            spec[key] = min(spec[key], most)
    if "stop" in spec:
        spec["stop"] |= {"first": FIRST}
    for basis in (spec.get("stimulus.basis"), spec.get("stimulus", {}).get("basis")):
        if basis and "components" in basis:
            basis["components"] = COMPONENTS
