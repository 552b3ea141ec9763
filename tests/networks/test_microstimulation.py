"""Microstimulation: exact shifts of linear layers, hooks that leave nothing behind, activity
against loops.
"""

from __future__ import annotations

import networks_for_tests
import numpy as np
import pytest
import torch

from wna_ray.errors import ModelError
from wna_ray.networks.models import state_digest
from wna_ray.networks.stimulation import Activity, Stimulation, measure, profile, stimulated
from wna_ray.specs.trials import StimulateSpec

ZERO5 = np.zeros(5, np.float32)


class Bare:
    """What `measure` needs of a network."""

    def __init__(self) -> None:
        self.module = networks_for_tests.layered().eval().requires_grad_(False)

    def __call__(self, x: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(self.module(x).numpy())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def test_a_linear_layer_shifts_the_logits_exactly(images: torch.Tensor) -> None:
    """hidden feeds the logits linearly, so they move by W a, for every image; in float64, to
    its rounding.
    """
    net = networks_for_tests.layered().double()
    add = np.array([0.5, -1, 0, 2, 0.25], np.float32)
    before = net(images.double())
    with stimulated(net, Stimulation("hidden", add, ZERO5)):
        moved = net(images.double()) - before
    expected = net.logits.weight @ torch.from_numpy(add).double()
    torch.testing.assert_close(moved, expected.expand_as(moved), atol=1e-14, rtol=0)


def test_channels_are_stimulated_as_their_bias_would(images: torch.Tensor) -> None:
    net = networks_for_tests.layered()
    with stimulated(
        net, Stimulation("maps", np.array([1, 0, -2], np.float32), np.zeros(3, np.float32))
    ):
        found = net(images)
    with torch.no_grad():
        net.maps.bias += torch.tensor([1.0, 0, -2])
    torch.testing.assert_close(found, net(images))


def test_scaled_activity(images: torch.Tensor) -> None:
    net = networks_for_tests.layered().double()
    scale = np.array([1, 0, 0, 0, -1], np.float32)
    hidden = net[:4](images.double())
    with stimulated(net, Stimulation("hidden", ZERO5, scale)):
        found = net(images.double())
    torch.testing.assert_close(
        found, net.logits(hidden * torch.tensor([2.0, 1, 1, 1, 0], dtype=torch.float64))
    )


def test_nothing_stays_behind(images: torch.Tensor) -> None:
    net = networks_for_tests.layered()
    before, digest = net(images), state_digest(net)
    with (
        pytest.raises(RuntimeError, match="planted"),
        stimulated(net, Stimulation("hidden", np.ones(5, np.float32), ZERO5)),
    ):
        raise RuntimeError("planted")
    assert torch.equal(net(images), before)
    assert state_digest(net) == digest
    # torch lists hooks nowhere else.
    assert not any(module._forward_hooks for module in net.modules())  # noqa: SLF001


def test_layers_that_are_not_there_are_named(images: torch.Tensor) -> None:
    net = networks_for_tests.layered()
    with (
        pytest.raises(ModelError, match=r"no layer 'hiden'; near it are hidden"),
        stimulated(net, Stimulation("hiden", ZERO5, ZERO5)),
    ):
        net(images)
    with (
        pytest.raises(ModelError, match=r"'maps' has 3 units, but 5 are stimulated"),
        stimulated(net, Stimulation("maps", ZERO5, ZERO5)),
    ):
        net(images)


def test_activity_against_loops(images: torch.Tensor) -> None:
    """Means of rectified outputs by class, the spread of the raw ones, and their covariance
    with centred logits over noise.
    """
    net, classes = Bare(), np.arange(40) % 2  # no image of class 2
    noise = torch.randn(96, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    batches = iter([(images[a : a + 16], classes[a : a + 16]) for a in range(0, 40, 16)])
    found = measure(net, ["maps", "hidden"], batches, iter(noise.split(32)), 3)
    for layer, upto in (("maps", 1), ("hidden", 4)):
        y, on_noise = (
            (
                net.module[:upto](x).flatten(2).double().numpy()
                if upto == 1
                else net.module[:upto](x)[..., None].double().numpy()
            )
            for x in (images, noise)
        )
        for k in (0, 1):
            np.testing.assert_allclose(
                found[layer].mean[k], np.maximum(y[classes == k], 0).mean(axis=(0, 2)), rtol=1e-6
            )
        assert np.isnan(found[layer].mean[2]).all()
        np.testing.assert_allclose(
            found[layer].sd, np.sqrt(np.mean([y[:, u].var() for u in range(y.shape[1])])), rtol=1e-6
        )
        logits = net(noise).astype(np.float64)
        centred = logits - logits.mean(axis=1, keepdims=True)
        for k in range(3):
            weights = [
                np.cov(on_noise[:, u].mean(axis=1), centred[:, k], ddof=0)[0, 1]
                / centred[:, k].std()
                for u in range(y.shape[1])
            ]
            np.testing.assert_allclose(found[layer].sta[k], weights, rtol=1e-5, atol=1e-7)


def test_profiles() -> None:
    activity = Activity(np.array([[1.0, 2.0, 0.0, 1.0]]), 3.0, np.array([[0.5, -1.0, 0.0, 0.0]]))

    def made(source: str, **how: object) -> np.ndarray:
        spec = StimulateSpec.model_validate({"layers": "x", "by": source, "strengths": 1, **how})
        return profile(spec, activity, source, 0, seed=1)

    np.testing.assert_allclose(made("class-mean"), np.array([1, 2, 0, 1]) / np.sqrt(1.5) * 3)
    assert np.sqrt(np.square(made("sta")).mean()) == pytest.approx(
        3.0
    )  # one sd, root mean square over units
    np.testing.assert_allclose(made("class-mean", unit="max"), [0.5, 1, 0, 0.5])
    np.testing.assert_allclose(made("class-mean", unit="activity"), [1, 2, 0, 1])
    np.testing.assert_allclose(made("sta", mode="scale"), [0.5, -1, 0, 0])
    np.testing.assert_allclose(made("class-mean", unit="max", units=[0, 2]), [1, 0, 0, 0])
    assert sorted(made("sham", unit="activity")) == [0, 1, 1, 2]
    assert not made("class-mean", units=[2]).any()
