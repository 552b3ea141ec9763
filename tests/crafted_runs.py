"""Runs as nobody makes them: parts of a finished run changed, with digests that fit, to what a
stranger may send.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wna_ray.canonical import canonical, sha256
from wna_ray.moments.moments import Moments, Partial
from wna_ray.runs.segments import pack_moments, unpack_moments

SEGMENT, MOMENTS, OUTPUTS = (
    "segments/000000000000512-000000000001024.npz",
    "result/moments.npz",
    "result/map_outputs.npy",
)


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def manifest(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest."""
    found = load(run / "MANIFEST.json")
    change(found)
    (run / "MANIFEST.json").write_text(json.dumps(found))


def seal(run: Path) -> None:
    """Forge sizes and digests of all that the manifest lists."""

    def forge(found: dict[str, Any]) -> None:
        for name, entry in [(s["name"], s) for s in found["segments"]] + list(
            found["objects"].items()
        ):
            if (run / name).is_file():
                entry |= {
                    "bytes": (run / name).stat().st_size,
                    "sha256": sha256((run / name).read_bytes()),
                }

    manifest(run, forge)


def write(run: Path, name: str, data: bytes) -> None:
    """Put other bytes in an object's place, and forge the manifest to match."""
    (run / name).write_bytes(data)
    seal(run)


def respec(
    run: Path,
    change: Callable[[dict[str, Any]], Any],
    moments: Callable[[Moments], Moments] = lambda m: m,
) -> None:
    """Change ``spec.json`` and all moments, and forge every digest and fingerprint to match."""
    spec = load(run / "spec.json")
    old = spec["fingerprint"]
    spec.pop("digest")
    change(spec)
    new = spec["fingerprint"] = sha256(canonical(spec["identity"]).encode())
    (run / "spec.json").write_text(json.dumps(spec | {"digest": sha256(canonical(spec).encode())}))
    for path in [*(run / "segments").iterdir(), run / MOMENTS]:
        partial = unpack_moments(path.read_bytes(), old, path.name)
        path.write_bytes(
            pack_moments(Partial(partial.start, partial.stop, moments(partial.moments)), new)
        )
    manifest(run, lambda found: found.update(fingerprint=new, samples=spec["samples"]))
    seal(run)


def both(spec: dict[str, Any], section: str, **values: Any) -> None:
    """Change what the spec asks for, and the identity with it."""
    spec["spec"][section] |= values
    spec["identity"][section] |= values


def renamed(run: Path, names: list[str]) -> None:
    """Give the outputs other names, in the spec and in the table."""
    respec(run, lambda spec: spec.update(names=names))
    table = pq.read_table(run / "result/classes.parquet")
    old = sorted(set(table["name"].to_pylist()))
    new = dict(zip(old, names, strict=True)) | {None: None}
    for column in ("name", "self_label"):
        values = pa.array([new[v] for v in table[column].to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, run / "result/classes.parquet")
    seal(run)


def npy(header: bytes, data: bytes = b"") -> bytes:
    """A ``.npy`` with a header of one's own."""
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(contents: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in contents:
            archive.writestr(name, data)
    return buffer.getvalue()


class Bomb:
    """What a pickle would execute."""

    def __reduce__(self) -> Any:
        return __import__, ("trap_for_tests",)


PICKLED = npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps(Bomb()))


def swapped(run: Path, member: str, data: bytes, name: str = MOMENTS) -> None:
    """Another member in a packed object."""
    write(run, name, zipped(list((members(run / name) | {member: data}).items())))


def sparse(path: Path, size: int = 1 << 40) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def listed_sparse(run: Path, name: str, size: int = 1 << 40) -> None:
    """A file of a terabyte (of zeros), and a manifest that knows it."""
    sparse(run / name, size)
    manifest(
        run,
        lambda m: [
            e.update(bytes=size)
            for e in [*m["segments"], m["objects"].get(name, {})]
            if e.get("name", name) == name
        ],
    )


def overlapping() -> bytes:
    """Twenty-six members of 10 MB that are all the same bytes."""
    data = zipped(
        [
            (
                "a.npy",
                npy(
                    b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000,), }",
                    bytes(10_000_000),
                ),
            )
        ]
    )
    start = struct.unpack("<L", data[-6:-2])[0]
    directory = b"".join(
        data[start:-22].replace(b"a.npy", bytes([letter]) + b".npy") for letter in range(97, 123)
    )
    return (
        data[:start]
        + directory
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 26, 26, len(directory), start, 0)
    )


def parquet(run: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Another table."""
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(run / "result/classes.parquet")), sink, **options)
    write(run, "result/classes.parquet", sink.getvalue())


def column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


Harm = Callable[[Path, Path], Any]  # to a run, with a canary folder beside it


def text(run: Path, name: str, data: str) -> None:
    (run / name).write_text(data)


def entry(**values: Any) -> Harm:
    """Other values in the manifest's entry of the moments."""
    return lambda run, _: manifest(run, lambda m: m["objects"][MOMENTS].update(values))


def segment(**values: Any) -> Harm:
    """Other values in the manifest's entry of the first segment."""
    return lambda run, _: manifest(run, lambda m: m["segments"][0].update(values))


def lists(name: str) -> Harm:
    """One more name in the manifest: of an object like another."""
    return lambda run, _: manifest(
        run, lambda m: m["objects"].update({name: m["objects"]["spec.json"]})
    )


def unlisted(run: Path, name: str) -> None:
    """An object that is gone, and a manifest that does not know it."""
    (run / name).unlink()
    manifest(run, lambda m: m["objects"].pop(name))


def wide(spec: dict[str, Any], k: int) -> None:
    """Many outputs, consistently."""
    spec["names"] = [str(i) for i in range(k)]
    spec["identity"]["model"]["outputs"] = k
    spec["identity"]["fixed_point"] = {
        kind: {"exponent": [0] * k, "centre": [0] * k} for kind in ("label", "logits")
    }


def link(name: str) -> Harm:
    """A symbolic link to outside, where the very same bytes lie."""

    def harm(run: Path, canary: Path) -> None:
        target = canary / Path(name).name
        (run / name).rename(target)
        (run / name).symlink_to(target)

    return harm


def fifo(name: str) -> Harm:
    def harm(run: Path, _: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return harm


def evaluation(data: Any) -> Harm:
    def harm(run: Path, _: Path) -> None:
        (run / "evaluation").mkdir(exist_ok=True)
        (run / "evaluation/classifier.json").write_text(
            data if isinstance(data, str) else json.dumps(data)
        )

    return harm


def header(descr: str, shape: str, data: bytes = b"") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode(), data)


SCORED = {
    "dataset": "mnist",
    "images": 10,
    "chance": 0.1,
    "majority_class": 0.1,
    "templates": {"label": {"accuracy": {"correlation": 0.5, "dot": 0.5}}},
}
DEEP = "[" * 200_000
F4 = "'<f4'"
