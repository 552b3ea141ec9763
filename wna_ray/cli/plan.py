"""``wna plan``: what a run would take and give; ``wna check``: a first look at a network."""

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


@app.command()
@exiting
def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="model URI, such as timm:resnet18", show_default=False
        ),
    ],
    shape: Annotated[str, typer.Option(metavar="C,H,W", help="of one image, such as 3,224,224")],
    output: Annotated[
        str | None, typer.Option(help="which tensor of its output, where it gives several")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="FILE", help="names of its outputs, one a line")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    no_code: NoCode = False,
) -> None:
    """Take a first look at a network: what comes out, which layers have units, what a run would
    assume or refuse, and which noise to begin with.

    Nothing is written. The exit code is 2 where a run would refuse the network.
    """
    from wna_ray.cli.checking import print_check

    code = print_check(model, shape, output, classes, as_json, no_code)
    if code:
        raise typer.Exit(code)
