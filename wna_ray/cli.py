"""The command line: ``wna plan | run | train | status | fetch | verify | report``."""

from __future__ import annotations

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
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from wna_ray import __version__
from wna_ray.analysis import images_for
from wna_ray.archive import to_npy
from wna_ray.checks import plain
from wna_ray.contrast import contrast as compare
from wna_ray.driver import SILENT_SECONDS, latest
from wna_ray.errors import RunError, SpecError, StoreError, WnaError
from wna_ray.fetch import fetch as download
from wna_ray.inprocess import InProcessExecutor
from wna_ray.job import image_bytes, pilot, row_bytes, segment_bytes
from wna_ray.job import run as run_job
from wna_ray.memory import Machine, available, check, expected_rows, needs
from wna_ray.memory import size as in_bytes
from wna_ray.opened import AnyRun, open_any
from wna_ray.progress import ProgressPrinter, duration
from wna_ray.report import written
from wna_ray.results import Run
from wna_ray.rundir import RESULT, RunDirectory
from wna_ray.scheduling import call, fan_in
from wna_ray.shard import Job
from wna_ray.spec import StcSpec, TargetSpec
from wna_ray.specs import AnySpec, read_spec
from wna_ray.stc_run import Question, run_stc
from wna_ray.stimuli import stimulus_text
from wna_ray.store import Place
from wna_ray.tables import p_form, tables_of
from wna_ray.train_run import told
from wna_ray.train_run import train as train_networks
from wna_ray.train_spec import TrainSpec
from wna_ray.trained import TrainedNetwork
from wna_ray.trial_run import TrialQuestion, run_trials
from wna_ray.trial_spec import TrialSpec
from wna_ray.trials import conditions
from wna_ray.worker import Introduction

app = typer.Typer(
    help="White-noise analysis of neural networks: what does a network expect to see?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file, such as those in jobs/", show_default=False)]
RunURL = Annotated[str, typer.Argument(metavar="URL", help="run directory: a path or any fsspec URL", show_default=False)]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change the spec, e.g. stimulus.scale=0.5; may be repeated")
]
Workers = Annotated[
    int | None,
    typer.Option(help="Ray workers to ask for; default one a GPU, else one for every numerics.threads CPUs, as machines come and go"),
]
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
            print(f"wna: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except MemoryError as error:
            print(f"wna: out of memory ({error}); fewer pixels, responses or numerics.batch would need less", file=sys.stderr)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None

    return wrapped


def _load(path: Path, changes: list[str] | None) -> AnySpec:
    return read_spec(path, _values(changes))


def _values(changes: list[str] | None) -> dict[str, Any]:
    """What ``--set KEY=VALUE`` says."""
    values = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise SpecError(f"--set {change}: expected KEY=VALUE, such as stimulus.scale=0.5")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"--set {change}: the value is not YAML ({str(error).splitlines()[0]})") from None
    return values


