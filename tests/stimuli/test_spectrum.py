"""Noise whose values correlate by design: its covariance, its averages, and maps freed of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks_for_tests import weights
from numpy.typing import NDArray
from prepared import prepared, read

from wna_ray import StcSpec, run, run_stc
from wna_ray.errors import SpecError
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.statistics.maps import cosine
from wna_ray.stimuli.offsets import load_offset
from wna_ray.stimuli.stimulus import Stimulus, make_stimulus

Floats = NDArray[np.float64]
MakeSpec = Callable[..., Spec]


def stimulus_of(
    shape: tuple[int, int, int] = (2, 5, 8), spectrum: float = 1.0, **more: Any
) -> Stimulus:
    spec = StimulusSpec(kind="gaussian", shape=shape, scale=0.3, spectrum=spectrum, **more)
    return make_stimulus(spec, 3, load_offset(spec))


def root(stimulus: Stimulus) -> Floats:
    """S^(1/2) of one channel, ``(hw, hw)``: value by value from cosines of the wave numbers, no
    fast transform.
    """
    h, w = stimulus.noise.shape[1:]
    fy, fx = ([(i if i <= n // 2 else i - n) / n for i in range(n)] for n in (h, w))
    size = {(i, j): math.hypot(fy[i], fx[j]) for i in range(h) for j in range(w)}
    lowest = min((f for f in size.values() if f), default=1.0)
    gain = {at: (f or lowest) ** -stimulus.spec.spectrum for at, f in size.items()}
    scale = math.sqrt(sum(g * g for g in gain.values()) / (h * w))
    kernel = np.array(
        [
            [
                sum(
                    g * math.cos(2 * math.pi * (i * y / h + j * x / w))
                    for (i, j), g in gain.items()
                )
                / (h * w * scale)
                for x in range(w)
            ]
            for y in range(h)
        ]
    )
    places = [(y, x) for y in range(h) for x in range(w)]
    return np.array([[kernel[(a - c) % h, (b - d) % w] for c, d in places] for a, b in places])


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 5, 8), (3, 6, 5), (1, 1, 7), (2, 1, 1)])
@pytest.mark.parametrize("spectrum", [0.5, 1.0, 2.0])
def test_images_are_the_filtered_grid(shape: tuple[int, int, int], spectrum: float) -> None:
    stimulus = stimulus_of(shape, spectrum, offset=0.5)
    half, grid = root(stimulus), stimulus.noise.grid(0, 6)
    assert np.diagonal(half @ half) == pytest.approx(1.0)  # every value keeps its variance
    expected = 0.5 + stimulus.unit * (grid.reshape(6, shape[0], -1) @ half).reshape(grid.shape)
    images = stimulus.images(grid)
    assert images.dtype == torch.float32
    assert images.numpy() == pytest.approx(expected, abs=1e-5)
    low, high = stimulus.range
    assert low <= images.min()
    assert images.max() <= high
    most = 0.5 + stimulus.unit * 125 * np.abs(half[0]).sum()
    assert (low, high) == pytest.approx((1.0 - most, most))
    maps = np.random.default_rng(0).standard_normal((3, stimulus.pixels))
    assert stimulus.expand(maps).reshape(3, shape[0], -1) == pytest.approx(
        maps.reshape(3, shape[0], -1) @ half
    )


def test_the_covariance_of_its_values_is_the_designed_one() -> None:
    """Over 20,000 images: each entry within 6 standard errors, at most sqrt((1 + rho^2) / n) of
    the variance.
    """
    stimulus, n = stimulus_of((1, 4, 6)), 20_000
    x = stimulus.images(stimulus.noise.grid(0, n)).reshape(n, -1).double().numpy() / stimulus.sd
    half = root(stimulus)
    expected = half @ half
    assert (np.abs(x.T @ x / n - expected) / np.sqrt((1 + expected**2) / n)).max() < 6


@pytest.mark.parametrize("cell", [1, 2])
def test_maps_of_a_run_are_averages_of_its_images(make_spec: MakeSpec, cell: int) -> None:
    """Pictures: class mean minus grand mean of the pixels themselves; z from the pixels
    themselves.
    """
    spec = make_spec(stimulus={"spectrum": 1.0, "cell": cell}, responses=["label"], samples=2048)
    job, network = prepared(spec)
    (found,) = read(job, run_shard(job, network, 0, 2048)[0])
    images = torch.cat(
        [job.stimulus.images(job.stimulus.noise.grid(a, a + 64)) for a in range(0, 2048, 64)]
    )
    labels = np.concatenate([network(part) for part in images.split(64)]).argmax(axis=1)
    x = images.double().numpy()
    for k in range(3):
        picture = x[labels == k].mean(axis=0) - x.mean(axis=0)
        assert job.stimulus.expand(found.bias[k][None])[0] == pytest.approx(picture, abs=1e-6)
        y = (labels == k) - (labels == k).mean()
        z = np.tensordot(y, x, 1) / (job.stimulus.sd * np.sqrt((y**2).sum()))
        assert job.stimulus.expand(found.z[k][None])[0] == pytest.approx(z, abs=1e-4)


def test_z_is_standard_normal_for_a_deaf_network(make_spec: MakeSpec) -> None:
    """Mean square of z over the maps of 40 seeds: 1 within 5 standard errors. Values correlate:
    that of a map has the variance ``2 sum(S^2) / d^2``.
    """
    squares, shape = [], {"shape": (1, 4, 4), "spectrum": 1.0}
    for seed in range(40):
        job, network = prepared(
            make_spec(
                model="python:networks_for_tests:deaf", stimulus=shape, samples=512, seed=seed
            )
        )
        readouts = read(job, run_shard(job, network, 0, 512)[0])
        squares.append(np.square(job.stimulus.expand(readouts[0].z[:1])).mean())
    half = root(job.stimulus)
    error = math.sqrt(2 * np.square(half @ half).sum() / 16**2 / len(squares))
    assert abs(np.mean(squares) - 1) < 5 * error


def test_whitening_solves_the_normal_equations() -> None:
    """With the covariance as a matrix: ``(S + ridge)^-1 S^(1/2) a``, channel by channel."""
    stimulus, rng = stimulus_of((2, 5, 8)), np.random.default_rng(1)
    half, maps, reliability = (
        root(stimulus),
        rng.standard_normal((3, 80)),
        np.array([0.9, 0.25, 1.0]),
    )
    found = stimulus.whitened(maps, reliability)
    for a, r, picture in zip(
        maps.reshape(3, 2, 40), reliability, found.reshape(3, 2, 40), strict=True
    ):
        expected = np.linalg.solve(half @ half + (1 - r) / r * np.eye(40), half @ a.T).T
        assert picture == pytest.approx(expected, abs=1e-9)
    assert np.isnan(stimulus.whitened(maps, np.array([0.0, np.nan, 0.5]))[:2]).all()


def test_the_ridge_is_the_one_that_errs_least() -> None:
    """2,000 true maps, white, with noise of a reliability of 0.6: a ridge half or twice as
    large errs more (paired, 5 standard errors).
    """
    stimulus, rng, n = stimulus_of((1, 6, 6)), np.random.default_rng(2), 2000
    half = root(stimulus)
    truth = rng.standard_normal((n, 36))
    maps = truth @ half + rng.standard_normal((n, 36)) * math.sqrt(0.4 / 0.6)

    def errors(reliability: float) -> Floats:
        found = stimulus.whitened(maps, np.full(n, reliability)).reshape(n, -1)
        return np.asarray(np.square(found - truth).sum(axis=1))

    best = errors(0.6)
    for other in (0.6 / (0.6 + 0.4 * 2), 0.6 / (0.6 + 0.4 / 2)):
        more = errors(other) - best
        assert more.mean() > 5 * more.std(ddof=1) / math.sqrt(n)


def test_the_weights_of_a_linear_network_come_back(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The average of the noise is the weights blurred; whitened, they are the weights within 6
    standard errors of the amplified noise.
    """
    n = 20_000
    spec = make_spec(
        stimulus={"spectrum": 1.0}, responses=[{"kind": "logits", "centred": False}], samples=n
    )
    found = run(spec, str(tmp_path / "run"), executor="local")
    w, (readout,) = weights().numpy().astype(np.float64), found.readouts
    maps = found.whitened_maps.reshape(3, 16)
    inverse = np.linalg.inv(root(found.stimulus))
    # the error of cov(y, g) on the grid is at most sqrt(2) that of a response that ignores g: its
    # own square adds as much
    error = math.sqrt(2) * readout.standard_error[:, None] * np.sqrt(np.square(inverse).sum(axis=0))
    ridge = (1 - readout.reliability) / readout.reliability
    smallest = np.linalg.eigvalsh(root(found.stimulus))[0] ** 2
    bias = (
        ridge[:, None] / smallest * np.linalg.norm(w, axis=1)[:, None]
    )  # what the ridge takes away, at most
    assert (np.abs(maps - w) < 6 * error + bias).all()
    averages = found.bias_maps.reshape(3, 16)
    assert (cosine(maps, w) > 0.99).all()
    assert (cosine(averages, w) < cosine(maps, w)).all()
    assert found.directory.verify() == []
    again = {
        name: data
        for name, data in found.derive().items()
        if name in ("result/whitened_maps.npy", "result/figures/whitened_maps.png")
    }
    assert len(again) == 2
    for name, data in again.items():
        assert found.directory.store.read(name) == data


