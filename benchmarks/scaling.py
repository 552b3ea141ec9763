"""More workers, here and on paper: strong and weak scaling on Ray as far as the cores go, and what
8, 64 and 512 GPUs would do.

    python benchmarks/scaling.py [--shards 50000] [--out benchmarks]

Strong: the same job for 1, 2, ... workers. Weak: as much for each worker. Both are compared with
one job of one worker, before and after. A job is looked at from its first shard to its last commit;
starting and reading out, which depend on neither, are told apart. Then the driver's cost at 1,000
simulated workers, and a projection from that and from ``parts.json``, all of whose assumptions are
written down. Writes ``scaling.json``, and the tables in ``README.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from page import put, table
from scale import simulate

from wna_ray import Spec, run
from wna_ray.events import Event, RunFinished, RunStarted, SegmentCommitted, Stage
from wna_ray.execution.plan import Cut, fan_in, plan

IMAGES = 100_000  # for one worker
GPUS = (8, 64, 512)
RATES = (
    2_000,
    23_000,
    50_000,
    # images a second of one GPU: a guess for an old one; ResNet-50 and ResNet-18 on an H200, by
    # gpu.py
)
NETWORK = 1.25e9  # bytes a second of each machine, both ways
STORE = 100e6  # bytes a second of one commit
ROWS, ROW_BYTES = 1_001, 8 * 3 * 224 * 224  # logits of a thousand classes, 3 x 224 x 224
TOTAL = 1_000_000_000


class Stamps:
    """When what happened."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {"asked": time.perf_counter()}

    def __call__(self, event: Event) -> None:
        names = {RunStarted: "started", SegmentCommitted: "committed", RunFinished: "finished"}
        name = event.name if isinstance(event, Stage) else names.get(type(event))
        if name is not None:
            self.at[name] = time.perf_counter()


def job(images: int, workers: int) -> dict[str, float]:
    """Seconds of each part of a job."""
    spec = Spec.parse(
        {
            "model": "bundled:mnist-cnn",
            "stimulus": {"kind": "gaussian", "shape": [1, 28, 28], "offset": 0.5, "scale": 0.25},
            "samples": images,
            "numerics": {"device": "cpu"},
            "evaluation": "none",
        }
    )
    stamps = Stamps()
    with tempfile.TemporaryDirectory() as folder:
        run(spec, f"{folder}/run", workers=workers, callbacks=[stamps])
    at = stamps.at
    return {
        "start": at["started"] - at["asked"],
        "shards": at["committed"] - at["started"],
        "merge": at["read out"] - at["merge"],
        "rest": at["finished"] - at["read out"],
    }


def scaling(record: dict[str, Any]) -> str:
    """Strong and weak scaling of the bundled network's job on Ray."""
    cores = len(os.sched_getaffinity(0))
    asked = {("both", 1): IMAGES}
    asked |= {
        (kind, w): IMAGES * (w if kind == "weak" else 1)
        for w in range(2, cores + 1)
        for kind in ("strong", "weak")
    }
    found: dict[tuple[str, int], list[dict[str, float]]] = {key: [] for key in asked}
    for key in (
        *asked,
        ("both", 1),
    ):  # the machine may be slower at the end than it was at the beginning
        found[key].append(job(asked[key], key[1]))
        print(
            f"  {key[0]}, {key[1]} workers: {found[key][-1]['shards']:.2f} s for {asked[key]:,}"
            " images",
            flush=True,
        )
    alone = float(np.mean([one["shards"] for one in found["both", 1]]))
    rows = []
    for (kind, workers), jobs in found.items():
        parts = {name: float(np.mean([j[name] for j in jobs])) for name in jobs[0]}
        efficiency = alone / parts["shards"] / (workers if kind == "strong" else 1)
        record[f"{kind}, {workers}"] = (
            parts
            | {"images": asked[kind, workers]}
            | ({"efficiency": efficiency} if workers > 1 else {})
        )
        told = {name: " and ".join(f"{one[name]:.2f}" for one in jobs) for name in parts}
        rows.append(
            (
                kind,
                str(workers),
                f"{asked[kind, workers]:,}",
                *told.values(),
                f"{efficiency:.2f}" if workers > 1 else "",
            )
        )
    return table(
        (
            "scaling",
            "workers",
            "images",
            "start, s",
            "first shard to last commit, s",
            "merge, s",
            "read out, s",
            "efficiency",
        ),
        rows,
    )


