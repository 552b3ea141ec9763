"""The covariance of noise weighted by responses: axes, their significance, profiles, Hessians.

It reads finished runs of noise, so it may import `wna_ray.kinds.average` and every lower room.
"""

from __future__ import annotations

from wna_ray.registry import Kind

KIND = Kind(
    name="covariance",
    format="wna-pass/1",
    spec="wna_ray.specs.covariance:StcSpec",
    extent="wna_ray.kinds.covariance.extent:check_pass",
    ask="wna_ray.kinds.covariance.job:Question.of",
    views="wna_ray.kinds.covariance.views:VIEWS",
    opened="wna_ray.kinds.covariance.result:Stc",
    key="run",
)
