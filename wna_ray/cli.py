"""The command line: ``wna plan | run | train | paper | status | fetch | verify | report | contrast | compare | backdoor``."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from wna_ray import __version__
from wna_ray.analysis import images_for
from wna_ray.archive import to_npy, to_parquet
from wna_ray.backdoor_runs import examine, examined_table, judged, patch_of, patch_pixels, patch_table, poison_of, runs_in
from wna_ray.checks import EVALUATION
from wna_ray.compare import Measured, correlations, images_needed, mean_correlations, shares_noise
from wna_ray.contrast import contrast as paired
from wna_ray.driver import SILENT_SECONDS, latest
from wna_ray.errors import RunError, SpecError, WnaError
from wna_ray.fetch import FetchedSweep, fetch_sweep
from wna_ray.fetch import fetch as download
from wna_ray.folder import write_files
from wna_ray.inprocess import InProcessExecutor
from wna_ray.job import Pilot, image_bytes, pilot, row_bytes, segment_bytes
from wna_ray.memory import Machine, available, check, expected_rows, needs
from wna_ray.memory import size as in_bytes
from wna_ray.opened import AnyRun, open_any
from wna_ray.parse import parse_yaml
from wna_ray.progress import ProgressPrinter, duration
from wna_ray.report import written
from wna_ray.results import Run
from wna_ray.rundir import MOST_FAULTS, RESULT, RunDirectory
from wna_ray.scheduling import call, fan_in
from wna_ray.shard import Job
from wna_ray.spec import Spec, StcSpec, TargetSpec
from wna_ray.specs import AnySpec, require_no_code
from wna_ray.stc_run import Question
from wna_ray.stimuli import stimulus_text
from wna_ray.store import Place
from wna_ray.sweep import Sweep, SweepDirectory, is_sweep
from wna_ray.sweep_run import SweepPrinter, run_any, run_sweep
from wna_ray.sweep_spec import SweepSpec, read_asked
from wna_ray.tables import classifier_table, images_table, members_table, p_form, pairs_table, patch_scores, suspects, tables_of
from wna_ray.terminal import Forgiving, PlainConsole, PrintableFormatter, prepare, say, show, tell, tell_what_was_escaped, traceback_text
from wna_ray.text import plain, redacted
from wna_ray.train_run import told
from wna_ray.train_run import train as train_networks
from wna_ray.train_spec import TrainSpec
from wna_ray.trained import TrainedNetwork
from wna_ray.trial_run import TrialQuestion
from wna_ray.trial_spec import TrialSpec
from wna_ray.trials import conditions
from wna_ray.worker import Introduction

app = typer.Typer(
    help="White-noise analysis of neural networks: what does a network expect to see?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MOST_SHOWN = 10  # members of a sweep that are at work

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file, such as those in jobs/", show_default=False)]
RunURL = Annotated[str, typer.Argument(metavar="URL", help="run directory: a path or any fsspec URL", show_default=False)]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change the spec, e.g. stimulus.scale=0.5; may be repeated")
]
Workers = Annotated[
    int | None,
    typer.Option(help="Ray workers to ask for; default one a GPU, else one for every numerics.threads CPUs, as machines come and go"),
]
Full = Annotated[bool, typer.Option("--full", help="first make the changes that the file keeps under full: (the paper's size, say)")]
NoCode = Annotated[bool, typer.Option("--no-code", help="refuse a spec whose model runs code (python:); for specs from others")]
Endpoint = Annotated[str | None, typer.Option(help="URL of the S3 server, where it is not AWS; default: AWS_ENDPOINT_URL")]


class ExecutorChoice(StrEnum):
    """Where the shards run."""

    ray = "ray"
    local = "local"


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """Print a `WnaError` as its message alone and exit with its code; anything else is a bug and keeps its traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except WnaError as error:
            tell(f"wna: {error}")
            raise typer.Exit(error.exit_code) from None
        except MemoryError as error:
            tell(f"wna: out of memory ({error}); fewer pixels, responses or numerics.batch would need less")
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        finally:
            tell_what_was_escaped()

    return wrapped


def _load(path: Path, changes: list[str] | None, full: bool, no_code: bool) -> AnySpec | SweepSpec:
    asked = read_asked(path, _values(changes), full)
    if no_code:
        require_no_code(asked.members.values() if isinstance(asked, SweepSpec) else [asked])
    return asked


def _values(changes: list[str] | None) -> dict[str, Any]:
    """What ``--set KEY=VALUE`` says."""
    values = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise SpecError(f"--set {change}: expected KEY=VALUE, such as stimulus.scale=0.5")
        values[key] = parse_yaml(value, f"--set {change}")
    return values


