"""Moments of every second batch: exactly those images, and reliability that agrees with the one
from theory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared import prepared, read

from wna_ray import run
from wna_ray.errors import RunError
from wna_ray.moments.moments import Moments
from wna_ray.runs.directory import RunDirectory
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]
HALVES = {"moments": {"halves": True}}
CNN = {
    "model": "bundled:mnist-cnn",
    "stimulus": {
        "shape": [1, 28, 28],
        "scale": 0.3,
        "offset": "bundled:mnist-mean",
        "space": "pixel",
    },
}


@pytest.mark.parametrize(
    "changes",
    [
        {"responses": ["label", "confidence", "logits", "probabilities", "spikes"]},
        {
            "model": "python:networks_for_tests:sometimes_nan",
            "moments": {"second": True, "halves": True},
        },
        {
            "model": "python:networks_for_tests:relus",
            "responses": ["activation"],
            "estimator": "gradient",
        },
        {
            "model": "python:networks_for_tests:padded",
            "stimulus": {"shape": [2, 20, 24]},
            "target": {"layer": "second", "position": "pooled"},
            "responses": ["activation"],
        },
    ],
)
def test_odd_batches_are_those_of_odd_batches(
    make_spec: MakeSpec, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against shards of one batch each, merged by hand; 330 images are five whole batches and a
    part of the sixth.
    """
    job, network = prepared(make_spec(**(HALVES | changes), samples=330))
    monkeypatch.setattr(
        "wna_ray.shards.shard.PENDING_VALUES", 3 * 64 * 16
    )  # several batches at a time, of both kinds
    whole, _ = run_shard(job, network, 0, 330)
    assert whole.odd is not None
    expected = Moments.identity(
        job.stimulus.pixels, [r.kind for r in job.spec.responses], job.spec.keeps_squares
    )
    for a in (64, 192, 320):
        part, _ = run_shard(job, network, a, min(a + 64, 330))
        expected = expected.merge(
            Moments(part.images, 0, 0, part.sum_x, part.sum_xx, part.responses)
        )
    assert {k: v.tolist() for k, v in whole.odd.arrays().items()} == {
        k: v.tolist() for k, v in expected.arrays().items()
    }
    back = Moments.from_arrays(whole.arrays())
    assert {k: v.tolist() for k, v in back.arrays().items()} == {
        k: v.tolist() for k, v in whole.arrays().items()
    }


def test_halves_change_nothing_else(make_spec: MakeSpec, tmp_path: Path) -> None:
    plain = run(make_spec(), str(tmp_path / "plain"), executor="local")
    split = run(make_spec(**HALVES), str(tmp_path / "split"), executor="local")
    assert np.array_equal(plain.bias_maps, split.bias_maps, equal_nan=True)
    assert plain.classes["split_half"].null_count == len(plain.classes)
    assert split.classes["split_half"].null_count < len(split.classes)
    assert split.directory.verify() == []
    assert "halves" not in str(plain.described.identity)
    with pytest.raises(RunError, match=r"moments\.halves: null -> true"):
        run(make_spec(**HALVES), str(tmp_path / "plain"), executor="local")


def test_split_half_agrees_with_theory(make_spec: MakeSpec) -> None:
    """Ten logits of the digit network at few images: 2 r / (1 + r) and 1 - d / |z|^2 estimate the
    same number.

    r has a standard error of sqrt((1 - r^2) / d), and d(2 r / (1 + r)) / dr = 2 / (1 + r)^2; |z|^2
    adds about sqrt(2 / d) (1 - R). 5 of the two together are allowed for each row, 3 for the mean
    of ten rows taken as one (they are correlated).
    """
    job, network = prepared(
        make_spec(**CNN, **HALVES, responses=["logits"], samples=6400, numerics={"batch": 128})
    )
    (found,) = read(job, run_shard(job, network, 0, 6400)[0])
    assert found.split_half is not None
    reliable = found.reliability
    r = reliable / (2 - reliable)
    error = np.hypot(
        2 / (1 + r) ** 2 * np.sqrt((1 - r**2) / 784), math.sqrt(2 / 784) * (1 - reliable)
    )
    assert 0.5 < reliable.min() < reliable.max() < 0.95
    assert (np.abs(found.split_half - reliable) < 5 * error).all(), (found.split_half, reliable)
    assert abs((found.split_half - reliable).mean()) < 3 * error.mean()


def test_halves_of_nothing_do_not_agree(make_spec: MakeSpec) -> None:
    """A network that ignores what it sees: over 60 runs r is 0 on average, so half of them are
    0 and no other is far above.
    """
    found = []
    for seed in range(60):
        job, network = prepared(
            make_spec(
                model="python:networks_for_tests:deaf",
                responses=["activation"],
                samples=256,
                seed=seed,
                **HALVES,
            )
        )
        (readout,) = read(job, run_shard(job, network, 0, 256)[0])
        assert readout.split_half is not None
        found.append(readout.split_half[0])
    zero = np.mean(np.array(found) == 0)
    assert abs(zero - 0.5) < 4 * math.sqrt(0.25 / 60)
    assert np.median(found) < 2 * 3 / math.sqrt(16)


def test_damage_to_halves_is_found(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Moments without their odd part, or with more images in it than in all, are none of a run
    that asked for halves.
    """
    split = run(make_spec(**HALVES), str(tmp_path / "run"), executor="local")
    moments, extent = split.moments, split.extent
    extent.check(moments)
    assert moments.odd is not None
    for wrong in (
        Moments(moments.images, 0, 0, moments.sum_x, moments.sum_xx, moments.responses),
        Moments(10, 0, 0, moments.sum_x * 0, moments.sum_xx, moments.responses, moments.odd),
    ):
        with pytest.raises(ValueError, match=r"odd batches|no images can have"):
            extent.check(wrong)
    assert RunDirectory(str(tmp_path / "run")).verify() == []


def test_one_batch_has_no_second_half(make_spec: MakeSpec) -> None:
    job, network = prepared(make_spec(**HALVES, samples=64))
    logits = read(job, run_shard(job, network, 0, 64)[0])[1]
    assert logits.split_half is not None
    assert np.isnan(logits.split_half).all()
