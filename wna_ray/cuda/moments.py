"""Moments whose large sums stay on a device while a shard's images are added; the same integers as
`wna_ray.moments.moments`.

A response is cut into digits to the base 256, from -128 to 127, and the products of digits and grid
values, both of 8 bits, are summed in int32 by one matrix product a digit, on tensor cores where
there are any: over a chunk of 2^14 images no sum is larger than 2^28. Sums of digits, times their
power of 256, are added to int64 masters on the device: by the same Triton kernel that multiplies,
or after torch's product where there is no Triton. Few responses need a third digit, so most rows
are multiplied once or twice. Squares of grid values have two digits of their own.

What is small is summed apart: of labels and confidences on the CPU, of dense responses on the
device, in int64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from wna_ray.cuda.constants import HAS_TRITON, has_kernels
from wna_ray.cuda.responses import Values
from wna_ray.errors import NumericsError
from wna_ray.moments.moments import MAX_CHUNK, Moments, ResponseMoments
from wna_ray.moments.responses import Selected, is_dense

if HAS_TRITON:
    from wna_ray.cuda.kernels import FEW, PRODUCT, add_product

LARGEST = 128  # magnitude of a grid value
BITS = 8
DIGIT = 1 << BITS
PRODUCT_VALUES = 1 << 28  # grid values multiplied at a time; their squares take 2 GB
# what torch's product of 8-bit numbers wants the sides of its matrices to be multiples of, on CUDA
TILE = 16
_LOW = (1 << 32) - 1


def chosen(grid: torch.Tensor, mask: NDArray[np.bool_]) -> torch.Tensor:
    """The images of grid values ``(n, C, h, w)`` where `mask` ``(n,)`` is true, those of a
    pixel side by side.
    """
    at = torch.from_numpy(np.flatnonzero(mask)).to(grid.device)
    return grid.flatten(1).t().index_select(1, at).t().reshape(-1, *grid.shape[1:])


def digits(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest digit, int8 of -128 ... 127, and the rest: ``values == digit + 256 * rest``, of
    integers wider than 8 bits.
    """
    rest = (values + DIGIT // 2) >> BITS
    return (values - (rest << BITS)).to(torch.int8), rest


def digits_for(most: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many digits hold all integers up to a magnitude: ``j`` digits reach ``127 (256^j - 1)
    / 255``; at least one.
    """
    reach = (DIGIT // 2 - 1) * np.array([(DIGIT**j - 1) // (DIGIT - 1) for j in range(1, 6)])
    return 1 + np.searchsorted(reach, most)


@dataclass(frozen=True)
class Digits:
    """Digits of one place ``(r, n)`` int8 of the weights that are summed in the slots ``(r,)``
    int64.
    """

    place: int
    slots: torch.Tensor
    values: torch.Tensor


class _Masters:
    """Sums ``(slots, d)`` int64 on a device; rows are told apart by kind and number, and get a
    slot when they first occur.
    """

    def __init__(self, d: int, second: bool, device: torch.device) -> None:
        self.first = torch.zeros((1, d), dtype=torch.int64, device=device)
        self.squares = self.first.new_zeros((1, d if second else 0))
        self.slots: dict[tuple[str, int], int] = {("", 0): 0}  # the first is the sum of all stimuli

    def slots_of(self, kind: str, rows: Iterable[int]) -> NDArray[np.int64]:
        """Where the sums of some rows are; there is room for them."""
        keys = [(kind, row) for row in rows]
        fresh = [key for key in keys if key not in self.slots]
        if fresh:
            self.slots |= {key: len(self.slots) + i for i, key in enumerate(fresh)}
            self.first, self.squares = (
                torch.cat([s, s.new_zeros((len(fresh), s.shape[1]))])
                for s in (self.first, self.squares)
            )
        return np.array([self.slots[key] for key in keys], dtype=np.int64)

    def fetched(
        self, kind: str, rows: Iterable[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Both sums of some rows, in the CPU's memory."""
        at = torch.from_numpy(self.slots_of(kind, rows)).to(self.first.device)
        first, squares = (sums[at].cpu().numpy() for sums in (self.first, self.squares))
        return first, squares


def add_products(
    sums: torch.Tensor, weights: Sequence[Digits], right: torch.Tensor, place: int = 0
) -> None:
    """Add the products of all digits of weights and of grid values, exactly.

    Parameters
    ----------
    sums
        Of all slots, ``(slots, values)`` int64; some columns of it, maybe.
    right
        ``(values, n)`` int8, contiguous; n is at most 2^14.
    place
        If these are digits themselves, their place.
    """
    for digit in weights:
        scale = DIGIT ** (digit.place + place)
        if multiplies(sums.device):
            add_by_kernel(sums, digit.slots, digit.values, right, scale)
        else:
            sums.index_add_(
                0, digit.slots, product_by_torch(digit.values, right).to(torch.int64), alpha=scale
            )


def multiplies(device: torch.device) -> bool:
    """Whether the Triton kernel multiplies on a device: the tensor cores of older ones have too
    little memory for its tiles.
    """
    return has_kernels(device) and torch.cuda.get_device_capability(device) >= (8, 0)


def product_by_torch(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left @ right.T`` of ``(m, n)`` and ``(d, n)`` int8, ``(m, d)`` int32; its sides are
    filled up for what CUDA's libraries take.
    """
    m, d, n = len(left), len(right), right.shape[1]
    sides = (
        pad(x, (0, -n % TILE, 0, -len(x) % rows)) for x, rows in ((left, 2 * TILE), (right, TILE))
    )
    a, b = (x.contiguous() for x in sides)
    # torch has no public product of int8 that gives int32; `matmul` would wrap at 8 bits.
    return torch._int_mm(a, b.t())[:m, :d]  # noqa: SLF001


def add_by_kernel(
    sums: torch.Tensor, slots: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: int
) -> None:
    """Add ``scale * left @ right.T`` to the rows `slots` ``(m,)`` int64 of `sums`, each there
    once, by the Triton kernel.
    """
    (m, n), d = left.shape, len(right)
    sizes = FEW if m <= FEW["ROWS"] else PRODUCT
    programs = -(-m // sizes["ROWS"]) * -(-d // sizes["VALUES"])
    kernel: Any = add_product
    kernel[(programs,)](
        sums,
        slots,
        left.contiguous(),
        right,
        m,
        d,
        n,
        sums.stride(0),
        scale,
        WHOLE=n % sizes["DEPTH"] == 0,
        **sizes,
    )


class _Dense:
    """Small sums of a dense kind, on a device: sum y, sum y^2 as a pair, and the largest
    magnitude; and the images that there were.
    """

    def __init__(self, k: int, device: torch.device) -> None:
        self.rows, self._images = k, 0
        self._y, self._high, self._low, self._peak = (
            torch.zeros(k, dtype=torch.int64, device=device) for _ in range(4)
        )

    def add(self, values: torch.Tensor) -> None:
        """Add ``(n, k)`` int32, n at most 2^14: their squares, of 46 bits, fit in int64."""
        squares = values.to(torch.int64).square_().sum(dim=0)
        self._images += len(values)
        self._y += values.sum(dim=0, dtype=torch.int64)
        self._high += squares >> 32
        self._low += squares & _LOW
        self._peak = torch.maximum(self._peak, values.abs().amax(dim=0))

    def fetched(self, first: NDArray[np.int64], squares: NDArray[np.int64]) -> ResponseMoments:
        """All of it in the CPU's memory, with the large sums."""
        y, high, low, peak = (t.cpu().numpy() for t in (self._y, self._high, self._low, self._peak))
        pair = np.stack([high + (low >> 32), low & _LOW], axis=1)
        return ResponseMoments(
            np.arange(self.rows), np.full(self.rows, self._images), peak, y, pair, first, squares
        )


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
        self._empty, self._device = empty, device
        self._small = Moments.identity(0, [kind for kind in empty.responses if not is_dense(kind)])
        self._masters = _Masters(empty.sum_x.size, empty.sum_xx.size > 0, device)
        self._dense: dict[str, _Dense] = {}
        self.odd = None if empty.odd is None else DeviceMoments(empty.odd, device)

    def update(
        self, grid: torch.Tensor, responses: Mapping[str, Selected | Values]
    ) -> DeviceMoments:
        """Add images: as `Moments.update`, of grid values ``(n, ...)`` int8 on the device.
        Changes and gives itself.
        """
        x = grid.flatten(1).t()
        for a in range(0, len(grid), MAX_CHUNK):
            part = slice(a, a + MAX_CHUNK)
            self._add(
                x[:, part], {kind: response.part(part) for kind, response in responses.items()}
            )
        return self

    def update_odd(
        self, grid: torch.Tensor, responses: Mapping[str, Selected | Values]
    ) -> DeviceMoments:
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
        for kind, empty in self._empty.responses.items():
            if kind in self._dense:
                dense = self._dense[kind]
                responses[kind] = dense.fetched(*self._masters.fetched(kind, range(dense.rows)))
            elif kind in self._small.responses:
                small = self._small.responses[kind]
                first, squares = self._masters.fetched(kind, small.rows.tolist())
                responses[kind] = replace(small, sum_yx=first, sum_yxx=squares)
            else:  # no image has been added
                responses[kind] = empty
        second = self._masters.squares.numel() > 0
        for kind, moments in responses.items():
            peak = int(moments.peak.max(initial=0))
            require_range(kind, self._small.images, peak, second)
        sum_x, sum_xx = (
            sums[0].cpu().numpy() for sums in (self._masters.first, self._masters.squares)
        )
        odd = None if self.odd is None else self.odd.fetched()
        return replace(self._small, sum_x=sum_x, sum_xx=sum_xx, responses=responses, odd=odd)

    def _add(self, x: torch.Tensor, responses: Mapping[str, Selected | Values]) -> None:
        """Add a chunk of grid values ``(d, n)``."""
        n = x.shape[1]
        one_hot = {
            kind: response for kind, response in responses.items() if isinstance(response, Selected)
        }
        self._small = self._small.update(np.zeros((n, 0), dtype=np.int8), one_hot)
        ones = torch.ones((1, n), dtype=torch.int32, device=self._device)
        slots, values, most = (
            [self._masters.slots_of("", range(1))],
            [ones],
            [np.ones(1, dtype=np.int64)],
        )
        for kind, response in responses.items():
            rows, weights, bound = self._weights(kind, response)
            slots.append(self._masters.slots_of(kind, rows))
            values.append(weights)
            most.append(bound)
        all_digits = _digits_of(np.concatenate(slots), torch.cat(values), np.concatenate(most))
        step, sums = max(1, PRODUCT_VALUES // n // TILE) * TILE, self._masters
        for a in range(0, len(x), step):
            span = slice(a, a + step)
            right = x[span].contiguous()
            add_products(sums.first[:, span], all_digits, right)
            if sums.squares.numel():
                low, rest = digits(right.to(torch.int16).square_())  # at most 2^14
                for place, digit in enumerate((low, rest.to(torch.int8))):
                    add_products(sums.squares[:, span], all_digits, digit, place)

    def _weights(
        self, kind: str, response: Selected | Values
    ) -> tuple[Iterable[int], torch.Tensor, NDArray[np.int64]]:
        """Rows ``m`` that a chunk's responses feed, their weights ``(m, n)`` int32 on the
        device, and the largest magnitude of each.
        """
        if isinstance(response, Values):
            k = response.values.shape[1]
            self._dense.setdefault(kind, _Dense(k, self._device)).add(response.values)
            return range(k), response.values.t(), response.most
        rows, which = np.unique(response.rows, return_inverse=True)
        most = np.zeros(len(rows), dtype=np.int64)
        np.maximum.at(most, which, response.weights)
        at, weights = (
            torch.from_numpy(a[None]).to(self._device)
            for a in (which, response.weights.astype(np.int32))
        )
        return (
            rows.tolist(),
            torch.zeros((len(rows), len(which)), dtype=torch.int32, device=self._device).scatter_(
                0, at, weights
            ),
            most,
        )


def require_range(kind: str, images: int, peak: int, second: bool) -> None:
    """`NumericsError` where a sum may have left int64, which a device does not notice.

    Parameters
    ----------
    kind
        The response.
    images
        How many were added.
    peak
        The largest magnitude of a response.
    second
        Whether squares of grid values are summed, too.
    """
    largest = LARGEST**2 if second else LARGEST
    if peak * largest * images >= 1 << 63:
        raise NumericsError(
            f"{kind}: the sums of {images:,} images on a device may have left the range of int64,"
            " so the moments would no longer be exact; give a smaller execution.shard"
        )


def _digits_of(
    slots: NDArray[np.int64], values: torch.Tensor, most: NDArray[np.int64]
) -> list[Digits]:
    """All digits of weights ``(m, n)`` int32; of the higher places only the rows that reach
    them.
    """
    planes, needed = [], digits_for(most)
    for place in range(int(needed.max())):
        reach = needed > place
        if not reach.all():
            slots, needed = slots[reach], needed[reach]
            values = values[torch.from_numpy(np.flatnonzero(reach)).to(values.device)]
        digit, values = digits(values)
        planes.append(Digits(place, torch.from_numpy(slots).to(digit.device), digit))
    return planes
