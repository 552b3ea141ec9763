"""Open every finished run as Python does, and write digests of all that its public properties say.

    same_readers.py LEDGER

This is a script in a tree's folder of runs. Properties are looked for on types, so one that only
one tree has is seen, too. A property that refuses (whitened maps of white noise, say) says so, and
that is compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import wna_ray

OPENERS: dict[str, Callable[[str], Any]] = {
    "wna-run/1": wna_ray.open_run,
    "wna-pass/1": wna_ray.open_stc,
    "wna-trials/1": wna_ray.open_trials,
    "wna-sweep/1": wna_ray.open_sweep,
}
CALLS: dict[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "Run": (("whitened", ()), ("stored", ()), ("clusters", ("logits", "3")), ("derive", ())),
    "Stc": (("derive", ()),),
    "Trials": (("classification_images", ()), ("classification_images", (True,))),
}
"""Methods of what is opened, and with what they are called; by the name of its type."""

PLAIN = (np.ndarray, np.generic, bool, int, float, str, bytes, tuple)
BY_PROPERTY = ("stimulus",)  # an object of ours: its values are compared, not its type's names
DERIVED = ("kinds/uniform", "stc")  # made again once of each type: drawing takes a second
TALLY = "informative_axes"  # of a covariance, which needs the run that it is of
TRIGGERED, SOURCE, UNIT = "covariances/triggered", "answers/units", "4"
LEFT_OUT = ("paper", "called")  # folders of runs that others stand for


def properties(kind: type) -> list[str]:
    """Name the public properties of a type."""
    named = ((name, getattr(kind, name)) for name in dir(kind) if not name.startswith("_"))
    return [name for name, value in named if isinstance(value, property | cached_property)]


def parts(value: Any) -> Iterator[bytes]:
    """Take a value apart: arrays into their bytes, what holds others into those."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        yield f"{kind} {value!r}".encode()
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}".encode()
        for key, inner in value.items():
            yield from parts(key)
            yield from parts(inner)
    elif isinstance(value, list | tuple | Iterator):
        yield b"list"
        for inner in value:
            yield from parts(inner)
        yield b"end"
    else:
        yield kind.encode()
        yield from parts_of_object(value)


def parts_of_object(value: Any) -> Iterator[bytes]:
    """Take apart a table, a spec, a dataclass, or any other object with public properties."""
    if hasattr(value, "to_pydict"):
        yield str(value.schema).encode()
        yield repr(value.to_pydict()).encode()
    elif hasattr(value, "model_dump_json"):
        yield value.model_dump_json().encode()
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield field.name.encode()
            yield from parts(getattr(value, field.name))
    elif hasattr(value, "fingerprint"):  # a run, which is read by itself
        yield value.fingerprint.encode()
    else:
        for name in properties(type(value)):
            yield name.encode()
            inner = getattr(value, name, None)
            yield from parts(inner) if isinstance(inner, PLAIN) else ()


def told(read: Callable[[], Any]) -> str:
    """Return the digest of what is read, or the error that it raises."""
    total = hashlib.sha256()
    try:
        for part in parts(read()):
            total.update(len(part).to_bytes(8) + part)
    except Exception as error:  # compared as any other answer
        return f"{type(error).__name__}: {error}".replace(str(Path.cwd()), "<runs>")
    return total.hexdigest()


def reading(name: str, opened: Any) -> Iterator[tuple[str, str]]:
    """Read everything that an opened run says: its name, and its digest."""
    kind = type(opened)
    for asked in properties(kind):
        inner = getattr(opened, asked, None) if asked in BY_PROPERTY else None
        for part in () if inner is None else properties(type(inner)):
            if isinstance(getattr(inner, part, None), PLAIN):
                yield f"{name}/{asked}.{part}", told(lambda i=inner, p=part: getattr(i, p))
        if inner is None:
            yield f"{name}/{asked}", told(lambda asked=asked: getattr(opened, asked))
    for method, args in CALLS.get(kind.__name__, ()):
        if method != "derive" or name in DERIVED:
            call = getattr(opened, method, None)
            shown = f"{name}/{method}({', '.join(map(repr, args))})"
            yield shown, "no such method" if call is None else told(lambda c=call, a=args: c(*a))


def finished(runs: Path) -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Find folders of finished runs and sweeps, and what opens each."""
    for path in sorted(runs.rglob("spec.json")):
        folder = path.parent.relative_to(runs)
        done = any((path.parent / name).exists() for name in ("MANIFEST.json", "SWEEP.json"))
        opener = OPENERS.get(json.loads(path.read_bytes()).get("format"))
        if done and opener and folder.parts[0] not in LEFT_OUT:
            yield folder.as_posix(), opener


def main(ledger: Path) -> None:
    """Read everything in the working directory."""
    found: dict[str, str] = {}
    for name, opener in finished(Path()):
        found |= dict(reading(name, opener(name)))
    if Path(TRIGGERED).exists() and Path(SOURCE).exists():
        stc, run = wna_ray.open_stc(TRIGGERED), wna_ray.open_run(SOURCE)
        found[f"{TRIGGERED}/{TALLY}"] = told(lambda: getattr(stc, TALLY)(run, UNIT, 2))
    ledger.write_text(json.dumps(found, indent=1))
    print("readings:", "some" if found else "none")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
