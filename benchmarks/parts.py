"""What each part of a job costs on one core, and how that grows: noise, moments, merging,
covariance, arithmetic, memory.

    python benchmarks/parts.py [--out benchmarks]

Things that are compared take turns. Writes ``parts.json``, and the tables in ``README.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matrix_free import forward_seconds
from numpy.typing import NDArray
from page import put, table
from scale import resident
from speed import CASES
from torch.utils.flop_counter import FlopCounterMode

from wna_ray import Spec, StcSpec, run, run_stc
from wna_ray.events import Event, ShardDone
from wna_ray.execution.plan import SHARD_SECONDS
from wna_ray.execution.process import keep_freed_memory
from wna_ray.kinds.average.result import read_outs
from wna_ray.moments.kept import Stored
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import Dense, Response, Selected
from wna_ray.noise.stream import KINDS, Noise
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.shards.shard import run_shard
from wna_ray.studies.compare import correlate

LARGE = (3, 224, 224)
SMALL = (1, 28, 28)
PASSES = 2  # of a network that is timed plain and compiled, in one turn
PROFILED = [case for case in CASES if case.name in ("MNIST CNN", "SqueezeNet 1.1")]


def seconds(call: Callable[[], object]) -> float:
    """That a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds ``(rounds,)`` of each, after one call that does not count."""
    for call in calls.values():
        call()
    taken = {name: np.empty(rounds) for name in calls}
    for i in range(rounds):
        for name, call in calls.items():
            taken[name][i] = seconds(call)
    return taken


def noise(record: dict[str, Any]) -> str:
    """Noise beside the generators that everybody uses."""
    images = 512
    values = images * 784
    out, generator = torch.empty(values), np.random.default_rng(0)
    calls: dict[str, Callable[[], object]] = {
        "`torch.randn`": lambda: torch.randn(values, out=out),
        "`torch.rand`": lambda: torch.rand(values, out=out),
        "NumPy's normal generator, float32": lambda: generator.standard_normal(
            values, dtype=np.float32
        ),
    }
    for kind in KINDS:
        source = Noise(kind, SMALL, 1, 0.1 if kind == "sparse" else None)
        calls[f"wna_ray, {kind} (int8 grid)"] = lambda source=source: source.grid(0, images)
    gaussian = Noise("gaussian", SMALL, 1)
    calls["wna_ray, gaussian as float32 images"] = lambda: (
        torch.from_numpy(gaussian.grid(0, images)).to(torch.float32).mul_(0.3).add_(0.5)
    )
    rows = []
    for name, taken in (found := in_turns(calls, 60)).items():
        ratio = found["`torch.randn`"] / taken
        low, high = np.percentile(ratio, [5, 95])
        record[name] = {
            "values_per_second": values / float(np.median(taken)),
            "ratio": float(np.median(ratio)),
        }
        rows.append(
            (
                name,
                f"{values / np.median(taken):.2e}",
                f"{np.median(ratio):.2f} ({low:.2f} to {high:.2f})",
            )
        )
    return table(("noise", "values/s", "beside `torch.randn` (5 to 95 % of 60 rounds)"), rows)


def moments(record: dict[str, Any]) -> str:
    """Adding images to moments: by classes and by pixels, and what one more of each costs."""
    rng = np.random.default_rng(0)
    sizes = (*itertools.product((10, 100, 1000), (784, 3072, 12_288)), (10, 150_528))
    rows, features, dense = [], [], []
    for k, d in sizes:
        n = max(256, min(1 << 12, (1 << 23) // d))
        grid = rng.integers(-127, 128, (n, d)).astype(np.int8)
        answers: dict[str, dict[str, Response]] = {
            "label": {"label": Selected(rng.integers(0, k, n), np.ones(n, dtype=np.int64))},
            "logits": {"logits": Dense(rng.integers(-1 << 22, 1 << 22, (n, k)))},
        }

        def add(
            kind: str,
            d: int = d,
            grid: NDArray[np.int8] = grid,
            answers: dict[str, dict[str, Response]] = answers,
        ) -> None:
            Moments.identity(d, [kind]).update(grid, answers[kind])

        taken = in_turns({kind: lambda kind=kind, add=add: add(kind) for kind in answers}, 3)
        each = {kind: float(np.median(t)) / n for kind, t in taken.items()}
        record[f"{k} x {d}"] = {"images": n} | {
            f"{kind}_seconds_per_image": s for kind, s in each.items()
        }
        rows.append(
            (f"{k:,}", f"{d:,}", f"{1e6 * each['label']:,.1f}", f"{1e6 * each['logits']:,.1f}")
        )
        features.append((k * d, d))
        dense.append(each["logits"])
    # Each kd and each d costs its share; fitted to relative errors, or the largest size would
    # decide alone.
    a = np.array(features) / np.array(dense)[:, None]
    (pair, pixel), *_ = np.linalg.lstsq(a, np.ones(len(a)), rcond=None)
    record["seconds_per_class_and_pixel"], record["seconds_per_pixel"] = float(pair), float(pixel)
    told = table(("classes", "pixels", "label, us an image", "logits, us an image"), rows)
    return (
        f"{told}\n\nSo an extra class costs {1e12 * pair:.0f} ns an image for each thousand pixels,"
        f" and an extra pixel {1e9 * pixel:.2f} ns and {1e9 * pair:.3f} ns for each class (least"
        " squares on relative errors)."
    )


def merging(record: dict[str, Any]) -> str:
    """Two partials into one."""
    rows = []
    for k, d in ((10, 784), (1000, 3072), (100, 150_528), (1000, 150_528)):
        rng = np.random.default_rng(0)
        x = rng.integers(-3, 4, (64, d)).astype(np.int8)
        one = Moments.identity(d, ["logits"]).update(
            x, {"logits": Dense(rng.integers(-9, 9, (64, k)))}
        )
        taken = float(np.median(in_turns({"merge": lambda one=one: one.merge(one)}, 3)["merge"]))
        record[f"{k} x {d}"] = taken
        rows.append((f"{k:,} x {d:,}", f"{k * d * 8 / 1e6:,.1f}", f"{1e3 * taken:,.2f}"))
    return table(("logits of classes x pixels", "MB", "merging two, ms"), rows)


def covariance(record: dict[str, Any]) -> str:
    """Later passes over kept responses: the whole matrix of small images, and without a matrix
    at ImageNet's size.
    """
    taken: dict[str, float] = {}

    def note(event: Event) -> None:
        if isinstance(event, ShardDone):
            taken["seconds"] = taken.get("seconds", 0.0) + sum(event.seconds.values())
            taken["images"] = taken.get("images", 0) + event.stop - event.start

    def each(spec: dict[str, Any], **asked: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            kept = {"keep_responses": True, "evaluation": "none"}
            run(Spec.parse(spec | kept), f"{folder}/run", executor="local")
            taken.clear()
            run_stc(
                StcSpec(run=f"{folder}/run", **asked),
                f"{folder}/stc",
                executor="local",
                callbacks=[note],
            )
        return taken["seconds"] / taken["images"]

    numerics = {"batch": 128, "device": "cpu"}
    small = {
        "model": "bundled:mnist-cnn",
        "stimulus": {"kind": "gaussian", "shape": SMALL, "offset": 0.5, "scale": 0.25},
    }
    dense = each(
        small | {"responses": ["logits"], "samples": 8_192, "numerics": numerics},
        units=["3"],
        fresh=0,
    )
    large = {
        "model": "python:matrix_free:planted",
        "stimulus": {"kind": "gaussian", "shape": LARGE, "space": "input", "scale": 1.0},
    }
    free = each(
        large
        | {
            "responses": ["activation"],
            "samples": 1024,
            "numerics": numerics | {"batch": 32},
        },
        method="matrix-free",
        axes=4,
        passes=1,
    )
    forward = forward_seconds()
    record |= {"dense_784": dense, "matrix_free_150528": free, "mobilenet_v2_forward": forward}
    rows = [
        ("all of the (784, 784) matrix of one logit", f"{1e6 * dense:,.0f}", ""),
        (
            "matrix-free, 4 axes of 150,528 values, a pass",
            f"{1e6 * free:,.0f}",
            f"{free / forward:.2f}",
        ),
    ]
    return table(("a later pass", "us an image", "beside MobileNet-V2's forward pass"), rows)


def arithmetic(record: dict[str, Any]) -> str:
    """How many labels change with the arithmetic, and whether maps agree as their reliabilities
    predict.
    """
    images = 8_192
    spec = {
        "model": "bundled:mnist-cnn",
        "stimulus": {"kind": "gaussian", "shape": SMALL, "offset": 0.5, "scale": 0.25},
        "responses": ["label", "logits"],
        "samples": images,
    }
    plain = load_network(Spec.parse(spec), "cpu")
    maps, changed = {}, {}
    for seed, name in enumerate(("float32", "float32 again", "bfloat16", "float16")):
        changed_spec = Spec.parse(
            spec | {"seed": 100 + seed, "numerics": {"dtype": name.split()[0]}}
        )
        network = load_network(changed_spec, "cpu")
        job, stored = resolve(changed_spec, network).job, list[Stored]()
        found, _ = run_shard(job, network, 0, images, stored)
        readouts = read_outs(job.spec, job.stimulus, found, job.identity, list(job.names))
        maps[name] = next(r for r in readouts if r.kind == "logits").z
        grids = (job.stimulus.noise.grid(a, a + 128) for a in range(0, images, 128))
        expected_labels = np.concatenate(
            [plain(job.stimulus.images(grid)).argmax(axis=1) for grid in grids]
        )
        changed[name] = float((Stored.join(stored).values["label"][:, 0] != expected_labels).mean())
    rows = []
    for dtype in ("float32 again", "bfloat16", "float16"):
        pair = correlate(maps["float32"], maps[dtype])
        expected = np.sqrt(pair.reliability_a * pair.reliability_b)
        error = float(np.sqrt(np.square(pair.standard_error).sum()) / len(pair.r))
        record[dtype] = {
            "labels_changed": changed[dtype],
            "correlation": float(pair.r.mean()),
            "expected": float(expected.mean()),
            "corrected": float(pair.corrected.mean()),
            "standard_error": error,
        }
        rows.append(
            (
                dtype,
                f"{100 * changed[dtype]:.2f} %",
                f"{pair.r.mean():.4f}",
                f"{expected.mean():.4f}",
                f"{pair.corrected.mean():.4f} ± {error:.4f}",
            )
        )
    return table(
        (
            "beside float32",
            f"labels changed (of the same {images:,} images)",
            "correlation of logit maps, other noise",
            "as reliabilities predict",
            "corrected: of the true maps",
        ),
        rows,
    )


def compiling(record: dict[str, Any]) -> str:
    """The forward pass with `numerics: {compile: default}` beside the plain one, channels_last
    both.
    """
    rows = []
    for name, uri, shape, batch in (
        ("MNIST CNN", "bundled:mnist-cnn", SMALL, 128),
        ("MobileNet-V2", "torchvision:mobilenet_v2?seed=1", LARGE, 16),
    ):
        calls: dict[str, Callable[[], object]] = {}
        took = 0.0
        for mode in (None, "default"):
            stimulus = {"kind": "uniform", "shape": shape, "offset": 0.5, "scale": 0.5}
            numerics = {"batch": batch, "device": "cpu", "compile": mode}
            spec = Spec.parse(
                {
                    "model": uri,
                    "stimulus": stimulus,
                    "responses": ["label"],
                    "samples": batch,
                    "numerics": numerics,
                }
            )
            network = load_network(spec, "cpu")
            images = torch.rand(batch, *shape)
            took = seconds(lambda network=network, images=images: network(images))
            with torch.inference_mode():
                fed = network.ready(images)

            def forward(network: FedNetwork = network, fed: torch.Tensor = fed) -> None:
                with torch.inference_mode():
                    for _ in range(PASSES):
                        network.network.forward(fed)

            calls[str(mode)] = forward
        taken = in_turns(calls, 5)
        ratio = taken["None"] / taken["default"]
        record[name] = {"seconds_to_compile": took, "ratio": float(np.median(ratio))}
        pays = took / (float(np.median(taken["None"] - taken["default"])) / (PASSES * batch))
        told = f"{pays:,.0f}" if pays > 0 else "never"
        rows.append(
            (
                name,
                f"{PASSES * batch / np.median(taken['None']):,.0f}",
                f"{np.median(ratio):.2f}",
                f"{took:.0f}",
                told,
            )
        )
    return table(
        (
            "network",
            "images/s, plain",
            "compiled: times as fast",
            "first batch, s",
            "pays after images",
        ),
        rows,
    )


def operators(call: Callable[[], object]) -> dict[str, float]:
    """Each operator's share of the time of a call, its own callees not counted, the largest
    first.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(8):
            call()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: event.self_cpu_time_total / total for event in events}


