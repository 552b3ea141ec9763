"""Trials: signals in noise under many conditions, counted; psychometric functions, attacks,
stimulation.

It shows noise as a run of noise does, so it may import `wna_ray.kinds.average` and lower rooms.
"""

from __future__ import annotations

from wna_ray.registry import Kind

KIND = Kind(
    name="trials",
    format="wna-trials/1",
    spec="wna_ray.specs.trials:TrialSpec",
    extent="wna_ray.kinds.trials.extent:check_trials",
    ask="wna_ray.kinds.trials.job:TrialQuestion.of",
    views="wna_ray.kinds.trials.views:VIEWS",
    opened="wna_ray.kinds.trials.result:Trials",
    key="signals",
)
