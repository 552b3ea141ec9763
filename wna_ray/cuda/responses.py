"""Responses of images on a device, where their outputs are: the integers of
`wna_ray.moments.responses`, which tests hold them against.

To make them nothing waits for the device. All is done value by value, but for sums over a row,
whose order is fixed: so an image's response does not depend on which others it is handled with. Of
kinds that need such sums (centred logits, probabilities, confidences) one in many millions may be a
step off what NumPy makes of the same outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.moments.responses import (
    CONFIDENCE_EXPONENT,
    LIMIT,
    Dense,
    FixedPoint,
    Selected,
    is_centred,
    is_dense,
)
from wna_ray.specs.response import ResponseSpec


@dataclass(frozen=True)
class Values:
    """Each image feeds every row, as of a `Dense`, on a device.

    Attributes
    ----------
    values
        ``(n, k)`` int32.
    most
        ``(k,)`` int64 in the CPU's memory: no value of a row is larger in magnitude.
    """

    values: torch.Tensor
    most: NDArray[np.int64]

    @classmethod
    def of(cls, response: Dense, device: torch.device) -> Values:
        """The same on a device."""
        most = np.abs(response.values).max(axis=0, initial=0)
        return cls(torch.from_numpy(response.values.astype(np.int32)).to(device), most)

    def keep(self, mask: NDArray[np.bool_]) -> Values:
        """The images where `mask` ``(n,)`` is true."""
        return Values(
            self.values[torch.from_numpy(np.flatnonzero(mask)).to(self.values.device)], self.most
        )

    def part(self, images: slice) -> Values:
        """Some of the images."""
        return Values(self.values[images], self.most)

    def fetched(self) -> Dense:
        """The same in the CPU's memory."""
        return Dense(self.values.cpu().numpy().astype(np.int64))


class Arriving:
    """Tensors on their way to the CPU's memory; a CUDA device works on while the CPU waits for
    them, or does not wait yet.

    Parameters
    ----------
    tensors
        By name, wherever they are.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._on_cpu = {name: _sent(tensor) for name, tensor in tensors.items()}
        self._arrived: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def wait(self) -> None:
        """Wait for them."""
        if self._arrived is not None:
            self._arrived.synchronize()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them, waited for."""
        self.wait()
        return {name: tensor.numpy() for name, tensor in self._on_cpu.items()}


