"""A first look at a network: what comes out, which layers have units, and which noise to show.

Nothing is written. What a run would refuse is a sentence here, among all that can be told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from wna_ray.errors import CanaryError, ModelError, SpecError
from wna_ray.execution.process import own_state
from wna_ray.networks import live
from wna_ray.networks.layers import Layer, layers_of
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.feed import Feed
from wna_ray.shards.loading import load_network
from wna_ray.shards.look import require_independent
from wna_ray.shards.resolve import check_canary, resolve
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import entropy, images_for
from wna_ray.stimuli.stimulus import Stimulus

Shape = tuple[int, int, int]

BATCH = 64  # images in a forward pass
MOST_IMAGES = 1024  # that each noise is tried with
SECONDS = 20.0  # that all noises together may take; but each is tried with two batches
MOST_ROWS = 16  # outputs that maps are made of: those that vary most
SURE = 0.99  # a label of this probability is saturated
SATURATED = 0.5  # share of saturated images from which on a noise is too strong
NEAR = 1.5  # times the fewest images, that a noise may need whose labels are more even
RELIABILITY = 0.9
TRIED: dict[str, tuple[tuple[float, float], tuple[float, float, float]]] = {
    "pixel": ((0.5, 0.0), (0.1, 0.3, 1.0)),
    "input": ((0.0, 0.5), (0.3, 1.0, 3.0)),
}
"""Offsets and scales of the noises that are tried, by space."""


@dataclass(frozen=True)
class NoiseTried:
    """What a network says of one noise.

    Attributes
    ----------
    offset, scale
        Of gaussian noise.
    images
        That were shown.
    entropy
        Of the labels, in bits; at most log2 of the classes.
    reached
        Share of the classes that were given at least once.
    saturated
        Share of the images whose label has a probability above .99.
    images_needed
        For a reliability of .9 of the maps of the scores, on average over the outputs that vary
        most: ``N = (d / rho^2) c^2 / (1 - c^2)``; None where the images are too few to tell.
    """

    offset: float
    scale: float
    images: int
    entropy: float
    reached: float
    saturated: float
    images_needed: int | None


@dataclass(frozen=True)
class Checked:
    """What is known of a network after a first look.

    Attributes
    ----------
    model, shape, space
        What was looked at: the network, the images, and whether these are pixels in [0, 1] (a
        normalisation follows) or what the network itself is fed.
    output
        What comes out, in words; "" where it cannot be read.
    names
        Of the outputs.
    memory_format
        In which the network runs.
    problems
        What a run would refuse, one sentence each.
    assumed
        What a run would assume, one line each.
    layers
        The network's modules.
    noises
        What the network says of noise of several scales and offsets.
    recommended
        Keys of ``stimulus:`` to begin with; None where no noise could be tried.
    """

    model: str
    shape: Shape
    space: Literal["pixel", "input"]
    output: str = ""
    names: tuple[str, ...] = ()
    memory_format: str = ""
    problems: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    noises: tuple[NoiseTried, ...] = ()
    recommended: dict[str, Any] | None = field(default=None)

    @property
    def sound(self) -> bool:
        """Whether a run would begin."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"sound": self.sound}

    def __str__(self) -> str:
        return "\n".join(lines_of(self))


def check(
    model: str | nn.Module,
    shape: Shape,
    *,
    output: str | None = None,
    classes: Sequence[str] | str | None = None,
    seed: int = 0,
) -> Checked:
    """Look at a network before anything is run.

    Parameters
    ----------
    model
        A model URI, or a module in memory, which stays as it is.
    shape
        ``(C, H, W)`` of an image.
    output
        Which tensor of its output is read, where it gives several.
    classes
        Names of its outputs, or a file of them.
    seed
        Of the noise.

    Returns
    -------
    Checked
        Prints as text; `Checked.to_json` gives the same as JSON values.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    SpecError
        The shape, or the names, do not fit.

    Examples
    --------
    >>> from wna_ray import check
    >>> look = check("bundled:mnist-cnn", (1, 28, 28))
    >>> look.sound, len(look.names), look.recommended["shape"]
    (True, 10, [1, 28, 28])
    """
    given = live.model_of(model) if isinstance(model, nn.Module) else None
    uri = model if isinstance(model, str) else live.uri_of(model)
    spec = spec_of(uri, shape, output=output, classes=classes, seed=seed)
    with own_state():
        return look_at(spec, load_network(spec, "cpu", given))


