"""Names of the objects of a run directory; `wna_ray.runs.directory` says what each holds."""

from __future__ import annotations

SPEC, ENVIRONMENT, MANIFEST = "spec.json", "environment.json", "MANIFEST.json"
OFFSET, BASIS, BLOCK = "offset.npy", "basis.npy", "block.npy"
SEGMENTS, RESULT, RESPONSES = "segments", "result", "responses"
MOMENTS = f"{RESULT}/moments.npz"
