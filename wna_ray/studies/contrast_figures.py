"""Figures of the contrast of two runs."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from wna_ray.drawing.maps import DIVERGING, Picture, outline, show
from wna_ray.drawing.sheets import png
from wna_ray.drawing.words import tests_of
from wna_ray.statistics.maps import z_threshold
from wna_ray.stimuli.stimulus import Stimulus


def contrast(
    stimulus: Stimulus, z: Picture, unpaired: Picture, title: str, correlation: float
) -> bytes:
    """A paired z-map beside what two independent runs would have shown, on one scale."""
    tests = tests_of(stimulus)
    threshold = z_threshold(tests)
    limit = float(np.abs(z).max()) or 1.0
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    figure.suptitle(
        f"{title}\noutline: |z| > {threshold:.2f} (p < 0.05, Sidak over {tests:,} values)",
        fontsize=9,
    )
    axes = figure.subplots(1, 2)
    names = (
        f"paired (responses correlate: {correlation:.3f})",
        "as two independent runs would show it",
    )
    for axis, picture, name in zip(axes, (z, unpaired), names, strict=True):
        show(axis, picture, limit)
        outline(axis, picture, threshold)
        axis.set_title(name, fontsize=9)
    mappable = ScalarMappable(Normalize(-limit, limit), DIVERGING)
    bar = figure.colorbar(mappable, ax=axes, shrink=0.8, label="z of the difference")
    for level in (-threshold, threshold):
        bar.ax.axhline(level, color="black", linewidth=0.6)
    return png(figure)
