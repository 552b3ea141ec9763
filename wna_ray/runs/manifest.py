"""``MANIFEST.json``: its types, and what is wrong with a list of objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wna_ray.runs.formats import Extent
from wna_ray.runs.names import MANIFEST
from wna_ray.storage.bounds import Count, Digest, Loose, validated
from wna_ray.text import plain

TOP = ("spec.json", "environment.json", "offset.npy", "basis.npy", "block.npy", "MANIFEST.json")
FOLDERS = ("segments", "result", "result/figures", "responses", "evaluation")

_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}")
_FIGURE = re.compile(r"result/figures/[a-z0-9_-]{1,60}\.png")


class _Entry(Loose):
    bytes: Annotated[int, Field(ge=0, le=1 << 62)]
    sha256: Digest


class _Segment(_Entry):
    name: str
    start: Count
    stop: Count
    images: Count
    nonfinite: Count
    out_of_range: Count
    responses: _Entry | None = None

    @model_validator(mode="after")
    def _check(self) -> _Segment:
        if self.name != f"segments/{self.start:015d}-{self.stop:015d}.npz":
            raise ValueError(
                f"{plain(self.name, 80)!r} is not the segment of images [{self.start}, {self.stop})"
            )
        return self


class _Counts(BaseModel):
    """No other key: whatever is added up has to be compared with the segments."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    images: Count
    nonfinite: Count
    out_of_range: Count


class _Manifest(Loose):
    format: str
    fingerprint: str
    samples: Count
    counts: _Counts
    segments: list[_Segment]
    objects: dict[str, _Entry]

    @model_validator(mode="after")
    def _check(self) -> _Manifest:
        names = [s.name for s in self.segments] + list(self.objects)
        for name in self.objects:
            if not safe(name) or name.startswith("segments/") or name == "MANIFEST.json":
                raise ValueError(f"{plain(name, 80)!r} is no name of an object of a run")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two of its names are the same to some file systems")
        return self


def safe(name: str) -> bool:
    """Whether a name may be an object of a run: known folders, known names at the top, nothing
    that leads elsewhere.
    """
    folder, _, last = name.rpartition("/")
    return bool(_PART.fullmatch(last)) and (folder in FOLDERS or name in TOP)


def check_manifest(manifest: Mapping[str, Any], where: str) -> None:
    """Types and names of ``MANIFEST.json``."""
    validated(_Manifest, manifest, where)


def expected_objects(
    there: Mapping[str, bool], may: Mapping[str, bool] | None = None
) -> dict[str, bool]:
    """What every finished run has, what of `there` this one has, and what of `may` it may have."""
    always = ("spec.json", "environment.json", "result/moments.npz")
    optional = {name: False for name, possible in (may or {}).items() if possible}
    return (
        dict.fromkeys(always, True) | {name: True for name, has in there.items() if has} | optional
    )


def listing_faults(manifest: Mapping[str, Any], extent: Extent) -> list[str]:
    """What a manifest does not list though its run must have it, or lists though its run cannot.

    Figures may be any: versions draw different ones. Responses are those that the segments name,
    of every segment or of none.
    """
    known, listed = extent.objects, manifest["objects"]
    spans = {(s["start"], s["stop"]): s.get("responses") for s in manifest["segments"]}
    beside = {f"responses/{a:015d}-{b:015d}.parquet": said for (a, b), said in spans.items()}
    must = [name for name in known if known[name]] + list(beside) * extent.kept
    missing = [name for name in must if name not in listed]
    faults = [f"it does not list {name}, which every run of this spec has" for name in missing]
    for name, said in beside.items():
        if said is not None and not extent.kept:
            faults.append(f"a segment has {name}, but its spec keeps no responses")
        elif extent.kept and name in listed and said != listed[name]:
            faults.append(f"{name} is not listed with the digest that its segment has")
    return faults + [
        f"it lists {plain(name, 200)}, which no run of this spec has"
        for name in listed
        if name not in known
        and not (extent.kept and name in beside)
        and not (extent.figures and _FIGURE.fullmatch(name))
    ]


COUNTS = ("images", "nonfinite", "out_of_range")  # images in the moments, and those that are not


def listed(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and digest of every object that a manifest lists, by name."""
    segments: dict[str, dict[str, Any]] = {s["name"]: s for s in manifest["segments"]}
    objects: dict[str, dict[str, Any]] = manifest["objects"]
    return segments | objects


def manifest_faults(
    spec: Mapping[str, Any], manifest: Mapping[str, Any], extent: Extent
) -> list[str]:
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
            faults.append(
                f"images [{min(at, s['start'])}, {max(at, s['start'])}) are counted"
                f" {'twice' if s['start'] < at else 'never'}"
            )
        if s["images"] + s["nonfinite"] + s["out_of_range"] != s["stop"] - s["start"]:
            faults.append(
                f"{s['name']} covers {s['stop'] - s['start']} images but counts another number"
            )
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