def _version(value: bool) -> None:
    if value:
        say(__version__)
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False) -> None:
    pass


@app.command()
@_told
def plan(
    spec: SpecPath,
    pilot_images: Annotated[int, typer.Option("--pilot", min=1, help="images to show for the estimates")] = 4096,
    workers: Annotated[int, typer.Option(min=1, help="workers on one machine")] = 1,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="of that machine, such as 64GB; default: as this one")] = None,
    changes: Changes = None,
    full: Full = False,
    no_code: NoCode = False,
) -> None:
    """Say what a run would take and give: shards, bytes, memory, time, expected reliability (from a pilot). Of a sweep: its members.

    What does not fit into the memory of the machine is refused, as by `wna run`; Ray keeps 30 % of it as object store.
    """
    asked = _load(spec, changes, full, no_code)
    if isinstance(asked, SweepSpec):
        _plan_sweep(spec, asked)
        return
    if isinstance(asked, StcSpec):
        question = Question.of(asked)
        run_of, streams = question.run, 1 + asked.fresh if asked.method == "dense" else 1
        passes = 1 if asked.method == "dense" else asked.passes + 1
        say(f"{spec}: covariance of {question.kind} of '{run_of.directory.url}', {asked.method}; units {', '.join(question.names[:12])}")
        say(f"noise     {run_of.spec.stimulus.kind}, d = {question.d:,} values, {streams} streams of {run_of.samples:,} images")
        network = "without a forward pass" if question.held is None else "with a forward and a backward pass an image"
        say(f"work      {passes} pass{'es' * (passes > 1)} {network}; sums of {in_bytes(question.sum_bytes)} each")
        for name, (low, high) in list(question.null_edges().items())[:12]:
            say(f"spectrum  {name}: without any axis from {low:+.3g} to {high:+.3g} sd of the response, so weaker axes hide in it")
        return
    if isinstance(asked, TrialSpec):
        _plan_trials(spec, asked)
        return
    found = pilot(asked, pilot_images, workers)
    job, cut = found.introduction.job, found.plan
    d = job.stimulus.pixels
    rows = max(1 + sum(int((r.count > 0).sum()) for r in found.readouts), expected_rows(job, found.introduction.seen))
    need = needs(job, rows, fan_in(rows * row_bytes(job)), segment_bytes(job))
    size = need.partial
    (low, high), loud = job.stimulus.range, f"sd {job.stimulus.sd:.4g}, " if np.isfinite(job.stimulus.sd) else ""
    say(f"{spec}: {asked.model}, {len(job.names)} outputs, on {job.device}; fingerprint {job.fingerprint[:12]}")
    say(
        f"noise     {stimulus_text(asked.stimulus)}, shape {asked.stimulus.shape}, d = {d:,} values, {loud}"
        f"range [{low:.3g}, {high:.3g}] in {asked.stimulus.space} space"
    )
    if job.decoder is not None:
        say(f"decoder   {asked.decoder} makes pictures {job.decoder.shape} of it, which are shown")
    if asked.target is not None:
        say(f"units     {_seen_by_units(asked.target, job)}")
    say(f"work      {asked.samples:,} images = {cut.shards} shards of {cut.shard:,} in {len(cut.segments)} segments of {cut.segment:,}")
    say(f"storage   up to {in_bytes(size)} a segment, {in_bytes(size * len(cut.segments))} in all; result up to {in_bytes(3 * size)}")
    if asked.keep_responses:
        say(f"responses {in_bytes(image_bytes(job) * asked.samples)} in all, {in_bytes(segment_bytes(job))} a segment")
    say(
        f"memory    a worker up to {in_bytes(need.worker)}, and {in_bytes(need.store)} of object store; "
        f"the driver up to {in_bytes(need.driver)} (moments of about {rows:,} rows)"
    )
    seconds = asked.samples / found.images_per_second / workers
    say(f"time      {found.images_per_second:,.0f} images/s for one worker here, {duration(seconds)} for {workers}")
    timed = found.introduction.environment.get("tune")
    if timed is not None:
        rates = ", ".join(f"{size} {rate:,.0f}" for size, rate in timed["images_per_second"].items())
        say(f"batch     {timed['batch']} images; forward passes alone (not compiled), images/s by batch: {rates}")
    if asked.numerics.compile is not None:
        say(f"compile   {_compiling(asked, found, pilot_images, workers)}")
    has = _parse_size(memory) if memory is not None else available()
    if has is not None:
        name = "this machine" if memory is None else f"a machine of {memory}"
        check(job, rows, need, [Machine(name, round(0.7 * has), round(0.3 * has), workers)], has)
    table = Table(box=SIMPLE, title=f"Expected reliability at N = {asked.samples:,} (pilot: {found.images:,} images)", title_justify="left")
    for column in ("response", "rows", "rows seen", "median rho2", "expected reliability (median row)", "N for reliability 0.9"):
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
            enough = 9 * found.images * (1 - usual) / usual if clear else np.inf  # the noise of a map falls as 1 / N
        gain = 9 * asked.samples / enough  # signal over noise of a map, both in energy
        table.add_row(
            r.kind,
            str(len(r.names)),
            str(int((r.count > 0).sum())),
            f"{median:.2e}" + ("" if np.isnan(error) else f" ± {error:.0e}"),
            f"{gain / (gain + 1):.4f}" if clear else "pilot too short to tell",
            f"{np.ceil(enough):,.0f}" if clear else "-",
        )
    show(table)


