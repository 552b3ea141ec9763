"""``wna contrast | compare | backdoor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wna_ray.cli.shared import Endpoint, RunURL, app, exiting


@app.command()
@exiting
def contrast(
    a: RunURL,
    b: RunURL,
    kind: Annotated[str, typer.Option(help="kind of response, such as logits")],
    name: Annotated[str, typer.Option(help="class or unit of the first run")],
    other: Annotated[
        str | None, typer.Option(help="class or unit of the second run; default: the same name")
    ] = None,
    to: Annotated[Path, typer.Option(help="local folder for z-map and figure")] = Path("contrast"),
    endpoint: Endpoint = None,
) -> None:
    """Compare two responses to the same noise, paired image by image: two models, two
    checkpoints, or two classes.
    """
    from wna_ray.cli.contrasting import Pair, write_contrast

    write_contrast(Pair(a, b, kind, name, other or name), to, endpoint)


@app.command()
@exiting
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="URL...", help="finished runs, or sweeps: all their members", show_default=False
        ),
    ],
    kind: Annotated[str, typer.Option(help="kind of response, such as logits")],
    to: Annotated[Path, typer.Option(help="local folder for tables and figures")] = Path(
        "comparison"
    ),
    only_convergence: Annotated[
        bool,
        typer.Option(
            "--only-convergence",
            help="reliability by images alone, of runs over other images or classes, too",
        ),
    ] = False,
    endpoint: Endpoint = None,
) -> None:
    """Compare the maps of several networks: how they correlate, corrected for reliability, and
    how many images they take.
    """
    from wna_ray.cli.comparing import write_comparison

    write_comparison(runs, kind, to, only_convergence, endpoint)


@app.command()
@exiting
def backdoor(
    run_url: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="run of the suspect; none with --panel", show_default=False
        ),
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="run of a clean network, or a folder of such runs; may be repeated"
        ),
    ] = None,
    patch: Annotated[
        str | None,
        typer.Option(metavar="PATCH", help="a known patch: C, X, or ROW,COLUMN,HEIGHT,WIDTH"),
    ] = None,
    panel: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="judge the search on runs of networks of wna train, clean and poisoned",
        ),
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help=(
                "with --panel: the networks of wna train that its runs are of; it knows which are"
                " poisoned"
            ),
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="kind of response that is searched; default: logits, if the run has them"
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="local folder for tables and figures")] = Path(
        "backdoor"
    ),
    endpoint: Endpoint = None,
) -> None:
    """Look for a backdoor in a network's maps: of a known patch, or, against clean networks, of
    any. Exit code 0 whatever is found.
    """
    from wna_ray.cli.searching import Search, search_backdoor

    search = Search(run_url, panel, networks, tuple(clean or ()), patch, kind, endpoint)
    search_backdoor(search, to)
