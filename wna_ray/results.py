"""From a run's moments to its result objects, and a finished run opened for reading.

`derive` makes every object under ``result/`` from ``spec.json``, the merged moments and the network's answers to the
maps: no model, no Ray. `wna run` publishes them; `wna report` makes them again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import softmax

from wna_ray.analysis import Readout, read_out, variance_maps
from wna_ray.errors import RunError
from wna_ray.moments import Moments, Partial
from wna_ray.responses import FixedPoint, is_dense
from wna_ray.rundir import MOMENTS, OFFSET, RESULT, RunDirectory, pack_moments, sha256, unpack_moments
from wna_ray.spec import Spec
from wna_ray.stimuli import Stimulus

CLASSES, MAP_OUTPUTS = f"{RESULT}/classes.parquet", f"{RESULT}/map_outputs.npy"
BIAS_MAPS, Z_MAPS, VARIANCE_MAPS = (f"{RESULT}/{name}.npy" for name in ("bias_maps", "z_maps", "variance_maps"))

MAP_CONTRAST = 0.25
"""RMS contrast, in units of the noise's, at which a map is shown to the network on top of the offset."""


def read_outs(spec: Spec, stimulus: Stimulus, moments: Moments, identity: Mapping[str, Any], names: list[str]) -> list[Readout]:
    """One `Readout` for each response of the spec, in its order."""
    points = identity["fixed_point"]
    return [
        read_out(
            moments,
            r.kind,
            FixedPoint(tuple(points[r.kind]["exponent"]), tuple(points[r.kind]["centre"])),
            stimulus.noise.table,
            stimulus.unit,
            names,
        )
        for r in spec.responses
    ]


def map_images(stimulus: Stimulus, readouts: list[Readout]) -> NDArray[np.float32]:
    """Each bias map as a stimulus ``(R, C, H, W)``: offset plus the map, scaled to a quarter of the noise's contrast.

    The map is a first-order description of the network around the offset, so it is shown as a small step from there (and
    every map at the same size, whatever its units). Rows without a map are NaN.
    """
    maps = np.concatenate([r.bias for r in readouts])
    with np.errstate(invalid="ignore", divide="ignore"):
        maps *= MAP_CONTRAST * stimulus.sd / np.sqrt(np.square(maps).mean(axis=1, keepdims=True))
    return (stimulus.offset + stimulus.expand(maps)).astype(np.float32)


def classes_table(readouts: list[Readout], map_outputs: NDArray[np.float32]) -> pa.Table:
    """One row a response (see README, "The run directory").

    Parameters
    ----------
    map_outputs
        ``(R, k)``: the network's outputs for `map_images`; NaN where there is no map.
    """
    answered = np.asarray(np.isfinite(map_outputs).all(axis=1))
    probabilities = softmax(np.where(answered[:, None], map_outputs, 0.0).astype(np.float64), axis=1)
    names = readouts[0].names
    label = [names[i] if ok else None for i, ok in zip(probabilities.argmax(axis=1), answered, strict=True)]
    confidence = [float(p) if ok else None for p, ok in zip(probabilities.max(axis=1), answered, strict=True)]

    def column(attribute: str) -> pa.Array:
        values = np.concatenate([getattr(r, attribute) for r in readouts])
        return pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)

    return pa.table(
        {
            "response": pa.array([i for r in readouts for i in range(len(r.names))], pa.int64()),
            "name": [name for r in readouts for name in r.names],
            "kind": [r.kind for r in readouts for _ in r.names],
            "count": column("count"),
            "share": column("share"),
            "rho2": column("rho2"),
            "p_value": column("p_value"),
            "reliability": column("reliability"),
            "self_label": pa.array(label, pa.string()),
            "self_confidence": pa.array(confidence, pa.float64()),
            "note": [text for r in readouts for text in r.note],
        }
    )


def derive(
    stimulus: Stimulus, partial: Partial, fingerprint: str, readouts: list[Readout], map_outputs: NDArray[np.float32]
) -> dict[str, bytes]:
    """Every object under ``result/``, by name."""
    from wna_ray import figures  # matplotlib, only where something is drawn

    classes = classes_table(readouts, map_outputs)
    sink = io.BytesIO()
    pq.write_table(classes, sink)
    objects = {
        MOMENTS: pack_moments(partial, fingerprint),
        CLASSES: sink.getvalue(),
        MAP_OUTPUTS: npy(map_outputs),
        BIAS_MAPS: npy(_pictures(stimulus, [r.bias for r in readouts])),
        Z_MAPS: npy(_pictures(stimulus, [r.z for r in readouts])),
    }
    moments = partial.moments
    one_hot = [r for r in readouts if not is_dense(r.kind)]
    if moments.sum_xx.size and one_hot:
        maps = [variance_maps(moments, r.kind, stimulus.unit, len(r.names)) for r in one_hot]
        objects[VARIANCE_MAPS] = npy(_pictures(stimulus, maps))
    drawn = figures.draw(stimulus, readouts, moments, classes)
    return objects | {f"{RESULT}/figures/{name}": data for name, data in drawn.items()}


