"""Pictures as stimuli: which byte is shown when, and statistics against SciPy and NumPy on the
pixels themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_bytes import N, correlated
from networks_for_tests import weights
from numpy.typing import NDArray
from prepared import prepared, read
from scipy.stats import pearsonr

from wna_ray import StcSpec, run, run_stc
from wna_ray.data import datasets
from wna_ray.data.datasets import Split
from wna_ray.errors import CanaryError, RunError, SpecError
from wna_ray.kinds.average.run import Run, open_run
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import Dense, FixedPoint
from wna_ray.paper import sources as finding
from wna_ray.runs.directory import RunDirectory
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.specs.trials import TrialSpec
from wna_ray.statistics.maps import best_ridge, cosine, sidak_p, whiten
from wna_ray.statistics.nulls import FEWEST_PICTURES, MeasuredPictures
from wna_ray.statistics.readouts import read_out
from wna_ray.stimuli import pictures
from wna_ray.stimuli.pictures import cell_means, images_of
from wna_ray.stimuli.stimulus import make_stimulus, stimulus_text
from wna_ray.studies.contrast import contrast

Floats = NDArray[np.float64]
MakeSpec = Callable[..., Spec]


def shown(**more: Any) -> dict[str, Any]:
    return {"kind": "images", "shape": [1, 4, 4], "scale": 1.0, "dataset": "mnist", **more}


def of_images(
    make_spec: MakeSpec,
    responses: Any = ("label", {"kind": "logits", "centred": True}),
    **more: Any,
) -> Spec:
    return make_spec(**({"stimulus": shown(), "responses": list(responses), "samples": N} | more))


def test_every_image_in_its_order_to_the_bit(small: NDArray[np.uint8], make_spec: MakeSpec) -> None:
    stimulus = make_stimulus(of_images(make_spec).stimulus, 3, np.zeros((1, 1, 1), np.float32))
    grid = stimulus.noise.grid(10, 14)
    assert np.array_equal(grid.astype(int) + 128, small[10:14])
    assert np.array_equal(
        stimulus.images(grid).numpy(), small[10:14].astype(np.float32) / np.float32(255)
    )
    assert np.array_equal(
        stimulus.noise.grid(N - 1, N + 2),
        np.concatenate([stimulus.noise.grid(N - 1, N), stimulus.noise.grid(0, 2)]),
    )
    moved = make_stimulus(
        StimulusSpec(**shown(offset=0.5, scale=0.25)), 0, np.full((1, 1, 1), 0.5, np.float32)
    )
    np.testing.assert_allclose(
        moved.images(grid).numpy(), 0.5 + 0.25 * small[10:14] / 255, atol=1e-7
    )
    assert moved.range == (0.5, 0.75)


def test_images_of_some_classes(small: NDArray[np.uint8]) -> None:
    stimulus = make_stimulus(
        StimulusSpec(**shown(classes=[2, 0])), 0, np.zeros((1, 1, 1), np.float32)
    )
    expected = np.stack([image for i, image in enumerate(small) if i % 3 != 1])
    assert np.array_equal(stimulus.noise.grid(0, 1000).astype(int) + 128, expected)
    with pytest.raises(SpecError, match=r"stimulus\.classes: mnist has no images of 7"):
        images_of("mnist", "train", (7,))


def test_classes_by_a_range(make_spec: MakeSpec) -> None:
    asked = {"kind": "images", "dataset": "mnist", "shape": [1, 28, 28]}
    for text, numbers in (("1:8:3", (1, 4, 7)), ("0:3", (0, 1, 2))):
        spec = make_spec(stimulus=asked | {"classes": text}, samples=1)
        assert spec.stimulus.classes == numbers
        assert spec == make_spec(stimulus=asked | {"classes": list(numbers)}, samples=1)
    many = make_spec(stimulus=asked | {"classes": "0:100:5"}, samples=1).stimulus
    assert stimulus_text(many) == "mnist train pictures, classes 0, 5 ... 95 (20)"


@pytest.mark.parametrize("shape, cell", [((4, 4), 2), ((5, 7), 3), ((3, 2), 3)])
def test_means_of_cells(shape: tuple[int, int], cell: int) -> None:
    """Against a loop over cells, in whole numbers; means of halves are rounded up, and the ends
    of the scale stay.
    """
    x = np.random.default_rng(5).integers(-128, 128, size=(6, 2, *shape)).astype(np.int8)
    x[0], x[1] = -128, 127
    found = cell_means(x, cell)
    for i, a in enumerate(range(0, shape[0], cell)):
        for j, b in enumerate(range(0, shape[1], cell)):
            part = x[:, :, a : a + cell, b : b + cell].astype(int)
            expected = [
                [math.floor(Fraction(int(c.sum()), c.size) + Fraction(1, 2)) for c in image]
                for image in part
            ]
            assert (found[:, :, i, j] == expected).all()
    assert found.shape[2:] == (-(-shape[0] // cell), -(-shape[1] // cell))


def test_pictures_are_shown_whole_where_moments_are_kept_of_cells(
    small: NDArray[np.uint8], make_spec: MakeSpec, tmp_path: Path
) -> None:
    """The network sees every pixel; maps and the covariance are those of the means; whitened,
    they regress the response on the means.
    """
    spec = of_images(make_spec, [{"kind": "logits", "centred": True}])
    spec = spec.model_copy(update={"stimulus": spec.stimulus.model_copy(update={"cell": 2})})
    done = run(spec, str(tmp_path / "run"), executor="local")
    means = np.floor(small.reshape(N, 2, 2, 2, 2).mean(axis=(2, 4)) + 0.5).reshape(N, 4) / 255
    y = small.reshape(N, 16) / 255 @ weights().double().numpy().T
    y = y - y.mean(axis=1, keepdims=True)
    covariance = (y - y.mean(axis=0)).T @ means / N
    logits = done.readouts[0]
    assert done.stimulus.pixels == 4
    np.testing.assert_allclose(logits.bias, covariance / means.var(axis=0).mean(), atol=1e-4)
    np.testing.assert_allclose(done.covariance, np.cov(means.T, ddof=0), atol=1e-12)
    expected = np.linalg.solve(np.cov(means.T, ddof=0), covariance.T).T.reshape(3, 2, 2)
    np.testing.assert_allclose(
        done.whitened(0.0)[:, 0], expected.repeat(2, axis=1).repeat(2, axis=2), atol=1e-3
    )


def test_pictures_of_classes_that_were_not_shown(
    small: NDArray[np.uint8], make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs, which leave out class 2 and class 0: each names those by a regression of its
    own images, with its own mean.
    """
    x, labels, w = small.reshape(N, 16) / 255, np.arange(N) % 3, weights().double().numpy()
    monkeypatch.setattr(
        finding, "data", lambda name, train: Split((small / 255).astype(np.float32), labels)
    )
    runs, right = [], 0
    for left in (2, 0):
        spec = of_images(make_spec, [{"kind": "logits", "centred": True}])
        stimulus = spec.stimulus.model_copy(update={"classes": tuple(sorted({0, 1, 2} - {left}))})
        runs.append(
            run(
                spec.model_copy(update={"stimulus": stimulus, "samples": 1000}),
                str(tmp_path / str(left)),
                executor="local",
            )
        )
        seen, maps = labels != left, runs[-1].whitened().reshape(3, 16)
        right += int((((x[~seen] - x[seen].mean(axis=0)) @ maps.T).argmax(axis=1) == left).sum())
        assert cosine(maps[:, 1:], (w - w.mean(axis=0))[:, 1:]).min() > 0.99
    found = finding.held_out(runs)
    assert found.confusion.sum() == 1000
    assert (found.accuracy, (found.ranks == 1).sum()) == (right / 1000, right)
    assert found.confusion.sum(axis=1).tolist() == [500, 0, 500]
    assert 0 < right < 1000


