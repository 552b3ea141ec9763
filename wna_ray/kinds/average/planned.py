"""What a run of noise would take and give, from a pilot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.execution.plan import fan_in
from wna_ray.kinds.average.job import image_bytes, row_bytes, segment_bytes
from wna_ray.kinds.average.memory import Needs, check, expected_rows, needs
from wna_ray.kinds.average.pilot import Pilot, pilot
from wna_ray.kinds.views import PlanOptions
from wna_ray.machine import Machine, available
from wna_ray.shards.job import Job
from wna_ray.specs.response import TargetSpec
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import images_for
from wna_ray.stimuli.stimulus import stimulus_text
from wna_ray.text import duration
from wna_ray.text import size as in_bytes


def plan_lines(path: str, spec: Spec, options: PlanOptions) -> Iterator[str | Table]:
    """Shards, bytes, memory, time, and how reliable maps will be; `SpecError` where the machine
    is too small.
    """
    seen = pilot(spec, options.images, options.workers)
    job = seen.introduction.job
    reached = 1 + sum(int((r.count > 0).sum()) for r in seen.readouts)
    rows = max(reached, expected_rows(job, seen.introduction.seen))
    need = needs(job, rows, fan_in(rows * row_bytes(job)), segment_bytes(job))
    yield from _what_is_shown(path, spec, job)
    yield from _what_it_takes(spec, seen, need, rows)
    seconds = spec.samples / seen.images_per_second / options.workers
    yield (
        f"time      {seen.images_per_second:,.0f} images/s for one worker here,"
        f" {duration(seconds)} for {options.workers}"
    )
    timed = seen.introduction.environment.get("tune")
    if timed is not None:
        rates = ", ".join(f"{n} {rate:,.0f}" for n, rate in timed["images_per_second"].items())
        yield (
            f"batch     {timed['batch']} images; forward passes alone (not compiled), images/s by"
            f" batch: {rates}"
        )
    if spec.numerics.compile is not None:
        yield f"compile   {_compiling(spec, seen, options)}"
    has = options.memory if options.memory is not None else available()
    if has is not None:
        machine = Machine(options.machine, round(0.7 * has), round(0.3 * has), options.workers)
        check(job, rows, need, [machine], has)
    yield _expected(spec, seen)


def _what_is_shown(path: str, spec: Spec, job: Job) -> Iterator[str]:
    """The network, the noise, and what of it units see."""
    stimulus = job.stimulus
    low, high = stimulus.range
    loud = f"sd {stimulus.sd:.4g}, " if np.isfinite(stimulus.sd) else ""
    yield (
        f"{path}: {spec.model}, {len(job.names)} outputs, on {job.device}; fingerprint"
        f" {job.fingerprint[:12]}"
    )
    yield (
        f"noise     {stimulus_text(spec.stimulus)}, shape {spec.stimulus.shape}, d ="
        f" {stimulus.pixels:,} values, {loud}range [{low:.3g}, {high:.3g}] in"
        f" {spec.stimulus.space} space"
    )
    yield from (f"assumed   {line}" for line in job.assumed)
    if job.decoder is not None:
        yield f"decoder   {spec.decoder} makes pictures {job.decoder.shape} of it, which are shown"
    if spec.target is not None:
        yield f"units     {_seen_by_units(spec.target, job)}"


def _what_it_takes(spec: Spec, seen: Pilot, need: Needs, rows: int) -> Iterator[str]:
    """Shards, and bytes of storage and memory, for moments of so many rows."""
    job, cut, size = seen.introduction.job, seen.plan, need.partial
    yield (
        f"work      {spec.samples:,} images = {cut.shards} shards of {cut.shard:,} in"
        f" {len(cut.segments)} segments of {cut.segment:,}"
    )
    yield (
        f"storage   up to {in_bytes(size)} a segment, {in_bytes(size * len(cut.segments))} in all;"
        f" result up to {in_bytes(3 * size)}"
    )
    if spec.keep_responses:
        yield (
            f"responses {in_bytes(image_bytes(job) * spec.samples)} in all,"
            f" {in_bytes(segment_bytes(job))} a segment"
        )
    yield (
        f"memory    a worker up to {in_bytes(need.worker)}, and {in_bytes(need.store)} of object"
        f" store; the driver up to {in_bytes(need.driver)} (moments of about {rows:,} rows)"
    )


def _expected(spec: Spec, pilot: Pilot) -> Table:
    """How reliable maps will be, and how many images a reliable one takes, by response."""
    job, d = pilot.introduction.job, pilot.introduction.job.stimulus.pixels
    table = Table(
        box=SIMPLE,
        title=f"Expected reliability at N = {spec.samples:,} (pilot: {pilot.images:,} images)",
        title_justify="left",
    )
    for column in (
        "response",
        "rows",
        "rows seen",
        "median rho2",
        "expected reliability (median row)",
        "N for reliability 0.9",
    ):
        table.add_column(column, justify="right" if column != "response" else "left")
    for r in pilot.readouts:
        rho2 = r.rho2[np.isfinite(r.rho2)]
        median = float(np.median(rho2)) if rho2.size else 0.0
        if r.estimator == "noise" and not spec.stimulus.measured:
            patches = job.stimulus.patches_an_image
            error = np.sqrt(2 * d) / (pilot.images * patches)  # sd of one row's rho2 under the null
            enough, clear = images_for(0.9, median, d) / patches, median > 2 * error
        else:
            known = r.reliability[np.isfinite(r.reliability)]
            usual = float(np.median(known)) if known.size else 0.0
            error, clear = np.nan, usual > 0
            enough = (
                9 * pilot.images * (1 - usual) / usual if clear else np.inf
            )  # the noise of a map falls as 1 / N
        gain = 9 * spec.samples / enough  # signal over noise of a map, both in energy
        table.add_row(
            r.kind,
            str(len(r.names)),
            str(int((r.count > 0).sum())),
            f"{median:.2e}" + ("" if np.isnan(error) else f" ± {error:.0e}"),
            f"{gain / (gain + 1):.4f}" if clear else "pilot too short to tell",
            f"{np.ceil(enough):,.0f}" if clear else "-",
        )
    return table


def _compiling(spec: Spec, compiled: Pilot, options: PlanOptions) -> str:
    """What compiling takes, and when it has paid."""
    numerics = spec.with_batch(compiled.introduction.job.spec.numerics.batch).numerics
    plain = pilot(
        spec.model_copy(update={"numerics": numerics.model_copy(update={"compile": None})}),
        options.images,
        options.workers,
    )
    after, taken = (
        compiled.pays_after(plain) * options.workers,
        max(0.0, compiled.start_seconds - plain.start_seconds),
    )
    cost = (
        f"takes a worker {taken:.0f} s (less where torch has it in its cache),"
        f" {compiled.images_per_second:,.0f} images/s instead of "
    )
    cost += f"{plain.images_per_second:,.0f}; "
    if not np.isfinite(after):
        return f"{cost}it does not pay here, leave numerics.compile out"
    return f"{cost}it pays for runs of more than {after:,.0f} images" + (
        ", so not for this one" if after > spec.samples else ""
    )


def _seen_by_units(target: TargetSpec, job: Job) -> str:
    """What a plan says of units: where they look, and what is shown to them."""
    (c, h, w), (_, height, width) = job.stimulus.shape, job.stimulus.shown_shape
    patches = job.stimulus.patches_an_image
    count = f"{len(job.names)} unit{'s' * (len(job.names) > 1)} of {target.layer}"
    pooled = f" at each of {patches} positions" if patches > 1 else ""
    whole = job.spec.stimulus.shape[1] * job.spec.stimulus.shape[2]
    window = (
        f"the whole image is shown ({job.whole})"
        if job.whole
        else f"shown as {height} x {width}: {whole / (height * width):.3g} times fewer pixels"
    )
    return f"{count}{pooled} see {h} x {w} pixels of {c} channel{'s' * (c > 1)}; {window}"
