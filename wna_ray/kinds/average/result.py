"""From a run's moments to its result objects, and a finished run opened for reading.

`derive` makes every object under ``result/`` from ``spec.json``, the merged moments and the
network's answers to the maps: no model, no Ray. `wna run` publishes them; `wna report` makes them
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import softmax

from wna_ray.moments.moments import Moments, Partial
from wna_ray.moments.responses import FixedPoint, is_dense, is_triggered
from wna_ray.runs.names import MOMENTS, RESULT
from wna_ray.runs.segments import pack_moments
from wna_ray.specs.run import Spec
from wna_ray.statistics.maps import Readout, cosine, grid_variance, spearman_brown, variance_maps
from wna_ray.statistics.nulls import KnownNoise, MeasuredPictures, Null
from wna_ray.statistics.readouts import read_out, read_out_gradient
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.storage.arrays import to_npy, to_parquet
from wna_ray.storage.tables import table_of
from wna_ray.text import plain

FIGURES = "wna_ray.kinds.average.figures"  # matplotlib, only where something is drawn

CLASSES, MAP_OUTPUTS, FILTERS = (
    f"{RESULT}/classes.parquet",
    f"{RESULT}/map_outputs.npy",
    f"{RESULT}/filters.npy",
)
CURVE = f"{RESULT}/reliability.parquet"
BIAS_MAPS, Z_MAPS, VARIANCE_MAPS = (
    f"{RESULT}/{name}.npy" for name in ("bias_maps", "z_maps", "variance_maps")
)
WHITENED_MAPS, DECODED_MAPS = f"{RESULT}/whitened_maps.npy", f"{RESULT}/decoded_maps.npy"

COLUMNS = {
    "response": pa.int64(),
    "name": pa.string(),
    "kind": pa.string(),
    "count": pa.int64(),
    "share": pa.float64(),
    "rho2": pa.float64(),
    "standard_error": pa.float64(),
    "p_value": pa.float64(),
    "reliability": pa.float64(),
    "split_half": pa.float64(),
    "filter_cosine": pa.float64(),
    "self_label": pa.string(),
    "self_confidence": pa.float64(),
    "note": pa.string(),
}
CURVE_COLUMNS = {
    "samples": pa.int64(),
    "kind": pa.string(),
    "response": pa.int64(),
    "reliability": pa.float64(),
}
WORDS = ["name", "kind", "self_label", "note"]
NOTE = 160  # characters
SOFTMAX_VALUES = 1 << 22  # outputs for maps whose probabilities are taken in one go

DRAWN = 100  # characters of a name in a figure

MAP_CONTRAST = 0.25
"""RMS contrast, in units of the noise's, at which a map is shown to the network on top of the
offset.
"""


def read_outs(
    spec: Spec, stimulus: Stimulus, moments: Moments, identity: Mapping[str, Any], names: list[str]
) -> list[Readout]:
    """One `Readout` for each response of the spec, in its order."""
    gradient = spec.estimator == "gradient"
    null = null_of(stimulus)
    readouts = []
    for kind in (response.kind for response in spec.responses):
        point = FixedPoint.parse(identity["fixed_point"][kind])
        if gradient:
            steps = identity["gradient_exponent"][kind]
            readout = read_out_gradient(moments, kind, point, steps, stimulus.sd, names)
        else:
            readout = read_out(moments, kind, point, null, names)
        halves = spearman_brown(moments, kind, len(names), gradient)
        readouts.append(replace(readout, split_half=halves))
    return readouts


def null_of(stimulus: Stimulus) -> Null:
    """What is known of a stimulus's values, where responses are averaged over them."""
    if stimulus.spec.measured:
        return MeasuredPictures(stimulus.unit, stretched=stimulus.spec.basis is not None)
    return KnownNoise(stimulus.noise.table, stimulus.unit, stimulus.patches_an_image)


