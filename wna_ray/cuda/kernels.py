"""Triton kernels. Importing this needs Triton; `wna_ray.cuda.noise` and `wna_ray.cuda.moments` do
without where there is none.

Triton compiles a kernel anew for each number that is 1, or that 16 divides or does not, and the
device waits half a second for it. So numbers that differ from call to call are not specialised, but
for those that bound what lies side by side in memory: without knowing that 16 divides these, it
reads and writes value by value.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wna_ray.cuda.constants import DEPTH, INCREMENTS, MULTIPLIERS, ROUNDS

IMAGES = 128  # of which one program makes a Philox block each
SHOWN_VALUES, SHOWN_IMAGES = (
    128,
    32,
)  # values and images of one program that makes what the network is fed
PRODUCT = {"ROWS": 128, "VALUES": 256, "DEPTH": DEPTH, "num_warps": 8, "num_stages": 3}
"""Tiles of the product of digits and grid values: rows, grid values, and images at a time."""
FEW = {"ROWS": 32, "VALUES": 128, "DEPTH": DEPTH, "num_warps": 4, "num_stages": 4}
"""The same where there are no more than 32 rows."""
M0, M1, K0, K1 = (tl.constexpr(word) for word in (*MULTIPLIERS, *INCREMENTS))
TURNS = tl.constexpr(ROUNDS)


@triton.jit
def _philox_round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """One round of Philox4x64 on unsigned 64-bit words."""
    m0 = tl.full(c0.shape, M0, tl.uint64)
    m1 = tl.full(c0.shape, M1, tl.uint64)
    return tl.umulhi(c2, m1) ^ c1 ^ k0, c2 * m1, tl.umulhi(c0, m0) ^ c3 ^ k1, c0 * m0


@triton.jit(do_not_specialize=["seed", "first", "per_image"])  # type: ignore[untyped-decorator]
def philox_grid(out, values, seed, first, images, per_image, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Grid values pixel by pixel, images side by side; program ``(j, i)`` makes block j of the i-th
    ``BLOCK`` images, 16 values of each.

    ``out``: pointer to ``(per_image * 16, images)`` int8; ``values``: the family's table, 65,536
    int8; ``seed``: first word of the key; ``first``: counter of the first block of the first image.
    Words are unsigned; integers come with their bits.
    """
    block = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.uint64)
    c0, c1, c2, c3 = (i * per_image + block).to(tl.uint64) + first.to(tl.uint64), zero, zero, zero
    k0, k1 = zero + seed.to(tl.uint64), zero
    for _ in tl.static_range(TURNS):
        c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, k0, k1)
        k0 += tl.full((BLOCK,), K0, tl.uint64)
        k1 += tl.full((BLOCK,), K1, tl.uint64)
    words = tl.reshape(
        tl.join(tl.join(c0, c2), tl.join(c1, c3)), (BLOCK, 4, 1)
    )  # [image, j // 2, j % 2] is word j
    shifts = tl.reshape(tl.arange(0, 4) * 16, (1, 1, 4)).to(tl.uint64)
    index = tl.reshape(((words >> shifts) & 0xFFFF).to(tl.int32), (BLOCK, 16))
    keep = (i < images)[:, None]
    at = (block * 16 + tl.arange(0, 16)[None, :]) * images + i[:, None]
    tl.store(out + at, tl.load(values + index, mask=keep), mask=keep)


@triton.jit  # type: ignore[untyped-decorator]
def look_up(  # type: ignore[no-untyped-def]
    out,
    grid,
    levels,
    images,
    each,
    step,
    value_step,
    channels,
    rows,
    columns,
    width,
    cell,
    VALUES: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """What stands for each grid value in its channel, in channels_last; a program makes some values
    of some images.

    ``out``: ``(images, H, width, channels)``, ``each`` values an image; ``grid``: int8 of
    ``channels`` x ``rows`` x ``columns`` values an image, one for ``cell`` x ``cell`` pixels,
    `step` from image to image, ``value_step`` from value to value; ``levels``: ``(channels, 256)``.
    """
    tiles = tl.cdiv(images, IMAGES)  # images first: neighbours read one line of memory
    image = (tl.program_id(0) % tiles * IMAGES + tl.arange(0, IMAGES)).to(tl.int64)[None, :]
    at = (tl.program_id(0) // tiles * VALUES + tl.arange(0, VALUES))[:, None]
    keep = (at < each) & (image < images)
    channel, pixel = at % channels, at // channels
    row, column = pixel // width // cell, pixel % width // cell
    source = ((channel * rows + row) * columns + column).to(tl.int64) * value_step + image * step
    value = tl.load(grid + source, mask=keep, other=0)
    tl.store(
        out + image * each + at,
        tl.load(levels + channel * 256 + value.to(tl.int32) + 128, mask=keep),
        mask=keep,
    )


@triton.jit(do_not_specialize=["rows", "scale"])  # type: ignore[untyped-decorator]
def add_product(  # type: ignore[no-untyped-def]
    sums,
    slots,
    left,
    right,
    rows,
    values,
    images,
    width,
    scale,
    ROWS: tl.constexpr,
    VALUES: tl.constexpr,
    DEPTH: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Add ``scale * left @ right.T``, summed in int32, to int64 sums; a program makes some rows of
    some values.

    ``sums``: rows of ``width``, of which the rows ``slots`` are added to, each once; ``left``:
    ``(rows, images)`` int8; ``right``: ``(values, images)`` int8. ``WHOLE``: images are a multiple
    of ``DEPTH``.
    """
    tiles = tl.cdiv(rows, ROWS)  # rows first: neighbours read the same grid values
    m = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(0) // tiles * VALUES + tl.arange(0, VALUES)
    k = tl.arange(0, DEPTH)
    a = left + m[:, None].to(tl.int64) * images + k[None, :]
    b = right + d[None, :].to(tl.int64) * images + k[:, None]
    inside_m, inside_d = (m < rows)[:, None], (d < values)[None, :]
    total = tl.zeros((ROWS, VALUES), tl.int32)
    for at in range(0, images, DEPTH):
        if WHOLE:
            x, y = tl.load(a, mask=inside_m, other=0), tl.load(b, mask=inside_d, other=0)
        else:
            valid = k < images - at
            x, y = (
                tl.load(a, mask=inside_m & valid[None, :], other=0),
                tl.load(b, mask=inside_d & valid[:, None], other=0),
            )
        total = tl.dot(x, y, total, out_dtype=tl.int32)
        a += DEPTH
        b += DEPTH
    slot = tl.load(slots + m, mask=m < rows, other=0)  # int64
    place = sums + slot[:, None] * width + d[None, :]
    inside = inside_m & inside_d
    tl.store(place, tl.load(place, mask=inside, other=0) + total.to(tl.int64) * scale, mask=inside)
