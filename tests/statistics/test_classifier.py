"""Templates as classifiers against naive loops, and data sets that are there, damaged or absent."""

from __future__ import annotations

import gzip
import math
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from wna_ray.data.datasets import DatasetName, NotAtHand, Split, load
from wna_ray.statistics.classifier import SCORES, Score, Scored, classify, mean_images, shuffled

FOLDERS: dict[DatasetName, str] = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def split_of(n: int, k: int, seed: int = 0, shape: tuple[int, int, int] = (2, 3, 4)) -> Split:
    rng = np.random.default_rng(seed)
    return Split(rng.random((n, *shape), dtype=np.float32), rng.integers(0, k, n))


def naive_score(template: list[float], image: list[float], score: Score) -> float:
    if score == "dot":
        return math.fsum(a * b for a, b in zip(template, image, strict=True))
    if score == "cosine":
        a, b = (
            [(v - min(template)) / (max(template) - min(template)) for v in template],
            list(image),
        )
    else:
        a, b = ([v - math.fsum(x) / len(x) for v in x] for x in (template, image))
    lengths = math.sqrt(math.fsum(v * v for v in a)) * math.sqrt(math.fsum(v * v for v in b))
    return math.fsum(p * q for p, q in zip(a, b, strict=True)) / lengths


def naive_confusion(
    templates: NDArray[np.float64], split: Split, score: Score
) -> NDArray[np.int64]:
    confusion = np.zeros((len(templates),) * 2, dtype=np.int64)
    for image, label in zip(split.images, split.labels, strict=True):
        best, most = -1, -math.inf
        for k, template in enumerate(templates):
            if any(math.isnan(v) for v in template.reshape(-1)):
                continue
            if (
                value := naive_score(
                    template.reshape(-1).tolist(), image.reshape(-1).tolist(), score
                )
            ) > most:
                best, most = k, value
        confusion[label, best] += 1
    return confusion


# Scores.


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("missing", [(), (2,), (0, 4)], ids=str)
def test_scores_against_loops(score: Score, missing: tuple[int, ...]) -> None:
    """Templates of other sizes and means, so that the two scores differ; those with one NaN are
    never chosen.
    """
    rng, split = np.random.default_rng(1), split_of(200, 5)
    templates = (
        rng.normal(size=(5, 2, 3, 4)) * rng.uniform(0.5, 2, (5, 1, 1, 1))
        + rng.normal(size=(5, 1, 1, 1)) / 10
    )
    templates[list(missing), 1, 2, 3] = np.nan
    expected, got = naive_confusion(templates, split, score), classify(templates, split, score)
    assert np.array_equal(got.confusion, expected), f"{got.confusion}\n{expected}"
    assert got.accuracy == sum(expected[i, i] for i in range(5)) / 200
    assert got.confusion[:, list(missing)].sum() == 0
    assert got.confusion.sum() == 200


def test_the_two_scores_differ() -> None:
    """A bright template wins every inner product; a correlation does not see brightness."""
    split = split_of(100, 2)
    templates = np.stack([split.images[0] * 0 + 9, split.images[0]]).astype(np.float64)
    templates[0, 0, 0, 0] += 1e-3
    assert classify(templates, split, "dot").confusion[:, 0].sum() == 100
    assert (
        classify(templates, Split(split.images[:1], split.labels[:1]), "correlation")
        .confusion[:, 1]
        .sum()
        == 1
    )


def test_correlation_ignores_scale_and_shift_and_dot_does_not() -> None:
    split, templates = split_of(150, 4), np.random.default_rng(3).normal(size=(4, 2, 3, 4))
    changed = (
        templates * np.array([0.1, 1, 5, 20])[:, None, None, None]
        + np.array([3, -2, 0, 8])[:, None, None, None]
    )
    assert np.array_equal(
        classify(changed, split, "correlation").confusion,
        classify(templates, split, "correlation").confusion,
    )
    assert not np.array_equal(
        classify(changed, split, "dot").confusion, classify(templates, split, "dot").confusion
    )


def test_flat_templates_do_not_break_the_correlation() -> None:
    """A template without variance correlates 0 with everything, not NaN."""
    split = split_of(50, 2)
    flat_and_bad = np.stack([np.ones((2, 3, 4)), -split.images[0].astype(np.float64)])
    assert (
        classify(flat_and_bad, Split(split.images[:1], split.labels[:1]), "correlation")
        .confusion[:, 0]
        .sum()
        == 1
    )


def test_shuffled_templates_are_at_chance() -> None:
    """20 shuffles of ten templates that name 2,000 images without fault. Shuffled, a template knows
    nothing of where an image is bright: the accuracy is .1 within four standard errors of the mean
    of 20, whose sd is measured.
    """
    random = np.random.default_rng(8)
    templates = random.normal(size=(10, 1, 12, 12))
    labels = np.arange(2000) % 10
    images = (templates[labels] + random.normal(size=(2000, 1, 12, 12))).astype(np.float32)
    split = Split(images, labels)
    assert classify(templates, split, "correlation").accuracy == 1
    mean, sd = shuffled(templates, split, "correlation")
    assert abs(mean - 0.1) < 4 * sd / math.sqrt(20)
    assert sd > 0


