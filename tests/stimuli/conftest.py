"""Made-up images in the place of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from made_up_bytes import N, correlated
from numpy.typing import NDArray

from wna_ray.data import datasets
from wna_ray.stimuli import bases, pictures
from wna_ray.stimuli.bases import build
from wna_ray.stimuli.pictures import images_of


@pytest.fixture
def made_up(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[tuple[int, int, int]], NDArray[np.uint8]]]:
    """Stands for ``mnist``: 400 images of any shape, whose values correlate and are skewed."""

    def make(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        rng = np.random.default_rng(5)
        d = int(np.prod(shape))
        x = rng.exponential(size=(400, d)) @ rng.normal(size=(d, d)) * 12 + 90
        images = np.clip(x, 0, 255).astype(np.uint8).reshape(400, *shape)
        monkeypatch.setitem(datasets.SHAPES, "mnist", shape)
        monkeypatch.setattr(
            bases, "load_bytes", lambda name, train: (images, np.zeros(400, dtype=np.int64))
        )
        build.cache_clear()
        return images

    yield make
    build.cache_clear()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[NDArray[np.uint8]]:
    """Stands for ``mnist``: `correlated` images of three classes in turn."""
    images = correlated()
    monkeypatch.setitem(datasets.SHAPES, "mnist", (1, 4, 4))
    for module in (pictures, bases):
        monkeypatch.setattr(module, "load_bytes", lambda name, train: (images, np.arange(N) % 3))
    images_of.cache_clear()
    build.cache_clear()
    yield images
    images_of.cache_clear()
    build.cache_clear()
