"""Everybody's images a second side by side: the network alone, this project, the authors' loop, Ray Data, and a DataLoader.

    python benchmarks/speed.py [--case "MNIST CNN"]... [--rounds 3] [--seconds 4] [--out benchmarks]

Each contender is a process of its own that waits until it is asked; one at a time works for a few seconds, and they take turns, so
that what else the machine does hits all of them. Each round gives one ratio to the limit (the forward pass alone on as many cores);
medians are reported. Writes ``speed.json``, ``speed.png`` and the table in ``README.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import CONTENDERS, Case, Slice, serve
from matplotlib.figure import Figure

from wna_ray.sheets import png

CASES = (
    Case("MNIST CNN", "bundled:mnist-cnn", (1, 28, 28), 128, 10_000),
    Case("CIFAR ResNet-20", "python:wna_ray.networks:cifar_resnet20", (3, 32, 32), 128, 2_560),
    Case("SqueezeNet 1.1", "torchvision:squeezenet1_1?seed=1", (3, 224, 224), 32, 128),
    Case("MobileNet-V2", "torchvision:mobilenet_v2?seed=1", (3, 224, 224), 32, 128),
    Case("ResNet-18", "torchvision:resnet18?seed=1", (3, 224, 224), 32, 128),
    Case("ResNet-50", "torchvision:resnet50?seed=1", (3, 224, 224), 16, 64),
)
ONE = {"wna_ray, in process", "wna_ray, Ray, 1 worker"}
"""Contenders that have one core; the others have all."""
LIMITS = ("limit, one core", "limit, all cores")
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"


def limit_of(name: str) -> str:
    """Which limit a contender is compared with."""
    return LIMITS[0] if name in ONE or name == LIMITS[0] else LIMITS[1]


def measure(case: Case, names: list[str], cores: int, rounds: int, seconds: float) -> dict[str, list[Slice]]:
    """Slices of every contender, a round each."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    processes = []
    for name in names:  # one after another: those that are ready only wait
        lines[name], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, case, cores, other)))
        processes[-1].start()
        other.close()
        lines[name].recv()
    found: dict[str, list[Slice]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names if i % 2 == 0 else reversed(names):
            lines[name].send(seconds)
            found[name].append(lines[name].recv())
            part = found[name][-1]
            print(f"  {case.name}, round {i + 1}: {part.images / part.seconds:10,.1f} images/s  {name}", flush=True)
    for line in lines.values():
        line.send(None)
    for process in processes:
        process.join()
    return found


def summary(found: dict[str, list[Slice]]) -> dict[str, dict[str, Any]]:
    """Rate, ratio to the limit and its range over rounds, phases and memory of each contender."""
    rates = {name: np.array([part.images / part.seconds for part in parts]) for name, parts in found.items()}
    out: dict[str, dict[str, Any]] = {}
    for name, parts in found.items():
        ratio = rates[name] / rates[limit_of(name)]
        phases = {phase: sum(part.phases[phase] for part in parts) for part in parts[:1] for phase in part.phases}
        total = sum(phases.values())
        out[name] = {
            "images_per_second": float(np.median(rates[name])),
            "ratio": float(np.median(ratio)),
            "lowest": float(ratio.min()),
            "highest": float(ratio.max()),
            "phases": {phase: taken / total for phase, taken in phases.items()},
            "megabytes": max(part.memory for part in parts),
        }
    return out


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: a line a contender, a column a network; rate, and ratio to the limit."""
    cases = list(results)
    lines = ["| |" + "|".join(f" {case} " for case in cases) + "|", "|---|" + "---|" * len(cases)]
    for name in next(iter(results.values())):
        cells = []
        for case in cases:
            found = results[case][name]
            ratio = "" if name in LIMITS else f" ({found['ratio']:.2f})"
            cells.append(f" {found['images_per_second']:,.0f}{ratio} ")
        lines.append(f"| {name} |" + "|".join(cells) + "|")
    return "\n".join(lines)


def figure(results: dict[str, dict[str, dict[str, Any]]], told: str) -> bytes:
    """Ratios to the limit, their ranges over rounds as lines."""
    names = [name for name in next(iter(results.values())) if name not in LIMITS]
    drawn = Figure(figsize=(1.2 + 1.5 * len(results), 4.4), layout="constrained")
    axis = drawn.subplots()
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        x = np.arange(len(results)) + (i - (len(names) - 1) / 2) * width
        ratio, low, high = (np.array([case[name][key] for case in results.values()]) for key in ("ratio", "lowest", "highest"))
        axis.bar(x, ratio, width, label=name, color=f"C{i}")
        axis.vlines(x, low, high, color="black", linewidth=0.8)
    axis.axhline(1, color="0.3", linewidth=0.8)
    axis.set_xticks(range(len(results)), list(results))
    axis.set_ylabel("rate over that of the forward pass alone,\non as many cores")
    axis.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    axis.spines[["top", "right"]].set_visible(False)
    drawn.suptitle(f"Noise averaged by labels: speed beside the limit\n{told}", fontsize=10)
    return png(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="a network; all by default")
    parser.add_argument("--contender", action="append", choices=list(CONTENDERS), help="besides the limits; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()

    cores, begin = len(os.sched_getaffinity(0)), time.perf_counter()
    names = [name for name in CONTENDERS if args.contender is None or name in args.contender or name in LIMITS]
    results = {}
    for case in CASES:
        if args.case is None or case.name in args.case:
            results[case.name] = summary(measure(case, names, cores, args.rounds, args.seconds))
    told = f"{cores} cores ({torch.backends.cpu.get_cpu_capability()}), float32, medians of {args.rounds} rounds of {args.seconds:g} s"
    print(f"\n{told}; in brackets the ratio to the limit on as many cores\n\n{table(results)}\n")
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "torch": str(torch.__version__),
        "cases": {case.name: asdict(case) for case in CASES if case.name in results},
        "rounds": args.rounds,
        "seconds": args.seconds,
        "results": results,
    }
    (args.out / "speed.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / "speed.png").write_bytes(figure(results, told))
    readme = args.out / "README.md"
    if readme.exists() and BEGIN in readme.read_text():
        before, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n\n{told[0].upper()}{told[1:]}.\n\n{table(results)}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
