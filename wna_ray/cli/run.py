"""``wna run | train | paper``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.cli.shared import (
    Changes,
    Endpoint,
    ExecutorChoice,
    Full,
    NoCode,
    SpecPath,
    Workers,
    app,
    exiting,
    print_result,
    print_sweep,
    read_changed,
    values_of,
)
from wna_ray.errors import RunError
from wna_ray.execution.progress import ProgressPrinter
from wna_ray.kinds.any import run_any
from wna_ray.networks.trained import TrainedNetwork
from wna_ray.specs.sweep import SweepSpec
from wna_ray.sweeps.job import SweepPrinter, run_sweep
from wna_ray.terminal import say, show, tell
from wna_ray.training.job import told
from wna_ray.training.job import train as train_networks
from wna_ray.training.spec import TrainSpec


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
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray address; default: the job's cluster, RAY_ADDRESS, or a new local one"
        ),
    ] = None,
    single_writer: Annotated[
        bool,
        typer.Option(
            "--single-writer",
            help="use a storage that ignores conditional writes; only one driver may run",
        ),
    ] = False,
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
    asked = read_changed(spec, changes, full, no_code)
    printer = ProgressPrinter()
    how: dict[str, Any] = {
        "executor": executor.value,
        "workers": workers,
        "address": address,
        "single_writer": single_writer,
    }
    try:
        if isinstance(asked, SweepSpec):
            inner = [printer] if one_by_one else []
            print_sweep(
                run_sweep(
                    asked,
                    out,
                    one_by_one=one_by_one,
                    callbacks=[SweepPrinter()],
                    member_callbacks=inner,
                    **how,
                )
            )
            return
        finished = run_any(asked, out, callbacks=[printer], **how)
    finally:
        printer.close()
    print_result(finished)


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
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray address; default: the job's cluster, RAY_ADDRESS, or a new local one"
        ),
    ] = None,
    single_writer: Annotated[
        bool,
        typer.Option(
            "--single-writer",
            help="use a storage that ignores conditional writes; only one driver may run",
        ),
    ] = False,
    changes: Changes = None,
    full: Full = False,
    endpoint: Endpoint = None,
) -> None:
    """Train the networks of a spec (or go on with them); each is then a model,
    trained:OUT/seed-N.
    """
    networks = train_networks(
        TrainSpec.load(spec, values_of(changes), full),
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
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray address; default: the job's cluster, RAY_ADDRESS, or a new local one"
        ),
    ] = None,
) -> None:
    """Do the whole paper again, every experiment on real data, and write a gallery
    (report.html) with the published numbers beside.
    """
    from wna_ray.paper.make import conduct

    done = conduct(
        out,
        jobs=jobs,
        full=full,
        executor=executor.value,
        workers=workers,
        address=address,
        say=say,
    )
    say(f"written to {out}/report.html")
    missing = [name for name, verdict in done.verdicts.items() if verdict is None]
    if done.failed or missing:
        shown = "\n".join(
            f"  {name}: {reason.splitlines()[0]}" for name, reason in done.failed.items()
        )
        raise RunError(
            f"{len(done.failed)} jobs failed, and {len(missing)} of {len(done.verdicts)}"
            f" experiments could not be made:\n{shown}\nMend the cause and run the same command"
            " again: only what is missing is done"
        )


def _print_networks(networks: Mapping[str, TrainedNetwork], out: str) -> None:
    """The table of trained networks: their accuracies in percent (or squared errors), and what
    the trigger of a poisoned one does.
    """
    first = next(iter(networks.values()))
    score = "mean squared error of a value" if first.autoencoder else "accuracy in %"
    table = Table(box=SIMPLE, title=f"{out}: {first.name}, {score}", title_justify="left")
    poisoned = any(network.attack for network in networks.values())
    for column in (
        "network",
        "epoch",
        "training",
        "held out",
        "test",
        *(("trigger", "moved", "of others") if poisoned else ()),
        "seconds",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, network in networks.items():
        s, attack, poison = network.scores, network.attack, network.poison
        shown = [
            None if x is None else f"{x:.5f}" if network.autoencoder else f"{100 * x:.2f}"
            for x in (s.train, s.validation, s.test)
        ]
        cells = [name, str(network.epoch), *(text or "-" for text in shown)]
        if poisoned:
            shares: tuple[str, ...] = ("-", "-", "-")
            if attack is not None and poison is not None:
                parts = (
                    (attack.moved, attack.patched),
                    (attack.others_moved, attack.others_patched),
                )
                shares = (
                    f"{poison.source} -> {poison.target}",
                    *(f"{100 * m / n:.1f}" if n else "-" for m, n in parts),
                )
            cells += shares
        table.add_row(*cells, f"{network.seconds:.0f}")
    show(table)
    show(
        f"curves: {out.rstrip('/')}/curves.png; as models:"
        f" trained:{out.rstrip('/')}/{next(iter(networks))}"
    )
