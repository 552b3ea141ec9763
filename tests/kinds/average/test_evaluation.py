"""Maps of a run as classifiers: truth on a linear network, which images are taken, a thousand
classes, the network's own labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_up_digits
import networks_for_tests
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from wna_ray import Spec, run
from wna_ray.data import datasets
from wna_ray.data.datasets import NotAtHand, Split
from wna_ray.drawing.page import PNG
from wna_ray.errors import SpecError
from wna_ray.kinds.average import evaluation
from wna_ray.kinds.average.evaluation import (
    AVERAGE,
    RMS,
    Data,
    centred,
    data_of,
    mean_stimulus,
    scored,
    scoring_of,
    self_labels,
    templates_of,
)
from wna_ray.kinds.average.evaluation_record import Evaluation, read_evaluation
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.average.tables import classifier_table
from wna_ray.networks.models import load
from wna_ray.reports.html import written
from wna_ray.reports.tables import tables_of
from wna_ray.specs.run import EvaluationSpec
from wna_ray.statistics import classifier
from wna_ray.statistics.classifier import chance_rank, classify, on_cells, shuffled
from wna_ray.statistics.maps import entropy
from wna_ray.training.job import train
from wna_ray.training.spec import TrainSpec

DIGITS = {
    "model": "bundled:mnist-cnn?seed=3",
    "stimulus": {"kind": "gaussian", "shape": [1, 28, 28], "offset": 0.3, "scale": 0.3},
    "responses": ["label", "logits"],
    "samples": 512,
}


def known(monkeypatch: pytest.MonkeyPatch, test: Split, others: Split | None = None) -> None:
    """Make every data set these images."""
    data = Data(
        "mnist",
        "test",
        test,
        others,
        int(test.labels.max()) + 1,
        "" if others else "no mean images: made up",
    )
    monkeypatch.setattr(evaluation, "data_of", lambda *_, **__: data)


def of(finished: Any) -> dict[str, Any]:
    found: dict[str, Any] = finished.directory.read_json("evaluation/classifier.json")
    return found


def record_of(finished: Run) -> Evaluation:
    evaluation = read_evaluation(finished.directory)
    assert evaluation is not None
    return evaluation


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, list[bool]]]:
    """A run scored on made-up digits: first on validation images, then on the test set, then asked
    for the same again; with the splits that the last call read.
    """
    at = str(tmp_path_factory.mktemp("digits") / "run")
    with pytest.MonkeyPatch.context() as patch:
        asked_for = made_up_digits.install(patch)
        manifests = []
        for split in ("validation", "test", "test"):
            asked_for.clear()
            finished = run(
                Spec.parse(DIGITS | {"evaluation": {"dataset": "mnist", "split": split}}),
                at,
                executor="local",
            )
            assert of(finished)["split"] == split
            manifests.append((Path(at) / "MANIFEST.json").read_bytes())
        assert len(set(manifests)) == 1  # whatever it is scored on, the result keeps its bytes
        yield finished, list(asked_for)


# Against truth.


def test_maps_of_a_linear_network_classify_as_its_weights_do(
    tmp_path: Path, make_spec: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logit maps by gradients are its weights, exactly, less their mean over classes, which
    no order of scores sees.
    """
    spec = make_spec(estimator="gradient", responses=["logits"], samples=64, evaluation="mnist")
    weights = networks_for_tests.weights().numpy().astype(np.float64)
    rng = np.random.default_rng(5)
    images = rng.normal(size=(300, 1, 4, 4)).astype(np.float32)
    labels = np.argmax(
        images.reshape(300, -1) @ weights.T + rng.normal(size=(300, len(weights))), axis=1
    )
    known(monkeypatch, Split(images, labels))
    entry = of(run(spec, str(tmp_path / "run"), executor="local"))["templates"]["logits"]
    expected = np.zeros((len(weights),) * 2, dtype=int)
    for image, label in zip(images, labels, strict=True):
        expected[label, int(np.argmax(weights @ image.reshape(-1).astype(np.float64)))] += 1
    assert entry["confusion"]["dot"] == expected.tolist()
    assert 0.3 < entry["accuracy"]["dot"] == np.trace(expected) / 300 < 1
    np.testing.assert_allclose(entry["recall"]["dot"], np.diagonal(expected) / expected.sum(axis=1))


