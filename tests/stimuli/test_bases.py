"""Bases: against the direct way (fit every image, then take the fits apart), and against the
authors' numbers on the real data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import eigh

from wna_ray.data import datasets
from wna_ray.errors import SpecError
from wna_ray.noise.wavelets import bank
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import BasisSpec, StimulusSpec
from wna_ray.stimuli import bases
from wna_ray.stimuli.bases import STEP, build, components, covariance, ridge_weights
from wna_ray.stimuli.offsets import load_basis

Floats = NDArray[np.float64]
MakeSpec = Callable[..., Spec]
SHAPE = (1, 6, 8)
MADE_UP = {"kind": "pca", "dataset": "mnist", "components": 12}


def fits(x: Floats, wavelets: Floats) -> tuple[Floats, Floats]:
    """Weights and intercept of each image's ridge regression with an intercept, image by image: the
    normal equations with a column of ones, whose coefficient is not penalised.
    """
    design = np.concatenate([wavelets.T, np.ones((wavelets.shape[1], 1))], axis=1)
    penalty = np.diag([bases.ALPHA] * len(wavelets) + [0.0])
    found = np.linalg.solve(design.T @ design + penalty, design.T @ x.T).T
    return found[:, :-1], found[:, -1]


def test_exact_sums_give_the_covariance() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1000, 7), dtype=np.uint8)
    x[:, 0] = 255
    mean, c = covariance(x)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(c, np.cov(x.T.astype(float), ddof=0), rtol=1e-10, atol=1e-9)
    grey = rng.integers(0, 766, (500, 5))
    np.testing.assert_allclose(
        covariance(grey)[1], np.cov(grey.T.astype(float), ddof=0), rtol=1e-10
    )


def test_gabor_pca_is_the_direct_way(made_up: Callable[..., NDArray[np.uint8]]) -> None:
    """Every image fitted by itself, then a singular value decomposition of all the fits'
    weights.
    """
    x, wavelets = (
        made_up(SHAPE).reshape(400, -1).astype(np.float64),
        bank(*SHAPE[1:], stretched=True),
    )
    fitted, intercept = fits(x, wavelets)
    np.testing.assert_allclose(x @ ridge_weights(wavelets).T, fitted, atol=1e-8)
    found = components(x.astype(np.int64), 10, wavelets)
    deviations = fitted - fitted.mean(axis=0)
    _, size, axes = np.linalg.svd(deviations, full_matrices=False)
    pictures = axes[:10] @ wavelets
    signs = np.sign(pictures[np.arange(10), np.abs(pictures).argmax(axis=1)])
    projected = deviations @ (axes[:10].T * signs)
    np.testing.assert_allclose(found.pictures, pictures * signs[:, None], atol=1e-8)
    np.testing.assert_allclose(found.sd, size[:10] / 20, rtol=1e-9)
    np.testing.assert_allclose(found.low, projected.min(axis=0), atol=1e-8)
    np.testing.assert_allclose(found.high, projected.max(axis=0), atol=1e-8)
    np.testing.assert_allclose(
        found.mean, fitted.mean(axis=0) @ wavelets + intercept.mean(), atol=1e-8
    )
    assert found.explained == pytest.approx((size[:10] ** 2).sum() / (size**2).sum(), rel=1e-10)


def test_pca_pictures_are_orthogonal_and_as_large_as_their_spread(
    made_up: Callable[..., NDArray[np.uint8]],
) -> None:
    """To the rounding of a basis: an inner product of 48 rounded values is off by about STEP
    sqrt(48).
    """
    x = made_up(SHAPE).reshape(400, -1) / 255
    whole = build(BasisSpec(**MADE_UP), SHAPE) * STEP
    centre, pictures = whole[0], whole[1:]
    np.testing.assert_allclose(centre, x.mean(axis=0), atol=STEP)
    gram = pictures @ pictures.T
    variances = np.linalg.eigvalsh(np.cov(x.T, ddof=0))[::-1][:12]
    np.testing.assert_allclose(np.diag(gram), variances, atol=20 * STEP)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 20 * STEP
    assert (pictures.max(axis=1) >= -pictures.min(axis=1)).all()  # the largest value is positive


@pytest.mark.parametrize("centre", [True, False])
def test_uniform_weights_fill_the_range_of_the_data(
    made_up: Callable[..., NDArray[np.uint8]], centre: bool
) -> None:
    """Weights of -1 and 1 give the images whose component is smallest, and largest, in the data."""
    x = made_up(SHAPE).reshape(400, -1) / 255
    whole = build(BasisSpec(**MADE_UP, spread="range", centre=centre), SHAPE) * STEP
    unit = whole[1:] / np.linalg.norm(whole[1:], axis=1, keepdims=True)
    along = (x - x.mean(axis=0)) @ unit.T
    middle = (whole[0] - (x.mean(axis=0) if centre else 0)) @ unit.T
    half = np.linalg.norm(whole[1:], axis=1)
    np.testing.assert_allclose(middle - half, along.min(axis=0), atol=2e-3)
    np.testing.assert_allclose(middle + half, along.max(axis=0), atol=2e-3)


def test_colours_have_a_basis_each_or_one_in_common(
    made_up: Callable[..., NDArray[np.uint8]],
) -> None:
    images = made_up((3, 4, 5)).astype(np.int64)
    spec = {"kind": "gabor-pca", "dataset": "mnist", "components": 4}
    each = build(BasisSpec.model_validate(spec), (3, 4, 5)).reshape(13, 3, 20)
    for channel in range(3):
        one = components(images[:, channel].reshape(400, 20), 4, bank(4, 5, stretched=True))
        np.testing.assert_allclose(
            each[1 + 4 * channel : 5 + 4 * channel, channel] * STEP,
            one.pictures * one.sd[:, None] / 255,
            atol=STEP,
        )
        np.testing.assert_allclose(each[0, channel] * STEP, one.mean / 255, atol=STEP)
        assert not np.delete(each[1 + 4 * channel : 5 + 4 * channel], channel, axis=1).any()
    grey = build(BasisSpec.model_validate(spec | {"grey": True}), (3, 4, 5)).reshape(5, 3, 20)
    one = components(images.sum(axis=1).reshape(400, 20), 4, bank(4, 5, stretched=True))
    assert (grey == grey[:, :1]).all()
    np.testing.assert_allclose(grey[1:, 0] * STEP, one.pictures * one.sd[:, None] / 765, atol=STEP)


def test_wavelets_alone_give_a_pixel_the_variance_of_a_weight() -> None:
    whole = build(BasisSpec(kind="gabor"), (2, 6, 6)) * STEP
    assert whole.shape == (1 + 2 * 4 * 8, 72)
    assert not whole[0].any()
    assert np.square(whole[1:]).sum(axis=0).mean() == pytest.approx(1, abs=1e-3)


def test_stripes_are_columns() -> None:
    whole = build(BasisSpec(kind="stripes"), (2, 3, 4)) * STEP
    pictures = whole[1:].reshape(8, 2, 3, 4)
    expected = np.zeros_like(pictures)
    for channel in range(2):
        for column in range(4):
            expected[4 * channel + column, channel, :, column] = 1
    np.testing.assert_array_equal(pictures, expected)
    assert not whole[0].any()


@pytest.mark.parametrize(
    "stimulus, words",
    [
        ({"basis": {"kind": "gabor", "dataset": "mnist"}}, "come from no data set"),
        (
            {"basis": {"kind": "gabor", "spread": "range"}},
            "basis.spread: gabor come from no data set",
        ),
        (
            {"basis": {"kind": "pca", "dataset": "mnist"}},
            "needs a dataset and a number of components",
        ),
        (
            {"basis": {"kind": "pca", "dataset": "cifar-10", "components": 3}},
            r"images of cifar-10 are \(3, 32, 32\)",
        ),
        (
            {"basis": {"kind": "gabor-pca", "dataset": "mnist", "components": 785}},
            "785 of 784 values",
        ),
        ({"basis": {"kind": "gabor", "grey": True}}, "are grey already"),
        ({"basis": {"kind": "gabor"}, "shape": [1, 2, 9]}, "smallest wavelets are 3 pixels"),
        ({"basis": {"kind": "gabor"}, "shape": [3, 224, 224]}, "take smaller images"),
        (
            {
                "basis": {"kind": "pca", "dataset": "imagenet-sample", "components": 3},
                "shape": [3, 224, 224],
            },
            "up to 4,096 values",
        ),
        ({"basis": {"kind": "gabor"}, "cell": 2}, "leave those out"),
        ({"basis": {"kind": "gabor"}, "spectrum": 1.0}, "leave those out"),
    ],
)
def test_what_cannot_be_a_basis_is_refused(
    stimulus: dict[str, Any], words: str, make_spec: MakeSpec
) -> None:
    with pytest.raises(SpecError, match=words):
        make_spec(stimulus={"shape": [1, 28, 28], **stimulus})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"moments": {"second": True}}, "leave stimulus.basis out"),
        ({"estimator": "gradient", "responses": ["logits"]}, "leave stimulus.basis out"),
        (
            {"target": {"layer": "x", "position": "pooled"}, "responses": ["activation"]},
            "leave stimulus.basis out",
        ),
    ],
)
def test_what_does_not_go_with_a_basis_is_refused(
    changes: dict[str, Any], words: str, make_spec: MakeSpec
) -> None:
    with pytest.raises(SpecError, match=words):
        make_spec(stimulus={"shape": [1, 28, 28], "basis": {"kind": "gabor"}}, **changes)


def test_a_data_set_that_is_not_at_hand(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WNA_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        SpecError, match="made from training images, and no MNIST at hand; set WNA_DATA"
    ):
        load_basis(
            StimulusSpec(kind="gaussian", shape=(1, 28, 28), scale=1, basis=BasisSpec(**MADE_UP))
        )


@pytest.mark.parametrize(
    "dataset, index, error, explained",
    [("mnist", 5, 2010.9445, 0.96098), ("fashion-mnist", 3, 1342.1718, 0.90084)],
)
def test_the_authors_numbers(
    dataset: Any, index: int, error: float, explained: float, wna_data: Path
) -> None:
    """The fit of a known image (its intercept left out), and the variance that 250 components
    explain.

    The authors' share comes from scikit-learn's PCA, which for this size searches at random (Halko
    et al. 2011, SIAM Rev. 53:217: 10 more columns, 4 power iterations) and so finds a little less
    than there is; the same search in our covariance gives their number.
    """
    x = datasets.load_bytes(dataset, train=True)[0].reshape(60_000, 784)
    wavelets = bank(28, 28, stretched=True)
    fit = ridge_weights(wavelets)
    assert np.linalg.norm(x[index] - fit @ x[index] @ wavelets) == pytest.approx(error, abs=0.01)
    spread = fit @ covariance(x)[1] @ fit.T
    whole = np.linalg.eigvalsh(spread)[::-1]
    exact = whole[:250].sum() / whole.sum()
    block = np.random.default_rng(0).standard_normal((960, 260))
    for _ in range(4):
        block = np.linalg.qr(spread @ block)[0]
    product = spread @ block
    searched = eigh(product.T @ product, block.T @ product, eigvals_only=True)[::-1][
        :250
    ].sum() / np.trace(spread)
    assert searched == pytest.approx(explained, abs=0.001)
    assert explained < exact < explained + 0.002, exact


def test_the_authors_number_for_grey_cifar(wna_data: Path) -> None:
    """As above; channel means, 600 components of the weights of 1,520 wavelets."""
    x = (
        datasets.load_bytes("cifar-10", train=True)[0]
        .sum(axis=1, dtype=np.int64)
        .reshape(50_000, 1024)
    )
    fit = ridge_weights(bank(32, 32, stretched=True))
    spread = fit @ covariance(x)[1] @ fit.T
    whole = np.linalg.eigvalsh(spread)[::-1]
    assert whole[:600].sum() / whole.sum() == pytest.approx(0.97475, abs=0.001)
