"""Bytes that stand for the images of a data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N = 1500


def correlated(seed: int = 0, n: int = N) -> NDArray[np.uint8]:
    """``(n, 1, 4, 4)`` bytes that correlate over space and are skewed; the first pixel never
    varies.
    """
    rng = np.random.default_rng(seed)
    x = rng.exponential(size=(n, 16)) @ (np.eye(16) + 0.4 * rng.normal(size=(16, 16))) * 40 + 60
    x[:, 0] = 17
    return np.clip(x, 0, 255).astype(np.uint8).reshape(n, 1, 4, 4)
