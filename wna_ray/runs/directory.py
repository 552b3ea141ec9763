"""The run directory: what lies where, and the proof that it is whole.

    spec.json          format, fingerprint, identity (what changes a result), samples, the spec as
                       asked, names
    offset.npy         the offset, where it is an image
    basis.npy          the pictures that stimuli are mixtures of, where there are such
    environment.json   versions and device that began the run (told, not compared)
    segments/A-B.npz   partial moments of images A ... B - 1
    responses/A-B.parquet   their responses, where they are kept (see `wna_ray.moments.kept`)
    result/...         the merged moments and everything read out of them
    MANIFEST.json      last: every object with size and SHA-256; the ranges tile [0, N), the counts
                       add up to N

The directory is the database: `gaps` is all that resuming needs, and `verify` needs nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from numpy.typing import NDArray

from wna_ray.canonical import canonical, differences, json_bytes, sha256
from wna_ray.errors import RunError
from wna_ray.geometry import Span
from wna_ray.machine import require_memory
from wna_ray.moments.moments import Partial
from wna_ray.registry import Kind
from wna_ray.runs.claim import claim
from wna_ray.runs.described import Described, require_digests
from wna_ray.runs.formats import Extent, extent_of, kind_of_format
from wna_ray.runs.manifest import (
    Counts,
    Entry,
    Manifest,
    Segment,
    manifest_faults,
    tiling_faults,
)
from wna_ray.runs.names import ENVIRONMENT, MANIFEST, MOMENTS, RESPONSES, RESULT, SEGMENTS, SPEC
from wna_ray.runs.segments import (
    FORMAT,
    SEGMENT_NAME,
    pack_moments,
    responses_name,
    segment_name,
    unpack_segment,
)
from wna_ray.storage.arrays import to_npy
from wna_ray.storage.bounds import MOST_JSON, MOST_OTHER, parse_json, validated
from wna_ray.storage.store import Place, Store
from wna_ray.text import plain, redacted_tree

MOST_FAULTS = 50  # that `verify` names


@dataclass(frozen=True)
class Description:
    """What ``spec.json`` says of a run.

    Attributes
    ----------
    format
        Of its kind (see `wna_ray.registry`).
    identity
        Everything that can change a result, as plain JSON values.
    samples
        N, at most.
    names
        Of outputs or units.
    spec
        As it was written.
    environment
        Versions and device, for the record; they are not compared.
    arrays
        What stimuli are made of, by the name of the object.
    """

    format: str
    identity: Mapping[str, Any]
    samples: int
    names: Sequence[str]
    spec: Mapping[str, Any]
    environment: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical identity: a result is a function of this and N alone."""
        return sha256(canonical(self.identity).encode())


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
        return parse_json(data, f"{self.url}/{name}")

    def kind(self) -> Kind:
        """Which kind of job the directory is of; `RunError` where there is none, or of no kind
        that is installed.
        """
        return kind_of_format(self._read_spec().get("format"), f"{self.url}/{SPEC}")

    def spec(self) -> Described:
        """What ``spec.json`` says, its fingerprint checked; `RunError` where there is no run."""
        return self.describe()[0]

    def describe(self) -> tuple[Described, Extent]:
        """What ``spec.json`` says, and how large the run's objects may be."""
        value, where = self._read_spec(), f"{self.url}/{SPEC}"
        kind_of_format(value.get("format"), where)
        require_digests(value, where)
        extent = extent_of(value, where)
        return Described.parse(value, where), extent

    def _read_spec(self) -> dict[str, Any]:
        spec = self.read_json(SPEC)
        if spec is None:
            raise RunError(f"no run at '{self.url}' (it has no {SPEC}); give the --out of a run")
        return spec

    def begin(self, description: Description) -> None:
        """Make this the run that is described, or make sure that it is; `RunError` names what
        differs.
        """
        wanted: dict[str, Any] = {
            "format": description.format,
            "fingerprint": description.fingerprint,
            "identity": description.identity,
            "samples": description.samples,
            "names": list(description.names),
            "spec": description.spec,
        }
        # its identity stays: that is what a run is
        wanted |= {"spec": redacted_tree(wanted["spec"])}
        described = json_bytes(wanted | {"digest": sha256(canonical(wanted).encode())})
        if self.read_json(SPEC) is None:
            # what is written here can be read again
            extent = extent_of(wanted, f"{self.url}/{SPEC}")
            if len(described) > MOST_JSON:
                raise RunError(
                    f"{SPEC} would have {len(described):,} bytes, but at most {MOST_JSON:,} are"
                    " read again; give fewer outputs"
                )
            for name, array in description.arrays.items():
                data = to_npy(array)
                if (
                    not self.store.create(name, data)
                    and self.store.read(name, extent.most(name)) != data
                ):
                    what = name.partition(".")[0]
                    raise RunError(
                        f"{self.url}/{name} is not this run's {what}, and there is no {SPEC}; give"
                        " another --out, or delete it"
                    )
            self.store.create(ENVIRONMENT, json_bytes(redacted_tree(description.environment)))
        claim(
            self.store,
            SPEC,
            described,
            partial(self._differs, wanted),
            "a run of another spec",
            "spec",
        )

    def _differs(self, wanted: Mapping[str, Any]) -> list[str]:
        """What differs from the run that is there, one line each."""
        recorded = self.spec()
        old = {
            "samples": recorded.samples,
            "identity": recorded.identity,
            "stop": recorded.spec.get("stop"),
        }
        new = {
            "samples": wanted["samples"],
            "identity": wanted["identity"],
            "stop": wanted["spec"].get("stop"),
        }
        changes = list(differences(old, new))
        # they follow from the rest and the machine
        derived = ("identity.canary", "identity.fixed_point")
        if changes and all(path.startswith(derived) for path, _, _ in changes):
            changes = [
                (
                    "answers to the first batch",
                    "as on record",
                    "other bits (another machine or version?)",
                )
            ]
        changes = [change for change in changes if not change[0].startswith(derived)]
        return [
            f"{path.removeprefix('identity.')}: {before} -> {after}"
            for path, before, after in changes
        ]

    def segments(self) -> dict[Span, str]:
        """Committed ranges and their objects, in order; `RunError` where they overlap or a name
        is foreign.
        """
        spans: dict[Span, str] = {}
        end, last = 0, ""
        for name in self.store.list(SEGMENTS):
            match = SEGMENT_NAME.fullmatch(name)
            if match is None:
                raise RunError(
                    f"{self.url}/{plain(name, 200)} is no segment of this run; move it away"
                )
            start, stop = int(match[1]), int(match[2])
            if start < end or stop <= start:
                raise RunError(
                    f"{self.url}: the segments {last} and {name} overlap; delete one and run the"
                    " same command again"
                )
            spans[start, stop] = name
            end, last = stop, name
        return spans

    def gaps(self, samples: int, most: int | None = None) -> list[Span]:
        """Ranges of the first `samples` images that no segment covers; later looks may have
        segments up to `most` images.
        """
        missing, at, spans = [], 0, list(self.segments())
        end = spans[-1][1] if spans else 0
        if end > (most or samples):
            raise RunError(
                f"{self.url}: segments reach image {end}, but the run has {most or samples}; this"
                " is not its directory"
            )
        for start, stop in spans:
            if start >= samples:
                break
            if start > at:
                missing.append((at, start))
            at = stop
        if at > samples:
            raise RunError(
                f"{self.url}: segments reach over image {samples}, where a look of the run ends;"
                " this is not its directory"
            )
        return [*missing, (at, samples)] if at < samples else missing

    def commit(self, partial: Partial, fingerprint: str) -> None:
        """Publish a segment, once. A segment of the same range that is there already must be
        the same bytes.
        """
        entry = None
        if partial.stored is not None:  # first: what a segment names is there
            beside, values = (
                responses_name(partial.start, partial.stop),
                partial.stored.pack(partial.start),
            )
            entry = _entry(values).model_dump()
            if not self.store.create(beside, values) and self.store.read(beside) != values:
                raise RunError(
                    f"{self.url}/{beside} exists with other content (of another version?); delete"
                    " it and run the same command again"
                )
        name, data = (
            segment_name(partial.start, partial.stop),
            pack_moments(partial, fingerprint, entry),
        )
        if not self.store.create(name, data) and self.store.read(name) != data:
            raise RunError(
                f"{self.url}/{name} exists with other content; is another job writing to this run?"
            )

    def read_segment(
        self, name: str, fingerprint: str, extent: Extent | None = None
    ) -> tuple[Partial, Segment]:
        """A segment, checked: digest, fingerprint, the range in its name, and (where it is
        given) what the run's spec allows.
        """
        where, size = f"{self.url}/{name}", self.store.size(name) or 0
        require_memory(2 * size, where)
        data = self.store.read(name, most=size if extent is None else extent.most(name))
        if data is None:
            raise RunError(f"{where} is missing; run the same command again")
        partial, header = unpack_segment(data, fingerprint, where, extent)
        if segment_name(partial.start, partial.stop) != name:
            raise RunError(
                f"{where} holds images [{partial.start}, {partial.stop}): it was renamed; move it"
                " away and run again"
            )
        m, entry = partial.moments, _entry(data)
        segment = {
            "name": name,
            "start": partial.start,
            "stop": partial.stop,
            "images": m.images,
            "nonfinite": m.nonfinite,
            "out_of_range": m.out_of_range,
            "bytes": entry.bytes,
            "sha256": entry.sha256,
            "responses": header.get("responses"),
        }
        return partial, validated(Segment, segment, where)

    def publish(
        self,
        segments: Iterable[Segment],
        result: Mapping[str, bytes],
        fingerprint: str,
        samples: int,
    ) -> None:
        """Write the result's objects, then the manifest."""
        for name, data in result.items():
            self.store.replace(name, data)
        self.store.sweep()
        objects = {name: _entry(data) for name, data in result.items()}
        extent = self.describe()[1]
        for name in (SPEC, ENVIRONMENT, *extent.arrays):
            kept = self.store.read(name, most=MOST_OTHER) if name in extent.objects else None
            if kept is not None:
                objects[name] = _entry(kept)
        ordered = sorted(segments, key=lambda s: s.start)
        objects |= {
            responses_name(s.start, s.stop): s.responses for s in ordered if s.responses is not None
        }
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint,
            samples=samples,
            counts=Counts.total(ordered),
            segments=ordered,
            objects=dict(sorted(objects.items())),
        )
        faults = tiling_faults(manifest)
        if faults:
            raise RunError(
                f"{self.url}: the run is not whole: {'; '.join(faults)}; run the same command again"
            )
        written = manifest.written()
        if (
            not self.store.create(MANIFEST, json_bytes(written))
            and self.read_json(MANIFEST) != written
        ):
            raise RunError(
                f"{self.url}/{MANIFEST} exists with other content; is another job writing to this"
                " run?"
            )

    def manifest(self) -> Manifest | None:
        """The manifest, or None where the run is not finished."""
        value = self.read_json(MANIFEST)
        return None if value is None else Manifest.parse(value, f"{self.url}/{MANIFEST}")

    def finished(self) -> tuple[Described, Manifest, Extent]:
        """Spec and manifest of a finished run, each checked and fit for the other, and how large
        its objects may be.

        Raises
        ------
        RunError
            There is no run, it is not finished, or one of the two is damaged.
        """
        spec, extent = self.describe()
        manifest = self.manifest()
        if manifest is None:
            raise RunError(
                f"'{self.url}' has no {MANIFEST}: the run is not finished; run the same command"
                f" again to go on (wna status {self.url} tells how far it is)"
            )
        if manifest.samples not in extent.looks:
            raise RunError(
                f"{self.url}/{MANIFEST} is damaged: it says {manifest.samples} samples, where"
                f" the run has {extent.samples}"
            )
        extent, listed = extent.until(manifest.samples), manifest.listed
        self.store.refuse_links(listed)
        for name, entry in listed.items():
            if entry.bytes > extent.most(name):
                raise RunError(
                    f"{self.url}/{MANIFEST} is damaged: it lists {entry.bytes:,} bytes of"
                    f" {name}, but a run of this spec has at most {extent.most(name):,} there"
                )
        return spec, manifest, extent

    def verify(self) -> list[str]:
        """Prove the run: every fault found, one sentence each; none means that it is whole.

        Compared are: the list of objects with what a run of this spec must and can have; every
        object with its size and digest; the offset and the basis with their digests in the
        identity; the ranges with [0, N); the counts, and every sum of the result, with what the
        segments hold.
        """
        spec, manifest, extent = self.finished()
        faults = manifest_faults(spec.fingerprint, manifest, extent)
        expected, present = manifest.listed, self.store.list(SEGMENTS)
        names = list(expected)
        if manifest.segments and not present:
            names = list(manifest.objects)
            faults.append(
                f"none of the {len(manifest.segments)} segments is here (was it fetched without"
                " them?), so that they add up to the result cannot be proved; fetch them, too"
            )
        faults += [
            fault for name in names if (fault := self._fault(name, expected[name])) is not None
        ]
        faults += [
            f"{plain(name, 200)} is foreign: the manifest does not list it"
            for folder in (SEGMENTS, RESULT, RESPONSES)
            for name in self.store.list(folder)
            if name not in expected
        ]
        faults = faults or self._array_faults(extent)
        faults = faults or self._verify_sums(manifest, extent)
        return (
            faults
            if len(faults) <= MOST_FAULTS
            else [*faults[:MOST_FAULTS], f"and {len(faults) - MOST_FAULTS:,} more faults"]
        )

    def _fault(self, name: str, entry: Entry) -> str | None:
        """What is wrong with the bytes of an object; they are never all in memory."""
        size = self.store.size(name)
        if size is None:
            return f"{name} is missing"
        if size != entry.bytes:
            return f"{name} is damaged: {size} bytes; {MANIFEST} says {entry.bytes}"
        digest = hashlib.sha256()
        for chunk in self.store.chunks(name):
            digest.update(chunk)
        if digest.hexdigest() == entry.sha256:
            return None
        return (
            f"{name} is damaged: SHA-256 {digest.hexdigest()[:12]}...; {MANIFEST} says"
            f" {entry.sha256[:12]}..."
        )

    def _array_faults(self, extent: Extent) -> list[str]:
        """Compare the arrays that stimuli are made of with what the identity says of them."""
        faults = []
        for name in extent.arrays:
            size = self.store.size(name) or 0  # as the manifest says, which was compared
            require_memory(3 * size, f"{self.url}/{name}")
            if not extent.holds(name, self.store.read(name, most=size) or b""):
                what = name.partition(".")[0]
                faults.append(f"{name} is not the {what} that {SPEC} tells of")
        return faults

    def _verify_sums(self, manifest: Manifest, extent: Extent) -> list[str]:
        """Add the segments up again and compare with the result: the counts and every sum."""
        objects, fingerprint, total = manifest.objects, manifest.fingerprint, None
        sizes = [
            entry.bytes
            for name, entry in manifest.listed.items()
            if name == MOMENTS or SEGMENT_NAME.fullmatch(name)
        ]
        require_memory(4 * max(sizes, default=0), f"adding up the segments of '{self.url}'")
        for listed in manifest.segments:
            partial, segment = self.read_segment(listed.name, fingerprint, extent)
            if segment != listed:
                entry = dict(sorted(listed.written().items()))  # as it lies there
                return [f"{listed.name}: its header says {segment.written()}, the manifest {entry}"]
            total = partial if total is None else total.merge(partial)
        if (
            total is None
            or MOMENTS not in objects
            or sha256(pack_moments(total, fingerprint)) != objects[MOMENTS].sha256
        ):
            return [f"{MOMENTS} is not the sum of the segments"]
        return []


def _entry(data: bytes) -> Entry:
    """Size and digest of an object."""
    return Entry(bytes=len(data), sha256=sha256(data))