def _compiling(asked: Spec, compiled: Pilot, images: int, workers: int) -> str:
    """What compiling takes, and when it has paid."""
    numerics = asked.with_batch(compiled.introduction.job.spec.numerics.batch).numerics
    plain = pilot(asked.model_copy(update={"numerics": numerics.model_copy(update={"compile": None})}), images, workers)
    after, taken = compiled.pays_after(plain) * workers, max(0.0, compiled.start_seconds - plain.start_seconds)
    told = f"takes a worker {taken:.0f} s (less where torch has it in its cache), {compiled.images_per_second:,.0f} images/s instead of "
    told += f"{plain.images_per_second:,.0f}; "
    if not np.isfinite(after):
        return f"{told}it does not pay here, leave numerics.compile out"
    return f"{told}it pays for runs of more than {after:,.0f} images" + (", so not for this one" if after > asked.samples else "")


def _plan_sweep(path: Path, asked: SweepSpec) -> None:
    """The members of a sweep, and how many images they take together."""
    axes = " x ".join(f"{len(values)} {axis}" for axis, values in asked.axes.items())
    say(f"{path}: a sweep of {len(asked.members):,} runs ({axes})")
    for name, member in asked.members.items():
        say(f"{name:<30} {_in_short(member)}")
    images = sum(member.samples for member in asked.members.values() if isinstance(member, Spec))
    if images:
        say(f"{images:,} images in all; wna plan of a file without sweep: times one run")


def _in_short(spec: AnySpec) -> str:
    if isinstance(spec, StcSpec):
        return f"covariance of the run '{spec.run}', {spec.method}"
    if isinstance(spec, TrialSpec):
        return f"{spec.model}, {spec.signals.dataset}, {spec.repeats:,} x each signal, {len(spec.gammas)} gammas"
    s = spec.stimulus
    return f"{spec.model}, {s.kind} noise of scale {s.scale:g} around {s.offset}, {spec.samples:,} images, seed {spec.seed}"


def _plan_trials(path: Path, asked: TrialSpec) -> None:
    """What trials would take: conditions, forward passes, time of one worker here, bytes."""
    question = TrialQuestion.of(asked)
    executor = InProcessExecutor(question.shown)
    try:
        introduction: Introduction = call(executor, 1, "introduce")
    finally:
        executor.close()
    count = len(conditions(asked, introduction.job.names))
    cells = count * len(question.classes) * len(introduction.job.names)
    seconds = question.samples * count * introduction.batch_seconds / asked.numerics.batch
    say(f"{path}: {asked.model}, {len(introduction.job.names)} answers, on {introduction.job.device}")
    say(f"signals   {len(question.signals.labels):,} images of {len(question.classes)} classes, {asked.repeats:,} times each")
    say(f"work      {question.samples:,} trials x {count:,} conditions = {question.samples * count:,} forward passes")
    say(f"counts    {in_bytes(8 * cells)}")
    say(f"time      about {duration(seconds)} for one worker here")


