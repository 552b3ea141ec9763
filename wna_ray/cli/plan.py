"""``wna plan``: what a run would take and give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from wna_ray.cli.shared import Changes, Full, NoCode, SpecPath, app, exiting, read_changed
from wna_ray.errors import SpecError
from wna_ray.kinds.any import views_of_spec
from wna_ray.kinds.views import PlanOptions
from wna_ray.specs.sweep import SweepSpec
from wna_ray.terminal import say, show


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
    asked = read_changed(spec, changes, full, no_code)
    if isinstance(asked, SweepSpec):
        _plan_sweep(spec, asked)
        return
    has = None if memory is None else _parse_size(memory)
    options = PlanOptions(
        pilot_images, workers, has, "this machine" if memory is None else f"a machine of {memory}"
    )
    for line in views_of_spec(asked).plan(str(spec), asked, options):
        if isinstance(line, str):
            say(line)
        else:
            show(line)


def _plan_sweep(path: Path, asked: SweepSpec) -> None:
    """The members of a sweep, and how many images they take together."""
    axes = " x ".join(f"{len(values)} {axis}" for axis, values in asked.axes.items())
    say(f"{path}: a sweep of {len(asked.members):,} runs ({axes})")
    for name, member in asked.members.items():
        say(f"{name:<30} {views_of_spec(member).in_short(member)}")
    images = sum(views_of_spec(member).images(member) for member in asked.members.values())
    if images:
        say(f"{images:,} images in all; wna plan of a file without sweep: times one run")


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", text.strip())
    if match is None:
        raise SpecError(f"--memory {text}: expected a size such as 64GB")
    return int(float(match[1]) * 1000.0 ** " kMGT".index(match[2] or " "))
