"""The run directory: what lies where, and the proof that it is whole.

    spec.json          format, fingerprint, identity (what changes a result), samples, the spec as asked, names
    offset.npy         the offset, where it is an image
    basis.npy          the pictures that stimuli are mixtures of, where there are such
    environment.json   versions and device that began the run (told, not compared)
    segments/A-B.npz   partial moments of images A ... B - 1
    responses/A-B.parquet   their responses, where they are kept (see `wna_ray.stored`)
    result/...         the merged moments and everything read out of them
    MANIFEST.json      last: every object with size and SHA-256; the ranges tile [0, N), the counts add up to N

The directory is the database: `gaps` is all that resuming needs, and `verify` needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.archive import from_npy, pack, to_npy, unpack
from wna_ray.bases import digest
from wna_ray.checks import (
    EVALUATION,
    MOST_JSON,
    MOST_OTHER,
    AnyExtent,
    Extent,
    check_described,
    check_evaluation,
    check_manifest,
    check_pass,
    check_trials,
    listing_faults,
    parse_json,
    require_memory,
)
from wna_ray.errors import RunError
from wna_ray.moments import Moments, Partial
from wna_ray.shard import Job
from wna_ray.spec import Spec, canonical
from wna_ray.stimuli import Stimulus
from wna_ray.store import Place, Store, no_memory
from wna_ray.sums import PassSums
from wna_ray.text import plain, redacted_tree

FORMAT, PASS_FORMAT, TRIALS_FORMAT = "wna-run/1", "wna-pass/1", "wna-trials/1"
FORMATS = (FORMAT, PASS_FORMAT, TRIALS_FORMAT)
SPEC, ENVIRONMENT, MANIFEST = "spec.json", "environment.json", "MANIFEST.json"
OFFSET, BASIS, BLOCK = "offset.npy", "basis.npy", "block.npy"
SEGMENTS, RESULT, RESPONSES = "segments", "result", "responses"
MOMENTS = f"{RESULT}/moments.npz"
_SEGMENT = re.compile(r"segments/(\d{15})-(\d{15})\.npz")

COUNTS = ("images", "nonfinite", "out_of_range")  # images in the moments, and those that are not
MOST_FAULTS = 50  # that `verify` names

Span = tuple[int, int]


def segment_name(start: int, stop: int) -> str:
    """Name of the segment of images ``start ... stop - 1``; names sort as the ranges do."""
    return f"{SEGMENTS}/{start:015d}-{stop:015d}.npz"


def responses_name(start: int, stop: int) -> str:
    """Name of the responses of the images ``start ... stop - 1``."""
    return f"{RESPONSES}/{start:015d}-{stop:015d}.parquet"


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def pack_moments(partial: Partial, fingerprint: str, responses: Mapping[str, Any] | None = None) -> bytes:
    """A partial as an object: segments and ``result/moments.npz`` are both this. `responses`: size and digest of its responses."""
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
    return pack(header if responses is None else header | {"responses": responses}, moments.arrays())


def unpack_moments(data: bytes, fingerprint: str, where: str, extent: AnyExtent | None = None) -> Partial:
    """Read a partial back, checked against digest, fingerprint, and (where it is given) what the run's spec allows."""
    return _unpack_moments(data, fingerprint, where, extent)[0]