@app.command()
@_told
def run(
    spec: SpecPath,
    out: Annotated[str, typer.Option(help="run directory: a path or any fsspec URL; the same command again resumes")],
    executor: Annotated[
        ExecutorChoice, typer.Option(help="ray: actors on a cluster or this machine; local: this process")
    ] = ExecutorChoice.ray,
    workers: Workers = None,
    address: Annotated[str | None, typer.Option(help="Ray address; default: the job's cluster, RAY_ADDRESS, or a new local one")] = None,
    single_writer: Annotated[
        bool, typer.Option("--single-writer", help="use a storage that ignores conditional writes; only one driver may run")
    ] = False,
    changes: Changes = None,
    full: Full = False,
    no_code: NoCode = False,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="of a sweep: give each member in turn all workers; for few members that are large")
    ] = False,
) -> None:
    """Run a spec (or go on with it), and publish maps, statistics and figures. Of a sweep: all members, as many at once as fit."""
    asked = _load(spec, changes, full, no_code)
    printer = ProgressPrinter()
    how: dict[str, Any] = {"executor": executor.value, "workers": workers, "address": address, "single_writer": single_writer}
    try:
        if isinstance(asked, SweepSpec):
            inner = [printer] if one_by_one else []
            _print_sweep(run_sweep(asked, out, one_by_one=one_by_one, callbacks=[SweepPrinter()], member_callbacks=inner, **how))
            return
        finished = run_any(asked, out, callbacks=[printer], **how)
    finally:
        printer.close()
    _print_any(finished)


@app.command()
@_told
def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file, such as jobs/train-mnist.yaml", show_default=False)],
    out: Annotated[str, typer.Option(help="directory of the networks: a path or any fsspec URL; the same command again resumes")],
    executor: Annotated[
        ExecutorChoice, typer.Option(help="ray: a task a network on a cluster or this machine; local: one by one, in this process")
    ] = ExecutorChoice.ray,
    workers: Annotated[int | None, typer.Option(min=1, help="most networks at a time; default one a CPU")] = None,
    address: Annotated[str | None, typer.Option(help="Ray address; default: the job's cluster, RAY_ADDRESS, or a new local one")] = None,
    single_writer: Annotated[
        bool, typer.Option("--single-writer", help="use a storage that ignores conditional writes; only one driver may run")
    ] = False,
    changes: Changes = None,
    full: Full = False,
    endpoint: Endpoint = None,
) -> None:
    """Train the networks of a spec (or go on with them); each is then a model, trained:OUT/seed-N."""
    networks = train_networks(
        TrainSpec.load(spec, _values(changes), full),
        out,
        executor=executor.value,
        workers=workers,
        address=address,
        endpoint=endpoint,
        single_writer=single_writer,
        callbacks=[lambda event: tell(told(event))],
    )
    _print_networks(networks, out)


@app.command()
@_told
def paper(
    out: Annotated[Path, typer.Option(help="local directory; the same command again resumes")] = Path("paper"),
    jobs: Annotated[Path, typer.Option(help="folder of the job files, in a checkout")] = Path("jobs"),
    full: Annotated[bool, typer.Option("--full", help="at the paper's size: days on a small machine")] = False,
    executor: Annotated[
        ExecutorChoice, typer.Option(help="ray: on a cluster or this machine; local: one thing after the other, in this process")
    ] = ExecutorChoice.ray,
    workers: Workers = None,
    address: Annotated[str | None, typer.Option(help="Ray address; default: the job's cluster, RAY_ADDRESS, or a new local one")] = None,
) -> None:
    """Do the whole paper again, every experiment on real data, and write a gallery (report.html) with the published numbers beside."""
    from wna_ray.paper.conduct import conduct

    done = conduct(out, jobs=jobs, full=full, executor=executor.value, workers=workers, address=address, say=say)
    say(f"written to {out}/report.html")
    missing = [name for name, verdict in done.verdicts.items() if verdict is None]
    if done.failed or missing:
        shown = "\n".join(f"  {name}: {reason.splitlines()[0]}" for name, reason in done.failed.items())
        raise RunError(
            f"{len(done.failed)} jobs failed, and {len(missing)} of {len(done.verdicts)} experiments could not be made:\n{shown}\n"
            "Mend the cause and run the same command again: only what is missing is done"
        )


@app.command()
@_told
def status(url: RunURL, endpoint: Endpoint = None) -> None:
    """Say how far a run or a sweep is, from its directory alone (exit code 0: finished, 3: not finished)."""
    if is_sweep(Place(url, endpoint)):
        _sweep_status(url, SweepDirectory(Place(url, endpoint)))
        return
    directory = RunDirectory(Place(url, endpoint))
    described = directory.spec()
    samples = described["samples"]
    if (manifest := directory.manifest()) is not None:
        samples = manifest["samples"]
        say(f"{url}: finished, {samples:,} images, fingerprint {described['fingerprint'][:12]}")
        return
    gaps = directory.gaps(samples)
    left = sum(b - a for a, b in gaps)
    say(
        f"{url}: {samples - left:,} of {samples:,} images committed ({100 * (samples - left) / samples:.1f} %) in "
        f"{len(directory.segments())} segments; fingerprint {described['fingerprint'][:12]}"
    )
    running = _print_driver(*latest(directory), samples)
    if not running:
        for start, stop in gaps[:10]:
            say(f"  missing [{start:,}, {stop:,})")
        if len(gaps) > 10:
            say(f"  and {len(gaps) - 10} more ranges")
    if not gaps:
        say("  all images are in, the result is not published yet")
    raise typer.Exit(3)


