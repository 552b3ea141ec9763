"""Make up what jobs read: ``same_data.py FOLDER`` lays out ``FOLDER/data`` and ``FOLDER/given``.

Every machine has the same, so that no job needs anything that must be fetched. The data sets are
files in the formats that `wna_ray.datasets` reads: MNIST and Fashion-MNIST as idx files, the sample
of ImageNet as a folder of pictures for each class. CIFAR-10 cannot be made up, since torchvision
knows the digests of its files. Nothing of `wna_ray` is imported here: both trees read the same
files.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from same_specs import BATCH, PROGRAM, write_specs

SIDE, CLASSES = 28, 10
EACH = {"train": 60, "t10k": 12}  # images of each class
SYNSETS = 1000
IDX_IMAGES, IDX_LABELS = 0x803, 0x801  # how idx files of bytes begin: three axes, or one

Pixels = NDArray[np.uint8]


def digits(count: int, seed: int) -> tuple[Pixels, Pixels]:
    """Draw images ``(n, 28, 28)`` and labels ``(n,)``: bars whose rows tell the classes."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(CLASSES, dtype=np.uint8), count)
    images = rng.integers(0, 120, (len(labels), SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 3 : 2 * label + 6, 4:20] += 120
    return images, labels


def write_idx(folder: Path, part: str, images: Pixels, labels: Pixels) -> None:
    """Write a split as the two files that torchvision reads."""
    folder.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">IIII", IDX_IMAGES, *images.shape)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    head = struct.pack(">II", IDX_LABELS, len(labels))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def write_sample(folder: Path) -> None:
    """Write one small picture for each of a thousand classes."""
    rng = np.random.default_rng(3)
    for number in range(SYNSETS):
        place = folder / f"n{number:08d}"
        place.mkdir(parents=True)
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "one.png")


def write_data(root: Path) -> None:
    """Lay all data sets out under a folder, which is then what ``WNA_DATA`` names."""
    for number, name in enumerate(("MNIST", "FashionMNIST")):
        for seed, (part, count) in enumerate(EACH.items()):
            write_idx(root / name / "raw", part, *digits(count, 10 * number + seed))
    write_sample(root / "imagenet-sample")


def write_program(path: Path) -> None:
    """Save a small network by torch.export."""
    import torch
    from torch import nn

    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(1, 3, 5, stride=8), nn.ReLU(), nn.Flatten()).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(BATCH, 1, 28, 28),)), path)


def fill_caches() -> None:
    """Have matplotlib look for fonts now, once, not in the first command of either tree."""
    import matplotlib.font_manager  # noqa: F401


def make(folder: Path) -> None:
    """Lay out everything."""
    write_data(folder / "data")
    write_specs(folder / "given")
    write_program(folder / "given" / PROGRAM)
    fill_caches()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