def map_images(
    stimulus: Stimulus, readouts: list[Readout], moments: Moments
) -> NDArray[np.float32]:
    """Each bias map as a stimulus ``(R, C, H, W)``: offset plus the map, scaled to a quarter of the
    noise's contrast.

    Maps of units lie where the units look, in what is shown to them.

    The map is a first-order description of the network around the offset, so it is shown as a small
    step from there (and every map at the same size, whatever its units). Rows without a map are
    NaN. Of pictures, offset and contrast are those that `moments` have measured.
    """
    measured = stimulus.spec.measured and moments.images > 0
    sd = stimulus.unit * float(np.sqrt(grid_variance(moments).mean())) if measured else stimulus.sd
    maps = _steps(stimulus, np.concatenate([r.bias for r in readouts]), MAP_CONTRAST * sd)
    if measured:
        maps += stimulus.unit * moments.sum_x / moments.images
    return (stimulus.shown_offset + stimulus.place(maps)).astype(np.float32)


def mean_codes(stimulus: Stimulus, readouts: list[Readout]) -> NDArray[np.float32]:
    """What a decoder is shown of each map, a code as a stimulus ``(R, C, H, W)``; rows without a
    map are NaN.

    The map of a response that is never negative is the mean code of the response less the grand
    mean, so offset plus map is that mean. Other maps are slopes, and have no length as a code: a
    step from the offset along the map, whose root mean square is the noise's standard deviation,
    and so as long as codes usually are.
    """
    maps = [
        (
            r.bias
            if is_triggered(r.kind) and r.estimator == "noise"
            else _steps(stimulus, r.bias, stimulus.sd)
        )
        for r in readouts
    ]
    return (stimulus.shown_offset + stimulus.place(np.concatenate(maps))).astype(np.float32)


def _steps(stimulus: Stimulus, maps: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """Maps ``(R, d)`` whose root mean square, as stimuli, is `size`."""
    seen = stimulus.expand(maps).reshape(len(maps), -1) if stimulus.spec.mixed else maps
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(maps * (size / np.sqrt(np.square(seen).mean(axis=1, keepdims=True))))


@dataclass(frozen=True)
class Answers:
    """What the network was asked once the moments were there.

    Attributes
    ----------
    outputs
        ``(R, k)`` float32: its outputs for `map_images` (of codes: for the pictures of
        `mean_codes`); NaN where there is no map.
    filters
        ``(k, d)``: the true filters of units that are linear, NaN for others; None where the
        network's output was looked at, whose largest logit is then its label for a map. Units
        inside a network give no labels.
    pictures
        ``(R, C, H, W)`` float32: the decoder's pictures of `mean_codes`; None without a decoder.
    note
        What is said of every row: how the network's output was read, where that was assumed.
    """

    outputs: NDArray[np.float32]
    filters: NDArray[np.float64] | None = None
    pictures: NDArray[np.float32] | None = None
    note: str = ""


def classes_table(readouts: list[Readout], answers: Answers) -> pa.Table:
    """One row a response (see README, "The run directory")."""
    filters, names = answers.filters, readouts[0].names
    nothing = [(None, None)] * len(answers.outputs)  # units inside a network give no labels
    answered = list(_answered(answers.outputs)) if filters is None else nothing
    label = [None if row is None else names[row] for row, _ in answered]
    confidence = [sure for _, sure in answered]

    def numbers(values: NDArray[Any]) -> pa.Array:
        return pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)

    def column(attribute: str) -> pa.Array:
        return numbers(np.concatenate([getattr(r, attribute) for r in readouts]))

    cosines = [
        np.full(len(r.names), np.nan) if filters is None else cosine(r.bias, filters)
        for r in readouts
    ]

    return pa.table(
        {
            "response": pa.array([i for r in readouts for i in range(len(r.names))], pa.int64()),
            "name": [name for r in readouts for name in r.names],
            "kind": [r.kind for r in readouts for _ in r.names],
            "count": column("count"),
            "share": column("share"),
            "rho2": column("rho2"),
            "standard_error": column("standard_error"),
            "p_value": column("p_value"),
            "reliability": column("reliability"),
            "split_half": numbers(
                np.concatenate(
                    [
                        np.full(len(r.names), np.nan) if r.split_half is None else r.split_half
                        for r in readouts
                    ]
                )
            ),
            "filter_cosine": numbers(np.concatenate(cosines)),
            "self_label": pa.array(label, pa.string()),
            "self_confidence": pa.array(confidence, pa.float64()),
            "note": [
                "; ".join(part for part in (text, answers.note) if part)
                for r in readouts
                for text in r.note
            ],
        }
    )


