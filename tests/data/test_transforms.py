"""Transforms against indexing by hand."""

from __future__ import annotations

import pytest
import torch

from wna_ray.data.names import TRANSFORMS, Transform
from wna_ray.data.transforms import transformed


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_shape_is_kept(images: torch.Tensor, transform: Transform) -> None:
    assert transformed(images, transform).shape == images.shape


@pytest.mark.parametrize(
    "transform, top, left",
    [("shrink-upper-left", 0, 0), ("shrink-centre", 2, 2), ("shrink-lower-right", 4, 4)],
)
def test_shrunk_images_are_means_of_four_on_black(
    images: torch.Tensor, transform: Transform, top: int, left: int
) -> None:
    small = (
        images[:, :, ::2, ::2]
        + images[:, :, 1::2, ::2]
        + images[:, :, ::2, 1::2]
        + images[:, :, 1::2, 1::2]
    ) / 4
    found = transformed(images, transform)
    torch.testing.assert_close(found[:, :, top : top + 4, left : left + 4], small)
    assert found.count_nonzero() == small.count_nonzero()


def test_a_quarter_turn_is_transposed_and_flipped(images: torch.Tensor) -> None:
    assert torch.equal(transformed(images, "rotate-90"), images.transpose(2, 3).flip(2))
    assert torch.equal(transformed(images, "rotate-180"), images.flip(2, 3))
    assert torch.equal(transformed(images, "rotate-270"), images.transpose(2, 3).flip(3))


def test_zoom_keeps_a_ramp_straight_and_halves_its_slope() -> None:
    """Linear interpolation is exact for what is linear, away from the border."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    found = transformed(ramp, "zoom")[0, 0]
    torch.testing.assert_close(found, (3.5 + (torch.arange(8.0) - 3.5) / 2).expand(8, 8))


def test_only_squares_are_turned() -> None:
    with pytest.raises(ValueError, match=r"rotate-90 needs square images, not \(4, 8\)"):
        transformed(torch.zeros(1, 1, 4, 8), "rotate-90")
