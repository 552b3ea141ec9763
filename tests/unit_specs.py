"""Specs of runs that look at units inside a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]
CNN = {"model": "bundled:mnist-cnn", "stimulus": {"shape": [1, 28, 28], "scale": 0.5}}
PADDED = {"model": "python:networks_for_tests:padded", "stimulus": {"shape": [2, 20, 24]}}


def units(
    make_spec: MakeSpec,
    base: dict[str, Any],
    layer: str,
    responses: Any = ("activation",),
    **target: Any,
) -> Spec:
    changes = {key: target.pop(key) for key in ("samples", "numerics", "moments") if key in target}
    return make_spec(
        **base, target={"layer": layer, **target}, responses=list(responses), **changes
    )
