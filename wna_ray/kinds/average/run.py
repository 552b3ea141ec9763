"""A finished run of noise, read from its directory alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wna_ray.errors import RunError
from wna_ray.geometry import Span
from wna_ray.kinds.average.extent import Extent, Identity
from wna_ray.kinds.average.result import (
    BIAS_MAPS,
    CLASSES,
    COLUMNS,
    CURVE,
    CURVE_COLUMNS,
    DECODED_MAPS,
    FILTERS,
    MAP_OUTPUTS,
    NOTE,
    VARIANCE_MAPS,
    WHITENED_MAPS,
    WORDS,
    Z_MAPS,
    Answers,
    derive,
    read_outs,
)
from wna_ray.machine import require_memory
from wna_ray.moments.kept import Stored, unpack
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import FixedPoint, is_dense, is_triggered
from wna_ray.networks.reading import Reading
from wna_ray.runs.finished import Finished
from wna_ray.runs.names import BASIS, MOMENTS, OFFSET
from wna_ray.runs.segments import responses_name
from wna_ray.shards.job import stimulus_of
from wna_ray.specs.response import ResponseKind
from wna_ray.specs.run import Spec
from wna_ray.specs.stimulus import MOST_FEATURES
from wna_ray.statistics.maps import Readout, best_ridge, variance_maps, whiten
from wna_ray.statistics.significance import CLUSTER_THRESHOLD, Clusters, cluster_test
from wna_ray.stimuli.bases import digest
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.storage.store import Place
from wna_ray.storage.tables import read_parquet, words_of
from wna_ray.text import plain

COVARIANCE_IMAGES = (
    1024  # at a time: their products of bytes less 128 are at most 2^24, which float32 holds
)


class Run(Finished):
    """A finished run, read from storage alone; opened, and refused, as `Finished` says."""

    from_result = ("classes",)

    def __init__(self, place: Place | str) -> None:
        super().__init__(place)
        self._extent = self._expect(
            Extent, "a covariance, not a run; open it with wna_ray.open_stc"
        )
        self._identity = self._identified(Identity)
        self._part: tuple[Span, Stored] | None = None

    @cached_property
    def spec(self) -> Spec:
        """The spec as asked; the names of model and decoder made plain."""
        spec = Spec.parse(self.described.spec, self._spec_url)
        return spec.model_copy(
            update={
                "model": plain(spec.model),
                "decoder": None if spec.decoder is None else plain(spec.decoder),
            }
        )

    @property
    def reading(self) -> Reading:
        """How the network's output was read."""
        return self._identity.reading

    @property
    def samples(self) -> int:
        """N: images that were shown. Less than the spec's where `stop` ended the run."""
        return self._extent.samples

    @cached_property
    def curve(self) -> pa.Table | None:
        """Reliability of every response at every look (samples, kind, response, reliability);
        None without `stop`.
        """
        if self.spec.stop is None:
            return None
        looks = [n for n in self._extent.looks if n <= self.samples]
        return self._parsed(CURVE, lambda data: read_curve(data, looks, self._extent))

    @property
    def points(self) -> dict[str, FixedPoint]:
        """Fixed point of each kind of response: what an integer of the moments, or of a kept
        response, is worth.
        """
        return {kind: point.fixed for kind, point in self._identity.fixed_point.items()}

    @property
    def gradient_exponents(self) -> dict[str, tuple[int, ...]]:
        """log2 of the step of each row's gradient, by kind of response; empty without
        ``estimator: gradient``.
        """
        steps = self._identity.gradient_exponent
        return {kind: tuple(exponents) for kind, exponents in steps.items()}

    @cached_property
    def stimulus(self) -> Stimulus:
        """The noise: any stimulus of the run can be made again from it."""
        offset: Any = self.spec.stimulus.offset
        shape = self.spec.stimulus.shape
        image = (
            np.full((1, 1, 1), offset, np.float32)
            if not isinstance(offset, str)
            else self._array(OFFSET, shape)
        )
        components, pixels = self.spec.stimulus.basis, math.prod(shape)
        basis = (
            None
            if components is None
            else self._array(BASIS, (1 + components.coefficients(shape), pixels), np.int32)
        )
        content = self._extent.content
        if basis is not None and digest(basis) != content:
            raise RunError(
                f"{self.directory.url}/{BASIS} is not the basis that its spec.json tells of"
            )
        stimulus = stimulus_of(self.spec, image, self._extent.field, basis, content)
        if stimulus.offset_digest != self._extent.offset:
            raise RunError(
                f"{self.directory.url}/{OFFSET} is not the offset that its spec.json tells of"
            )
        return stimulus

    @property
    def moments(self) -> Moments:
        """The merged moments."""
        moments: Moments = self.partial.moments
        return moments

    @cached_property
    def readouts(self) -> list[Readout]:
        """Float64 maps on the noise grid and all statistics, one a response kind, computed
        again from the moments.
        """
        return read_outs(
            self.spec, self.stimulus, self.moments, self.described.identity, self.names
        )

    @cached_property
    def bias_maps(self) -> NDArray[np.float32]:
        """``(R, C, H, W)`` float32, rows as in `classes`; NaN where a response has no map."""
        return self._array(BIAS_MAPS, (self._extent.rows, *self._extent.shape))

    @cached_property
    def z_maps(self) -> NDArray[np.float32]:
        """``(R, C, H, W)`` float32, rows as in `classes`."""
        return self._array(Z_MAPS, (self._extent.rows, *self._extent.shape))

    @cached_property
    def whitened_maps(self) -> NDArray[np.float32]:
        """``(R, C, H, W)`` float32, rows as in `classes`: freed of the noise's correlations;
        `RunError` unless the stimulus has a spectrum or a basis. Of pictures see `whitened`.
        """
        return self._array(WHITENED_MAPS, (self._extent.rows, *self._extent.shape))

    @cached_property
    def variance_maps(self) -> NDArray[np.float32]:
        """``(R', C, H, W)`` float32, the rows of one-hot responses; `RunError` unless
        ``moments: {second: true}``.
        """
        one_hot = sum(not is_dense(kind) for kind in self._extent.kinds)
        return self._array(VARIANCE_MAPS, (one_hot * self._extent.outputs, *self._extent.shape))

    @cached_property
    def rms_maps(self) -> NDArray[np.float64]:
        """``(R', C, H, W)``: root mean square of the stimuli of each row of one-hot responses,
        ``sqrt(E[x^2 | row])`` (Borji & Lin 2020).

        Raises
        ------
        RunError
            The run keeps no second moments (``moments: {second: true}``; runs of pictures always
            do), or pools positions.
        """
        if not self.moments.sum_xx.size or self.spec.estimator == "gradient":
            raise RunError(
                f"'{self.directory.url}' keeps no second moments; run its spec with moments:"
                " {second: true}, elsewhere"
            )
        if self.stimulus.patches_an_image > 1:
            raise RunError(
                f"'{self.directory.url}' pools positions, whose patches have no offset in common"
            )
        m, unit, codes = self.moments, self.stimulus.unit, []
        for readout in (r for r in self.readouts if not is_dense(r.kind)):
            mean = self.stimulus.kept_offset + self.stimulus.expand(
                readout.bias + unit * m.sum_x / m.images
            )
            variance = self.stimulus.expand(
                variance_maps(m, readout.kind, unit, len(readout.names))
            )
            codes.append(np.sqrt(np.maximum(variance, 0.0) + np.square(mean)))
        return np.concatenate(codes) if codes else np.zeros((0, *self._extent.shape))

    @cached_property
    def covariance(self) -> NDArray[np.float64]:
        """``(d, d)``: covariance of the pictures that the run showed, in squared stimulus units;
        from exact sums.

        Raises
        ------
        RunError
            The run showed noise, whose values are independent, or more than 4,096 values an image.
        SpecError, CanaryError
            The data set is not at hand, or is another than the run's.
        """
        stimulus, d, n = self.stimulus, self.stimulus.pixels, self.samples
        if not self.spec.stimulus.measured:
            raise RunError(
                f"'{self.directory.url}' showed noise, whose values are independent; its"
                " whitened_maps need no covariance"
            )
        if d > MOST_FEATURES:
            raise RunError(
                f"'{self.directory.url}' has {d:,} values an image; a covariance is for up to"
                f" {MOST_FEATURES:,}"
            )
        require_memory(6 * 8 * d * d, f"the covariance of '{self.directory.url}'")
        total, products = np.zeros(d, dtype=np.int64), np.zeros((d, d))
        for a in range(0, n, COVARIANCE_IMAGES):
            grid = stimulus.keep(stimulus.noise.grid(a, min(a + COVARIANCE_IMAGES, n))).reshape(
                -1, d
            )
            total += grid.sum(axis=0, dtype=np.int64)
            products += (part := grid.astype(np.float32)).T @ part
        mean = total / n
        return np.asarray((products / n - np.outer(mean, mean)) * stimulus.unit**2)

    def whitened(self, ridge: float | None = None) -> NDArray[np.float64]:
        """Maps ``(R, C, H, W)`` of a run of pictures freed of the pictures' correlations (see
        `wna_ray.statistics.maps.whiten`).

        Parameters
        ----------
        ridge
            In squared stimulus units; by default the one that errs least (see
            `wna_ray.statistics.maps.best_ridge`), of each row.

        Returns
        -------
        numpy.ndarray
            Response per stimulus unit; of one-hot and triggered kinds over their mean response. NaN
            where nothing is reliable.

        Raises
        ------
        RunError, SpecError, CanaryError
            As `covariance` does, or the maps are gradients.
        """
        if self.spec.estimator == "gradient":
            raise RunError(
                f"'{self.directory.url}' has mean gradients, which pictures' correlations have no"
                " part in"
            )
        c = self.covariance
        size = float(np.diag(c).mean())
        maps = np.concatenate(
            [r.bias if is_triggered(r.kind) else r.bias * size for r in self.readouts]
        )
        known = np.concatenate([r.reliability for r in self.readouts])
        whitened = whiten(maps, c, best_ridge(c, known) if ridge is None else ridge)
        return np.asarray(self.stimulus.expand(whitened))

    @cached_property
    def map_outputs(self) -> NDArray[np.float32]:
        """``(R, k)`` float32: the network's outputs for each map, shown at a quarter of the
        noise's contrast (or as `decoded_maps`).
        """
        return self._array(MAP_OUTPUTS, (self._extent.rows, self._extent.outputs))

    @cached_property
    def decoded_maps(self) -> NDArray[np.float32] | None:
        """``(R, C, H, W)`` float32, rows as in `classes`: the decoder's pictures of
        `mean_codes`; None without a decoder.
        """
        decoded = self._extent.decoded
        return None if decoded is None else self._array(DECODED_MAPS, (self._extent.rows, *decoded))

    def stored(self) -> Iterator[tuple[int, Stored]]:
        """Kept responses, segment by segment: number of the first image, and the exact integers
        (see `wna_ray.moments.kept`).

        Raises
        ------
        RunError
            The run was made without ``keep_responses: true``, or a file is damaged.
        """
        for start, stop in self.stored_spans:
            yield start, self.stored_part(start, stop)

    @cached_property
    def stored_spans(self) -> list[Span]:
        """Ranges of the files of kept responses, in order; `RunError` where responses were not
        kept.
        """
        if not self.spec.keep_responses:
            raise RunError(
                f"'{self.directory.url}' has no responses of single images; run its spec with"
                " keep_responses: true, elsewhere"
            )
        return sorted((segment.start, segment.stop) for segment in self.manifest.segments)

    def stored_part(self, start: int, stop: int) -> Stored:
        """The kept responses of one file; the last one stays in memory."""
        if self._part is not None and self._part[0] == (start, stop):
            return self._part[1]
        part = self._parsed(
            responses_name(start, stop), lambda data: unpack(data, start, stop, self._extent.widths)
        )
        self._part = (start, stop), part
        return part

    @cached_property
    def filters(self) -> NDArray[np.float64] | None:
        """``(k, d)`` float64, on the noise grid: true filters of linear units, NaN for others;
        None where no units were looked at.
        """
        if self.spec.target is None:
            return None
        shape = (self._extent.outputs, self._extent.d)
        return (
            self._array(FILTERS, shape, np.float64)
            if FILTERS in self.manifest.objects
            else np.full(shape, np.nan)
        )

    @cached_property
    def classes(self) -> pa.Table:
        """One row a response: counts, significance, reliability, what the network calls the map."""
        # A table that is made again has the plain names.
        names = self.names if self.objects else self.described.names
        return self._parsed(CLASSES, lambda data: read_table(data, self._extent, names))

    def clusters(
        self, kind: ResponseKind, name: str, sd: float = 1.0, threshold: float = CLUSTER_THRESHOLD
    ) -> Clusters:
        """Significant clusters of one smoothed z-map (see
        `wna_ray.statistics.significance.cluster_test`).

        Parameters
        ----------
        kind, name
            Which map, as in `classes`.
        sd, threshold
            Of the smoothing kernel, in values of the noise (cells, where ``stimulus.cell`` is
            larger than 1); where clusters begin.

        Returns
        -------
        Clusters
            Its arrays are ``(C, h, w)``: on the grid of the noise.

        Raises
        ------
        RunError
            The run has no such response, or no map of it.
        """
        readout = next((r for r in self.readouts if r.kind == kind), None)
        if readout is None or name not in readout.names:
            names = (
                ", ".join(self._extent.kinds)
                if readout is None
                else f"{len(readout.names)} responses such as {readout.names[0]!r}"
            )
            raise RunError(
                f"'{self.directory.url}' has no response {plain(name)!r} of kind {plain(kind)!r};"
                f" it has {names}"
            )
        z = readout.z[readout.names.index(name)]
        if not np.isfinite(z).all():
            raise RunError(
                f"'{self.directory.url}' has no map of {plain(name)!r}"
                f" ({readout.note[readout.names.index(name)]})"
            )
        stimulus = self.spec.stimulus
        if (
            self.stimulus.patches_an_image > 1
            or self.spec.estimator == "gradient"
            or stimulus.measured
            or stimulus.basis is not None
        ):
            why = (
                "takes gradients"
                if self.spec.estimator == "gradient"
                else "pools positions whose patches overlap"
            )
            if stimulus.measured or stimulus.basis is not None:
                why = (
                    "shows pictures whose pixels correlate"
                    if stimulus.measured
                    else "has the weights of a basis for values, which lie nowhere"
                )
            raise RunError(
                f"'{self.directory.url}' {why}, so the values of its z-maps are not independent, as"
                " the cluster test needs; take single values, by significance.z_threshold"
            )
        return cluster_test(z.reshape(self.stimulus.grid_shape), sd, threshold)

    def derive(self) -> dict[str, bytes]:
        """Every result object, made again from the moments."""
        moments = self.manifest.objects.get(MOMENTS)
        require_memory(
            self._extent.report_bytes(0 if moments is None else moments.bytes),
            f"making the result of '{self.directory.url}' again",
        )
        answers = Answers(self.map_outputs, self.filters, self.decoded_maps, self.reading.note)
        return derive(
            self.stimulus, self.partial, self.fingerprint, self.readouts, answers, self.curve
        )


