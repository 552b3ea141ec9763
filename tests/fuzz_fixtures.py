"""Small finished runs of every kind, for fuzzers to break."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import made_up_digits
import numpy as np

from wna_ray.kinds.any import run_any
from wna_ray.specs.parse import parse_spec
from wna_ray.specs.sweep import SweepSpec
from wna_ray.sweeps.job import run_sweep

SMALL: dict[str, Any] = {
    "model": "python:networks_for_tests:linear",
    "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0},
    "samples": 2000,
    "seed": 3,
    "numerics": {"batch": 64},
    "execution": {"shard": 256, "segments": 4},
}
DIGITS: dict[str, Any] = {
    "model": "bundled:mnist-cnn",
    "stimulus": {"kind": "gaussian", "shape": [1, 28, 28], "offset": 0.5, "scale": 0.3},
    "samples": 1000,
    "numerics": {"batch": 100},
    "execution": {"shard": 500, "segments": 2},
}
TRIALS: dict[str, Any] = {
    "model": "bundled:mnist-cnn",
    "signals": {"dataset": "mnist", "classes": [5, 6], "images": 10},
    "noise": {"kind": "uniform", "offset": 0.5, "scale": 0.5},
    "gammas": [0.3, 0],
    "repeats": 3,
    "moments": True,
}
ALL_SUMS = {"second": True, "halves": True}
ALL_KINDS = ["label", "logits", "confidence", "probabilities"]
UNITS = {"layer": "conv1", "units": [0, 3], "position": "centre"}
SPIKES = {"kind": "spikes", "quantile": 0.9}
TWO = {"noise": {"a": {"stimulus.kind": "gaussian"}, "b": {"stimulus.kind": "uniform"}}}
BARS = {"kind": "uniform", "offset": 0, "scale": 1, "basis": {"kind": "stripes"}}
PICTURES = {"kind": "images", "dataset": "mnist", "shape": [1, 28, 28]}
FEW = {"axes": 2, "passes": 3}
CUT = {"execution": {"shard": 1000, "segments": 2}}

RUNS: dict[str, dict[str, Any]] = {  # what FOLDER stands for is filled in
    "plain": SMALL | {"stimulus": SMALL["stimulus"] | {"offset": "FOLDER/offset.npy"}},
    "full": SMALL | {"responses": ALL_KINDS, "moments": ALL_SUMS, "keep_responses": True},
    "stop": SMALL | {"stop": {"reliability": 0.5, "first": 512}, "samples": 4096},
    "spectrum": SMALL | {"stimulus": SMALL["stimulus"] | {"spectrum": 1.0}},
    "gradient": SMALL | {"estimator": "gradient", "responses": ["logits"]},
    "units": DIGITS | {"target": UNITS, "responses": ["rectified", SPIKES], "keep_responses": True},
    "dense": {"run": "FOLDER/units", "response": "rectified", "fresh": 19} | CUT,
    "matrix-free": {"run": "FOLDER/units", "units": ["0"], "method": "matrix-free"} | FEW | CUT,
    "basis": DIGITS | {"stimulus": DIGITS["stimulus"] | BARS, "evaluation": {"dataset": "none"}},
    "images": DIGITS | {"stimulus": PICTURES, "samples": 400},
    "trials": TRIALS,
    "sweep": SMALL | {"sweep": TWO},
}


def digits(folder: Path) -> Path:
    """Write the made-up digits as MNIST's files; gives what ``WNA_DATA`` is to be."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for train, name in ((True, "train"), (False, "t10k")):
        split = made_up_digits.split(train)
        images = np.rint(split.images[:, 0] * 255).astype(np.uint8)
        head, labels = struct.pack(">4L", 0x803, *images.shape), split.labels.astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">2L", 0x801, len(labels))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return folder


def make(folder: Path, kinds: Iterable[str] = tuple(RUNS)) -> Path:
    """Finished runs ``FOLDER/KIND``, and their data set in ``FOLDER/data``; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "offset.npy", np.full((1, 4, 4), 0.5, np.float32))
    with patch.dict(os.environ, WNA_DATA=str(digits(folder / "data"))):
        for kind in kinds:
            spec, out = _filled(RUNS[kind], folder), str(folder / kind)
            if "sweep" in spec:
                run_sweep(SweepSpec.parse(spec), out, executor="local")
            else:
                run_any(parse_spec(spec, kind), out, executor="local")
    return folder


def _filled(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, folder) for key, item in value.items()}
    return value.replace("FOLDER", str(folder)) if isinstance(value, str) else value