def test_other_images_than_the_run_began_with(small: NDArray[np.uint8]) -> None:
    stimulus = make_stimulus(
        StimulusSpec(**shown()), 0, np.zeros((1, 1, 1), np.float32), content="0" * 64
    )
    with pytest.raises(CanaryError, match="has other images than the run began with; set WNA_DATA"):
        stimulus.noise.grid(0, 1)


def test_maps_and_z_from_the_pixels_themselves(
    small: NDArray[np.uint8], make_spec: MakeSpec
) -> None:
    """z is sqrt(N) times Pearson's correlation, pixel by pixel; 0 where a pixel never varies. A
    cut into shards changes nothing.
    """
    job, network = prepared(of_images(make_spec))
    moments = run_shard(job, network, 0, 512)[0].merge(run_shard(job, network, 512, N)[0])
    label, logits = read(job, moments)
    x = small.reshape(N, 16) / 255
    outputs = network(torch.from_numpy(x.astype(np.float32).reshape(N, 1, 4, 4)[:64]))
    y = x @ weights().double().numpy().T
    assert np.allclose(outputs, y[:64], atol=1e-5)
    centred, labels = y - y.mean(axis=1, keepdims=True), y.argmax(axis=1)
    for k in range(3):
        z = [0.0, *(math.sqrt(N) * pearsonr(centred[:, k], x[:, j])[0] for j in range(1, 16))]
        np.testing.assert_allclose(logits.z[k], z, atol=1e-3)
        covariance = ((centred[:, k] - centred[:, k].mean())[:, None] * x).mean(axis=0)
        np.testing.assert_allclose(logits.bias[k], covariance / x.var(axis=0).mean(), atol=1e-4)
        np.testing.assert_allclose(
            label.bias[k], x[labels == k].mean(axis=0) - x.mean(axis=0), atol=1e-12
        )
        assert logits.reliability[k] == pytest.approx(
            max(0.0, 1 - 15 / np.square(z).sum()), abs=1e-4
        )
    assert np.isnan(logits.rho2).all()