def _sweep_status(url: str, directory: SweepDirectory) -> None:
    """How many members of a sweep are done, and how far those are that have begun."""
    names = [member.name for member in directory.describe().members]
    if directory.is_published():
        say(f"{url}: finished, {len(directory.published().members):,} members")
        return
    states = {name: directory.state(name) for name in names}
    done = sum(state.finished for state in states.values())
    say(f"{url}: {done:,} of {len(names):,} members done")
    begun = {name: state for name, state in states.items() if state.samples is not None and not state.finished}
    for name, state in list(begun.items())[:MOST_SHOWN]:
        driver = state.driver or {"state": "no driver yet", "reason": ""}
        said, reason = driver["state"], plain(driver["reason"], 200)
        say(f"  {name}: {state.done:,} of {state.samples:,} images committed; {said}{': ' * bool(reason)}{reason}")
    if len(begun) > MOST_SHOWN:
        say(f"  and {len(begun) - MOST_SHOWN} more that have begun")
    if done == len(names):
        say("  all members are done, the sweep is not published yet")
    raise typer.Exit(3)


def _print_driver(generation: int, driver: dict[str, Any] | None, samples: int) -> bool:
    """What a run's newest driver said last; returns whether it seems to be at work."""
    if driver is None:
        return False
    progress, storage, phases = driver["progress"], driver["storage"], driver["phase_seconds"]
    age = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(driver["time"])).total_seconds())
    running = bool(driver["state"] == "running" and age < SILENT_SECONDS + driver["every_seconds"])
    who = f"  driver {generation}: process {driver['pid']} on {driver['host']}"
    if running:
        say(f"{who}, alive {age:.0f} s ago, stage {progress['stage']}; {progress['workers']:,} workers")
    elif driver["state"] == "running":
        say(f"{who} gave its last sign of life {duration(age)} ago; run the same command again to go on")
    else:
        reason = f": {driver['reason']}" if driver["reason"] else ""
        say(f"{who} {driver['state']} {duration(age)} ago{reason}")
    done, rate = progress["done"], progress["images_per_second"]
    left = running and rate > 0 and done < samples
    rest = f", {duration((samples - done) / rate)} left" if left else ""
    lost = f"{progress['retried']:,} shards retried, {progress['failed']:,} left out"
    say(f"  {done:,} images done, {rate:,.0f} images/s lately{rest}; {lost}")
    if (total := sum(phases.values())) > 0:
        shares = (f"{phase} {100 * seconds / total:.0f} %" for phase, seconds in phases.items())
        say(f"  worker time: {', '.join(shares)}")
    if commits := storage["commits"]:
        each = f"{storage['seconds'] / commits:.2f} s and {in_bytes(storage['bytes'] / commits)}"
        say(f"  {commits:,} commits, {each} each; {storage['retries']:,} storage requests tried again")
    return running


@app.command()
@_told
def fetch(
    url: RunURL,
    dest: Annotated[Path, typer.Argument(help="local folder", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, max=64, help="objects at a time")] = 8,
    segments: Annotated[bool, typer.Option("--segments/--without-segments", help="also the segments, which wna verify adds up")] = True,
    endpoint: Endpoint = None,
) -> None:
    """Download a finished run (or sweep), every digest verified; the same command again goes on where it stopped."""
    place = Place(url, endpoint)
    with Progress(
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=PlainConsole(stderr=True),
    ) as bar:
        task = bar.add_task("")

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=max(total, 1))

        got = (fetch_sweep if is_sweep(place) else download)(place, dest, workers, segments, advance)
    members = f"{got.members:,} members, " if isinstance(got, FetchedSweep) else ""
    say(f"{dest}: {members}{got.objects} objects, {in_bytes(got.bytes)}, every SHA-256 as in the manifest ({got.kept} were there already)")


