"""The noise stream on a device: the same grid values as `wna_ray.noise.stream`, bit for bit, made
where they are used.

There are two ways, which tests hold against the golden file: a Triton kernel for CUDA, and plain
torch for any device. A thread of the kernel makes one Philox4x64-10 block, 16 values, and looks
them up in the family's table. A second kernel turns grid values into what the network is fed. Grid
values of many images lie pixel by pixel, the images of a pixel side by side: so a product of whole
numbers needs them.

References
----------
Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC.
``docs/noise.md``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from wna_ray.cuda.constants import HAS_TRITON, INCREMENTS, MULTIPLIERS, ROUNDS, has_kernels
from wna_ray.noise.stream import LEVELS, PER_BLOCK, Kind, Noise, table
from wna_ray.stimuli.pictures import Source
from wna_ray.stimuli.stimulus import Stimulus

if HAS_TRITON:
    from wna_ray.cuda.kernels import IMAGES, SHOWN_IMAGES, SHOWN_VALUES, look_up, philox_grid

WORD, HALF = 1 << 64, (1 << 32) - 1
CHUNK_BLOCKS = 1 << 18  # blocks that plain torch makes at a time: 4 million values


def _signed(x: int) -> int:
    """The int64 with the bits of a 64-bit word: torch has no unsigned arithmetic."""
    return x - WORD if x >= WORD // 2 else x


def _times(a: torch.Tensor, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of the product of words ``a`` and a constant, in int64 that wraps."""
    low, high = a & HALF, (a >> 32) & HALF
    b_low, b_high = b & HALF, b >> 32
    ll, lh, hl = low * _signed(b_low), low * _signed(b_high), high * _signed(b_low)
    carry = (((ll >> 32) & HALF) + (lh & HALF) + (hl & HALF)) >> 32
    return high * b_high + ((lh >> 32) & HALF) + ((hl >> 32) & HALF) + carry, a * _signed(b)


def blocks(seed: int, first: int, count: int, device: torch.device | str) -> torch.Tensor:
    """Philox blocks by plain torch.

    Parameters
    ----------
    seed
        First word of the key; the second is 0.
    first
        Counter of the first block; all counters are below 2^64.

    Returns
    -------
    torch.Tensor
        ``(count, 4)`` int64, the bits of the four words.
    """
    c0 = torch.arange(count, dtype=torch.int64, device=device) + _signed(first)
    c1 = c2 = c3 = torch.zeros_like(c0)
    k0, k1 = seed, 0
    for _ in range(ROUNDS):
        (h0, l0), (h1, l1) = _times(c0, MULTIPLIERS[0]), _times(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = h1 ^ c1 ^ _signed(k0), l1, h0 ^ c3 ^ _signed(k1), l0
        k0, k1 = (k0 + INCREMENTS[0]) % WORD, (k1 + INCREMENTS[1]) % WORD
    return torch.stack([c0, c1, c2, c3], dim=1)


@lru_cache(maxsize=8)
def _table_on(kind: Kind, density: float | None, device: torch.device) -> torch.Tensor:
    """``(65536,)`` int8 of a family, on a device."""
    return torch.from_numpy(table(kind, density).values.copy()).to(device)


def grid(source: Source, start: int, stop: int, device: torch.device | str) -> torch.Tensor:
    """Grid values of images ``start ... stop - 1``, made where they are used.

    Noise for a CUDA device is made there, by the Triton kernel, or by plain torch where Triton is
    missing; all else by NumPy on the CPU, which is faster there.

    Returns
    -------
    torch.Tensor
        ``(stop - start, C, h, w)`` int8, the values of ``source.grid``; on `device`, or on the CPU.
        Images of a pixel may be neighbours in memory.
    """
    device = torch.device(device)
    if device.type != "cuda" or not isinstance(source, Noise):
        return torch.from_numpy(source.grid(start, stop))
    return (by_kernel if has_kernels(device) else by_torch)(source, start, stop, device)


def fed(grid: torch.Tensor, levels: torch.Tensor, stimulus: Stimulus) -> torch.Tensor:
    """What a network is fed for grid values, looked up: scaling, offset, normalisation and rounding
    in one step.

    Parameters
    ----------
    grid
        ``(n, C, h, w)`` int8 on a CUDA device (or on the CPU, under Triton's interpreter).
    levels
        ``(C, 256)``: what stands for each value (see `wna_ray.shards.feed.Feed.levels`).
    stimulus
        A pointwise one.

    Returns
    -------
    torch.Tensor
        ``(n, C, H, W)`` of the type of `levels`, channels_last.
    """
    n, c, h, w = grid.shape
    _, height, width = stimulus.shown_shape
    out = room((n, c, height, width), levels.dtype, grid.device)
    flat, each = grid.flatten(1), height * width * c
    programs = -(-n // SHOWN_IMAGES) * -(-each // SHOWN_VALUES)
    kernel: Any = look_up
    sizes = {"VALUES": SHOWN_VALUES, "IMAGES": SHOWN_IMAGES}
    kernel[(programs,)](
        out, flat, levels, n, each, *flat.stride(), c, h, w, width, stimulus.spec.cell, **sizes
    )
    return out


def room(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Memory for images, as ``.contiguous(memory_format=torch.channels_last)`` would lay them
    out.
    """
    # Of one channel both formats are the same memory, and torch keeps the strides that there were.
    form = torch.channels_last if shape[1] > 1 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=device, memory_format=form)


def _counters(noise: Noise, start: int, stop: int) -> tuple[int, int]:
    """Blocks of an image, and the counter of the first block of some images."""
    per_image = -(-noise.pixels // PER_BLOCK)
    if stop * per_image >= WORD:
        raise ValueError(
            f"noise: counters up to {stop * per_image} do not fit in 64 bits; take fewer or smaller"
            " images"
        )
    return per_image, start * per_image + 1


def by_torch(noise: Noise, start: int, stop: int, device: torch.device | str) -> torch.Tensor:
    """`grid` by plain torch."""
    device, d, n = torch.device(device), noise.pixels, stop - start
    per_image, first = _counters(noise, start, stop)
    values, out = (
        _table_on(noise.kind, noise.density, device),
        torch.empty((n, d), dtype=torch.int8, device=device),
    )
    shifts = torch.arange(0, 64, 16, device=device)
    step = max(1, CHUNK_BLOCKS // per_image)
    for a in range(0, n, step):
        b = min(a + step, n)
        words = blocks(noise.seed, first + a * per_image, (b - a) * per_image, device)
        index = ((words[:, :, None] >> shifts) & (LEVELS - 1)).reshape(b - a, per_image * PER_BLOCK)
        out[a:b] = values[index[:, :d]]
    return out.reshape(n, *noise.shape)


def by_kernel(noise: Noise, start: int, stop: int, device: torch.device | str) -> torch.Tensor:
    """`grid` by the Triton kernel; on the CPU under Triton's interpreter
    (``TRITON_INTERPRET=1`` when Triton is first imported).
    """
    device, d, n = torch.device(device), noise.pixels, stop - start
    per_image, first = _counters(noise, start, stop)
    out = torch.empty((per_image * PER_BLOCK, n), dtype=torch.int8, device=device)
    if n:
        kernel: Any = philox_grid
        values, places = _table_on(noise.kind, noise.density, device), (per_image, -(-n // IMAGES))
        kernel[places](out, values, _signed(noise.seed), _signed(first), n, per_image, BLOCK=IMAGES)
    return out[:d].t().reshape(n, *noise.shape)
