"""What all commands share: the application, options, and the table of exit codes.

This module and the commands' signatures are all that ``wna --help`` imports, so they import no
room: a command imports the module that does its work when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from wna_ray.errors import SpecError, Stopped, WnaError
from wna_ray.terminal import say, tell, tell_what_was_escaped
from wna_ray.version import __version__


class ExitCode(IntEnum):
    """How a command ends; those of errors stand at their classes (see `wna_ray.errors`).

    Typer ends with `ARGUMENT` by itself where it refuses an argument, and with `STOPPED` at Ctrl-C.
    """

    DONE = 0
    ERROR = WnaError.exit_code
    ARGUMENT = SpecError.exit_code
    UNFINISHED = 3
    STOPPED = Stopped.exit_code


MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.ERROR: "an error, such as a damaged run, a storage that refuses, or a failed job",
    ExitCode.ARGUMENT: "the spec or an argument does not fit, or a model cannot be used",
    ExitCode.UNFINISHED: "wna status only: not finished yet",
    ExitCode.STOPPED: "stopped by Ctrl-C or SIGTERM; the same command goes on",
}

app = typer.Typer(
    help="White-noise analysis of neural networks: what does a network expect to see?",
    # Typer joins lines, and keeps paragraphs.
    epilog="\n\n".join(
        ["Exit codes:", *(f"{code:>3}  {meaning}" for code, meaning in MEANINGS.items())]
    ),
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
Address = Annotated[
    str | None,
    typer.Option(help="Ray address; default: the job's cluster, RAY_ADDRESS, or a new local one"),
]
SingleWriter = Annotated[
    bool,
    typer.Option(
        "--single-writer",
        help="use a storage that ignores conditional writes; only one driver may run",
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
    """What runs the shards."""

    ray = "ray"
    local = "local"


@dataclass(frozen=True)
class SpecFile:
    """A spec's file, and how a command line changes it.

    Attributes
    ----------
    path
        The YAML file.
    changes
        ``KEY=VALUE``, as ``--set`` has them.
    full
        Whether the changes that the file keeps under ``full:`` come first.
    no_code
        Whether a model that runs code is refused.
    """

    path: Path
    changes: Sequence[str] | None = None
    full: bool = False
    no_code: bool = False


@dataclass(frozen=True)
class ExecutionOptions:
    """Which workers do a job, and who else may write to its directory.

    Attributes
    ----------
    executor
        Ray, or this process.
    workers
        How many; None: as many as fit.
    address
        Of the Ray cluster; None: Ray chooses.
    single_writer
        Whether the storage may ignore conditional writes, as no other driver runs.
    """

    executor: ExecutorChoice
    workers: int | None = None
    address: str | None = None
    single_writer: bool = False

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of jobs."""
        return vars(self) | {"executor": self.executor.value}


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
            raise typer.Exit(ExitCode.ERROR) from None
        except BrokenPipeError:
            raise typer.Exit(ExitCode.ERROR) from None
        finally:
            tell_what_was_escaped()

    return wrapped


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
