"""The work of ``wna report``: tables on the terminal, and files in a folder."""

from __future__ import annotations

from pathlib import Path

from wna_ray.kinds.any import open_any, views_of
from wna_ray.reports.html import written
from wna_ray.reports.tables import members_table, tables_of
from wna_ray.runs.finished import Finished
from wna_ray.runs.names import RESULT
from wna_ray.storage.folder import write_files
from wna_ray.storage.store import Place
from wna_ray.sweeps.directory import is_sweep
from wna_ray.sweeps.finished import Sweep
from wna_ray.terminal import say, show


def write_report(url: str, to: Path | None, html: bool, endpoint: str | None) -> None:
    """Write the report of a finished run, or of every member of a sweep, and print its tables.

    Parameters
    ----------
    url, endpoint
        The run or sweep, and the S3 server where it is not AWS.
    to
        Local folder; None: one here that is named after the run.
    html
        Whether it is one page, instead of tables and figures.
    """
    folder = to or Path(f"report-{url.rstrip('/').rpartition('/')[2]}")
    chosen, page = to is not None, "report.html" * html
    place = Place(url, endpoint)
    if is_sweep(place):
        sweep = Sweep(place)
        for name, member in sweep.members.items():
            files = {f"{name}/{file}": data for file, data in _report_files(member, html).items()}
            write_files(folder, files, "--to", chosen)
        print_sweep(sweep)
        say(f"written to {folder}/{next(iter(sweep.members))}/{page} and so on")
        return
    finished = open_any(place).remade()
    write_files(folder, _report_files(finished, html), "--to", chosen)
    print_result(finished)
    say(f"written to {folder}/{page}")


def print_result(finished: Finished) -> None:
    """The tables of a finished run of any kind, the classifier's accuracies where there are
    any, and where the figures are.
    """
    for table in tables_of(finished):
        show(table)
    for table in views_of(finished).further_tables(finished):
        show(table)
    figures = f"{RESULT}/figures/"
    if any(name.startswith(figures) for name in finished.manifest.objects):
        show(f"figures: {finished.directory.url}/{figures}")


def print_sweep(sweep: Sweep) -> None:
    """One row a member, and where they are."""
    show(members_table(sweep))
    show(f"each a run of its own: {sweep.url}/{next(iter(sweep.members))}")


def _report_files(finished: Finished, html: bool) -> dict[str, bytes]:
    """What a report of a finished run is, by the names of the files."""
    objects = {"report.html": written(finished)} if html else finished.remade().objects
    return {name.removeprefix(f"{RESULT}/"): data for name, data in objects.items()}