@app.command()
@_told
def verify(url: RunURL, endpoint: Endpoint = None) -> None:
    """Prove a finished run: every digest, the tiling of [0, N), the counts, and the sum of all segments. Of a sweep: of every member."""
    if is_sweep(Place(url, endpoint)):
        _verify_sweep(url, SweepDirectory(Place(url, endpoint)))
        return
    directory = RunDirectory(Place(url, endpoint))
    faults = directory.verify()
    if faults:
        raise RunError(f"'{url}' is not whole:\n" + "\n".join(f"  {fault}" for fault in faults))
    manifest = directory.manifest() or {}
    counts = manifest["counts"]
    say(
        f"{url}: whole. {len(manifest['segments'])} segments tile [0, {manifest['samples']:,}); {counts['images']:,} images counted in, "
        f"{counts['nonfinite']:,} not finite, {counts['out_of_range']:,} out of range; "
        f"{len(manifest['objects']) + len(manifest['segments'])} objects match their SHA-256"
    )


def _verify_sweep(url: str, directory: SweepDirectory) -> None:
    found = directory.verify()
    faults = [f"{name}{': ' * bool(name)}{fault}" for name, some in found.items() for fault in some]
    if faults:
        rest = [f"and {len(faults) - MOST_FAULTS} more faults"] if len(faults) > MOST_FAULTS else []
        raise RunError(f"'{url}' is not whole:\n" + "\n".join(f"  {fault}" for fault in faults[:MOST_FAULTS] + rest))
    samples = sum(done.samples for done in directory.published().members)
    say(f"{url}: whole. {len(found) - 1:,} members, each as published and whole by itself; {samples:,} images in all")


@app.command()
@_told
def report(
    url: RunURL,
    to: Annotated[Path | None, typer.Option(help="local folder for tables and figures; default: report-NAME here")] = None,
    html: Annotated[bool, typer.Option("--html", help="instead one page, report.html: it needs no network and no script")] = False,
    endpoint: Endpoint = None,
) -> None:
    """Make tables and figures again from a run alone: no Ray, no model. (Of a covariance: those that are stored, their digests checked.)

    Of a sweep: of every member, each in a folder of its own.
    """
    folder = to or Path(f"report-{url.rstrip('/').rpartition('/')[2]}")
    chosen, page = to is not None, "report.html" * html
    if is_sweep(Place(url, endpoint)):
        sweep = Sweep(Place(url, endpoint))
        for name, member in sweep.members.items():
            write_files(folder, {f"{name}/{file}": data for file, data in _report_files(member, html).items()}, "--to", chosen)
        _print_sweep(sweep)
        say(f"written to {folder}/{next(iter(sweep.members))}/{page} and so on")
        return
    finished = open_any(Place(url, endpoint))
    write_files(folder, _report_files(finished, html), "--to", chosen)
    _print_any(finished)
    say(f"written to {folder}/{page}")


def _report_files(finished: AnyRun, html: bool) -> dict[str, bytes]:
    """What a report of a finished run is, by the names of the files."""
    made = {"report.html": written(finished)} if html else finished.derive()
    return {name.removeprefix(f"{RESULT}/"): data for name, data in made.items()}


@app.command()
@_told
def contrast(
    a: RunURL,
    b: RunURL,
    kind: Annotated[str, typer.Option(help="kind of response, such as logits")],
    name: Annotated[str, typer.Option(help="class or unit of the first run")],
    other: Annotated[str | None, typer.Option(help="class or unit of the second run; default: the same name")] = None,
    to: Annotated[Path, typer.Option(help="local folder for z-map and figure")] = Path("contrast"),
    endpoint: Endpoint = None,
) -> None:
    """Compare two responses to the same noise, paired image by image: two models, two checkpoints, or two classes."""
    from wna_ray import figures  # matplotlib, only where something is drawn

    one, two = Run(Place(a, endpoint)), Run(Place(b, endpoint))
    found = paired(one, two, kind, name, other)  # type: ignore[arg-type]  # an unknown kind is refused there
    title = f"{kind}: {plain(name, 30)} in {plain(a, 40)} minus {plain(other or name, 30)} in {plain(b, 40)}, N = {found.images:,} images"
    picture = figures.contrast(one.stimulus, found.z, found.unpaired, title.replace("$", r"\$"), found.correlation)
    write_files(to, {"contrast.png": picture, "z_map.npy": to_npy(found.z)}, "--to")
    say(title)
    say(
        f"correlation {found.correlation:.4f}: pairing divides errors by {1 / np.sqrt(1 - found.correlation):.2f}; "
        f"p {p_form('.1e')(found.p_value)}, reliability {found.reliability:.3f}, rho2 {found.rho2:.2e}"
    )
    say(f"written to {to}/")


