"""Ways to break a copy of a run: families of random changes, digests forged to match (mostly)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import fuzz_mutations as mutations
from crafted_runs import sparse

from wna_ray.canonical import canonical
from wna_ray.storage.arrays import pack, unpack

Change = Callable[[dict[str, Any]], Any]  # in place
LARGE = 1 << 28  # bytes: of more nobody forges a digest
JSON = ("spec.json", "MANIFEST.json")  # which have families of their own
TIMES = ("2026-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00")


@dataclass(frozen=True)
class Scene:
    """What may be changed: a run, and a folder beside it, to which links lead."""

    rng: Random
    run: Path
    canary: Path


Family = Callable[[Scene], str]  # tells what was done


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write(path: Path, value: Any) -> None:
    path.write_bytes(mutations.dumps(value))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_file(run: Path, name: str) -> bool:
    """Whether an object is a file of the run: no link, and in no folder that is a link."""
    path = run / name
    folders = [run.joinpath(*Path(name).parts[: i + 1]) for i in range(len(Path(name).parts))]
    return path.is_file() and not any(folder.is_symlink() for folder in folders)


def entries(manifest: Any) -> dict[str, dict[str, Any]]:
    """Size and digest of all that a manifest lists, as far as it makes sense."""
    found = list[tuple[Any, Any]]()
    if isinstance(manifest, dict):
        segments, named = manifest.get("segments"), manifest.get("objects")
        if isinstance(segments, list):
            found += [(entry.get("name"), entry) for entry in segments if isinstance(entry, dict)]
        if isinstance(named, dict):
            found += named.items()
    return {name: entry for name, entry in found if _is_name(name) and isinstance(entry, dict)}


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and len(name) < 200 and name.isascii() and name.isprintable()


def seal(run: Path) -> None:
    """Forge sizes and digests of all that the manifest lists."""
    if not own_file(run, "MANIFEST.json"):
        return
    manifest = load(run / "MANIFEST.json")
    for name, entry in entries(manifest).items():
        if own_file(run, name):
            entry["bytes"] = (run / name).stat().st_size
            entry["sha256"] = sha256(run / name) if entry["bytes"] < LARGE else "0" * 64
    write(run / "MANIFEST.json", manifest)


def seal_sweep(run: Path) -> None:
    """Forge what a sweep says of its members."""
    sweep = load(run / "SWEEP.json")
    sweep["spec"] = sha256(run / "spec.json")
    for member in sweep["members"]:
        path = run / member["name"] / "MANIFEST.json"
        if not own_file(run, f"{member['name']}/MANIFEST.json") or path.stat().st_size > LARGE:
            continue
        member["manifest"] = sha256(path)
        try:
            said = load(path)
            member |= {key: said[key] for key in ("fingerprint", "samples")}
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # no manifest any more
    write(run / "SWEEP.json", sweep)


def objects(run: Path, *suffixes: str) -> list[str]:
    """Names of the objects of a run, but not of the runs inside it."""
    inner = {path.parent for path in run.glob("*/MANIFEST.json")}
    files = (p for p in run.rglob("*") if p.is_file() and not inner & set(p.parents))
    return sorted(str(p.relative_to(run)) for p in files if not suffixes or p.suffix in suffixes)


def digest(value: Any, otherwise: Any) -> Any:
    """Digest of a JSON value; something else where it has none."""
    try:
        return hashlib.sha256(canonical(json.loads(mutations.dumps(value))).encode()).hexdigest()
    except (ValueError, RecursionError):
        return otherwise


def respec(run: Path, change: Change, moments: bool = True, samples: bool = True) -> None:
    """Change ``spec.json`` of a run of any kind, and forge every digest.

    Parameters
    ----------
    change
        Changes it in place.
    moments, samples
        Whether the fingerprint in all sums, and the images of the manifest, are forged, too.
    """
    spec = load(run / "spec.json")
    spec.pop("digest")
    change(spec)
    new = spec["fingerprint"] = digest(spec.get("identity"), spec.get("fingerprint"))
    write(run / "spec.json", spec | {"digest": digest(spec, "0" * 64)})
    manifest = load(run / "MANIFEST.json")
    if moments:
        manifest["fingerprint"] = new
        for path in [*run.glob("segments/*.npz"), run / "result/moments.npz"]:
            header, arrays = unpack(path.read_bytes(), path.name)
            header["fingerprint"] = new if isinstance(new, str) else ""
            path.write_bytes(pack(header, arrays))
    if samples and isinstance(spec.get("samples"), int):
        manifest["samples"] = spec["samples"]
    write(run / "MANIFEST.json", manifest)
    seal(run)


def spec_json(scene: Scene) -> str:
    """Other words in ``spec.json``: alone, with fingerprints that match, or in the identity too."""
    rng, done = scene.rng, list[str]()
    moments, samples, twice = rng.random() < 0.6, rng.random() < 0.5, rng.random() < 0.3

    def change(spec: dict[str, Any]) -> None:
        asked, own = spec.get("spec", {}), spec["identity"]
        both = sorted(key for key in asked if isinstance(asked[key], dict) and key in own)
        both = [key for key in both if isinstance(own[key], dict)]
        if twice and both:
            section = rng.choice(both)
            done.append(f"both {section}: {mutations.change(rng, asked[section])}")
            same = {key: asked[section][key] for key in asked[section].keys() & own[section].keys()}
            own[section] |= {key: value for key, value in same.items() if key != "offset"}
        else:
            done.extend(mutations.change(rng, spec) for _ in range(rng.choice([1, 1, 2])))

    respec(scene.run, change, moments, samples)
    return "; ".join(done) + ", moments forged" * moments + ", samples forged" * samples


def manifest_json(scene: Scene) -> str:
    """Other words in ``MANIFEST.json``."""
    manifest = load(scene.run / "MANIFEST.json")
    section = scene.rng.choice(["", "", "counts", "segments", "objects"])
    done = mutations.change(scene.rng, manifest[section] if section else manifest)
    write(scene.run / "MANIFEST.json", manifest)
    return f"{section} {done}".strip()


def other_json(scene: Scene) -> str:
    """Other words in another object that is JSON."""
    others = [name for name in objects(scene.run, ".json") if name not in JSON]
    name = scene.rng.choice(others)
    value = load(scene.run / name)
    done = mutations.change(scene.rng, value)
    write(scene.run / name, value)
    seal(scene.run)
    return f"{name}: {done}"


def drivers(scene: Scene) -> str:
    """Other words in a driver's sign of life, as if it were at work."""
    path = scene.run / "drivers/000001.json"
    value = load(path) | {"state": "running", "time": scene.rng.choice(TIMES)}
    section = scene.rng.choice(["", "progress", "phase_seconds", "storage"])
    done = mutations.change(scene.rng, value[section] if section else value)
    write(path, value)
    return f"{section} {done}".strip()


