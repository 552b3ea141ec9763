"""The result of a covariance: what is made of its sums, and a finished one opened for reading.

OUT/                 a pass (see `wna_ray.kinds.covariance.passes`); under result/ lie
  moments.npz        its sums
  axes.parquet       one row an axis: unit, eigenvalue, p-value
  axes.npy           float32 (axes, C, H, W), rows as in axes.parquet, on the grid of the noise
  spectra.npy        dense: float64 (units, d), all eigenvalues
  profiles.parquet   mean response along the STA and along each axis
  figures/*.png
OUT/block.npy        matrix-free: the axes that are tested
OUT/pass-NN/         matrix-free: the passes that found them, each a pass of its own
OUT/profile/         the pass that measured the response along the axes
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wna_ray.drawing.words import noise_kind
from wna_ray.errors import RunError
from wna_ray.kinds.average.extent import MOST_NAME
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.covariance.extent import PassExtent, PassIdentity
from wna_ray.kinds.covariance.passes import EDGES, Residual, stimulus_products
from wna_ray.moments.counts import PassSums
from wna_ray.moments.responses import is_dense, is_triggered
from wna_ray.runs.finished import Finished
from wna_ray.runs.names import MOMENTS, RESULT
from wna_ray.specs.covariance import StcSpec
from wna_ray.specs.response import ResponseKind
from wna_ray.statistics.covariance import Axes, istac
from wna_ray.storage.arrays import from_npy, to_npy, to_parquet
from wna_ray.storage.store import Place
from wna_ray.storage.tables import read_parquet, table_of, words_of
from wna_ray.text import plain

FIGURES = "wna_ray.kinds.covariance.figures"  # matplotlib, only where something is drawn

MOST_AXES = 64  # of a unit: the spec sees to it

AXES, PICTURES, SPECTRA = f"{RESULT}/axes.parquet", f"{RESULT}/axes.npy", f"{RESULT}/spectra.npy"
PROFILES = f"{RESULT}/profiles.parquet"
FIGURE = re.compile(rf"{RESULT}/figures/[a-z0-9_-]{{1,60}}\.png")
PROFILE_COLUMNS = {
    "unit": pa.string(),
    "axis": pa.int64(),
    "projection": pa.float64(),
    "count": pa.int64(),
    "response": pa.float64(),
    "standard_error": pa.float64(),
}
COLUMNS = {
    "unit": pa.string(),
    "axis": pa.int64(),
    "eigenvalue": pa.float64(),
    "standard_error": pa.float64(),
    "distance": pa.float64(),
    "p_value": pa.float64(),
    "explained": pa.float64(),
    "low_edge": pa.float64(),
    "high_edge": pa.float64(),
}


def axes_table(
    names: Sequence[str],
    axes_of_units: Sequence[Axes],
    ends: Sequence[tuple[float, float]],
    gaussian: bool,
) -> pa.Table:
    """One row an axis of each unit; `ends` are the edges of the null spectrum, NaN where they
    are not known.
    """
    return table_of(
        COLUMNS,
        (
            (
                name,
                i,
                value,
                axes.error[i],
                axes.distance[i],
                axes.p_value[i],
                value**2 / 2 if gaussian else math.nan,
                low,
                high,
            )
            for name, axes, (low, high) in zip(names, axes_of_units, ends, strict=True)
            for i, value in enumerate(axes.values)
        ),
    )


def profile_table(
    names: Sequence[str],
    columns: Sequence[tuple[int, int | None]],
    sums: Mapping[str, NDArray[np.int64]],
    scale: Sequence[tuple[float, int]],
) -> pa.Table:
    """Mean response by the noise's projection; the open bins at the ends are left out.

    Parameters
    ----------
    names
        Units.
    columns
        Of the pass: number of the unit, and of its axis (None: its STA).
    sums
        Of the pass.
    scale
        Step and centre of each unit's fixed point.
    """

    def line(column: int, at: int) -> tuple[Any, ...]:
        (owner, axis), n = columns[column], int(sums["count"][column, at])
        step, zero = scale[owner]
        mean = int(sums["y"][column, at]) / n if n else math.nan
        square = (int(sums["yy_high"][column, at]) << 32) + int(sums["yy_low"][column, at])
        error = math.sqrt(max(square / n - mean**2, 0.0) / (n - 1)) * step if n > 1 else math.nan
        return (
            names[owner],
            axis,
            float((EDGES[at - 1] + EDGES[at]) / 2),
            n,
            (mean + zero) * step,
            error,
        )

    return table_of(
        PROFILE_COLUMNS,
        (line(column, at) for column in range(len(columns)) for at in range(1, len(EDGES))),
    )


def result(
    run: Run,
    kind: ResponseKind,
    names: Sequence[str],
    axes: pa.Table,
    vectors: NDArray[np.float64],
    spectra: NDArray[np.float64] | None,
    profiles: pa.Table,
) -> dict[str, bytes]:
    """Every object under ``result/`` but the sums."""

    pictures = run.stimulus.expand(vectors).astype(np.float32)
    objects = {AXES: to_parquet(axes), PROFILES: to_parquet(profiles), PICTURES: to_npy(pictures)}
    if spectra is not None:
        objects[SPECTRA] = to_npy(spectra)
    model = plain(run.spec.model, 60).replace("$", r"\$")
    title = (
        f"{kind} of {model}, N = {run.moments.images:,} images of {noise_kind(run.stimulus)} noise"
    )
    gradient = run.spec.estimator == "gradient"
    drawn = resolve_name(FIGURES).draw(names, axes, pictures, spectra, profiles, title, gradient)
    return objects | {f"{RESULT}/figures/{name}": data for name, data in drawn.items()}


class Stc(Finished):
    """A finished covariance, read from storage alone; opened, and refused, as `Finished` says."""

    def __init__(self, place: Place | str) -> None:
        super().__init__(place)
        self._extent = self._expect(
            PassExtent, "a run, not a covariance of one; open it with wna_ray.open_run"
        )
        self._identity = self._identified(PassIdentity)

    @cached_property
    def spec(self) -> StcSpec:
        """What was asked."""
        return StcSpec.parse(self.described.spec, self._spec_url)

    @cached_property
    def sums(self) -> PassSums:
        """The exact sums."""
        sums: PassSums = self.partial.moments
        return sums

    @cached_property
    def axes(self) -> pa.Table:
        """One row an axis: unit, eigenvalue (in standard deviations of the residual response),
        p-value, share of its variance explained.
        """
        return self._parsed(AXES, lambda data: self._table(data, COLUMNS, MOST_AXES))

    @cached_property
    def profiles(self) -> pa.Table:
        """Mean response by the noise's projection, in its standard deviations: along the STA
        (``axis`` null) and each axis of each unit.
        """
        return self._parsed(
            PROFILES, lambda data: self._table(data, PROFILE_COLUMNS, (MOST_AXES + 1) * len(EDGES))
        )

    @cached_property
    def pictures(self) -> NDArray[np.float32]:
        """``(axes, C, H, W)`` float32, rows as in `axes`; each of length 1 on the grid of the
        noise.
        """
        rows = self.axes.num_rows

        def parse(data: bytes) -> NDArray[np.float32]:
            pictures = from_npy(data)
            if pictures.ndim != 4 or len(pictures) != rows or pictures.dtype != np.float32:
                actual = f"{pictures.dtype} of shape {pictures.shape}"
                raise ValueError(f"{actual}, not {rows} pictures of float32")
            return pictures

        return self._parsed(PICTURES, parse)

    @cached_property
    def spectra(self) -> NDArray[np.float64]:
        """``(units, d)``: all eigenvalues, of a dense covariance."""
        return self._array(SPECTRA, (len(self.names), self._extent.shape["d"]), np.float64)

    def derive(self) -> dict[str, bytes]:
        """Every result object as it is stored, its digest checked: axes come from passes over
        the noise, not from the last sums alone.
        """
        known = {MOMENTS, AXES, PICTURES, SPECTRA, PROFILES}
        return {
            name: self._bytes(name)
            for name in self.manifest.objects
            if name in known or FIGURE.fullmatch(name)
        }

    def informative_axes(
        self, run: Run, name: str, count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """iSTAC: the directions in which stimuli that make a unit respond differ most from all, by
        mean and variance together.

        Parameters
        ----------
        run
            The run that this is a covariance of.
        name
            A unit.
        count
            t, how many axes.

        Returns
        -------
        axes
            ``(t, d)`` orthonormal, on the grid of the noise.
        information
            ``(t,)``: nats a spike of the first 1, 2, ... t axes together (see
            `wna_ray.statistics.covariance.istac`).

        Raises
        ------
        RunError
            The responses can be negative, the linear part was taken out, residuals were clipped,
            the method was matrix-free, the run was made by gradients, or `run` is another.
        """
        kind, spec = self._identity.kind, self.spec
        if self._identity.run != run.fingerprint or kind is None:
            raise RunError(
                f"'{run.directory.url}' is not the run that '{self.directory.url}' is a"
                " covariance of"
            )
        if (
            spec.method != "dense"
            or spec.linear
            or not is_triggered(kind)
            or spec.model is not None
            or spec.clip is not None
        ):
            raise RunError(
                f"'{self.directory.url}': informative axes need responses that weigh stimuli"
                " (label, confidence, rectified, spikes), with their linear part, and the matrix,"
                " of a run that kept its answers: method: dense, linear: false, no clip (here:"
                f" {kind}, {spec.method}, linear: {spec.linear}, clip:"
                f" {spec.clip}{', by gradients' * (spec.model is not None)})"
            )
        if name not in self.names:
            raise RunError(
                f"'{self.directory.url}' has no unit {name!r}; it has {', '.join(self.names[:8])}"
            )
        row = run.names.index(name)
        unit, variance, n = (
            Residual.of(run, kind, row, linear=False),
            float(run.stimulus.noise.table.variance),
            self.sums.images,
        )
        zero = (
            run.points[kind].centre[row] if is_dense(kind) else 0
        )  # what a response of 0 lacks, in steps
        total = n * (unit.mean + zero)
        # The stimuli's own products, not their expectation: then the error is that of the spikes
        # alone.
        products = np.ldexp(
            self.sums.sums["rxx"][self.names.index(name), 0].astype(np.float64), -unit.fine
        )
        products += (unit.mean + zero) * stimulus_products(run)
        moments, at = run.moments, int(np.searchsorted(run.moments.responses[kind].rows, row))
        mean = (moments.responses[kind].sum_yx[at] + zero * moments.sum_x) / (
            total * math.sqrt(variance)
        )
        return istac(mean, products / (total * variance) - np.outer(mean, mean), count)

    def _table(self, data: bytes, columns: Mapping[str, pa.DataType], rows: int) -> pa.Table:
        """A table with at most so many rows a unit; its words are names of units."""
        most = rows * len(self.names)
        table = read_parquet(
            data,
            columns,
            range(most + 1),
            (1 << 20) + 128 * most + MOST_NAME * len(self.names),
            ["unit"],
        )
        units = words_of(table["unit"])
        if not set(units) <= set(self.described.names):
            raise ValueError("units that it does not have")
        return table.set_column(0, "unit", pa.array(units, pa.string()))


def open_stc(url: Place | str) -> Stc:
    """Open a finished covariance: ``.axes`` (pyarrow Table), ``.pictures``, ``.spectra``
    (numpy), ``.sums``.
    """
    return Stc(url)