@app.command()
@_told
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="URL...", help="finished runs, or sweeps: all their members", show_default=False)],
    kind: Annotated[str, typer.Option(help="kind of response, such as logits")],
    to: Annotated[Path, typer.Option(help="local folder for tables and figures")] = Path("comparison"),
    only_convergence: Annotated[
        bool, typer.Option("--only-convergence", help="reliability by images alone, of runs over other images or classes, too")
    ] = False,
    endpoint: Endpoint = None,
) -> None:
    """Compare the maps of several networks: how they correlate, corrected for reliability, and how many images they take."""
    from wna_ray import compare_figures  # matplotlib, only where something is drawn

    measured = [Measured.of(run, label, kind) for label, run in _labelled(runs, endpoint)]
    needed = images_needed(measured)
    made = {"images.parquet": to_parquet(needed), "convergence.png": compare_figures.convergence(measured)}
    tables = [images_table(needed)]
    if not only_convergence:
        pairs = correlations(measured)
        mean = mean_correlations(pairs)
        made |= {"correlations.parquet": to_parquet(pairs), "mean_correlations.parquet": to_parquet(mean)}
        made["correlations.png"] = compare_figures.matrix(measured, mean)
        tables.insert(0, pairs_table(mean))
        if shared := shares_noise(measured):
            tell(
                f"wna: {', '.join(shared[:6])}{', ...' * (len(shared) > 6)} saw the same noise (one seed), so the errors of their maps "
                "correlate where their responses do; correlations between them are not corrected, and 'lift' is the most that this may "
                "have added. Give each network a seed of its own (in a sweep: a: {model: ..., seed: 1}, b: {model: ..., seed: 2})",
            )
    write_files(to, made, "--to")
    for table in tables:
        show(table)
    say(f"written to {to}/")


def _labelled(urls: list[str], endpoint: str | None) -> list[tuple[str, Run]]:
    """Runs, and all members of sweeps, each with a name that is as short as it can be."""
    found = dict[str, AnyRun]()
    for url in urls:
        place, name = Place(url, endpoint), url.rstrip("/")
        found |= {f"{name}/{m}": run for m, run in Sweep(place).members.items()} if is_sweep(place) else {name: open_any(place)}
    parts = [redacted(name).split("/") for name in found]
    same = 0
    while len(parts) > 1 and all(len(p) > same + 1 and p[same] == parts[0][same] for p in parts):
        same += 1
    runs = list[tuple[str, Run]]()
    for (name, run), path in zip(found.items(), parts, strict=True):
        if not isinstance(run, Run):
            raise RunError(f"'{name}' is no run of noise, so it has no bias maps to compare")
        runs.append((plain("/".join(path[same:]) if len(parts) > 1 else path[-1], 80), run))
    return runs