def test_the_mean_gradient_is_the_whitened_map(make_spec: MakeSpec) -> None:
    """Stein's identity for correlated noise, ``cov(x, f) = S E[grad f]``, on rectifiers; the
    gradient by torch at the same images.
    """
    n = 40_000
    spec = make_spec(
        model="python:networks_for_tests:relus",
        stimulus={"spectrum": 1.0},
        responses=["activation"],
        samples=n,
    )
    job, network = prepared(spec)
    (found,) = read(job, run_shard(job, network, 0, n)[0])
    images = job.stimulus.images(job.stimulus.noise.grid(0, n))
    x, y = network.tracked(images)
    gradients = np.array(
        [
            torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0]
            .mean(dim=0)
            .flatten()
            .numpy()
            for i in range(y.shape[1])
        ]
    )
    maps = job.stimulus.whitened(found.bias, found.reliability).reshape(gradients.shape)
    # whitening amplifies the noise by the mean of 1 / gain^2, of which the map has 1 - R
    worst = np.square(np.linalg.inv(root(job.stimulus))).sum(axis=1).mean() * (
        1 - found.reliability
    )
    assert (1 - cosine(maps, gradients) ** 2 < 5 * worst).all(), (
        cosine(maps, gradients) ** 2,
        worst,
    )
    assert (
        cosine(job.stimulus.expand(found.bias).reshape(gradients.shape), gradients)
        < cosine(maps, gradients)
    ).all()


