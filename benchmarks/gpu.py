"""What a GPU does, without Ray: noise, the forward pass alone, the whole of a worker's shard, and
proofs that its numbers are exact.

    python benchmarks/gpu.py [--seconds 2] [--rounds 3] [--compile default] [--out benchmarks]

First the checks: noise made on the device against the golden file and NumPy, moments on the device
against int64 arithmetic, a whole shard against the same on the CPU. Then rates, which take turns.
The limit is the forward pass of the same network, compiled or not, on batches that lie ready in a
worker's arithmetic and memory format; a shard is what a worker does between two reports: noise,
forward pass, responses and moments, all images counted. At its end its sums come to the CPU (1.2 GB
for the logits of 1,000 classes), which takes as long whatever its length; so that is timed apart,
and the rate is that of a shard as long as `wna_ray.execution.plan.plan` cuts them. Five minutes,
more with `--compile max-autotune`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from page import put, table
from torch import nn

from wna_ray.cuda.moments import DeviceMoments
from wna_ray.cuda.noise import by_torch, fed, grid
from wna_ray.cuda.responses import Responder, Values, row_sums, softmax
from wna_ray.execution.plan import Cut, plan
from wna_ray.execution.process import set_up_process
from wna_ray.kinds.average.job import moment_size
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import LIMIT, Dense, Selected
from wna_ray.noise.stream import KINDS, Noise
from wna_ray.shards.job import Job
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec

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
    "scale": 255 / 8,
    "basis": {"kind": "gabor", "rescale": "minmax"},
}
RESPONSES = {"label": ["label"], "logits of all classes": ["label", "logits"]}
READY = 4  # batches that lie ready


def exact() -> nn.Module:
    """A linear network whose weights are eighths."""
    layer = nn.Linear(192, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(
            torch.randint(-8, 9, (5, 192), generator=torch.Generator().manual_seed(0)) / 8
        )
    return nn.Sequential(nn.Flatten(), layer)


def check(device: torch.device) -> None:
    """Stop with `AssertionError` where a number is not what it must be."""
    for kind in KINDS:
        case, density = GOLDEN["values"][kind], 0.1 if kind == "sparse" else None
        noise = Noise(kind, (1, 3, 7), case["seed"], density)
        for made in (
            grid(noise, case["index"], case["index"] + 1, device),
            by_torch(noise, case["index"], case["index"] + 1, device),
        ):
            assert made.cpu().reshape(-1).tolist() == case["values"], kind
    noise = Noise("gaussian", IMAGE, 1)
    assert np.array_equal(grid(noise, 1000, 1064, device).cpu().numpy(), noise.grid(1000, 1064))
    print("noise: the golden file's values, and NumPy's of 64 images of 3 x 224 x 224")
    rng = np.random.default_rng(0)
    n, d, k = 20_000, 300, 140  # some tiles of the product are full, and some are not
    x, y = rng.integers(-128, 128, (n, d)).astype(np.int8), rng.integers(-LIMIT, LIMIT + 1, (n, k))
    x[:, 0], y[:, 0] = -128, LIMIT
    sums = DeviceMoments(Moments.identity(d, ["logits"], second=True), device).update(
        torch.from_numpy(x).to(device), {"logits": Values.of(Dense(y), device)}
    )
    found = sums.fetched().responses["logits"]
    wide = x.astype(np.int64)
    assert np.array_equal(found.sum_yx, y.T @ wide)
    assert np.array_equal(found.sum_yxx, y.T @ wide**2)
    print(
        f"moments: int64 arithmetic's, to the last bit, of {n:,} images with the largest values"
        " that there can be"
    )
    pictures = EXACT | {
        "stimulus": RESCALED,
        "responses": ["label"],
        "samples": 1000,
    }  # bytes made on the CPU, which go the plain way
    for asked in (EXACT, pictures):
        both = []
        for where in ("cuda", "cpu"):
            spec = Spec.parse(asked | {"numerics": {"device": where}})
            network = load_network(spec, where)
            job = resolve(spec, network).job
            both.append(run_shard(job, network, 0, spec.samples)[0].arrays())
        assert all(np.array_equal(array, both[1][name]) for name, array in both[0].items())
    y = torch.randn((64, 1000), dtype=torch.float64, device=device)
    for made_of in (row_sums, softmax):
        assert torch.equal(made_of(y), torch.cat([made_of(row[None]) for row in y])), (
            "an image is answered the same in any company"
        )
    spec = model_spec(MODELS["ResNet-18"], "bfloat16", 64, None, ["label"])
    network = load_network(spec, "cuda")
    stimulus = resolve(spec, network).job.stimulus
    values = grid(stimulus.noise, 0, 64, device)
    assert torch.equal(
        fed(values, network.feed.levels(stimulus), stimulus),
        network.feed.ready(stimulus.images(values, device)),
    )
    print(
        "a shard: the CPU's moments, to the last bit; what the network is fed: by one kernel, or"
        " step by step, the same bits"
    )


def rate(work: Callable[[], int], seconds: float) -> float:
    """Things a second, done once at least; the device has ended all of it."""
    torch.cuda.synchronize()
    begin, done = time.perf_counter(), 0
    while not done or time.perf_counter() - begin < seconds:
        done += work()
    torch.cuda.synchronize()
    return done / (time.perf_counter() - begin)


def in_turns(
    works: dict[str, Callable[[], int]], rounds: int, seconds: float
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
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
        {
            "model": uri,
            "stimulus": stimulus,
            "responses": kinds,
            "samples": 1 << 40,
            "numerics": numerics,
            "evaluation": "none",
        }
    )


@dataclass
class Shards:
    """Shards of one job, beside the forward pass alone."""

    job: Job
    middle: list[float] = field(default_factory=list)
    """Seconds of an image, but for the shard's end, over those of the forward pass just before."""
    end: list[float] = field(default_factory=list)
    """Seconds in which a shard's sums come to the CPU."""

    def numbers(self, forward: float) -> dict[str, float]:
        """Rate and ratios of a shard of a long run, where the forward pass alone makes so many
        images a second.
        """
        images = planned(self.job, forward)
        ends = np.median(self.end) * forward / images
        ratios = 1 / (np.array(self.middle) + ends)
        return {
            "images_per_second": forward * float(np.median(ratios)),
            "ratio": float(np.median(ratios)),
            "lowest": float(ratios.min()),
            "middle": float(np.median(1 / np.array(self.middle))),
            "end_seconds": float(np.median(self.end)),
            "shard_images": images,
        }


