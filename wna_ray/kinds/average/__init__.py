"""The average of noise by a network's answers: bias maps, their significance, the classifier they
make.

Other kinds of jobs build on this one. It imports every lower room, and no other kind.
"""

from __future__ import annotations

from wna_ray.registry import Kind

KIND = Kind(
    name="run",
    format="wna-run/1",
    spec="wna_ray.specs.run:Spec",
    extent="wna_ray.kinds.average.extent:check_described",
    ask="wna_ray.kinds.average.job:NoiseQuestion.of",
    views="wna_ray.kinds.average.views:VIEWS",
    opened="wna_ray.kinds.average.run:Run",
)
