"""Everybody's images a second side by side: the network alone, this project, the authors' loop, Ray
Data, and a DataLoader.

    python benchmarks/speed.py [--case "MNIST CNN"]... [--out benchmarks]

One contender at a time works for a second or two, and they take turns, so that what else the
machine does hits all of them. Each slice of work gives one ratio to the limit (the forward pass
alone on as many cores); medians are reported. Writes ``speed.json`` and ``speed.png``, and the
table in ``README.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import CONTENDERS, LIMITS, ON_RAY, Case, Slice, serve
from matplotlib.figure import Figure
from numpy.typing import NDArray
from page import put, table

from wna_ray.drawing.sheets import png

LARGE = (3, 224, 224)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CASES = (
    Case("MNIST CNN", "bundled:mnist-cnn", (1, 28, 28), 128, 10_000, 1.5, 4),
    Case(
        "CIFAR ResNet-20",
        "python:wna_ray.networks:cifar_resnet20",
        (3, 32, 32),
        128,
        1_280,
        1.5,
        4,
        normalise=IMAGENET,
    ),
    Case("SqueezeNet 1.1", "torchvision:squeezenet1_1?seed=1", LARGE, 8, 64, 2.0, 3),
    Case("MobileNet-V2", "torchvision:mobilenet_v2?seed=1", LARGE, 8, 64, 2.0, 3),
    Case("ResNet-18", "torchvision:resnet18?seed=1", LARGE, 8, 32, 2.0, 3),
    Case("ResNet-50", "torchvision:resnet50?seed=1", LARGE, 8, 16, 2.0, 3),
)
ONE = {LIMITS[0], "wna_ray, in process", "wna_ray, Ray, 1 worker"}
"""Contenders that have one core; the others have all."""
OURS = "wna_ray, Ray, a worker a core"
AUTHORS, RAY_DATA, LOADER = "authors' loop", "Ray Data map_batches", "DataLoader and a loop"
EVERY_OTHER = {"wna_ray, in process", AUTHORS, LOADER}
"""Contenders in every other round: the first, the third, ..."""
LAST = {RAY_DATA}
"""Once, after all rounds: its actors load the network for every slice, twenty seconds, and its
cluster is busy for a while after that.
"""


def faster(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The first network compiled, too; and in bfloat16 where the processor multiplies that."""
    first, *others = cases
    more = [first, replace(first, name=f"{first.name}, compiled", compile="default")]
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        more.append(replace(first, name=f"{first.name}, bfloat16", dtype="bfloat16"))
        more.append(
            replace(
                first, name=f"{first.name}, bfloat16, compiled", dtype="bfloat16", compile="default"
            )
        )
    else:
        print(
            "no bfloat16: this processor has no instructions for it, and emulates it many times"
            " slower than float32"
        )
    return (*more, *others)


def takes_part(case: Case, name: str) -> bool:
    """Whether a contender takes part: where this project compiles or has other arithmetic, of
    the others the authors' loop, as it is.
    """
    return (case.dtype, case.compile) == ("float32", None) or name not in {RAY_DATA, LOADER}


def limit_of(name: str) -> str:
    """Which limit a contender is compared with."""
    return LIMITS[0] if name in ONE else LIMITS[1]


class Host:
    """A process with some contenders."""

    def __init__(self, cores: int, cluster: bool = False) -> None:
        context = multiprocessing.get_context("forkserver")
        self._line, other = context.Pipe()
        self._process = context.Process(target=serve, args=(cores, cluster, other))
        self._process.start()
        other.close()

    def send(self, name: str, what: Any) -> None:
        """Send a message of `contenders.serve`."""
        self._line.send((name, what))

    def answer(self) -> Any:
        """The answer to the oldest message that has none yet."""
        line: Connection = self._line
        found = line.recv()
        if isinstance(found, str) and found:
            raise SystemExit(found)
        return found

    def ask(self, name: str, what: Any) -> Any:
        """Send a message, and wait for the answer."""
        self.send(name, what)
        return self.answer()

    def end(self) -> None:
        self._line.send(None)
        self._process.join(60)
        self._process.kill()


