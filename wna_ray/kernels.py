"""Triton kernels. Importing this needs Triton; `wna_ray.device_noise` does without where there is none."""

from __future__ import annotations

import triton
import triton.language as tl

THREADS = 256  # Philox blocks of one program


@triton.jit
def _philox_round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """One round of Philox4x64 on unsigned 64-bit words."""
    m0 = tl.full(c0.shape, 0xD2E7470EE14C6C93, tl.uint64)
    m1 = tl.full(c0.shape, 0xCA5A826395121157, tl.uint64)
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
    for _ in tl.static_range(10):
        c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, k0, k1)
        k0 += tl.full((BLOCK,), 0x9E3779B97F4A7C15, tl.uint64)
        k1 += tl.full((BLOCK,), 0xBB67AE8584CAA73B, tl.uint64)
    words = tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), (BLOCK, 4, 1))  # [block, j // 2, j % 2] is word j
    shifts = tl.reshape(tl.arange(0, 4) * 16, (1, 1, 4)).to(tl.uint64)
    index = tl.reshape(((words >> shifts) & 0xFFFF).to(tl.int32), (BLOCK, 16))
    keep = (i < count)[:, None]
    tl.store(out + i[:, None] * 16 + tl.arange(0, 16)[None, :], tl.load(values + index, mask=keep), mask=keep)
