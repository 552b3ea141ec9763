"""The work of ``wna plan``."""

from __future__ import annotations

import re
from pathlib import Path

from wna_ray.cli.reading import read_spec
from wna_ray.cli.shared import SpecFile
from wna_ray.errors import SpecError
from wna_ray.kinds.any import views_of_spec
from wna_ray.kinds.views import PlanOptions
from wna_ray.specs.sweep import SweepSpec
from wna_ray.terminal import say, show


def print_plan(file: SpecFile, pilot_images: int, workers: int, memory: str | None) -> None:
    """Print what a run, or the members of a sweep, would take and give.

    Parameters
    ----------
    file
        The spec.
    pilot_images
        That are shown for the estimates.
    workers, memory
        Of the machine that it is planned for; without `memory`, as this one has.
    """
    spec = read_spec(file)
    if isinstance(spec, SweepSpec):
        _print_sweep_plan(file.path, spec)
        return
    size = None if memory is None else _parse_size(memory)
    machine = "this machine" if memory is None else f"a machine of {memory}"
    options = PlanOptions(pilot_images, workers, size, machine)
    for part in views_of_spec(spec).plan(str(file.path), spec, options):
        if isinstance(part, str):
            say(part)
        else:
            show(part)


def _print_sweep_plan(path: Path, sweep: SweepSpec) -> None:
    """The members of a sweep, and how many images they take together."""
    axes = " x ".join(f"{len(values)} {axis}" for axis, values in sweep.axes.items())
    say(f"{path}: a sweep of {len(sweep.members):,} runs ({axes})")
    for name, member in sweep.members.items():
        say(f"{name:<30} {views_of_spec(member).in_short(member)}")
    images = sum(views_of_spec(member).images(member) for member in sweep.members.values())
    if images:
        say(f"{images:,} images in all; wna plan of a file without sweep: times one run")


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", text.strip())
    if match is None:
        raise SpecError(f"--memory {text}: expected a size such as 64GB")
    return int(float(match[1]) * 1000.0 ** " kMGT".index(match[2] or " "))