def sweep_json(scene: Scene) -> str:
    """Other words in the files of a sweep."""
    name = scene.rng.choice(["spec.json", "SWEEP.json", "SWEEP.json"])
    value = load(scene.run / name)
    done = mutations.change(scene.rng, value)
    write(scene.run / name, value)
    if name == "spec.json" and scene.rng.random() < 0.6:
        write(
            scene.run / "SWEEP.json",
            load(scene.run / "SWEEP.json") | {"spec": sha256(scene.run / name)},
        )
    return f"{name}: {done}"


def packed(suffix: str, changed: Callable[[Random, bytes], mutations.Changed]) -> Family:
    """Another object with such a name, its digest forged."""

    def harm(scene: Scene) -> str:
        name = scene.rng.choice(objects(scene.run, suffix))
        data, done = changed(scene.rng, (scene.run / name).read_bytes())
        (scene.run / name).write_bytes(data)
        seal(scene.run)
        return f"{name}: {done}"

    return harm


def flips(sealed: bool) -> Family:
    """Other bytes in any object."""

    def harm(scene: Scene) -> str:
        names = [name for name in objects(scene.run) if not sealed or name != "MANIFEST.json"]
        name = scene.rng.choice(names)
        path = scene.run / name
        path.write_bytes(mutations.flipped(scene.rng, path.read_bytes()))
        if sealed:
            seal(scene.run)
        return f"{name}: other bytes"

    return harm


def _instead(make: Callable[[Path], Any]) -> Callable[[Path, Path], Any]:
    def harm(path: Path, _: Path) -> None:
        path.unlink()
        make(path)

    return harm


def _link(path: Path, canary: Path) -> None:
    shutil.move(path, canary / "moved")
    path.symlink_to(canary / "moved")


def _folder_link(path: Path, canary: Path) -> None:
    if (path.parent / "MANIFEST.json").exists():  # the run itself is no object of it
        _instead(lambda place: place.symlink_to("nowhere"))(path, canary)
    else:
        _link(path.parent, canary)


FILES: dict[str, Callable[[Path, Path], Any]] = {
    "a link to the same bytes": _link,
    "in a folder that is a link to the same files": _folder_link,
    "a link to /dev/zero": _instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": _instead(lambda path: path.symlink_to(path)),
    "a pipe": _instead(os.mkfifo),
    "a folder": _instead(Path.mkdir),
    "missing": lambda path, _: path.unlink(),
    "empty": lambda path, _: os.truncate(path, 0),
    "a terabyte": lambda path, _: sparse(path),
    "linked twice": lambda path, canary: os.link(path, canary / "twice"),
}
if os.geteuid() == 0:
    FILES["a device"] = _instead(lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)))


def file_kind(scene: Scene) -> str:
    """Something else than a file, or another one, in an object's place."""
    what, name = scene.rng.choice(sorted(FILES)), scene.rng.choice(objects(scene.run))
    FILES[what](scene.run / name, scene.canary)
    forged = name != "MANIFEST.json" and scene.rng.random() < 0.6
    if forged:
        seal(scene.run)
    return f"{name} is {what}{', forged' * forged}"


FAMILIES: dict[str, tuple[int, Family]] = {  # how often, and what is done
    "spec.json": (30, spec_json),
    "MANIFEST.json": (12, manifest_json),
    "drivers": (4, drivers),
    "other json": (5, other_json),
    "file kind": (8, file_kind),
    "flips": (9, flips(sealed=False)),
    "flips, sealed": (6, flips(sealed=True)),
    "npz": (14, packed(".npz", mutations.archive)),
    "npy": (6, packed(".npy", mutations.array)),
    "parquet": (6, packed(".parquet", mutations.table)),
}