def _unpack_moments(data: bytes, fingerprint: str, where: str, extent: AnyExtent | None) -> tuple[Partial, dict[str, Any]]:
    header, arrays = unpack(data, where)
    if header.get("format") != FORMAT or header.get("fingerprint") != fingerprint:
        raise RunError(f"{where} belongs to another run (its fingerprint is {str(header.get('fingerprint'))[:12]}...); move it away")
    try:
        start, stop = header["start"], header["stop"]
        if type(start) is not int or type(stop) is not int or not 0 <= start < stop:
            raise ValueError("no range of images")
        kind = Moments if "sum_x" in arrays else PassSums
        partial = Partial(start, stop, kind.from_arrays(arrays))
        if extent is not None:
            extent.check(partial.moments)
        return partial, header
    except MemoryError:
        raise no_memory(where) from None
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
    responses: Mapping[str, Any] | None = None

    def listed(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        return {key: value for key, value in vars(self).items() if value is not None}


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
        data = self.store.read(name, most=MOST_JSON)
        if data is None:
            return None
        where = f"{self.url}/{name}"
        value = parse_json(data, where)
        if name == EVALUATION:
            check_evaluation(value, where)
        return value

    def spec(self) -> dict[str, Any]:
        """What ``spec.json`` says, its fingerprint checked; `RunError` where there is no run."""
        return self.describe()[0]

    def describe(self) -> tuple[dict[str, Any], AnyExtent]:
        """What ``spec.json`` says, and how large the run's objects may be."""
        spec = self.read_json(SPEC)
        if spec is None:
            raise RunError(f"no run at '{self.url}' (it has no {SPEC}); give the --out of a run")
        where = f"{self.url}/{SPEC}"
        if spec.get("format") not in FORMATS:
            raise RunError(
                f"{where}: format {plain(str(spec.get('format')), 40)!r}, but this version reads {', '.join(map(repr, FORMATS))}"
            )
        digest = spec.pop("digest", None)
        try:
            if sha256(canonical(spec.get("identity")).encode()) != spec.get("fingerprint"):
                raise RunError(f"{where} is damaged: its fingerprint does not match its identity")
            if digest != sha256(canonical(spec).encode()):
                raise RunError(f"{where} is damaged: its digest does not match")
        except RecursionError:
            raise RunError(f"{where} is damaged (nested too deeply)") from None
        extent = _extent(spec, where)
        return spec | {"spec": redacted_tree(spec["spec"])}, extent  # earlier versions stored secrets of URLs

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
        offset = job.offset if isinstance(job.spec.stimulus.offset, str) else None
        self._begin(wanted, environment, {OFFSET: offset, BASIS: job.basis})

    def begin_pass(
        self,
        identity: Mapping[str, Any],
        samples: int,
        names: Sequence[str],
        spec: Mapping[str, Any],
        environment: Mapping[str, Any],
        kind: str = PASS_FORMAT,
    ) -> str:
        """Make this a pass over kept responses (or a run of trials), or make sure that it is; gives its fingerprint."""
        fingerprint = sha256(canonical(identity).encode())
        wanted: dict[str, Any] = {
            "format": kind,
            "fingerprint": fingerprint,
            "identity": identity,
            "samples": samples,
            "names": list(names),
            "spec": spec,
        }
        self._begin(wanted, environment, {})
        return fingerprint

    def _begin(self, wanted: dict[str, Any], environment: Mapping[str, Any], arrays: Mapping[str, NDArray[Any] | None]) -> None:
        wanted |= {"spec": redacted_tree(wanted["spec"])}  # its identity stays: that is what a run is
        if self.read_json(SPEC) is None:
            described = _json(wanted | {"digest": sha256(canonical(wanted).encode())})
            extent = _extent(wanted, f"{self.url}/{SPEC}")  # what is written here can be read again
            if len(described) > MOST_JSON:
                raise RunError(f"{SPEC} would have {len(described):,} bytes, but at most {MOST_JSON:,} are read again; give fewer outputs")
            for name, array in arrays.items():
                data = b"" if array is None else to_npy(array)
                if data and not self.store.create(name, data) and self.store.read(name, extent.most(name)) != data:
                    what = name.partition(".")[0]
                    raise RunError(f"{self.url}/{name} is not this run's {what}, and there is no {SPEC}; give another --out, or delete it")
            self.store.create(ENVIRONMENT, _json(redacted_tree(environment)))
            if self.store.create(SPEC, described):
                return
        found = self.spec()
        keep = ("samples", "identity")
        old, new = ({k: d.get(k) for k in keep} | {"stop": d["spec"].get("stop")} for d in (found, wanted))
        changes = list(differences(old, new))
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
                raise RunError(f"{self.url}/{plain(name, 200)} is no segment of this run; move it away")
            start, stop = int(match[1]), int(match[2])
            if start < end or stop <= start:
                raise RunError(f"{self.url}: the segments {last} and {name} overlap; delete one and run the same command again")
            found[start, stop] = name
            end, last = stop, name
        return found

    def gaps(self, samples: int, most: int | None = None) -> list[Span]:
        """Ranges of the first `samples` images that no segment covers; later looks may have segments up to `most` images."""
        missing, at, found = [], 0, list(self.segments())
        end = found[-1][1] if found else 0
        if end > (most or samples):
            raise RunError(f"{self.url}: segments reach image {end}, but the run has {most or samples}; this is not its directory")
        for start, stop in found:
            if start >= samples:
                break
            if start > at:
                missing.append((at, start))
            at = stop
        if at > samples:
            raise RunError(f"{self.url}: segments reach over image {samples}, where a look of the run ends; this is not its directory")
        return [*missing, (at, samples)] if at < samples else missing

    def commit(self, partial: Partial, fingerprint: str) -> None:
        """Publish a segment, once. A segment of the same range that is there already must be the same bytes."""
        entry = None
        if partial.stored is not None:  # first: what a segment names is there
            beside, values = responses_name(partial.start, partial.stop), partial.stored.pack(partial.start)
            entry = {"bytes": len(values), "sha256": sha256(values)}
            if not self.store.create(beside, values) and self.store.read(beside) != values:
                raise RunError(
                    f"{self.url}/{beside} exists with other content (of another version?); delete it and run the same command again"
                )
        name, data = segment_name(partial.start, partial.stop), pack_moments(partial, fingerprint, entry)
        if not self.store.create(name, data) and self.store.read(name) != data:
            raise RunError(f"{self.url}/{name} exists with other content; is another job writing to this run?")

    def read_segment(self, name: str, fingerprint: str, extent: AnyExtent | None = None) -> tuple[Partial, SegmentInfo]:
        """A segment, checked: digest, fingerprint, the range in its name, and (where it is given) what the run's spec allows."""
        where, size = f"{self.url}/{name}", self.store.size(name) or 0
        require_memory(2 * size, where)
        data = self.store.read(name, most=size if extent is None else extent.most(name))
        if data is None:
            raise RunError(f"{where} is missing; run the same command again")
        partial, header = _unpack_moments(data, fingerprint, where, extent)
        if segment_name(partial.start, partial.stop) != name:
            raise RunError(f"{where} holds images [{partial.start}, {partial.stop}): it was renamed; move it away and run again")
        m, beside = partial.moments, header.get("responses")
        info = SegmentInfo(name, partial.start, partial.stop, m.images, m.nonfinite, m.out_of_range, len(data), sha256(data), beside)
        return partial, info

    def publish(self, segments: Iterable[SegmentInfo], result: Mapping[str, bytes], fingerprint: str, samples: int) -> None:
        """Write the result's objects, then the manifest."""
        for name, data in result.items():
            self.store.replace(name, data)
        self.store.sweep()
        objects = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in result.items()}
        extent = self.describe()[1]
        for name in (SPEC, ENVIRONMENT, OFFSET, BASIS, BLOCK):
            kept = self.store.read(name, most=MOST_OTHER) if name in extent.objects else None
            if kept is not None:
                objects[name] = {"bytes": len(kept), "sha256": sha256(kept)}
        ordered = sorted(segments, key=lambda s: s.start)
        objects |= {responses_name(s.start, s.stop): dict(s.responses) for s in ordered if s.responses is not None}
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "samples": samples,
            "counts": {key: sum(getattr(s, key) for s in ordered) for key in COUNTS},
            "segments": [s.listed() for s in ordered],
            "objects": dict(sorted(objects.items())),
        }
        faults = tiling_faults(manifest)
        if faults:
            raise RunError(f"{self.url}: the run is not whole: {'; '.join(faults)}; run the same command again")
        if not self.store.create(MANIFEST, _json(manifest)) and self.read_json(MANIFEST) != manifest:
            raise RunError(f"{self.url}/{MANIFEST} exists with other content; is another job writing to this run?")

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None where the run is not finished."""
        manifest = self.read_json(MANIFEST)
        if manifest is not None:
            check_manifest(manifest, f"{self.url}/{MANIFEST}")
        return manifest

    def finished(self) -> tuple[dict[str, Any], dict[str, Any], AnyExtent]:
        """Spec and manifest of a finished run, each checked and fit for the other, and how large its objects may be.

        Raises
        ------
        RunError
            There is no run, it is not finished, or one of the two is damaged.
        """
        spec, extent = self.describe()
        manifest = self.manifest()
        if manifest is None:
            raise RunError(
                f"'{self.url}' has no {MANIFEST}: the run is not finished; run the same command again to go on "
                f"(wna status {self.url} tells how far it is)"
            )
        if manifest["samples"] not in extent.looks:
            raise RunError(f"{self.url}/{MANIFEST} is damaged: it says {manifest['samples']} samples, where the run has {extent.samples}")
        if isinstance(extent, Extent):
            extent = replace(extent, samples=manifest["samples"])
        self.store.refuse_links(listed(manifest))
        for name, entry in listed(manifest).items():
            if entry["bytes"] > extent.most(name):
                raise RunError(
                    f"{self.url}/{MANIFEST} is damaged: it lists {entry['bytes']:,} bytes of {name}, but a run of this spec has at most "
                    f"{extent.most(name):,} there"
                )
        return spec, manifest, extent

    def verify(self) -> list[str]:
        """Prove the run: every fault found, one sentence each; none means that it is whole.

        Compared are: the list of objects with what a run of this spec must and can have; every object
        with its size and digest; the offset and the basis with their digests in the identity; the
        ranges with [0, N); the counts, and every sum of the result, with what the segments hold.
        """
        spec, manifest, extent = self.finished()
        faults = manifest_faults(spec, manifest, extent)
        expected, there = listed(manifest), self.store.list(SEGMENTS)
        names = list(expected)
        if manifest["segments"] and not there:
            names = list(manifest["objects"])
            faults.append(
                f"none of the {len(manifest['segments'])} segments is here (was it fetched without them?), so that they add up to the "
                "result cannot be proved; fetch them, too"
            )
        faults += [fault for name in names if (fault := self._fault(name, expected[name])) is not None]
        faults += [
            f"{plain(name, 200)} is foreign: the manifest does not list it"
            for folder in (SEGMENTS, RESULT, RESPONSES)
            for name in self.store.list(folder)
            if name not in expected
        ]
        faults = faults or self._array_faults(spec, extent)
        faults = faults or self._verify_sums(spec["fingerprint"], manifest, extent)
        return faults if len(faults) <= MOST_FAULTS else [*faults[:MOST_FAULTS], f"and {len(faults) - MOST_FAULTS:,} more faults"]

    def _fault(self, name: str, entry: Mapping[str, Any]) -> str | None:
        """What is wrong with the bytes of an object; they are never all in memory."""
        size = self.store.size(name)
        if size is None:
            return f"{name} is missing"
        if size != entry["bytes"]:
            return f"{name} is damaged: {size} bytes; {MANIFEST} says {entry['bytes']}"
        digest = hashlib.sha256()
        for chunk in self.store.chunks(name):
            digest.update(chunk)
        if digest.hexdigest() == entry["sha256"]:
            return None
        return f"{name} is damaged: SHA-256 {digest.hexdigest()[:12]}...; {MANIFEST} says {entry['sha256'][:12]}..."

    def _array_faults(self, spec: Mapping[str, Any], extent: AnyExtent) -> list[str]:
        """Compare the arrays that stimuli are made of with what the identity says of them."""
        faults = []
        for name in (OFFSET, BASIS, BLOCK):
            if name in extent.objects:
                size = self.store.size(name) or 0  # as the manifest says, which was compared
                require_memory(3 * size, f"{self.url}/{name}")
                if not _is_of(spec, extent, name, self.store.read(name, most=size) or b""):
                    what = name.partition(".")[0]
                    faults.append(f"{name} is not the {what} that {SPEC} tells of")
        return faults

    def _verify_sums(self, fingerprint: str, manifest: Mapping[str, Any], extent: AnyExtent) -> list[str]:
        """Add the segments up again and compare with the result: the counts and every sum."""
        objects, total = manifest["objects"], None
        sizes = [entry["bytes"] for name, entry in listed(manifest).items() if name == MOMENTS or _SEGMENT.fullmatch(name)]
        require_memory(4 * max(sizes, default=0), f"adding up the segments of '{self.url}'")
        for said in manifest["segments"]:
            partial, info = self.read_segment(said["name"], fingerprint, extent)
            if any(said.get(key) != value for key, value in vars(info).items()):
                return [f"{said['name']}: its header says {info.listed()}, the manifest {said}"]
            total = partial if total is None else total.merge(partial)
        if total is None or MOMENTS not in objects or sha256(pack_moments(total, fingerprint)) != objects[MOMENTS]["sha256"]:
            return [f"{MOMENTS} is not the sum of the segments"]
        return []


def _extent(spec: Mapping[str, Any], where: str) -> AnyExtent:
    if spec["format"] == PASS_FORMAT:
        return check_pass(spec, where)
    return check_trials(spec, where) if spec["format"] == TRIALS_FORMAT else check_described(spec, where)


def _is_of(spec: Mapping[str, Any], extent: AnyExtent, name: str, data: bytes) -> bool:
    """Whether an array that stimuli are made of is the one that the identity has the digest of."""
    try:
        array = from_npy(data)
    except ValueError:
        return False
    if not isinstance(extent, Extent):  # a block has no digest there, but its shape is that of the sums
        shape = extent.shape["d"], extent.shape["columns"]
        return array.shape == shape and array.dtype == np.float64
    said: Mapping[str, Any] = spec["identity"]["stimulus"]
    if name == BASIS:
        return array.dtype == np.int32 and digest(array) == said["content"]
    if array.shape != extent.whole or array.dtype != np.float32:
        return False
    stimulus = Stimulus(Spec.parse(spec["spec"], SPEC).stimulus, 0, array)
    return bool(stimulus.offset_digest == said["offset"])


def listed(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and digest of every object that a manifest lists, by name."""
    segments: dict[str, dict[str, Any]] = {s["name"]: s for s in manifest["segments"]}
    objects: dict[str, dict[str, Any]] = manifest["objects"]
    return segments | objects


