"""What a run of noise would take and give, from a pilot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.execution.plan import fan_in
from wna_ray.kinds.average.job import image_bytes, row_bytes, segment_bytes
from wna_ray.kinds.average.memory import check, expected_rows, needs
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


def plan_lines(path: str, asked: Spec, options: PlanOptions) -> Iterator[str | Table]:
    """Shards, bytes, memory, time, and how reliable maps will be; `SpecError` where the machine
    is too small.
    """
    workers = options.workers
    found = pilot(asked, options.images, options.workers)
    job, cut = found.introduction.job, found.plan
    d = job.stimulus.pixels
    rows = max(
        1 + sum(int((r.count > 0).sum()) for r in found.readouts),
        expected_rows(job, found.introduction.seen),
    )
    need = needs(job, rows, fan_in(rows * row_bytes(job)), segment_bytes(job))
    size = need.partial
    (low, high), loud = (
        job.stimulus.range,
        f"sd {job.stimulus.sd:.4g}, " if np.isfinite(job.stimulus.sd) else "",
    )
    yield (
        f"{path}: {asked.model}, {len(job.names)} outputs, on {job.device}; fingerprint"
        f" {job.fingerprint[:12]}"
    )
    yield (
        f"noise     {stimulus_text(asked.stimulus)}, shape {asked.stimulus.shape}, d = {d:,}"
        f" values, {loud}range [{low:.3g}, {high:.3g}] in {asked.stimulus.space} space"
    )
    if job.decoder is not None:
        yield f"decoder   {asked.decoder} makes pictures {job.decoder.shape} of it, which are shown"
    if asked.target is not None:
        yield f"units     {_seen_by_units(asked.target, job)}"
    yield (
        f"work      {asked.samples:,} images = {cut.shards} shards of {cut.shard:,} in"
        f" {len(cut.segments)} segments of {cut.segment:,}"
    )
    yield (
        f"storage   up to {in_bytes(size)} a segment, {in_bytes(size * len(cut.segments))} in all;"
        f" result up to {in_bytes(3 * size)}"
    )
    if asked.keep_responses:
        yield (
            f"responses {in_bytes(image_bytes(job) * asked.samples)} in all,"
            f" {in_bytes(segment_bytes(job))} a segment"
        )
    yield (
        f"memory    a worker up to {in_bytes(need.worker)}, and {in_bytes(need.store)} of object"
        f" store; the driver up to {in_bytes(need.driver)} (moments of about {rows:,} rows)"
    )
    seconds = asked.samples / found.images_per_second / workers
    yield (
        f"time      {found.images_per_second:,.0f} images/s for one worker here,"
        f" {duration(seconds)} for {workers}"
    )
    timed = found.introduction.environment.get("tune")
    if timed is not None:
        rates = ", ".join(
            f"{size} {rate:,.0f}" for size, rate in timed["images_per_second"].items()
        )
        yield (
            f"batch     {timed['batch']} images; forward passes alone (not compiled), images/s by"
            f" batch: {rates}"
        )
    if asked.numerics.compile is not None:
        yield f"compile   {_compiling(asked, found, options)}"
    has = options.memory if options.memory is not None else available()
    if has is not None:
        check(
            job,
            rows,
            need,
            [Machine(options.machine, round(0.7 * has), round(0.3 * has), options.workers)],
            has,
        )
    yield _expected(asked, found)


def _expected(asked: Spec, found: Pilot) -> Table:
    """How reliable maps will be, and how many images a reliable one takes, by response."""
    job, d = found.introduction.job, found.introduction.job.stimulus.pixels
    table = Table(
        box=SIMPLE,
        title=f"Expected reliability at N = {asked.samples:,} (pilot: {found.images:,} images)",
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
    for r in found.readouts:
        rho2 = r.rho2[np.isfinite(r.rho2)]
        median = float(np.median(rho2)) if rho2.size else 0.0
        if r.estimator == "noise" and not asked.stimulus.measured:
            patches = job.stimulus.patches_an_image
            error = np.sqrt(2 * d) / (found.images * patches)  # sd of one row's rho2 under the null
            enough, clear = images_for(0.9, median, d) / patches, median > 2 * error
        else:
            known = r.reliability[np.isfinite(r.reliability)]
            usual = float(np.median(known)) if known.size else 0.0
            error, clear = np.nan, usual > 0
            enough = (
                9 * found.images * (1 - usual) / usual if clear else np.inf
            )  # the noise of a map falls as 1 / N
        gain = 9 * asked.samples / enough  # signal over noise of a map, both in energy
        table.add_row(
            r.kind,
            str(len(r.names)),
            str(int((r.count > 0).sum())),
            f"{median:.2e}" + ("" if np.isnan(error) else f" ± {error:.0e}"),
            f"{gain / (gain + 1):.4f}" if clear else "pilot too short to tell",
            f"{np.ceil(enough):,.0f}" if clear else "-",
        )
    return table


def _compiling(asked: Spec, compiled: Pilot, options: PlanOptions) -> str:
    """What compiling takes, and when it has paid."""
    numerics = asked.with_batch(compiled.introduction.job.spec.numerics.batch).numerics
    plain = pilot(
        asked.model_copy(update={"numerics": numerics.model_copy(update={"compile": None})}),
        options.images,
        options.workers,
    )
    after, taken = (
        compiled.pays_after(plain) * options.workers,
        max(0.0, compiled.start_seconds - plain.start_seconds),
    )
    told = (
        f"takes a worker {taken:.0f} s (less where torch has it in its cache),"
        f" {compiled.images_per_second:,.0f} images/s instead of "
    )
    told += f"{plain.images_per_second:,.0f}; "
    if not np.isfinite(after):
        return f"{told}it does not pay here, leave numerics.compile out"
    return f"{told}it pays for runs of more than {after:,.0f} images" + (
        ", so not for this one" if after > asked.samples else ""
    )


def _seen_by_units(target: TargetSpec, job: Job) -> str:
    """What a plan says of units: where they look, and what is shown to them."""
    (c, h, w), (_, height, width) = job.stimulus.shape, job.stimulus.shown_shape
    patches = job.stimulus.patches_an_image
    count = f"{len(job.names)} unit{'s' * (len(job.names) > 1)} of {target.layer}"
    pooled = f" at each of {patches} positions" if patches > 1 else ""
    whole = job.spec.stimulus.shape[1] * job.spec.stimulus.shape[2]
    shown = (
        f"the whole image is shown ({job.whole})"
        if job.whole
        else f"shown as {height} x {width}: {whole / (height * width):.3g} times fewer pixels"
    )
    return f"{count}{pooled} see {h} x {w} pixels of {c} channel{'s' * (c > 1)}; {shown}"
