"""Units inside a network: which ones, what part of the image they see, and what has to be shown to
them.

A `Tap` is the network up to one layer. `find_field` measures the layer's receptive fields on the
network itself: a row or a column of pixels that are not a number makes not-a-number exactly of the
units that its geometry lets it reach, whatever the weights (a gradient would miss what a rectifier
shuts just now). What is found is then put to the test: units may not notice that everything outside
has changed, and where only a window of the image is shown, they must answer as to the whole.

References
----------
Luo, Li, Urtasun & Zemel (2016), NeurIPS 29: receptive fields of deep networks, theoretical and
effective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from wna_ray.errors import ModelError, near
from wna_ray.geometry import Box, Patches
from wna_ray.networks.field import Field
from wna_ray.specs.response import TargetSpec

ROUNDING = 16  # roundings of the largest activation by which two kernels may differ in one sum

Maps = Callable[[torch.Tensor], torch.Tensor]
"""From images ``(n, C, H, W)`` float32 to the layer's maps ``(n, C', H', W')``; neurons are
maps of one position.
"""

Span = tuple[int, int]


class _Reached(Exception):
    """The forward pass has come as far as it needs to."""


class Tap(nn.Module):
    """A network up to one of its layers: gives what that layer gives, and computes nothing after
    it.

    Parameters
    ----------
    network
        Left as it is, but for a hook.
    layer
        Dotted name of a module. Where it is used more than once in a pass, its last output counts.
    target
        The argument that named it, for errors.

    Raises
    ------
    ModelError
        There is no such layer (the near ones are named), it is not used, or it gives no tensor.
    """

    def __init__(self, network: nn.Module, layer: str, target: str) -> None:
        super().__init__()
        modules = dict(network.named_modules())
        if layer not in modules or layer == "":
            known = near(layer, (n for n in modules if n))
            raise ModelError(f"{target}: no layer '{layer}'; near it are {known}")
        self.network, self._layer, self._target = network, layer, target
        self._uses, self._last, self._output = 0, 0, torch.empty(0)
        modules[layer].register_forward_hook(self._keep)

    @property
    def counted(self) -> bool:
        """Whether it knows how often the layer is used in a pass."""
        return self._last > 0

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._uses += 1
        if not isinstance(output, torch.Tensor):
            raise ModelError(
                f"{self._target}: '{self._layer}' gives {type(output).__name__}, not a tensor;"
                " choose a layer inside or after it"
            )
        if self._uses == self._last:
            self._output = output
            raise _Reached
        if not self._last:
            self._output = output.clone()  # the module after it may work in place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output; only the first pass goes to the network's end, to count how often
        the layer is used.
        """
        self._uses = 0
        try:
            self.network(x)
            self._last = self._uses
        except _Reached:
            pass
        if not self._uses:
            raise ModelError(
                f"{self._target}: '{self._layer}' takes no part in the forward pass of this network"
                " (layers of an exported program never do)"
            )
        output, self._output = self._output, torch.empty(0)
        return output


def as_maps(output: torch.Tensor, layer: str) -> torch.Tensor:
    """A layer's output as maps ``(n, C', H', W')``; `ModelError` where it is neither maps nor
    neurons.
    """
    if output.ndim == 2:
        return output[:, :, None, None]
    if output.ndim != 4:
        raise ModelError(
            f"target.layer: '{layer}' gives {tuple(output.shape[1:])} for an image; expected"
            " neurons (k,) or maps (channels, rows, columns)"
        )
    return output


