"""The way in from Python: a module that is in memory, a shape, and a run of noise through it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from wna_ray.errors import SpecError
from wna_ray.events import Callback, Stage
from wna_ray.execution.drive import ExecutorName, How
from wna_ray.execution.progress import OneLine
from wna_ray.kinds.average.job import run_live
from wna_ray.kinds.average.run import Run
from wna_ray.networks import live
from wna_ray.specs.response import ResponseSpec
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import StimulusSpec

NOISE: Mapping[str, Any] = {"kind": "gaussian", "offset": 0.0, "scale": 1.0, "space": "input"}

Progress = Callback | Literal[False] | None


def analyse(  # noqa: PLR0913  # its parameters are promised
    net: nn.Module,
    shape: Sequence[int],
    *,
    responses: Sequence[str | Mapping[str, Any] | ResponseSpec] | None = None,
    layer: str | None = None,
    units: int | Sequence[int] | Literal["all"] | None = None,
    samples: int = 100_000,
    noise: Mapping[str, Any] | StimulusSpec | None = None,
    seed: int = 0,
    out: str | None = None,
    executor: ExecutorName = "local",
    classes: Sequence[str] | str | None = None,
    threads: int = 1,
    progress: Progress = None,
) -> Run:
    """Show noise to a network that is in memory, and average the noise by its answers.

    The run works on a copy in eval mode: parameters, buffers, gradients, modes and hooks of `net`
    stay as they are, whatever happens. Its weights are twice in memory meanwhile. What wraps the
    network (`torch.compile`, ``DataParallel``) is left out of the copy. Hooks are copied, too, and
    run for every batch of noise: one that fills a list of yours fills it with noise. Afterwards
    torch's threads, flags and random numbers are as before the call.

    Parameters
    ----------
    net
        Takes ``(n, C, H, W)``. What it gives is read as `wna_ray.networks.outputs` says.
    shape
        ``(C, H, W)`` of what it is fed.
    responses
        As ``responses:`` of a spec; by default ``label`` and ``logits``, of a layer ``activation``.
    layer, units
        Units of an inner layer instead of the outputs: a name of ``named_modules()``, and numbers
        of channels or neurons (all by default).
    samples
        Number of images.
    noise
        Keys of ``stimulus:`` that differ from gaussian noise of mean 0 and standard deviation 1,
        fed to the network as it is (``space: input``); or a whole `StimulusSpec`.
    seed
        Of the noise.
    out
        The run directory, a path or any fsspec URL: there the same call goes on where it was
        stopped, and other weights are refused. By default a new folder in this process's memory,
        which stays until the process ends.
    executor
        ``local``: in this process. ``ray``: on the cluster that this process belongs to (or a new
        local one), where the module travels once, by pickle; `out` is then needed.
    classes
        Names of the outputs, or a file of them.
    threads
        CPU threads of a forward pass. More are faster for a large network on an idle machine, and
        much slower where something else has the cores; the last bits of a result depend on them.
    progress
        None: one line on standard error where that is a terminal or a notebook. False: none. A
        function: called with every event of `wna_ray.events`.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    WnaError
        With one message that says what to do.

    Notes
    -----
    The arithmetic is that of the weights: bfloat16 or float16 where all are, else float32. For any
    other key of a spec, make a `Spec` and call ``run(spec, model=net)``.

    Examples
    --------
    >>> import torch
    >>> from wna_ray import analyse
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> run = analyse(net, (1, 4, 4), samples=1_000, classes=["a", "b", "c"])
    >>> run.bias_maps.shape  # of three labels and three logits
    (6, 1, 4, 4)
    """
    data = {
        "model": live.uri_of(net),
        "stimulus": _stimulus(noise, shape),
        "samples": samples,
        "seed": seed,
        "numerics": {
            "dtype": live.arithmetic_of(net),
            "threads": threads,
        },
    }
    if responses is not None:
        data["responses"] = [responses] if isinstance(responses, str) else list(responses)
    if layer is not None:
        data["target"] = {"layer": layer} | ({} if units is None else {"units": _listed(units)})
        if classes is not None:
            raise SpecError("classes: names of the network's outputs, but layer= asks its units")
    elif units is not None:
        raise SpecError("units: of which layer? Give layer=, a name of net.named_modules()")
    if classes is not None:
        data["classes"] = classes if isinstance(classes, str) else [str(name) for name in classes]
    spec = Spec.parse(data, "analyse")
    callbacks = _listeners(progress)
    for line in (_fed(spec), *live.notes_on(net, spec.numerics.dtype)):
        for callback in callbacks:
            callback(Stage(line))
    model = live.model_of(net)
    return run_live(spec, out, model, How(executor, callbacks=callbacks))


def _stimulus(noise: Mapping[str, Any] | StimulusSpec | None, shape: Sequence[int]) -> Any:
    """The keys of ``stimulus:``; `SpecError` where the noise has another shape."""
    sides = _listed(shape)
    if isinstance(noise, StimulusSpec):
        given = noise.model_dump()
    elif noise is None or isinstance(noise, Mapping):
        given = {**NOISE, **(noise or {})}
    else:
        raise SpecError(
            f"noise: {type(noise).__name__}; expected keys of stimulus:, such as {{'kind':"
            " 'uniform'}, or a StimulusSpec"
        )
    other = _listed(given.setdefault("shape", sides))
    if other != sides:
        raise SpecError(f"noise.shape: {other}, but shape is {sides}; leave it out")
    return given


def _listed(value: Any) -> Any:
    """Numbers as a list: a `torch.Size`, a range and an array become one."""
    return value if isinstance(value, str | int) else [_whole(part) for part in value]


def _whole(value: Any) -> Any:
    """A number of NumPy or torch as Python's, where it is a whole one."""
    return value.__index__() if hasattr(value, "__index__") and type(value) is not bool else value


def _fed(spec: Spec) -> str:
    """What the network is fed, in a line."""
    s = spec.stimulus
    where = "fed to the network as it is" if s.space == "input" else "in pixels"
    return f"{s.kind} noise, offset {s.offset}, scale {s.scale:g}, {where}"


def _listeners(progress: Progress) -> tuple[Callable[..., None], ...]:
    if progress is None:
        return (OneLine(sys.stderr),) if OneLine.fits(sys.stderr) else ()
    if progress is False:
        return ()
    if not callable(progress):
        raise SpecError(f"progress: {progress!r}; expected None, False or a function of one event")
    return (progress,)