def model_rates(
    uri: str,
    dtype: str,
    mode: str | None,
    batch: int,
    device: torch.device,
    rounds: int,
    seconds: float,
) -> dict[str, dict[str, float]]:
    """The forward pass alone, and whole shards that keep labels, or the logits of all classes
    as well.
    """
    specs = {name: model_spec(uri, dtype, batch, mode, kinds) for name, kinds in RESPONSES.items()}
    network = load_network(specs["label"], "cuda")
    shards = {name: Shards(resolve(spec, network).job) for name, spec in specs.items()}
    stimulus = shards["label"].job.stimulus
    shown = [
        stimulus.images(grid(stimulus.noise, i * batch, (i + 1) * batch, device), device)
        for i in range(READY)
    ]
    ready = [network.feed.ready(images) for images in shown]

    def forward() -> int:
        with torch.inference_mode():
            for x in ready:
                network.network.forward(x)
        return batch * READY

    rate(forward, seconds / 2)
    images = round(rate(forward, seconds / 2) * seconds / batch) * batch
    limits, at = list[float](), 0
    for turn in range(rounds + 1):  # the first is not counted
        for slices in shards.values():
            limit = rate(forward, seconds)
            begin = time.perf_counter()
            found, phases = run_shard(slices.job, network, at, at + images)
            taken, at = time.perf_counter() - begin, at + images
            del found  # here, not in the next slice: 1.2 GB are given back in 40 ms
            if turn:
                limits.append(limit)
                slices.middle.append((taken - phases["fetch"]) / images * limit)
                slices.end.append(phases["fetch"])
    best = float(np.median(limits))
    return {"forward only": {"images_per_second": best, "ratio": 1.0}} | {
        name: slices.numbers(best) for name, slices in shards.items()
    }


def planned(job: Job, rate: float) -> int:
    """Images of a shard of a long run of one worker."""
    batch, n = job.spec.numerics.batch, 1 << 40
    return plan([(0, n)], n, 1, Cut(batch, batch / rate, *moment_size(job))).shard


