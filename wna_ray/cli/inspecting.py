"""The work of ``wna status | fetch | verify``, which needs neither torch nor matplotlib nor Ray."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from wna_ray.errors import RunError
from wna_ray.runs.directory import MOST_FAULTS, RunDirectory
from wna_ray.runs.driver import SILENT_SECONDS, latest
from wna_ray.runs.driver_record import DriverRecord, DriverStorage
from wna_ray.runs.fetch import fetch
from wna_ray.storage.store import Place
from wna_ray.sweeps.directory import SweepDirectory, is_sweep
from wna_ray.sweeps.fetch import FetchedSweep, fetch_sweep
from wna_ray.terminal import PlainConsole, say
from wna_ray.text import duration, plain
from wna_ray.text import size as in_bytes

MOST_GAPS = 10  # missing ranges of a run that are printed
MOST_BEGUN = 10  # members of a sweep that are printed while they are at work


def print_status(url: str, endpoint: str | None) -> bool:
    """Print how far a run or a sweep is; returns whether it is finished."""
    place = Place(url, endpoint)
    if is_sweep(place):
        return _print_sweep_status(url, SweepDirectory(place))
    return _print_run_status(url, RunDirectory(place))


def _print_run_status(url: str, directory: RunDirectory) -> bool:
    """How many images of a run are committed, what its driver does, and what is missing."""
    spec = directory.spec()
    samples, fingerprint = spec.samples, spec.fingerprint[:12]
    if (manifest := directory.manifest()) is not None:
        say(f"{url}: finished, {manifest.samples:,} images, fingerprint {fingerprint}")
        return True
    gaps = directory.gaps(samples)
    left = sum(stop - start for start, stop in gaps)
    say(
        f"{url}: {samples - left:,} of {samples:,} images committed"
        f" ({100 * (samples - left) / samples:.1f} %) in {len(directory.segments())} segments;"
        f" fingerprint {fingerprint}"
    )
    running = _print_driver(*latest(directory), samples)
    if not running:
        for start, stop in gaps[:MOST_GAPS]:
            say(f"  missing [{start:,}, {stop:,})")
        if len(gaps) > MOST_GAPS:
            say(f"  and {len(gaps) - MOST_GAPS} more ranges")
    if not gaps:
        say("  all images are in, the result is not published yet")
    return False


def _print_sweep_status(url: str, directory: SweepDirectory) -> bool:
    """How many members of a sweep are done, and how far those are that have begun."""
    names = [member.name for member in directory.describe().members]
    if directory.is_published():
        say(f"{url}: finished, {len(directory.published().members):,} members")
        return True
    states = {name: directory.state(name) for name in names}
    done = sum(state.finished for state in states.values())
    say(f"{url}: {done:,} of {len(names):,} members done")
    begun = {
        name: state
        for name, state in states.items()
        if state.samples is not None and not state.finished
    }
    for name, state in list(begun.items())[:MOST_BEGUN]:
        driver = state.driver
        what = "no driver yet" if driver is None else driver.state
        reason = "" if driver is None else plain(driver.reason, 200)
        say(
            f"  {name}: {state.done:,} of {state.samples:,} images committed;"
            f" {what}{': ' * bool(reason)}{reason}"
        )
    if len(begun) > MOST_BEGUN:
        say(f"  and {len(begun) - MOST_BEGUN} more that have begun")
    if done == len(names):
        say("  all members are done, the sweep is not published yet")
    return False


def _print_driver(generation: int, driver: DriverRecord | None, samples: int) -> bool:
    """What a run's newest driver said last; returns whether it seems to be at work."""
    if driver is None:
        return False
    progress = driver.progress
    age = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(driver.time)).total_seconds())
    running = driver.state == "running" and age < SILENT_SECONDS + driver.every_seconds
    who = f"  driver {generation}: process {driver.pid} on {driver.host}"
    if running:
        say(f"{who}, alive {age:.0f} s ago, stage {progress.stage}; {progress.workers:,} workers")
    elif driver.state == "running":
        say(
            f"{who} gave its last sign of life {duration(age)} ago; run the same command again to"
            " go on"
        )
    else:
        reason = f": {driver.reason}" if driver.reason else ""
        say(f"{who} {driver.state} {duration(age)} ago{reason}")
    done, rate = progress.done, progress.images_per_second
    left = running and rate > 0 and done < samples
    rest = f", {duration((samples - done) / rate)} left" if left else ""
    lost = f"{progress.retried:,} shards retried, {progress.failed:,} left out"
    say(f"  {done:,} images done, {rate:,.0f} images/s lately{rest}; {lost}")
    _print_costs(driver.phase_seconds, driver.storage)
    return running


def _print_costs(phases: dict[str, float], storage: DriverStorage) -> None:
    """On what workers spent their time, and what commits took."""
    if (total := sum(phases.values())) > 0:
        shares = (f"{phase} {100 * seconds / total:.0f} %" for phase, seconds in phases.items())
        say(f"  worker time: {', '.join(shares)}")
    if commits := storage.commits:
        each = f"{storage.seconds / commits:.2f} s and {in_bytes(storage.bytes / commits)}"
        say(f"  {commits:,} commits, {each} each; {storage.retries:,} storage requests tried again")


def fetch_to(url: str, dest: Path, workers: int, segments: bool, endpoint: str | None) -> None:
    """Download a finished run or sweep, with a bar, and print what there is now.

    Parameters
    ----------
    url, endpoint
        The run or sweep, and the S3 server where it is not AWS.
    dest
        Local folder.
    workers
        Objects that are downloaded at a time.
    segments
        Whether the segments come, too.
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

        copy = (fetch_sweep if is_sweep(place) else fetch)(place, dest, workers, segments, advance)
    members = f"{copy.members:,} members, " if isinstance(copy, FetchedSweep) else ""
    say(
        f"{dest}: {members}{copy.objects} objects, {in_bytes(copy.bytes)}, every SHA-256 as in the"
        f" manifest ({copy.kept} were there already)"
    )


def print_proof(url: str, endpoint: str | None) -> None:
    """Prove that a run or a sweep is whole, and say so; `RunError` names all that is wrong."""
    place = Place(url, endpoint)
    if is_sweep(place):
        _print_sweep_proof(url, SweepDirectory(place))
        return
    directory = RunDirectory(place)
    faults = directory.verify()
    if faults:
        raise _not_whole(url, faults)
    manifest = directory.finished()[1]
    counts = manifest.counts
    say(
        f"{url}: whole. {len(manifest.segments)} segments tile [0, {manifest.samples:,});"
        f" {counts.images:,} images counted in, {counts.nonfinite:,} not finite,"
        f" {counts.out_of_range:,} out of range; {len(manifest.listed)} objects match their SHA-256"
    )


def _print_sweep_proof(url: str, directory: SweepDirectory) -> None:
    by_member = directory.verify()
    faults = [
        f"{name}{': ' * bool(name)}{fault}" for name, some in by_member.items() for fault in some
    ]
    if faults:
        rest = [f"and {len(faults) - MOST_FAULTS} more faults"] if len(faults) > MOST_FAULTS else []
        raise _not_whole(url, faults[:MOST_FAULTS] + rest)
    samples = sum(member.samples for member in directory.published().members)
    say(
        f"{url}: whole. {len(by_member) - 1:,} members, each as published and whole by itself;"
        f" {samples:,} images in all"
    )


def _not_whole(url: str, faults: list[str]) -> RunError:
    return RunError(f"'{url}' is not whole:\n" + "\n".join(f"  {fault}" for fault in faults))