def _version(value: bool) -> None:
    if value:
        print(__version__)
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
) -> None:
    """Say what a run would take and give: shards, bytes, memory, time, expected reliability (from a pilot).

    What does not fit into the memory of the machine is refused, as by `wna run`; Ray keeps 30 % of it as object store.
    """
    asked = _load(spec, changes)
    if isinstance(asked, StcSpec):
        question = Question.of(asked)
        run_of, streams = question.run, 1 + asked.fresh if asked.method == "dense" else 1
        passes = 1 if asked.method == "dense" else asked.passes + 1
        print(f"{spec}: covariance of {question.kind} of '{run_of.directory.url}', {asked.method}; units {', '.join(question.names[:12])}")
        print(f"noise     {run_of.spec.stimulus.kind}, d = {question.d:,} values, {streams} streams of {run_of.samples:,} images")
        network = "without a forward pass" if question.held is None else "with a forward and a backward pass an image"
        print(f"work      {passes} pass{'es' * (passes > 1)} {network}; sums of {in_bytes(question.sum_bytes)} each")
        for name, (low, high) in list(question.null_edges().items())[:12]:
            print(f"spectrum  {name}: without any axis from {low:+.3g} to {high:+.3g} sd of the response, so weaker axes hide in it")
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
    print(f"{spec}: {asked.model}, {len(job.names)} outputs, on {job.device}; fingerprint {job.fingerprint[:12]}")
    print(
        f"noise     {stimulus_text(asked.stimulus)}, shape {asked.stimulus.shape}, d = {d:,} values, {loud}"
        f"range [{low:.3g}, {high:.3g}] in {asked.stimulus.space} space"
    )
    if asked.target is not None:
        print(f"units     {_seen_by_units(asked.target, job)}")
    print(f"work      {asked.samples:,} images = {cut.shards} shards of {cut.shard:,} in {len(cut.segments)} segments of {cut.segment:,}")
    print(f"storage   up to {in_bytes(size)} a segment, {in_bytes(size * len(cut.segments))} in all; result up to {in_bytes(3 * size)}")
    if asked.keep_responses:
        print(f"responses {in_bytes(image_bytes(job) * asked.samples)} in all, {in_bytes(segment_bytes(job))} a segment")
    print(
        f"memory    a worker up to {in_bytes(need.worker)}, and {in_bytes(need.store)} of object store; "
        f"the driver up to {in_bytes(need.driver)} (moments of about {rows:,} rows)"
    )
    seconds = asked.samples / found.images_per_second / workers
    print(f"time      {found.images_per_second:,.0f} images/s for one worker here, {duration(seconds)} for {workers}")
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
    _console().print(table)


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
    print(f"{path}: {asked.model}, {len(introduction.job.names)} answers, on {introduction.job.device}")
    print(f"signals   {len(question.signals.labels):,} images of {len(question.classes)} classes, {asked.repeats:,} times each")
    print(f"work      {question.samples:,} trials x {count:,} conditions = {question.samples * count:,} forward passes")
    print(f"counts    {in_bytes(8 * cells)}")
    print(f"time      about {duration(seconds)} for one worker here")


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
) -> None:
    """Run a spec (or go on with it), and publish maps, statistics and figures."""
    asked = _load(spec, changes)
    printer = ProgressPrinter()
    how: dict[str, Any] = {"executor": executor.value, "workers": workers, "address": address, "single_writer": single_writer}
    try:
        if isinstance(asked, StcSpec):
            finished: AnyRun = run_stc(asked, out, callbacks=[printer], **how)
        elif isinstance(asked, TrialSpec):
            finished = run_trials(asked, out, callbacks=[printer], **how)
        else:
            finished = run_job(asked, out, callbacks=[printer], **how)
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
    endpoint: Endpoint = None,
) -> None:
    """Train the networks of a spec (or go on with them); each is then a model, trained:OUT/seed-N."""
    networks = train_networks(
        TrainSpec.load(spec, _values(changes)),
        out,
        executor=executor.value,
        workers=workers,
        address=address,
        endpoint=endpoint,
        single_writer=single_writer,
        callbacks=[lambda event: print(told(event), file=sys.stderr, flush=True)],
    )
    _print_networks(networks, out)


@app.command()
@_told
def status(url: RunURL, endpoint: Endpoint = None) -> None:
    """Say how far a run is, from its directory alone (exit code 0: finished, 3: not finished)."""
    directory = RunDirectory(Place(url, endpoint))
    described = directory.spec()
    samples = described["samples"]
    if (manifest := directory.manifest()) is not None:
        samples = manifest["samples"]
        print(f"{url}: finished, {samples:,} images, fingerprint {described['fingerprint'][:12]}")
        return
    gaps = directory.gaps(samples)
    left = sum(b - a for a, b in gaps)
    print(
        f"{url}: {samples - left:,} of {samples:,} images committed ({100 * (samples - left) / samples:.1f} %) in "
        f"{len(directory.segments())} segments; fingerprint {described['fingerprint'][:12]}"
    )
    running = _print_driver(*latest(directory), samples)
    if not running:
        for start, stop in gaps[:10]:
            print(f"  missing [{start:,}, {stop:,})")
        if len(gaps) > 10:
            print(f"  and {len(gaps) - 10} more ranges")
    if not gaps:
        print("  all images are in, the result is not published yet")
    raise typer.Exit(3)


