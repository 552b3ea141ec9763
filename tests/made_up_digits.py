"""A made-up data set in the place of MNIST, for trainings that take a fraction of a second."""

from __future__ import annotations

import numpy as np
import pytest

from wna_ray.data import datasets
from wna_ray.data.datasets import Split
from wna_ray.training import training

COUNTS = {True: 40, False: 12}  # images of each class


def split(train: bool) -> Split:
    """Ten classes: a bright bar whose row tells the class, in noise; no class has its images
    together.
    """
    rng = np.random.default_rng(int(train))
    labels = np.tile(np.arange(10), COUNTS[train])
    images = rng.uniform(0, 0.6, (len(labels), 1, 28, 28)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 3 + 2 * label : 5 + 2 * label, 4:20] += 0.4
    return Split(images, labels)


def install(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make `datasets.load` give it; gives a list to which each call adds whether it asked for
    the training images.
    """
    asked: list[bool] = []

    def load(name: str, train: bool, download: bool = False) -> Split:
        asked.append(train)
        return split(train)

    monkeypatch.setattr(datasets, "load", load)
    training.splits.cache_clear()
    return asked
