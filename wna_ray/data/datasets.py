"""Data sets for training networks and for judging maps, where they are at hand. None is
shipped, and none is needed to run.
"""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DatasetName = Literal["mnist", "fashion-mnist", "cifar-10", "imagenet-sample"]
SHAPES: dict[str, tuple[int, int, int]] = {
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar-10": (3, 32, 32),
    "imagenet-sample": (3, 224, 224),
}
_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar-10": "cifar-10-batches-py",
    "imagenet-sample": "imagenet-sample",
}
_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar-10": "CIFAR10"}


def class_names(name: DatasetName) -> tuple[str, ...]:
    """Names of the classes of a data set as torchvision has them, in the order of its labels."""
    if name == "imagenet-sample":
        from torchvision.models import get_model_weights

        return tuple(get_model_weights("mobilenet_v2").DEFAULT.meta["categories"])
    return {"mnist": _DIGITS, "fashion-mnist": _FASHION, "cifar-10": _CIFAR}[name]


class NotAtHand(Exception):
    """A data set cannot be had; the message says what would help."""


@dataclass(frozen=True)
class Split:
    """Images ``(n, C, H, W)`` float32 in [0, 1] and labels ``(n,)`` int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shapes, pixels and labels."""
        total = hashlib.sha256()
        for array in (self.images, self.labels):
            total.update(f"{array.dtype.str}{array.shape}".encode())
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()

    def of_classes(self, classes: tuple[int, ...], most: int | None = None) -> Split:
        """The images of some classes in their order, relabelled 0, 1, ... as the classes stand;
        the first `most` of each.
        """
        chosen = [np.flatnonzero(self.labels == label)[:most] for label in classes]
        rows = np.sort(np.concatenate(chosen))
        place = np.full(int(self.labels.max(initial=0)) + 1, -1, dtype=np.int64)
        for new, label in enumerate(classes):
            place[label : label + 1] = new
        return Split(self.images[rows], place[self.labels[rows]])

    def cut(self, first: int) -> tuple[Split, Split]:
        """The first so many images, and the rest."""
        return Split(self.images[:first], self.labels[:first]), Split(
            self.images[first:], self.labels[first:]
        )

    @property
    def held_out(self) -> tuple[Split, Split]:
        """Training images apart from those that stand for choosing settings: the last sixth (of
        MNIST's 60,000 the last 10,000).
        """
        return self.cut(len(self.labels) - len(self.labels) // 6)


def load(name: DatasetName, train: bool, download: bool = False) -> Split:
    """A split of a data set.

    Parameters
    ----------
    name
        Which one. ``imagenet-sample``: one image a class, its short side scaled to 256 pixels, the
        middle 224 x 224 of it.
    train
        Training or test split.
    download
        Whether to fetch it (to ``~/.cache/wna-ray``) where neither ``WNA_DATA`` nor that folder has
        it.

    Raises
    ------
    NotAtHand
        It is not there, and was not or could not be fetched; or it has no such split.
    """
    images, labels = load_bytes(name, train, download)
    return Split(_unit_interval(images), labels)


def load_bytes(
    name: DatasetName, train: bool, download: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same as it is stored: images ``(n, C, H, W)`` uint8, of which `load` gives 1/255, and
    labels ``(n,)`` int64.
    """
    if name == "imagenet-sample":
        if train:
            raise NotAtHand(
                "imagenet-sample has no training split: one image a class, for testing; ask for its"
                " test split"
            )
        return _sample()
    from torchvision import datasets

    kind, folder = getattr(datasets, _CLASSES[name]), _FOLDERS[name]
    cache = Path.home() / ".cache" / "wna-ray"
    state = f"no {_CLASSES[name]} at hand"
    for root in filter(None, (os.environ.get("WNA_DATA"), str(cache))):
        if any(Path(root, folder).glob("*")):
            try:
                return _split(kind(root, train=train, download=False))
            except (
                RuntimeError,
                ValueError,
                AssertionError,
                OSError,
            ) as error:  # torchvision: files missing, cut off, or not its own
                state = (
                    f"{root}/{folder} is there but damaged or not complete ({type(error).__name__})"
                )
    hint = f"set WNA_DATA to a folder that holds {folder}"
    if not download:
        raise NotAtHand(f"{state}; {hint}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        return _split(kind(str(cache), train=train, download=True))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise NotAtHand(f"{_CLASSES[name]} could not be downloaded ({reason}); {hint}") from None
    finally:
        socket.setdefaulttimeout(before)


def _split(dataset: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.asarray(dataset.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(dataset.targets, dtype=np.int64)


def _unit_interval(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = images.astype(np.float32)
    pixels /= np.float32(255)
    return pixels


def _sample() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The ImageNet sample: a folder a class, named by its synset, as torchvision's
    ``ImageFolder`` reads it.
    """
    from torchvision import datasets, transforms

    classes, root = 1000, os.environ.get("WNA_DATA")
    hint = (
        f"set WNA_DATA to a folder with imagenet-sample/SYNSET/*.JPEG for all {classes:,} classes,"
        " such as github.com/EliSchwartz/imagenet-sample-images sorted into folders"
    )
    folder = Path(root or "", "imagenet-sample")
    if not root or not folder.is_dir():
        raise NotAtHand(f"no ImageNet sample at hand; {hint}")
    crop = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]
    )
    try:
        folder_images = datasets.ImageFolder(str(folder), crop)
        if len(folder_images.classes) != classes:
            raise ValueError(f"it has {len(folder_images.classes):,} classes")
        images = np.stack([image.numpy() for image, _ in folder_images])
    except (OSError, ValueError) as error:
        raise NotAtHand(
            f"{folder} is there but damaged or not complete ({str(error).splitlines()[0]}); {hint}"
        ) from None
    return images, np.asarray(folder_images.targets, dtype=np.int64)
