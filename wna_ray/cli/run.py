"""``wna run | train | paper``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wna_ray.cli.shared import (
    Address,
    Changes,
    Endpoint,
    ExecutionOptions,
    ExecutorChoice,
    Full,
    NoCode,
    SingleWriter,
    SpecFile,
    SpecPath,
    Workers,
    app,
    exiting,
)


@app.command()
@exiting
def run(
    spec: SpecPath,
    out: Annotated[
        str,
        typer.Option(
            help="run directory: a path or any fsspec URL; the same command again resumes"
        ),
    ],
    executor: Annotated[
        ExecutorChoice,
        typer.Option(help="ray: actors on a cluster or this machine; local: this process"),
    ] = ExecutorChoice.ray,
    workers: Workers = None,
    address: Address = None,
    single_writer: SingleWriter = False,
    changes: Changes = None,
    full: Full = False,
    no_code: NoCode = False,
    one_by_one: Annotated[
        bool,
        typer.Option(
            "--one-by-one",
            help="of a sweep: give each member in turn all workers; for few members that are large",
        ),
    ] = False,
) -> None:
    """Run a spec (or go on with it), and publish maps, statistics and figures. Of a sweep: all
    members, as many at once as fit.
    """
    from wna_ray.cli.running import run_spec

    options = ExecutionOptions(executor, workers, address, single_writer)
    run_spec(SpecFile(spec, changes, full, no_code), out, options, one_by_one)


@app.command()
@exiting
def train(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC", help="YAML file, such as jobs/train-mnist.yaml", show_default=False
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help=(
                "directory of the networks: a path or any fsspec URL; the same command again"
                " resumes"
            )
        ),
    ],
    executor: Annotated[
        ExecutorChoice,
        typer.Option(
            help=(
                "ray: a task a network on a cluster or this machine; local: one by one, in this"
                " process"
            )
        ),
    ] = ExecutorChoice.ray,
    workers: Annotated[
        int | None, typer.Option(min=1, help="most networks at a time; default one a CPU")
    ] = None,
    address: Address = None,
    single_writer: SingleWriter = False,
    changes: Changes = None,
    full: Full = False,
    endpoint: Endpoint = None,
) -> None:
    """Train the networks of a spec (or go on with them); each is then a model,
    trained:OUT/seed-N.
    """
    from wna_ray.cli.training import train_networks

    options = ExecutionOptions(executor, workers, address, single_writer)
    train_networks(SpecFile(spec, changes, full), out, options, endpoint)


@app.command()
@exiting
def paper(
    out: Annotated[
        Path, typer.Option(help="local directory; the same command again resumes")
    ] = Path("paper"),
    jobs: Annotated[Path, typer.Option(help="folder of the job files, in a checkout")] = Path(
        "jobs"
    ),
    full: Annotated[
        bool, typer.Option("--full", help="at the paper's size: days on a small machine")
    ] = False,
    executor: Annotated[
        ExecutorChoice,
        typer.Option(
            help=(
                "ray: on a cluster or this machine; local: one thing after the other, in this"
                " process"
            )
        ),
    ] = ExecutorChoice.ray,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Do the whole paper again, every experiment on real data, and write a gallery
    (report.html) with the published numbers beside.
    """
    from wna_ray.cli.reproducing import reproduce_paper

    reproduce_paper(out, jobs, full, ExecutionOptions(executor, workers, address))
