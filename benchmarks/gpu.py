"""What a GPU does, without Ray: noise, the forward pass alone, the whole of a worker's shard, and proofs that its numbers are exact.

    python benchmarks/gpu.py [--seconds 4] [--rounds 3] [--compile default] [--out benchmarks/gpu.json]

First the checks: noise made on the device against the golden file and NumPy, moments on the device against int64 arithmetic, a whole shard
against the same on the CPU. Then rates, which take turns. The limit is the forward pass of the same network, compiled or not, on batches
that lie ready in a worker's arithmetic and memory format; a shard is what a worker does between two reports: noise, forward pass,
responses and moments, all images counted. Ten minutes at most (not with `--compile max-autotune`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wna_ray.device_moments import DeviceMoments
from wna_ray.device_noise import by_torch, fed, grid
from wna_ray.moments import Moments
from wna_ray.noise import KINDS, Noise
from wna_ray.responses import LIMIT, Dense
from wna_ray.shard import Network, resolve, run_shard
from wna_ray.spec import Spec

GOLDEN = json.loads((Path(__file__).parents[1] / "tests" / "golden" / "noise.json").read_text())
IMAGE = (3, 224, 224)
MODELS = {"ResNet-18": "torchvision:resnet18?seed=1", "ResNet-50": "torchvision:resnet50?seed=1"}
EXACT = {
    "model": "python:gpu:exact",
    "stimulus": {"kind": "uniform", "shape": [3, 8, 8], "space": "input", "scale": 127 / 8},
    "responses": ["label", "logits"],
    "moments": {"second": True, "halves": True},
    "samples": 100_000,
    "evaluation": "none",
}
"""Multiples of 1/8 all through, so float32 is exact on every device."""
RESCALED = {
    "kind": "gaussian",
    "shape": [3, 8, 8],
    "space": "input",
    "scale": 1.0,
    "basis": {"kind": "gabor", "rescale": "minmax"},
}
READY = 4  # batches that lie ready


def exact() -> nn.Module:
    """A linear network whose weights are eighths."""
    layer = nn.Linear(192, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-8, 9, (5, 192), generator=torch.Generator().manual_seed(0)) / 8)
    return nn.Sequential(nn.Flatten(), layer)


def check(device: torch.device) -> None:
    """Stop with `AssertionError` where a number is not what it must be."""
    for kind in KINDS:
        case, density = GOLDEN["values"][kind], 0.1 if kind == "sparse" else None
        noise = Noise(kind, (1, 3, 7), case["seed"], density)
        for made in (grid(noise, case["index"], case["index"] + 1, device), by_torch(noise, case["index"], case["index"] + 1, device)):
            assert made.cpu().reshape(-1).tolist() == case["values"], kind
    noise = Noise("gaussian", IMAGE, 1)
    assert np.array_equal(grid(noise, 1000, 1064, device).cpu().numpy(), noise.grid(1000, 1064))
    print("noise: the golden file's values, and NumPy's of 64 images of 3 x 224 x 224")
    rng = np.random.default_rng(0)
    n, d, k = 20_000, 256, 16
    x, y = rng.integers(-128, 128, (n, d)).astype(np.int8), rng.integers(-LIMIT, LIMIT + 1, (n, k))
    x[:, 0], y[:, 0] = -128, LIMIT
    sums = DeviceMoments(Moments.identity(d, ["logits"], second=True), device).update(torch.from_numpy(x).to(device), {"logits": Dense(y)})
    found = sums.fetched().responses["logits"]
    wide = x.astype(np.int64)
    assert np.array_equal(found.sum_yx, y.T @ wide)
    assert np.array_equal(found.sum_yxx, y.T @ wide**2)
    print(f"moments: int64 arithmetic's, to the last bit, of {n:,} images with the largest values that there can be")
    both = []
    for where in ("cuda", "cpu"):
        network = Network(Spec.parse(EXACT | {"numerics": {"device": where}}), where)
        both.append(run_shard(resolve(network.spec, network), network, 0, EXACT["samples"])[0].arrays())
    assert all(np.array_equal(array, both[1][name]) for name, array in both[0].items())
    pictures = EXACT | {"stimulus": RESCALED, "samples": 1000}
    network = Network(Spec.parse(pictures | {"numerics": {"device": "cuda"}}), "cuda")
    run_shard(resolve(network.spec, network), network, 0, 1000)  # bytes are made on the CPU, and go the plain way
    network = Network(model_spec(MODELS["ResNet-18"], "bfloat16", 64, None, ["label"]), "cuda")
    stimulus = resolve(network.spec, network).stimulus
    values = grid(stimulus.noise, 0, 64, device)
    assert torch.equal(fed(values, network.levels(stimulus), stimulus), network.ready(stimulus.images(values, device)))
    print("a shard: the CPU's moments, to the last bit; what the network is fed: by one kernel, or step by step, the same bits")


def rate(work: Callable[[], int], seconds: float) -> float:
    """Things a second; the device has ended all of it."""
    torch.cuda.synchronize()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        done += work()
    torch.cuda.synchronize()
    return done / (time.perf_counter() - begin)


def in_turns(works: dict[str, Callable[[], int]], rounds: int, seconds: float) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Rates ``(rounds,)`` of each, after one slice of each that is not counted."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(rate(work, seconds))
    return {name: np.array(rates) for name, rates in found.items()}


def noise_rates(device: torch.device, rounds: int, seconds: float) -> dict[str, float]:
    """Noise alone, values a second."""
    images = 512
    noise = Noise("gaussian", IMAGE, 1)
    values = images * noise.pixels
    place = torch.empty(values, device=device)
    at = iter(range(0, 1 << 40, images))

    def ours() -> int:
        a = next(at)
        grid(noise, a, a + images, device)
        return values

    def theirs() -> int:
        place.normal_()
        return values

    found = in_turns({"wna_ray, gaussian grid": ours, "torch.randn": theirs}, rounds, seconds)
    return {name: float(np.median(rates)) for name, rates in found.items()}


def model_spec(uri: str, dtype: str, batch: int, mode: str | None, kinds: list[str]) -> Spec:
    """A job at ImageNet size."""
    stimulus = {"kind": "gaussian", "shape": IMAGE, "offset": 0.5, "scale": 0.25}
    numerics = {"batch": batch, "dtype": dtype, "device": "cuda", "compile": mode}
    return Spec.parse(
        {"model": uri, "stimulus": stimulus, "responses": kinds, "samples": 1 << 40, "numerics": numerics, "evaluation": "none"}
    )


def model_rates(
    uri: str, dtype: str, mode: str | None, batch: int, device: torch.device, rounds: int, seconds: float
) -> dict[str, dict[str, float]]:
    """The forward pass alone, and whole shards that keep labels or the logits of all classes."""

    def spec(kinds: list[str]) -> Spec:
        return model_spec(uri, dtype, batch, mode, kinds)

    works: dict[str, Callable[[], int]] = {}
    network = Network(spec(["label"]), "cuda")
    stimulus = resolve(spec(["label"]), network).stimulus
    shown = [stimulus.images(grid(stimulus.noise, i * batch, (i + 1) * batch, device), device) for i in range(READY)]
    ready = [network.ready(images) for images in shown]

    def forward() -> int:
        with torch.inference_mode():
            for x in ready:
                network.forward(x)
        return batch * READY

    works["forward only"] = forward
    for name, kinds in (("label", ["label"]), ("logits of all classes", ["label", "logits"])):
        job, own = resolve(spec(kinds), network), iter(range(0, 1 << 40, 16 * batch))

        def shard(job: Any = job, own: Any = own) -> int:
            a = next(own)
            run_shard(job, network, a, a + 16 * batch)
            return 16 * batch

        works[name] = shard
    found = in_turns(works, rounds, seconds)
    out: dict[str, dict[str, float]] = {}
    for name, rates in found.items():
        ratio = rates / found["forward only"]
        out[name] = {"images_per_second": float(np.median(rates)), "ratio": float(np.median(ratio)), "lowest": float(ratio.min())}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", choices=["default", "max-autotune"], default="default", help="how the compiled ones are")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; this measures one")

    device = torch.device("cuda")
    check(device)
    record: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": str(torch.__version__), "batch": args.batch}
    print(f"{record['device']}, torch {record['torch']}")
    record["noise"] = noise_rates(device, args.rounds, args.seconds / 4)
    for name, values in record["noise"].items():
        print(f"{values:12.3g} values/s  {name}")
    record["models"] = {}
    for name, uri in MODELS.items():
        for dtype, mode in (("bfloat16", args.compile), ("bfloat16", None), ("float32", None)):
            found = model_rates(uri, dtype, mode, args.batch, device, args.rounds, args.seconds)
            told = f"{name}, {dtype}" + (f", compiled ({mode})" if mode else "")
            record["models"][told] = found
            for what, numbers in found.items():
                print(f"{numbers['images_per_second']:12,.0f} images/s  {numbers['ratio']:.3f}  {told}: {what}", flush=True)
    peak = torch.cuda.max_memory_reserved() / 2**30
    record["peak_memory_gib"] = peak
    fastest = max(found["logits of all classes"]["images_per_second"] for name, found in record["models"].items() if "ResNet-18" in name)
    print(f"peak memory of the device {peak:.1f} GiB")
    print(f"projection: 10^8 images through ResNet-18 with the logits of all classes take {1e8 / fastest / 3600:.1f} hours at this rate")
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
