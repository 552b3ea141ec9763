"""Canonical JSON: the one spelling that fingerprints are taken of, digests, and how two trees
differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from wna_ray.text import plain


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spare blanks: one text for one meaning (floats as Python's
    shortest ``repr``).
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> Iterable[tuple[str, str, str]]:
    """Where two trees of JSON values differ: dotted path, old and new value, in short."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, _short(old), _short(new)


def _short(value: Any) -> str:
    text = plain(canonical(value), 200)
    return text if len(text) <= 120 else text[:117] + "..."


def json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
