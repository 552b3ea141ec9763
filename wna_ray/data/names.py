"""Names of what can be done to images before they are shown; `wna_ray.data.transforms` does it."""

from __future__ import annotations

from typing import Literal, get_args

Transform = Literal[
    "none",
    "shrink-upper-left",
    "shrink-centre",
    "shrink-lower-right",
    "rotate-90",
    "rotate-180",
    "rotate-270",
    "zoom",
]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)