def _pictures(stimulus: Stimulus, maps: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    return stimulus.expand(np.concatenate(maps)).astype(np.float32)


def npy(array: NDArray[Any]) -> bytes:
    """An array as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


class Run:
    """A finished run, read from storage alone.

    Parameters
    ----------
    url
        A path or any fsspec URL.

    Raises
    ------
    RunError
        There is no run, it is not finished, or something in it is damaged.
    """

    def __init__(self, url: str) -> None:
        self.directory = RunDirectory(url)
        self._described = self.directory.spec()
        manifest = self.directory.manifest()
        if manifest is None:
            raise RunError(f"'{url}' has no MANIFEST.json: the run is not finished; see wna status {url}")
        try:
            self._digests = {str(name): str(entry["sha256"]) for name, entry in manifest["objects"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{url}/MANIFEST.json is damaged ({error!r})") from None

    @cached_property
    def spec(self) -> Spec:
        """The spec as asked."""
        return Spec.parse(self._described["spec"], f"{self.directory.url}/spec.json")

    @property
    def fingerprint(self) -> str:
        """What the result is a function of, with N."""
        return str(self._described["fingerprint"])

    @property
    def names(self) -> list[str]:
        """Names of the network's outputs."""
        return list(self._described["names"])

    @cached_property
    def stimulus(self) -> Stimulus:
        """The noise: any stimulus of the run can be made again from it."""
        offset: Any = self.spec.stimulus.offset
        image = np.full((1, 1, 1), offset, np.float32) if not isinstance(offset, str) else self._array(OFFSET)
        return Stimulus(self.spec.stimulus, self.spec.seed, image)

    @cached_property
    def partial(self) -> Partial:
        """The merged moments, with their range."""
        return unpack_moments(self._bytes(MOMENTS), self.fingerprint, f"{self.directory.url}/{MOMENTS}")

    @property
    def moments(self) -> Moments:
        """The merged moments."""
        return self.partial.moments

    @cached_property
    def readouts(self) -> list[Readout]:
        """Float64 maps on the noise grid and all statistics, one a response kind, computed again from the moments."""
        return read_outs(self.spec, self.stimulus, self.moments, self._described["identity"], self.names)

    @cached_property
    def bias_maps(self) -> NDArray[np.float32]:
        """``(R, C, H, W)`` float32, rows as in `classes`; NaN where a response has no map."""
        return self._array(BIAS_MAPS)

    @cached_property
    def z_maps(self) -> NDArray[np.float32]:
        """``(R, C, H, W)`` float32, rows as in `classes`."""
        return self._array(Z_MAPS)

    @cached_property
    def variance_maps(self) -> NDArray[np.float32]:
        """``(R', C, H, W)`` float32, the rows of one-hot responses; `RunError` unless ``moments: {second: true}``."""
        return self._array(VARIANCE_MAPS)

    @cached_property
    def map_outputs(self) -> NDArray[np.float32]:
        """``(R, k)`` float32: the network's outputs for each map, shown at a quarter of the noise's contrast."""
        return self._array(MAP_OUTPUTS)

    @cached_property
    def classes(self) -> pa.Table:
        """One row a response: counts, significance, reliability, what the network calls the map."""
        return pq.read_table(pa.BufferReader(self._bytes(CLASSES)))

    def derive(self) -> dict[str, bytes]:
        """Every result object, made again from the moments."""
        return derive(self.stimulus, self.partial, self.fingerprint, self.readouts, self.map_outputs)

    def _bytes(self, name: str) -> bytes:
        data = self.directory.store.read(name)
        if data is None:
            raise RunError(f"{self.directory.url}/{name} is missing (wna verify tells what else is)")
        if sha256(data) != self._digests.get(name):
            raise RunError(f"{self.directory.url}/{name} is damaged: it is not what the manifest lists")
        return data

    def _array(self, name: str) -> NDArray[np.float32]:
        try:
            array: NDArray[np.float32] = np.load(io.BytesIO(self._bytes(name)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise RunError(f"{self.directory.url}/{name} is damaged ({error})") from None
        return array


def open_run(url: str) -> Run:
    """Open a finished run: ``open_run(url).bias_maps``, ``.z_maps`` (numpy), ``.classes`` (pyarrow Table)."""
    return Run(url)
