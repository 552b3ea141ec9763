"""``wna status | fetch | verify | report``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from wna_ray.cli.shared import Endpoint, RunURL, app, exiting, print_result, print_sweep
from wna_ray.errors import RunError
from wna_ray.kinds.any import open_any
from wna_ray.reports.html import written
from wna_ray.runs.directory import MOST_FAULTS, RunDirectory
from wna_ray.runs.driver import SILENT_SECONDS, latest
from wna_ray.runs.fetch import fetch as download
from wna_ray.runs.finished import Finished
from wna_ray.runs.names import RESULT
from wna_ray.storage.folder import write_files
from wna_ray.storage.store import Place
from wna_ray.sweeps.directory import Sweep, SweepDirectory, is_sweep
from wna_ray.sweeps.fetch import FetchedSweep, fetch_sweep
from wna_ray.terminal import PlainConsole, say
from wna_ray.text import duration, plain
from wna_ray.text import size as in_bytes

MOST_SHOWN = 10  # members of a sweep that are at work


@app.command()
@exiting
def status(url: RunURL, endpoint: Endpoint = None) -> None:
    """Say how far a run or a sweep is, from its directory alone (exit code 0: finished, 3: not
    finished).
    """
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
        f"{url}: {samples - left:,} of {samples:,} images committed"
        f" ({100 * (samples - left) / samples:.1f} %) in {len(directory.segments())} segments;"
        f" fingerprint {described['fingerprint'][:12]}"
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
    begun = {
        name: state
        for name, state in states.items()
        if state.samples is not None and not state.finished
    }
    for name, state in list(begun.items())[:MOST_SHOWN]:
        driver = state.driver or {"state": "no driver yet", "reason": ""}
        said, reason = driver["state"], plain(driver["reason"], 200)
        say(
            f"  {name}: {state.done:,} of {state.samples:,} images committed;"
            f" {said}{': ' * bool(reason)}{reason}"
        )
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
        say(
            f"{who}, alive {age:.0f} s ago, stage {progress['stage']}; {progress['workers']:,}"
            " workers"
        )
    elif driver["state"] == "running":
        say(
            f"{who} gave its last sign of life {duration(age)} ago; run the same command again to"
            " go on"
        )
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
        say(
            f"  {commits:,} commits, {each} each; {storage['retries']:,} storage requests tried"
            " again"
        )
    return running


@app.command()
@exiting
def fetch(
    url: RunURL,
    dest: Annotated[Path, typer.Argument(help="local folder", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, max=64, help="objects at a time")] = 8,
    segments: Annotated[
        bool,
        typer.Option(
            "--segments/--without-segments", help="also the segments, which wna verify adds up"
        ),
    ] = True,
    endpoint: Endpoint = None,
) -> None:
    """Download a finished run (or sweep), every digest verified; the same command again goes on
    where it stopped.
    """
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

        got = (fetch_sweep if is_sweep(place) else download)(
            place, dest, workers, segments, advance
        )
    members = f"{got.members:,} members, " if isinstance(got, FetchedSweep) else ""
    say(
        f"{dest}: {members}{got.objects} objects, {in_bytes(got.bytes)}, every SHA-256 as in the"
        f" manifest ({got.kept} were there already)"
    )


@app.command()
@exiting
def verify(url: RunURL, endpoint: Endpoint = None) -> None:
    """Prove a finished run: every digest, the tiling of [0, N), the counts, and the sum of all
    segments. Of a sweep: of every member.
    """
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
        f"{url}: whole. {len(manifest['segments'])} segments tile [0, {manifest['samples']:,});"
        f" {counts['images']:,} images counted in, {counts['nonfinite']:,} not finite,"
        f" {counts['out_of_range']:,} out of range;"
        f" {len(manifest['objects']) + len(manifest['segments'])} objects match their SHA-256"
    )


def _verify_sweep(url: str, directory: SweepDirectory) -> None:
    found = directory.verify()
    faults = [f"{name}{': ' * bool(name)}{fault}" for name, some in found.items() for fault in some]
    if faults:
        rest = [f"and {len(faults) - MOST_FAULTS} more faults"] if len(faults) > MOST_FAULTS else []
        raise RunError(
            f"'{url}' is not whole:\n"
            + "\n".join(f"  {fault}" for fault in faults[:MOST_FAULTS] + rest)
        )
    samples = sum(done.samples for done in directory.published().members)
    say(
        f"{url}: whole. {len(found) - 1:,} members, each as published and whole by itself;"
        f" {samples:,} images in all"
    )


@app.command()
@exiting
def report(
    url: RunURL,
    to: Annotated[
        Path | None,
        typer.Option(help="local folder for tables and figures; default: report-NAME here"),
    ] = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html", help="instead one page, report.html: it needs no network and no script"
        ),
    ] = False,
    endpoint: Endpoint = None,
) -> None:
    """Make tables and figures again from a run alone: no Ray, no model. (Of a covariance: those
    that are stored, their digests checked.)

    Of a sweep: of every member, each in a folder of its own.
    """
    folder = to or Path(f"report-{url.rstrip('/').rpartition('/')[2]}")
    chosen, page = to is not None, "report.html" * html
    if is_sweep(Place(url, endpoint)):
        sweep = Sweep(Place(url, endpoint))
        for name, member in sweep.members.items():
            write_files(
                folder,
                {f"{name}/{file}": data for file, data in _report_files(member, html).items()},
                "--to",
                chosen,
            )
        print_sweep(sweep)
        say(f"written to {folder}/{next(iter(sweep.members))}/{page} and so on")
        return
    finished = open_any(Place(url, endpoint))
    write_files(folder, _report_files(finished, html), "--to", chosen)
    print_result(finished)
    say(f"written to {folder}/{page}")


def _report_files(finished: Finished, html: bool) -> dict[str, bytes]:
    """What a report of a finished run is, by the names of the files."""
    made = {"report.html": written(finished)} if html else finished.derive()
    return {name.removeprefix(f"{RESULT}/"): data for name, data in made.items()}
