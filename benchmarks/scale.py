"""What a run costs its driver, and what large partials cost: scale without the size.

    python benchmarks/scale.py simulate [--workers 1000] [--shards 1000000] [--shard-ms 5]
    python benchmarks/scale.py actors [--workers 2] [--shards 50000]
    python benchmarks/scale.py imagenet [--out URL] [--store-gb 7.5]

`simulate` runs the real driver (journal, scheduler, merge tree, commits, read-out) over workers
that are a queue each, in simulated time: the driver's own time is what it really takes here, a
shard takes what is asked for, and a merge or a commit what it takes here, too. One shard in a
thousand is lost with its worker. `actors` is the same stub shard on real Ray actors. `imagenet` has
k = 1000 outputs at d = 3 x 224 x 224, whose moments are 1.2 GB: they go through the real tree, an
object store that must spill, and to `--out` (give an S3 URL) and back.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import logging
import random
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wna_ray.events import Event, RunStarted, SegmentCommitted, ShardDone, ShardRetried, Stage
from wna_ray.execution.executor import WorkerLost
from wna_ray.execution.local import InProcessExecutor
from wna_ray.execution.worker import Worker
from wna_ray.kinds.average.job import execute
from wna_ray.machine import Machine, available
from wna_ray.moments.moments import Moments, Partial
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.driver import Driver
from wna_ray.shards.work import Work
from wna_ray.specs.run import Spec
from wna_ray.text import size

IN_FLIGHT = 2
BATCH = 64
SMALL = {
    "model": "python:scale:small",
    "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0},
    "responses": ["label"],
    "numerics": {"batch": BATCH, "device": "cpu"},
    "evaluation": "none",
}
LARGE = {
    "model": "python:scale:thousand",
    "stimulus": {"kind": "gaussian", "shape": [3, 224, 224], "space": "input", "scale": 1.0},
    "responses": ["logits"],
    "numerics": {"batch": 32, "device": "cpu"},
    "evaluation": "none",
}


class Pooled(nn.Module):
    """A linear network on an image of ``side x side`` means."""

    def __init__(self, channels: int, side: int, k: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.linear = nn.Linear(channels * side * side, k, bias=False)
        with torch.no_grad():
            self.linear.weight.normal_(generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(self.pool(x).flatten(1))
        return y


def small() -> nn.Module:
    """Three outputs, 1 x 4 x 4."""
    return Pooled(1, 4, 3)


def thousand() -> nn.Module:
    """A thousand outputs, 3 x 224 x 224."""
    return Pooled(3, 16, 1000)


class StubWorker(Worker):
    """Gives the moments of the first shard for every shard, at once."""

    _moments: Moments | None = None

    def shard(self, work: Work, start: int, stop: int) -> tuple[Partial, dict[str, float]]:
        if self._moments is None:
            made, _ = super().shard(work, 0, stop - start)
            self._moments = made.moments
        return Partial(start, stop, self._moments), {"forward": 0.0}


def resident() -> int:
    """Bytes of memory that this process has."""
    return (
        int(
            next(
                x
                for x in Path("/proc/self/status").read_text().splitlines()
                if x.startswith("VmRSS")
            ).split()[1]
        )
        << 10
    )


class SimulatedExecutor(InProcessExecutor):
    """Many workers, each a queue, in simulated time."""

    def __init__(self, spec: Spec, workers: int, shard_seconds: float) -> None:
        super().__init__(spec)
        self.workers = self.wanted = workers
        self.window = IN_FLIGHT * workers
        self._worker = StubWorker(spec, "cpu")
        self._shard_seconds = shard_seconds
        self._rng = random.Random(1)
        self._free = deque(w for _ in range(IN_FLIGHT) for w in range(workers))
        self._busy_until = [0.0] * workers
        self._at: dict[int, int] = {}
        self._heap: list[tuple[float, int]] = []
        self._entered = time.perf_counter()
        self.now = 0.0
        self.in_workers = self.in_driver = self.busy = 0.0

    def clock(self) -> float:
        """Simulated seconds: those of the driver are real."""
        return self.now

    def machines(self) -> list[Machine]:
        return []

    def _from_driver(self) -> None:
        spent = time.perf_counter() - self._entered
        self.in_driver += spent
        self.now += spent

    def _to_driver(self) -> None:
        self._entered = time.perf_counter()

    def submit(
        self, method: str, *args: Any, inputs: Sequence[int] = (), avoid: int | None = None
    ) -> int:
        self._from_driver()
        ticket = next(self._numbers)
        if inputs:
            self._queue.appendleft((ticket, method, args, tuple(inputs)))
        else:
            self._queue.append((ticket, method, args, tuple(inputs)))
        self._dispatch()
        self._to_driver()
        return ticket

    def _dispatch(self) -> None:
        while self._queue and self._free:
            ticket, method, args, inputs = self._queue.popleft()
            self._at[ticket] = worker = self._free.popleft()
            begin = time.perf_counter()
            if method == "shard" and self._rng.random() < 1e-3:
                self._ends[ticket] = WorkerLost("as asked for")
            else:
                payloads = [self._payloads[i] for i in inputs]
                self._payloads[ticket], self._ends[ticket] = getattr(self._worker, method)(
                    *payloads, *args
                )
            took = time.perf_counter() - begin
            self.in_workers += took
            seconds = (
                self._shard_seconds * self._rng.uniform(0.8, 1.2) if method == "shard" else took
            )
            self.busy += seconds
            self._busy_until[worker] = max(self.now, self._busy_until[worker]) + seconds
            heapq.heappush(self._heap, (self._busy_until[worker], ticket))

    def wait(self, timeout: float) -> list[int]:
        self._from_driver()
        if self._heap:
            self.now = max(self.now, min(self._heap[0][0], self.now + timeout))
        ended = []
        while self._heap and self._heap[0][0] <= self.now:
            _, ticket = heapq.heappop(self._heap)
            self._free.append(self._at.pop(ticket))
            if ticket in self._ends:
                ended.append(ticket)
        self._dispatch()
        self._to_driver()
        return ended


class Watch:
    """Counts events, and notes time and memory on the way."""

    def __init__(self, shards: int, clock: Any) -> None:
        self.shards, self.clock = shards, clock
        self.done = self.retried = self.commits = 0
        self.begin = self.last_shard = self.last_commit = clock()
        self.stages: dict[str, float] = {}
        self.memory: list[tuple[int, int]] = []

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.begin = self.clock()
            case ShardDone():
                self.done += 1
                self.last_shard = self.clock()
                if self.done % max(1, self.shards // 10) == 0:
                    self.memory.append((self.done, resident()))
                    print(
                        f"  {self.done:>9,} shards, {self.memory[-1][1] >> 20:,} MiB resident",
                        flush=True,
                    )
            case ShardRetried():
                self.retried += 1
            case SegmentCommitted():
                self.commits += 1
                self.last_commit = self.clock()
            case Stage():
                self.stages[event.name] = self.clock()
            case _:
                pass


def simulate(args: argparse.Namespace) -> dict[str, float]:
    """A thousand workers, a million shards."""
    spec = Spec.parse(
        SMALL | {"samples": args.shards * BATCH, "execution": {"shard": BATCH, "attempts": 5}}
    )
    executor = SimulatedExecutor(spec, args.workers, args.shard_ms / 1000)
    watch = Watch(args.shards, executor.clock)
    print(f"{args.workers:,} simulated workers, {args.shards:,} shards of {args.shard_ms:g} ms")
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(f"{folder}/run")
        driver: list[Driver] = []

        def emit(event: Event) -> None:
            driver[0](event)
            watch(event)

        begin = time.perf_counter()
        execute(spec, directory, executor, emit, lambda: driver.append(Driver(directory)))
        driver[0].close("finished")
        real = time.perf_counter() - begin
        journal = sum(f.stat().st_size for f in Path(folder).rglob("*.jsonl"))
        faults = directory.verify()
        counted = directory.finished()[1].counts.images
    gc.collect()
    took = watch.last_shard - watch.begin
    ideal = args.shards * args.shard_ms / 1000 / args.workers
    each = executor.in_driver / args.shards
    print(
        f"verified: {faults or 'whole'}; {counted:,} images counted of {spec.samples:,};"
        f" {watch.retried:,} shards retried"
    )
    print(
        f"driver: {1e6 * each:.0f} us a shard, so at most {1 / each:,.0f} shards/s; journal"
        f" {journal / args.shards:.0f} bytes a shard"
    )
    print(
        f"driver busy with shards of 2 s on {args.workers:,} workers:"
        f" {100 * each * args.workers / 2:.1f} %"
    )
    print(
        f"simulated: {took:.1f} s for the shards ({ideal:.1f} s if nothing but them took time),"
        f" workers busy {100 * ideal / took:.0f} %"
    )
    print(
        f"last shard to last commit {watch.last_commit - watch.last_shard:.3f} s; {watch.commits}"
        " commits"
    )
    print(
        f"merging all segments {watch.stages['read out'] - watch.stages['merge']:.3f} s; real time"
        f" of everything {real:.0f} s"
    )
    first, last = watch.memory[1][1], watch.memory[-1][1]
    print(
        f"driver's memory from {watch.memory[1][0]:,} to {watch.memory[-1][0]:,} shards:"
        f" {(last - first) / (1 << 20):+.1f} MiB"
    )
    return {
        "workers": args.workers,
        "shards": args.shards,
        "driver_seconds_per_shard": each,
        "merge_seconds": watch.stages["read out"] - watch.stages["merge"],
        "memory_mib": (last - first) / (1 << 20),
    }


def actors(args: argparse.Namespace) -> None:
    """The same stub shard on real actors."""
    import ray

    from wna_ray.execution import ray as ray_executor

    class StubRayWorker(StubWorker):
        def where(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    ray_executor.RayWorker = StubRayWorker  # type: ignore[misc, assignment]
    spec = Spec.parse(SMALL | {"samples": args.shards * BATCH, "execution": {"shard": BATCH}})
    ray.init(
        "local",
        include_dashboard=False,
        num_cpus=args.workers,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env=_path(),
    )
    executor = ray_executor.RayExecutor(spec, args.workers)
    watch = Watch(args.shards, time.perf_counter)
    print(f"{args.workers} Ray actors, {args.shards:,} stub shards")
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(f"{folder}/run")
        begin = time.process_time()
        execute(spec, directory, executor, watch)
        spent = time.process_time() - begin
        faults = directory.verify()
    took = watch.last_shard - watch.begin
    print(f"verified: {faults or 'whole'}")
    each, processor = 1e6 * took / args.shards, 1e6 * spent / args.shards
    print(
        f"{1e6 / each:,.0f} shards/s, {each:.0f} us a shard; processor time of the driver's process"
        f" {processor:.0f} us a shard"
    )
    merging = watch.stages["read out"] - watch.stages["merge"]
    print(
        f"last shard to last commit {watch.last_commit - watch.last_shard:.3f} s, merging all"
        f" {watch.commits} segments {merging:.3f} s"
    )
    first, last = watch.memory[1][1], watch.memory[-1][1]
    print(
        f"driver's memory from {watch.memory[1][0]:,} to {watch.memory[-1][0]:,} shards:"
        f" {(last - first) / (1 << 20):+.1f} MiB"
    )
    executor.close()
    ray.shutdown()


def imagenet(args: argparse.Namespace) -> None:
    """Moments of 1000 outputs at 3 x 224 x 224."""
    import ray

    from wna_ray.execution.ray import RayExecutor

    spec = Spec.parse(
        LARGE | {"samples": args.shards * 32, "execution": {"shard": 32, "segments": 2}}
    )
    ray.init(
        "local",
        include_dashboard=False,
        num_cpus=args.workers,
        object_store_memory=int(args.store_gb * 1e9),
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env=_path(),
    )
    executor = RayExecutor(spec, args.workers)
    watch = Watch(args.shards, time.perf_counter)
    print(
        f"{args.workers} Ray actors, {args.shards} shards, object store {args.store_gb:g} GB,"
        f" {size(available() or 0)} of memory free"
    )
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(args.out or f"{folder}/run")
        begin = time.perf_counter()
        execute(spec, directory, executor, watch)
        took = time.perf_counter() - begin
        stages = watch.stages
        largest = max(directory.store.size(name) or 0 for name in directory.store.list("segments"))
        merging = stages["read out"] - stages["merge"]
        print(
            f"shards, tree and commits {watch.last_commit - watch.begin:.0f} s; {watch.commits}"
            f" segments of {size(largest)}"
        )
        print(f"merging them {merging:.0f} s; all with read-out {took:.0f} s")
        print(_spilled())
        executor.close()
        ray.shutdown()
        begin = time.perf_counter()
        print(f"verified: {directory.verify() or 'whole'} in {time.perf_counter() - begin:.0f} s")


def _path() -> dict[str, Any]:
    """Workers find this file as the module `scale`."""
    return {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}


def _spilled() -> str:
    from ray._private.internal_api import memory_summary

    lines = [line.strip() for line in memory_summary(stats_only=True).splitlines()]  # type: ignore[no-untyped-call]
    return (
        "; ".join(line for line in lines if line.startswith(("Spilled", "Restored")))
        or "nothing was spilled"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("simulate", help=simulate.__doc__)
    one.add_argument("--workers", type=int, default=1000)
    one.add_argument("--shards", type=int, default=1_000_000)
    one.add_argument("--shard-ms", type=float, default=5.0)
    one.set_defaults(call=simulate)
    two = commands.add_parser("actors", help=actors.__doc__)
    two.add_argument("--workers", type=int, default=2)
    two.add_argument("--shards", type=int, default=50_000)
    two.set_defaults(call=actors)
    three = commands.add_parser("imagenet", help=imagenet.__doc__)
    three.add_argument("--workers", type=int, default=2)
    three.add_argument("--shards", type=int, default=8)
    three.add_argument("--out", default=None)
    three.add_argument("--store-gb", type=float, default=7.5)
    three.set_defaults(call=imagenet)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
