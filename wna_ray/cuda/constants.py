"""Constants that the CUDA kernels and the Python code beside them share."""

from __future__ import annotations

import importlib.util

import torch

MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
INCREMENTS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10
HAS_TRITON = importlib.util.find_spec("triton") is not None


def has_kernels(device: torch.device) -> bool:
    """Whether Triton's kernels run on a device."""
    return device.type == "cuda" and HAS_TRITON


DEPTH = 128  # images that a tile of the product takes in at a time
