"""Bases: pictures of which each stimulus is a mixture with independent weights.

    image = centre + sum over j of weight_j * picture_j

Gabor-PCA is the parametric noise of Borji & Lin (2020): each training image y is fitted by wavelets
W (pixels x wavelets) with a ridge, the weights of all images are taken apart into principal
components P, and random weights of those are turned back into images ``W P``. A fit is linear in
the image, ``weights = B y`` with ``B = (X'X + alpha)^-1 X'`` and X the wavelets less their means
over pixels (the fit has an intercept, which the authors then leave out). So everything follows from
the covariance C of the training pixels, which whole numbers give exactly: the weights' covariance
is ``B C B'``.

A basis is kept in whole numbers of `STEP`. So it has a digest that does not depend on the last bits
of a linear algebra library, and images are exact: products of whole numbers, the same everywhere.

References
----------
Borji & Lin (2020), ICLR, and the authors' notebooks. Hoerl & Kennard (1970), Technometrics 12:55:
ridge regression.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from wna_ray.data.datasets import DatasetName, NotAtHand, load_bytes
from wna_ray.errors import SpecError
from wna_ray.noise.wavelets import bank
from wna_ray.specs.stimulus import BasisSpec

Floats = NDArray[np.float64]

STEP = 2.0**-16
"""Of the numbers of a basis, in pixel units: 1/256 of the step of an 8-bit picture."""
ALPHA = 0.1
"""Ridge of the authors' fits. A fit is linear in the image, so it does not matter whether
pixels are in 0 ... 255 or 0 ... 1.
"""
EXACT = 256  # images whose products of bytes float32 sums exactly: 256 x 255^2 < 2^24
CHUNK = 4096  # images taken at a time elsewhere, in float64


@dataclass(frozen=True)
class Components:
    """Principal components of the fits of one channel (or of whole images).

    Attributes
    ----------
    pictures
        ``(d, pixels)``: each component as an image, its largest value positive.
    mean
        ``(pixels,)``: the mean fit, its intercept included; in the units of the images.
    sd, low, high
        ``(d,)``: standard deviation and range of the components' weights over the training images;
        weights are of fits less the mean one.
    explained
        Share of the variance of the fits' weights.
    """

    pictures: Floats
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    explained: float


def training_images(dataset: DatasetName) -> NDArray[np.uint8]:
    """``(n, C, H, W)``; `SpecError` where they are not at hand."""
    try:
        return load_bytes(dataset, train=True)[0]
    except NotAtHand as reason:
        raise SpecError(
            f"stimulus: this noise is made from training images, and {reason}"
        ) from None


def covariance(x: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Mean ``(p,)`` and covariance ``(p, p)`` of ``(n, p)`` whole numbers, at most 255 (or 765,
    of three channels), from exact sums.
    """
    n, p = x.shape
    step, exact = (EXACT, "f4") if int(x.max(initial=0)) <= 255 else (CHUNK, "f8")
    total, products = x.sum(axis=0, dtype=np.int64), np.zeros((p, p))
    for a in range(0, n, step):
        part: NDArray[Any] = x[a : a + step].astype(exact)
        products += part.T @ part
    mean = total / n
    return mean, products / n - np.outer(mean, mean)


def ridge_weights(wavelets: Floats) -> Floats:
    """B ``(wavelets, pixels)``: the weights of an image are ``B @ image``; `wavelets` is
    ``(wavelets, pixels)``.
    """
    x = wavelets - wavelets.mean(axis=1, keepdims=True)
    return np.asarray(np.linalg.solve(x @ x.T + ALPHA * np.eye(len(x)), x))


