"""A first look at a network, through the run's first images: the memory format in which it runs,
which output is read and as what, outputs that are never finite, and whether an image's answer
depends on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import ModelError
from wna_ray.networks.outputs import (
    check_rows,
    choose_field,
    layer_that_gives,
    read_kind,
    tensor_at,
)
from wna_ray.networks.reading import Reading
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.network import MemoryFormat, first_that_runs
from wna_ray.specs.response import ResponseKind
from wna_ray.specs.run import Spec
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.text import plain

LABELLED: tuple[ResponseKind, ...] = ("label", "confidence", "probabilities")
MOST_NAMED = 8  # outputs that an error names

NEIGHBOURS = 1e-3
"""Largest change of an output, in its standard deviations over images, when other images of the
batch change: more is no rounding.
"""
LOUD = 3.0  # times the contrast of the noise, of the neighbours' images
SHIFTS = (1.0, -1.0)  # standard deviations of values, that the neighbours' images are shifted by


def settle(spec: Spec, network: FedNetwork, stimulus: Stimulus) -> tuple[FedNetwork, Any]:
    """The network in a memory format in which it runs, and what it gives for the first batch.

    Parameters
    ----------
    stimulus
        Whole images.
    """
    grid = torch.from_numpy(stimulus.noise.grid(0, network.batch))

    def attempt(memory_format: MemoryFormat) -> tuple[FedNetwork, Any]:
        laid_out = network.in_format(memory_format)
        with torch.inference_mode():
            fed = laid_out.feed.finish(laid_out.feed.begin(stimulus, grid))
            return laid_out, laid_out.network.forward(fed)

    return first_that_runs(spec.numerics.memory_format, attempt)


def choose_output(spec: Spec, network: FedNetwork, stimulus: Stimulus, output: Any) -> FedNetwork:
    """The same network, with the tensor of its output that is read.

    Raises
    ------
    ModelError
        None is obvious, or it is not one row of numbers an image.
    """
    wanted = None if spec.output is None else spec.output.field
    n = network.batch
    field = choose_field(output, n, wanted, network.uri)
    y, layer = tensor_at(output, field), ""
    if y.ndim > 2 and any(size > 1 for size in y.shape[2:]):
        with torch.inference_mode():
            grid = torch.from_numpy(stimulus.noise.grid(0, n))
            fed = network.feed.finish(network.feed.begin(stimulus, grid))
            layer = layer_that_gives(network.module, fed, field)
    check_rows(y, n, network.uri, layer)
    return network.read_as(Reading(field))


def reading_of(spec: Spec, network: FedNetwork, outputs: NDArray[np.float32]) -> Reading:
    """How rows of outputs ``(n, k)``, as they are, are read."""
    labelled = any(r.kind in LABELLED for r in spec.responses)
    read = "auto" if spec.output is None else spec.output.read
    kind = read_kind(read, torch.from_numpy(outputs), labelled, network.network.dtype)
    return Reading(network.reading.field, kind)


def assumptions(spec: Spec, network: FedNetwork, reading: Reading) -> tuple[str, ...]:
    """What was found out rather than said, in lines."""
    lines = list(reading.said)
    if spec.output is not None:
        lines = lines[1:] if reading.field and spec.output.field is not None else lines
        lines = lines if spec.output.read == "auto" else []
    stimulus = spec.stimulus
    if stimulus.space == "input" and "offset" not in stimulus.model_fields_set:
        lines.append(
            "the noise is around 0, in what the network itself is fed; stimulus.offset: 0 says so"
        )
    if spec.numerics.memory_format == "auto" and network.network.memory_format == "contiguous":
        lines.append(
            "the network does not run on images in channels_last memory; they are fed contiguous"
        )
    return tuple(lines)


def require_finite(uri: str, outputs: NDArray[np.float32], names: Sequence[str]) -> None:
    """`ModelError` where no image of the pilot would count, with the outputs that are at fault.

    Parameters
    ----------
    outputs
        ``(n, k)`` of the run's first images.
    """
    finite = np.isfinite(outputs)
    if finite.all(axis=1).any():
        return
    never = np.flatnonzero(~finite.any(axis=0))
    at_fault = never if never.size else np.flatnonzero(~finite.all(axis=0))
    some = ", ".join(plain(names[row], 40) for row in at_fault[:MOST_NAMED])
    rest = f" and {len(at_fault) - MOST_NAMED:,} more" if len(at_fault) > MOST_NAMED else ""
    outs = "output" if len(at_fault) == 1 else "outputs"
    how = "never finite" if never.size else "not finite for some, so that every image has one"
    raise ModelError(
        f"model: {uri} gives numbers that are not finite: {outs} {some}{rest} of {len(names):,}"
        f" {'is' if len(at_fault) == 1 else 'are'} {how} in the first {len(outputs):,} images, and"
        " an image counts only where all its outputs are finite; check the weights, or leave such"
        " outputs out by a wrapper"
    )


def require_independent(network: FedNetwork, stimulus: Stimulus) -> None:
    """`ModelError` where an image's answer depends on other images of its batch.

    The first quarter of a batch is kept, and the others are made louder, and brighter or darker.
    Sums over images would then depend on how images are put together, and a map that is shown to
    the network would be answered among other maps. Rounding may depend on neighbours; see
    `NEIGHBOURS`.

    Parameters
    ----------
    network
        In the job's batch and aimed at its units.
    """
    batch, kept = network.batch, max(1, network.batch // 4)
    if batch == 1:
        return
    images = stimulus.images(stimulus.noise.grid(0, batch), network.device)
    before = network(images).reshape(batch, -1)
    sd = before[np.isfinite(before).all(axis=1)].std(axis=0)
    sd = np.where(sd > 0, sd, sd.max(initial=0.0) or 1.0)
    mean, contrast = images.mean(dim=(0, 2, 3), keepdim=True), float(images.std())
    for shift in SHIFTS:
        other = images.clone()
        other[kept:] = mean + LOUD * (images[kept:] - mean) + shift * contrast
        try:
            after = network(other).reshape(batch, -1)
        except Exception:  # a network may refuse such images, which says nothing of neighbours
            continue
        with np.errstate(invalid="ignore"):
            moved = np.abs(after[:kept].astype(np.float64) - before[:kept]) / sd
        moved = np.where(np.isfinite(before[:kept]) & np.isfinite(after[:kept]), moved, 0.0)
        if moved.size and moved.max() > NEIGHBOURS:
            raise ModelError(
                f"model: {network.uri} answers an image otherwise when its neighbours in the batch"
                f" change (by {moved.max():.2g} standard deviations of the output), so its answers"
                " are not those of single images; is a batch norm without running statistics, or in"
                " train mode, or a branch on the whole batch? Mend the network, or take"
                " numerics.batch: 1"
            )
