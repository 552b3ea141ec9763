"""The true filters of linear units, and runs that find them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import networks_for_tests
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prepared import prepared
from unit_specs import CNN, PADDED, units

from wna_ray import run
from wna_ray.networks.models import load
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.gradients import linear_filters
from wna_ray.shards.job import Job
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]


def filters_of(job: Job, network: FedNetwork) -> NDArray[np.float64]:
    """Of all units."""
    return linear_filters(job, network, 0, len(job.names))


@pytest.mark.parametrize("step", [7, 14])
def test_filters_in_parts_have_the_same_bits(make_spec: MakeSpec, step: int) -> None:
    """As workers make them, cut at whole batches."""
    job, network = prepared(units(make_spec, CNN | {"numerics": {"batch": 7}}, "conv1"))
    whole = filters_of(job, network)
    parts = [linear_filters(job, network, a, min(a + step, 20)) for a in range(0, 20, step)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.isfinite(whole).all()


def test_units_that_only_bend_a_little_have_none(make_spec: MakeSpec) -> None:
    """Half of them are linear, the other half rise by a hundredth less above 0."""
    job, network = prepared(
        make_spec(
            model="python:networks_for_tests:kinked",
            target={"layer": "units"},
            responses=["activation"],
        )
    )
    filters = filters_of(job, network)
    assert np.isfinite(filters).all(axis=1).tolist() == [True, False] * 4
    assert np.allclose(filters[::2], networks_for_tests.weights(8)[::2].numpy(), atol=1e-6)


@pytest.mark.parametrize("position", ["centre", "pooled"])
def test_filters_of_linear_units_are_their_weights(make_spec: MakeSpec, position: str) -> None:
    job, network = prepared(units(make_spec, CNN, "conv1", position=position, units=[3, 11]))
    found = filters_of(job, network)
    assert np.allclose(
        found, load("bundled:mnist-cnn").module.conv1.weight[[3, 11]].reshape(2, -1), atol=1e-6
    )


def test_filters_include_everything_before_the_unit(make_spec: MakeSpec) -> None:
    """Normalisation divides by 0.5, and the value of a cell of 2 x 2 pixels counts four times."""
    base = {"model": "bundled:mnist-cnn", "normalise": {"mean": [0.1], "std": [0.5]}}
    stimulus = {"shape": [1, 28, 28], "space": "pixel", "cell": 2}
    job, network = prepared(
        units(
            make_spec, base | {"stimulus": stimulus}, "conv1", position=[10, 12], evaluate="image"
        )
    )
    w = load("bundled:mnist-cnn").module.conv1.weight.double() / 0.5
    expected = (
        torch.nn.functional.pad(w, (0, 1, 0, 1)).reshape(20, 3, 2, 3, 2).sum(dim=(2, 4))
    )  # unit (10, 12) sees rows 10 ... 14
    assert np.allclose(filters_of(job, network), expected.reshape(20, -1), atol=1e-5)


def test_units_that_are_not_linear_have_none(make_spec: MakeSpec) -> None:
    for layer in ("relu1", "conv2"):
        assert np.isnan(filters_of(*prepared(units(make_spec, CNN, layer)))).all()
    assert np.isnan(filters_of(*prepared(units(make_spec, PADDED, "steps")))).all(), (
        "no gradients at all"
    )


def test_conv1_of_the_bundled_network_is_recovered(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Issue: median cosine >= 0.99. By the runs' own reliability: squared cosine 1 - 25 /
    (20,000 + 25), 0.9994 on average.
    """
    finished = run(
        units(make_spec, CNN, "conv1", ["activation", "spikes"], samples=20_000),
        str(tmp_path / "run"),
        executor="local",
    )
    cosines = np.array(finished.classes["filter_cosine"].to_pylist())
    assert np.median(cosines) >= 0.99
    assert cosines.min() >= 0.98
    assert finished.directory.verify() == []
    assert "result/figures/filters.png" in finished.derive()
    assert finished.bias_maps.shape == (40, 1, 5, 5)
    assert finished.classes["self_label"].null_count == 40


def test_two_workers_and_one_give_the_same_units(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = units(
        make_spec, CNN, "conv2", ["rectified", {"kind": "spikes", "quantile": 0.8}], samples=1280
    )
    spec = spec.model_copy(update={"execution": spec.execution.model_copy(update={"shard": 128})})
    a = run(spec, str(tmp_path / "a"), executor="local")
    job, network = prepared(spec)
    whole, _ = run_shard(job, network, 0, 1280)
    assert a.fingerprint == job.fingerprint
    assert all(np.array_equal(v, whole.arrays()[k]) for k, v in a.moments.arrays().items())
    b = run(spec, str(tmp_path / "b"), executor="local")
    one, other = (
        {name: run.directory.store.read(name) for name in run.manifest.objects} for run in (a, b)
    )
    results = {name for name in one if name.startswith("result/")}
    assert results == {name for name in other if name.startswith("result/")}
    assert all(one[name] == other[name] for name in results)


@pytest.mark.parametrize(
    "model, stimulus, layer, images",
    [
        (
            "python:wna_ray.networks:cifar_resnet20?weights={data}/weights/cifar10-resnet20-12fca82f.th",
            [3, 32, 32],
            "conv1",
            10_000,
        ),
        (
            "torchvision:mobilenet_v2?weights={data}/weights/mobilenet_v2-imagenet-int8.pth",
            [3, 224, 224],
            "features.0.0",
            10_000,
        ),
    ],
)
def test_conv1_of_real_networks_is_recovered(
    make_spec: MakeSpec,
    wna_data: Path,
    tmp_path: Path,
    model: str,
    stimulus: list[int],
    layer: str,
    images: int,
) -> None:
    """Squared cosine 1 - 27 / (10,000 + 27) on average. Some filters of MobileNet are nothing
    but rounding: they are named constant.
    """
    base = {
        "model": model.format(data=wna_data),
        "stimulus": {"shape": stimulus, "space": "pixel", "offset": 0.5, "scale": 0.2},
    }
    normalise = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    spec = units(make_spec, base | {"normalise": normalise}, layer, samples=images)
    finished = run(spec, str(tmp_path / "run"), executor="local")
    judged = [
        c
        for c, note in zip(
            finished.classes["filter_cosine"].to_pylist(),
            finished.classes["note"].to_pylist(),
            strict=True,
        )
        if not note
    ]
    assert len(judged) >= 0.5 * len(finished.classes)
    assert min(judged) >= 0.95
