"""The stimulus of a spec: kind of noise, scale, offset, spectrum, basis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from wna_ray.data.datasets import SHAPES, DatasetName
from wna_ray.errors import SpecError
from wna_ray.noise.stream import table
from wna_ray.noise.wavelets import SIDE, wavelets
from wna_ray.specs.base import Frozen, as_classes, as_number

StimulusKind = Literal["gaussian", "uniform", "binary", "sparse", "images"]
MOST_FEATURES = 4096  # values whose covariance is taken apart for principal components
MOST_BASIS = 1 << 25  # whole numbers of a basis: 128 MB


class BasisSpec(Frozen):
    """Pictures of which each image is a mixture with independent weights, instead of independent
    pixels (see `wna_ray.stimuli.bases`).

    Attributes
    ----------
    kind
        ``gabor``: wavelets on tiles of several sizes. ``stripes``: columns of one value each.
        ``pca``: principal components of the training images of a data set. ``gabor-pca``: those of
        the weights with which wavelets make up each training image (Borji & Lin 2020).
    dataset
        Which one; ``gabor`` and ``stripes`` need none.
    components
        How many principal components; in colour ``gabor-pca`` has so many for each channel.
    spread
        What a weight of 1 is: its standard deviation over the training images (``sd``, usual for
        gaussian noise), or half its range there (``range``, usual for uniform noise, which then is
        as wide as the data; the middle of the range goes into the offset).
    centre
        Whether images lie around the mean training image; else around 0, as the authors' do.
    grey
        Make one basis for the mean of the channels, and show it in all.
    rescale
        ``minmax``: each channel of each image is stretched to [0, 1] and rounded to 8 bits (the
        authors' noise). Moments are then those of what is shown, and nothing is designed any more:
        its mean and variance are measured.
    """

    kind: Literal["gabor", "stripes", "pca", "gabor-pca"]
    dataset: DatasetName | None = None
    components: int | None = Field(default=None, ge=1, le=1 << 16)
    spread: Literal["sd", "range"] = "sd"
    centre: bool = True
    grey: bool = False
    rescale: Literal["minmax"] | None = None

    later: ClassVar[Mapping[str, Any]] = dict.fromkeys(("dataset", "components", "rescale"))

    @model_validator(mode="after")
    def _check(self) -> BasisSpec:
        given = [name for name in ("dataset", "components") if getattr(self, name) is not None]
        if self.kind in ("gabor", "stripes"):
            if given or self.spread == "range":
                raise ValueError(
                    f"basis.{(given or ['spread'])[0]}: {self.kind} come from no data set; leave it"
                    " out, or take gabor-pca"
                )
        elif len(given) < 2:
            raise ValueError(f"basis: {self.kind} needs a dataset and a number of components")
        return self

    def features(self, shape: tuple[int, int, int]) -> int:
        """Most components that there can be (of each channel, where each has its own)."""
        c, h, w = shape
        return (
            (1 if self.grey else c) * h * w if self.kind == "pca" else min(h * w, self._drawn(h, w))
        )

    def coefficients(self, shape: tuple[int, int, int]) -> int:
        """d: independent weights of an image ``(C, H, W)``."""
        c, h, w = shape
        each = self._drawn(h, w) if self.kind in ("gabor", "stripes") else int(self.components or 0)
        return each if self.grey or self.kind == "pca" else each * c

    def _drawn(self, h: int, w: int) -> int:
        """Pictures that come from no data set: columns, or wavelets."""
        return w if self.kind == "stripes" else wavelets(h, w)

    def check(self, shape: tuple[int, int, int]) -> None:
        """`ValueError` where images ``(C, H, W)`` cannot have this basis."""
        c, h, w = shape
        if self.dataset is not None and SHAPES[self.dataset] != shape:
            raise ValueError(
                f"basis.dataset: images of {self.dataset} are {SHAPES[self.dataset]}, but shape is"
                f" {shape}"
            )
        if "gabor" in self.kind and min(h, w) < SIDE:
            raise ValueError(
                f"basis: the smallest wavelets are {SIDE} pixels wide, but shape is {shape}"
            )
        if self.grey and c == 1:
            raise ValueError("basis.grey: pictures of one channel are grey already; leave it out")
        features = self.features(shape)
        if self.components is not None and features > MOST_FEATURES:
            raise ValueError(
                f"basis: principal components are for up to {MOST_FEATURES:,} values, but these"
                f" pictures have {features:,}"
            )
        if self.components is not None and self.components > features:
            raise ValueError(
                f"basis.components: {self.components} of {features} values; there are no more"
                " components than values"
            )
        if self.coefficients(shape) * c * h * w > MOST_BASIS:
            raise ValueError(
                f"basis: {self.coefficients(shape):,} pictures of {c * h * w:,} values are more"
                f" than {MOST_BASIS:,} numbers; take smaller images"
            )


def _three(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) != 3:
        raise ValueError(
            f"expected channels, rows and columns, got {len(value)} numbers; a network that takes"
            " other inputs needs a wrapper that folds (C, H, W) into them"
        )
    return value


class StimulusSpec(Frozen):
    """The noise: ``offset + scale * unit * grid`` (see ``docs/noise.md``); or pictures as they are.

    Attributes
    ----------
    kind
        Noise family. For ``gaussian`` ``scale`` is the standard deviation, for ``uniform`` the
        half-width, for ``binary`` and ``sparse`` the step away from the offset. ``images``: no
        noise, but the images of a data set in their order.
    shape
        ``(C, H, W)`` of one image.
    offset
        The mean of the noise: a number, a ``.npy`` file with a ``(C, H, W)`` image,
        ``bundled:mnist-mean``, or ``mean:DATASET`` (the mean training image of a data set; of
        ``imagenet-sample`` the usual means of the channels). With a basis, it is added to the
        basis's own.
    scale
        Size of the noise, in the units of ``space``. Pictures, whose pixels are in [0, 1], are
        multiplied by it; it is 1 for ``images``.
    cell
        Side, in pixels, of the square cells that share one value (1: white noise). ``images`` are
        shown whole, and moments are kept of the means over cells, rounded to bytes.
    density
        ``sparse`` only: share of cells that differ from the offset.
    spectrum
        ``gaussian`` only: values correlate over space; amplitudes fall as ``1 / f^spectrum``
        (natural images: about 1). White by default.
    basis
        Each image is a mixture of pictures, whose weights are the independent values of the noise
        (see `BasisSpec`).
    dataset, split, classes
        ``images`` only: which data set, its ``train`` or ``test`` images, and of which classes (all
        by default; numbers, or a range as Python cuts lists: ``"0:1000:2"`` is every other one of a
        thousand).
    space
        Where the noise lives: ``pixel`` ([0, 1], before the model's own normalisation) or ``input``
        (what the network itself is fed).
    """

    kind: StimulusKind
    shape: Annotated[
        tuple[
            Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
        ],
        BeforeValidator(_three),
    ]
    offset: Annotated[float | str, BeforeValidator(as_number)] = 0.0
    scale: float = Field(gt=1e-30, lt=1e30)
    cell: int = Field(default=1, ge=1)
    density: float | None = None
    spectrum: float | None = Field(default=None, gt=0, le=3)
    basis: BasisSpec | None = None
    dataset: DatasetName | None = None
    split: Literal["train", "test"] | None = None
    classes: (
        Annotated[
            tuple[Annotated[int, Field(ge=0, lt=1 << 16)], ...],
            BeforeValidator(as_classes),
            Field(min_length=1),
        ]
        | None
    ) = None
    space: Literal["pixel", "input"] = "pixel"

    later: ClassVar[Mapping[str, Any]] = dict.fromkeys(
        ("spectrum", "basis", "dataset", "split", "classes")
    )
    apart: ClassVar[frozenset[str]] = frozenset({"offset"})  # its digest counts

    @model_validator(mode="before")
    @classmethod
    def _scale_of_pictures(cls, data: Any) -> Any:
        return (
            {"scale": 1.0, "split": "train", **data}
            if isinstance(data, Mapping) and data.get("kind") == "images"
            else data
        )

    @model_validator(mode="after")
    def _check(self) -> StimulusSpec:
        if self.kind == "images":
            self._check_images()
        else:
            try:
                table(self.kind, self.density)
            except SpecError as error:
                raise ValueError(str(error)) from error
            for name in ("dataset", "split", "classes"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name}: only kind images shows a data set, {self.kind} is noise; leave"
                        " it out"
                    )
        if isinstance(self.offset, float) and not abs(self.offset) < 1e30:
            raise ValueError(f"offset: {self.offset} is not finite, or beyond 1e30")
        if self.cell > max(self.shape[1:]):
            raise ValueError(
                f"cell: {self.cell} pixels are more than the image's {self.shape[1]} x"
                f" {self.shape[2]}"
            )
        if self.spectrum is not None and self.kind != "gaussian":
            raise ValueError(
                "spectrum: only gaussian noise keeps its distribution where it is filtered,"
                f" {self.kind} noise does not"
            )
        if self.basis is not None:
            if self.spectrum is not None or self.cell > 1:
                raise ValueError(
                    "basis: says how pixels depend on each other, as spectrum and cell do; leave"
                    " those out"
                )
            self.basis.check(self.shape)
        return self

    def _check_images(self) -> None:
        if self.dataset is None:
            raise ValueError(f"dataset: kind images needs one of {', '.join(SHAPES)}")
        if SHAPES[self.dataset] != self.shape:
            raise ValueError(
                f"dataset: images of {self.dataset} are {SHAPES[self.dataset]}, but shape is"
                f" {self.shape}"
            )
        given = [
            name for name in ("density", "spectrum", "basis") if getattr(self, name) is not None
        ]
        if given:
            raise ValueError(
                f"{given[0]}: is of noise, but kind images shows pictures as they are; leave it out"
            )
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: each may stand once")

    @property
    def measured(self) -> bool:
        """Whether moments are kept of bytes whose distribution nobody designed, so that their
        variance is measured.
        """
        return self.kind == "images" or (self.basis is not None and self.basis.rescale is not None)

    @property
    def mixed(self) -> bool:
        """Whether each pixel is a mixture of many noise values, of which moments are kept
        instead.
        """
        return self.spectrum is not None or (self.basis is not None and not self.measured)
