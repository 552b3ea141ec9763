"""Data sets for judging maps, where they are at hand. None is shipped, and none is needed to run."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DatasetName = Literal["mnist", "fashion-mnist"]
SHAPES: dict[str, tuple[int, int, int]] = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28)}
_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def class_names(name: DatasetName) -> tuple[str, ...]:
    """Names of the classes of a data set, in the order of its labels."""
    return tuple(str(i) for i in range(10))


class NotAtHand(Exception):
    """A data set cannot be had; the message says what would help."""


@dataclass(frozen=True)
class Split:
    """Images ``(n, C, H, W)`` float32 in [0, 1] and labels ``(n,)`` int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def load(name: DatasetName, train: bool, download: bool = False) -> Split:
    """A split of a data set.

    Parameters
    ----------
    name
        Which one.
    train
        Training or test split.
    download
        Whether to fetch it (to ``~/.cache/wna-ray``) where neither ``WNA_DATA`` nor that folder has it.

    Raises
    ------
    NotAtHand
        It is not there, and was not or could not be fetched.
    """
    from torchvision import datasets

    kind = getattr(datasets, _CLASSES[name])
    cache = Path.home() / ".cache" / "wna-ray"
    found = f"no {_CLASSES[name]} at hand"
    for root in filter(None, (os.environ.get("WNA_DATA"), str(cache))):
        if any(Path(root, _CLASSES[name], "raw").glob("*")):
            try:
                return _split(kind(root, train=train, download=False))
            except (RuntimeError, ValueError, AssertionError) as error:  # torchvision: files missing, cut off, or not its own
                found = f"{root}/{_CLASSES[name]}/raw is there but damaged or not complete ({type(error).__name__})"
    hint = f"set WNA_DATA to a folder that holds {_CLASSES[name]}/raw"
    if not download:
        raise NotAtHand(f"{found}; {hint}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        return _split(kind(str(cache), train=train, download=True))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise NotAtHand(f"{_CLASSES[name]} could not be downloaded ({reason}); {hint}") from None
    finally:
        socket.setdefaulttimeout(before)


def _split(dataset: object) -> Split:
    images = np.asarray(dataset.data)  # type: ignore[attr-defined]
    labels = np.asarray(dataset.targets, dtype=np.int64)  # type: ignore[attr-defined]
    return Split(images[:, None].astype(np.float32) / np.float32(255), labels)
