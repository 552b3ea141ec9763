"""The command line's application: what all commands share, and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from wna_ray.errors import SpecError, WnaError
from wna_ray.kinds.any import views_of
from wna_ray.reports.tables import members_table, tables_of
from wna_ray.runs.finished import Finished
from wna_ray.runs.names import RESULT
from wna_ray.specs.job import JobSpec
from wna_ray.specs.parse import require_no_code
from wna_ray.specs.sweep import SweepSpec, read_asked
from wna_ray.specs.yaml_text import parse_yaml
from wna_ray.sweeps.directory import Sweep
from wna_ray.terminal import say, show, tell, tell_what_was_escaped
from wna_ray.version import __version__

app = typer.Typer(
    help="White-noise analysis of neural networks: what does a network expect to see?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SpecPath = Annotated[
    Path,
    typer.Argument(metavar="SPEC", help="YAML file, such as those in jobs/", show_default=False),
]
RunURL = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="run directory: a path or any fsspec URL", show_default=False
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="change the spec, e.g. stimulus.scale=0.5; may be repeated",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help=(
            "Ray workers to ask for; default one a GPU, else one for every numerics.threads CPUs,"
            " as machines come and go"
        )
    ),
]
Full = Annotated[
    bool,
    typer.Option(
        "--full",
        help="first make the changes that the file keeps under full: (the paper's size, say)",
    ),
]
NoCode = Annotated[
    bool,
    typer.Option(
        "--no-code", help="refuse a spec whose model runs code (python:); for specs from others"
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(help="URL of the S3 server, where it is not AWS; default: AWS_ENDPOINT_URL"),
]


class ExecutorChoice(StrEnum):
    """Where the shards run."""

    ray = "ray"
    local = "local"


def exiting(command: Callable[..., None]) -> Callable[..., None]:
    """Print a `WnaError` as its message alone and exit with its code; anything else is a bug
    and keeps its traceback.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except WnaError as error:
            tell(f"wna: {error}")
            raise typer.Exit(error.exit_code) from None
        except MemoryError as error:
            tell(
                f"wna: out of memory ({error}); fewer pixels, responses or numerics.batch would"
                " need less"
            )
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        finally:
            tell_what_was_escaped()

    return wrapped


def read_changed(
    path: Path, changes: list[str] | None, full: bool, no_code: bool
) -> JobSpec | SweepSpec:
    asked = read_asked(path, values_of(changes), full)
    if no_code:
        require_no_code(asked.members.values() if isinstance(asked, SweepSpec) else [asked])
    return asked


def values_of(changes: list[str] | None) -> dict[str, Any]:
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
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def print_result(finished: Finished) -> None:
    """The tables of a finished run of any kind, the classifier's accuracies where there are
    any, and where the figures are.
    """
    for table in tables_of(finished):
        show(table)
    for table in views_of(finished).further_tables(finished):
        show(table)
    show(f"figures: {finished.directory.url}/{RESULT}/figures/")


def print_sweep(sweep: Sweep) -> None:
    """One row a member, and where they are."""
    show(members_table(sweep))
    show(f"each a run of its own: {sweep.url}/{next(iter(sweep.members))}")