def profile(record: dict[str, Any]) -> str:
    """Where the time of a core goes that averages noise by labels: what we add to the forward
    pass, and the forward pass by operators.
    """
    columns: dict[str, dict[str, float]] = {}
    rows_of_rates = []
    square = torch.rand(1024, 1024)
    of_product = 2 * len(square) ** 3
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    together = of_product / float(
        in_turns({"product": lambda: square @ square}, 100)["product"].min()
    )
    torch.set_num_threads(1)
    for case in PROFILED:
        network = load_network(case.spec(), "cpu")
        job = resolve(case.spec(), network).job
        grid = torch.from_numpy(job.stimulus.noise.grid(0, case.batch))
        fed = network.feed.begin(job.stimulus, grid)

        def forward(network: FedNetwork = network, fed: torch.Tensor = fed) -> None:
            with torch.inference_mode():
                network.network.forward(fed)

        taken = in_turns({"forward": forward, "product": lambda: square @ square}, 40)
        run_shard(job, network, 0, case.batch)
        batches = round(SHARD_SECONDS / float(np.median(taken["forward"])))
        _, phases = run_shard(job, network, 0, batches * case.batch)
        with FlopCounterMode(display=False) as counter:
            forward()
        operations = counter.get_total_flops() / case.batch
        shares = {phase: seconds / sum(phases.values()) for phase, seconds in phases.items()}
        parts = {name: shares["forward"] * share for name, share in operators(forward).items()}
        kept = {name: share for name, share in parts.items() if share >= 0.005}
        kept["other operators"] = shares["forward"] - sum(kept.values())
        columns[case.name] = {
            phase: share for phase, share in shares.items() if phase != "forward"
        } | kept

        reached = operations * case.batch / float(np.median(taken["forward"]))
        possible = of_product / float(np.median(taken["product"]))
        record[case.name] = {
            "shares": columns[case.name],
            "operations": operations,
            "a_second": reached,
        }
        record[case.name] |= {"of_large_products_a_second": possible, "on_all_cores": together}
        rows_of_rates.append(
            (
                case.name,
                f"{operations / 1e6:,.1f}",
                f"{reached / 1e9:.0f}",
                f"{possible / 1e9:.0f}",
                f"{together / 1e9:.0f}",
                f"{together / operations:,.0f}",
            )
        )
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [
        (
            f"`{n}`" if "::" in n else n,
            *(f"{100 * c[n]:.2f}" if n in c else "" for c in columns.values()),
        )
        for n in names
    ]
    rates = table(
        (
            "network",
            "million operations an image",
            "10^9 a second, forward pass",
            "product of two 1,024 x 1,024 matrices",
            "on all cores, at best",
            "images/s on all cores if all operations were as fast as that",
        ),
        rows_of_rates,
    )
    return f"{table(('% of the time', *columns), rows)}\n\n{rates}"