def test_recall_and_interval_of_a_known_table() -> None:
    scored = Scored(0.7, np.array([[6, 4, 0], [2, 8, 0], [0, 0, 0]]))
    np.testing.assert_allclose(scored.recall, [0.6, 0.8, np.nan])
    theirs = binomtest(14, 20).proportion_ci(method="wilson")
    assert scored.interval == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_mean_images_against_loops() -> None:
    split = split_of(60, 3)
    expected = np.zeros((3, 2, 3, 4))
    for k in range(3):
        mine = [
            image.astype(np.float64)
            for image, label in zip(split.images, split.labels, strict=True)
            if label == k
        ]
        expected[k] = sum(mine) / len(mine)
    np.testing.assert_allclose(mean_images(split, 3), expected, rtol=1e-12)


def test_mean_digits_classify_mnist_as_published(wna_data: Path) -> None:
    """Inner product with the ten mean training images: 63.1 % of the test set; by cosine 82.2 %."""
    templates = mean_images(load("mnist", train=True), 10)
    scored = classify(templates, load("mnist", train=False), "dot")
    assert abs(scored.accuracy - 0.631) <= 0.002, scored.accuracy
    assert abs(classify(templates, load("mnist", train=False), "cosine").accuracy - 0.822) <= 0.002
    assert scored.confusion.sum(axis=1).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]  # of the test set


# Data sets.


def idx(data: NDArray[np.uint8]) -> bytes:
    """The idx format: two zero bytes, the type (8: uint8), the number of axes, their sizes, the
    values.
    """
    return (
        bytes([0, 0, 8, data.ndim])
        + b"".join(n.to_bytes(4, "big") for n in data.shape)
        + data.tobytes()
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, no `WNA_DATA`, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the test has no network")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WNA_DATA", raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path


def write_set(root: Path, name: DatasetName) -> dict[bool, Split]:
    """A made-up data set (train: 7 images, test: 3) in a folder; gives what loading it should
    give.
    """
    raw, rng, made = root / FOLDERS[name] / "raw", np.random.default_rng(0), {}
    raw.mkdir(parents=True)
    for train, stem, n in ((True, "train", 7), (False, "t10k", 3)):
        images, labels = (
            rng.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            rng.integers(0, 10, n, dtype=np.uint8),
        )
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
        made[train] = Split(
            (images[:, None] / np.float32(255)).astype(np.float32), labels.astype(np.int64)
        )
    return made


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("place", ["WNA_DATA", "cache", "cache, with WNA_DATA elsewhere"])
def test_sets_are_found(
    name: DatasetName, place: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "WNA_DATA" in place:
        if "cache" in place:
            (home / "data" / FOLDERS[name] / "raw").mkdir(parents=True)
        monkeypatch.setenv("WNA_DATA", str(home / "data"))
    made = write_set(home / ".cache" / "wna-ray" if "cache" in place else home / "data", name)
    for train in (True, False):
        split = load(name, train)
        assert (split.images.dtype, split.images.shape, split.labels.dtype) == (
            np.float32,
            (7 if train else 3, 1, 28, 28),
            np.int64,
        )
        assert np.array_equal(split.images, made[train].images)
        assert np.array_equal(split.labels, made[train].labels)


def test_the_real_set_is_its_bytes(wna_data: Path) -> None:
    split, raw = load("mnist", train=False), wna_data / "MNIST" / "raw"
    images = np.fromfile(raw / "t10k-images-idx3-ubyte", dtype=np.uint8)[16:].reshape(
        10_000, 1, 28, 28
    )
    assert np.array_equal(np.rint(split.images * 255), images)
    assert (split.images.min(), split.images.max()) == (0.0, 1.0)
    assert split.labels[:5].tolist() == [
        7,
        2,
        1,
        0,
        4,
    ]  # the first digits of the test set, as everyone has seen them


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("data", [None, "", "nowhere", "empty"])
def test_absent_sets_say_what_would_help(
    name: DatasetName, data: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data is not None:
        monkeypatch.setenv("WNA_DATA", str(home / data) if data else "")
    if data == "empty":
        (home / data / FOLDERS[name] / "raw").mkdir(parents=True)
    with pytest.raises(
        NotAtHand,
        match=(
            f"^no {FOLDERS[name]} at hand; set WNA_DATA to a folder that holds {FOLDERS[name]}/raw$"
        ),
    ):
        load(name, train=False)
    assert not (home / ".cache" / "wna-ray").exists()  # asking does not make anything


def test_one_file_absent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(home, "mnist")
    (home / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("WNA_DATA", str(home))
    with pytest.raises(NotAtHand, match=r"damaged or not complete.*WNA_DATA"):
        load("mnist", train=False)


def test_a_failed_download_says_so(home: Path) -> None:
    before = socket.getdefaulttimeout()
    with pytest.raises(
        NotAtHand,
        match=(
            r"(?s)^MNIST could not be downloaded .*no network.*set WNA_DATA to a folder that holds"
            r" MNIST/raw$"
        ),
    ):
        load("mnist", train=False, download=True)
    assert socket.getdefaulttimeout() == before


def test_a_failed_download_says_so_in_one_line(home: Path) -> None:
    with pytest.raises(NotAtHand, match=r"\A[^\n]*\Z"):
        load("mnist", train=False, download=True)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[:-1],
    "empty": lambda data: b"",
    "text": lambda data: b"not an idx file\n",
    "zipped": gzip.compress,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_files(what: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(home, "mnist")
    path = home / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(DAMAGE[what](path.read_bytes()))
    monkeypatch.setenv("WNA_DATA", str(home))
    with pytest.raises(NotAtHand, match=r"damaged or not complete.*WNA_DATA"):
        load("mnist", train=False)
