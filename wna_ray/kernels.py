"""Triton kernels. Importing this needs Triton; `wna_ray.device_noise` does without where there is none."""

from __future__ import annotations

import triton
import triton.language as tl

from wna_ray.device_noise import INCREMENTS, MULTIPLIERS, ROUNDS

THREADS = 256  # Philox blocks of one program
PIXELS = 1024  # values that the network is fed, of one program
M0, M1, K0, K1 = (tl.constexpr(word) for word in (*MULTIPLIERS, *INCREMENTS))
TURNS = tl.constexpr(ROUNDS)


@triton.jit
def _philox_round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """One round of Philox4x64 on unsigned 64-bit words."""
    m0 = tl.full(c0.shape, M0, tl.uint64)
    m1 = tl.full(c0.shape, M1, tl.uint64)
    return tl.umulhi(c2, m1) ^ c1 ^ k0, c2 * m1, tl.umulhi(c0, m0) ^ c3 ^ k1, c0 * m0


@triton.jit(do_not_specialize=["seed", "first"])  # type: ignore[untyped-decorator]
def philox_grid(out, values, seed, first, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Grid values of consecutive Philox blocks, 16 of each, whole blocks side by side.

    ``out``: pointer to ``count * 16`` int8; ``values``: the family's table, 65,536 int8; ``seed``: first word of the key; ``first``:
    counter of the first block. Words are unsigned; integers come with their bits.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.uint64)
    c0, c1, c2, c3 = i.to(tl.uint64) + first.to(tl.uint64), zero, zero, zero
    k0, k1 = zero + seed.to(tl.uint64), zero
    for _ in tl.static_range(TURNS):
        c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, k0, k1)
        k0 += tl.full((BLOCK,), K0, tl.uint64)
        k1 += tl.full((BLOCK,), K1, tl.uint64)
    words = tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), (BLOCK, 4, 1))  # [block, j // 2, j % 2] is word j
    shifts = tl.reshape(tl.arange(0, 4) * 16, (1, 1, 4)).to(tl.uint64)
    index = tl.reshape(((words >> shifts) & 0xFFFF).to(tl.int32), (BLOCK, 16))
    keep = (i < count)[:, None]
    tl.store(out + i[:, None] * 16 + tl.arange(0, 16)[None, :], tl.load(values + index, mask=keep), mask=keep)


@triton.jit  # type: ignore[untyped-decorator]
def look_up(out, grid, levels, each, channels, rows, columns, width, cell, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """What stands for each grid value in its channel, in channels_last; program ``(i, j)`` makes the j-th part of image i.

    ``out``: ``(n, H, width, channels)``, ``each`` values an image; ``grid``: ``(n, channels, rows, columns)`` int8, one value for
    ``cell`` x ``cell`` pixels; ``levels``: ``(channels, 256)``.
    """
    image = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = at < each
    channel, pixel = at % channels, at // channels
    row, column = pixel // width // cell, pixel % width // cell
    value = tl.load(grid + image * channels * rows * columns + (channel * rows + row) * columns + column, mask=keep, other=0)
    tl.store(out + image * each + at, tl.load(levels + channel * 256 + value.to(tl.int32) + 128, mask=keep), mask=keep)
