"""Philox4x64-10 and the noise stream in plain Python integers, written from docs/noise.md
alone: the oracle.
"""

from __future__ import annotations

from statistics import NormalDist

MASK = (1 << 64) - 1


def block(key: tuple[int, int], counter: int) -> list[int]:
    """The four 64-bit words of one Philox4x64-10 block (Salmon et al. 2011)."""
    c = [(counter >> (64 * j)) & MASK for j in range(4)]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(p1 >> 64) ^ c[1] ^ k0, p1 & MASK, (p0 >> 64) ^ c[3] ^ k1, p0 & MASK]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c


def image_words(seed: int, index: int, values: int) -> list[int]:
    """The 16-bit values of one image."""
    blocks = -(-values // 16)
    out = []
    for c in range(index * blocks + 1, (index + 1) * blocks + 1):
        out += [(word >> (16 * m)) & 0xFFFF for word in block((seed, 0), c) for m in range(4)]
    return out[:values]


def value(kind: str, u: int, density: float | None = None) -> int:
    """One table entry, by the formulas of docs/noise.md."""
    if u < 32768:
        return -value(kind, 65535 - u, density)
    if kind == "gaussian":
        return round(29 * NormalDist().inv_cdf((u + 0.5) / 65536))
    if kind == "uniform":
        return (2 * u + 1) * 255 // 131072 - 127
    if kind == "binary":
        return 1
    assert density is not None
    return int(u >= 65536 - round(32768 * density))
