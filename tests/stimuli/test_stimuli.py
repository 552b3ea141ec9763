"""Stimuli: pixels to the bit, cells, and offsets from files."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wna_ray.data import datasets
from wna_ray.errors import SpecError
from wna_ray.noise.stream import KINDS, Kind
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli import offsets
from wna_ray.stimuli.offsets import load_offset
from wna_ray.stimuli.stimulus import Stimulus, make_stimulus

UNIT = {
    "gaussian": 1 / 29,
    "uniform": 1 / 127,
    "binary": 1.0,
    "sparse": 1.0,
}  # as docs/noise.md states


def spec_of(
    kind: Kind = "gaussian", shape: tuple[int, int, int] = (2, 5, 7), **changes: Any
) -> StimulusSpec:
    return StimulusSpec(
        **{"kind": kind, "shape": shape, "scale": 0.3, "density": 0.3 if kind == "sparse" else None}
        | changes
    )


def stimulus_of(spec: StimulusSpec, seed: int = 3) -> Stimulus:
    return make_stimulus(spec, seed, load_offset(spec))


def naive_images(
    spec: StimulusSpec, offset: NDArray[np.float32], grid: NDArray[np.int8]
) -> NDArray[np.float32]:
    """Pixel by pixel: one float32 product, then one float32 sum."""
    size = np.float32(spec.scale * UNIT[spec.kind])
    out = np.empty((len(grid), *spec.shape), dtype=np.float32)
    where = np.broadcast_to(offset, spec.shape)
    for i, c, y, x in itertools.product(*map(range, out.shape)):
        step = np.float32(size * np.float32(grid[i, c, y // spec.cell, x // spec.cell]))
        out[i, c, y, x] = np.float32(where[c, y, x] + step)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", [1, 2, 3, 7])
@pytest.mark.parametrize("where", ["number", "image"])
def test_images_are_exact(kind: Kind, cell: int, where: str, tmp_path: Path) -> None:
    np.save(tmp_path / "offset.npy", np.random.default_rng(0).random((2, 5, 7)))
    spec = spec_of(
        kind, cell=cell, offset=0.1307 if where == "number" else str(tmp_path / "offset.npy")
    )
    stimulus = stimulus_of(spec)
    grid = stimulus.noise.grid(0, 4)
    assert grid.shape == (4, 2, -(-5 // cell), -(-7 // cell))
    got, expected = stimulus.images(grid).numpy(), naive_images(spec, stimulus.offset, grid)
    assert got.dtype == np.float32
    assert np.array_equal(got.view(np.int32), expected.view(np.int32)), (
        f"{np.count_nonzero(got != expected)} of {got.size} differ"
    )


@pytest.mark.parametrize(
    "shape, cell",
    [
        ((1, 5, 7), 1),
        ((1, 5, 7), 2),
        ((3, 4, 9), 3),
        ((1, 4, 6), 2),
        ((2, 3, 8), 5),
        ((1, 6, 2), 6),
    ],
)
def test_expand_covers_every_pixel(shape: tuple[int, int, int], cell: int) -> None:
    stimulus = stimulus_of(spec_of(shape=shape, cell=cell))
    c, h, w = stimulus.noise.shape
    maps = np.arange(2.0 * c * h * w).reshape(2, -1)
    expected = np.kron(maps.reshape(2, c, h, w), np.ones((1, 1, cell, cell)))[
        :, :, : shape[1], : shape[2]
    ]
    got = stimulus.expand(maps)
    assert got.shape == (2, *shape)
    assert np.array_equal(got, expected)
    assert set(got.reshape(-1)) == set(maps.reshape(-1))  # no cell is lost


@pytest.mark.parametrize("kind", KINDS)
def test_sd_and_range_over_the_table(kind: Kind, tmp_path: Path) -> None:
    """Brute force: every one of the 65,536 equally likely values at every place of the offset."""
    offset = np.random.default_rng(1).normal(size=(2, 5, 7)).astype(np.float32)
    np.save(tmp_path / "offset.npy", offset)
    stimulus = stimulus_of(spec_of(kind, offset=str(tmp_path / "offset.npy"), scale=0.7))
    steps = 0.7 * UNIT[kind] * stimulus.noise.table.values.astype(np.float64)
    assert stimulus.sd == pytest.approx(np.sqrt((steps**2).mean()), rel=1e-12)
    everywhere = offset.astype(np.float64).reshape(-1, 1) + np.unique(steps)
    assert stimulus.range == pytest.approx((everywhere.min(), everywhere.max()), rel=1e-12)
    images = stimulus.images(stimulus.noise.grid(0, 200)).numpy()
    assert stimulus.range[0] - 1e-6 <= images.min() <= images.max() <= stimulus.range[1] + 1e-6, (
        images.min(),
        images.max(),
    )


def test_a_number_and_an_image_of_it_are_the_same_stimulus(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.full((2, 5, 7), 0.25))
    number, image = (stimulus_of(spec_of(offset=o)) for o in (0.25, str(tmp_path / "flat.npy")))
    grid = number.noise.grid(0, 3)
    assert np.array_equal(number.images(grid).numpy(), image.images(grid).numpy())
    assert (
        image.offset_digest == hashlib.sha256(np.full(70, 0.25, dtype="<f4").tobytes()).hexdigest()
    )
    assert number.offset_digest == hashlib.sha256(np.float32(0.25).tobytes()).hexdigest()


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "int64", "uint8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_offsets_of_any_number_type(dtype: str, order: Any, tmp_path: Path) -> None:
    values = np.arange(70).reshape(2, 5, 7)
    np.save(tmp_path / "offset.npy", np.asarray(values.astype(dtype), order=order))
    offset = load_offset(spec_of(offset=str(tmp_path / "offset.npy")))
    assert (offset.dtype, offset.shape) == (np.float32, (2, 5, 7))
    assert np.array_equal(offset, values)


def write_text(path: Path) -> None:
    path.write_text("0.5 0.5\n")


def write_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, offset=np.zeros((2, 5, 7)))


def write_cut_off(path: Path) -> None:
    np.save(path, np.zeros((2, 5, 7)))
    path.write_bytes(path.read_bytes()[:-1])


def with_header(text: str) -> bytes:
    data = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(data)) + data


def write_nested(path: Path) -> None:
    path.write_bytes(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 900))


def write_lying(path: Path) -> None:
    path.write_bytes(
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 1000000), }")
        + b"x" * 100
    )


@pytest.mark.parametrize(
    "write, words",
    [
        (lambda path: None, "is no file.*a number, a .npy file.*bundled:mnist-mean"),
        (lambda path: path.mkdir(), "is a folder; expected a .npy file"),
        (write_text, "is not a plain .npy array"),
        (lambda path: path.write_bytes(b""), "is not a plain .npy array"),
        (write_cut_off, "is not a plain .npy array"),
        (
            lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
            "is not a plain .npy array",
        ),
        (write_archive, r"holds an archive; expected numbers of shape \(2, 5, 7\)"),
        (write_nested, "is not a plain .npy array"),
        (
            write_lying,
            r"holds float32 of shape \(100000, 1000000\); expected numbers of shape \(2, 5, 7\)",
        ),
        (
            lambda path: np.save(path, np.zeros((5, 7))),
            r"holds float64 of shape \(5, 7\); expected numbers of shape \(2, 5, 7\)",
        ),
        (lambda path: np.save(path, np.zeros((2, 7, 5))), r"holds float64 of shape \(2, 7, 5\)"),
        (lambda path: np.save(path, np.full((2, 5, 7), "a")), r"holds <U1 of shape"),
        (
            lambda path: np.save(path, np.zeros((2, 5, 7), dtype=complex)),
            r"holds complex128 of shape",
        ),
        (
            lambda path: np.save(path, np.where(np.arange(70).reshape(2, 5, 7) == 69, np.nan, 0)),
            "holds values that are not finite",
        ),
        (
            lambda path: np.save(path, np.where(np.arange(70).reshape(2, 5, 7) == 0, np.inf, 0)),
            "holds values that are not finite",
        ),
    ],
    ids=[
        "missing",
        "folder",
        "text",
        "empty",
        "cut-off",
        "pickled",
        "npz",
        "nested",
        "lying",
        "no-channel",
        "turned",
        "strings",
        "complex",
        "nan",
        "inf",
    ],
)
def test_offsets_that_will_not_do(
    write: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "offset.npy"
    write(path)
    with pytest.raises(SpecError, match=f"^stimulus.offset: '{path}' {words}") as caught:
        load_offset(spec_of(offset=str(path)))
    assert "\n" not in str(caught.value)


def test_offset_that_is_a_damaged_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "offset.npy")
    (tmp_path / "offset.npy").write_bytes((tmp_path / "offset.npy").read_bytes()[:100])
    with pytest.raises(SpecError, match=r"is not a plain \.npy array"):
        load_offset(spec_of(offset=str(tmp_path / "offset.npy")))


def test_bundled_offset_has_the_models_shape() -> None:
    image = load_offset(spec_of(shape=(1, 28, 28), offset="bundled:mnist-mean"))
    assert (image.dtype, image.shape) == (np.float32, (1, 28, 28))
    with pytest.raises(
        SpecError, match=r"'bundled:mnist-mean' holds float32 of shape \(1, 28, 28\).*\(2, 5, 7\)"
    ):
        load_offset(spec_of(offset="bundled:mnist-mean"))


def test_bundled_offset_is_the_mean_of_the_training_set(wna_data: Path) -> None:
    """Against an integer sum of the bytes of the file: the mean in float64, to three float32
    roundings of a mean of 60,000.
    """
    raw = np.fromfile(wna_data / "MNIST" / "raw" / "train-images-idx3-ubyte", dtype=np.uint8)[
        16:
    ].reshape(60_000, 1, 28, 28)
    mean = raw.sum(axis=0, dtype=np.int64) / (255 * 60_000)
    image = load_offset(spec_of(shape=(1, 28, 28), offset="bundled:mnist-mean"))
    np.testing.assert_allclose(image, mean, rtol=3 * 2.0**-24, atol=0)
    assert datasets.load("mnist", train=True).images.mean(dtype=np.float64) == pytest.approx(
        mean.mean(), rel=1e-6
    )


@pytest.fixture
def seven_images(monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Stand for the training images of ``mnist``."""
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 3, 4), dtype=np.uint8)
    monkeypatch.setitem(datasets.SHAPES, "mnist", (1, 3, 4))
    monkeypatch.setattr(
        offsets, "load_bytes", lambda name, train: (images, np.zeros(7, dtype=np.int64))
    )
    return images


