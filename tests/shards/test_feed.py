"""What a network is fed: normalisation, large images, and look-up tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from wna_ray.shards.feed import LARGE_IMAGE
from wna_ray.shards.loading import load_network
from wna_ray.specs.run import Spec
from wna_ray.stimuli.offsets import load_offset
from wna_ray.stimuli.stimulus import make_stimulus

MakeSpec = Callable[..., Spec]


def test_normalisation_comes_between_noise_and_network(make_spec: MakeSpec) -> None:
    normalise = {"mean": [0.25], "std": [0.5]}
    pixel = load_network(make_spec(stimulus={"space": "pixel"}, normalise=normalise), "cpu")
    plain = load_network(make_spec(), "cpu")
    x = torch.linspace(-1, 1, 64 * 16).reshape(64, 1, 4, 4)
    assert np.array_equal(pixel(x), plain((x - 0.25) / 0.5))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("space", ["pixel", "input"])
@pytest.mark.parametrize(
    "shape, cell, calls",
    [
        ((3, 160, 144), 1, 5),
        ((1, 256, 256), 4, 5),
        ((1, 257, 257), 4, 5),
        ((3, 160, 144), 17, 5),
        ((3, 16, 16), 1, 1),
    ],
)
def test_large_images_are_made_one_by_one(
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    cell: int,
    calls: int,
    space: str,
    dtype: str,
) -> None:
    """In the same bits and the same memory format as all together, so that the network does the
    same with them.
    """
    assert (np.prod(shape) >= LARGE_IMAGE) == (calls > 1)
    stimulus = {
        "kind": "uniform",
        "shape": shape,
        "space": space,
        "offset": 0.5,
        "scale": 0.5,
        "cell": cell,
    }
    normalise = (
        {"mean": [0.4, 0.3, 0.2][: shape[0]], "std": [0.3, 0.2, 0.1][: shape[0]]}
        if space == "pixel"
        else None
    )
    spec = make_spec(stimulus=stimulus, normalise=normalise, numerics={"batch": 5, "dtype": dtype})
    network = load_network(spec, "cpu")
    images = make_stimulus(spec.stimulus, 7, load_offset(spec.stimulus))
    grid = torch.from_numpy(images.noise.grid(3, 8))
    together = network.feed.ready(images.images(grid))
    made, make = list[int](), type(images).images
    monkeypatch.setattr(
        type(images),
        "images",
        lambda self, part, *device: made.append(len(part)) or make(self, part, *device),
    )
    found = network.feed.begin(images, grid)
    assert made == [5 // calls] * calls
    assert found.dtype == together.dtype == getattr(torch, dtype)
    assert found.stride() == together.stride()
    assert torch.equal(found, together)
    assert found.float().std() > 0