@contextmanager
def hosts(names: list[str], cluster: Host, cores: int) -> Iterator[dict[str, Host]]:
    """A host for each contender; those on Ray have one together."""
    found = {name: cluster if name in ON_RAY else Host(cores) for name in names}
    try:
        yield found
    finally:
        for host in found.values():
            if host is not cluster:
                host.end()


Slices = dict[str, list[tuple[float, Slice]]]
"""Of each contender, and when they were."""


def measure(case: Case, names: list[str], cluster: Host, cores: int) -> Slices:
    """Slices of every contender, in turns: those first that were last in the round before."""
    found: Slices = {name: [] for name in names}

    with hosts(names, cluster, cores) as there:

        def work(name: str) -> None:
            begin = time.perf_counter()
            part: Slice = there[name].ask(name, case.seconds)
            found[name].append(((begin + time.perf_counter()) / 2, part))
            print(
                f"  {case.name}: {part.images / part.seconds:10,.1f} images/s  {name}", flush=True
            )

        for what in (case, ""):  # all start at once, and then get ready at once
            for name in names:
                there[name].send(name, what)
            for name in names:
                there[name].answer()
        for i in range(case.rounds):
            for name in names if i % 2 == 0 else reversed(names):
                if name not in LAST and (i % 2 == 0 or name not in EVERY_OTHER):
                    work(name)
        for name in LAST.intersection(names):
            work(name)
            work(limit_of(name))
        for name in names:
            there[name].ask(name, None)
    return found


def beside(
    parts: list[tuple[float, Slice]], limits: list[tuple[float, Slice]]
) -> NDArray[np.float64]:
    """A contender's rates over its limit's at the same time, which is interpolated between
    slices of that.
    """
    (times, rates), (when, most) = (
        np.array([(at, part.images / part.seconds) for at, part in some]).T
        for some in (parts, limits)
    )
    ratios: NDArray[np.float64] = rates / np.interp(times, when, most)
    return ratios


def summary(found: Slices) -> dict[str, dict[str, Any]]:
    """Rate, ratio to the limit at the same time and its range over slices, phases and memory of
    each contender; and how many times as fast as others that have all cores, which is a quotient of
    such ratios.
    """
    out: dict[str, dict[str, Any]] = {}
    for name, parts in found.items():
        ratio = beside(parts, found[limit_of(name)])
        phases = {
            phase: sum(part.phases.get(phase, 0.0) for _, part in parts)
            for phase in parts[0][1].phases
        }
        segments = phases.pop("segment", 0.0)
        total = sum(phases.values())
        out[name] = {
            "images_per_second": float(
                np.median([part.images / part.seconds for _, part in parts])
            ),
            "ratio": float(np.median(ratio)),
            "lowest": float(ratio.min()),
            "highest": float(ratio.max()),
            "phases": {phase: taken / total for phase, taken in phases.items()},
            "segment_seconds": segments / len(parts),
            "megabytes": max(part.memory for _, part in parts),
        }
    for name in out.keys() - ONE:
        others = {AUTHORS, RAY_DATA, LOADER} & out.keys() - {name}
        out[name]["times_as_fast_as"] = {
            other: out[name]["ratio"] / out[other]["ratio"]
            for other in CONTENDERS
            if other in others
        }
    return out


