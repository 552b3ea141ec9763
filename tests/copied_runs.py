"""Small runs that are copied from one place to another, and what a folder holds of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wna_ray.storage.store import Store

SPEC: dict[str, Any] = {
    "model": "python:networks_for_tests:linear",
    "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0},
    "samples": 2000,
    "seed": 7,
    "numerics": {"batch": 64},
    "execution": {"shard": 256, "segments": 4},
}


def put(source: Path, store: Store) -> Store:
    """Copy a local run to a store."""
    for file in source.rglob("*"):
        if file.is_file():
            store.replace(file.relative_to(source).as_posix(), file.read_bytes())
    return store


def files(folder: Path) -> dict[str, bytes]:
    return {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()
    }