def manifest_faults(spec: Mapping[str, Any], manifest: Mapping[str, Any], extent: AnyExtent) -> list[str]:
    """What is wrong with a manifest, as far as it and ``spec.json`` tell; one sentence each."""
    same = manifest["fingerprint"] == spec["fingerprint"]
    faults = [] if same else [f"{MANIFEST} is of another run"]
    faults += tiling_faults(manifest)
    return faults + [f"{MANIFEST}: {fault}" for fault in listing_faults(manifest, extent)]


def tiling_faults(manifest: Mapping[str, Any]) -> list[str]:
    """Whether the ranges tile [0, N) and each count is the sum of those of the segments."""
    faults, at = [], 0
    for s in manifest["segments"]:
        if s["start"] != at:
            faults.append(f"images [{min(at, s['start'])}, {max(at, s['start'])}) are counted {'twice' if s['start'] < at else 'never'}")
        if s["images"] + s["nonfinite"] + s["out_of_range"] != s["stop"] - s["start"]:
            faults.append(f"{s['name']} covers {s['stop'] - s['start']} images but counts another number")
        at = s["stop"]
    if at != manifest["samples"]:
        faults.append(f"the segments end at image {at}, not {manifest['samples']}")
    counts = manifest["counts"]
    for key in COUNTS:
        total = sum(s[key] for s in manifest["segments"])
        if counts[key] != total:
            said = f"the count '{key}' is {counts[key]:,}"
            faults.append(f"{said}, but those of the segments add up to {total:,}")
    return faults


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


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
