"""The run directory: what lies where, and the proof that it is whole.

    spec.json          format, fingerprint, identity (what changes a result), samples, the spec as asked, names
    offset.npy         the offset, where it is an image
    environment.json   versions and device that began the run (told, not compared)
    segments/A-B.npz   partial moments of images A ... B - 1
    result/...         the merged moments and everything read out of them
    MANIFEST.json      last: every object with size and SHA-256; the ranges tile [0, N), the counts add up to N

The directory is the database: `gaps` is all that resuming needs, and `verify` needs nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.errors import RunError
from wna_ray.moments import Moments, Partial
from wna_ray.shard import Job
from wna_ray.spec import canonical
from wna_ray.store import Place, Store

FORMAT = "wna-run/1"
SPEC, ENVIRONMENT, OFFSET, MANIFEST = "spec.json", "environment.json", "offset.npy", "MANIFEST.json"
SEGMENTS, RESULT = "segments", "result"
MOMENTS = f"{RESULT}/moments.npz"
_SEGMENT = re.compile(r"segments/(\d{15})-(\d{15})\.npz")

Span = tuple[int, int]


def segment_name(start: int, stop: int) -> str:
    """Name of the segment of images ``start ... stop - 1``; names sort as the ranges do."""
    return f"{SEGMENTS}/{start:015d}-{stop:015d}.npz"


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def pack(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A self-describing ``.npz``: the arrays, and a JSON header with a digest over header and arrays.

    The bytes are a function of the content: NumPy stores no time in the archive.
    """
    text = canonical(dict(header) | {"digest": _digest(header, arrays)})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.frombuffer(text.encode(), dtype=np.uint8), **dict(sorted(arrays.items())))
    return buffer.getvalue()


def unpack(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of a packed object; `RunError` where a bit of it is not as it was written."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
        whole = header.pop("digest") == _digest(header, arrays)
    except Exception as error:  # zip and npy readers raise of every family when bytes are not what they seem
        raise RunError(f"{where} is damaged or not a segment ({error}); delete it and run the same command again") from None
    if not whole:
        raise RunError(f"{where} is damaged: its digest does not match; delete it and run the same command again")
    return header, arrays


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    total = hashlib.sha256(canonical(dict(header)).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def pack_moments(partial: Partial, fingerprint: str) -> bytes:
    """A partial as an object: segments and ``result/moments.npz`` are both this."""
    moments = partial.moments
    header = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "start": partial.start,
        "stop": partial.stop,
        "images": moments.images,
        "nonfinite": moments.nonfinite,
        "out_of_range": moments.out_of_range,
    }
    return pack(header, moments.arrays())


def unpack_moments(data: bytes, fingerprint: str, where: str) -> Partial:
    """Read a partial back, checked against digest and fingerprint."""
    header, arrays = unpack(data, where)
    if header.get("format") != FORMAT or header.get("fingerprint") != fingerprint:
        raise RunError(f"{where} belongs to another run (its fingerprint is {str(header.get('fingerprint'))[:12]}...); move it away")
    try:
        return Partial(header["start"], header["stop"], Moments.from_arrays(arrays))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where} does not hold moments ({error}); delete it and run the same command again") from None


@dataclass(frozen=True)
class SegmentInfo:
    """A segment as the manifest lists it."""

    name: str
    start: int
    stop: int
    images: int
    nonfinite: int
    out_of_range: int
    bytes: int
    sha256: str