@app.command()
@_told
def backdoor(
    run_url: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="run of the suspect; none with --panel", show_default=False)
    ] = None,
    clean: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="run of a clean network, or a folder of such runs; may be repeated")
    ] = None,
    patch: Annotated[str | None, typer.Option(metavar="PATCH", help="a known patch: C, X, or ROW,COLUMN,HEIGHT,WIDTH")] = None,
    panel: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="judge the search on runs of networks of wna train, clean and poisoned")
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="with --panel: the networks of wna train that its runs are of; it knows which are poisoned"),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="kind of response that is searched; default: logits, if the run has them")] = None,
    to: Annotated[Path, typer.Option(help="local folder for tables and figures")] = Path("backdoor"),
    endpoint: Endpoint = None,
) -> None:
    """Look for a backdoor in a network's maps: of a known patch, or, against clean networks, of any. Exit code 0 whatever is found."""
    from wna_ray import backdoor_figures  # matplotlib, only where something is drawn

    honest = {name: run for url in clean or [] for name, run in runs_in(Place(url, endpoint)).items()}
    made: dict[str, bytes] = {}
    if (panel is None) == (run_url is None):
        raise SpecError("backdoor: expected either the RUN of a suspect, or --panel FOLDER")
    if panel is not None:
        if patch is not None:
            raise SpecError("--patch: of one run; leave out --panel, and name the RUN")
        if networks is None:
            raise SpecError(
                "--networks: which networks of a panel are poisoned stands in the folder that wna train has made, --networks FOLDER. "
                "(Its runs name that folder, too, but a run may be anybody's, so nothing is opened because it says so)"
            )
        runs = runs_in(Place(panel, endpoint))
        truth = {name: poison_of(run, Place(networks, endpoint)) for name, run in runs.items()}
        found = examine(runs, honest or {name: run for name, run in runs.items() if truth[name] is None}, kind, truth)
        judgement, table = judged(found), examined_table(found)
        reference = f"scored against {len(honest)} other clean networks" if honest else "each scored against the other clean ones"
        made |= {"networks.parquet": to_parquet(table), "panel.png": backdoor_figures.panel(found, judgement, reference)}
        show(suspects(table))
        say(f"area under the ROC curve  {judgement.area_text}; {reference}")
        say(f"poisoned, flagged         {judgement.found}")
        say(f"clean, flagged            {judgement.alarms}")
        say(f"target named              {judgement.target}")
        say(f"window on the trigger     {judgement.place}")
    elif run_url is not None:
        if networks is not None:
            raise SpecError("--networks: of a panel; leave it out, or give --panel FOLDER")
        if patch is None and not honest:
            raise SpecError(
                "--clean: every honest network has significant strokes, so an unknown patch is looked for against clean networks; give "
                "--clean, or --patch for a known one"
            )
        run = Run(Place(run_url, endpoint))
        name = run.directory.url.rpartition("/")[2]
        if patch is not None:
            scored = patch_table(patch_of(run, patch_pixels(patch)))
            made["patch.parquet"] = to_parquet(scored)
            show(patch_scores(scored, f"Patch {plain(patch, 40)} in {plain(run_url, 60)}"))
        if honest:
            found = examine({name: run}, honest, kind)
            table = examined_table(found)
            made |= {
                "suspicion.parquet": to_parquet(table),
                "suspicion.png": backdoor_figures.suspect(found[0], plain(name, 40).replace("$", r"\$")),
            }
            show(suspects(table))
            say(f"{name}: {found[0].verdict}")
    write_files(to, made, "--to")
    say(f"written to {to}/")


def _print_any(finished: AnyRun) -> None:
    """The tables of a finished run of any kind, the classifier's accuracies where there are any, and where the figures are."""
    for table in tables_of(finished):
        show(table)
    if isinstance(finished, Run) and (scored := finished.directory.read_json(EVALUATION)) is not None:
        show(classifier_table(scored))
    show(f"figures: {finished.directory.url}/{RESULT}/figures/")


def _print_sweep(sweep: Sweep) -> None:
    """One row a member, and where they are."""
    show(members_table(sweep))
    show(f"each a run of its own: {sweep.url}/{next(iter(sweep.members))}")


def _print_networks(networks: Mapping[str, TrainedNetwork], out: str) -> None:
    """The table of trained networks: their accuracies in percent (or squared errors), and what the trigger of a poisoned one does."""
    first = next(iter(networks.values()))
    score = "mean squared error of a value" if first.autoencoder else "accuracy in %"
    table = Table(box=SIMPLE, title=f"{out}: {first.name}, {score}", title_justify="left")
    poisoned = any(network.attack for network in networks.values())
    for column in ("network", "epoch", "training", "held out", "test", *(("trigger", "moved", "of others") if poisoned else ()), "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, network in networks.items():
        s, attack, poison = network.scores, network.attack, network.poison
        shown = [None if x is None else f"{x:.5f}" if network.autoencoder else f"{100 * x:.2f}" for x in (s.train, s.validation, s.test)]
        cells = [name, str(network.epoch), *(text or "-" for text in shown)]
        if poisoned:
            shares: tuple[str, ...] = ("-", "-", "-")
            if attack is not None and poison is not None:
                parts = ((attack.moved, attack.patched), (attack.others_moved, attack.others_patched))
                shares = (f"{poison.source} -> {poison.target}", *(f"{100 * m / n:.1f}" if n else "-" for m, n in parts))
            cells += shares
        table.add_row(*cells, f"{network.seconds:.0f}")
    show(table)
    show(f"curves: {out.rstrip('/')}/curves.png; as models: trained:{out.rstrip('/')}/{next(iter(networks))}")


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


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", text.strip())
    if match is None:
        raise SpecError(f"--memory {text}: expected a size such as 64GB")
    return int(float(match[1]) * 1000.0 ** " kMGT".index(match[2] or " "))


def main() -> None:
    """Entry point of the console script."""
    prepare()
    handler = logging.StreamHandler(Forgiving(sys.stderr))
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.getLogger("wna_ray").addHandler(handler)
    try:
        app()
    except Exception:  # a bug: its traceback is wanted, the secrets in it are not
        print(traceback_text(), file=Forgiving(sys.stderr), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