def memory(record: dict[str, Any]) -> str:
    """What a worker has resident after so many shards."""
    spec = Spec.parse(
        {
            "model": "bundled:mnist-cnn",
            "stimulus": {"kind": "gaussian", "shape": SMALL, "offset": 0.5, "scale": 0.25},
            "samples": 1 << 30,
            "evaluation": "none",
        }
    )
    network = load_network(spec, "cpu")
    job = resolve(spec, network).job
    rows, total = [], job.no_images()
    for i in range(200):
        made, _ = run_shard(job, network, i * 512, (i + 1) * 512)
        total = total.merge(made)
        if i + 1 in (10, 50, 100, 200):
            record[str(i + 1)] = resident()
            rows.append((f"{i + 1}", f"{(i + 1) * 512:,}", f"{resident() / 2**20:,.1f}"))
    return table(("shards", "images", "MiB resident"), rows)


PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Noise": noise,
    "Moments": moments,
    "Merging": merging,
    "Covariance": covariance,
    "Arithmetic": arithmetic,
    "Compiling": compiling,
    "Profile": profile,
    "Memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=list(PARTS), help="all by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "9"
    )  # or the profiler says that there is no CUDA driver
    torch.set_num_threads(1)
    keep_freed_memory()
    record: dict[str, Any] = {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }
    texts = []
    for name, part in PARTS.items():
        if args.part is None or name in args.part:
            begin = time.perf_counter()
            record[name.lower()] = {}
            texts.append(f"### {name}\n\n{part.__doc__}\n\n{part(record[name.lower()])}")
            print(f"\n{texts[-1]}\n\n({time.perf_counter() - begin:.0f} s)", flush=True)
    if args.part is None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "parts.json").write_text(json.dumps(record, indent=1) + "\n")
        put(args.out / "README.md", "parts", "\n\n".join(texts))


if __name__ == "__main__":
    main()
