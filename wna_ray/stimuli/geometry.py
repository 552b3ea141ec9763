"""Shapes of a stimulus, and of the maps that belong to it, as a spec and a receptive field say.

Whoever checks or opens a run directory needs no more of a stimulus than this, and so no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from wna_ray.geometry import Box, Patches, Shape
from wna_ray.specs.stimulus import StimulusSpec


class Window(Protocol):
    """Where units look, as `wna_ray.networks.field.Field` says it."""

    @property
    def shown(self) -> Box:
        """The part of the image that is shown."""

    @property
    def patches(self) -> Patches:
        """Where, in what is shown, the receptive fields are."""


@dataclass(frozen=True)
class Geometry:
    """The shapes that follow from a spec and from where units look.

    Attributes
    ----------
    spec
        What was asked for.
    shown
        The part of the image that is shown, and that there is noise for; the whole by default.
    patches
        The parts of what is shown that moments are kept of; all of it, as one, by default.
    """

    spec: StimulusSpec
    shown: Box | None = None
    patches: Patches | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the rows and columns of an image that are shown."""
        return (slice(None), slice(None)) if self.shown is None else self.shown.where

    @property
    def shown_shape(self) -> Shape:
        """``(C, H, W)`` of what is shown."""
        if self.shown is None:
            return self.spec.shape
        return self.spec.shape[0], self.shown.height, self.shown.width

    @property
    def shape(self) -> Shape:
        """``(C, H, W)`` of a patch, and so of a map."""
        if self.patches is None:
            return self.shown_shape
        return self.spec.shape[0], self.patches.first.height, self.patches.first.width

    @property
    def grid_shape(self) -> Shape:
        """``(C, h, w)``: independent noise values of a patch (bytes, of pictures)."""
        if self.spec.basis is not None and not self.spec.measured:
            return 1, 1, self.spec.basis.coefficients(self.spec.shape)
        return self.in_cells(self.shape)

    @property
    def pixels(self) -> int:
        """d: independent noise values of a patch."""
        return math.prod(self.grid_shape)

    @property
    def patches_an_image(self) -> int:
        """How often an image is counted: once for each of its patches."""
        return 1 if self.patches is None else self.patches.count

    @property
    def middle_patch(self) -> int:
        """Number of the patch in the middle."""
        p = self.patches
        return 0 if p is None else p.rows // 2 * p.columns + p.columns // 2

    def in_cells(self, shape: Shape) -> Shape:
        """``(C, ceil(H / cell), ceil(W / cell))`` of pixels ``(C, H, W)``."""
        c, h, w = shape
        return c, -(-h // self.spec.cell), -(-w // self.spec.cell)


def geometry_of(spec: StimulusSpec, field: Window | None) -> Geometry:
    """The geometry of a stimulus, whole or as units see it. Of correlated noise all that is shown
    is kept: each value depends on all others.
    """
    if field is None:
        return Geometry(spec)
    return Geometry(spec, field.shown, None if spec.mixed else field.patches)