@dataclass(frozen=True)
class Projection:
    """What a job would take on so many GPUs.

    Attributes
    ----------
    forward, moving, uneven, tail
        Seconds: of the forward passes if nothing else took time; that each worker spends on merging
        and moving partials; by which the last shards end later than an even share; after the last
        shard.
    driver
        Share of the driver's time.
    """

    forward: float
    moving: float
    uneven: float
    tail: float
    driver: float

    @property
    def seconds(self) -> float:
        """All."""
        return self.forward + self.moving + self.uneven + self.tail

    @property
    def efficiency(self) -> float:
        """Forward passes alone over all."""
        return self.forward / self.seconds


def project(gpus: int, rate: float, merge: float, driver: float) -> Projection:
    """A billion images at ImageNet size with logits of a thousand classes.

    Parameters
    ----------
    rate
        Images a second of one GPU, noise and moments included.
    merge
        Seconds in which one processor adds two partials of this size.
    driver
        Seconds of the driver a shard.
    """
    cut = plan([(0, TOTAL)], TOTAL, gpus, Cut(256, 256 / rate, ROWS, ROW_BYTES))
    size, shards, segments = ROWS * ROW_BYTES, cut.shards, len(cut.segments)
    step = merge + size / NETWORK  # one partial fetched, and added
    each = math.ceil(shards / gpus)
    even = TOTAL / gpus / rate
    levels = math.log(max(2, shards / segments), fan_in(size)) + math.log(segments, fan_in(size))
    return Projection(
        forward=even,
        moving=shards / gpus * step,
        uneven=each * cut.shard / rate - even,
        tail=levels * step + size / STORE,
        driver=shards * driver / (each * cut.shard / rate),
    )


def projection(merge: float, driver: float, record: dict[str, Any]) -> str:
    """A table, and the assumptions."""
    rows = []
    for rate in RATES:
        for gpus in GPUS:
            found = project(gpus, rate, merge, driver)
            record[f"{gpus} at {rate}"] = {
                "seconds": found.seconds,
                "efficiency": found.efficiency,
                "driver": found.driver,
            }
            rows.append(
                (
                    f"{rate:,}",
                    f"{gpus}",
                    f"{found.seconds / 3600:.2f}",
                    f"{found.forward / 3600:.2f}",
                    f"{found.moving:,.0f}",
                    f"{found.uneven:,.0f}",
                    f"{found.tail:,.0f}",
                    f"{100 * found.driver:.3f} %",
                    f"{found.efficiency:.3f}",
                )
            )
    told = table(
        (
            "images/s a GPU",
            "GPUs",
            "hours for 10^9 images",
            "of these forward",
            "merging, s a worker",
            "uneven end, s",
            "tail, s",
            "driver busy",
            "efficiency",
        ),
        rows,
    )
    return (
        "**Projection, not measured.** Moments of logits of 1,000 classes at 3 x 224 x 224 (1.2 GB"
        f" a partial).\n\n{told}\n\nAssumed: the rate of one GPU, noise and moments included (2,000"
        " is a guess for an old one; 23,000 and 50,000 were measured with ResNet-50 and ResNet-18"
        " on an H200, see GPU); each worker fetches and adds every partial of its own once, which"
        f" takes {merge:.2f} s of one processor (measured here, see Merging) and its bytes at"
        f" {NETWORK / 1e9:g} GB/s, while its GPU waits; a commit writes {STORE / 1e6:g} MB/s; the"
        f" driver takes {1e6 * driver:.0f} us a shard (measured here with 1,000 simulated workers);"
        " all GPUs are as fast as each other, none fails, and storage and network serve all at"
        " once. Shards and segments are those of `wna_ray.execution.plan.plan`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shards", type=int, default=50_000, help="simulated ones (make scale: a million)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    parts = args.out / "parts.json"
    if not parts.exists():
        raise SystemExit(
            f"{parts} is missing, from which the cost of merging is read; run benchmarks/parts.py"
            f" --out {args.out} first"
        )
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    record: dict[str, Any] = {"scaling": {}, "projection": {}}
    texts = [scaling(record["scaling"])]
    found = simulate(argparse.Namespace(workers=1000, shards=args.shards, shard_ms=5.0))
    record["driver"] = found
    texts.append(
        f"Driver with {found['workers']:,} simulated workers and {found['shards']:,} shards:"
        f" {1e6 * found['driver_seconds_per_shard']:.0f} us a shard, {found['memory_mib']:+.1f} MiB"
        " from a fifth of them on."
    )
    merge = json.loads(parts.read_text())["merging"]["1000 x 150528"]
    texts.append(projection(merge, found["driver_seconds_per_shard"], record["projection"]))
    text = "\n\n".join(texts)
    print(f"\n{text}")
    (args.out / "scaling.json").write_text(json.dumps(record, indent=1) + "\n")
    put(args.out / "README.md", "scaling", text)


if __name__ == "__main__":
    main()