def spec_of(
    model: str,
    shape: Shape,
    *,
    output: str | None = None,
    classes: Sequence[str] | str | None = None,
    seed: int = 0,
) -> Spec:
    """What `check` looks at, as a spec: gaussian noise in the network's input space."""
    return Spec.parse(
        {
            "model": model,
            "output": output,
            "classes": classes,
            "stimulus": {"kind": "gaussian", "shape": list(shape), "scale": 1.0, "space": "input"},
            "samples": MOST_IMAGES,
            "seed": seed,
            "numerics": {"batch": BATCH, "device": "cpu"},
        },
        "check",
    )


def look_at(spec: Spec, network: FedNetwork) -> Checked:
    """The same, of a network that is loaded for a spec in its input space."""
    spec, network, space = _in_its_space(spec, network)
    checked = Checked(spec.model, spec.stimulus.shape, space)
    try:
        resolved = resolve(spec, network)
    except (ModelError, SpecError) as error:
        layers = _layers(spec, network)
        return replace(checked, problems=(str(error),), layers=layers)
    job, network = resolved.job, resolved.network
    problems = list[str]()
    for question in (
        lambda: check_canary(job, network),
        lambda: require_independent(network, job.stimulus),
    ):
        try:
            question()
        except CanaryError:
            problems.append(
                f"model: {spec.model} answers the same batch differently each time; is something"
                " random in its forward pass?"
            )
            break
        except ModelError as error:
            problems.append(str(error))
    checked = replace(
        checked,
        output=_output_in_words(network, len(job.names)),
        names=job.names,
        memory_format=network.network.memory_format,
        problems=tuple(problems),
        assumed=job.assumed,
        layers=_layers(spec, network),
    )
    if problems:
        return checked
    noises = tuple(_try_noises(spec, network, space))
    return replace(
        checked, noises=noises, recommended=recommended(spec.stimulus.shape, space, noises)
    )


def lines_of(checked: Checked, most_layers: int = 40) -> Iterator[str]:
    """A look as text."""
    c, h, w = checked.shape
    fed = (
        "pixels in [0, 1], normalised as the source says"
        if checked.space == "pixel"
        else ("what the network itself is fed (its source declares no normalisation)")
    )
    yield f"network   {checked.model}, images {c} x {h} x {w}: {fed}"
    yield f"output    {checked.output or 'cannot be read'}"
    if checked.names:
        some = ", ".join(checked.names[:6]) + (", ..." if len(checked.names) > 6 else "")
        yield f"classes   {some}"
    if checked.memory_format:
        yield f"memory    runs in {checked.memory_format} memory"
    yield from (f"assumed   {line}" for line in checked.assumed)
    yield from (f"problem   {line}" for line in checked.problems)
    if checked.sound:
        yield "answers   repeat, and do not depend on the neighbours in the batch"
    for layer in checked.layers[:most_layers]:
        count = f"{layer.units:,} unit{'s' * (layer.units > 1)}"
        units = count if layer.units else layer.why
        yield f"layer     {layer.name:<32} {layer.kind:<18} {layer.shape_text:<18} {units}"
    if len(checked.layers) > most_layers:
        yield f"          and {len(checked.layers) - most_layers} more layers (--json lists all)"
    if checked.noises:
        yield "noise     offset  scale  label entropy  classes reached  saturated  images needed"
    for noise in checked.noises:
        needed = "too few to tell" if noise.images_needed is None else f"{noise.images_needed:,}"
        yield (
            f"          {noise.offset:>6g} {noise.scale:>6g} {noise.entropy:>9.2f} bits"
            f" {noise.reached:>15.0%} {noise.saturated:>10.0%}  {needed:>17}"
        )
    if checked.recommended is not None:
        keys = ", ".join(f"{key}: {value}" for key, value in checked.recommended.items())
        yield f"begin with  stimulus: {{{keys}}}"


def _in_its_space(
    spec: Spec, network: FedNetwork
) -> tuple[Spec, FedNetwork, Literal["pixel", "input"]]:
    """In pixel space, where the source declares a normalisation; else as it is."""
    normalise, feed = network.model.normalise, network.feed
    if normalise is None:
        return spec, network, "input"
    stimulus = spec.stimulus.model_copy(update={"space": "pixel", "offset": 0.5, "scale": 0.3})
    fed = Feed(feed.device, feed.dtype, feed.shape, normalise, None, feed.memory_format)
    return spec.model_copy(update={"stimulus": stimulus}), replace(network, feed=fed), "pixel"


def _layers(spec: Spec, network: FedNetwork) -> tuple[Layer, ...]:
    """The modules that take part in a forward pass; none where it fails."""
    images = torch.zeros((1, *spec.stimulus.shape))
    try:
        with torch.inference_mode():
            return layers_of(network.module, network.feed.of_images(images))
    except Exception:  # whatever the network's own code raises; that is among the problems
        return ()


