"""Data sets: what torchvision reads, as arrays; those of digits and clothes are tested in
`test_classifier`.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torchvision
from PIL import Image

from wna_ray.data.datasets import SHAPES, DatasetName, NotAtHand, Split, class_names, load


def split_of(labels: list[int]) -> Split:
    n = len(labels)
    return Split(
        (np.arange(n * 4, dtype=np.float32) / 4 / n).reshape(n, 1, 2, 2),
        np.array(labels, dtype=np.int64),
    )


def test_class_names_are_torchvisions(wna_data: Path) -> None:
    sets = torchvision.datasets
    assert list(class_names("fashion-mnist")) == sets.FashionMNIST.classes
    assert [name.partition(" - ")[0] for name in sets.MNIST.classes] == list(class_names("mnist"))
    assert list(class_names("cifar-10")) == sets.CIFAR10(str(wna_data), train=False).classes
    names = class_names("imagenet-sample")
    assert (len(names), names[0], names[207], names[999]) == (
        1000,
        "tench",
        "golden retriever",
        "toilet tissue",
    )
    assert set(SHAPES) == set(get_args(DatasetName))


@pytest.mark.parametrize("train", [False, True])
def test_cifar_is_its_images(train: bool, wna_data: Path) -> None:
    split, own = load("cifar-10", train), torchvision.datasets.CIFAR10(str(wna_data), train=train)
    assert (split.images.dtype, split.images.shape) == (
        np.float32,
        (50_000 if train else 10_000, 3, 32, 32),
    )
    for i in (0, 1, len(own) - 1):
        image, label = own[i]
        assert np.array_equal(
            split.images[i], np.asarray(image).transpose(2, 0, 1) / np.float32(255)
        )
        assert split.labels[i] == label
    assert np.bincount(split.labels).tolist() == [len(own) // 10] * 10


def test_the_imagenet_sample_is_scaled_and_cut(wna_data: Path) -> None:
    """One image by hand: the short side to 256 (bilinear, antialiased), then the middle 224 x
    224.
    """
    split, folders = (
        load("imagenet-sample", train=False),
        sorted(p for p in (wna_data / "imagenet-sample").iterdir() if p.is_dir()),
    )
    assert (split.images.shape, split.images.dtype) == ((1000, 3, 224, 224), np.float32)
    assert split.labels.tolist() == list(range(1000))
    assert 0 <= split.images.min() < 0.01 < 0.99 < split.images.max() <= 1
    for label in (0, 207, 999):
        image = Image.open(next(folders[label].iterdir())).convert("RGB")
        width, height = image.size
        wide = (256, 256 * height // width) if width <= height else (256 * width // height, 256)
        image = image.resize(wide, Image.Resampling.BILINEAR)
        left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
        expected = np.asarray(image.crop((left, top, left + 224, top + 224))).transpose(
            2, 0, 1
        ) / np.float32(255)
        assert np.array_equal(split.images[label], expected), label


def test_the_imagenet_sample_has_no_training_split() -> None:
    with pytest.raises(NotAtHand, match=r"^imagenet-sample has no training split.*test split$"):
        load("imagenet-sample", train=True)


@pytest.mark.parametrize("data", [None, "nowhere", "empty", "few", "text"])
def test_an_absent_sample_says_what_would_help(
    data: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WNA_DATA", raising=False)
    if data is not None:
        monkeypatch.setenv("WNA_DATA", str(tmp_path / data))
    if data in ("empty", "few", "text"):
        folder = tmp_path / data / "imagenet-sample"
        for i in range({"empty": 0, "few": 2, "text": 1000}[data]):
            (folder / f"n{i:08}").mkdir(parents=True)
            (folder / f"n{i:08}" / "a.JPEG").write_bytes(b"no picture")
        folder.mkdir(parents=True, exist_ok=True)
    found = "no ImageNet sample" if data in (None, "nowhere") else "damaged or not complete"
    with pytest.raises(NotAtHand, match=rf"\A[^\n]*{found}[^\n]*set WNA_DATA[^\n]*\Z"):
        load("imagenet-sample", train=False)


@pytest.mark.parametrize("files", [0, 1])
def test_absent_or_partial_cifar(
    files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WNA_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for i in range(files):
        (tmp_path / "cifar-10-batches-py").mkdir()
        (tmp_path / "cifar-10-batches-py" / f"data_batch_{i + 1}").write_bytes(
            b"a pickle that nobody reads"
        )
    with pytest.raises(
        NotAtHand,
        match=(
            r"(no CIFAR10 at hand|damaged or not complete).*folder that holds cifar-10-batches-py$"
        ),
    ):
        load("cifar-10", train=True)


def test_some_classes() -> None:
    split = split_of([6, 5, 0, 5, 6, 6])
    found = split.of_classes((5, 6))
    assert found.labels.tolist() == [1, 0, 0, 1, 1]
    assert np.array_equal(found.images, split.images[[0, 1, 3, 4, 5]])
    assert split.of_classes((6, 5), most=1).labels.tolist() == [0, 1]
    assert np.array_equal(split.of_classes((6, 5), most=1).images, split.images[[0, 1]])
    assert len(split.of_classes((9,)).labels) == 0


def test_a_digest_tells_splits_apart() -> None:
    one, other = split_of([0, 1]), split_of([1, 0])
    moved = Split(one.images[::-1], one.labels)
    assert len({one.digest, other.digest, moved.digest}) == 3
    assert (
        one.digest
        == split_of([0, 1]).digest
        == Split(np.asfortranarray(one.images), one.labels).digest
    )
