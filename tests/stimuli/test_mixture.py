"""Mixtures of a basis: images to the bit, maps through the basis and back, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks_for_tests import weights
from numpy.typing import NDArray
from prepared import prepared, read

from wna_ray import run
from wna_ray.canonical import sha256
from wna_ray.drawing.maps import samples
from wna_ray.errors import RunError
from wna_ray.kinds.average.run import open_run
from wna_ray.runs.directory import RunDirectory
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import BasisSpec, StimulusSpec
from wna_ray.statistics.maps import cosine
from wna_ray.stimuli import bases
from wna_ray.stimuli.bases import STEP, build, digest
from wna_ray.stimuli.offsets import load_basis, load_offset
from wna_ray.stimuli.stimulus import Stimulus, make_stimulus
from wna_ray.studies.contrast import contrast

Floats = NDArray[np.float64]
MakeSpec = Callable[..., Spec]
SHAPE = (1, 6, 8)
MADE_UP = {"kind": "pca", "dataset": "mnist", "components": 12}


def stimulus_of(
    basis: dict[str, Any], kind: str = "gaussian", shape: tuple[int, int, int] = SHAPE, **more: Any
) -> Stimulus:
    spec = StimulusSpec.model_validate(
        {"kind": kind, "shape": shape, "scale": 1.0, "basis": basis, **more}
    )
    return make_stimulus(spec, 3, load_offset(spec), basis=load_basis(spec))


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "binary"])
def test_images_are_exact_mixtures(made_up: Callable[..., NDArray[np.uint8]], kind: str) -> None:
    """Bit for bit, from Python's whole numbers; addressable; within their range; and their
    covariance is ``S S'`` times the weights'.

    Of 4,000 images each entry of the covariance is within 6 standard errors, at most sqrt((c_ii
    c_jj + c_ij^2) / n) for weights whose kurtosis is not above a normal's.
    """
    made_up(SHAPE)
    stimulus = stimulus_of(MADE_UP, kind, offset=0.25, scale=0.5)
    whole = load_basis(stimulus.spec)
    assert whole is not None
    grid = stimulus.noise.grid(0, 4000)
    assert (grid.shape, stimulus.pixels, stimulus.shape) == ((4000, 1, 1, 12), 12, SHAPE)
    images = stimulus.images(grid).numpy()
    for i in (0, 7):
        mixed = [
            sum(int(g) * int(p) for g, p in zip(grid[i].reshape(-1), whole[1:, j], strict=True))
            for j in range(48)
        ]
        rest = np.float32(0.25) + (whole[0] * STEP).astype(np.float32)
        expected = (np.array(mixed, dtype=np.float64) * (stimulus.unit * STEP)).astype(
            np.float32
        ) + rest
        assert np.array_equal(images[i].reshape(-1), expected)
    assert np.array_equal(stimulus.images(stimulus.noise.grid(7, 9)).numpy(), images[7:9])
    low, high = stimulus.range
    assert low <= images.min() <= images.max() <= high
    s = whole[1:].T * STEP
    sigma2 = 0.25 * stimulus.noise.table.unit**2 * float(stimulus.noise.table.variance)
    c = sigma2 * s @ s.T
    found = np.cov(images.reshape(4000, -1).T.astype(np.float64), ddof=0)
    error = np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / 4000)
    assert (np.abs(found - c) / error).max() < 6
    assert stimulus.sd == pytest.approx(np.sqrt(np.diag(c).mean()))


def test_maps_go_through_the_basis_and_back(made_up: Callable[..., NDArray[np.uint8]]) -> None:
    """expand is S; the adjoint its transpose; whitened is the regression with a ridge, and w
    itself without noise, within the span.
    """
    made_up(SHAPE)
    stimulus, rng = stimulus_of(MADE_UP), np.random.default_rng(0)
    s = stimulus.synthesis
    assert s is not None
    maps = rng.normal(size=(3, 12))
    np.testing.assert_allclose(stimulus.expand(maps).reshape(3, -1), maps @ s.T)
    slopes = rng.normal(size=(3, *SHAPE))
    np.testing.assert_allclose(
        stimulus.adjoint(torch.from_numpy(slopes)).numpy().reshape(3, 12), slopes.reshape(3, -1) @ s
    )
    w = rng.normal(size=(3, 12)) @ s.T  # in the span
    np.testing.assert_allclose(
        stimulus.whitened(w @ s, np.ones(3)).reshape(3, -1), w, rtol=1e-6, atol=1e-9
    )
    reliability = np.array([0.9, 0.3, 0.0])
    found = stimulus.whitened(maps, reliability).reshape(3, -1)
    for i, r in enumerate(reliability[:2]):
        ridge = (1 - r) / r * np.square(s).sum() / 12
        np.testing.assert_allclose(
            found[i],
            np.linalg.solve(s @ s.T + ridge * np.eye(48), s @ maps[i]),
            rtol=1e-8,
            atol=1e-10,
        )
    assert np.isnan(found[2]).all()
    z = stimulus.expand_z(rng.standard_normal((20_000, 12))).reshape(20_000, -1)
    assert np.abs(np.square(z).mean(axis=0) - 1).max() < 6 * np.sqrt(
        2 / 20_000
    )  # 6 standard errors of a variance


def test_more_wavelets_than_pixels_whiten_to_the_whole_filter() -> None:
    """72 wavelets span 48 pixels, or nearly: what they span of a filter is found again."""
    stimulus = stimulus_of({"kind": "gabor"})
    s = stimulus.synthesis
    assert s is not None
    values, vectors = np.linalg.eigh(s @ s.T)
    kept = vectors[:, values > 1e-6 * values[-1]]
    w = np.random.default_rng(1).normal(size=(2, kept.shape[1])) @ kept.T
    np.testing.assert_allclose(stimulus.whitened(w @ s, np.ones(2)).reshape(2, -1), w, atol=1e-6)


def linear_run(make_spec: MakeSpec, **more: Any) -> Spec:
    shape = {
        "shape": [1, 4, 4],
        "kind": "gaussian",
        "basis": {"kind": "pca", "dataset": "mnist", "components": 5},
    }
    return make_spec(
        **(
            {
                "stimulus": shape,
                "responses": [{"kind": "logits", "centred": True}],
                "samples": 8192,
                "keep_responses": True,
            }
            | more
        )
    )


def test_the_map_of_a_linear_network(
    make_spec: MakeSpec, made_up: Callable[..., NDArray[np.uint8]]
) -> None:
    """In the span: ``a = S' w``, and its picture is ``S S' w``. With N = 8,192 and d = 5 the
    squared cosine with it is 1 - d / N or so.

    Responses are centred logits, so w is each row of weights less their mean.
    """
    made_up((1, 4, 4))
    job, network = prepared(linear_run(make_spec))
    moments, _ = run_shard(job, network, 0, 8192)
    (found,) = read(job, moments)
    w = weights().double().numpy()
    w = w - w.mean(axis=0)
    s = job.stimulus.synthesis
    assert s is not None
    assert found.bias.shape == (3, 5)
    assert (1 - cosine(found.bias, w @ s) ** 2).max() < 10 * 5 / 8192
    np.testing.assert_allclose(
        np.linalg.norm(found.bias, axis=1), np.linalg.norm(w @ s, axis=1), rtol=0.05
    )
    picture = job.stimulus.expand(found.bias).reshape(3, -1)
    assert cosine(picture, w @ s @ s.T).min() > 0.999
    seen = w @ s @ np.linalg.pinv(s)  # what of w lies in the span
    assert (
        cosine(job.stimulus.whitened(found.bias, found.reliability).reshape(3, -1), seen).min()
        > 0.995
    )
    parts = [run_shard(job, network, a, b)[0] for a, b in ((0, 2048), (2048, 8192))]
    for name, array in parts[0].merge(parts[1]).arrays().items():
        assert np.array_equal(array, moments.arrays()[name]), name


def test_a_finished_run_needs_no_data(
    make_spec: MakeSpec, made_up: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    """Proved, made again, shown and compared after the data set has gone."""
    made_up((1, 4, 4))
    done = run(linear_run(make_spec), str(tmp_path / "run"), executor="local")
    build.cache_clear()

    def gone(name: str, train: bool) -> None:
        raise AssertionError("the data set is not to be looked at")

    bases.load_bytes = gone  # type: ignore[assignment]  # put back by the fixture
    again = open_run(str(tmp_path / "run"))
    assert RunDirectory(str(tmp_path / "run")).verify() == []
    assert {"result/whitened_maps.npy", "basis.npy"} <= set(again.manifest.objects)
    made = again.derive()
    for name in ("bias_maps", "z_maps", "whitened_maps"):
        data = RunDirectory(str(tmp_path / "run")).store.read(f"result/{name}.npy")
        assert made[f"result/{name}.npy"] == data, name
        assert getattr(again, name).shape == (3, 1, 4, 4)
    assert np.array_equal(
        again.stimulus.images(again.stimulus.noise.grid(5, 9)),
        done.stimulus.images(done.stimulus.noise.grid(5, 9)),
    )
    assert samples(again.stimulus, 3).startswith(b"\x89PNG")
    names = again.names
    found = contrast(again, again, "logits", names[0], names[1])
    assert found.z.shape == (1, 4, 4)
    with pytest.raises(RunError, match="has the weights of a basis for values"):
        again.clusters("logits", names[0])


def test_the_basis_is_in_the_fingerprint(
    make_spec: MakeSpec, made_up: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    made_up((1, 4, 4))
    job, _ = prepared(linear_run(make_spec))
    assert job.identity["stimulus"]["content"] == digest(
        build(BasisSpec(kind="pca", dataset="mnist", components=5), (1, 4, 4))
    )
    assert "basis" not in prepared(make_spec())[0].identity["stimulus"]
    run(linear_run(make_spec), str(tmp_path / "run"), executor="local")
    other = made_up((1, 4, 4))
    other[0] = 255 - other[0]
    with pytest.raises(RunError, match=r"stimulus\.content"):
        run(linear_run(make_spec), str(tmp_path / "run"), executor="local")


def test_a_forged_basis_is_refused(
    make_spec: MakeSpec, made_up: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    """Other numbers, other shapes and pickles, in a manifest that agrees with them."""
    made_up((1, 4, 4))
    run(linear_run(make_spec, samples=256), str(tmp_path / "run"), executor="local")
    honest = np.load(tmp_path / "run" / "basis.npy")
    assert (honest.dtype, honest.shape) == (np.int32, (6, 16))
    for array, words in (
        (honest + 1, "is not the basis that its spec.json tells of"),
        (honest[:5], r"int32 of shape \(5, 16\), not int32 of shape \(6, 16\)"),
        (honest.astype(np.float32), "float32 of shape"),
        (np.array([{}], dtype=object), "no .npy of plain numbers"),
        (np.zeros((60, 160), np.int32), "at most"),
    ):
        np.save(tmp_path / "run" / "basis.npy", array, allow_pickle=True)
        manifest = json.loads((tmp_path / "run" / "MANIFEST.json").read_text())
        data = (tmp_path / "run" / "basis.npy").read_bytes()
        manifest["objects"]["basis.npy"] = {"bytes": len(data), "sha256": sha256(data)}
        (tmp_path / "run" / "MANIFEST.json").write_text(json.dumps(manifest))
        with pytest.raises(RunError, match=words):
            _ = open_run(str(tmp_path / "run")).stimulus


def test_a_filter_is_found_through_the_basis(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A convolution's filter is known on the weights of the basis, too: what it sees of each
    picture.
    """
    spec = make_spec(
        model="bundled:mnist-cnn",
        stimulus={
            "shape": (1, 28, 28),
            "offset": 0.5,
            "scale": 0.25,
            "space": "pixel",
            "basis": {"kind": "gabor"},
        },
        target={"layer": "conv1", "units": [0, 1]},
        responses=["activation"],
        samples=40_000,
        numerics={"batch": 128},
    )
    done = run(spec, str(tmp_path / "run"), executor="local")
    assert done.readouts[0].bias.shape == (2, 960)
    assert done.bias_maps.shape == (2, 1, 5, 5)
    assert (
        min(done.classes["filter_cosine"].to_pylist()) > 1 - 10 * 960 / 40_000 / 2
    )  # 1 - d / (2 N) on average
