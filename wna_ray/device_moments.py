"""Moments whose large sums stay on a device while a shard's images are added; the same integers as `wna_ray.moments`.

A chunk of at most 2^14 images is one float64 product of responses and grid, whose sums stay below 2^53 and so are exact in any order; it is
added to int64 masters on the device. Small sums (counts, sum y, sum y^2) are made on the CPU, where the responses are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from wna_ray.moments import MAX_CHUNK, MIN_CHUNK, Moments, weights_of
from wna_ray.responses import Response

CHUNK_VALUES = 1 << 26  # grid values turned into float64 at a time (512 MB)


@dataclass
class _Masters:
    """Sums ``y x`` and ``y x^2`` of the rows of one kind of response, in the order in which the rows came."""

    yx: torch.Tensor
    yxx: torch.Tensor
    slots: dict[int, int] = field(default_factory=dict)

    def add(self, rows: list[int], yx: torch.Tensor, yxx: torch.Tensor) -> None:
        """Add exact sums ``(m, d)`` of some rows."""
        fresh = [row for row in rows if row not in self.slots]
        if fresh:
            self.slots |= {row: len(self.slots) + i for i, row in enumerate(fresh)}
            self.yx, self.yxx = (torch.cat([old, old.new_zeros((len(fresh), old.shape[1]))]) for old in (self.yx, self.yxx))
        at = torch.tensor([self.slots[row] for row in rows], dtype=torch.int64, device=self.yx.device)
        self.yx.index_add_(0, at, yx.to(torch.int64))
        self.yxx.index_add_(0, at, yxx.to(torch.int64))


class DeviceMoments:
    """Moments of a shard, on a device.

    Parameters
    ----------
    empty
        Moments of no images, whose shape these have.
    device
        Where the large sums are.
    """

    def __init__(self, empty: Moments, device: torch.device) -> None:
        self._device = device
        self._small = Moments.identity(0, empty.responses)
        d, second = empty.sum_x.size, empty.sum_xx.size
        self._x, self._xx = (torch.zeros(n, dtype=torch.int64, device=device) for n in (d, second))
        none, nothing = (torch.zeros((0, n), dtype=torch.int64, device=device) for n in (d, second))
        self._masters = {kind: _Masters(none, nothing) for kind in empty.responses}
        self.odd = None if empty.odd is None else DeviceMoments(empty.odd, device)

    def update(self, grid: torch.Tensor, responses: Mapping[str, Response]) -> DeviceMoments:
        """Add images: as `Moments.update`, of grid values ``(n, ...)`` int8 on the device. Changes and gives itself."""
        n, d = len(grid), self._x.numel()
        self._small = self._small.update(np.zeros((n, 0), dtype=np.int8), responses)
        x, step = grid.reshape(n, d), min(MAX_CHUNK, max(MIN_CHUNK, CHUNK_VALUES // d))
        for a in range(0, n, step):
            parts = {kind: weights_of(response, slice(a, a + step)) for kind, response in responses.items()}
            right = x[a : a + step].to(torch.float64)
            left = np.concatenate([np.ones((1, len(right))), *(part.values for part in parts.values())])
            weights = torch.from_numpy(left).to(self._device)
            first = weights @ right
            squares = weights @ right.square_() if self._xx.numel() else first[:, :0]
            self._x += first[0].to(torch.int64)
            self._xx += squares[0].to(torch.int64)
            at = 1
            for kind, part in parts.items():
                block, at = slice(at, at + len(part.rows)), at + len(part.rows)
                self._masters[kind].add(part.rows.tolist(), first[block], squares[block])
        return self

    def update_odd(self, grid: torch.Tensor, responses: Mapping[str, Response]) -> DeviceMoments:
        """Add images of odd batches."""
        assert self.odd is not None, "asked only where halves are kept"
        self.odd.update(grid, responses)
        return self

    def skip(self, nonfinite: int = 0, out_of_range: int = 0) -> DeviceMoments:
        """Count images that are left out."""
        self._small = self._small.skip(nonfinite, out_of_range)
        return self

    def fetched(self) -> Moments:
        """The same on the CPU."""
        responses = {}
        for kind, small in self._small.responses.items():
            masters = self._masters[kind]
            order = torch.tensor([masters.slots[row] for row in small.rows.tolist()], dtype=torch.int64, device=self._device)
            yx, yxx = (sums[order].cpu().numpy() for sums in (masters.yx, masters.yxx))
            responses[kind] = replace(small, sum_yx=yx, sum_yxx=yxx)
        sum_x, sum_xx = self._x.cpu().numpy(), self._xx.cpu().numpy()
        odd = None if self.odd is None else self.odd.fetched()
        return replace(self._small, sum_x=sum_x, sum_xx=sum_xx, responses=responses, odd=odd)
