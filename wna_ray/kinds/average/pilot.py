"""A pilot: a few images that tell how long a run takes and what it will show."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from wna_ray.execution.executor import TICK_SECONDS, call
from wna_ray.execution.local import InProcessExecutor
from wna_ray.execution.plan import Plan, plan
from wna_ray.execution.worker import Introduction
from wna_ray.kinds.average.job import cut_of
from wna_ray.kinds.average.result import read_outs
from wna_ray.kinds.average.work import NoiseWork
from wna_ray.moments.moments import Partial
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import Readout

WARM_SECONDS = 2.0


@dataclass(frozen=True)
class Pilot:
    """What a few images tell about a run.

    Attributes
    ----------
    introduction, plan
        The job, and how it would be cut.
    images
        That were shown.
    images_per_second
        Rate of one worker.
    start_seconds
        That it took to look at the model, or to compile it.
    readouts
        Statistics by response.
    """

    introduction: Introduction
    plan: Plan
    images: int
    images_per_second: float
    start_seconds: float
    readouts: list[Readout]

    def pays_after(self, plain: Pilot) -> float:
        """Images after which a worker has got back what compiling took it, beside a pilot
        without; infinite where it never does.
        """
        gain = 1 / plain.images_per_second - 1 / self.images_per_second
        return max(0.0, self.start_seconds - plain.start_seconds) / gain if gain > 0 else math.inf


def pilot(spec: Spec, images: int, workers: int) -> Pilot:
    """Show `images` (rounded up to whole batches) in this process and read them out; writes
    nothing.
    """
    executor = InProcessExecutor(spec.model_copy(update={"stop": None}))
    try:
        begin = time.perf_counter()
        introduction: Introduction = call(executor, 1, "introduce")
        tuned_seconds = introduction.environment.get("tune", {}).get("seconds", 0.0)
        start_seconds = time.perf_counter() - begin - tuned_seconds
        resolved, batch = introduction.job.spec, introduction.job.spec.numerics.batch
        few = resolved.model_copy(
            update={"samples": min(-(-images // batch) * batch, spec.samples)}
        )
        job = replace(introduction.job, spec=few)
        for _ in range(2):
            ticket = executor.submit("shard", NoiseWork(job), 0, few.samples)
            executor.wait(TICK_SECONDS)
            seconds = executor.report(ticket)
            partial: Partial = executor.payload(ticket)
            if sum(seconds.values()) >= WARM_SECONDS:  # else mostly warming up: time it again
                break
    finally:
        executor.close()
    readouts = read_outs(few, job.stimulus, partial.moments, job.identity, list(job.names))
    spec = spec.with_batch(batch)
    whole = replace(introduction, job=replace(job, spec=spec))
    cut = plan([(0, spec.samples)], spec.samples, workers, cut_of(whole))
    return Pilot(
        whole, cut, few.samples, few.samples / sum(seconds.values()), start_seconds, readouts
    )
