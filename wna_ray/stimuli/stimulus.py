"""Stimuli: noise on its grid, turned into images, and maps on the grid turned back into
pictures.

`Stimulus` is what the rest of the package uses, `make_stimulus` finds the class that a spec asks
for: `wna_ray.stimuli.white`, `coloured`, `mixture`, `images` and `stretched` each have one.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.geometry import Box, Patches, Shape
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli.base import Base, Floats
from wna_ray.stimuli.coloured import ColouredNoise
from wna_ray.stimuli.images import Images
from wna_ray.stimuli.mixture import Mixture
from wna_ray.stimuli.pictures import Source
from wna_ray.stimuli.stretched import StretchedMixture
from wna_ray.stimuli.white import WhiteNoise

MOST_NAMED = 12  # classes that a title names one by one


class Stimulus(Protocol):
    """Images that are addressable by index, and pictures of maps on their grid."""

    @property
    def spec(self) -> StimulusSpec:
        """What was asked for."""

    @property
    def offset(self) -> NDArray[np.float32]:
        """``(C, H, W)`` or ``(1, 1, 1)``, of the whole image."""

    @property
    def offset_digest(self) -> str:
        """SHA-256 of the offset's float32 values."""

    @property
    def content(self) -> str:
        """SHA-256 of the basis or the images that a data set has given; "" where none has."""

    def with_seed(self, seed: int) -> Self:
        """The same stimulus with noise of another seed."""

    # Shapes (see `wna_ray.stimuli.geometry`)

    @property
    def shown(self) -> Box | None:
        """The part of the image that is shown, and that there is noise for; None: the whole."""

    @property
    def patches(self) -> Patches | None:
        """The parts of what is shown that moments are kept of; None: all of it, as one."""

    @property
    def shown_shape(self) -> Shape:
        """``(C, H, W)`` of what is shown."""

    @property
    def shape(self) -> Shape:
        """``(C, H, W)`` of a patch, and so of a map."""

    @property
    def grid_shape(self) -> Shape:
        """``(C, h, w)``: independent noise values of a patch (bytes, of pictures)."""

    @property
    def pixels(self) -> int:
        """d: independent noise values of a patch."""

    @property
    def patches_an_image(self) -> int:
        """How often an image is counted: once for each of its patches."""

    @property
    def middle_patch(self) -> int:
        """Number of the patch in the middle."""

    # From an index to grid values, to images, and to what moments are kept of

    @property
    def noise(self) -> Source:
        """The stream of grid values of all that is shown."""

    def images(
        self, grid: NDArray[np.int8] | torch.Tensor, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Turn grid values ``(n, C, h, w)`` int8, wherever they are, into images ``(n, C, H, W)``
        float32 on `device`: what is shown.
        """

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is a function of one grid value and its channel alone."""

    def keep(self, grid: NDArray[np.int8]) -> NDArray[np.int8]:
        """What moments are kept of: patches ``(n * patches, C, h, w)`` of grid values ``(n, C, H',
        W')``, image by image, row by row; of pictures in cells their means, rounded.
        """

    def middle(self, grid: NDArray[Any]) -> NDArray[Any]:
        """The middle one of the patches, ``(n, C, h, w)``, of values on the grid of all that is
        shown.
        """

    def adjoint(self, values: torch.Tensor) -> torch.Tensor:
        """Slopes by pixel ``(n, C, h, w)``, of all that is shown, as slopes by grid value: the
        transpose of what makes images.
        """

    # Sizes of values

    @property
    def unit(self) -> float:
        """Size of one grid unit in the stimulus's own units (pixels or network input); in units
        of `scale` times a weight, with a basis.
        """

    @property
    def sd(self) -> float:
        """Exact standard deviation of a stimulus value around its offset; of a basis its root
        mean square over pixels, NaN for pictures.
        """

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that a stimulus can take."""

    @property
    def shown_offset(self) -> NDArray[np.float32]:
        """The image of what is shown where the grid is 0: the offset, and the centre of a
        basis; grey 128 for pictures.
        """

    @property
    def kept_offset(self) -> NDArray[np.float32]:
        """The same of a patch, the middle one: ``(C, H, W)``."""

    # From maps on the grid to pictures

    @property
    def gain(self) -> Floats | None:
        """``(h, w // 2 + 1)``: amplitude of the noise's filter at each frequency; None where
        nothing is filtered.
        """

    @property
    def synthesis(self) -> Floats | None:
        """``(C * H * W, d)``: what a weight of 1 adds to each pixel, for a scale of 1; None where
        images are no mixtures of a basis, or are stretched to 8 bits.
        """

    def expand(self, maps: Floats) -> Floats:
        """Maps on the grid ``(k, d)`` as pictures ``(k, C, H, W)`` of a patch, as the noise itself:
        filtered, each cell's value over all its pixels, or mixed by the basis. Means of the grid
        become means of images; z stay of variance 1 (see `expand_z` for a basis), but correlate as
        the noise does.
        """

    def expand_z(self, z: Floats) -> Floats:
        """z on the grid ``(k, d)`` as pictures ``(k, C, H, W)`` whose every value has variance
        1 if the response ignores the stimulus.
        """

    def place(self, maps: Floats) -> Floats:
        """Maps ``(k, d)`` as pictures of all that is shown: in the middle one of the patches,
        zero elsewhere.
        """

    def whitened(self, maps: Floats, reliability: Floats) -> Floats:
        """Maps ``(k, d)`` of reliability ``(k,)`` freed of the noise's correlations, as pictures
        ``(k, C, H, W)``: response units per stimulus unit, where `maps` are; NaN where nothing is
        reliable.
        """


def make_stimulus(
    spec: StimulusSpec,
    seed: int,
    offset: NDArray[np.float32],
    shown: Box | None = None,
    patches: Patches | None = None,
    basis: NDArray[np.int32] | None = None,
    content: str = "",
) -> Stimulus:
    """The stimulus that a spec asks for (see `wna_ray.stimuli.geometry.Geometry` and
    `wna_ray.stimuli.base.Base` for what the arguments are).
    """
    return class_of(spec)(
        spec, shown, patches, seed=seed, offset=offset, basis=basis, content=content
    )


def class_of(spec: StimulusSpec) -> type[Base]:
    """The class of the stimulus that a spec asks for."""
    if spec.kind == "images":
        return Images
    if spec.basis is not None:
        return Mixture if spec.basis.rescale is None else StretchedMixture
    return WhiteNoise if spec.spectrum is None else ColouredNoise


def stimulus_text(spec: StimulusSpec, formula: bool = False) -> str:
    """What is shown, in a few words; exponents as a `formula` where a figure draws it."""
    if spec.kind == "images":
        chosen = spec.classes or ()
        numbers = (
            ", ".join(map(str, chosen))
            if len(chosen) <= MOST_NAMED
            else f"{chosen[0]}, {chosen[1]} ... {chosen[-1]} ({len(chosen)})"
        )
        classes = "" if spec.classes is None else f", classes {numbers}"
        return f"{spec.dataset} {spec.split} pictures{classes}"
    if spec.basis is not None:
        basis = spec.basis
        of = [] if basis.dataset is None else [basis.dataset, f"{basis.components} components"]
        of += ["grey"] * basis.grey + ["stretched to 8 bits"] * (basis.rescale is not None)
        return basis.kind + (f" ({', '.join(of)})" if of else "") + f" {spec.kind}"
    if spec.spectrum is None:
        return spec.kind
    power = (
        ""
        if spec.spectrum == 1
        else f"$^{{{spec.spectrum}}}$"
        if formula
        else f"^{spec.spectrum:g}"
    )
    return f"{spec.kind} 1/f{power}"
