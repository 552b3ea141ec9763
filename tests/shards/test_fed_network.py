"""A network with its feed: batches, wrong outputs, and that nothing changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from prepared import prepared
from unit_specs import CNN, units

from wna_ray.errors import ModelError
from wna_ray.shards.loading import load_network
from wna_ray.shards.network import Network
from wna_ray.shards.resolve import resolve
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_padding_does_not_change_an_answer(make_spec: MakeSpec, dtype: str) -> None:
    spec = make_spec(
        model="bundled:mnist-cnn",
        stimulus={"shape": [1, 28, 28], "space": "pixel"},
        numerics={"batch": 32, "dtype": dtype},
    )
    job, network = prepared(spec)
    images = job.stimulus.images(job.stimulus.noise.grid(0, 32))
    whole = network(images)
    assert whole.dtype == np.float32
    for n in (1, 5, 31):
        assert np.array_equal(network(images[:n]), whole[:n])


def test_an_output_of_the_wrong_shape(make_spec: MakeSpec) -> None:
    loaded = load_network(make_spec(), "cpu")
    flat = Network(torch.nn.Flatten(0), "flat", loaded.device, torch.float32)
    network = replace(loaded, network=flat)
    with pytest.raises(
        ModelError, match=r"gave \(1024,\); expected one row of outputs for each of 64 images"
    ):
        network(torch.zeros(64, 1, 4, 4))


def test_another_batch_and_other_units_make_another_one(make_spec: MakeSpec) -> None:
    """Around the same network and feed; the first one answers as before."""
    job, network = prepared(units(make_spec, CNN, "conv1", units=[3, 11]))
    images = job.stimulus.images(job.stimulus.noise.grid(0, 64))
    before = network(images)
    assert job.field is not None
    one, smaller = network.aimed(job.field.only([1])), network.with_batch(16)
    assert one.network is smaller.network is network.network
    assert np.array_equal(one(images), before[:, 1:])
    assert smaller(images[:16]).shape == (16, 2)
    assert (network.batch, network.field) == (64, job.field)
    assert np.array_equal(network(images), before)


def test_resolving_changes_nothing_of_what_was_loaded(make_spec: MakeSpec) -> None:
    spec = units(make_spec, CNN, "conv1", units=[3], numerics={"tune": True, "batch": 37})
    loaded = load_network(spec, "cpu")
    resolved = resolve(spec, loaded)
    assert (loaded.batch, loaded.field) == (37, None)
    assert resolved.tuned is not None
    assert resolved.network.batch == resolved.job.spec.numerics.batch == resolved.tuned.batch
    assert resolved.network.field == resolved.job.field
    assert spec.numerics.batch == 37
