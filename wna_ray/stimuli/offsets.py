"""What noise is added to: a number, an image, the mean of a data set; and the data behind a
basis.
"""

from __future__ import annotations

import hashlib
import math
import os
from importlib.resources import files
from io import BytesIO
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from wna_ray.data.datasets import SHAPES, NotAtHand, load_bytes
from wna_ray.errors import ModelError, SpecError, near
from wna_ray.files import read_file
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli import bases
from wna_ray.stimuli.pictures import LEVELS, images_of

BUNDLED_OFFSETS = {"bundled:mnist-mean": "mnist-mean.npy"}
MOST_NPY_HEADER = 1 << 14  # bytes
MEAN = "mean:"  # before the name of a data set
CHANNEL_MEANS = {
    "imagenet-sample": (0.485, 0.456, 0.406)
}  # of data sets without training images here; torchvision's for ImageNet


def load_offset(spec: StimulusSpec) -> NDArray[np.float32]:
    """The offset as an image.

    Returns
    -------
    numpy.ndarray
        ``(C, H, W)`` float32 for an image, ``(1, 1, 1)`` for a number.

    Raises
    ------
    SpecError
        The file is missing, is not a plain ``.npy`` array, has another shape than the stimulus, or
        is not finite.
    """
    if not isinstance(spec.offset, str):
        return np.full((1, 1, 1), spec.offset, dtype=np.float32)
    name, where = spec.offset, f"stimulus.offset: '{spec.offset}'"
    if name.startswith(MEAN):
        return _mean_image(name.removeprefix(MEAN), spec.shape, where)
    if name in BUNDLED_OFFSETS:
        data = files("wna_ray").joinpath("bundled", BUNDLED_OFFSETS[name]).read_bytes()
    elif not os.path.exists(name):
        choices = ", ".join([*BUNDLED_OFFSETS, f"{MEAN}DATASET"])
        raise SpecError(
            f"{where} is no file; give a number, a .npy file with a (C, H, W) image, or one of:"
            f" {choices}"
        )
    else:
        data = _offset_file(name, spec.shape)
    image = _read_npy(data, spec.shape, where)
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        raise SpecError(f"{where} holds values that are not finite")
    return image


def _read_npy(data: bytes, shape: tuple[int, int, int], where: str) -> NDArray[Any]:
    """The numbers of a ``.npy`` file; its header is looked at before memory is taken for what
    it says.
    """
    try:
        if is_zipfile(BytesIO(data)):
            raise SpecError(
                f"{where} holds an archive; expected numbers of shape {shape}, as stimulus.shape"
                " says"
            )
        buffer = BytesIO(data)
        version = np.lib.format.read_magic(buffer)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        stored, _, dtype = read(buffer)
        if dtype.hasobject:
            raise ValueError("it holds pickled objects")
        if stored != shape or dtype.kind not in "fiu":
            raise SpecError(
                f"{where} holds {dtype} of shape {stored}; expected numbers of shape {shape}, as"
                " stimulus.shape says"
            )
        image: NDArray[Any] = np.load(BytesIO(data), allow_pickle=False)
    except (SpecError, MemoryError):
        raise
    except Exception as error:  # NumPy reads the header as Python, which may be anything
        raise SpecError(
            f"{where} is not a plain .npy array ({' '.join(str(error).split())[:200]})"
        ) from None
    return image


def _offset_file(name: str, shape: tuple[int, int, int]) -> bytes:
    most = 8 * math.prod(shape) + MOST_NPY_HEADER
    try:
        return read_file(
            name, f"a .npy file with numbers of shape {shape}", most, "stimulus.offset"
        )
    except ModelError as error:
        raise SpecError(str(error)) from None


def _mean_image(name: str, shape: tuple[int, int, int], where: str) -> NDArray[np.float32]:
    """The mean training image of a data set: sums of bytes are exact, so it is the same
    everywhere.
    """
    if name not in SHAPES:
        raise SpecError(f"{where}: unknown data set; did you mean {near(name, SHAPES)}?")
    if SHAPES[name] != shape:
        raise SpecError(
            f"{where} is an image of shape {SHAPES[name]}; expected {shape}, as stimulus.shape says"
        )
    if name in CHANNEL_MEANS:
        return np.broadcast_to(
            np.array(CHANNEL_MEANS[name], dtype=np.float32)[:, None, None], shape
        ).copy()
    try:
        images, _ = load_bytes(name, train=True)  # type: ignore[arg-type]
    except NotAtHand as reason:
        raise SpecError(f"{where}: {reason}; or give the image itself as a .npy file") from None
    return np.asarray(images.sum(axis=0, dtype=np.int64) / (LEVELS * len(images)), dtype=np.float32)


def offset_digest(offset: NDArray[np.float32]) -> str:
    """SHA-256 of an offset's float32 values."""
    return hashlib.sha256(np.ascontiguousarray(offset, dtype="<f4").tobytes()).hexdigest()


def load_basis(spec: StimulusSpec) -> NDArray[np.int32] | None:
    """The basis of a stimulus (see `wna_ray.stimuli.bases.build`), None where it has none."""
    return None if spec.basis is None else bases.build(spec.basis, spec.shape)


def content_digest(spec: StimulusSpec, basis: NDArray[np.int32] | None) -> str:
    """SHA-256 of what a data set has given to a stimulus: its basis, or the images that are
    shown. "" for noise alone.
    """
    if basis is not None:
        return bases.digest(basis)
    return (
        images_of(spec.dataset, spec.split or "train", spec.classes)[1]
        if spec.dataset is not None
        else ""
    )
