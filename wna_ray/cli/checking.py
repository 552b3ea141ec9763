"""The work of ``wna check``."""

from __future__ import annotations

import re

from wna_ray.cli.shared import ExitCode
from wna_ray.errors import SpecError
from wna_ray.kinds.average.checkup import lines_of, look_at, spec_of
from wna_ray.shards.loading import load_network
from wna_ray.specs.parse import require_no_code
from wna_ray.terminal import say, say_json


def print_check(
    model: str, shape: str, output: str | None, classes: str | None, as_json: bool, no_code: bool
) -> ExitCode:
    """Print what a first look at a model tells.

    Parameters
    ----------
    model
        Its URI.
    shape
        Of an image, as ``3,224,224``.
    output, classes
        As in a spec; None where nothing is said.
    as_json
        Whether it is printed as JSON.
    no_code
        Whether a model that runs code is refused.

    Returns
    -------
    ExitCode
        `ExitCode.ARGUMENT` where a run would refuse the model.
    """
    spec = spec_of(model, _shape(shape), output=output, classes=classes)
    if no_code:
        require_no_code([spec])
    checked = look_at(spec, load_network(spec, "cpu"))
    if as_json:
        say_json(checked.to_json())
    else:
        for line in lines_of(checked):
            say(line)
    return ExitCode.DONE if checked.sound else ExitCode.ARGUMENT


def _shape(text: str) -> tuple[int, int, int]:
    sizes = re.split(r"\s*[,x]\s*", text.strip(" ()[]"))
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise SpecError(f"--shape {text}: expected channels, rows and columns, such as 3,224,224")
    c, h, w = map(int, sizes)
    return c, h, w
