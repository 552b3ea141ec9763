"""The white-box twin: closed forms, naive sums, and agreement with the black-box path."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks_for_tests
import numpy as np
import pytest
import torch
from prepared import prepared, read
from scipy.stats import norm

from wna_ray import run
from wna_ray.errors import CanaryError, ModelError, RunError, SpecError
from wna_ray.moments.moments import Partial
from wna_ray.shards.resolve import check_canary
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import cosine

MakeSpec = Callable[..., Spec]
CNN = {
    "model": "bundled:mnist-cnn",
    "stimulus": {
        "shape": [1, 28, 28],
        "scale": 0.3,
        "offset": "bundled:mnist-mean",
        "space": "pixel",
    },
}


def test_sums_against_a_naive_loop(make_spec: MakeSpec) -> None:
    """Image by image and row by row; gradients are rounded to about 2^-8 of their root mean
    square.
    """
    job, network = prepared(
        make_spec(
            model="python:networks_for_tests:relus", estimator="gradient", responses=["activation"]
        )
    )
    moments, _ = run_shard(job, network, 64, 200)
    module, steps = network.model.module, np.ldexp(1.0, np.array(job.gradients["activation"]))
    images = job.stimulus.images(job.stimulus.noise.grid(64, 200))
    total, squares = np.zeros((2, 16)), np.zeros((2, 16))
    for image in images:
        for row in range(2):
            x = image[None].clone().requires_grad_()
            module(x)[0, row].backward()
            g = np.rint(x.grad.numpy().ravel() / steps[row])
            total[row] += g
            squares[row] += g**2
    sums = moments.responses["activation"]
    assert np.array_equal(sums.sum_yx, total)
    assert np.array_equal(sums.sum_yxx, squares)
    assert (moments.images, sums.count.tolist()) == (136, [136, 136])


def test_any_cut_gives_the_same_sums(make_spec: MakeSpec) -> None:
    job, network = prepared(
        make_spec(
            model="python:networks_for_tests:relus", estimator="gradient", responses=["activation"]
        )
    )
    whole = run_shard(job, network, 0, 2000)[0].arrays()
    parts = [
        Partial(a, b, run_shard(job, network, a, b)[0])
        for a, b in ((0, 64), (64, 1024), (1024, 2000))
    ]
    joined = parts[0].merge(parts[1]).merge(parts[2]).moments.arrays()
    assert {k: v.tolist() for k, v in joined.items()} == {k: v.tolist() for k, v in whole.items()}


def test_a_layer_of_rectifiers_in_closed_form(make_spec: MakeSpec, tmp_path: Path) -> None:
    """``E grad sum_j a_j relu(w_j x + b_j) = sum_j a_j Phi(b_j / |w_j| sigma) w_j``; every value
    within 6 of its own standard errors.

    16 x 2 values: a chance of 6e-8. The noise is cut at 4.3 sd, which changes Phi by less than 1e-4
    of a standard error here.
    """
    spec = make_spec(
        model="python:networks_for_tests:relus",
        estimator="gradient",
        responses=["activation"],
        samples=20_000,
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    (found,) = finished.readouts
    w, b, a = (t.numpy() for t in networks_for_tests.relu_parts())
    truth = (a * norm.cdf(b / np.linalg.norm(w, axis=1))) @ w
    error = found.bias / found.z
    assert (np.abs(found.bias - truth) / np.abs(error)).max() < 6
    assert (found.reliability > 0.99).all()
    assert (cosine(found.bias, truth) ** 2 > 0.99).all()
    assert (found.p_value < 1e-12).all()
    assert finished.directory.verify() == []


def test_both_estimators_agree(make_spec: MakeSpec) -> None:
    """Stein's identity on the rectifiers: the difference of both maps, in its standard errors, is
    chi-square with d values (5 sd allowed).

    The null's error is too small where the response depends on the noise; it is measured here from
    20 parts of the run instead.
    """
    base = {"model": "python:networks_for_tests:relus", "responses": ["activation"]}
    job, network = prepared(make_spec(**base, samples=64_000))
    parts = [run_shard(job, network, a, a + 3200)[0] for a in range(0, 64_000, 3200)]
    maps = np.array([read(job, part)[0].bias for part in parts])
    noise, error = maps.mean(axis=0), maps.std(axis=0, ddof=1) / math.sqrt(len(maps))
    job, network = prepared(make_spec(**base, samples=6400, estimator="gradient", seed=99))
    (found,) = read(job, run_shard(job, network, 0, 6400)[0])
    z = (noise - found.bias) / np.hypot(error, found.bias / found.z)
    # errors from 20 parts have 19 degrees of freedom: t^2 has mean 19/17 and variance of about 2 *
    # (19/17)^2 * 18/15
    d = z.size
    assert np.square(z).sum() < d * 19 / 17 + 5 * math.sqrt(2 * 1.2 * d) * 19 / 17, np.square(
        z
    ).sum()


def test_logits_of_a_real_network_agree_as_their_reliabilities_predict(make_spec: MakeSpec) -> None:
    """Ten logits of the digit network: the mean squared cosine of both maps is the product of the
    reliabilities.

    A squared cosine of d = 784 values has a standard error below (1 - r) * sqrt(2 / d) + its
    estimate's own, 0.002 each; over ten rows (which are correlated) 0.01 is allowed.
    """
    job, network = prepared(
        make_spec(**CNN, responses=["logits"], samples=60_000, numerics={"batch": 128})
    )
    (noise,) = read(job, run_shard(job, network, 0, 60_000)[0])
    job, network = prepared(
        make_spec(
            **CNN,
            responses=["logits"],
            samples=1280,
            estimator="gradient",
            numerics={"batch": 128},
            seed=5,
        )
    )
    (found,) = read(job, run_shard(job, network, 0, 1280)[0])
    agreement = cosine(noise.bias, found.bias) ** 2
    predicted = noise.reliability * found.reliability
    assert abs(agreement.mean() - predicted.mean()) < 0.01, (agreement, predicted)
    assert found.rho2 == pytest.approx(noise.rho2, abs=0.03)
    assert (found.reliability > 0.9).all()


def test_one_image_tells_as_much_as_many(make_spec: MakeSpec) -> None:
    """The point of it: with the same reliability, images by noise over images by gradient, on
    the digit network.
    """
    spec = make_spec(
        **CNN, responses=["logits"], samples=256, estimator="gradient", numerics={"batch": 128}
    )
    job, network = prepared(spec)
    (found,) = read(job, run_shard(job, network, 0, 256)[0])
    job, network = prepared(
        make_spec(**CNN, responses=["logits"], samples=12_800, numerics={"batch": 128})
    )
    (noise,) = read(job, run_shard(job, network, 0, 12_800)[0])
    assert np.median(found.reliability) > np.median(noise.reliability), (
        "256 gradients beat 12,800 answers"
    )


@pytest.mark.parametrize("kind", ["logits", "probabilities", "activation", "rectified"])
def test_gradients_of_every_kind_and_of_cells(make_spec: MakeSpec, kind: str) -> None:
    """Against central differences of the response itself, cell by cell (2 x 2 pixels)."""
    job, network = prepared(
        make_spec(
            model="python:networks_for_tests:smooth",
            stimulus={"cell": 2},
            estimator="gradient",
            responses=[{"kind": kind, "centred": True}],
            samples=64,
        )
    )
    moments, _ = run_shard(job, network, 0, 64)
    steps = np.ldexp(1.0, np.array(job.gradients[kind]))[:, None]
    mean = moments.responses[kind].sum_yx / 64 * steps
    grid, h = job.stimulus.noise.grid(0, 64), 1e-3
    images = job.stimulus.images(grid).double()
    module = network.model.module.double()

    def response(x: torch.Tensor) -> torch.Tensor:
        y = module(x)
        other = {
            "probabilities": y.softmax(1),
            "rectified": y.relu(),
            "logits": y - y.mean(1, keepdim=True),
            "activation": y,
        }
        return other[kind]

    for cell in range(4):
        bump = torch.zeros(1, 1, 4, 4, dtype=torch.double)
        bump[0, 0, 2 * (cell // 2) : 2 * (cell // 2) + 2, 2 * (cell % 2) : 2 * (cell % 2) + 2] = h
        slope = ((response(images + bump) - response(images - bump)) / (2 * h)).mean(0).numpy()
        assert np.abs(mean[:, cell] - slope).max() < steps.max() + 1e-3 * np.abs(slope).max()


def test_units_in_a_window_by_gradient(make_spec: MakeSpec, tmp_path: Path) -> None:
    base = {"model": "bundled:mnist-cnn", "stimulus": {"shape": [1, 28, 28], "scale": 0.5}}
    spec = make_spec(
        **base,
        target={"layer": "conv1", "units": [3, 11]},
        estimator="gradient",
        responses=["activation"],
        samples=128,
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    assert np.allclose(
        finished.classes["filter_cosine"].to_pylist(), 1, atol=1e-4
    )  # one image would do: the units are linear
    assert finished.bias_maps.shape == (2, 1, 5, 5)
    assert finished.classes["rho2"].to_pylist() == pytest.approx([1, 1], abs=0.4)
    with pytest.raises(
        RunError, match="takes gradients, so the values of its z-maps are not independent"
    ):
        finished.clusters("activation", "3")


def test_the_canary_knows_gradients(make_spec: MakeSpec) -> None:
    job, network = prepared(
        make_spec(
            model="python:networks_for_tests:relus", estimator="gradient", responses=["activation"]
        )
    )
    check_canary(job, network)
    before = torch.nn.functional.relu
    try:
        torch.nn.functional.relu = lambda x: (
            before(x) + 0 * x
        )  # the same answers, by another way back
        check_canary(job, network)
        torch.nn.functional.relu = lambda x: before(x) + (x - x.detach()) * 1e-3
        with pytest.raises(CanaryError):
            check_canary(job, network)
    finally:
        torch.nn.functional.relu = before


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"responses": ["label"]},
            (
                "label has no gradient; with estimator: gradient take logits, probabilities,"
                " activation, rectified"
            ),
        ),
        ({"responses": ["spikes"]}, "spikes has no gradient"),
        (
            {"stimulus": {"kind": "uniform"}},
            "the mean gradient is the map for gaussian noise only (Stein's identity), not uniform",
        ),
        ({"moments": {"second": True}}, "keeps neither second moments nor single responses"),
        ({"keep_responses": True}, "keeps neither second moments nor single responses"),
        (
            {"target": {"layer": "conv1", "position": "pooled"}, "responses": ["activation"]},
            "gradient has no pooled positions",
        ),
        ({"estimator": "stein"}, "'noise' or 'gradient'"),
    ],
)
def test_what_has_no_gradient(make_spec: MakeSpec, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(**({"estimator": "gradient", "responses": ["logits"]} | changes))
    assert words in str(caught.value)


def test_networks_that_cannot_be_differentiated(make_spec: MakeSpec) -> None:
    for model, layer in (("padded", "steps"), ("deaf", None)):
        target = {"target": {"layer": layer}} if layer else {}
        stimulus = {"stimulus": {"shape": [2, 20, 24]}} if layer else {}
        spec = make_spec(
            model=f"python:networks_for_tests:{model}",
            responses=["activation"],
            estimator="gradient",
            **target,
            **stimulus,
        )
        with pytest.raises(
            ModelError,
            match=(
                rf"estimator: gradient, but .*{model} cannot be differentiated .*; take estimator:"
                r" noise"
            ),
        ):
            prepared(spec)


def test_nan_is_counted_apart(make_spec: MakeSpec) -> None:
    job, network = prepared(
        make_spec(
            model="python:networks_for_tests:sometimes_nan",
            estimator="gradient",
            responses=["logits"],
        )
    )
    moments, _ = run_shard(job, network, 0, 2000)
    first = job.stimulus.noise.grid(0, 2000)[:, 0, 0, 0] / 29
    bad = (first > 1) | (first < -1.5)
    assert (moments.nonfinite, moments.images) == (bad.sum(), 2000 - bad.sum())
