"""The way in from Python: bias maps of a module at hand, in three lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from wna_ray.errors import SpecError
from wna_ray.events import Callback, Event
from wna_ray.execution.drive import ExecutorName
from wna_ray.execution.progress import ProgressPrinter
from wna_ray.kinds.average.job import run
from wna_ray.kinds.average.run import Run
from wna_ray.networks.live import live_model, name_of
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.terminal import tell

STANDARD = {"kind": "gaussian", "offset": 0.0, "scale": 1.0, "space": "input"}
SAID = (
    "noise: gaussian around 0 with standard deviation 1, as the network itself is fed;"
    " wna_ray.check(net, shape) tells what the network makes of others, and noise={'offset': ...,"
    " 'scale': ...} takes one"
)


def analyse(  # noqa: PLR0913  # its parameters are promised
    net: nn.Module,
    shape: tuple[int, int, int],
    *,
    responses: Iterable[Any] | None = None,
    layer: str | None = None,
    units: Literal["all"] | Iterable[int] | None = None,
    samples: int = 100_000,
    noise: Mapping[str, Any] | StimulusSpec | None = None,
    seed: int = 0,
    out: str | None = None,
    executor: ExecutorName = "local",
    classes: Sequence[str] | None = None,
    progress: Callable[[Event], None] | bool | None = None,
) -> Run:
    """Show noise to a network that you have at hand, and average it by the answers.

    The network is copied (its weights are then twice in memory) and asked in eval mode; it is left
    as it is. One thread is used, so that the same call gives the same bytes with any executor;
    ``wna_ray.run(spec, model=net)`` takes every key of a spec.

    Parameters
    ----------
    net
        Takes ``(n, C, H, W)`` float32. What it gives is read as `wna_ray.networks.outputs` says.
    shape
        ``(C, H, W)`` of one image.
    responses
        As in a spec (``["label", "logits"]``, by default); of units their activation.
    layer, units
        Units of an inner layer instead of the output: its name, and their numbers (all by default).
    samples
        N: how many images are shown.
    noise
        Keys of ``stimulus:``; by default gaussian noise around 0 with standard deviation 1, as the
        network itself is fed, which is said in a line.
    seed
        Of the noise.
    out
        Where the run directory is kept: a path or any fsspec URL; by default in this process's
        memory. The same call again goes on from there.
    executor
        ``local``: this process. ``ray``: a cluster, to whose workers the module travels once.
    classes
        Names of the outputs.
    progress
        True: a bar, or lines; by default where standard error is a terminal or in a notebook.
        False: nothing. A function gets every event of `wna_ray.events`.

    Returns
    -------
    Run
        Bias maps, z-maps, the table of classes, and the rest.

    Raises
    ------
    WnaError
        With one sentence that says what to do.

    Examples
    --------
    >>> import torch
    >>> from wna_ray import analyse
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> run = analyse(net, (1, 4, 4), samples=4096, responses=["logits"], progress=False)
    >>> run.bias_maps.shape
    (3, 1, 4, 4)
    """
    callbacks = _callbacks(progress)
    if isinstance(noise, StimulusSpec):
        stimulus = noise.model_dump() | {"shape": list(shape)}
    else:
        stimulus = STANDARD | dict(noise or {}) | {"shape": list(shape)}
    spec: dict[str, Any] = {
        "model": name_of(net) if isinstance(net, nn.Module) else "live:none",
        "stimulus": stimulus,
        "samples": samples,
        "seed": seed,
        "evaluation": "none",
    }
    if responses is not None:
        spec["responses"] = list(responses)
    if layer is not None:
        chosen = "all" if units in (None, "all") else [int(unit) for unit in units or ()]
        spec["target"] = {"layer": layer, "units": chosen}
    elif units is not None:
        raise SpecError("units: are of a layer; give layer=NAME, too")
    if classes is not None:
        spec["classes"] = list(classes)
    if noise is None and callbacks:
        tell(SAID)
    parsed = Spec.parse(spec, "analyse")
    return run(parsed, out, model=live_model(net), executor=executor, callbacks=callbacks)


def _callbacks(progress: Callable[[Event], None] | bool | None) -> list[Callback]:
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    if progress is True:
        return [ProgressPrinter()]
    return [] if progress is False else [progress]
