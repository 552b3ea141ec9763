"""Fixtures that tests of covariances share."""

from __future__ import annotations

import pytest
from quadratic_run import QUADRATIC

from wna_ray import run
from wna_ray.kinds.average.run import Run
from wna_ray.specs.run import Spec


@pytest.fixture(scope="session")
def quadratic(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """20,000 images of the quadratic form, d = 16."""
    stimulus = {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0}
    spec = Spec.parse(
        QUADRATIC | {"stimulus": stimulus, "samples": 20_000, "seed": 3, "numerics": {"batch": 64}}
    )
    return run(spec, str(tmp_path_factory.mktemp("quadratic") / "run"), executor="local")
