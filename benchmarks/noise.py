"""Noise values a second on one core, beside ``torch.randn`` and NumPy's normal generator, interleaved.

python benchmarks/noise.py [--rounds 60]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from wna_ray.noise import KINDS, Noise

IMAGES, SHAPE = 512, (1, 28, 28)
VALUES = IMAGES * 28 * 28


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds

    torch.set_num_threads(1)
    out, generator = torch.empty(VALUES), np.random.default_rng(0)
    calls: dict[str, Callable[[], object]] = {
        "torch.randn": lambda: torch.randn(VALUES, out=out),
        "numpy normal float32": lambda: generator.standard_normal(VALUES, dtype=np.float32),
    }
    for kind in KINDS:
        noise = Noise(kind, SHAPE, 1, 0.1 if kind == "sparse" else None)
        calls[f"wna_ray {kind} (int8 grid)"] = lambda noise=noise: noise.grid(0, IMAGES)
    gaussian = Noise("gaussian", SHAPE, 1)
    calls["wna_ray gaussian as float32 images"] = lambda: torch.from_numpy(gaussian.grid(0, IMAGES)).to(torch.float32).mul_(0.3).add_(0.5)

    for call in calls.values():
        call()
    taken = {name: np.empty(rounds) for name in calls}
    for i in range(rounds):
        for name, call in calls.items():
            taken[name][i] = seconds(call)
    print(f"one core, {VALUES:,} values a call, {rounds} rounds taking turns; ratio to torch.randn: median (5-95 % of rounds)")
    for name, t in taken.items():
        ratio = taken["torch.randn"] / t
        low, high = np.percentile(ratio, [5, 95])
        print(f"{VALUES / np.median(t):10.2e} values/s  {np.median(ratio):5.2f} ({low:.2f}-{high:.2f})  {name}")


if __name__ == "__main__":
    main()