def components(
    x: NDArray[np.integer], d: int, wavelets: Floats | None = None, ends: bool = True
) -> Components:
    """Principal components of images, or of the weights with which wavelets fit them.

    Parameters
    ----------
    x
        ``(n, pixels)``, whole numbers.
    d
        How many components are kept.
    wavelets
        ``(wavelets, pixels)``; without them the images themselves are taken apart.
    ends
        Whether the range of the weights is looked for, which takes longer than all the rest; else
        it is NaN.
    """
    mean, c = covariance(x)
    fit = np.eye(len(mean)) if wavelets is None else ridge_weights(wavelets)
    rows = fit if wavelets is None else wavelets
    spread = fit @ c @ fit.T
    values, vectors = eigh(spread, subset_by_index=(len(spread) - d, len(spread) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    pictures = vectors.T @ rows
    largest = np.take_along_axis(pictures, np.abs(pictures).argmax(axis=1)[:, None], axis=1)
    pictures, vectors = pictures * np.sign(largest), vectors * np.sign(largest).T
    centre = (fit @ mean) @ rows
    project = fit.T @ vectors
    low, high = (np.full(d, end if ends else np.nan) for end in (np.inf, -np.inf))
    for a in range(0, len(x) if ends else 0, CHUNK):
        weights = (x[a : a + CHUNK] - mean) @ project
        low, high = np.minimum(low, weights.min(axis=0)), np.maximum(high, weights.max(axis=0))
    explained = float(values.sum() / np.trace(spread))
    return Components(
        pictures,
        centre + (mean.mean() - centre.mean()),
        np.sqrt(np.maximum(values, 0.0)),
        low,
        high,
        explained,
    )


@lru_cache(maxsize=2)
def build(spec: BasisSpec, shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """A basis in whole numbers of `STEP`.

    Returns
    -------
    numpy.ndarray
        ``(1 + d, C * H * W)`` int32: first the centre, then the picture that a weight of 1 adds.

    Raises
    ------
    SpecError
        The data set is not at hand, or has too few images.
    """
    c, h, w = shape
    if spec.kind == "stripes":
        flat = np.tile(np.eye(w), (1, h))
        return _whole(np.zeros(c * h * w), _in_channels(flat, shape, spec.grey))
    if spec.kind == "gabor":
        flat = bank(h, w, stretched=False)
        flat /= np.sqrt(
            np.square(flat).sum(axis=0).mean()
        )  # the mean variance of pixels is that of a weight
        return _whole(np.zeros(c * h * w), _in_channels(flat, shape, spec.grey))
    assert spec.dataset is not None, "the spec sees to it"
    assert spec.components is not None, "the spec sees to it"
    images = training_images(spec.dataset)
    if len(images) <= spec.components:
        raise SpecError(
            f"stimulus.basis.components: {spec.components} of only {len(images)} images; take fewer"
        )
    if spec.grey:
        parts, each = [images.sum(axis=1, dtype=np.int64).reshape(len(images), -1)], 255.0 * c
    elif spec.kind == "pca":
        parts, each = [images.reshape(len(images), -1)], 255.0
    else:
        parts, each = [images[:, channel].reshape(len(images), -1) for channel in range(c)], 255.0
    wavelets = bank(h, w, stretched=True) if spec.kind == "gabor-pca" else None
    fits = [components(part, spec.components, wavelets, spec.spread == "range") for part in parts]
    sizes, middles = [], []
    for part in fits:
        sizes.append(part.sd if spec.spread == "sd" else (part.high - part.low) / 2)
        middles.append(
            np.zeros(len(part.sd)) if spec.spread == "sd" else (part.high + part.low) / 2
        )
    centres = [
        middle @ part.pictures + (part.mean if spec.centre else 0.0)
        for middle, part in zip(middles, fits, strict=True)
    ]
    pictures = [size[:, None] * part.pictures for size, part in zip(sizes, fits, strict=True)]
    if spec.grey:
        return _whole(np.tile(centres[0], c) / each, _in_channels(pictures[0], shape, True) / each)
    if spec.kind == "pca":
        return _whole(centres[0] / each, pictures[0] / each)
    stacked = np.zeros((c, spec.components, c, h * w))
    for channel, some in enumerate(pictures):
        stacked[channel, :, channel] = some
    return _whole(
        np.concatenate(centres) / each, stacked.reshape(c * spec.components, c * h * w) / each
    )


def _in_channels(flat: Floats, shape: tuple[int, int, int], grey: bool) -> Floats:
    """Pictures ``(d, H * W)`` in all channels at once, or in each for itself: ``(d or C d, C *
    H * W)``.
    """
    c = shape[0]
    return np.asarray(np.tile(flat, (1, c)) if grey else np.kron(np.eye(c), flat), dtype=np.float64)


def _whole(centre: Floats, pictures: Floats) -> NDArray[np.int32]:
    steps = np.rint(np.concatenate([centre[None], pictures]) / STEP).astype(np.int32)
    steps.setflags(write=False)
    return steps


def digest(basis: NDArray[np.int32]) -> str:
    """SHA-256 of a basis."""
    total = hashlib.sha256(f"{basis.shape} {STEP}".encode())
    total.update(np.ascontiguousarray(basis, dtype="<i4").data)
    return total.hexdigest()