def find_field(
    target: TargetSpec,
    maps: Maps,
    image: torch.Tensor,
    noise: torch.Tensor,
    cell: int,
    rounding: float,
) -> tuple[Field, str]:
    """Find the receptive field of units, and the smallest part of the image that can be shown to
    them.

    Parameters
    ----------
    maps
        The layer, as a function of images of any size.
    image
        ``(C, H, W)``: the mean of the noise.
    noise
        ``(n, C, H, W)``: some images of noise, an even number.
    cell
        Side of the noise's cells, which are never cut.
    rounding
        Relative rounding of the network's arithmetic.

    Returns
    -------
    field
        Where they look.
    reason
        Why the whole image is shown, or "" where only a window is.

    Raises
    ------
    ModelError
        There is no such unit or position, or ``evaluate: window`` or ``pooled`` is impossible.
    """
    whole = Box(0, 0, *image.shape[1:])
    full = maps(noise)
    channels, *sides = full.shape[1:]
    units = tuple(range(channels)) if target.units == "all" else target.units
    if max(units) >= channels:
        raise ModelError(
            f"target.units: {max(units)}, but '{target.layer}' has {channels:,} units (0 ..."
            f" {channels - 1})"
        )
    neurons = sides == [1, 1]
    if target.position == "mean":
        return (
            Field(units, "mean", (0, 0), whole, Patches(whole)),
            "a mean over all positions sees everything",
        )
    if not isinstance(target.position, str) and any(
        p >= n for p, n in zip(target.position, sides, strict=True)
    ):
        raise ModelError(
            f"target.position: {list(target.position)} is outside the layer's map of {sides[0]} x"
            f" {sides[1]} positions"
        )
    if neurons and target.position == "pooled":
        raise ModelError(f"target.position: '{target.layer}' has one position only; leave it out")

    rows, columns = (_spans(_reach(maps, image, axis, len(noise), units)) for axis in (1, 2))
    if target.position == "pooled":
        at, patches = _pooled(target, rows, columns, whole)
        field = Field(units, "pooled", at, whole, patches)
        _sound(field, maps, noise, rounding, target)
        return field, "all positions are pooled"
    at = (sides[0] // 2, sides[1] // 2) if isinstance(target.position, str) else target.position
    (top, bottom), (left, right) = rows[at[0]], columns[at[1]]
    kept = _cells(Box(top, left, bottom - top, right - left), cell, whole)
    field = Field(units, "single", at, whole, Patches(kept))
    _sound(field, maps, noise, rounding, target)
    if target.evaluate == "image":
        return field, "asked for"
    window, reason = _window(field, (rows, columns), maps, image, noise, cell, rounding)
    if window is None and target.evaluate == "window":
        raise ModelError(
            f"target.evaluate: window is not possible here ({reason}); leave it out, or take image"
        )
    return window or field, reason


def _reach(
    maps: Maps, image: torch.Tensor, axis: int, batch: int, units: tuple[int, ...]
) -> torch.Tensor:
    """``(positions, pixels)`` bool: which rows (axis 1) or columns (2) of pixels reach which of
    the units' positions.
    """
    n, spans = image.shape[axis], list[torch.Tensor]()
    for a in range(0, n, batch):
        lines = range(a, min(a + batch, n))
        images = image.expand(len(lines), *image.shape).clone()
        for i, line in enumerate(lines):
            images[i].select(axis, line).fill_(torch.nan)
        spans.append(maps(images)[:, list(units)].isnan().any(dim=1).any(dim=3 - axis).cpu())
    return torch.cat(spans).T


def _spans(reached: torch.Tensor) -> list[Span]:
    """First and last pixel (exclusive) that reach each position; all of them where none does."""
    lines = reached.to(torch.int8)
    first, last = lines.argmax(dim=1), lines.shape[1] - lines.flip(1).argmax(dim=1)
    alive = reached.any(dim=1)
    return [
        (int(a), int(b)) if some else (0, lines.shape[1])
        for a, b, some in zip(first, last, alive, strict=True)
    ]


def _regular(spans: list[Span], pixels: int) -> tuple[int, int, int] | None:
    """First position, number and step in pixels of the positions whose field is whole; None
    where they do not shift evenly.
    """
    size = max(b - a for a, b in spans)
    inner = [i for i, (a, b) in enumerate(spans) if b - a == size]
    steps = {spans[j][0] - spans[i][0] for i, j in pairwise(inner)}
    if (
        size == pixels
        or inner != list(range(inner[0], inner[-1] + 1))
        or len(steps) > 1
        or min(steps, default=1) < 1
    ):
        return None
    return inner[0], len(inner), steps.pop() if steps else 1


def _pooled(
    target: TargetSpec, rows: list[Span], columns: list[Span], whole: Box
) -> tuple[tuple[int, int], Patches]:
    regular = [_regular(spans, n) for spans, n in ((rows, whole.height), (columns, whole.width))]
    if regular[0] is None or regular[1] is None:
        raise ModelError(
            f"target.position: the receptive fields of '{target.layer}' are too large to be shifted"
            f" in the image ({max(b - a for a, b in rows)} x {max(b - a for a, b in columns)} of"
            f" {whole.height} x {whole.width} pixels); take mean"
        )
    (row, down, step_down), (column, right, step_right) = regular[0], regular[1]
    (top, bottom), (left, end) = rows[row], columns[column]
    return (row, column), Patches(
        Box(top, left, bottom - top, end - left), down, right, (step_down, step_right)
    )


def _cells(box: Box, cell: int, whole: Box) -> Box:
    """The box, grown to whole cells."""
    top, left = box.top // cell * cell, box.left // cell * cell
    bottom, right = (-(-n // cell) * cell for n in (box.top + box.height, box.left + box.width))
    return Box(top, left, min(bottom, whole.height) - top, min(right, whole.width) - left)


def _sound(
    field: Field, maps: Maps, noise: torch.Tensor, rounding: float, target: TargetSpec
) -> None:
    """Make sure that units do not notice a change of everything outside their fields."""
    p = field.patches
    (down, right), size = p.step, p.first
    hull = Box(
        size.top, size.left, (p.rows - 1) * down + size.height, (p.columns - 1) * right + size.width
    )
    changed = noise.roll(1, 0)
    changed[:, :, *hull.where] = noise[:, :, *hull.where]
    if not _same(field.responses(maps(noise)), field.responses(maps(changed)), rounding):
        raise ModelError(
            f"target.layer: '{target.layer}' sees more than the {size.height} x {size.width} pixels"
            " that its geometry lets through (does the network treat NaN specially?); take"
            " position: mean, which keeps the whole image"
        )


def _same(a: torch.Tensor, b: torch.Tensor, rounding: float) -> bool:
    """Whether activations are equal, but for the order of their sums."""
    finite = a.isfinite() & b.isfinite()
    largest = float(a[finite].abs().max()) if finite.any() else 0.0
    return bool(((a - b)[finite].abs() <= ROUNDING * rounding * largest).all()) and bool(
        (finite == a.isfinite()).all()
    )


def _window(
    field: Field,
    spans: tuple[list[Span], list[Span]],
    maps: Maps,
    image: torch.Tensor,
    noise: torch.Tensor,
    cell: int,
    rounding: float,
) -> tuple[Field | None, str]:
    """The same units, shown a window only; None, and why, where they would answer otherwise."""
    whole, kept = field.shown, field.patches.first
    start, at = [], []
    for position, line, first, n in zip(
        field.at, spans, (kept.top, kept.left), (whole.height, whole.width), strict=True
    ):
        regular = _regular(line, n)
        step = regular[2] if regular is not None else 0
        # Strides count from the window's corner, so it lies at a multiple of theirs (and of the
        # cells').
        corner = first // math.lcm(step, cell) * math.lcm(step, cell) if step else 0
        start.append(corner)
        at.append(position - corner // step if step else position)
    box = Box(
        start[0], start[1], kept.top + kept.height - start[0], kept.left + kept.width - start[1]
    )
    if box.area == whole.area:
        return None, "the units see the whole image"
    window = Field(field.units, "single", (at[0], at[1]), box, Patches(kept.seen_from(box)))
    try:
        answers = maps(noise[:, :, *box.where].contiguous())
        if not all(p < n for p, n in zip(at, answers.shape[2:], strict=True)):
            return None, "the network has no such position where only a window is shown"
        part = image[:, *box.where].contiguous()
        reached = [
            _spans(_reach(maps, part, axis, len(noise), field.units))[p]
            for axis, p in zip((1, 2), at, strict=True)
        ]
    except ModelError:
        raise
    except Exception as error:  # whatever the network's own code raises where an image is small
        return (
            None,
            (
                f"the network does not take {box.height} x {box.width} pixels"
                f" ({type(error).__name__})"
            ),
        )
    inside = Box(
        reached[0][0], reached[1][0], reached[0][1] - reached[0][0], reached[1][1] - reached[1][0]
    )
    cells = _cells(inside, cell, Box(0, 0, box.height, box.width))
    if cells != window.patches.first or not _same(
        field.responses(maps(noise)), window.responses(answers), rounding
    ):
        return None, "the units answer otherwise where only a window is shown"
    return window, ""
