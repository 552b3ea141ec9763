"""Mixtures that are stretched to 8 bits: each byte, and maps of a run against the pixels shown."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks_for_tests import weights
from numpy.typing import NDArray

from wna_ray import run
from wna_ray.drawing.maps import samples
from wna_ray.kinds.average.run import open_run
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import BasisSpec, StimulusSpec
from wna_ray.stimuli.bases import build
from wna_ray.stimuli.offsets import load_basis, load_offset
from wna_ray.stimuli.stimulus import Stimulus, make_stimulus

Floats = NDArray[np.float64]
MakeSpec = Callable[..., Spec]


def stretched(kind: str = "uniform", **more: Any) -> Stimulus:
    basis = {"kind": "gabor", "rescale": "minmax", **more}
    spec = StimulusSpec.model_validate(
        {"kind": kind, "shape": (2, 6, 5), "scale": 1.0, "basis": basis}
    )
    return make_stimulus(spec, 5, load_offset(spec), basis=load_basis(spec))


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_stretched_noise_to_the_bit(kind: str) -> None:
    """From Python's whole numbers and fractions: each channel of each image to 0 ... 255,
    halves to even.
    """

    stimulus = stretched(kind)
    basis = load_basis(stimulus.spec)
    assert basis is not None
    weighed = make_stimulus(
        StimulusSpec.model_validate({**stimulus.spec.model_dump(), "basis": {"kind": "gabor"}}),
        5,
        stimulus.offset,
    ).noise
    grid = stimulus.noise.grid(0, 40)
    assert grid.shape == (40, 2, 6, 5)
    for i in (0, 39):
        g = [int(v) for v in weighed.grid(i, i + 1).reshape(-1)]
        mixed = [sum(a * int(b) for a, b in zip(g, basis[1:, j], strict=True)) for j in range(60)]
        expected = []
        for channel in (mixed[:30], mixed[30:]):
            low, high = min(channel), max(channel)
            expected += [round(Fraction(255 * (v - low), high - low)) for v in channel]
        assert (grid[i].reshape(-1).astype(int) + 128).tolist() == expected
    assert np.array_equal(stimulus.noise.grid(17, 20), grid[17:20])
    images = stimulus.images(grid).numpy()
    assert np.array_equal(images, (grid.astype(int) + 128).astype(np.float32) / np.float32(255))
    assert (images.min(axis=(2, 3)) == 0).all()
    assert (images.max(axis=(2, 3)) == 1).all()
    assert samples(stimulus, 4).startswith(b"\x89PNG")


def test_stretching_keeps_the_centre_of_a_basis(small: NDArray[np.uint8]) -> None:
    """Around the mean image, weights of any size: the same as stretching the image that is not
    stretched, to half a step of 8 bits.
    """
    spec = {"kind": "uniform", "shape": [1, 4, 4], "scale": 1.0}
    basis = {"kind": "pca", "dataset": "mnist", "components": 3, "spread": "range"}
    plain, whole = (
        StimulusSpec.model_validate({**spec, "basis": basis | extra})
        for extra in ({}, {"rescale": "minmax"})
    )
    plain_, whole_ = (
        make_stimulus(s, 1, load_offset(s), basis=load_basis(s)) for s in (plain, whole)
    )
    x = plain_.images(plain_.noise.grid(0, 50)).double().numpy().reshape(50, 16)
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    found = whole_.images(whole_.noise.grid(0, 50)).numpy().reshape(50, 16)
    np.testing.assert_allclose(found, (x - low) / (high - low), atol=0.5 / 255 + 1e-5)


def test_a_run_of_stretched_noise(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Class means of what was shown; read and proved again; whitened from noise that is made
    again.
    """
    basis = {"kind": "gabor", "rescale": "minmax"}
    spec = make_spec(stimulus={"kind": "uniform", "basis": basis}, samples=1024)
    done = run(spec, str(tmp_path / "run"), executor="local")
    assert RunDirectory(str(tmp_path / "run")).verify() == []
    again = open_run(str(tmp_path / "run"))
    images = (
        again.stimulus.images(again.stimulus.noise.grid(0, 1024)).double().numpy().reshape(1024, 16)
    )
    labels = (images @ weights().double().numpy().T).argmax(axis=1)
    for k in range(3):
        np.testing.assert_allclose(
            done.bias_maps[k].reshape(-1),
            images[labels == k].mean(axis=0) - images.mean(axis=0),
            atol=1e-6,
        )
        np.testing.assert_allclose(
            again.rms_maps[k].reshape(-1),
            np.sqrt(np.square(images[labels == k]).mean(axis=0)),
            rtol=0,
            atol=1e-7,
        )
    np.testing.assert_allclose(again.covariance, np.cov(images.T, ddof=0), atol=1e-8)
    assert build(BasisSpec(kind="gabor"), (1, 4, 4)).shape[1] == 16