def _print_driver(generation: int, driver: dict[str, Any] | None, samples: int) -> bool:
    """What a run's newest driver said last; returns whether it seems to be at work."""
    if driver is None:
        return False
    try:
        progress, storage, phases = driver["progress"], driver["storage"], driver["phase_seconds"]
        age = (datetime.now(UTC) - datetime.fromisoformat(driver["time"])).total_seconds()
        state = str(driver["state"])
        running = state == "running" and age < SILENT_SECONDS + driver["every_seconds"]
        who = f"  driver {generation}: process {int(driver['pid'])} on {plain(driver['host'])}"
        if state == "running" and not running:
            print(f"{who} gave its last sign of life {duration(age)} ago; run the same command again to go on")
        elif running:
            print(f"{who}, alive {age:.0f} s ago, stage {plain(progress['stage'])}; {int(progress['workers'])} workers")
        else:
            print(f"{who} {plain(state)} {duration(age)} ago{': ' + plain(driver['reason']) if driver['reason'] else ''}")
        done, rate = int(progress["done"]), float(progress["images_per_second"])
        rest = f", {duration((samples - done) / rate)} left" if running and rate > 0 and done < samples else ""
        print(
            f"  {done:,} images done, {rate:,.0f} images/s lately{rest}; "
            f"{int(progress['retried'])} shards retried, {int(progress['failed'])} left out"
        )
        total = sum(phases.values())
        if total > 0:
            shares = ", ".join(f"{plain(phase)} {100 * seconds / total:.0f} %" for phase, seconds in phases.items())
            print(f"  worker time: {shares}")
        if commits := int(storage["commits"]):
            print(
                f"  {commits} commits, {storage['seconds'] / commits:.2f} s and {in_bytes(storage['bytes'] / commits)} each; "
                f"{int(storage['retries'])} storage requests tried again"
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"drivers/{generation:06d}.json is damaged ({error!r})") from None
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
    """Download a finished run, every digest verified; the same command again goes on where it stopped."""
    with Progress(
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("")
        got = download(
            Place(url, endpoint), dest, workers, segments, lambda done, total: bar.update(task, completed=done, total=max(total, 1))
        )
    print(f"{dest}: {got.objects} objects, {in_bytes(got.bytes)}, every SHA-256 as in the manifest ({got.kept} were there already)")


@app.command()
@_told
def verify(url: RunURL, endpoint: Endpoint = None) -> None:
    """Prove a finished run: every digest, the tiling of [0, N), the counts, and the sum of all segments."""
    directory = RunDirectory(Place(url, endpoint))
    faults = directory.verify()
    if faults:
        raise RunError(f"'{url}' is not whole:\n" + "\n".join(f"  {fault}" for fault in faults))
    manifest = directory.manifest() or {}
    counts = manifest["counts"]
    print(
        f"{url}: whole. {len(manifest['segments'])} segments tile [0, {manifest['samples']:,}); {counts['images']:,} images counted in, "
        f"{counts['nonfinite']:,} not finite, {counts['out_of_range']:,} out of range; "
        f"{len(manifest['objects']) + len(manifest['segments'])} objects match their SHA-256"
    )


@app.command()
@_told
def report(
    url: RunURL,
    to: Annotated[Path | None, typer.Option(help="local folder for tables and figures; default: report-NAME here")] = None,
    html: Annotated[bool, typer.Option("--html", help="instead one page, report.html: it needs no network and no script")] = False,
    endpoint: Endpoint = None,
) -> None:
    """Make tables and figures again from a run alone: no Ray, no model. (Of a covariance: those that are stored, their digests checked.)"""
    finished = open_any(Place(url, endpoint))
    folder = to or Path(f"report-{url.rstrip('/').rpartition('/')[2]}")
    made = {"report.html": written(finished)} if html else finished.derive()
    for name, data in made.items():
        target = folder / name.removeprefix(f"{RESULT}/")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError as error:
            raise StoreError(f"cannot write '{target}' ({error.strerror}); give another --to") from None
    _print_any(finished)
    print(f"written to {folder}/{'report.html' * html}")


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
    found = compare(one, two, kind, name, other)  # type: ignore[arg-type]  # an unknown kind is refused there
    title = f"{kind}: {plain(name, 30)} in {plain(a, 40)} minus {plain(other or name, 30)} in {plain(b, 40)}, N = {found.images:,} images"
    picture = figures.contrast(one.stimulus, found.z, found.unpaired, title.replace("$", r"\$"), found.correlation)
    try:
        to.mkdir(parents=True, exist_ok=True)
        (to / "contrast.png").write_bytes(picture)
        (to / "z_map.npy").write_bytes(to_npy(found.z))
    except OSError as error:
        raise StoreError(f"cannot write to '{to}' ({error.strerror}); give another --to") from None
    print(title)
    print(
        f"correlation {found.correlation:.4f}: pairing divides errors by {1 / np.sqrt(1 - found.correlation):.2f}; "
        f"p {p_form('.1e')(found.p_value)}, reliability {found.reliability:.3f}, rho2 {found.rho2:.2e}"
    )
    print(f"written to {to}/")


def _print_any(finished: AnyRun) -> None:
    """The tables of a finished run of any kind, the classifier's accuracies where there are any, and where the figures are."""
    console = _console()
    for table in tables_of(finished):
        console.print(table)
    scored = finished.directory.read_json("evaluation/classifier.json") if isinstance(finished, Run) else None
    if scored is not None:
        console.print(
            f"As classifiers of {scored['dataset']} ({scored['images']:,} test images; chance {scored['chance']:.2f}, "
            f"majority class {scored['majority_class']:.3f}):"
        )
        for kind, entry in scored["templates"].items():
            accuracy = entry["accuracy"]
            console.print(f"  {kind:<14} correlation {accuracy['correlation']:.3f}   dot product {accuracy['dot']:.3f}")
    console.print(f"figures: {finished.directory.url}/{RESULT}/figures/")


def _print_networks(networks: Mapping[str, TrainedNetwork], out: str) -> None:
    """The table of trained networks: their accuracies in percent, and what the trigger of a poisoned one does."""
    table = Table(box=SIMPLE, title=f"{out}: {next(iter(networks.values())).name}, accuracy in %", title_justify="left")
    poisoned = any(network.attack for network in networks.values())
    for column in ("network", "epoch", "training", "held out", "test", *(("trigger", "moved", "of others") if poisoned else ()), "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, network in networks.items():
        a, attack, poison = network.accuracy, network.attack, network.poison
        cells = [name, str(network.epoch), *("-" if x is None else f"{100 * x:.2f}" for x in (a.train, a.validation, a.test))]
        if poisoned:
            shares: tuple[str, ...] = ("-", "-", "-")
            if attack is not None and poison is not None:
                parts = ((attack.moved, attack.patched), (attack.others_moved, attack.others_patched))
                shares = (f"{poison.source} -> {poison.target}", *(f"{100 * m / n:.1f}" if n else "-" for m, n in parts))
            cells += shares
        table.add_row(*cells, f"{network.seconds:.0f}")
    console = _console()
    console.print(table)
    console.print(f"curves: {out.rstrip('/')}/curves.png; as models: trained:{out.rstrip('/')}/{next(iter(networks))}")


def _console() -> Console:
    """A console whose tables are not squeezed where there is no terminal to fit."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


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
    app()


if __name__ == "__main__":
    main()
