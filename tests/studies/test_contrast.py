"""Paired contrasts of two runs: against the z-map of the difference itself, calibrated, and
refused where noise differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wna_ray import run
from wna_ray.errors import RunError
from wna_ray.kinds.average.run import Run
from wna_ray.specs.run import Spec
from wna_ray.studies.contrast import contrast

MakeSpec = Callable[..., Spec]
RELUS = {
    "model": "python:networks_for_tests:relus",
    "responses": ["activation"],
    "keep_responses": True,
}


def made(make_spec: MakeSpec, folder: Path, name: str, **changes: Any) -> Run:
    return run(make_spec(**(RELUS | changes)), str(folder / name), executor="local")


def naive(a: np.ndarray, b: np.ndarray, x: np.ndarray, sigma: float) -> np.ndarray:
    """z of the difference of two responses, written out."""
    difference = (a - a.mean()) / a.std() - (b - b.mean()) / b.std()
    return np.array(
        [sum(difference[i] * x[i, j] for i in range(len(x))) for j in range(x.shape[1])]
    ) / (sigma * math.sqrt(np.square(difference).sum()))


def test_against_the_difference_written_out(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Two outputs of one network, and one output of two (the second run cut otherwise)."""
    one = made(make_spec, tmp_path, "one")
    two = made(
        make_spec,
        tmp_path,
        "two",
        model="python:networks_for_tests:smooth",
        execution={"segments": 3, "shard": 128},
    )
    x = one.stimulus.noise.grid(0, 2000).reshape(2000, -1).astype(float)
    values = [
        np.concatenate([s.values["activation"] for _, s in r.stored()]).astype(float)
        for r in (one, two)
    ]
    sigma = math.sqrt(float(one.stimulus.noise.table.variance))
    for found, pair in (
        (contrast(one, one, "activation", "0", "1"), (values[0][:, 0], values[0][:, 1])),
        (contrast(one, two, "activation", "1"), (values[0][:, 1], values[1][:, 1])),
    ):
        assert np.allclose(found.z.ravel(), naive(*pair, x, sigma), atol=1e-9)
        assert found.correlation == pytest.approx(np.corrcoef(*pair)[0, 1])
        assert np.allclose(found.z * math.sqrt(1 - found.correlation), found.unpaired)
        assert found.images == 2000


def test_pairing_sees_what_two_runs_cannot(make_spec: MakeSpec, tmp_path: Path) -> None:
    """relu and tanh of the same projections correlate; paired, their difference is far more
    significant.
    """
    found = contrast(
        made(make_spec, tmp_path, "one"),
        made(make_spec, tmp_path, "two", model="python:networks_for_tests:smooth"),
        "activation",
        "0",
    )
    assert found.correlation > 0.5
    assert np.square(found.z).sum() > 2 * np.square(found.unpaired).sum()


def test_the_difference_of_nothing_is_standard_normal(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Two hashes of each image: over 40 runs of 16 values the mean square of z is 1 within 4
    standard errors, p below 0.05 rarely.
    """
    size, alarms = [], 0
    for seed in range(40):
        deaf = made(
            make_spec,
            tmp_path,
            f"{seed}",
            model="python:networks_for_tests:deaf",
            seed=seed,
            samples=640,
        )
        found = contrast(deaf, deaf, "activation", "0", "1")
        size.append(np.square(found.z).mean())
        alarms += found.p_value < 0.05
    assert abs(np.mean(size) - 1) < 4 * math.sqrt(2 / 16 / 40)
    assert alarms / 40 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 40)


def test_labels_and_images_left_out(make_spec: MakeSpec, tmp_path: Path) -> None:
    """One run leaves images out (NaN): only those that both count are compared."""
    kinds = {"responses": ["label", "confidence", "logits"]}
    whole = made(make_spec, tmp_path, "whole", model="python:networks_for_tests:linear", **kinds)
    some = made(
        make_spec, tmp_path, "some", model="python:networks_for_tests:sometimes_nan", **kinds
    )
    found = contrast(whole, some, "logits", "0", "2")
    assert found.images == some.moments.images < whole.moments.images
    assert contrast(whole, whole, "label", "1", "1", "confidence").correlation > 0.8


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 8}, "seed differ"),
        ({"samples": 1000}, "samples differ"),
        ({"stimulus": {"kind": "uniform"}}, "stimulus differ"),
        ({"keep_responses": False}, "keep_responses: true"),
    ],
)
def test_other_noise_is_refused(
    make_spec: MakeSpec, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    one, other = made(make_spec, tmp_path, "one"), made(make_spec, tmp_path, "other", **changes)
    with pytest.raises(RunError) as caught:
        contrast(one, other, "activation", "0")
    assert words in str(caught.value)


def test_what_there_is_not(make_spec: MakeSpec, tmp_path: Path) -> None:
    one = made(make_spec, tmp_path, "one")
    with pytest.raises(RunError, match="has no logits of '0'; it has activation of 0, 1"):
        contrast(one, one, "logits", "0")
    with pytest.raises(RunError, match="are the same response to every image"):
        contrast(one, one, "activation", "0")