@pytest.mark.parametrize("how", ["white", "basis", "pictures"])
def test_averages_and_rms_against_a_loop(
    tmp_path: Path, make_spec: Callable[..., Spec], how: str
) -> None:
    """The mean and the root mean square of the very stimuli that got each label."""
    basis = {
        "white": {},
        "basis": {"basis": {"kind": "gabor"}},
        "pictures": {"basis": {"kind": "gabor", "rescale": "minmax"}},
    }[how]
    spec = make_spec(
        moments={"second": how == "white"},
        samples=640,
        stimulus={"offset": 0.25 * (how != "pictures"), **basis},
        evaluation="none",
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    images = (
        finished.stimulus.images(finished.stimulus.noise.grid(0, 640), torch.device("cpu"))
        .numpy()
        .astype(np.float64)
    )
    labels = np.argmax(images.reshape(640, -1) @ networks_for_tests.weights().numpy().T, axis=1)
    found = dict(templates_of(finished))
    kept = ["label", "label" + AVERAGE, "label" + RMS, "logits"]
    assert list(found) == (kept if how != "basis" else [kind for kind in kept if RMS not in kind])
    np.testing.assert_allclose(mean_stimulus(finished), images.mean(axis=0), atol=1e-6)
    for k in np.unique(labels):
        mine = images[labels == k]
        np.testing.assert_allclose(found["label" + AVERAGE][k], mine.mean(axis=0), atol=2e-6)
        if how != "basis":
            np.testing.assert_allclose(
                found["label" + RMS][k], np.sqrt(np.square(mine).mean(axis=0)), atol=2e-6
            )


def test_centred_score_is_the_correlation_with_images_less_the_mean_of_the_noise() -> None:
    """Against numpy's correlation coefficient; a grey mean is seen by no correlation."""
    rng = np.random.default_rng(9)
    templates, offset = rng.normal(size=(4, 2, 3, 3)), rng.random((2, 3, 3), dtype=np.float32)
    split = Split(rng.random((80, 2, 3, 3), dtype=np.float32), rng.integers(0, 4, 80))
    entry, _ = scored(templates, split, 0.25, centred(split, offset))
    right = [
        int(np.argmax([np.corrcoef(t.ravel(), (image - offset).ravel())[0, 1] for t in templates]))
        == label
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert entry["accuracy"]["centred"] == np.mean(right) != entry["accuracy"]["correlation"]
    assert centred(split, np.full((1, 1, 1), 0.4, dtype=np.float32)) is None


def test_self_labels_are_those_of_maps_scaled_to_the_unit_interval() -> None:
    """Against a loop; a map that is not there, and one that is flat, get none."""
    rng = np.random.default_rng(2)
    templates, weights = rng.normal(size=(6, 1, 3, 3)), rng.normal(size=(6, 9))
    templates[1, 0, 0, 0], templates[4] = np.nan, 0.5

    def ask(images: NDArray[np.float32]) -> NDArray[np.float32]:
        assert (images.dtype, images.min(), images.max()) == (np.float32, 0, 1)
        return (images.reshape(len(images), -1) @ weights.T).astype(np.float32)

    found, own = self_labels(templates, ask), 0
    for k, template in enumerate(templates):
        if k in (1, 4):
            assert found["labels"][k] is None is found["confidence"][k]
            continue
        z = weights @ ((template - template.min()) / (template.max() - template.min())).reshape(-1)
        assert found["labels"][k] == int(np.argmax(z))
        assert found["confidence"][k] == pytest.approx(
            1 / sum(math.exp(v - z.max()) for v in z), rel=1e-5
        )
        own += int(np.argmax(z)) == k
    assert (found["own"], found["maps"]) == (own, 4)


def test_self_labels_of_a_run_are_the_networks(digits: tuple[Run, list[bool]]) -> None:
    finished, _ = digits
    average = dict(templates_of(finished))["label" + AVERAGE]
    there = np.flatnonzero(np.isfinite(average).all(axis=(1, 2, 3)))
    low, high = (f(average[there], axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    outputs = load(str(DIGITS["model"])).module(
        torch.from_numpy((average[there] - low) / (high - low))
    )
    found = of(finished)["self"]["label"]
    assert [found["labels"][k] for k in there] == outputs.argmax(dim=1).tolist()
    np.testing.assert_allclose(
        [found["confidence"][k] for k in there], outputs.softmax(1).max(1).values, rtol=1e-4
    )


# Many classes.


def test_ranks_against_a_loop_and_chance() -> None:
    """Templates that know nothing: the mean rank is (k + 1) / 2, within four standard errors."""
    rng, k, n = np.random.default_rng(0), 60, 500
    templates, split = (
        rng.normal(size=(k, 1, 3, 5)),
        Split(rng.random((n, 1, 3, 5), dtype=np.float32), rng.integers(0, k, n)),
    )
    templates[7, 0, 0, 0] = np.nan
    templates[9] = templates[8]
    got = classify(templates, split, "dot")
    for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        scores = [
            float(np.vdot(t, image)) if np.isfinite(t).all() else -math.inf for t in templates
        ]
        higher, equal = (
            sum(f(s, scores[label]) for s in scores)
            for f in (lambda a, b: a > b, lambda a, b: a == b)
        )
        assert got.ranks[i] == higher + (equal + 1) / 2
    mean, error = chance_rank(k, n)
    places = np.arange(1, k + 1)
    assert (mean, error) == (places.mean(), pytest.approx(places.std() / math.sqrt(n)))
    assert abs(got.ranks.mean() - mean) < 4 * error
    assert got.top(5) == np.mean([r <= 5 for r in got.ranks])
    hits = int(np.trace(got.confusion))
    assert got.p_value(1 / k) == pytest.approx(
        stats.binomtest(hits, n, 1 / k, alternative="greater").pvalue, rel=1e-9
    )


@pytest.mark.parametrize("score", classifier.SCORES)
def test_low_resolution_maps_score_images_by_their_cells(score: classifier.Score) -> None:
    rng, k = np.random.default_rng(4), 8
    grid = rng.normal(size=(k, 2, 3, 2))
    split = Split(rng.random((200, 2, 12, 8), dtype=np.float32), rng.integers(0, k, 200))
    small = on_cells(split, 4)
    assert small is not None
    np.testing.assert_allclose(
        small.images[5, 1, 2, 0], split.images[5, 1, 8:12, :4].mean(), rtol=1e-5
    )
    whole = classify(np.kron(grid, np.ones((1, 1, 4, 4))), split, score)
    assert np.array_equal(classify(grid, small, score).ranks, whole.ranks)
    assert on_cells(split, 5) is None


def test_single_precision_ranks_as_double_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thousand templates of 224 x 224 pixels take; in blocks of few images. Scores are
    apart by far more than float32 errs.
    """
    rng = np.random.default_rng(6)
    templates, split = (
        rng.normal(size=(12, 3, 6, 6)),
        Split(rng.random((50, 3, 6, 6), dtype=np.float32), rng.integers(0, 12, 50)),
    )
    expected = {score: classify(templates, split, score).ranks for score in classifier.SCORES}
    monkeypatch.setattr(classifier, "SINGLE", 1)
    monkeypatch.setattr(classifier, "BLOCK", 400)
    for score, ranks in expected.items():
        assert np.array_equal(classify(templates, split, score).ranks, ranks)
    monkeypatch.setattr(classifier, "WORK", 1)
    mean, sd = shuffled(templates, split, "dot")  # two shuffles: their mean and sd tell both
    assert {round(50 * (mean + sign * sd / math.sqrt(2)), 6) % 1 for sign in (1, -1)} == {0.0}


def test_a_thousand_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image a class and no training split, as of ImageNet; here 20 classes of 8 x 8 pixels,
    in noise of 2 x 2 cells.
    """
    monkeypatch.setattr(evaluation, "MOST_MATRIX", 10)
    images = (
        0.5 + networks_for_tests.weights(20, 192).numpy().reshape(20, 3, 8, 8) / 2
    )  # each is its own class's weights
    monkeypatch.setitem(datasets.SHAPES, "imagenet-sample", (3, 8, 8))
    monkeypatch.setattr(evaluation, "class_names", lambda _: tuple(map(str, range(20))))

    def sample(name: str, train: bool, download: bool = False) -> Split:
        if train:
            raise NotAtHand("it has no training split")
        return Split(images, np.arange(20))

    monkeypatch.setattr(datasets, "load", sample)
    spec = Spec.parse(
        {
            "model": "python:networks_for_tests:linear?k=20",
            "stimulus": {
                "kind": "gaussian",
                "shape": [3, 8, 8],
                "scale": 1.0,
                "cell": 2,
                "space": "input",
            },
            "responses": ["logits"],
            "samples": 2048,
            "evaluation": "imagenet-sample",
        }
    )
    monkeypatch.setattr(
        networks_for_tests, "linear", lambda k: networks_for_tests.Linear(int(k), 192)
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    found = of(finished)
    assert found["note"] == "no mean images: it has no training split"
    assert list(found["templates"]) == ["logits"]
    assert (found["chance"], found["classes"], found["images"]) == (1 / 20, 20, 20)
    entry = found["templates"]["logits"]
    assert "confusion" not in entry
    control = entry["control"]["correlation"]
    assert entry["accuracy"]["correlation"] > 0.3 > control["mean"] + 4 * control["sd"]
    assert (
        entry["mean_rank"]["correlation"]
        < found["chance_rank"]["mean"] - 4 * found["chance_rank"]["standard_error"]
    )
    assert entry["top5"]["correlation"] >= entry["accuracy"]["correlation"]
    table = classifier_table(record_of(finished))
    assert "no mean images: it has no training split" in str(table.caption)
    assert table.columns[6].header == "top 5"
    assert (tmp_path / "run" / "evaluation" / "classifier_logits.png").read_bytes().startswith(PNG)


# Which images.


def test_validation_images_are_never_test_images_nor_behind_the_mean_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_for = made_up_digits.install(monkeypatch)
    whole = made_up_digits.split(True)
    data = data_of(EvaluationSpec(dataset="mnist", split="validation"), None, download=False)
    assert asked_for == [True]  # the test split was not even read
    n = len(whole.labels)
    assert data.others is not None
    assert (len(data.images.labels), len(data.others.labels)) == (n // 6, n - n // 6)
    assert np.array_equal(np.concatenate([data.others.images, data.images.images]), whole.images)
    few = data_of(EvaluationSpec(dataset="mnist", split="test", images=7), None, download=False)
    assert np.array_equal(few.images.images, made_up_digits.split(False).images[:7])
    assert few.others is not None
    assert np.array_equal(few.others.images, whole.images)


def test_sixth_of_mnist() -> None:
    split = Split(np.zeros((60_000, 1, 1, 1), np.float32), np.arange(60_000))
    rest, held = split.held_out
    assert (rest.labels[-1], held.labels[0], len(held.labels)) == (49_999, 50_000, 10_000)


def test_by_default_a_trained_network_is_scored_on_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes in another order, on turned images: data set, classes and transform are those
    of its description.
    """
    asked_for = made_up_digits.install(monkeypatch)
    recipe = {
        "network": "logistic",
        "dataset": "mnist",
        "classes": [7, 2],
        "transform": "rotate-90",
        "epochs": 1,
        "validation": 0,
    }
    train(TrainSpec.parse(recipe), str(tmp_path / "nets"), executor="local")
    spec = Spec.parse(DIGITS | {"model": f"trained:{tmp_path}/nets/seed-0"})
    wanted, found = scoring_of(spec)
    assert wanted == EvaluationSpec(dataset="mnist")
    data = data_of(wanted, found, download=False)
    whole = made_up_digits.split(False)
    chosen = [i for i, label in enumerate(whole.labels) if label in (7, 2)]
    assert data.images.labels.tolist() == [[7, 2].index(whole.labels[i]) for i in chosen]
    assert np.array_equal(
        data.images.images, np.stack([[np.rot90(whole.images[i, 0])] for i in chosen])
    )
    asked_for.clear()
    report = of(run(spec, str(tmp_path / "run"), executor="local"))
    assert (report["dataset"], report["classes"], report["chance"], report["images"]) == (
        "mnist",
        2,
        0.5,
        24,
    )
    assert asked_for == [False, True]


@pytest.mark.parametrize(
    "model", ["bundled:mnist-cnn", "python:networks_for_tests:linear", "torchvision:resnet18"]
)
def test_other_defaults(model: str) -> None:
    wanted, recipe = scoring_of(Spec.parse(DIGITS | {"model": model}))
    assert recipe is None
    assert wanted.dataset == ("mnist" if model.startswith("bundled") else "none")


def test_a_description_that_is_not_there_skips_the_score() -> None:
    with pytest.raises(NotAtHand, match="what the network was trained on cannot be read here"):
        scoring_of(Spec.parse(DIGITS | {"model": "trained:nowhere/seed-0"}))


def test_ways_to_write_it() -> None:
    short = Spec.parse(DIGITS | {"evaluation": "cifar-10"})
    assert short == Spec.parse(DIGITS | {"evaluation": {"dataset": "cifar-10"}})
    assert short.model_dump(mode="json")["evaluation"] == "cifar-10"  # as runs before had it
    long = Spec.parse(
        DIGITS | {"evaluation": {"dataset": "mnist", "split": "validation", "images": 500}}
    )
    assert Spec.parse(long.model_dump(mode="json")) == long
    with pytest.raises(SpecError, match="evaluation: split: imagenet-sample has one image a class"):
        Spec.parse(DIGITS | {"evaluation": {"dataset": "imagenet-sample", "split": "validation"}})


def test_the_same_question_again_reads_no_images(digits: tuple[Run, list[bool]]) -> None:
    assert digits[1] == []


# Tables.


def test_entropy_against_scipy() -> None:
    share = np.random.default_rng(0).dirichlet(np.full(12, 0.3))
    share[3] = 0
    share /= share.sum()
    assert entropy(share) == pytest.approx(stats.entropy(share, base=2), rel=1e-12)
    assert str(entropy(np.array([1.0, 0.0]))) == "0.0"


def test_the_caption_says_which_labels_noise_was_given(
    tmp_path: Path, make_spec: Callable[..., Spec]
) -> None:
    finished = run(make_spec(), str(tmp_path / "run"), executor="local")
    rows = [row for row in finished.classes.to_pylist() if row["kind"] == "label"]
    counts = [row["count"] for row in rows]
    bits, most = stats.entropy(counts, base=2), max(counts)
    caption = str(tables_of(finished)[0].caption)
    assert (
        f"{sum(c > 0 for c in counts)} of {len(counts)} labels reached, entropy {bits:.2f} of"
        f" {np.log2(len(counts)):.2f} bits" in caption
    )
    assert (
        f"most frequent: {rows[counts.index(most)]['name']} {100 * most / sum(counts):.3g} %"
        in caption
    )


def test_the_table_says_what_the_file_says(digits: tuple[Run, list[bool]]) -> None:
    finished, _ = digits
    found = of(finished)
    table = classifier_table(record_of(finished))
    cells = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert (
        len(cells) == 3 * len(found["templates"]) == 3 * 4
    )  # label, its average, logits, mean image
    kind, score, accuracy = cells[-1][:3]
    assert (kind, score, accuracy) == (
        "mean image",
        "cosine",
        f"{found['templates'][kind]['accuracy'][score]:.3f}",
    )
    for entry in found["templates"].values():
        for name in classifier.SCORES:
            low, high = entry["interval"][name]
            assert low <= entry["accuracy"][name] <= high
    page = written(finished).decode()
    assert f"{found['templates']['logits']['accuracy']['correlation']:.3f}" in page
    drawn = Path(finished.directory.url).glob("result/figures/*")
    assert page.count("data:image/png;base64,") == len([*drawn, *found["templates"]])