def _answered(outputs: NDArray[np.float32]) -> Iterator[tuple[int | None, float | None]]:
    """Largest output and its probability for each map; None where there is no map. Some rows at a
    time, since in float64 all of many outputs are large.
    """
    for start in range(0, len(outputs), step := max(1, SOFTMAX_VALUES // outputs.shape[1])):
        some = outputs[start : start + step]
        answered = np.asarray(np.isfinite(some).all(axis=1))
        probabilities = softmax(np.where(answered[:, None], some, 0.0).astype(np.float64), axis=1)
        rows, largest = probabilities.argmax(axis=1), probabilities.max(axis=1)
        for ok, row, sure in zip(answered, rows, largest, strict=True):
            yield (int(row), float(sure)) if ok else (None, None)


def derive(
    stimulus: Stimulus,
    partial: Partial,
    fingerprint: str,
    readouts: list[Readout],
    answers: Answers,
    curve: pa.Table | None = None,
) -> dict[str, bytes]:
    """Every object under ``result/``, by name. `curve` is what the looks of a run saw (see
    `reliability_curve`).
    """
    figures = resolve_name(FIGURES)
    classes = classes_table(readouts, answers)
    objects = {
        MOMENTS: pack_moments(partial, fingerprint),
        CLASSES: to_parquet(classes),
        MAP_OUTPUTS: to_npy(answers.outputs),
        BIAS_MAPS: to_npy(_pictures(stimulus, [r.bias for r in readouts])),
        Z_MAPS: to_npy(
            stimulus.expand_z(np.concatenate([r.z for r in readouts])).astype(np.float32)
        ),
    }
    if stimulus.spec.mixed:
        objects[WHITENED_MAPS] = to_npy(
            np.concatenate([stimulus.whitened(r.bias, r.reliability) for r in readouts]).astype(
                np.float32
            )
        )
    moments = partial.moments
    one_hot = [r for r in readouts if not is_dense(r.kind)]
    if moments.sum_xx.size and one_hot:
        maps = [variance_maps(moments, r.kind, stimulus.unit, len(r.names)) for r in one_hot]
        objects[VARIANCE_MAPS] = to_npy(_pictures(stimulus, maps))
    if answers.filters is not None and np.isfinite(answers.filters).any():
        objects[FILTERS] = to_npy(answers.filters)
    if curve is not None:
        objects[CURVE] = to_parquet(curve)
    if answers.pictures is not None:
        objects[DECODED_MAPS] = to_npy(answers.pictures)
    drawable, labels = [_drawable(r) for r in readouts], _drawable_labels(classes)
    drawn = figures.draw(stimulus, drawable, moments, labels, answers.filters)
    if answers.pictures is not None:
        drawn["decoded_maps.png"] = figures.decoded(
            stimulus, drawable, moments, labels, answers.pictures
        )
    if curve is not None:
        drawn["reliability.png"] = figures.reliability(curve, stimulus)
    return objects | {f"{RESULT}/figures/{name}": data for name, data in drawn.items()}


def reliability_curve(looks: Sequence[tuple[int, list[Readout]]]) -> pa.Table:
    """Reliability of every row at every look: one row a look and response."""
    return table_of(
        CURVE_COLUMNS,
        (
            (samples, readout.kind, row, float(reliable))
            for samples, readouts in looks
            for readout in readouts
            for row, reliable in enumerate(readout.reliability)
        ),
    )


def _drawable(readout: Readout) -> Readout:
    return replace(readout, names=tuple(_text(name) for name in readout.names))


def _drawable_labels(classes: pa.Table) -> pa.Table:
    labels = [
        None if label is None else _text(label) for label in classes["self_label"].to_pylist()
    ]
    return classes.set_column(
        classes.schema.get_field_index("self_label"), "self_label", pa.array(labels, pa.string())
    )


def _text(name: str) -> str:
    """A name as figures can draw it: one line, not too long, and its dollar signs begin no
    formula.
    """
    return plain(name, DRAWN).replace("$", r"\$")


def _pictures(stimulus: Stimulus, maps: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    return stimulus.expand(np.concatenate(maps)).astype(np.float32)
