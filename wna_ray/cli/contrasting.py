"""The work of ``wna contrast``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wna_ray.drawing.tables import p_form
from wna_ray.kinds.average.run import Run
from wna_ray.storage.arrays import to_npy
from wna_ray.storage.folder import write_files
from wna_ray.storage.store import Place
from wna_ray.studies import contrast_figures
from wna_ray.studies.contrast import contrast
from wna_ray.terminal import say
from wna_ray.text import plain


@dataclass(frozen=True)
class Pair:
    """Two responses that are compared.

    Attributes
    ----------
    a, b
        URLs of the runs.
    kind
        Of both responses.
    name, other
        Class or unit in `a`, and in `b`.
    """

    a: str
    b: str
    kind: str
    name: str
    other: str


def write_contrast(pair: Pair, to: Path, endpoint: str | None) -> None:
    """Compare two responses to the same noise; write the z-map and its figure, print the rest."""
    one, two = Run(Place(pair.a, endpoint)), Run(Place(pair.b, endpoint))
    result = contrast(
        one,
        two,
        pair.kind,  # type: ignore[arg-type]  # an unknown kind is refused there
        pair.name,
        pair.other,
    )
    title = (
        f"{pair.kind}: {plain(pair.name, 30)} in {plain(pair.a, 40)} minus"
        f" {plain(pair.other, 30)} in {plain(pair.b, 40)}, N = {result.images:,} images"
    )
    picture = contrast_figures.contrast(
        one.stimulus, result.z, result.unpaired, title.replace("$", r"\$"), result.correlation
    )
    write_files(to, {"contrast.png": picture, "z_map.npy": to_npy(result.z)}, "--to")
    say(title)
    say(
        f"correlation {result.correlation:.4f}: pairing divides errors by"
        f" {1 / np.sqrt(1 - result.correlation):.2f}; p {p_form('.1e')(result.p_value)},"
        f" reliability {result.reliability:.3f}, rho2 {result.rho2:.2e}"
    )
    say(f"written to {to}/")