class RunDirectory:
    """A run at a URL.

    Parameters
    ----------
    place
        A path, any fsspec URL, or a `Place`.
    """

    def __init__(self, place: Place | str) -> None:
        self.store = Store(place)

    @property
    def url(self) -> str:
        """Where the run lies."""
        return self.store.url

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the run, None where there is none, `RunError` where it is damaged."""
        data = self.store.read(name)
        if data is None:
            return None
        try:
            value = json.loads(data)
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
        except ValueError as error:
            raise RunError(f"{self.url}/{name} is damaged ({error})") from None
        return value

    def spec(self) -> dict[str, Any]:
        """What ``spec.json`` says, its fingerprint checked; `RunError` where there is no run."""
        spec = self.read_json(SPEC)
        if spec is None:
            raise RunError(f"no run at '{self.url}' (it has no {SPEC}); give the --out of a run")
        where = f"{self.url}/{SPEC}"
        if spec.get("format") != FORMAT:
            raise RunError(f"{where}: format {spec.get('format')!r}, but this version reads {FORMAT!r}")
        digest = spec.pop("digest", None)
        if sha256(canonical(spec.get("identity")).encode()) != spec.get("fingerprint"):
            raise RunError(f"{where} is damaged: its fingerprint does not match its identity")
        samples, names = spec.get("samples"), spec.get("names")
        sound = isinstance(samples, int) and samples > 0 and isinstance(names, list) and all(isinstance(n, str) for n in names)
        if not sound or digest != sha256(canonical(spec).encode()):
            raise RunError(f"{where} is damaged: its digest does not match")
        return spec

    def begin(self, job: Job, environment: Mapping[str, Any]) -> None:
        """Make this the run of `job`, or make sure that it is; `RunError` names what differs."""
        wanted: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": job.fingerprint,
            "identity": job.identity,
            "samples": job.spec.samples,
            "names": list(job.names),
            "spec": job.spec.model_dump(mode="json"),
        }
        if self.read_json(SPEC) is None:
            if job.offset.size > 1:
                buffer = io.BytesIO()
                np.save(buffer, job.offset, allow_pickle=False)
                if not self.store.create(OFFSET, buffer.getvalue()) and self.store.read(OFFSET) != buffer.getvalue():
                    raise RunError(
                        f"{self.url}/{OFFSET} is not this run's offset, and there is no {SPEC}; give another --out, or delete it"
                    )
            self.store.create(ENVIRONMENT, _json(environment))
            if self.store.create(SPEC, _json(wanted | {"digest": sha256(canonical(wanted).encode())})):
                return
        found = self.spec()
        keep = ("samples", "identity")
        changes = list(_differences({k: found.get(k) for k in keep}, {k: wanted[k] for k in keep}))
        if changes:
            derived = ("identity.canary", "identity.fixed_point")  # they follow from the rest and the machine
            told = [c for c in changes if not c[0].startswith(derived)] or [
                ("answers to the first batch", "as on record", "other bits (another machine or version?)")
            ]
            shown = "\n".join(f"  {path.removeprefix('identity.')}: {old} -> {new}" for path, old, new in told[:12])
            raise RunError(
                f"'{self.url}' holds a run of another spec; what differs (there -> asked for):\n{shown}\n"
                "Give another --out, or the spec that began it"
            )

    def segments(self) -> dict[Span, str]:
        """Committed ranges and their objects, in order; `RunError` where they overlap or a name is foreign."""
        found: dict[Span, str] = {}
        end, last = 0, ""
        for name in self.store.list(SEGMENTS):
            match = _SEGMENT.fullmatch(name)
            if match is None:
                raise RunError(f"{self.url}/{name} is no segment of this run; move it away")
            start, stop = int(match[1]), int(match[2])
            if start < end or stop <= start:
                raise RunError(f"{self.url}: the segments {last} and {name} overlap; delete one and run the same command again")
            found[start, stop] = name
            end, last = stop, name
        return found

    def gaps(self, samples: int) -> list[Span]:
        """Ranges of [0, N) that no segment covers."""
        missing, at = [], 0
        for start, stop in self.segments():
            if start > at:
                missing.append((at, start))
            at = stop
        if at > samples:
            raise RunError(f"{self.url}: segments reach image {at}, but the run has {samples}; this is not its directory")
        return [*missing, (at, samples)] if at < samples else missing

    def commit(self, partial: Partial, fingerprint: str) -> None:
        """Publish a segment, once. A segment of the same range that is there already must be the same bytes."""
        name, data = segment_name(partial.start, partial.stop), pack_moments(partial, fingerprint)
        if not self.store.create(name, data) and self.store.read(name) != data:
            raise RunError(f"{self.url}/{name} exists with other content; is another job writing to this run?")

    def read_segment(self, name: str, fingerprint: str) -> tuple[Partial, SegmentInfo]:
        """A segment, checked: digest, fingerprint, and the range in its name."""
        where, data = f"{self.url}/{name}", self.store.read(name)
        if data is None:
            raise RunError(f"{where} is missing; run the same command again")
        partial = unpack_moments(data, fingerprint, where)
        if segment_name(partial.start, partial.stop) != name:
            raise RunError(f"{where} holds images [{partial.start}, {partial.stop}): it was renamed; move it away and run again")
        m = partial.moments
        info = SegmentInfo(name, partial.start, partial.stop, m.images, m.nonfinite, m.out_of_range, len(data), sha256(data))
        return partial, info

    def publish(self, segments: Iterable[SegmentInfo], result: Mapping[str, bytes], fingerprint: str, samples: int) -> None:
        """Write the result's objects, then the manifest."""
        for name, data in result.items():
            self.store.replace(name, data)
        self.store.sweep()
        objects = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in result.items()}
        for name in (SPEC, ENVIRONMENT, OFFSET):
            kept = self.store.read(name)
            if kept is not None:
                objects[name] = {"bytes": len(kept), "sha256": sha256(kept)}
        ordered = sorted(segments, key=lambda s: s.start)
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "samples": samples,
            "counts": {key: sum(getattr(s, key) for s in ordered) for key in ("images", "nonfinite", "out_of_range")},
            "segments": [vars(s) for s in ordered],
            "objects": dict(sorted(objects.items())),
        }
        faults = _tiling_faults(manifest)
        if faults:
            raise RunError(f"{self.url}: the run is not whole: {'; '.join(faults)}; run the same command again")
        if not self.store.create(MANIFEST, _json(manifest)) and self.read_json(MANIFEST) != manifest:
            raise RunError(f"{self.url}/{MANIFEST} exists with other content; is another job writing to this run?")

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None where the run is not finished."""
        return self.read_json(MANIFEST)

    def verify(self) -> list[str]:
        """Prove the run: every fault found, one sentence each; none means that it is whole."""
        spec, manifest = self.spec(), self.manifest()
        if manifest is None:
            raise RunError(f"'{self.url}' has no {MANIFEST}: the run is not finished; run the same command again to go on")
        faults = [] if manifest.get("fingerprint") == spec["fingerprint"] else [f"{MANIFEST} is of another run"]
        try:
            faults += _tiling_faults(manifest)
            listed = {s["name"]: s for s in manifest["segments"]} | manifest["objects"]
            expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in listed.items()}
        except (KeyError, TypeError, AttributeError) as error:
            return [*faults, f"{MANIFEST} is damaged ({error!r})"]
        if manifest.get("samples") != spec["samples"]:
            faults.append(f"{MANIFEST} says {manifest.get('samples')} samples, {SPEC} {spec['samples']}")
        for name, (size, digest) in expected.items():
            data = self.store.read(name)
            if data is None:
                faults.append(f"{name} is missing")
            elif (len(data), sha256(data)) != (size, digest):
                found = f"{len(data)} bytes, SHA-256 {sha256(data)[:12]}..."
                faults.append(f"{name} is damaged: {found}; {MANIFEST} says {size}, {str(digest)[:12]}...")
        faults += [
            f"{name} is foreign: the manifest does not list it"
            for folder in (SEGMENTS, RESULT)
            for name in self.store.list(folder)
            if name not in listed
        ]
        return faults or self._verify_sums(spec["fingerprint"], listed)

    def _verify_sums(self, fingerprint: str, listed: Mapping[str, Any]) -> list[str]:
        """Add the segments up again and compare with the result: the counts and every sum."""
        total: Partial | None = None
        for name in sorted(n for n in listed if _SEGMENT.fullmatch(n)):
            partial, info = self.read_segment(name, fingerprint)
            if vars(info) != listed[name]:
                return [f"{name}: its header says {vars(info)}, the manifest {listed[name]}"]
            total = partial if total is None else total.merge(partial)
        if total is None or self.store.read(MOMENTS) != pack_moments(total, fingerprint):
            return [f"{MOMENTS} is not the sum of the segments"]
        return []


def _tiling_faults(manifest: Mapping[str, Any]) -> list[str]:
    """Whether the ranges tile [0, N) and the counts add up."""
    faults, at = [], 0
    for s in manifest["segments"]:
        if s["start"] != at:
            faults.append(f"images [{min(at, s['start'])}, {max(at, s['start'])}) are counted {'twice' if s['start'] < at else 'never'}")
        if s["images"] + s["nonfinite"] + s["out_of_range"] != s["stop"] - s["start"]:
            faults.append(f"{s['name']} covers {s['stop'] - s['start']} images but counts another number")
        at = s["stop"]
    if at != manifest["samples"]:
        faults.append(f"the segments end at image {at}, not {manifest['samples']}")
    if sum(manifest["counts"].values()) != manifest["samples"]:
        faults.append(f"the counts {manifest['counts']} do not add up to {manifest['samples']}")
    return faults


def _differences(old: Any, new: Any, path: str = "") -> Iterable[tuple[str, str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, _short(old), _short(new)


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
