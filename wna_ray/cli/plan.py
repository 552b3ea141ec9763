"""``wna plan``: what a run would take and give."""

from __future__ import annotations

from typing import Annotated

import typer

from wna_ray.cli.shared import Changes, Full, NoCode, SpecFile, SpecPath, app, exiting


@app.command()
@exiting
def plan(
    spec: SpecPath,
    pilot_images: Annotated[
        int, typer.Option("--pilot", min=1, help="images to show for the estimates")
    ] = 4096,
    workers: Annotated[int, typer.Option(min=1, help="workers on one machine")] = 1,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="of that machine, such as 64GB; default: as this one"),
    ] = None,
    changes: Changes = None,
    full: Full = False,
    no_code: NoCode = False,
) -> None:
    """Say what a run would take and give: shards, bytes, memory, time, expected reliability (from a
    pilot). Of a sweep: its members.

    What does not fit into the memory of the machine is refused, as by `wna run`; Ray keeps 30 % of
    it as object store.
    """
    from wna_ray.cli.planning import print_plan

    print_plan(SpecFile(spec, changes, full, no_code), pilot_images, workers, memory)
