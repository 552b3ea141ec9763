"""Mutations of runs that chance finds seldom: each was a fault once, or is made by hand."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from crafted_runs import SCORED, both, header, wide
from fuzz_harms import load, respec, seal, seal_sweep, write
from fuzz_mutations import nested
from numpy.typing import NDArray

from wna_ray.canonical import canonical
from wna_ray.storage.arrays import pack, unpack

Harm = Callable[[Path, Path], Any]  # to a run, with a canary folder beside it
READ = ("verify", "open", "status", "report")
EVERY = (*READ, "fetch")
BRIEF, STATE = ("status", "verify"), ("status",)
SHOW, PAGES, PANEL = ("report", "html", "open"), ("html", "report"), ("panel", "patch")
MANY = 5_500_000  # empty mappings are 16 MB of JSON, and gigabytes of Python
RED = "[/red]"  # closes what nobody opened
ESCAPES = "\x1b[31m\x1b]0;x\x07"


@dataclass(frozen=True)
class Target:
    """A kind of run, what is done to it, and the commands that read it."""

    kind: str
    harm: Harm
    commands: tuple[str, ...] = READ
    unfinished: bool = False


def shaped(*shape: int) -> Harm:
    """Another shape of the noise."""
    return lambda run, _: respec(run, lambda spec: both(spec, "stimulus", shape=list(shape)))


def told(path: str, value: Any) -> Harm:
    """Another word in ``spec.json``, everything forged."""

    def change(spec: dict[str, Any]) -> None:
        *above, last = path.split(".")
        for key in above:
            spec = spec[key]
        spec[last] = value

    return lambda run, _: respec(run, change)


def counts(**values: Any) -> Harm:
    """Other counts in the manifest."""

    def harm(run: Path, _: Path) -> None:
        manifest = load(run / "MANIFEST.json")
        manifest["counts"] |= values
        write(run / "MANIFEST.json", manifest)

    return harm


def sign(path: str, value: Any) -> Harm:
    """Another word in the sign of life of a driver that is at work."""

    def harm(run: Path, _: Path) -> None:
        next(run.glob("segments/*")).unlink()
        driver = load(run / "drivers/000001.json")
        driver |= {"state": "running", "time": datetime.now(UTC).isoformat()}
        *above, last = path.split(".")
        node = driver
        for key in above:
            node = node[key]
        node[last] = value
        write(run / "drivers/000001.json", driver)

    return harm


def many(run: Path, _: Path) -> None:
    """Millions of mappings in 16 MB of spec and of manifest, all digests forged."""
    mappings, spec = f"[{','.join(['{}'] * MANY)}]", load(run / "spec.json")
    spec.pop("digest")
    spec["identity"]["more"] = "@"

    def text(value: Any) -> bytes:
        return canonical(value).replace('"@"', mappings).encode()

    spec["fingerprint"] = hashlib.sha256(text(spec["identity"])).hexdigest()
    spec["digest"] = hashlib.sha256(text(spec)).hexdigest()
    (run / "spec.json").write_bytes(text(spec))
    manifest = load(run / "MANIFEST.json") | {"fingerprint": spec["fingerprint"], "more": "@"}
    (run / "MANIFEST.json").write_bytes(text(manifest))


def many_beside(run: Path, _: Path) -> None:
    """Millions of mappings in 16 MB of what is told of the machine."""
    (run / "environment.json").write_text('{"a":[' + ",".join(["{}"] * MANY) + "]}")


def deep(name: str, depth: int) -> Harm:
    """Lists in lists."""
    return lambda run, _: (run / name).write_text('{"a":' + "[" * depth + "]" * depth + "}")


def picture(run: Path, _: Path) -> None:
    """A picture of 60,000 x 60,000 in a few hundred kilobytes, beside scores that show it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, crc = len(data), zlib.crc32(kind + data)
        return struct.pack(">L", length) + kind + data + struct.pack(">L", crc)

    size, press = 60_000, zlib.compressobj(9)
    rows = b"".join([*(press.compress(bytes(1 + size // 8)) for _ in range(size)), press.flush()])
    head = chunk(b"IHDR", struct.pack(">2L5B", size, size, 1, 0, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    for path in run.glob("evaluation/*.png"):
        path.write_bytes(whole)


def sums(change: Callable[[dict[str, Any], dict[str, NDArray[Any]]], Any]) -> Harm:
    """Other headers and arrays in all sums."""

    def harm(run: Path, _: Path) -> None:
        for path in [*run.glob("segments/*"), run / "result/moments.npz"]:
            head, arrays = unpack(path.read_bytes(), path.name)
            change(head, arrays)
            path.write_bytes(pack(head, arrays))
        seal(run)

    return harm


def in_a_member(harm: Harm) -> Harm:
    """The same to a member of a sweep, which then says so."""

    def both_of_them(run: Path, canary: Path) -> None:
        harm(run / "a", canary)
        seal_sweep(run)

    return both_of_them


def few_values(run: Path, canary: Path) -> None:
    """Trials in noise of three values, whose sums have three, too."""
    told("identity.shape.d", 3)(run, canary)

    def cut(_: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        arrays["noise"] = np.ascontiguousarray(arrays["noise"][..., :3])

    sums(cut)(run, canary)


def headed(**values: Any) -> Harm:
    """Other words in the headers of all sums."""
    return sums(lambda head, _: head.update(values))


def many_outputs(run: Path, _: Path) -> None:
    """A network of fifty thousand outputs, consistently."""
    respec(run, lambda spec: wide(spec, 50_000))


def other_layer(run: Path, _: Path) -> None:
    """Units of a layer that is markup."""
    respec(run, lambda spec: both(spec, "target", layer=RED))


def odd_axes(run: Path, _: Path) -> None:
    """Axes of 10^18 values of nothing."""
    (run / "result/axes.npy").write_bytes(header("'<f4'", f"({10**18}, 0)"))
    seal(run)


def scored(**values: Any) -> Harm:
    """Other scores, which have no digest."""
    return lambda run, _: write(run / "evaluation/classifier.json", SCORED | values)


def pipe_beside(run: Path, canary: Path) -> None:
    """A network that a run says is its own, whose description is a pipe."""
    os.mkfifo(canary / "network.json")
    told("spec.model", f"trained:{canary}")(run, canary)


def more(name: str) -> Harm:
    """One more file in the folder; of a driver, as the honest one is."""

    def harm(run: Path, _: Path) -> None:
        driver = (run / "drivers/000001.json").read_bytes()
        (run / name).write_bytes(driver if name.startswith("drivers/") else b"")

    return harm


def links_at_the_target(run: Path, canary: Path) -> None:
    """A folder for the report that is there already, with links that lead out of it."""
    for command, name in (
        ("html", "report.html"),
        ("report", "figures"),
        ("report", "classes.parquet"),
    ):
        out = canary.parent / "cwd" / command / "out"
        out.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to(canary if name == "figures" else canary / "x")


def without(*names: str) -> Harm:
    """A spec that lacks something."""
    return lambda run, _: respec(run, lambda spec: [spec.pop(name) for name in names])


SIGNS: dict[str, tuple[str, Any]] = {
    "rate 10^400": ("progress.images_per_second", 10**400),
    "rate tiny": ("progress.images_per_second", 5e-324),
    "rate nan": ("progress.images_per_second", "@nan@"),
    "done -10^400": ("progress.done", -(10**400)),
    "workers 1e308": ("progress.workers", 1e308),
    "stage for a terminal": ("progress.stage", ESCAPES),
    "no progress": ("progress", {"stage": "x"}),
    "phases 10^400": ("phase_seconds", {"a": 10**400, "b": 0.5}),
    "phases are a list": ("phase_seconds", [1]),
    "phases for a terminal": ("phase_seconds", {"\x1b]0;x\x07": 1e308, "b": 1e308}),
    "phases negative": ("phase_seconds", {"a": -1.0, "b": 1.5}),
    "bytes 10^400": ("storage.bytes", 10**400),
    "commits 10^400": ("storage.commits", 10**400),
    "time far": ("time", "9999-12-31T23:59:59+00:00"),
    "time least": ("time", "0001-01-01T00:00:00+14:00"),
    "time without a zone": ("time", "2026-01-01T00:00:00"),
    "state is a mapping": ("state", {"a": ESCAPES}),
    "state is a number": ("state", 7),
    "reason is a list": ("reason", [ESCAPES]),
    "host for a terminal": ("host", ESCAPES * 99),
    "host of 100,000 letters": ("host", "h" * 100_000),
    "every 10^400": ("every_seconds", 10**400),
    "every is markup": ("every_seconds", RED),
    "pid 10^400": ("pid", 10**400),
}
LINES = "[link=file:///etc/passwd]c"
SCORES: dict[str, Any] = SCORED
LABEL = SCORES["templates"]["label"]
DRIVER, UNPRINTABLE = f"drivers/{'9' * 250}.json", [ESCAPES, "a\nb\r", "\u202ecba"]
OTHER_DIGITS = f"segments/{'٠' * 12}٢٠٠-{'٠' * 12}٤٠٠.npz"
TARGETS: dict[str, Target] = {
    **{f"sign: {name}": Target("plain", sign(*s), STATE, True) for name, s in SIGNS.items()},
    "counts: one is text": Target("plain", counts(images="many")),
    "counts: one more": Target("plain", counts(x=1)),
    "counts: one more is text": Target("plain", counts(x=ESCAPES)),
    "counts: one more is null": Target("trials", counts(x=None)),
    "spec: spectrum of 20,000 x 20,000": Target("spectrum", shaped(1, 20_000, 20_000), BRIEF),
    "spec: spectrum of 10^8 in a row": Target("spectrum", shaped(3, 1, 10**8), BRIEF),
    "spec: stripes of 3,000 x 3,000": Target("basis", shaped(1, 3000, 3000), BRIEF),
    "spec: fifty thousand outputs": Target("plain", many_outputs, ("status", "report")),
    "spec: scored on a list": Target("plain", told("spec.evaluation", {"dataset": [1.5]})),
    "spec: images of a list": Target("images", told("spec.stimulus.dataset", [1.5])),
    "spec: signals of a list": Target("trials", told("spec.signals.dataset", [1.5])),
    "spec: signals of a mapping": Target("trials", told("spec.signals.dataset", {"a": []})),
    "spec: names are markup": Target("plain", told("names", [RED, "[red]b", LINES]), SHOW),
    "spec: names for a terminal": Target("full", told("names", UNPRINTABLE), SHOW),
    "spec: names of units are markup": Target("units", told("names", [RED, "b"]), SHOW),
    "spec: names in a covariance are markup": Target("dense", told("names", [RED, "b"]), SHOW),
    "spec: run of a covariance is markup": Target("dense", told("spec.run", RED), SHOW),
    "spec: response of a covariance is markup": Target("dense", told("spec.response", RED), SHOW),
    "spec: model is markup": Target("plain", told("spec.model", RED), (*PAGES, "patch")),
    "spec: layer is markup": Target("units", other_layer, PAGES),
    "spec: classes are markup": Target("trials", told("identity.classes", [RED, "b"]), SHOW),
    "spec: model of a member is markup": Target(
        "sweep",
        in_a_member(told("spec.model", RED)),
        (*PAGES, "compare"),
    ),
    "spec: a number 500 deep": Target("plain", told("spec.numerics.batch", nested(500))),
    "spec: a number 900 deep": Target("trials", told("spec.numerics.batch", nested(900))),
    "covariance: no spec": Target("dense", without("spec"), (*EVERY, "html")),
    "covariance: no spec, matrix-free": Target("matrix-free", without("spec"), (*EVERY, "html")),
    "covariance: no names": Target("dense", without("names")),
    "covariance: axes of an odd shape": Target("dense", odd_axes, SHOW),
    "trials: three values of noise": Target("trials", told("identity.shape.d", 3)),
    "trials: three values, and sums of three": Target("trials", few_values, (*READ, "html")),
    "trials: no gammas": Target("trials", told("identity.gammas", [])),
    "json: 16 MB of mappings": Target("plain", many, BRIEF),
    "json: 16 MB of mappings in the environment": Target("plain", many_beside, ("html",)),
    "json: an environment 900 deep": Target("plain", deep("environment.json", 900), PAGES),
    "json: an environment 970 deep": Target("plain", deep("environment.json", 970), PAGES),
    "moments: a fingerprint for a terminal": Target("plain", headed(fingerprint=ESCAPES)),
    "moments: a format for a terminal": Target("trials", headed(format=ESCAPES)),
    "moments: a fingerprint that is a list": Target("full", headed(fingerprint=[ESCAPES])),
    "scores: a huge picture": Target("images", picture, PAGES),
    "scores: of a data set that is markup": Target("images", scored(dataset=RED), PAGES),
    "scores: a note that is markup": Target("images", scored(note=RED), PAGES),
    "scores: templates that are markup": Target("images", scored(templates={RED: LABEL}), PAGES),
    "foreign: a segment for a terminal": Target("plain", more(f"segments/{ESCAPES}\n"), EVERY),
    "foreign: a segment that is markup": Target("plain", more("segments/[red]"), EVERY),
    "foreign: a segment that is no text": Target("plain", more("segments/\udcff\udcfe"), EVERY),
    "foreign: a result that is no text": Target("dense", more("result/\udcff\udcfe"), EVERY),
    "foreign: a segment in other digits": Target("plain", more(OTHER_DIGITS), BRIEF, True),
    "foreign: a driver in other digits": Target("plain", more("drivers/²²².json"), STATE, True),
    "foreign: a driver of 250 digits": Target("plain", more(DRIVER), STATE, True),
    "foreign: a driver that is no text": Target("plain", more("drivers/\udcff.json"), STATE, True),
    "panel: a network elsewhere": Target(
        "plain",
        told("spec.model", "trained:http://127.0.0.1:9/leak"),
        PANEL,
    ),
    "panel: a network above": Target("plain", told("spec.model", "trained:networks/.."), PANEL),
    "panel: a network of markup": Target("plain", told("spec.model", f"trained:nets/{RED}"), PANEL),
    "panel: a network that is a pipe": Target("plain", pipe_beside, PANEL),
    "report: links where it goes": Target("plain", links_at_the_target, PAGES),
}
