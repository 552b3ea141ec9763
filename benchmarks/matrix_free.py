"""Matrix-free covariance at ImageNet size: a planted axis in 150,528 values, found, tested, and what a pass costs.

    python benchmarks/matrix_free.py [--images 300_000] [--passes 6]

The response is the square of one projection, on which no average tells anything. Its eigenvalue is sqrt(2), the most that one axis
can have, and the spectrum of the noise ends at 2 sqrt(d / N'), with N' = N / 2 images to look for it: below N' of about d / 2 no method
finds it. One process; prints seconds, peak memory, and the cost of an image in a pass beside MobileNet-V2's forward pass.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time

import numpy as np
import torch
from torch import nn

from wna_ray import Spec, StcSpec, open_stc, run, run_stc
from wna_ray.progress import ProgressPrinter

SHAPE = (3, 224, 224)
D = 3 * 224 * 224


class Planted(nn.Module):
    """The square of a projection on a smooth axis."""

    def __init__(self) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
        axis = torch.stack([torch.cos(6 * x + 3 * y + c) * torch.exp(-3 * (x**2 + y**2)) for c in range(3)]).flatten()
        self.register_buffer("axis", axis / axis.norm())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.axis)[:, None] ** 2


def planted() -> nn.Module:
    """For ``python:matrix_free:planted``."""
    return Planted()


def forward_seconds(images: int = 64, batch: int = 16) -> float:
    """Seconds that MobileNet-V2 takes for an image, on one thread as a worker has it."""
    import torchvision

    model = torchvision.models.mobilenet_v2().eval().to(memory_format=torch.channels_last)
    x = torch.randn(batch, *SHAPE).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(x)
        begin = time.perf_counter()
        for _ in range(images // batch):
            model(x)
    return (time.perf_counter() - begin) / images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300_000)
    parser.add_argument("--passes", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    printer = ProgressPrinter()
    with tempfile.TemporaryDirectory() as folder:
        spec = Spec.parse(
            {
                "model": "python:matrix_free:planted",
                "stimulus": {"kind": "gaussian", "shape": SHAPE, "scale": 1.0, "space": "input"},
                "responses": ["activation"],
                "samples": asked.images,
                "keep_responses": True,
                "numerics": {"batch": 32},
            }
        )
        begin = time.perf_counter()
        run(spec, f"{folder}/run", executor="local", callbacks=[printer])
        print(f"the run: {time.perf_counter() - begin:.0f} s for {asked.images:,} images of {D:,} values")
        begin = time.perf_counter()
        ask = StcSpec(run=f"{folder}/run", method="matrix-free", axes=4, passes=asked.passes)
        run_stc(ask, f"{folder}/stc", executor="local", callbacks=[printer])
        seconds = time.perf_counter() - begin
        found = open_stc(f"{folder}/stc")
        rows, picture = found.axes.to_pylist(), found.pictures[0].ravel()
        each = seconds / ((asked.passes + 1) * asked.images / 2)
        forward = forward_seconds()
        print(f"{asked.passes} passes to find, one to test: {seconds:.0f} s, {1e3 * each:.2f} ms an image and pass")
        print(f"MobileNet-V2's forward pass: {1e3 * forward:.2f} ms an image, so a pass costs {each / forward:.3f} of it")
        for row in rows:
            print(
                f"  eigenvalue {row['eigenvalue']:+.4f} +- {row['standard_error']:.4f}, {row['distance']:.1f} sd, p = {row['p_value']:.2g}"
            )
        print(f"cosine of the first axis with the planted one: {abs(float(picture @ np.asarray(Planted().axis))):.3f}")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
