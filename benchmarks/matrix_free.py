"""Matrix-free covariance at ImageNet size: a planted axis in 150,528 values, found, tested, and
what a pass costs.

    PYTHONPATH=benchmarks python benchmarks/matrix_free.py [--images 600_000] [--passes 10]
    [--workers 1]

The response is the square of one projection, on which no average tells anything. With c = d / N'
for the N' = N / 2 images that axes are looked for in, one image of residual response r alone has an
eigenvalue of r c, and the largest of 300,000 squares are 15 standard deviations: unclipped the
spectrum of the noise ends at 7.6, far above the axis, which no method finds then. Clipped at 2 sd
it ends at 2.5, and the axis stands out at 2.7 with a cosine of 0.60 (`limits`). A pass gains a
factor of 1.6, and the most extreme images, with which the search begins, are 0.025 along the axis.
Prints seconds, peak memory (of one process), and the cost of an image in a pass beside
MobileNet-V2's forward pass.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

from wna_ray import Spec, StcSpec, open_stc, run, run_stc
from wna_ray.execution.progress import ProgressPrinter
from wna_ray.kinds.covariance.figures import p_text
from wna_ray.statistics.covariance import edges

SHAPE = (3, 224, 224)
D = 3 * 224 * 224
CLIP = 2.0  # standard deviations


class Planted(nn.Module):
    """The square of a projection on a smooth axis."""

    def __init__(self) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
        axis = torch.stack(
            [torch.cos(6 * x + 3 * y + c) * torch.exp(-3 * (x**2 + y**2)) for c in range(3)]
        ).flatten()
        self.register_buffer("axis", axis / axis.norm())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.axis)[:, None] ** 2


def planted() -> nn.Module:
    """For ``python:matrix_free:planted``."""
    return Planted()


def limits(clip: float | None, ratio: float) -> str:
    """Where the noise's spectrum ends, where the axis comes to lie, and the cosine of what is found
    with it, as d and N grow together.

    With T the standardised response to projections p and m the Stieltjes transform of the noise's
    spectrum (`wna_ray.statistics.covariance.edges`), the axis lies where ``E[T p^2 / (1 + c m T)] =
    z(m)`` (Lu & Li 2020, Information & Inference 9:507), if that is beyond the end.
    """
    p = norm.ppf((np.arange(400_001) + 0.5) / 400_001)
    t = (p**2 - 1) / np.sqrt(2)
    t = t if clip is None else np.clip(t, -clip, clip)
    t = (t - t.mean()) / t.std()

    def z(s: float) -> float:  # s = -m
        return float(1 / s + (t / (1 - ratio * s * t)).mean())

    def axis(s: float) -> float:
        return float((t * p**2 / (1 - ratio * s * t)).mean())

    end = edges(t, ratio)[1]
    last = brentq(
        lambda s: 1 - ratio * np.square(t * s / (1 - ratio * t * s)).mean(),
        1e-9,
        (1 - 1e-12) / (ratio * t.max()),
    )
    told = f"clip {clip}: the noise's spectrum ends at {end:.2f}"
    if axis(last) <= z(last):
        return f"{told}, the axis is inside"
    found = brentq(lambda s: axis(s) - z(s), 1e-9, last)
    step = 1e-5 * found
    slope = (axis(found + step) - axis(found - step)) / (z(found + step) - z(found - step))
    return (
        f"{told}, the axis lies at {z(found):.2f}, to be found with a cosine of"
        f" {1 / np.sqrt(1 - slope):.2f}"
    )


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=600_000)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="Ray workers; 1: this process")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for clip in (None, CLIP):
        print(limits(clip, 2 * D / asked.images))
    printer = ProgressPrinter()
    how: dict[str, Any] = {"callbacks": [printer], "executor": "local"}
    if asked.workers > 1:
        how |= {"executor": "ray", "workers": asked.workers}
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
        run(spec, f"{folder}/run", **how)
        print(
            f"the run: {time.perf_counter() - begin:.0f} s for {asked.images:,} images of {D:,}"
            " values"
        )
        begin = time.perf_counter()
        ask = StcSpec(
            run=f"{folder}/run", method="matrix-free", axes=4, passes=asked.passes, clip=CLIP
        )
        run_stc(ask, f"{folder}/stc", **how)
        seconds = time.perf_counter() - begin
        found = open_stc(f"{folder}/stc")
        rows, picture = found.axes.to_pylist(), found.pictures[0].ravel()
        each = asked.workers * seconds / ((asked.passes + 1) * asked.images / 2)
        forward = forward_seconds()
        print(
            f"{asked.passes} passes to find, one to test: {seconds:.0f} s, {1e3 * each:.2f} ms of a"
            " worker an image and pass"
        )
        print(
            f"MobileNet-V2's forward pass: {1e3 * forward:.2f} ms an image, so a pass costs"
            f" {each / forward:.3f} of it"
        )
        for row in rows:
            print(
                f"  eigenvalue {row['eigenvalue']:+.4f} +- {row['standard_error']:.4f},"
                f" {row['distance']:.1f} sd, p {p_text(row['p_value'])}"
            )
        print(
            "cosine of the first axis with the planted one:"
            f" {abs(float(picture @ np.asarray(Planted().axis))):.3f}"
        )
    print(
        "peak memory of the process:"
        f" {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