def test_units_see_filtered_noise_in_their_window(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The filter of a convolution is recovered through the noise's own; covariance and contrast
    go through the same pictures.
    """
    spec = make_spec(
        model="bundled:mnist-cnn",
        stimulus={
            "shape": (1, 28, 28),
            "offset": "bundled:mnist-mean",
            "scale": 0.3,
            "space": "pixel",
            "spectrum": 1.0,
        },
        target={"layer": "conv1", "units": [0, 1, 2]},
        responses=["activation"],
        samples=20_000,
        keep_responses=True,
        numerics={"batch": 128},
    )
    found = run(spec, str(tmp_path / "run"), executor="local")
    assert found.bias_maps.shape == (3, 1, 5, 5)
    assert min(found.classes["filter_cosine"].to_pylist()) > 0.999  # 1 - d / (2 N) is 0.9994
    half = root(found.stimulus)
    covariance = run_stc(
        StcSpec(run=str(tmp_path / "run"), fresh=19, axes=2),
        str(tmp_path / "stc"),
        executor="local",
    )
    first = np.linalg.eigh(covariance.sums.sums["rxx"][0, 0].astype(np.float64))[1]
    pictures = covariance.pictures[:2].reshape(2, -1)
    assert np.abs(pictures @ (half @ first)).max(axis=1) == pytest.approx(
        np.square(pictures).sum(axis=1), rel=1e-3
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stimulus": {"kind": "uniform", "spectrum": 1.0}}, "spectrum: only gaussian"),
        ({"stimulus": {"spectrum": -1.0}}, "spectrum"),
        ({"stimulus": {"spectrum": 1.0}, "moments": {"second": True}}, "moments.second"),
        (
            {"stimulus": {"spectrum": 1.0}, "estimator": "gradient", "responses": ["logits"]},
            "estimator: gradient has the map of white",
        ),
        (
            {
                "stimulus": {"spectrum": 1.0},
                "target": {"layer": "conv1", "position": "pooled"},
                "responses": ["activation"],
            },
            "pooled needs patches of white noise",
        ),
    ],
)
def test_what_cannot_be_filtered_is_refused(
    make_spec: MakeSpec, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        make_spec(**changes)


def test_white_noise_keeps_its_fingerprint(make_spec: MakeSpec) -> None:
    """No word about a spectrum where there is none, and another run where there is one."""
    white, (pink, _) = prepared(make_spec())[0], prepared(make_spec(stimulus={"spectrum": 1.0}))
    assert "spectrum" not in white.identity["stimulus"]
    assert pink.identity["stimulus"]["spectrum"] == 1.0
    assert white.fingerprint != pink.fingerprint
