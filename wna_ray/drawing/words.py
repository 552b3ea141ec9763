"""What titles of figures say of the noise; without matplotlib."""

from __future__ import annotations

import math

import numpy as np

from wna_ray.stimuli.stimulus import Stimulus, stimulus_text


def noise_text(stimulus: Stimulus, sd: float | None = None) -> str:
    """Family, spectrum and size of the noise; `sd` where it was measured."""
    size = stimulus.sd if sd is None else sd
    what = (
        stimulus_text(stimulus.spec)
        if stimulus.spec.kind == "images"
        else f"{noise_kind(stimulus)} noise"
    )
    return what + (f", sd {size:.3g} {unit_of(stimulus)}s" if np.isfinite(size) else "")


def noise_kind(stimulus: Stimulus) -> str:
    """Family and spectrum (or basis) of the noise."""
    return stimulus_text(stimulus.spec, formula=True)


def unit_of(stimulus: Stimulus) -> str:
    """What one step of the scale is called."""
    return "pixel unit" if stimulus.spec.space == "pixel" else "input unit"


def tests_of(stimulus: Stimulus) -> int:
    """Values of a map whose largest z is judged: those that noise has, or, mixed by a basis,
    the picture's.
    """
    return stimulus.pixels if stimulus.synthesis is None else math.prod(stimulus.shape)