def _output_in_words(network: FedNetwork, k: int) -> str:
    reading = network.reading
    of_field = f" (field '{reading.field}')" if reading.field else ""
    what = {
        "scores": f"{k:,} scores an image" if k > 1 else "one number an image",
        "one logit": "one logit an image: two classes",
        "probabilities": f"{k:,} probabilities an image",
        "one probability": "one probability an image: two classes",
    }[reading.kind]
    return f"{what}{of_field}"


def _try_noises(
    spec: Spec, network: FedNetwork, space: Literal["pixel", "input"]
) -> Iterator[NoiseTried]:
    offsets, scales = TRIED[space]
    images, begin = 2 * BATCH, time.perf_counter()
    for i, (offset, scale) in enumerate((o, s) for o in offsets for s in scales):
        changes = {"offset": offset, "scale": scale}
        stimulus = spec.stimulus.model_copy(update=changes)
        try:
            job = resolve(spec.model_copy(update={"stimulus": stimulus}), network).job
        except (ModelError, SpecError):  # a noise at which the network says nothing finite
            continue
        yield _tried(network, job.stimulus, offset, scale, images)
        if i == 0:  # so many more in the time that is left
            each = (time.perf_counter() - begin) / images
            some = SECONDS / (len(offsets) * len(scales)) / each
            images = int(np.clip(some, 2 * BATCH, MOST_IMAGES)) // BATCH * BATCH


def _tried(
    network: FedNetwork, stimulus: Stimulus, offset: float, scale: float, n: int
) -> NoiseTried:
    """Labels and maps of so many images of one noise."""
    outputs = np.concatenate(
        [
            network(stimulus.images(stimulus.noise.grid(a, a + BATCH), network.device))
            for a in range(0, n, BATCH)
        ]
    ).astype(np.float64)
    finite = np.asarray(np.isfinite(outputs).all(axis=1))
    y = outputs[finite]
    k = y.shape[1]
    share = np.bincount(y.argmax(axis=1), minlength=k) / len(y)
    saturated = float((softmax(y, axis=1).max(axis=1) > SURE).mean()) if k > 1 else 0.0
    rows = np.argsort(-y.std(axis=0), kind="stable")[:MOST_ROWS]
    rho2, clear = _explained(stimulus, y[:, rows], finite, n)
    needed = images_for(RELIABILITY, rho2, stimulus.pixels) if clear else math.inf
    return NoiseTried(
        offset,
        scale,
        n,
        entropy(share),
        float((share > 0).mean()),
        saturated,
        math.ceil(needed) if math.isfinite(needed) else None,
    )


def _explained(
    stimulus: Stimulus, y: NDArray[np.float64], finite: NDArray[np.bool_], n: int
) -> tuple[float, bool]:
    """Share of the responses' variance that is linear in the noise, on average, and whether it is
    two standard errors (of one row, under the null) above 0.
    """
    d, sd = stimulus.pixels, stimulus.sd / stimulus.unit
    centred = y - y.mean(axis=0)
    product, start = np.zeros((y.shape[1], d)), 0
    for a in range(0, n, BATCH):
        kept = finite[a : a + BATCH]
        grid = stimulus.keep(stimulus.noise.grid(a, a + BATCH)[kept]).reshape(int(kept.sum()), d)
        product += centred[start : start + len(grid)].T @ grid.astype(np.float64)
        start += len(grid)
    variance = np.square(centred).sum(axis=0)
    varied = variance > 0
    if not varied.any():
        return 0.0, False
    z_squared = np.square(product[varied]).sum(axis=1) / (sd**2 * variance[varied])
    rho2 = float(((z_squared - d) / len(y)).mean())
    return rho2, rho2 > 2 * math.sqrt(2 * d) / len(y)


def recommended(shape: Shape, space: str, noises: Sequence[NoiseTried]) -> dict[str, Any] | None:
    """The noise with the most even labels, of those that do not saturate the network and whose maps
    need at most half as many images again as the best one's.
    """
    if not noises:
        return None
    gentle = [noise for noise in noises if noise.saturated <= SATURATED] or list(noises)
    needed = [noise.images_needed or math.inf for noise in gentle]
    near = [n for n, images in zip(gentle, needed, strict=True) if images <= NEAR * min(needed)]
    best = max(near, key=lambda noise: noise.entropy)
    return {
        "kind": "gaussian",
        "shape": list(shape),
        "offset": best.offset,
        "scale": best.scale,
        "space": space,
    }