def rates_table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: a line a contender, a column a network; rate, ratio to the limit, peak memory.
    Then how far ahead of others we are.
    """

    def cell(name: str, found: dict[str, Any] | None) -> str:
        if found is None:
            return ""
        rate, ratio = (
            found["images_per_second"],
            "" if name in LIMITS else f" ({found['ratio']:.2f})",
        )
        return f"{rate:{',.0f' if rate >= 100 else '.1f'}}{ratio}, {found['megabytes']:,.0f} MB"

    names = next(iter(results.values()))
    rows = [(name, *(cell(name, case.get(name)) for case in results.values())) for name in names]
    if OURS in names:
        ahead = [case[OURS]["times_as_fast_as"] for case in results.values()]
        rows += [
            (
                f"{OURS}: times as fast as {other}",
                *(f"**{of[other]:.2f}**" if other in of else "" for of in ahead),
            )
            for other in ahead[0]
        ]
    return table(("", *results), rows)


def phases_table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: where a worker's time goes, and what comes once a segment."""
    contenders = next(iter(results.values()))
    name = next(
        (n for n, found in contenders.items() if n.startswith("wna_ray, Ray") and found["phases"]),
        None,
    )
    if name is None:
        return ""
    rows = (
        (phase, *(f"{100 * case[name]['phases'][phase]:.2f}" for case in results.values()))
        for phase in contenders[name]["phases"]
    )
    commits = (
        "merging and committing a segment, ms",
        *(f"{1000 * case[name]['segment_seconds']:.0f}" for case in results.values()),
    )
    return table((f"{name}: % of the time in shards", *results), (*rows, commits))


def figure(results: dict[str, dict[str, dict[str, Any]]], told: str) -> bytes:
    """Ratios to the limit, their ranges over rounds as lines."""
    names = [name for name in next(iter(results.values())) if name not in LIMITS]
    drawn = Figure(figsize=(1.2 + 1.5 * len(results), 4.4), layout="constrained")
    axis = drawn.subplots()
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        x = np.arange(len(results)) + (i - (len(names) - 1) / 2) * width
        there = [case.get(name, {}) for case in results.values()]
        ratio, low, high = (
            np.array([found.get(key, np.nan) for found in there])
            for key in ("ratio", "lowest", "highest")
        )
        axis.bar(x, ratio, width, label=name, color=f"C{i}")
        axis.vlines(x, low, high, color="black", linewidth=0.8)
    axis.axhline(1, color="0.3", linewidth=0.8)
    axis.set_xticks(range(len(results)), list(results))
    axis.set_ylabel("rate over that of the forward pass alone,\non as many cores")
    axis.spines[["top", "right"]].set_visible(False)
    drawn.legend(fontsize=8, frameon=False, ncols=3, loc="outside lower center")
    drawn.suptitle(f"Noise averaged by labels: speed beside the limit\n{told}", fontsize=10)
    return png(drawn)


def main() -> None:
    all_cases = faster(CASES)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case",
        action="append",
        choices=[case.name for case in all_cases],
        help="a network; all by default",
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=list(CONTENDERS),
        help="besides the limits; all by default",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ["PYTHONPATH"] = str(
        Path(__file__).parent
    )  # or the server that processes are forked from finds nothing to load
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [Path(__file__).stem, "torchvision"]
    )
    cores, begin = len(os.sched_getaffinity(0)), time.perf_counter()
    names = [
        name
        for name in CONTENDERS
        if args.contender is None or name in args.contender or name in LIMITS
    ]
    cases = [case for case in all_cases if args.case is None or case.name in args.case]
    cluster = Host(cores, cluster=True)
    try:
        results = {
            case.name: summary(
                measure(case, [name for name in names if takes_part(case, name)], cluster, cores)
            )
            for case in cases
        }
    finally:
        cluster.end()
    rounds = " to ".join(sorted({str(case.rounds) for case in cases}))  # none has more than nine
    capability = torch.backends.cpu.get_cpu_capability()
    told = (
        f"{cores} cores ({capability}), torch {torch.__version__.partition('+')[0]}, float32 unless"
        f" told, medians of {rounds} rounds"
    )
    fewer = "(in process, the authors' loop and the DataLoader: of every other one; Ray Data: one)"
    text = f"{told} {fewer}.\n\n{rates_table(results)}\n\n{phases_table(results)}"
    print(f"\n{text}\n\n{(time.perf_counter() - begin) / 60:.1f} minutes")
    if args.case is not None or args.contender is not None:
        return  # what is kept is whole
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": platform.machine(),
        "cpu_capability": capability,
        "cores": cores,
        "torch": str(torch.__version__),
        "cases": {case.name: asdict(case) for case in cases},
        "results": results,
    }
    (args.out / "speed.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / "speed.png").write_bytes(figure(results, told))
    put(args.out / "README.md", "speed", text)


if __name__ == "__main__":
    main()