def moments_of(x: NDArray[np.int8], y: NDArray[np.int64]) -> Moments:
    return Moments.identity(x[0].size, ["activation"], second=True).update(
        x, {"activation": Dense(y)}
    )


def test_responses_that_ignore_pictures() -> None:
    """300 responses to pictures of 15 pixels that correlate (and one that never varies): E||z||^2
    is 15 within 5 standard errors, and the share of p-values below 0.05 is 0.05, or less, to 4 of
    its standard deviations.
    """
    x = (correlated(1, 4000).astype(int) - 128).astype(np.int8)
    y = np.rint(np.random.default_rng(2).normal(size=(4000, 300)) * 1000).astype(np.int64)
    point = FixedPoint((0,) * 300, (0,) * 300)
    names = [str(i) for i in range(300)]
    found = read_out(moments_of(x, y), "activation", point, MeasuredPictures(1.0), names)
    squares = np.square(found.z).sum(axis=1)
    assert abs(squares.mean() - 15) < 5 * squares.std() / math.sqrt(300)
    assert (found.p_value < 0.05).mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)


def test_pixels_that_hardly_vary_are_not_judged() -> None:
    """One image of 20,000 has a pixel that no other has: a single response decides its z,
    however large that is.
    """
    x = np.full((20_000, 1, 1, 2), -128, dtype=np.int8)
    x[7, 0, 0, 0] = 127
    x[::2, 0, 0, 1] = 127
    y = np.rint(np.random.default_rng(0).normal(size=(20_000, 1)) * 1000).astype(np.int64)
    y[7] = 6000
    point, null = FixedPoint((0,), (0,)), MeasuredPictures(1.0)
    found = read_out(moments_of(x, y), "activation", point, null, ["0"])
    assert found.z[0, 0] > 5
    assert found.p_value[0] == pytest.approx(float(sidak_p(np.abs(found.z[0, 1]), 1)))
    some = slice(0, FEWEST_PICTURES)
    few = read_out(moments_of(x[some], y[some]), "activation", point, null, ["0"])
    assert few.note == ("too few images",)
    dim = (
        np.full((2000, 1, 1, 1), -100, dtype=np.int8)
        + np.arange(2000).reshape(-1, 1, 1, 1) // 8 % 3
    )  # few levels of 256
    y = np.rint(np.random.default_rng(1).uniform(-1000, 1000, size=(2000, 1))).astype(np.int64)
    moments = moments_of(dim.astype(np.int8), y)
    rare = read_out(moments, "activation", point, null, ["0"])
    assert rare.note == ("too few images",)
    # a sum of many weights is not skewed as rare ink is
    mixed = read_out(moments, "activation", point, MeasuredPictures(1.0, stretched=True), ["0"])
    assert mixed.note == ("",)
    assert np.isnan(few.p_value[0])


