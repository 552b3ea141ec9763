"""The whole job on Ray beside its limit: as many processes that only run the network on batches that lie ready.

    python benchmarks/whole_job.py [--workers 2] [--rounds 3] [--samples 600000] [--spec jobs/demo.yaml]

Both sides have one torch thread a process and the job's batch, dtype and memory format. They take turns; each round gives
one ratio. The job's rate is taken from the moment every worker has delivered a shard to the last shard, so starting
Ray and reading the result out are not in it; the rate with everything in is printed beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from wna_ray.events import Event, RunStarted, ShardDone
from wna_ray.spec import Spec

SECONDS = 8.0


def forward_only(spec: Spec, barrier: Barrier, rates: object) -> None:
    """Images a second of a bare loop over eight ready batches."""
    import torch

    from wna_ray.shard import Network
    from wna_ray.stimuli import Stimulus, load_offset
    from wna_ray.worker import keep_freed_memory

    torch.set_num_threads(spec.numerics.threads)
    keep_freed_memory()
    network = Network(spec, "cpu")
    stimulus = Stimulus(spec.stimulus, spec.seed, load_offset(spec.stimulus))
    batch = spec.numerics.batch
    grids = [stimulus.noise.grid(i * batch, (i + 1) * batch) for i in range(8)]
    ready = [stimulus.images(g).to(network.dtype).contiguous(memory_format=torch.channels_last) for g in grids]
    with torch.inference_mode():
        for x in ready:
            network.module(x)
        barrier.wait()
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < SECONDS:
            for x in ready:
                network.module(x)
            done += batch * len(ready)
        rates.put(done / (time.perf_counter() - begin))  # type: ignore[attr-defined]


def limit(spec: Spec, workers: int) -> float:
    """Images a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=forward_only, args=(spec, barrier, rates)) for _ in range(workers)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return total


class Clock:
    """Notes when events happen."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.shards: list[tuple[float, int]] = []
        self.phases: dict[str, float] = {}
        self.workers = 1

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.workers = event.workers
        if isinstance(event, ShardDone):
            self.shards.append((time.perf_counter(), event.stop - event.start))
            for phase, seconds in event.seconds.items():
                self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def rate(self) -> float:
        """Images a second after every worker's second shard."""
        warm = 2 * self.workers
        return sum(n for _, n in self.shards[warm:]) / (self.shards[-1][0] - self.shards[warm - 1][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=600_000)
    parser.add_argument("--spec", default=str(Path(__file__).parents[1] / "jobs" / "demo.yaml"))
    args = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = "1"
    import ray

    from wna_ray import run

    spec = Spec.load(args.spec, {"samples": args.samples, "evaluation": "none"})
    ray.init("local", include_dashboard=False, num_cpus=args.workers, log_to_driver=False, logging_level="ERROR")
    print(f"{spec.model}, {spec.numerics.dtype}, batch {spec.numerics.batch}, {args.workers} workers, {args.samples:,} images a round")
    ratios = []
    for i in range(args.rounds):
        bare = limit(spec, args.workers)
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            run(spec, f"{folder}/run", executor="ray", workers=args.workers, callbacks=[clock])
        everything = args.samples / (time.perf_counter() - clock.begin)
        ratios.append(clock.rate() / bare)
        total = sum(clock.phases.values())
        shares = ", ".join(f"{phase} {100 * s / total:.1f} %" for phase, s in clock.phases.items())
        print(
            f"round {i + 1}: forward only {bare:,.0f} images/s; whole job {clock.rate():,.0f}, ratio {ratios[-1]:.3f}; "
            f"{everything:,.0f} with start and read-out; {shares}",
            flush=True,
        )
    print(f"ratio, median of {args.rounds} rounds: {np.median(ratios):.3f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