def _sent(tensor: torch.Tensor) -> torch.Tensor:
    """A copy for the CPU that may be on its way; what is there already, as it is."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
        tensor, non_blocking=True
    )


@dataclass(frozen=True)
class Answers:
    """Responses of some images on a device, and what the CPU has to know of them, on its way there.

    Attributes
    ----------
    values
        ``(n, k)`` int32 by dense kind.
    small
        ``finite`` and ``within`` ``(n,)``; ``(k,)`` largest magnitudes by dense kind; ``(2, n)``
        rows and weights by one-hot kind.
    """

    values: Mapping[str, torch.Tensor]
    small: Arriving

    def wait(self) -> None:
        """Wait for what is on its way."""
        self.small.wait()

    def counted(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, Selected | Values]]:
        """Which images are finite, which are counted in, and the responses of those; waited for."""
        small = self.small.arrays()
        finite, within = (small.pop(name).astype(np.bool_) for name in ("finite", "within"))
        counted = finite & within
        responses: dict[str, Selected | Values] = {}
        for kind, known in small.items():
            numbers = known.astype(np.int64)
            response = (
                Values(self.values[kind], numbers) if kind in self.values else Selected(*numbers)
            )
            responses[kind] = response if counted.all() else response.keep(counted)
        return finite, counted, responses


@dataclass(frozen=True)
class Responder:
    """What gives responses on a device.

    Attributes
    ----------
    specs
        The kinds asked for.
    steps, centres, thresholds
        ``(k,)`` float64 by kind (see `FixedPoint`); thresholds of spikes only.
    uncentred
        Rows that are not centred, by kind.
    """

    specs: Sequence[ResponseSpec]
    steps: Mapping[str, torch.Tensor]
    centres: Mapping[str, torch.Tensor]
    thresholds: Mapping[str, torch.Tensor]
    uncentred: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(
        cls, specs: Sequence[ResponseSpec], points: Mapping[str, FixedPoint], device: torch.device
    ) -> Responder:
        """For fixed points."""

        def on_device(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, torch.Tensor]:
            return {kind: torch.from_numpy(array).to(device) for kind, array in arrays.items()}

        dense = {r.kind: points[r.kind] for r in specs if is_dense(r.kind)}
        return cls(
            specs,
            on_device({kind: point.step for kind, point in dense.items()}),
            on_device(
                {kind: np.array(point.centre, dtype=np.float64) for kind, point in dense.items()}
            ),
            on_device(
                {kind: np.array(point.threshold, dtype=np.float64) for kind, point in dense.items()}
            ),
            {kind: point.uncentred for kind, point in dense.items()},
        )

    def __call__(self, outputs: torch.Tensor) -> Answers:
        """Integer responses of outputs ``(n, k)`` float32, finite or not (see
        `wna_ray.moments.responses.respond`).
        """
        finite = outputs.isfinite().all(dim=1)
        y = torch.where(finite[:, None], outputs, 0.0).to(torch.float64)
        within = torch.ones_like(finite)
        values: dict[str, torch.Tensor] = {}
        small: dict[str, torch.Tensor] = {}
        for spec in self.specs:
            if not is_dense(spec.kind):
                small[spec.kind] = _selected(spec, y)
                continue
            if spec.kind == "spikes":
                values_of = (y > self.thresholds[spec.kind]).to(torch.int32)
            else:
                real = _real(spec, y, self.uncentred[spec.kind])
                # To even, as NumPy does.
                steps = (real / self.steps[spec.kind]).round_().sub_(self.centres[spec.kind])
                fits = (steps.abs() <= LIMIT).all(dim=1)
                values_of = torch.where(fits[:, None], steps, 0.0).to(torch.int32)
                within = within & fits
            values[spec.kind] = values_of
            small[spec.kind] = values_of.abs().amax(dim=0)
        return Answers(values, Arriving(small | {"finite": finite, "within": within}))


def _selected(spec: ResponseSpec, y: torch.Tensor) -> torch.Tensor:
    """``(2, n)`` int64: row and weight of each image. Of equal values, argmax takes the first."""
    rows = y.argmax(dim=1)
    if spec.kind == "label":
        return torch.stack([rows, torch.ones_like(rows)])
    top = softmax(y).gather(1, rows[:, None])[:, 0]
    return torch.stack(
        [rows, top.mul_(2.0**-CONFIDENCE_EXPONENT).round_().to(torch.int64).clamp_min_(1)]
    )


def _real(spec: ResponseSpec, y: torch.Tensor, uncentred: Sequence[int]) -> torch.Tensor:
    """Dense responses before rounding, ``(n, k)`` float64."""
    if spec.kind == "probabilities":
        return softmax(y)
    if spec.kind == "rectified":
        return y.clamp_min(0.0)
    if not is_centred(spec, y.shape[1]):
        return y
    # A tensor: CUDA divides by a plain number by multiplying with its inverse.
    centred = y - row_sums(y) / torch.full_like(y[:, :1], y.shape[1])
    if uncentred:
        centred[:, list(uncentred)] = y[:, list(uncentred)]
    return centred


def softmax(y: torch.Tensor) -> torch.Tensor:
    """Softmax of each row of ``(n, k)`` float64."""
    grown = (y - y.amax(dim=1, keepdim=True)).exp_()
    return grown / row_sums(grown)


def row_sums(y: torch.Tensor) -> torch.Tensor:
    """Sum of each row of ``(n, k)``, ``(n, 1)``, by halves: always in the same order, whatever
    n (torch's own depends on it).
    """
    while y.shape[1] > 1:
        half = -(-y.shape[1] // 2)
        left, right = y[:, :half], y[:, half:]
        y = (
            left + right
            if right.shape[1] == half
            else torch.cat([left[:, :-1] + right, left[:, -1:]], dim=1)
        )
    return y