def test_whitening_recovers_the_filter(
    small: NDArray[np.uint8], make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Of a linear network the regression is its weights, but for the rounding of responses;
    triggered averages do not show them.
    """
    done = run(
        of_images(make_spec, [{"kind": "logits", "centred": True}]),
        str(tmp_path / "run"),
        executor="local",
    )
    x, w = small.reshape(N, 16) / 255, weights().double().numpy()
    w = w - w.mean(axis=0)
    np.testing.assert_allclose(done.covariance, np.cov(x.T, ddof=0), atol=1e-12)
    assert cosine(done.whitened(1e-9).reshape(3, 16)[:, 1:], w[:, 1:]).min() > 0.9999
    assert (
        not np.abs(done.whitened(1e-9).reshape(3, 16)[:, 0]).max() > 1e-9
    )  # a pixel that never varies tells nothing
    assert (
        cosine(done.whitened().reshape(3, 16)[:, 1:], w[:, 1:]).min()
        > cosine(done.bias_maps.reshape(3, 16)[:, 1:], w[:, 1:]).max()
    )


def test_whitening_is_ridge_regression() -> None:
    """Against the normal equations; a ridge for each row; NaN where there is none."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(200, 3))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    found = whiten(y.T @ x / 200, x.T @ x / 200, np.array([0.0, 0.5, np.nan]))
    for k, ridge in enumerate((0.0, 0.5)):
        np.testing.assert_allclose(
            found[k], np.linalg.solve(x.T @ x + 200 * ridge * np.eye(6), x.T @ y[:, k]), rtol=1e-9
        )
    assert np.isnan(found[2]).all()
    assert (whiten(np.ones((1, 3)), np.diag([0.0, 1.0, 2.0]), 0.0) == [[0.0, 1.0, 0.5]]).all()


def test_the_ridge_is_the_one_that_errs_least() -> None:
    """1,000 white filters seen through correlated pictures: a ridge three times smaller or
    larger errs more (paired, 5 standard errors).
    """
    rng = np.random.default_rng(4)
    root = rng.normal(size=(10, 10))
    c, n, noise = root @ root.T, 500, 20.0
    truth = rng.normal(size=(1000, 10))
    maps = truth @ c + rng.normal(size=(1000, 10)) @ root.T * math.sqrt(noise / n)
    signal = (
        n / noise * (np.square(c).sum(axis=0) / np.diag(c)).sum()
    )  # of z, for filters of variance 1
    ridge = best_ridge(c, np.array([signal / (signal + 10)]))
    assert ridge[0] == pytest.approx(noise / n)

    def errors(value: float) -> Floats:
        return np.asarray(np.square(whiten(maps, c, value) - truth).sum(axis=1))

    for wrong in (3 * ridge[0], ridge[0] / 3):
        worse = errors(wrong) - errors(ridge[0])
        assert worse.mean() > 5 * worse.std() / math.sqrt(1000)


def test_mean_squares_by_label(
    small: NDArray[np.uint8], make_spec: MakeSpec, tmp_path: Path
) -> None:
    """RMS maps: from the pixels themselves, of pictures and of noise; to the rounding of a
    float32 offset.
    """
    done = run(of_images(make_spec, ["label"]), str(tmp_path / "run"), executor="local")
    x = small.reshape(N, 16) / 255
    labels = (x @ weights().double().numpy().T).argmax(axis=1)
    for k in range(3):
        np.testing.assert_allclose(
            done.rms_maps[k].reshape(-1),
            np.sqrt(np.square(x[labels == k]).mean(axis=0)),
            rtol=0,
            atol=1e-7,
        )
        np.testing.assert_allclose(
            done.variance_maps[k].reshape(-1), x[labels == k].var(axis=0), atol=1e-8
        )
    spec = make_spec(
        moments={"second": True},
        stimulus={"offset": 0.5, "cell": 2},
        responses=["label"],
        samples=1024,
    )
    noise = run(spec, str(tmp_path / "noise"), executor="local")
    images = (
        noise.stimulus.images(noise.stimulus.noise.grid(0, 1024)).double().numpy().reshape(1024, 16)
    )
    labels = (images @ weights().double().numpy().T).argmax(axis=1)
    for k in range(3):
        np.testing.assert_allclose(
            noise.rms_maps[k].reshape(-1),
            np.sqrt(np.square(images[labels == k]).mean(axis=0)),
            atol=1e-6,
        )
    plain = run(
        make_spec(responses=["label"], samples=256), str(tmp_path / "plain"), executor="local"
    )
    with pytest.raises(RunError, match="keeps no second moments"):
        _ = plain.rms_maps


def finished(make_spec: MakeSpec, out: Path) -> Run:
    return run(of_images(make_spec, keep_responses=True), str(out), executor="local")


def test_a_finished_run_is_read_without_the_data(
    small: NDArray[np.uint8], make_spec: MakeSpec, tmp_path: Path
) -> None:
    finished(make_spec, tmp_path / "run")
    images_of.cache_clear()

    def gone(name: str, train: bool) -> None:
        raise datasets.NotAtHand("no MNIST at hand; set WNA_DATA")

    pictures.load_bytes = gone  # type: ignore[assignment]  # put back by the fixture
    again = open_run(str(tmp_path / "run"))
    assert RunDirectory(str(tmp_path / "run")).verify() == []
    assert again.derive()["result/bias_maps.npy"] == RunDirectory(str(tmp_path / "run")).store.read(
        "result/bias_maps.npy"
    )
    with pytest.raises(SpecError, match=r"stimulus\.dataset: no MNIST at hand; set WNA_DATA"):
        again.whitened()


def test_later_passes_refuse_pictures(
    small: NDArray[np.uint8], make_spec: MakeSpec, tmp_path: Path
) -> None:
    done = finished(make_spec, tmp_path / "run")
    with pytest.raises(SpecError, match="a covariance needs noise"):
        run_stc(StcSpec(run=str(tmp_path / "run")), str(tmp_path / "stc"), executor="local")
    with pytest.raises(RunError, match="the test is for noise"):
        contrast(done, done, "logits", "0", "1")
    with pytest.raises(RunError, match="shows pictures whose pixels correlate"):
        done.clusters("logits", "0")
    with pytest.raises(SpecError, match="nobody designed the distribution"):
        _ = done.stimulus.noise.table
    with pytest.raises(SpecError, match="trials show signals in noise"):
        TrialSpec.parse(
            {"model": "m", "signals": {"dataset": "mnist"}, "noise": shown(), "gammas": [0.5]}
        )


def test_mean_gradients_over_pictures(
    small: NDArray[np.uint8], make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Of the network's square they are twice the weights times the mean output: the mean of
    each image's gradient by hand.
    """
    spec = of_images(
        make_spec, ["logits"], estimator="gradient", model="python:networks_for_tests:quadratic"
    )
    done = run(spec, str(tmp_path / "run"), executor="local")
    job, network = prepared(spec)
    x, y = network.tracked(torch.from_numpy(small.astype(np.float32) / 255)[:N])
    y = y - y.mean(dim=1, keepdim=True) if y.shape[1] > 1 else y
    for k in range(y.shape[1]):
        (gradient,) = torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)
        expected = gradient.double().mean(dim=0).numpy()
        np.testing.assert_allclose(done.bias_maps[k], expected, atol=2e-3 * np.abs(expected).max())
    assert np.isnan(done.readouts[0].rho2).all()
    assert job.stimulus.spec.measured


def test_more_images_than_there_are(small: NDArray[np.uint8], make_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match="samples: 1,501, but there are only 1,500 such images"):
        prepared(of_images(make_spec, samples=N + 1))


@pytest.mark.parametrize(
    "stimulus, words",
    [
        ({"kind": "images", "shape": [1, 28, 28]}, "dataset: kind images needs one of mnist"),
        (
            {"kind": "images", "dataset": "mnist", "shape": [3, 32, 32]},
            r"images of mnist are \(1, 28, 28\)",
        ),
        (
            {"kind": "images", "dataset": "mnist", "shape": [1, 28, 28], "classes": "0-5"},
            "'0-5' is no range; give numbers, or START:STOP",
        ),
        (
            {"kind": "images", "dataset": "mnist", "shape": [1, 28, 28], "classes": "0:9:0"},
            "'0:9:0' is no range",
        ),
        (
            {
                "kind": "images",
                "dataset": "mnist",
                "shape": [1, 28, 28],
                "basis": {"kind": "gabor"},
            },
            "basis: is of noise",
        ),
        (
            {"kind": "images", "dataset": "mnist", "shape": [1, 28, 28], "classes": [1, 1]},
            "each may stand once",
        ),
        ({"kind": "gaussian", "split": "test"}, "split: only kind images shows a data set"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    stimulus: dict[str, Any], words: str, make_spec: MakeSpec
) -> None:
    with pytest.raises(SpecError, match=words):
        make_spec(stimulus=stimulus)


def test_pooled_patches_of_pictures_are_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match="patches of one picture are no independent samples"):
        make_spec(
            stimulus={"kind": "images", "dataset": "mnist", "shape": [1, 28, 28]},
            target={"layer": "conv1", "position": "pooled"},
            responses=["activation"],
        )


def test_filters_are_found_from_digits(wna_data: Path, tmp_path: Path) -> None:
    """Averages of real digits do not show the filters of the first layer, their regression does
    (a linear unit, so exactly).
    """
    spec = Spec.parse(
        {
            "model": "bundled:mnist-cnn",
            "stimulus": {"kind": "images", "dataset": "mnist", "shape": [1, 28, 28]},
            "target": {"layer": "conv1", "position": [12, 10]},
            "responses": ["activation"],
            "samples": 5_000,
        }
    )
    done = run(spec, str(tmp_path / "run"), executor="local")
    truth = done.filters
    assert truth is not None
    averages = np.abs(cosine(done.readouts[0].bias, truth))
    found = cosine(done.whitened(1e-8).reshape(truth.shape), truth)
    assert found.min() > 0.999, found
    assert np.median(averages) < 0.9, averages
