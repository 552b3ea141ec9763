"""A run of a quadratic form, whose covariance is known: its spec, its noise and its responses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wna_ray.kinds.average.run import Run
from wna_ray.stimuli.stimulus import make_stimulus

QUADRATIC = {
    "model": "python:networks_for_tests:quadratic",
    "responses": ["activation"],
    "keep_responses": True,
}


def grid(run: Run, seed: int | None = None) -> NDArray[np.float64]:
    """Noise of a run ``(N, d)``, or of another seed."""
    stimulus = (
        run.stimulus
        if seed is None
        else make_stimulus(run.stimulus.spec, seed, run.stimulus.offset)
    )
    return (
        stimulus.noise.grid(0, run.moments.images)
        .reshape(run.moments.images, -1)
        .astype(np.float64)
    )


def responses(run: Run, kind: str = "activation") -> NDArray[np.int64]:
    return np.concatenate([stored.values[kind] for _, stored in run.stored()]).astype(np.int64)
