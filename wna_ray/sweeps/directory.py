"""A sweep on disk: many whole runs in one directory, and the proof that all are there.

    OUT/
      spec.json          what was asked: the axes, and the spec of every member
      seed-0/uniform/    a run directory like any other, one for each member
      SWEEP.json         published last, once: every member with its fingerprint, N and the
                         digest of its manifest

Each member can be resumed, verified and reported by itself, by its own path.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from wna_ray.canonical import differences, json_bytes, sha256
from wna_ray.errors import RunError, SpecError, StoreError
from wna_ray.runs.claim import claim
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.driver import latest
from wna_ray.runs.driver_record import DriverRecord
from wna_ray.runs.manifest import Manifest
from wna_ray.runs.names import MANIFEST
from wna_ray.specs.parse import parse_spec
from wna_ray.specs.sweep import MOST_MEMBERS, NAME, SweepSpec, identity
from wna_ray.storage.bounds import MOST_JSON, Digest, Loose, parse_json
from wna_ray.storage.store import Place, Store
from wna_ray.text import plain, redacted_tree

FORMAT = "wna-sweep/1"
SPEC, SWEEP = "spec.json", "SWEEP.json"

_PATH = re.compile(rf"{NAME}(/{NAME})*")


class Axis(Loose):
    """An axis of a sweep, and the names of its values."""

    name: Annotated[str, Field(pattern=rf"^{NAME}$")]
    values: list[Annotated[str, Field(pattern=rf"^{NAME}$")]]


class WantedMember(Loose):
    """A member as it is to be made."""

    name: str
    spec: dict[str, Any]


class PublishedMember(Loose):
    """A member as it was published: its fingerprint, N, and the digest of its manifest."""

    name: str
    fingerprint: Digest
    samples: Annotated[int, Field(ge=1, le=1 << 41)]
    manifest: Digest


class SweepRecord(Loose):
    """What both objects of a sweep say; its members are the product of its axes."""

    format: Literal["wna-sweep/1"]
    axes: Annotated[list[Axis], Field(min_length=1, max_length=MOST_MEMBERS)]
    members: Annotated[list[WantedMember] | list[PublishedMember], Field(max_length=MOST_MEMBERS)]

    @model_validator(mode="after")
    def _check(self) -> SweepRecord:
        count = 1
        for axis in self.axes:
            count *= len(axis.values)
            if count > MOST_MEMBERS:
                raise ValueError(f"more than {MOST_MEMBERS} members")
        if [m.name for m in self.members] != [
            "/".join(path) for path in itertools.product(*(axis.values for axis in self.axes))
        ]:
            raise ValueError("its members are not the product of its axes")
        return self


class WantedSweep(SweepRecord):
    """What ``spec.json`` says of a sweep: its axes, and the spec of every member."""

    members: list[WantedMember]


class PublishedSweep(SweepRecord):
    """What ``SWEEP.json`` says of a finished sweep, and the digest of its ``spec.json``."""

    spec: Digest
    members: list[PublishedMember]


_W = TypeVar("_W", bound=SweepRecord)


def is_sweep(place: Place | str) -> bool:
    """Whether the directory is one of a sweep, rather than of a run."""
    store = Store(place)
    data = store.read(SPEC, MOST_JSON)
    return data is not None and parse_json(data, f"{store.url}/{SPEC}").get("format") == FORMAT


@dataclass(frozen=True)
class MemberState:
    """How far a member is: images that are committed, of how many (None where it has not
    begun), and what its newest driver said last.
    """

    done: int
    samples: int | None
    finished: bool
    driver: DriverRecord | None


class SweepDirectory:
    """A sweep at a place, finished or not.

    Parameters
    ----------
    place
        A path, any fsspec URL, or a `Place`.
    """

    def __init__(self, place: Place | str) -> None:
        self.store = Store(place)

    @property
    def url(self) -> str:
        """Where the sweep lies."""
        return self.store.url

    def member(self, name: str) -> Place:
        """Where a member lies; `StoreError` where a local folder on the way there is a link."""
        if not _PATH.fullmatch(name):
            raise RunError(f"{plain(name, 80)!r} is no name of a member of a sweep")
        return self.store.below(name)

    def begin(self, spec: SweepSpec) -> None:
        """Make this the directory of a sweep, or make sure that it is; `RunError` names what
        differs.
        """
        new = {name: redacted_tree(identity(member)) for name, member in spec.members.items()}
        wanted = {
            "format": FORMAT,
            "axes": [{"name": axis, "values": list(values)} for axis, values in spec.axes.items()],
            "members": [{"name": name, "spec": member} for name, member in new.items()],
        }
        described = json_bytes(wanted)
        if len(described) > MOST_JSON:
            raise RunError(
                f"{SPEC} would have {len(described):,} bytes, but at most {MOST_JSON:,} are read"
                " again; cut the sweep in several"
            )
        claim(
            self.store, SPEC, described, partial(self._differs, spec, new), "another sweep", "sweep"
        )

    def _differs(self, spec: SweepSpec, new: Mapping[str, Any]) -> list[str]:
        """What differs from the sweep that is there, one line each."""
        recorded = self.describe()
        old = {m.name: redacted_tree(m.spec) for m in recorded.members}
        axes, wanted = self.axes_of(recorded), dict(spec.axes)
        listed = ({axis: list(values) for axis, values in some.items()} for some in (axes, wanted))
        lines = [
            f"axes.{path}: {a} -> {b}" for path, a, b in differences(next(listed), next(listed))
        ]
        if not lines and list(axes) != list(wanted):
            lines = [f"order of axes: {', '.join(axes)} -> {', '.join(wanted)}"]
        changed: dict[tuple[str, str, str], list[str]] = {}
        for name in [name for name in new if name in old]:
            for change in differences(old[name], new[name]):
                changed.setdefault(change, []).append(name)
        for (path, a, b), names in changed.items():
            whose = "all members" if len(names) == len(new) > 1 else _some(names)
            lines.append(f"{path}: {a} -> {b} ({whose})")
        return lines

    def describe(self) -> WantedSweep:
        """What was asked."""
        return self._checked(
            SPEC,
            WantedSweep,
            f"no sweep at '{self.url}' (it has no {SPEC}); give the --out of a sweep",
        )

    def published(self) -> PublishedSweep:
        """What was published; `RunError` where the sweep is not finished."""
        way = f"run the same command again to go on (wna status {self.url} tells how far it is)"
        return self._checked(
            SWEEP, PublishedSweep, f"'{self.url}' has no {SWEEP}: the sweep is not finished; {way}"
        )

    def is_published(self) -> bool:
        """Whether the sweep is finished."""
        return self.store.size(SWEEP) is not None

    @staticmethod
    def axes_of(whole: SweepRecord) -> dict[str, tuple[str, ...]]:
        """Names of the values of each axis."""
        return {axis.name: tuple(axis.values) for axis in whole.axes}

    def state(self, name: str) -> MemberState:
        """How far a member is, from its directory alone."""
        directory = RunDirectory(self.member(name))
        if directory.store.size("spec.json") is None:
            return MemberState(0, None, False, None)
        samples, manifest = directory.spec().samples, directory.manifest()
        driver = latest(directory)[1]
        if manifest is not None:
            return MemberState(manifest.samples, manifest.samples, True, driver)
        return MemberState(
            samples - sum(b - a for a, b in directory.gaps(samples)), samples, False, driver
        )

    def publish(self, spec: SweepSpec) -> None:
        """Write what the members are; `RunError` where one is not finished, or another sweep
        was published.
        """
        members = []
        for name in spec.members:
            data, manifest = self._manifest(name)
            members.append(
                {
                    "name": name,
                    "fingerprint": manifest.fingerprint,
                    "samples": manifest.samples,
                    "manifest": sha256(data),
                }
            )
        whole = {
            "format": FORMAT,
            "spec": sha256(self.store.read(SPEC, MOST_JSON) or b""),
            "axes": [{"name": axis, "values": list(values)} for axis, values in spec.axes.items()],
            "members": members,
        }
        self.store.sweep()
        if not self.store.create(SWEEP, json_bytes(whole)):
            raise RunError(
                f"{self.url}/{SWEEP} exists with other content; was a member deleted and run again?"
                " Then delete it, too"
            )

    def verify(self) -> dict[str, list[str]]:
        """Prove a finished sweep: the faults of each member, and under ``""`` of the sweep itself.

        Compared are: ``spec.json`` with its digest, its axes and members with those that were
        published; each member's manifest with its digest, its spec with the one that was asked for;
        and all that `RunDirectory.verify` compares in each member. Lists are empty where no fault
        is.
        """
        published = self.published()
        wanted, own = self.wanted_faults(published)
        faults = {"": own}
        for done in published.members:
            try:
                self.require_published(done)
                directory = RunDirectory(self.member(done.name))
                faults[done.name] = directory.verify()
                if done.name in wanted and not _is_wanted(wanted[done.name], directory.spec().spec):
                    fault = f"its spec is not the one that the sweep's {SPEC} has for it"
                    faults[done.name].append(fault)
            except StoreError as error:
                if error.passing:  # as it would be for all others
                    raise
                faults[done.name] = [str(error)]
            except (RunError, SpecError) as error:
                faults[done.name] = [str(error)]
        return faults

    def wanted_faults(
        self, published: PublishedSweep
    ) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Specs that were asked for, by member, and what is wrong with the object that says so."""
        data = self.store.read(SPEC, MOST_JSON)
        if data is None or sha256(data) != published.spec:
            return {}, [f"{SPEC} is not what {SWEEP} lists"]
        wanted = self.describe()
        # The members of each are the product of its axes, so these are enough.
        faults = [] if wanted.axes == published.axes else [f"{SWEEP} has other axes than {SPEC}"]
        return {m.name: m.spec for m in wanted.members}, faults

    def require_published(self, done: PublishedMember) -> None:
        """`RunError` unless a member is what was published."""
        data, manifest = self._manifest(done.name)
        if sha256(data) != done.manifest or (manifest.fingerprint, manifest.samples) != (
            done.fingerprint,
            done.samples,
        ):
            raise RunError(f"{self.url}/{done.name}/{MANIFEST} is not what {SWEEP} lists")

    def _manifest(self, name: str) -> tuple[bytes, Manifest]:
        """Bytes and content of a member's manifest."""
        place = self.member(name)
        data = Store(place).read(MANIFEST, MOST_JSON)
        if data is None:
            raise RunError(
                f"'{place.url}' has no {MANIFEST}: this member is not finished, or was deleted; run"
                " the same command again"
            )
        where = f"{place.url}/{MANIFEST}"
        return data, Manifest.parse(parse_json(data, where), where)

    def _checked(self, name: str, kind: type[_W], otherwise: str) -> _W:
        data = self.store.read(name, MOST_JSON)
        if data is None:
            raise RunError(otherwise)
        where = f"{self.url}/{name}"
        value = parse_json(data, where)
        if value.get("format") != FORMAT:
            raise RunError(f"{where} is not of a sweep; give another --out")
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise RunError(
                f"{where} is damaged ({plain(f'{place}: ' * bool(place) + fault['msg'], 200)})"
            ) from None


def _is_wanted(wanted: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Whether a spec is the one that was asked for; a batch that it was to choose may be any."""
    first, second = parse_spec(redacted_tree(wanted), SPEC), parse_spec(redacted_tree(spec), SPEC)
    if type(first) is type(second):
        first = first.chosen_from(second)
    return identity(first) == identity(second)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
