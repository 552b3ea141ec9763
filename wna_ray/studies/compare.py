"""Runs compared: how alike are the maps of different networks, and how many images does a map take?

Each map is measured: it is the true map plus noise of known size. With values in standard errors, m
= t + e, where the noise e has d independent values of variance 1. Maps are compared by Pearson's
correlation r over their values, each map less its mean (so d' = d - 1 values are free). Noise makes
r smaller than the correlation of the true maps, by the root of both reliabilities R = 1 - d' /
|m|^2, so

    rho = r / sqrt(R_a R_b) = m_a . m_b / sqrt((|m_a|^2 - d') (|m_b|^2 - d'))

estimates that of the true maps (Spearman 1904). It is not clipped, and may leave [-1, 1] by its
standard error, which to first order is

    var rho = (1 - rho^2) (1/S_a + 1/S_b) + d' / (S_a S_b)
              + rho^2 d' / 2 (1/S_a^2 + 1/S_b^2),    S = |m|^2 - d'

(the delta method on the product and both energies, whose variances and covariances under normal
noise are S_a + S_b + d', 4 S + 2 d' and 2 t_a . t_b).

All this needs noise that differs between the two runs. Where both saw the same images their errors
correlate as much as their responses do, which lifts r by up to sqrt((1 - R_a) (1 - R_b)), however
unlike the networks are. Then that bound is given, and nothing else.

References
----------
Spearman (1904), Am. J. Psychol. 15:72: the correction for attenuation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wna_ray.errors import RunError
from wna_ray.kinds.average.run import Run
from wna_ray.machine import require_memory
from wna_ray.specs.response import ResponseKind
from wna_ray.stimuli.stimulus import stimulus_text
from wna_ray.storage.tables import table_of

Floats = NDArray[np.float64]

LEAST_RELIABLE = 0.1
"""Reliability of both maps under which a corrected correlation is not averaged: it says little,
at great length.
"""
REACHED = (0.5, 0.9)
"""Reliabilities whose numbers of images are told."""

PAIR_COLUMNS = {
    "a": pa.string(),
    "b": pa.string(),
    "name": pa.string(),
    "r": pa.float64(),
    "z": pa.float64(),
    "reliability_a": pa.float64(),
    "reliability_b": pa.float64(),
    "corrected": pa.float64(),
    "standard_error": pa.float64(),
    "lift": pa.float64(),
}
MEAN_COLUMNS = {
    "a": pa.string(),
    "b": pa.string(),
    "classes": pa.int64(),
    "r": pa.float64(),
    "corrected": pa.float64(),
    "corrected_classes": pa.int64(),
    "standard_error": pa.float64(),
    "lift": pa.float64(),
}
IMAGE_COLUMNS = {
    "run": pa.string(),
    "noise": pa.string(),
    "d": pa.int64(),
    "rows": pa.int64(),
    "samples": pa.int64(),
    "reliability": pa.float64(),
    **{f"images_{r:g}{part}": pa.float64() for r in REACHED for part in ("", "_low", "_high")},
    **{f"look_{r:g}": pa.int64() for r in REACHED},
}


@dataclass(frozen=True)
class Correlation:
    """Maps of two networks, row by row ``(k,)``; NaN where not defined.

    Attributes
    ----------
    r
        Pearson's correlation of the maps as measured.
    z
        ``r sqrt(d - 1)``: standard normal if both responses ignore the stimulus. Not a test of
        whether two true maps are unrelated: smooth ones correlate by chance far more than pixels
        do.
    reliability_a, reliability_b
        Of each map less its mean.
    corrected, standard_error
        Correlation of the true maps, estimated, and its error.
    lift
        The most that shared noise may have added to r (or taken); 0 where the noise is not shared.
    """

    r: Floats
    z: Floats
    reliability_a: Floats
    reliability_b: Floats
    corrected: Floats
    standard_error: Floats
    lift: Floats


def correlate(
    a: Floats, b: Floats, *, shared: bool = False, independent: bool = True
) -> Correlation:
    """Correlate the rows of two sets of maps.

    Parameters
    ----------
    a, b
        ``(k, d)``: maps in standard errors (z-maps); NaN where there is no map.
    shared
        Whether both were measured with the same noise: then there is no corrected value, and no z.
    independent
        Whether the noise of a map's values is independent; else z and the standard error are not
        known.
    """
    free = a.shape[1] - 1
    a, b = (m - m.mean(axis=1, keepdims=True) for m in (a, b))
    product, energies = (a * b).sum(axis=1), [np.square(m).sum(axis=1) for m in (a, b)]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = product / np.sqrt(energies[0] * energies[1])
        reliable = [
            np.where(np.isfinite(e), np.maximum(0.0, 1 - free / e), np.nan) for e in energies
        ]
        signals = [np.where(e > free, e - free, np.nan) for e in energies]
        rho = product / np.sqrt(signals[0] * signals[1])
        sums = 1 / signals[0] + 1 / signals[1], 1 / signals[0] ** 2 + 1 / signals[1] ** 2
        # The first term is a variance, too, where chance has put rho beyond 1.
        variance = (
            np.maximum(0.0, 1 - rho**2) * sums[0]
            + free / (signals[0] * signals[1])
            + rho**2 * free / 2 * sums[1]
        )
    unknown = np.full(len(r), np.nan)
    return Correlation(
        r,
        r * np.sqrt(free) if independent and not shared else unknown,
        reliable[0],
        reliable[1],
        unknown if shared else rho,
        np.sqrt(variance) if independent and not shared else unknown,
        np.sqrt((1 - reliable[0]) * (1 - reliable[1])) if shared else np.zeros(len(r)),
    )


def projected(gain: Floats, images: Floats) -> Floats:
    """``(k, n)``: reliability of each row after so many images, ``N g / (1 + N g)``: ``1 - d /
    (d + N rho^2)`` with ``g = rho^2 / d``.
    """
    grown = np.outer(gain, images)
    return np.asarray(grown / (1 + grown))


@dataclass(frozen=True)
class Measured:
    """One kind of response of a run, as comparisons need it.

    Attributes
    ----------
    label
        What the run is called.
    names
        One a row (k of them).
    maps
        ``(k, d)`` in standard errors, on the noise grid.
    gain
        ``(k,)``: reliability over unreliability that one image adds, ``rho^2 / d``; at least 0, NaN
        where there is no map.
    samples, seed, noise, grid, spectrum
        N, the noise's seed, what it is in words, and where its values lie.
    independent
        Whether the values of a map have independent errors (not so for pooled positions, nor for
        gradients).
    looks, reliability
        ``(n,)`` and ``(k, n)``: reliability at each look, where the run has a curve; else None.
    """

    label: str
    kind: ResponseKind
    names: tuple[str, ...]
    maps: Floats
    gain: Floats
    samples: int
    seed: int
    noise: str
    grid: tuple[int, ...]
    spectrum: float | None
    independent: bool
    looks: Floats | None = None
    reliability: Floats | None = None

    @property
    def d(self) -> int:
        """Values of a map."""
        return int(self.maps.shape[1])

    @classmethod
    def of(cls, run: Run, label: str, kind: str) -> Measured:
        """Look at a finished run; `RunError` where it has no such response."""
        kinds: list[str] = [r.kind for r in run.spec.responses]
        if kind not in kinds:
            raise RunError(f"'{run.directory.url}' has no {kind}; it has {', '.join(kinds)}")
        stimulus, gradient = run.stimulus, run.spec.estimator == "gradient"
        require_memory(
            4 * 8 * len(run.names) * stimulus.pixels, f"comparing the maps of '{run.directory.url}'"
        )
        readout = next(r for r in run.readouts if r.kind == kind)
        with np.errstate(invalid="ignore", divide="ignore"):
            maps = readout.bias / readout.standard_error[:, None]
            gain = readout.reliability / (1 - readout.reliability) / run.moments.images
        looks = reliability = None
        if run.curve is not None:
            rows = [row for row in run.curve.to_pylist() if row["kind"] == kind]
            looks = np.array(sorted({row["samples"] for row in rows}), dtype=np.float64)
            values = [np.nan if row["reliability"] is None else row["reliability"] for row in rows]
            reliability = np.array(values).reshape(len(looks), len(run.names)).T
        spec = stimulus.spec
        cell = f" in cells of {spec.cell}" if spec.cell > 1 else ""
        offset = "" if isinstance(spec.offset, float) else " around an image"
        return cls(
            label=label,
            kind=readout.kind,
            names=readout.names,
            maps=maps,
            gain=gain,
            samples=run.samples,
            seed=run.spec.seed,
            noise=f"{stimulus_text(spec)} noise{cell}, sd {stimulus.sd:.3g}{offset}"
            + (", by gradients" if gradient else ""),
            grid=tuple(stimulus.grid_shape),
            spectrum=spec.spectrum,
            independent=not gradient and stimulus.patches_an_image == 1,
            looks=looks,
            reliability=reliability,
        )


def correlations(runs: Sequence[Measured]) -> pa.Table:
    """Every pair of runs, class by class: one row each (see `Correlation`; `lift` is null where the
    noise is not shared).

    Raises
    ------
    RunError
        There is one run only, or their maps are of other classes or lie on other grids.
    """
    if len(runs) < 2:
        raise RunError(
            f"'{runs[0].label}' is one run; give two or more to compare their maps, or"
            " --only-convergence"
        )
    for other in runs[1:]:
        _comparable(runs[0], other)
    lines = []
    for a, b in itertools.combinations(runs, 2):
        shared = a.seed == b.seed  # the same random bits, whichever family is made of them
        correlation = correlate(
            a.maps, b.maps, shared=shared, independent=a.independent and b.independent
        )
        for i, name in enumerate(a.names):
            values = (
                correlation.r,
                correlation.z,
                correlation.reliability_a,
                correlation.reliability_b,
                correlation.corrected,
                correlation.standard_error,
            )
            lines.append(
                (
                    a.label,
                    b.label,
                    name,
                    *(float(v[i]) for v in values),
                    float(correlation.lift[i]) if shared else np.nan,
                )
            )
    return table_of(PAIR_COLUMNS, lines)


def mean_correlations(pairs: pa.Table) -> pa.Table:
    """Every pair of runs, averaged over classes: r and lift over all that have maps, the corrected
    value over those with `LEAST_RELIABLE`.

    The errors of classes correlate (they saw the same noise), so the standard error given is the
    most that it can be: their mean.
    """
    lines = []
    for (a, b), group in itertools.groupby(pairs.to_pylist(), key=lambda row: (row["a"], row["b"])):
        rows = [row for row in group if row["r"] is not None]
        good = [
            row
            for row in rows
            if row["corrected"] is not None
            and min(row["reliability_a"], row["reliability_b"]) >= LEAST_RELIABLE
        ]
        lines.append(
            (
                a,
                b,
                len(rows),
                _mean(rows, "r"),
                _mean(good, "corrected"),
                len(good),
                _mean(good, "standard_error"),
                _mean(rows, "lift"),
            )
        )
    return table_of(MEAN_COLUMNS, lines)


def shares_noise(runs: Sequence[Measured]) -> list[str]:
    """Labels of runs whose seed another has, too."""
    seeds = [run.seed for run in runs]
    return [run.label for run in runs if seeds.count(run.seed) > 1]


def images_needed(runs: Sequence[Measured]) -> pa.Table:
    """One row a run: images after which the median row (``_low``, ``_high``: the better and the
    worse quartile) is so reliable.

    Projected from the rho^2 that was measured; ``look_``: the first look of a run with a curve at
    which the median row was so reliable. Null where rho^2 is not above 0, or no look was late
    enough.
    """
    lines = []
    for run in runs:
        known = run.gain[np.isfinite(run.gain)]
        quartiles = np.quantile(known, (0.5, 0.75, 0.25)) if known.size else np.zeros(3)
        with np.errstate(divide="ignore"):
            needed = [
                float(n) if np.isfinite(n) else np.nan
                for r in REACHED
                for n in r / (1 - r) / quartiles
            ]
        now = float(projected(quartiles[:1], np.array([run.samples]))[0, 0])
        lines.append(
            (
                run.label,
                run.noise,
                run.d,
                len(run.names),
                run.samples,
                now,
                *needed,
                *(_first_look(run, r) for r in REACHED),
            )
        )
    return table_of(IMAGE_COLUMNS, lines)


def _first_look(run: Measured, reliability: float) -> int | None:
    if run.looks is None or run.reliability is None:
        return None
    reached = np.median(np.nan_to_num(run.reliability), axis=0) >= reliability
    return int(run.looks[int(reached.argmax())]) if reached.any() else None


def _comparable(a: Measured, b: Measured) -> None:
    """`RunError` where the maps of two runs are of other things."""
    if a.names != b.names:
        raise RunError(
            f"'{a.label}' and '{b.label}' answer with other classes ({len(a.names)}:"
            f" {', '.join(a.names[:4])}, ...; {len(b.names)}: {', '.join(b.names[:4])}, ...), so"
            " their maps have nothing to be compared with; give runs of the same classes, or"
            " --only-convergence"
        )
    if (a.grid, a.spectrum) != (b.grid, b.spectrum):
        grids = [
            "x".join(map(str, run.grid))
            + (f" (1/f^{run.spectrum:g})" if run.spectrum is not None else "")
            for run in (a, b)
        ]
        raise RunError(
            f"'{a.label}' and '{b.label}' have maps of other values: {grids[0]} and {grids[1]};"
            " give runs with the same stimulus.shape, cell and spectrum (and target.evaluate:"
            " image, where windows differ), or --only-convergence"
        )


def _mean(rows: Sequence[dict[str, float | None]], column: str) -> float:
    values = [value for row in rows if (value := row[column]) is not None]
    return float(np.mean(values)) if values else float("nan")