def read_table(data: bytes, extent: Extent, names: list[str]) -> pa.Table:
    """The table from its bytes; `ValueError` where they are not a table of this run."""
    table = read_parquet(data, COLUMNS, range(extent.rows, extent.rows + 1), extent.table, WORDS)
    if table["count"].null_count or table["response"].to_pylist() != list(range(len(names))) * len(
        extent.kinds
    ):
        raise ValueError("rows without numbers")
    expected = {
        "name": names * len(extent.kinds),
        "kind": [kind for kind in extent.kinds for _ in names],
    }
    known = {name: plain(name) for name in names}
    for word in WORDS:
        column = words_of(table[word])
        if column != expected.get(word, column) or (word == "note" and None in column):
            raise ValueError(f"other values in '{word}' than this run's")
        if word == "self_label" and not set(column) <= {None, *known}:
            raise ValueError("labels that the network does not have")
        safe = [w if w is None else known.get(w) or plain(w, NOTE) for w in column]
        table = table.set_column(
            table.schema.get_field_index(word), word, pa.array(safe, pa.string())
        )
    return table


def read_curve(data: bytes, looks: Sequence[int], extent: Extent) -> pa.Table:
    """The curve from its bytes; `ValueError` where they are not one of this run."""
    rows = extent.rows * len(looks)
    table = read_parquet(data, CURVE_COLUMNS, range(rows, rows + 1), extent.most(CURVE), ["kind"])
    expected = [(n, kind, i) for n in looks for kind in extent.kinds for i in range(extent.outputs)]
    if (
        list(
            zip(
                table["samples"].to_pylist(),
                words_of(table["kind"]),
                table["response"].to_pylist(),
                strict=True,
            )
        )
        != expected
    ):
        raise ValueError("other looks than its spec has")
    return table.set_column(1, "kind", pa.array([kind for _, kind, _ in expected], pa.string()))


def noise_runs(members: Mapping[str, Finished]) -> dict[str, Run]:
    """Those of some finished directories that are runs of noise."""
    return {name: run for name, run in members.items() if isinstance(run, Run)}


def as_run(finished: Finished, otherwise: str) -> Run:
    """A finished directory that must be a run of noise; `RunError` says `otherwise`."""
    if not isinstance(finished, Run):
        raise RunError(otherwise)
    return finished


def open_run(url: Place | str) -> Run:
    """Open a finished run: ``open_run(url).bias_maps``, ``.z_maps`` (numpy), ``.classes``
    (pyarrow Table).
    """
    return Run(url)