def test_the_mean_image_of_a_data_set(seven_images: NDArray[np.uint8]) -> None:
    spec = spec_of(shape=(1, 3, 4), offset="mean:mnist")
    found = load_offset(spec)
    assert np.array_equal(
        found, (seven_images.astype(np.int64).sum(axis=0) / (7 * 255)).astype(np.float32)
    )
    assert (
        stimulus_of(spec).offset_digest == hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()
    )


def test_the_mean_of_imagenet_is_that_of_its_channels() -> None:
    found = load_offset(spec_of(shape=(3, 224, 224), offset="mean:imagenet-sample"))
    assert found.shape == (3, 224, 224)
    assert np.array_equal(
        np.unique(found.reshape(3, -1), axis=1)[:, 0],
        np.array([0.485, 0.456, 0.406], dtype=np.float32),
    )
    assert (found == found[:, :1, :1]).all()


@pytest.mark.parametrize(
    "offset, words",
    [
        ("mean:mnits", "unknown data set; did you mean mnist"),
        ("mean:cifar-10", r"is an image of shape \(3, 32, 32\); expected \(2, 5, 7\)"),
    ],
)
def test_mean_images_that_will_not_do(offset: str, words: str) -> None:
    with pytest.raises(
        SpecError,
        match=f"^stimulus.offset: '{offset}' ?{words}|^stimulus.offset: '{offset}': {words}",
    ):
        load_offset(spec_of(offset=offset))


def test_a_mean_image_that_is_not_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WNA_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        SpecError,
        match=(
            "'mean:fashion-mnist': no FashionMNIST at hand; set WNA_DATA to a folder that holds"
            " FashionMNIST/raw; or"
        ),
    ):
        load_offset(spec_of(shape=(1, 28, 28), offset="mean:fashion-mnist"))


def test_the_mean_of_real_digits_is_the_bundled_one(wna_data: Path) -> None:
    """To three float32 roundings, with which the bundled one was made."""
    found, bundled = (
        load_offset(spec_of(shape=(1, 28, 28), offset=o))
        for o in ("mean:mnist", "bundled:mnist-mean")
    )
    np.testing.assert_allclose(found, bundled, rtol=3 * 2.0**-24, atol=0)
