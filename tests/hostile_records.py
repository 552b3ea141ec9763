"""Hostile runs: manifests and specs that say what none of a run may say."""

from __future__ import annotations

import os

from crafted_runs import (
    DEEP,
    F4,
    Harm,
    both,
    entry,
    header,
    lists,
    manifest,
    respec,
    seal,
    segment,
    text,
    unlisted,
    wide,
    write,
)

RECORDS: dict[str, tuple[str, str, Harm]] = {
    "names: traversal": (
        "fetch verify report",
        "is no name of an object",
        lists("../canary/x"),
    ),
    "names: traversal below": (
        "fetch verify report",
        "is no name of an object",
        lists("result/../../canary/x"),
    ),
    "names: absolute": ("fetch verify report", "is no name of an object", lists("/etc/wna")),
    "names: backslash": (
        "fetch verify report",
        "is no name of an object",
        lists("result/..\\canary"),
    ),
    "names: empty": ("fetch verify report", "is no name of an object", lists("")),
    "names: hidden": (
        "fetch verify report",
        "is no name of an object",
        lists("result/.bashrc"),
    ),
    "names: another folder": (
        "fetch verify report",
        "is no name of an object",
        lists(".ssh/authorized_keys"),
    ),
    "names: another file at the top": (
        "fetch verify report",
        "is no name of an object",
        lists("Makefile"),
    ),
    "names: for a terminal": (
        "fetch verify report",
        "is no name of an object",
        lists("result/\x1b[2J\x1b]0;x\x07"),
    ),
    "names: a line end": (
        "fetch verify report",
        "is no name of an object",
        lists("result/a\n"),
    ),
    "names: very long": (
        "fetch verify report",
        "is no name of an object",
        lists("result/" + "a" * 100_000),
    ),
    "names: the manifest itself": (
        "fetch verify report",
        "is no name of an object",
        lists("MANIFEST.json"),
    ),
    "names: equal on a Mac": (
        "fetch verify report",
        "the same to some file systems",
        lists("result/Z_maps.npy"),
    ),
    "names: a segment elsewhere": (
        "fetch verify report",
        "is not the segment of images",
        segment(name="segments/../../canary/x"),
    ),
    "names: a segment among objects": (
        "fetch verify report",
        "is no name of an object",
        lists("segments/x.npz"),
    ),
    "manifest: negative size": (
        "fetch verify report",
        "is damaged (objects.result/moments.npz.bytes",
        entry(bytes=-1),
    ),
    "manifest: size is true": (
        "fetch verify report",
        "is damaged (objects.result/moments.npz.bytes",
        entry(bytes=True),
    ),
    "manifest: size is a text": (
        "fetch verify report",
        "is damaged (objects.result/moments.npz.bytes",
        entry(bytes="9"),
    ),
    "manifest: digest is a number": (
        "fetch verify report",
        "is damaged (objects.result/moments.npz.sha256",
        entry(sha256=0),
    ),
    "manifest: digest is a path": (
        "fetch verify report",
        "is damaged (objects.result/moments.npz.sha256",
        entry(sha256="../" * 22),
    ),
    "manifest: size beyond the spec": (
        "fetch verify report",
        "of this spec has at most",
        entry(bytes=1 << 40),
    ),
    "manifest: images is null": (
        "fetch verify report",
        "is damaged (segments.0.images",
        segment(images=None),
    ),
    "manifest: start is huge": (
        "fetch verify report",
        "is damaged (segments.0.st",
        segment(start=10**40, stop=10**41),
    ),
    "manifest: segments is a mapping": (
        "fetch verify report",
        "is damaged (segments",
        lambda r, _: manifest(r, lambda m: m.update(segments={})),
    ),
    "manifest: objects is a list": (
        "fetch verify report",
        "is damaged (objects",
        lambda r, _: manifest(r, lambda m: m.update(objects=[])),
    ),
    "manifest: counts is a list": (
        "fetch verify report",
        "is damaged (counts",
        lambda r, _: manifest(r, lambda m: m.update(counts=[1])),
    ),
    "manifest: a list": (
        "fetch verify report",
        "is damaged (no JSON object)",
        lambda r, _: text(r, "MANIFEST.json", "[]"),
    ),
    "manifest: of another run": (
        "fetch verify report",
        "another run",
        lambda r, _: manifest(r, lambda m: m.update(fingerprint="0" * 64)),
    ),
    "manifest: nothing listed": (
        "fetch verify report",
        "",
        lambda r, _: manifest(r, lambda m: m.update(objects={})),
    ),
    "manifest: counts that are exchanged": (
        "fetch verify",
        "add up to",
        lambda r, _: manifest(
            r, lambda m: m.update(counts={"images": 0, "nonfinite": 2000, "out_of_range": 0})
        ),
    ),
    "manifest: another count": (
        "fetch verify report",
        "is damaged (counts.\ufffd[2J",
        lambda r, _: manifest(r, lambda m: m["counts"].update({"\x1b[2J": "x"})),
    ),
    "manifest: no maps": (
        "fetch verify",
        "does not list result/z_maps.npy",
        lambda r, _: unlisted(r, "result/z_maps.npy"),
    ),
    "manifest: no environment": (
        "fetch verify",
        "does not list environment.json",
        lambda r, _: unlisted(r, "environment.json"),
    ),
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
    "json: deep": (
        "fetch verify report",
        "nested too deeply",
        lambda r, _: text(r, "spec.json", DEEP),
    ),
    "json: deep mappings": (
        "fetch verify report",
        "nested too deeply",
        lambda r, _: text(r, "MANIFEST.json", '{"a":' * 200_000),
    ),
    "json: 2 million lists": (
        "fetch verify report",
        "",
        lambda r, _: text(r, "spec.json", '{"identity": [' + "[]," * 2_000_000 + "[]]}"),
    ),
    "json: a million keys": (
        "fetch verify report",
        "",
        lambda r, _: text(
            r, "MANIFEST.json", "{" + ",".join(f'"{i}":{{}}' for i in range(1_000_000)) + "}"
        ),
    ),
    "json: not a number": (
        "fetch verify report",
        "NaN is no number",
        lambda r, _: respec(r, lambda s: None) or text(r, "spec.json", '{"a": NaN}'),
    ),
    "json: infinite": (
        "fetch verify report",
        "1e999 is no number",
        lambda r, _: text(r, "spec.json", '{"a": 1e999}'),
    ),
    "json: five thousand digits": (
        "fetch verify report",
        "is damaged",
        lambda r, _: text(r, "spec.json", f'{{"samples": {"9" * 5000}}}'),
    ),
    "json: not text": (
        "fetch verify report",
        "is damaged",
        lambda r, _: (r / "spec.json").write_bytes(b"\xff\xfe\x00"),
    ),
    "json: format for a terminal": (
        "fetch verify report",
        "format",
        lambda r, _: text(r, "spec.json", '{"format": "\\u001b[2J"}'),
    ),
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
    "spec: half a million outputs": (
        "report",
        "of memory, but this machine has",
        lambda r, _: respec(r, lambda s: wide(s, 500_000)),
    ),
    "spec: millions of names": (
        "fetch verify report",
        "names",
        lambda r, _: respec(r, lambda s: s.update(names=["x"] * 1_500_000)),
    ),
    "spec: a name of a megabyte": (
        "fetch verify report",
        "names.0",
        lambda r, _: respec(r, lambda s: s.update(names=["x" * 1_000_000, "b", "c"])),
    ),
    "spec: names are numbers": (
        "fetch verify report",
        "names.0",
        lambda r, _: respec(r, lambda s: s.update(names=[1, 2, 3])),
    ),
    "spec: no names": (
        "fetch verify report",
        "names",
        lambda r, _: respec(r, lambda s: s.update(names=[])),
    ),
    "spec: samples 10^30": (
        "fetch verify report",
        "samples",
        lambda r, _: respec(r, lambda s: s.update(samples=10**30)),
    ),
    "spec: unlike its identity": (
        "fetch verify report",
        "differ in stimulus",
        lambda r, _: respec(r, lambda s: s["spec"]["stimulus"].update(scale=2.0)),
    ),
    "spec: identity is a list": (
        "fetch verify report",
        "identity",
        lambda r, _: respec(r, lambda s: s.update(identity=[])),
    ),
    "spec: unknown keys for a terminal": (
        "fetch verify report",
        "unknown key",
        lambda r, _: respec(r, lambda s: s["spec"].update({f"\x1b[2J{i}": 0 for i in range(1000)})),
    ),
    "spec: exponents of a million": (
        "fetch verify report",
        "exponent",
        lambda r, _: respec(
            r, lambda s: s["identity"]["fixed_point"]["logits"].update(exponent=[10**6] * 3)
        ),
    ),
    "spec: a centre of 10^40": (
        "fetch verify report",
        "centre",
        lambda r, _: respec(
            r, lambda s: s["identity"]["fixed_point"]["logits"].update(centre=[10**40] * 3)
        ),
    ),
    "spec: a model to import": (
        "",
        "",
        lambda r, _: respec(r, lambda s: s["spec"].update(model="python:trap_for_tests:make")),
    ),
    "spec: a model for a terminal": (
        "",
        "",
        lambda r, _: respec(r, lambda s: s["spec"].update(model="\x1b[2J\n" * 999)),
    ),
    "spec: an offset to read": (
        "",
        "",
        lambda r, canary: (
            os.mkfifo(canary / "pipe")
            or respec(r, lambda s: s["spec"]["stimulus"].update(offset=str(canary / "pipe")))
        ),
    ),
}
