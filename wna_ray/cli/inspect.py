"""``wna status | fetch | verify | report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wna_ray.cli.shared import Endpoint, ExitCode, RunURL, app, exiting


@app.command()
@exiting
def status(url: RunURL, endpoint: Endpoint = None) -> None:
    """Say how far a run or a sweep is, from its directory alone (exit code 0: finished, 3: not
    finished).
    """
    from wna_ray.cli.inspecting import print_status

    if not print_status(url, endpoint):
        raise typer.Exit(ExitCode.UNFINISHED)


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
    from wna_ray.cli.inspecting import fetch_to

    fetch_to(url, dest, workers, segments, endpoint)


@app.command()
@exiting
def verify(url: RunURL, endpoint: Endpoint = None) -> None:
    """Prove a finished run: every digest, the tiling of [0, N), the counts, and the sum of all
    segments. Of a sweep: of every member.
    """
    from wna_ray.cli.inspecting import print_proof

    print_proof(url, endpoint)


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
    from wna_ray.cli.reporting import write_report

    write_report(url, to, html, endpoint)
