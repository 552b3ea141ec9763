"""``MANIFEST.json``: what it says, as records, and what is wrong with a list of objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wna_ray.runs.formats import Extent
from wna_ray.runs.names import MANIFEST
from wna_ray.storage.bounds import Count, Digest, Loose, validated
from wna_ray.text import plain

TOP = ("spec.json", "environment.json", "offset.npy", "basis.npy", "block.npy", "MANIFEST.json")
FOLDERS = ("segments", "result", "result/figures", "responses", "evaluation")
COUNTS = ("images", "nonfinite", "out_of_range")  # images in the moments, and those that are not

_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}")
_FIGURE = re.compile(r"result/figures/[a-z0-9_-]{1,60}\.png")


class Entry(Loose):
    """Size and digest of an object."""

    bytes: Annotated[int, Field(ge=0, le=1 << 62)]
    sha256: Digest


class Segment(Entry):
    """A segment: its object, the range of its images, and how many of them were counted in.

    Attributes
    ----------
    name
        Of its object.
    start, stop
        Its range is [start, stop).
    images, nonfinite, out_of_range
        Images in the moments, and those that are not.
    responses
        Its responses, where they are kept.
    """

    name: str
    start: Count
    stop: Count
    images: Count
    nonfinite: Count
    out_of_range: Count
    responses: Entry | None = None

    @model_validator(mode="after")
    def _check(self) -> Segment:
        if self.name != f"segments/{self.start:015d}-{self.stop:015d}.npz":
            raise ValueError(
                f"{plain(self.name, 80)!r} is not the segment of images [{self.start}, {self.stop})"
            )
        return self

    def written(self) -> dict[str, Any]:
        """Its entry in the manifest, as plain JSON values."""
        keys = ("name", "start", "stop", *COUNTS, "bytes", "sha256")
        entry = {key: getattr(self, key) for key in keys}
        if self.responses is not None:
            entry["responses"] = self.responses.model_dump()
        return entry


class Counts(BaseModel):
    """Images by what became of them. No other key: whatever is added up has to be compared with
    the segments.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    images: Count
    nonfinite: Count
    out_of_range: Count

    @classmethod
    def total(cls, segments: list[Segment]) -> Counts:
        """Those of some segments together."""
        return cls(**{key: sum(getattr(s, key) for s in segments) for key in COUNTS})


class Manifest(Loose):
    """What ``MANIFEST.json`` says of a finished run.

    Attributes
    ----------
    format
        Of manifests and of packed sums, whatever the kind of job is.
    fingerprint
        Of the run.
    samples
        N: images of the run as it ended.
    counts
        Of all its images.
    segments
        In the order of their ranges.
    objects
        Size and digest of every other object, by name.
    """

    format: str
    fingerprint: str
    samples: Count
    counts: Counts
    segments: list[Segment]
    objects: dict[str, Entry]

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        names = [s.name for s in self.segments] + list(self.objects)
        for name in self.objects:
            if not safe(name) or name.startswith("segments/") or name == "MANIFEST.json":
                raise ValueError(f"{plain(name, 80)!r} is no name of an object of a run")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two of its names are the same to some file systems")
        return self

    @classmethod
    def parse(cls, value: Mapping[str, Any], where: str) -> Self:
        """What a JSON object says; `RunError` where that is no manifest."""
        return validated(cls, value, where)

    @property
    def listed(self) -> dict[str, Entry]:
        """Size and digest of every object, those of segments included, by name."""
        return {s.name: s for s in self.segments} | self.objects

    def written(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        return {
            "format": self.format,
            "fingerprint": self.fingerprint,
            "samples": self.samples,
            "counts": self.counts.model_dump(),
            "segments": [s.written() for s in self.segments],
            "objects": {name: entry.model_dump() for name, entry in self.objects.items()},
        }


def safe(name: str) -> bool:
    """Whether a name may be an object of a run: known folders, known names at the top, nothing
    that leads elsewhere.
    """
    folder, _, last = name.rpartition("/")
    return bool(_PART.fullmatch(last)) and (folder in FOLDERS or name in TOP)


def expected_objects(
    must: Mapping[str, bool], may: Mapping[str, bool] | None = None
) -> dict[str, bool]:
    """What every finished run has, what of `must` this one has, and what of `may` it may have."""
    always = ("spec.json", "environment.json", "result/moments.npz")
    optional = {name: False for name, possible in (may or {}).items() if possible}
    return (
        dict.fromkeys(always, True) | {name: True for name, has in must.items() if has} | optional
    )


def listing_faults(manifest: Manifest, extent: Extent) -> list[str]:
    """What a manifest does not list though its run must have it, or lists though its run cannot.

    Figures may be any: versions draw different ones. Responses are those that the segments name,
    of every segment or of none.
    """
    known, listed = extent.objects, manifest.objects
    responses = {
        f"responses/{s.start:015d}-{s.stop:015d}.parquet": s.responses for s in manifest.segments
    }
    must = [name for name in known if known[name]] + list(responses) * extent.kept
    missing = [name for name in must if name not in listed]
    faults = [f"it does not list {name}, which every run of this spec has" for name in missing]
    for name, entry in responses.items():
        if entry is not None and not extent.kept:
            faults.append(f"a segment has {name}, but its spec keeps no responses")
        elif extent.kept and name in listed and entry != listed[name]:
            faults.append(f"{name} is not listed with the digest that its segment has")
    return faults + [
        f"it lists {plain(name, 200)}, which no run of this spec has"
        for name in listed
        if name not in known
        and not (extent.kept and name in responses)
        and not (extent.figures and _FIGURE.fullmatch(name))
    ]


def manifest_faults(fingerprint: str, manifest: Manifest, extent: Extent) -> list[str]:
    """What is wrong with a manifest of the run that has this fingerprint, as far as it and
    ``spec.json`` tell; one sentence each.
    """
    faults = [] if manifest.fingerprint == fingerprint else [f"{MANIFEST} is of another run"]
    faults += tiling_faults(manifest)
    return faults + [f"{MANIFEST}: {fault}" for fault in listing_faults(manifest, extent)]


def tiling_faults(manifest: Manifest) -> list[str]:
    """Whether the ranges tile [0, N) and each count is the sum of those of the segments."""
    faults, at = [], 0
    for s in manifest.segments:
        if s.start != at:
            faults.append(
                f"images [{min(at, s.start)}, {max(at, s.start)}) are counted"
                f" {'twice' if s.start < at else 'never'}"
            )
        if s.images + s.nonfinite + s.out_of_range != s.stop - s.start:
            faults.append(f"{s.name} covers {s.stop - s.start} images but counts another number")
        at = s.stop
    if at != manifest.samples:
        faults.append(f"the segments end at image {at}, not {manifest.samples}")
    for key in COUNTS:
        count = getattr(manifest.counts, key)
        total = sum(getattr(s, key) for s in manifest.segments)
        if count != total:
            faults.append(
                f"the count '{key}' is {count:,}, but those of the segments add up to {total:,}"
            )
    return faults
