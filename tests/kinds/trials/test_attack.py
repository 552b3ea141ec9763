"""Attacks: on a linear network everything is known."""

from __future__ import annotations

import networks_for_tests
import numpy as np
import pytest
import torch
from prepared import prepared as job_of

from wna_ray.kinds.trials import attack
from wna_ray.kinds.trials.attack import Form, attacked, gradient_steps
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.specs.run import Spec


@pytest.fixture(scope="module")
def network() -> FedNetwork:
    stimulus = {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0}
    return job_of(
        Spec.parse(
            {
                "model": "python:networks_for_tests:linear",
                "stimulus": stimulus,
                "samples": 64,
                "numerics": {"batch": 32},
            }
        )
    )[1]


@pytest.fixture
def stimuli() -> torch.Tensor:
    return 0.3 + 0.4 * torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_a_linear_logit_moves_by_the_product_of_weights_and_step(
    network: FedNetwork, stimuli: torch.Tensor
) -> None:
    """Nothing is cut: stimuli lie within [0.3, 0.7], steps are at most 0.2 long."""
    templates, w = (
        np.random.default_rng(0).standard_normal((3, 1, 4, 4)),
        networks_for_tests.weights().double().numpy(),
    )
    forms: tuple[Form, ...] = ("l2", "linf")
    for form in forms:
        centred = (templates - templates.mean(axis=0)).reshape(3, 16)
        steps = {
            "l2": centred / np.linalg.norm(centred, axis=1)[:, None],
            "linf": np.sign(centred),
        }[form]
        direction = torch.from_numpy(attack.prepared(templates, form)[1])
        moved = network(attacked(stimuli, direction, 0.2, form)) - network(stimuli)
        np.testing.assert_allclose(moved, np.tile(0.2 * w @ steps[1], (32, 1)), atol=2e-6)


def test_a_mixed_logit_is_the_mean_of_both(network: FedNetwork, stimuli: torch.Tensor) -> None:
    template = attack.prepared(np.random.default_rng(0).standard_normal((3, 1, 4, 4)), "mix")[2]
    assert (template.min(), template.max()) == (0, 1)
    mixed = network(attacked(stimuli, torch.from_numpy(template), 0.3, "mix"))
    alone = networks_for_tests.weights().numpy() @ template.ravel()
    np.testing.assert_allclose(mixed, 0.7 * network(stimuli) + 0.3 * alone, atol=1e-5)


@pytest.mark.parametrize("form, most", [("l2", 0.5), ("linf", 0.1)])
def test_steps_keep_their_budget_and_pixels_their_range(
    form: Form, most: float, stimuli: torch.Tensor
) -> None:
    x = stimuli * 2 - 0.5  # some pixels outside [0, 1] on purpose
    inside = x.clamp(0, 1)
    step = attacked(
        inside,
        torch.from_numpy(
            attack.prepared(np.random.default_rng(2).standard_normal((3, 1, 4, 4)), form)[0]
        ),
        most,
        form,
    )
    size = (
        (step - inside).flatten(1).norm(dim=1)
        if form == "l2"
        else (step - inside).abs().flatten(1).amax(dim=1)
    )
    assert size.max() <= most + 1e-6
    assert (step.min() >= 0) & (step.max() <= 1)


def test_gradients_of_a_linear_softmax(network: FedNetwork, stimuli: torch.Tensor) -> None:
    """The cross-entropy's gradient is ``sum_k (p_k - [k = target]) w_k``; float32 against
    float64, far from its zeros.
    """
    w, targets = networks_for_tests.weights().double(), torch.arange(32) % 3
    logits = stimuli.flatten(1).double() @ w.T
    gradient = ((logits.softmax(1) - torch.eye(3, dtype=torch.float64)[targets]) @ w).view(
        32, 1, 4, 4
    )
    towards = gradient_steps(network, stimuli, targets, True, "linf")
    away = gradient_steps(network, stimuli, targets, False, "l2")
    clear = gradient.abs() > 1e-6
    assert torch.equal(towards[clear], -gradient[clear].sign().float())
    torch.testing.assert_close(
        away.double(),
        gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1),
        atol=1e-6,
        rtol=0,
    )


def test_controls_keep_what_they_should() -> None:
    maps = np.random.default_rng(3).standard_normal((3, 1, 4, 4))
    shuffled = attack.permuted(maps, 5)
    assert np.array_equal(np.sort(shuffled.reshape(3, -1)), np.sort(maps.reshape(3, -1)))
    assert (shuffled != maps).mean() > 0.8
    assert not np.array_equal(np.argsort(shuffled[0].ravel()), np.argsort(shuffled[1].ravel()))
    assert np.array_equal(
        attack.random_directions((3, 1, 4, 4), 5), attack.random_directions((3, 1, 4, 4), 5)
    )
    assert not np.array_equal(
        attack.random_directions((3, 1, 4, 4), 5), attack.random_directions((3, 1, 4, 4), 6)
    )


def test_a_missing_template_stays_missing_and_spoils_no_other() -> None:
    maps = np.random.default_rng(3).standard_normal((4, 1, 4, 4))
    maps[2] = np.nan
    without = attack.prepared(maps[[0, 1, 3]], "l2")
    found = attack.prepared(maps, "l2")
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[[0, 1, 3]], without)
