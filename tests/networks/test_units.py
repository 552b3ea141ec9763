"""Units: where they look, what is shown to them, how they answer, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import networks_for_tests
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prepared import prepared, read
from torch import nn
from unit_specs import CNN, PADDED, units

from wna_ray.errors import ModelError, RunError, SpecError
from wna_ray.geometry import Box
from wna_ray.kinds.average.extent import check_described
from wna_ray.networks.field import Field
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.job import Job
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import check_canary
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]


def field(make_spec: MakeSpec, base: dict[str, Any], layer: str, **target: Any) -> Field:
    found = prepared(units(make_spec, base, layer, **target))[0].field
    assert found is not None
    return found


def place(found: Field) -> Box:
    """The receptive field in the whole image."""
    p = found.patches.first
    return Box(found.shown.top + p.top, found.shown.left + p.left, p.height, p.width)


# --- receptive fields


@pytest.mark.parametrize(
    "layer, size, stride",
    [("conv1", 5, 1), ("relu1", 5, 1), ("pool1", 6, 2), ("conv2", 14, 2), ("pool2", 16, 4)],
)
@pytest.mark.parametrize("at", [(0, 0), (1, 2), (3, 0)])
def test_fields_of_the_papers_network(
    make_spec: MakeSpec, layer: str, size: int, stride: int, at: tuple[int, int]
) -> None:
    """Unit (r, c) sees the `size` rows from ``stride * r`` and the columns from ``stride * c``
    (by the layers' arithmetic).
    """
    found = field(make_spec, CNN, layer, position=at)
    assert place(found) == Box(stride * at[0], stride * at[1], size, size)
    assert found.shown.area == size**2


@pytest.mark.parametrize(
    "layer, at, rows, columns",
    [
        ("first", (0, 3), (0, 2), (5, 8)),  # 3 x 3, stride 2, padding 1: pixels 2 r - 1 ... 2 r + 1
        ("first", (9, 11), (17, 20), (21, 24)),
        ("second", (4, 0), (5, 12), (0, 4)),  # then 3 x 3, padding 1: 2 r - 3 ... 2 r + 3
        ("second", (5, 5), (7, 14), (7, 14)),
    ],
)
def test_padding_cuts_fields_at_the_border(
    make_spec: MakeSpec,
    layer: str,
    at: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> None:
    for evaluate in ("image", "window"):
        assert place(field(make_spec, PADDED, layer, position=at, evaluate=evaluate)) == Box(
            rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]
        )


def test_a_field_found_on_silent_units(make_spec: MakeSpec) -> None:
    """Where no image wakes the units, gradients are zero everywhere; the geometry is still
    there.
    """
    assert place(field(make_spec, PADDED, "silent", position=[5, 5])) == Box(7, 7, 7, 7)


def test_a_field_covers_whole_cells(make_spec: MakeSpec) -> None:
    base = CNN | {"stimulus": {"shape": [1, 28, 28], "cell": 3}}
    assert place(field(make_spec, base, "conv1", position=[4, 11])) == Box(3, 9, 6, 9)
    assert place(field(make_spec, base, "conv1", position=[23, 23], evaluate="image")) == Box(
        21, 21, 7, 7
    )  # cut by the border


def test_what_sees_everything_is_shown_everything(make_spec: MakeSpec) -> None:
    for layer in ("fc1", "fc2"):
        job, _ = prepared(units(make_spec, CNN, layer))
        assert job.field is not None
        assert (place(job.field), job.whole) == (Box(0, 0, 28, 28), "the units see the whole image")
    job, _ = prepared(units(make_spec, PADDED, "second", position="mean"))
    assert job.stimulus.shape == (2, 20, 24)


def test_a_gate_over_the_whole_image_is_seen(make_spec: MakeSpec) -> None:
    assert place(field(make_spec, PADDED, "gated")) == Box(0, 0, 20, 24)
    with pytest.raises(
        ModelError, match=r"evaluate: window is not possible here \(the units see the whole image\)"
    ):
        field(make_spec, PADDED, "gated", evaluate="window")


def test_a_network_that_hides_what_it_sees(make_spec: MakeSpec) -> None:
    """NaN is replaced inside, so that geometry says 3 x 3; but the test with changed
    surroundings tells.
    """
    with pytest.raises(
        ModelError, match=r"'hidden' sees more than the .* pixels that its geometry lets through"
    ):
        field(make_spec, PADDED, "hidden")


# --- what is shown


@pytest.mark.parametrize(
    "layer, at", [("first", (3, 4)), ("second", (0, 5)), ("second", (6, 11)), ("pool", (2, 3))]
)
def test_a_window_is_answered_as_the_whole_image(
    make_spec: MakeSpec, layer: str, at: tuple[int, int]
) -> None:
    """The window's noise inside images of other noise: the same units give the same answers, up
    to rounding.
    """
    small, in_window = prepared(units(make_spec, PADDED, layer, position=at))
    large, in_image = prepared(units(make_spec, PADDED, layer, position=at, evaluate="image"))
    assert small.field is not None
    assert small.field.shown.area < 20 * 24
    seen = small.stimulus.images(small.stimulus.noise.grid(0, 64))
    images = large.stimulus.images(large.stimulus.noise.grid(0, 64))
    images[:, :, *small.field.shown.where] = seen
    assert np.abs(in_window(seen) - in_image(images)).max() < 1e-5
    assert np.abs(in_window(seen)).max() > 0.1


def test_window_and_image_find_the_same_map(make_spec: MakeSpec) -> None:
    """Two independent estimates of one map differ by their standard errors: chi-square of d
    values (5 sd allowed).
    """
    maps = []
    for evaluate in ("window", "image"):
        job, network = prepared(
            units(make_spec, PADDED, "second", position=[4, 5], evaluate=evaluate, samples=20_000)
        )
        moments, _ = run_shard(job, network, 0, 20_000)
        maps.append(read(job, moments)[0])
    difference = (maps[0].bias - maps[1].bias) / np.hypot(
        maps[0].standard_error, maps[1].standard_error
    )[:, None]
    # Signal adds to the variance of an estimated map: (1 + rho2) at most twice the null's.
    size, d = np.square(difference).sum(axis=1), difference.shape[1]
    assert (size < 2 * (d + 5 * math.sqrt(2 * d))).all(), size
    assert (maps[0].reliability > 0.9).all()


def test_a_window_stops_the_pass_at_the_layer(make_spec: MakeSpec) -> None:
    """The layers after it could not take an image so small; and a worker that begins with
    windows counts the layer's uses first.
    """
    spec = units(make_spec, CNN, "conv1")
    job, _ = prepared(spec)
    another = check_canary(job, load_network(spec, "cpu"))
    assert another(torch.zeros(3, 1, 5, 5)).shape == (3, 20)


def test_a_layer_that_is_used_twice_counts_once_more(make_spec: MakeSpec) -> None:
    job, network = prepared(units(make_spec, PADDED, "shared", position=[4, 5], evaluate="image"))
    x = job.stimulus.images(job.stimulus.noise.grid(0, 64))
    module = network.model.module
    with torch.inference_mode():
        expected = module.shared(module.second(module.first(x)))[:, :, 4, 5]
    assert np.abs(network(x) - expected.numpy()).max() < 1e-5


# --- responses


def raw(job: Job, network: FedNetwork, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Grid values ``(n, d)`` and activations ``(n, k)``, image by image."""
    grid = job.stimulus.noise.grid(0, n)
    outputs = np.concatenate(
        [network(job.stimulus.images(grid[a : a + 64])) for a in range(0, n, 64)]
    )
    return job.stimulus.keep(grid).reshape(n, -1).astype(np.int64), outputs.astype(np.float64)


def test_spikes_and_rectified_against_a_naive_loop(make_spec: MakeSpec) -> None:
    kinds = ["rectified", {"kind": "spikes", "threshold": 0.25}]
    job, network = prepared(
        units(make_spec, PADDED, "second", kinds, units=[2, 0], position=[4, 5])
    )
    moments, _ = run_shard(job, network, 0, 2000)
    x, y = raw(job, network, 2000)
    for readout, weight in zip(
        read(job, moments), (np.maximum(y, 0), (y > 0.25).astype(float)), strict=True
    ):
        unit = job.stimulus.unit
        for row in range(2):
            w = weight[:, row]
            expected = (sum(w[i] * x[i] for i in range(2000)) / w.sum() - x.mean(axis=0)) * unit
            # rectified responses are rounded to 2^-12 of their sd or finer
            assert (
                np.abs(readout.bias[row] - expected).max() < 1e-5 * np.abs(expected).max() + 1e-12
            )
            error = job.stimulus.sd * math.sqrt(np.square(w - w.mean()).sum()) / w.sum()
            assert readout.standard_error[row] == pytest.approx(error, rel=1e-4)
            assert np.allclose(readout.z[row] * readout.standard_error[row], readout.bias[row])
    assert read(job, moments)[1].count.tolist() == (y > 0.25).sum(axis=0).tolist()
    assert job.names == ("2", "0")


def test_a_quantile_is_each_units_own(make_spec: MakeSpec) -> None:
    """Thresholds come from a pilot of 4096 images: the share of spikes is 0.1 within 4 of its
    binomial errors (pilot and run).
    """
    spec = units(
        make_spec,
        PADDED,
        "second",
        [{"kind": "spikes", "quantile": 0.9}],
        position=[4, 5],
        samples=4096,
    )
    job, network = prepared(spec)
    x = job.stimulus.noise.grid(4096, 8192)
    y = np.concatenate([network(job.stimulus.images(x[a : a + 64])) for a in range(0, 4096, 64)])
    share = (y > np.array(job.points["spikes"].threshold)).mean(axis=0)
    assert np.abs(share - 0.1).max() < 4 * math.sqrt(2 * 0.1 * 0.9 / 4096), share
    assert len(set(job.points["spikes"].threshold)) == 4


def test_silent_units_are_listed(make_spec: MakeSpec) -> None:
    job, network = prepared(
        units(make_spec, PADDED, "silent", ["rectified", "spikes"], position=[4, 5])
    )
    rectified, spikes = read(job, run_shard(job, network, 0, 640)[0])
    assert set(rectified.note) == {"constant"}
    assert set(spikes.note) == {"no spikes"}
    assert np.isnan(spikes.p_value).all()
    assert np.isnan(spikes.bias).all()


def test_the_networks_own_outputs_can_be_units(make_spec: MakeSpec) -> None:
    job, network = prepared(make_spec(responses=["activation", {"kind": "spikes", "threshold": 1}]))
    activation, spikes = read(job, run_shard(job, network, 0, 2000)[0])
    w = networks_for_tests.weights().numpy()
    error = np.abs(activation.bias - w) / (activation.standard_error * math.sqrt(2))[:, None]
    assert error.max() < 6  # standard errors; a linear response at most doubles the null's variance
    assert (spikes.count < 2000).all()


# --- what cannot be


@pytest.mark.parametrize(
    "layer, target, words",
    [
        ("conv", {}, ("target.layer: no layer 'conv'", "conv1", "conv2")),
        ("conv1", {"units": [3, 20]}, ("target.units: 20", "'conv1' has 20 units (0 ... 19)")),
        ("conv1", {"position": [24, 0]}, ("target.position: [24, 0]", "24 x 24")),
        ("fc1", {"position": [0, 1]}, ("target.position: [0, 1]", "1 x 1")),
        ("fc1", {"position": "pooled"}, ("'fc1' has one position only",)),
        (
            "fc1",
            {"evaluate": "window"},
            ("target.evaluate: window is not possible here", "the whole image"),
        ),
    ],
)
def test_targets_that_do_not_exist(
    make_spec: MakeSpec, layer: str, target: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError) as caught:
        prepared(units(make_spec, CNN, layer, **target))
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_layers_that_are_no_maps_or_are_never_used(make_spec: MakeSpec) -> None:
    with pytest.raises(
        ModelError, match=r"'tokens' gives \(480, 2\) for an image; expected neurons \(k,\) or maps"
    ):
        prepared(units(make_spec, PADDED, "tokens"))
    with pytest.raises(ModelError, match="'unused' takes no part in the forward pass"):
        prepared(units(make_spec, PADDED, "unused"))
    with pytest.raises(ModelError, match="already takes a layer"):
        prepared(units(make_spec, CNN | {"model": "bundled:mnist-cnn?layer=conv2"}, "conv1"))


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"responses": ["label"]},
            "label is of the network's output; units (target:) have activation, rectified, spikes",
        ),
        (
            {"responses": [{"kind": "spikes", "threshold": 1, "quantile": 0.5}]},
            "give a threshold or a quantile, not both",
        ),
        (
            {"responses": [{"kind": "activation", "threshold": 1}]},
            "only spikes have one, not activation",
        ),
        ({"responses": [{"kind": "spikes", "quantile": 1.0}]}, "less than 1"),
        (
            {"target": {"layer": "conv1", "units": []}},
            "give 'all', or a list of numbers, each once",
        ),
        ({"target": {"layer": "conv1", "units": [1, 1]}}, "each once"),
        (
            {"target": {"layer": "conv1", "position": "pooled", "evaluate": "window"}},
            "with position: pooled leave it out",
        ),
        (
            {"target": {"layer": "conv1", "position": "pooled"}, "stimulus": {"cell": 2}},
            "pooled needs noise of single pixels",
        ),
        (
            {"target": {"layers": "conv1"}},
            "unknown key; known here are layer, units, position, evaluate",
        ),
    ],
)
def test_specs_that_make_no_sense(make_spec: MakeSpec, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(**({"target": {"layer": "conv1"}, "responses": ["activation"]} | changes))
    assert words in str(caught.value)


def test_units_answer_with_their_activation_unless_asked_otherwise() -> None:
    data = {"model": "bundled:mnist-cnn", "target": {"layer": "conv1", "units": 3}, "samples": 10}
    spec = Spec.parse(data | {"stimulus": {"kind": "binary", "shape": [1, 28, 28], "scale": 1}})
    assert [r.kind for r in spec.responses] == ["activation"]
    assert spec.target is not None
    assert spec.target.units == (3,)


def test_module_of_another_kind() -> None:
    """A tap on a layer that gives several tensors says so."""
    from wna_ray.networks.units import Tap

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.two(x)[0])

    with pytest.raises(ModelError, match=r"target\.layer: 'two' gives tuple, not a tensor"):
        Tap(Net(), "two", "target.layer")(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    "where, values",
    [
        ("shown", {"height": 1 << 30}),
        ("shown", {"top": 24}),
        ("shown", {"height": -5}),
        ("patches", {"rows": 1 << 30}),
        ("patches", {"rows": 2}),
        ("patches", {"step": [0, 0]}),
        ("patches", {"first": {"top": 0, "left": 0, "height": 6, "width": 5}}),
        ("patches", {"first": {"top": 1, "left": 0, "height": 5, "width": 5}}),
        ("", {"units": [0]}),
        ("", {"units": list(range(1, 21))}),
        ("", {"layer": "conv2"}),
        ("", {"pooling": "max"}),
        ("", {"at": [0]}),
    ],
)
def test_a_run_cannot_lie_about_its_units(
    make_spec: MakeSpec, where: str, values: dict[str, Any]
) -> None:
    """Sizes of all that a run holds follow from its target, so that is looked at before
    anything is read.
    """
    job, _ = prepared(units(make_spec, CNN, "conv1"))
    described = {
        "identity": job.identity,
        "samples": 2000,
        "names": list(job.names),
        "spec": job.spec.model_dump(mode="json"),
    }
    described = json.loads(json.dumps(described))
    extent = check_described(described, "spec.json")
    assert (extent.shape, extent.d, extent.outputs) == ((1, 5, 5), 25, 20)
    target = described["identity"]["target"]
    (target[where] if where else target).update(values)
    with pytest.raises(RunError, match=r"spec\.json is damaged"):
        check_described(described, "spec.json")
    del described["identity"]["target"]
    with pytest.raises(RunError, match=r"differ in target"):
        check_described(described, "spec.json")
