"""Run directories that somebody made to do harm: one sentence, nothing outside the folder, no memory, nothing executed.

One process with everything imported forks a child a command, with 4 GiB of address space more than it has and a minute;
so the whole table takes seconds, and what a child takes at its most is known.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wna_ray.job import run
from wna_ray.moments import Moments, Partial
from wna_ray.results import open_run
from wna_ray.rundir import RunDirectory, pack_moments, sha256, unpack_moments
from wna_ray.spec import Spec, canonical

GROWTH = 1 << 30  # bytes that any child may take beyond what it was born with
SEGMENT, MOMENTS, OUTPUTS = "segments/000000000000512-000000000001024.npz", "result/moments.npz", "result/map_outputs.npy"
COMMANDS = ("fetch", "verify", "report")  # and `open_run` where only it reads what is hostile

NURSERY = """
import json, os, resource, signal, sys, traceback
import typer
import wna_ray.figures, wna_ray.classifier
from wna_ray import cli, open_run

def rss():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) << 10

def touch(url):
    run = open_run(url)
    for name in ("spec", "names", "stimulus", "moments", "classes", "bias_maps", "z_maps", "map_outputs"):
        getattr(run, name)

def child(command, url, cwd, out):
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    os.chdir(cwd)
    signal.alarm(60)
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (4 << 30),) * 2)
    open("/proc/self/clear_refs", "w").write("5")
    born = rss()
    code = 0
    try:
        if command == "open":
            cli._told(touch)(url)
        else:
            cli.app([command, url, *{"fetch": [cwd + "/copy"], "report": ["--to", cwd + "/out"]}.get(command, [])])
    except typer.Exit as left:
        code = left.exit_code
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush(), sys.stderr.flush()
    print(f"\\n{rss() - born}", flush=True)
    os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        child(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Told:
    """How a command ended: exit code, all that it printed, bytes that it took."""

    code: int
    text: str
    growth: int


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, Path, Path], Told]]:
    """Runs a ``wna`` command on a run directory, in a working folder."""
    trap = tmp_path_factory.mktemp("trap")
    (trap / "trap_for_tests.py").write_text(f"open({str(trap / 'sprung')!r}, 'w').close()\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(trap), str(Path(__file__).parents[1])]), "COLUMNS": "200"}
    nursery = subprocess.Popen([sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert nursery.stdin is not None
    assert nursery.stdout is not None

    def wna(name: str, hostile: Path, cwd: Path) -> Told:
        out = cwd / f"{name}.txt"
        print(json.dumps([name, str(hostile), str(cwd), str(out)]), file=nursery.stdin, flush=True)
        code = int(nursery.stdout.readline())
        text, _, growth = out.read_text().rstrip("\n").rpartition("\n")
        assert not (trap / "sprung").exists(), "something of the run was executed"
        return Told(code, text.strip("\n"), int(growth) if growth.isdigit() else -1)

    yield wna
    nursery.stdin.close()
    nursery.wait(timeout=30)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an offset image; not to be changed."""
    folder = tmp_path_factory.mktemp("honest")
    np.save(folder / "offset.npy", np.full((1, 4, 4), 0.5, np.float32))
    spec: dict[str, Any] = {
        "model": "python:networks_for_tests:linear",
        "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0, "offset": str(folder / "offset.npy")},
        "samples": 2000,
        "numerics": {"batch": 64},
        "execution": {"shard": 256, "segments": 4},
    }
    run(Spec.parse(spec), str(folder / "run"), executor="local")
    return folder / "run"


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
        for name, entry in [(s["name"], s) for s in found["segments"]] + list(found["objects"].items()):
            if (run / name).is_file():
                entry |= {"bytes": (run / name).stat().st_size, "sha256": sha256((run / name).read_bytes())}

    manifest(run, forge)


def write(run: Path, name: str, data: bytes) -> None:
    """Put other bytes in an object's place, and forge the manifest to match."""
    (run / name).write_bytes(data)
    seal(run)


def respec(run: Path, change: Callable[[dict[str, Any]], Any], moments: Callable[[Moments], Moments] = lambda m: m) -> None:
    """Change ``spec.json`` and all moments, and forge every digest and fingerprint to match."""
    spec = load(run / "spec.json")
    old = spec["fingerprint"]
    spec.pop("digest")
    change(spec)
    new = spec["fingerprint"] = sha256(canonical(spec["identity"]).encode())
    (run / "spec.json").write_text(json.dumps(spec | {"digest": sha256(canonical(spec).encode())}))
    for path in [*(run / "segments").iterdir(), run / MOMENTS]:
        partial = unpack_moments(path.read_bytes(), old, path.name)
        path.write_bytes(pack_moments(Partial(partial.start, partial.stop, moments(partial.moments)), new))
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
    manifest(run, lambda m: [e.update(bytes=size) for e in [*m["segments"], m["objects"].get(name, {})] if e.get("name", name) == name])


def overlapping() -> bytes:
    """Twenty-six members of 10 MB that are all the same bytes."""
    data = zipped([("a.npy", npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000,), }", bytes(10_000_000)))])
    start = struct.unpack("<L", data[-6:-2])[0]
    directory = b"".join(data[start:-22].replace(b"a.npy", bytes([letter]) + b".npy") for letter in range(97, 123))
    return data[:start] + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 26, 26, len(directory), start, 0)


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
    return lambda run, _: manifest(run, lambda m: m["objects"].update({name: m["objects"]["spec.json"]}))


def unlisted(run: Path, name: str) -> None:
    """An object that is gone, and a manifest that does not know it."""
    (run / name).unlink()
    manifest(run, lambda m: m["objects"].pop(name))


def wide(spec: dict[str, Any], k: int) -> None:
    """Many outputs, consistently."""
    spec["names"] = [str(i) for i in range(k)]
    spec["identity"]["model"]["outputs"] = k
    spec["identity"]["fixed_point"] = {kind: {"exponent": [0] * k, "centre": [0] * k} for kind in ("label", "logits")}


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
        (run / "evaluation/classifier.json").write_text(data if isinstance(data, str) else json.dumps(data))

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

CASES: dict[str, tuple[str, str, Harm]] = {  # which commands refuse it (the others must not mind), with which words the last of them
    "names: traversal": ("fetch verify report", "is no name of an object", lists("../canary/x")),
    "names: traversal below": ("fetch verify report", "is no name of an object", lists("result/../../canary/x")),
    "names: absolute": ("fetch verify report", "is no name of an object", lists("/etc/wna")),
    "names: backslash": ("fetch verify report", "is no name of an object", lists("result/..\\canary")),
    "names: empty": ("fetch verify report", "is no name of an object", lists("")),
    "names: hidden": ("fetch verify report", "is no name of an object", lists("result/.bashrc")),
    "names: another folder": ("fetch verify report", "is no name of an object", lists(".ssh/authorized_keys")),
    "names: another file at the top": ("fetch verify report", "is no name of an object", lists("Makefile")),
    "names: for a terminal": ("fetch verify report", "is no name of an object", lists("result/\x1b[2J\x1b]0;x\x07")),
    "names: a line end": ("fetch verify report", "is no name of an object", lists("result/a\n")),
    "names: very long": ("fetch verify report", "is no name of an object", lists("result/" + "a" * 100_000)),
    "names: the manifest itself": ("fetch verify report", "is no name of an object", lists("MANIFEST.json")),
    "names: equal on a Mac": ("fetch verify report", "the same to some file systems", lists("result/Z_maps.npy")),
    "names: a segment elsewhere": ("fetch verify report", "is not the segment of images", segment(name="segments/../../canary/x")),
    "names: a segment among objects": ("fetch verify report", "is no name of an object", lists("segments/x.npz")),
    "manifest: negative size": ("fetch verify report", "is damaged (objects.result/moments.npz.bytes", entry(bytes=-1)),
    "manifest: size is true": ("fetch verify report", "is damaged (objects.result/moments.npz.bytes", entry(bytes=True)),
    "manifest: size is a text": ("fetch verify report", "is damaged (objects.result/moments.npz.bytes", entry(bytes="9")),
    "manifest: digest is a number": ("fetch verify report", "is damaged (objects.result/moments.npz.sha256", entry(sha256=0)),
    "manifest: digest is a path": ("fetch verify report", "is damaged (objects.result/moments.npz.sha256", entry(sha256="../" * 22)),
    "manifest: size beyond the spec": ("fetch verify report", "of this spec has at most", entry(bytes=1 << 40)),
    "manifest: images is null": ("fetch verify report", "is damaged (segments.0.images", segment(images=None)),
    "manifest: start is huge": ("fetch verify report", "is damaged (segments.0.st", segment(start=10**40, stop=10**41)),
    "manifest: segments is a mapping": (
        "fetch verify report",
        "is damaged (segments",
        lambda r, _: manifest(r, lambda m: m.update(segments={})),
    ),
    "manifest: objects is a list": ("fetch verify report", "is damaged (objects", lambda r, _: manifest(r, lambda m: m.update(objects=[]))),
    "manifest: counts is a list": ("fetch verify report", "is damaged (counts", lambda r, _: manifest(r, lambda m: m.update(counts=[1]))),
    "manifest: a list": ("fetch verify report", "is damaged (no JSON object)", lambda r, _: text(r, "MANIFEST.json", "[]")),
    "manifest: of another run": ("fetch verify report", "another run", lambda r, _: manifest(r, lambda m: m.update(fingerprint="0" * 64))),
    "manifest: nothing listed": ("fetch verify report", "", lambda r, _: manifest(r, lambda m: m.update(objects={}))),
    "manifest: counts that are exchanged": (
        "fetch verify",
        "add up to",
        lambda r, _: manifest(r, lambda m: m.update(counts={"images": 0, "nonfinite": 2000, "out_of_range": 0})),
    ),
    "manifest: another count": (
        "fetch verify report",
        "is damaged (counts.\ufffd[2J",
        lambda r, _: manifest(r, lambda m: m["counts"].update({"\x1b[2J": "x"})),
    ),
    "manifest: no maps": ("fetch verify", "does not list result/z_maps.npy", lambda r, _: unlisted(r, "result/z_maps.npy")),
    "manifest: no environment": ("fetch verify", "does not list environment.json", lambda r, _: unlisted(r, "environment.json")),
    "manifest: an array of another kind": (
        "fetch verify",
        "it lists block.npy, which no run of this spec has",
        lambda r, _: (r / "block.npy").write_bytes(b"") or lists("block.npy")(r, _) or seal(r),
    ),
    "offset: another image": (
        "verify report",
        "is not the offset",
        lambda r, _: write(r, "offset.npy", header(F4, "(1, 4, 4)", bytes(64))),
    ),
    "offset: another number": (
        "fetch verify report",
        "differ in stimulus.offset",
        lambda r, _: respec(r, lambda s: s["spec"]["stimulus"].update(offset=0.25)),
    ),
    "json: 17 MiB of blanks": (
        "fetch verify report",
        "at most 16,777,216 were expected",
        lambda r, _: text(r, "spec.json", " " * (17 << 20)),
    ),
    "json: deep": ("fetch verify report", "nested too deeply", lambda r, _: text(r, "spec.json", DEEP)),
    "json: deep mappings": ("fetch verify report", "nested too deeply", lambda r, _: text(r, "MANIFEST.json", '{"a":' * 200_000)),
    "json: 2 million lists": ("fetch verify report", "", lambda r, _: text(r, "spec.json", '{"identity": [' + "[]," * 2_000_000 + "[]]}")),
    "json: a million keys": (
        "fetch verify report",
        "",
        lambda r, _: text(r, "MANIFEST.json", "{" + ",".join(f'"{i}":{{}}' for i in range(1_000_000)) + "}"),
    ),
    "json: not a number": (
        "fetch verify report",
        "NaN is no number",
        lambda r, _: respec(r, lambda s: None) or text(r, "spec.json", '{"a": NaN}'),
    ),
    "json: infinite": ("fetch verify report", "1e999 is no number", lambda r, _: text(r, "spec.json", '{"a": 1e999}')),
    "json: five thousand digits": ("fetch verify report", "is damaged", lambda r, _: text(r, "spec.json", f'{{"samples": {"9" * 5000}}}')),
    "json: not text": ("fetch verify report", "is damaged", lambda r, _: (r / "spec.json").write_bytes(b"\xff\xfe\x00")),
    "json: format for a terminal": ("fetch verify report", "format", lambda r, _: text(r, "spec.json", '{"format": "\\u001b[2J"}')),
    "spec: a shape of 10^12 pixels": (
        "verify report",
        "",
        lambda r, _: respec(r, lambda s: both(s, "stimulus", shape=[1, 10**6, 10**6])),
    ),
    "spec: few cells, 10^12 pixels": (
        "verify report",
        "of memory, but this machine has",
        lambda r, _: respec(r, lambda s: both(s, "stimulus", shape=[16, 10**6, 10**6], cell=10**6)),
    ),
    "spec: 10^30 pixels a side": (
        "verify report",
        "",
        lambda r, _: respec(r, lambda s: both(s, "stimulus", shape=[10**30, 10**30, 10**30])),
    ),
    "spec: half a million outputs": ("report", "of memory, but this machine has", lambda r, _: respec(r, lambda s: wide(s, 500_000))),
    "spec: millions of names": ("fetch verify report", "names", lambda r, _: respec(r, lambda s: s.update(names=["x"] * 1_500_000))),
    "spec: a name of a megabyte": (
        "fetch verify report",
        "names.0",
        lambda r, _: respec(r, lambda s: s.update(names=["x" * 1_000_000, "b", "c"])),
    ),
    "spec: names are numbers": ("fetch verify report", "names.0", lambda r, _: respec(r, lambda s: s.update(names=[1, 2, 3]))),
    "spec: no names": ("fetch verify report", "names", lambda r, _: respec(r, lambda s: s.update(names=[]))),
    "spec: samples 10^30": ("fetch verify report", "samples", lambda r, _: respec(r, lambda s: s.update(samples=10**30))),
    "spec: unlike its identity": (
        "fetch verify report",
        "differ in stimulus",
        lambda r, _: respec(r, lambda s: s["spec"]["stimulus"].update(scale=2.0)),
    ),
    "spec: identity is a list": ("fetch verify report", "identity", lambda r, _: respec(r, lambda s: s.update(identity=[]))),
    "spec: unknown keys for a terminal": (
        "fetch verify report",
        "unknown key",
        lambda r, _: respec(r, lambda s: s["spec"].update({f"\x1b[2J{i}": 0 for i in range(1000)})),
    ),
    "spec: exponents of a million": (
        "fetch verify report",
        "exponent",
        lambda r, _: respec(r, lambda s: s["identity"]["fixed_point"]["logits"].update(exponent=[10**6] * 3)),
    ),
    "spec: a centre of 10^40": (
        "fetch verify report",
        "centre",
        lambda r, _: respec(r, lambda s: s["identity"]["fixed_point"]["logits"].update(centre=[10**40] * 3)),
    ),
    "spec: a model to import": ("", "", lambda r, _: respec(r, lambda s: s["spec"].update(model="python:trap_for_tests:make"))),
    "spec: a model for a terminal": ("", "", lambda r, _: respec(r, lambda s: s["spec"].update(model="\x1b[2J\n" * 999))),
    "spec: an offset to read": (
        "",
        "",
        lambda r, canary: os.mkfifo(canary / "pipe") or respec(r, lambda s: s["spec"]["stimulus"].update(offset=str(canary / "pipe"))),
    ),
    "moments: a pickle": ("verify report", "no .npy of plain numbers", lambda r, _: swapped(r, "sum_x.npy", PICKLED)),
    "moments: a pickle in a segment": ("verify", "no .npy of plain numbers", lambda r, _: swapped(r, "header.npy", PICKLED, SEGMENT)),
    "moments: a whole pickle": ("verify report", "no end of an archive", lambda r, _: write(r, MOMENTS, pickle.dumps(Bomb()))),
    "moments: a million elements promised": (
        "verify report",
        "do not hold",
        lambda r, _: swapped(r, "sum_x.npy", header("'<i8'", "(1000000000000,)")),
    ),
    "moments: a negative shape": (
        "verify report",
        "no .npy of plain numbers",
        lambda r, _: swapped(r, "sum_x.npy", header("'<i8'", "(-2, -8)", bytes(128))),
    ),
    "moments: an endless dtype": (
        "verify report",
        "damaged",
        lambda r, _: swapped(r, "sum_x.npy", header("'1000000000i8'", "(1000000,)")),
    ),
    "moments: a header that nests": ("verify report", "damaged", lambda r, _: swapped(r, "sum_x.npy", header("(" * 400, "(1,)"))),
    "moments: squeezed": (
        "verify report",
        "is not stored",
        lambda r, _: write(r, MOMENTS, zipped(list(members(r / MOMENTS).items()), zipfile.ZIP_DEFLATED)),
    ),
    "moments: a zip bomb": (
        "verify report",
        "is not stored",
        lambda r, _: write(r, MOMENTS, zipped([("sum_x.npy", header("'<i8'", "(12500000,)", bytes(10**8)))], zipfile.ZIP_BZIP2)),
    ),
    "moments: members that overlap": ("fetch verify report", "", lambda r, _: write(r, MOMENTS, overlapping())),
    "moments: a member twice": (
        "verify report",
        "or two",
        lambda r, _: write(r, MOMENTS, zipped([*members(r / MOMENTS).items(), *members(r / MOMENTS).items()])),
    ),
    "moments: a member that leads elsewhere": ("verify report", "a member", lambda r, _: swapped(r, "../canary.npy", b"")),
    "moments: a directory of a thousand": (
        "verify report",
        "directory",
        lambda r, _: write(r, MOMENTS, zipped([(f"{i}", b"") for i in range(1000)])),
    ),
    "moments: sums that no images have": (
        "verify report",
        "sums that no images can have",
        lambda r, _: respec(
            r, lambda s: None, lambda m: Moments(m.images, m.nonfinite, m.out_of_range, m.sum_x + (1 << 62), m.sum_xx, m.responses)
        ),
    ),
    "moments: other responses": (
        "verify report",
        "moments of label, not of",
        lambda r, _: respec(
            r, lambda s: None, lambda m: Moments(m.images, m.nonfinite, m.out_of_range, m.sum_x, m.sum_xx, {"label": m.responses["label"]})
        ),
    ),
    "outputs: a pickle": ("report", "no .npy of plain numbers", lambda r, _: write(r, OUTPUTS, PICKLED)),
    "outputs: 10^12 promised": ("report", "do not hold", lambda r, _: write(r, OUTPUTS, header(F4, "(1000000, 1000000)"))),
    "outputs: another shape": ("report", "not float32 of shape", lambda r, _: write(r, OUTPUTS, header(F4, "(3, 6)", bytes(72)))),
    "outputs: a structure": (
        "report",
        "no .npy of plain numbers",
        lambda r, _: write(r, OUTPUTS, header("[('a', '<f4')]", "(18,)", bytes(72))),
    ),
    "offset: a pickle": ("verify report", "no .npy of plain numbers", lambda r, _: write(r, "offset.npy", PICKLED)),
    "maps: a pickle": ("open", "no .npy of plain numbers", lambda r, _: write(r, "result/bias_maps.npy", PICKLED)),
    "maps: other bytes": (
        "fetch verify open",
        "is not what the manifest lists",
        lambda r, _: (r / "result/z_maps.npy").write_bytes((r / "result/z_maps.npy").read_bytes()[:-1] + b"x"),
    ),
    "table: garbage": (
        "open",
        "classes.parquet is damaged",
        lambda r, _: write(r, "result/classes.parquet", b"PAR1" + bytes(100) + b"PAR1"),
    ),
    "table: a pickle": ("open", "classes.parquet is damaged", lambda r, _: write(r, "result/classes.parquet", pickle.dumps(Bomb()))),
    "table: more rows": ("open", "rows", lambda r, _: parquet(r, lambda t: pa.concat_tables([t] * 1000))),
    "table: ten million rows": (
        "open",
        "rows",
        lambda r, _: parquet(r, lambda t: pa.table({"response": np.zeros(10_000_000, np.int64)}), compression="zstd"),
    ),
    "table: other columns": ("open", "columns", lambda r, _: parquet(r, lambda t: t.drop_columns("note"))),
    "table: other types": ("open", "columns", lambda r, _: parquet(r, lambda t: column(t, "count", t["count"].cast("string")))),
    "table: a word of 50 MB": (
        "open",
        "more values than its rows can have",
        lambda r, _: parquet(r, lambda t: column(t, "note", pa.array(["x" * 50_000_000] * 6)), compression="zstd"),
    ),
    "table: squeezed": ("open", "more values", lambda r, _: parquet(r, lambda t: t, compression="gzip")),
    "table: not the names": ("open", "other values in 'name'", lambda r, _: parquet(r, lambda t: column(t, "name", pa.array(["x"] * 6)))),
    "table: not a label": (
        "open",
        "labels that the network does not have",
        lambda r, _: parquet(r, lambda t: column(t, "self_label", pa.array(["\x1b[2J"] * 6))),
    ),
    "table: no counts": ("open", "rows without numbers", lambda r, _: parquet(r, lambda t: column(t, "count", pa.nulls(6, pa.int64())))),
    "table: no notes": ("open", "other values in 'note'", lambda r, _: parquet(r, lambda t: column(t, "note", pa.nulls(6, pa.string())))),
    "table: a note for a terminal": ("", "", lambda r, _: parquet(r, lambda t: column(t, "note", pa.array(["\x1b[2J" * 99] * 6)))),
    "links: the spec": ("fetch verify report", "symbolic link", link("spec.json")),
    "links: the manifest": ("fetch verify report", "symbolic link", link("MANIFEST.json")),
    "links: the moments": ("fetch verify report", "", link(MOMENTS)),
    "links: a segment": ("fetch verify", "", link(SEGMENT)),
    "links: the segments": ("fetch verify report", "symbolic link", link("segments")),
    "links: the result": ("fetch verify report", "symbolic link", link("result")),
    "links: the figures": ("fetch verify report", "symbolic link", link("result/figures")),
    "pipes: the spec": ("fetch verify report", "is no regular file", fifo("spec.json")),
    "pipes: the manifest": ("fetch verify report", "is no regular file", fifo("MANIFEST.json")),
    "pipes: a segment": ("fetch verify", "", fifo(SEGMENT)),
    "pipes: the outputs": ("fetch verify report", "", fifo(OUTPUTS)),
    "pipes: the evaluation": ("report", "is no regular file", fifo("evaluation/classifier.json")),
    "a folder for an object": ("fetch verify report", "", lambda r, _: (r / MOMENTS).unlink() or (r / MOMENTS).mkdir()),
    "1 TB: the spec": ("fetch verify report", "at most 16,777,216 were expected", lambda r, _: sparse(r / "spec.json")),
    "1 TB: the manifest": ("fetch verify report", "at most 16,777,216 were expected", lambda r, _: sparse(r / "MANIFEST.json")),
    "1 TB: a segment": ("fetch verify", "1099511627776", lambda r, _: sparse(r / SEGMENT)),
    "1 TB: a listed segment": ("fetch verify report", "of this spec has at most", lambda r, _: listed_sparse(r, SEGMENT)),
    "1 TB: the listed outputs": ("fetch verify report", "of this spec has at most", lambda r, _: listed_sparse(r, OUTPUTS)),
    "1 TB: a listed figure": (
        "fetch verify report",
        "of this spec has at most",
        lambda r, _: listed_sparse(r, "result/figures/z_maps.png"),
    ),
    "1 TB: the evaluation": (
        "report",
        "at most 16,777,216 were expected",
        lambda r, c: evaluation("")(r, c) or sparse(r / "evaluation/classifier.json"),
    ),
    "evaluation: of words": ("report", "is damaged (images", evaluation(SCORED | {"images": "many"})),
    "evaluation: deep": ("report", "nested too deeply", evaluation(DEEP)),
    "evaluation: for a terminal": (
        "",
        "",
        evaluation(SCORED | {"dataset": "\x1b[2J\x1b]0;x\x07", "templates": {"\x1b[2J": SCORED["templates"]["label"]}}),
    ),
    "foreign: a file for a terminal": ("verify", "is foreign", lambda r, _: (r / "segments/\x1b[2J\n").write_bytes(b"")),
    "foreign: a name that is no text": ("verify", "is foreign", lambda r, _: open(os.fsencode(r) + b"/result/\xff\xfe", "w").close()),
    "foreign: ten thousand files": ("verify", "more faults", lambda r, _: [(r / f"result/{i}").touch() for i in range(10_000)]),
    "stale: a segment of another range": (
        "verify",
        "",
        lambda r, _: shutil.copy(r / "segments/000000000000000-000000000000512.npz", r / SEGMENT) and seal(r),
    ),
    "stale: cut short": ("fetch verify report", "", lambda r, _: os.truncate(r / MOMENTS, 1000)),
    "names of outputs: for a terminal": ("", "", lambda r, _: renamed(r, ["\x1b[2J\x1b]0;x\x07", "a\nb\r", "\u202ecba\x9b2J"])),
    "names of outputs: formulas": ("", "", lambda r, _: renamed(r, ["$\\frac{$", "$" * 999, "a$\\undefined$b"])),
    "names of outputs: half characters": ("", "", lambda r, _: renamed(r, ["a", "b", "c" * 1000])),
    "names of outputs: markup": ("", "", lambda r, _: renamed(r, ["[red]a", "[bold", "[link=file:///etc/passwd]c"])),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_run_is_refused(name: str, honest: Path, tmp_path: Path, command: Callable[[str, Path, Path], Told]) -> None:
    refusing, words, harm = CASES[name]
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "x").write_bytes(b"canary")
    shutil.copytree(honest, tmp_path / "run")
    harm(tmp_path / "run", canary)
    there = {path: path.lstat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")] if path != tmp_path}
    for asked in (*COMMANDS, "open") if "open" in refusing else COMMANDS:
        cwd = tmp_path / "cwd" / asked
        cwd.mkdir(parents=True)
        told = command(asked, tmp_path / "run", cwd)
        assert "Traceback" not in told.text, told.text
        assert told.growth < GROWTH, f"{asked} took {told.growth >> 20} MiB: {told.text[-300:]}"
        assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in told.text), f"{asked}: {told.text[-300:]!r}"
        if asked in refusing.split():
            assert told.code in (1, 2), f"{asked}: {told.code} {told.text[-2000:]}"
            assert [line for line in told.text.splitlines() if line.startswith("wna: ")], told.text
            assert words in told.text or asked != refusing.split()[-1], told.text
            assert len(told.text) < 2000 + 250 * told.text.count("\n  "), told.text[:500]
            assert told.text.count("\n  ") <= 51, told.text[-300:]
        else:
            assert told.code == 0, f"{asked}: {told.code} {told.text[-2000:]}"
        assert {path.name for path in cwd.iterdir()} <= {f"{asked}.txt", {"fetch": "copy", "report": "out"}.get(asked)}
        if asked == "fetch" and told.code:
            assert not (cwd / "copy" / "MANIFEST.json").exists()
    after = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if (tmp_path / "cwd") not in [path, *path.parents]}
    assert after == there, "outside the folder nothing changes"


def test_the_honest_run_passes_here(honest: Path, tmp_path: Path, command: Callable[[str, Path, Path], Told]) -> None:
    """So that no refusal above is the limits' work."""
    for asked in COMMANDS:
        told = command(asked, honest, tmp_path)
        assert (told.code, told.growth < GROWTH) == (0, True), told.text
    assert RunDirectory(str(tmp_path / "copy")).verify() == []


def test_a_run_has_plain_names(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "run")
    renamed(tmp_path / "run", ["\x1b[2J", "a\nb", "\u202ec"])
    opened = open_run(str(tmp_path / "run"))
    assert opened.names == ["\ufffd[2J", "a\ufffdb", "\ufffdc"]
    assert opened.classes["name"].to_pylist() == opened.names * 2
    assert set(opened.classes["self_label"].to_pylist()) <= {None, *opened.names}
    assert opened.derive().keys() == open_run(str(honest)).derive().keys()