def part_seconds(
    uri: str, dtype: str, batch: int, device: torch.device, seconds: float
) -> dict[str, float]:
    """What each part that we add takes for one image, done alone, in seconds."""
    network = load_network(model_spec(uri, dtype, batch, None, ["label"]), "cuda")
    job = resolve(model_spec(uri, dtype, batch, None, ["label", "logits"]), network).job
    noise, k, n = job.stimulus.noise, len(job.names), 27 * batch  # a set, on a large device
    shown, levels = grid(noise, 0, n, device), network.feed.levels(job.stimulus)
    outputs = torch.cat(
        [
            network.answer_begun(fed(part, levels, job.stimulus))
            for part in torch.split(shown, batch)
        ]
    )
    responder = Responder.of(job.spec.responses, job.points, device)
    _, counted, answers = responder(outputs).counted()
    assert counted.all(), "all images are counted"
    label = {"label": answers["label"]}
    assert isinstance(answers["label"], Selected)
    assert isinstance(answers["logits"], Values)
    sums = {name: DeviceMoments(job.no_images(), device) for name in ("label", "all")}

    def of(work: Callable[[], Any]) -> float:
        def counts() -> int:
            with torch.inference_mode():
                work()
            return n

        rate(counts, 0.0)
        return 1 / rate(counts, seconds)

    return {
        "noise": of(lambda: grid(noise, n, 2 * n, device)),
        "what the network is fed": of(
            lambda: [fed(part, levels, job.stimulus) for part in torch.split(shown, batch)]
        ),
        f"responses, logits of {k:,} classes": of(lambda: responder(outputs)),
        "moments, labels": of(lambda: sums["label"].update(shown, label)),
        f"moments, labels and logits of {k:,} classes": of(
            lambda: sums["all"].update(shown, answers)
        ),
    }


def told(record: dict[str, Any]) -> str:
    """The tables."""
    models = [
        (
            name,
            what,
            f"{found['images_per_second']:,.0f}",
            f"{found['ratio']:.3f}",
            f"{found['lowest']:.3f}" if "lowest" in found else "",
        )
        for name, rates in record["models"].items()
        for what, found in rates.items()
    ]
    parts = [(name, f"{1e6 * seconds:.2f}") for name, seconds in record["part_seconds"].items()]
    noise = ", ".join(f"{name} {values:.2g}" for name, values in record["noise"].items())
    texts = [
        (
            f"{record['device']}, torch {record['torch']}, batches of {record['batch']} images of 3"
            f" x 224 x 224; the device took {record['peak_memory_gib']:.0f} GiB at most. Values a"
            f" second: {noise}."
        ),
        table(("network", "what", "images/s", "ratio", "lowest"), models),
        table(("part, done alone", "us an image"), parts),
    ]
    fastest = [
        rates["logits of all classes"]
        for name, rates in record["models"].items()
        if name.startswith("ResNet-18, bfloat16")
    ]
    if fastest:
        best = max(fastest, key=lambda found: found["images_per_second"])
        texts.append(
            "The sums of 1,000 logits come to the CPU once a shard, here every"
            f" {best['shard_images'] / 1e6:.1f} million images, in {best['end_seconds']:.2f} s."
            " **Projection:** 10^8 images through ResNet-18 with the logits of all classes take"
            f" {1e8 / best['images_per_second'] / 60:.0f} minutes at this rate."
        )
    return "\n\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of a slice")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--compile",
        choices=["default", "max-autotune"],
        default="default",
        help="how the compiled ones are",
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent,
        help="folder of gpu.json, and of a README.md with a place for it",
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; this measures one")

    device = torch.device("cuda")
    set_up_process("cuda", torch.get_num_threads())
    check(device)
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": str(torch.__version__),
        "batch": args.batch,
    }
    print(f"{record['device']}, torch {record['torch']}")
    record["noise"] = noise_rates(device, args.rounds, args.seconds / 4)
    for name, values in record["noise"].items():
        print(f"{values:12.3g} values/s  {name}")
    record["part_seconds"] = part_seconds(
        MODELS["ResNet-18"], "bfloat16", args.batch, device, args.seconds / 8
    )
    for name, value in record["part_seconds"].items():
        print(f"{value * 1e6:12.3f} us/image  {name}", flush=True)
    record["models"] = {}
    for dtype, mode in (("bfloat16", args.compile), ("bfloat16", None), ("float32", None)):
        for network, uri in MODELS.items():
            found = model_rates(uri, dtype, mode, args.batch, device, args.rounds, args.seconds)
            name = f"{network}, {dtype}" + (f", compiled ({mode})" if mode else "")
            record["models"][name] = found
            for what, numbers in found.items():
                print(
                    f"{numbers['images_per_second']:12,.0f} images/s  {numbers['ratio']:.3f} "
                    f" {name}: {what}",
                    flush=True,
                )
            record["peak_memory_gib"] = torch.cuda.max_memory_reserved() / 2**30
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
    text = told(record)
    print(f"\n{text}")
    put(args.out / "README.md", "gpu", text)


if __name__ == "__main__":
    main()
