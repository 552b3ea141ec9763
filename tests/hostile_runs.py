"""Hostile runs: which commands refuse each, with which words, and how an honest run is made
hostile.
"""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile

import numpy as np
import pyarrow as pa
from crafted_runs import (
    DEEP,
    F4,
    MOMENTS,
    OUTPUTS,
    PICKLED,
    SCORED,
    SEGMENT,
    Bomb,
    Harm,
    both,
    column,
    entry,
    evaluation,
    fifo,
    header,
    link,
    listed_sparse,
    lists,
    manifest,
    members,
    overlapping,
    parquet,
    renamed,
    respec,
    seal,
    segment,
    sparse,
    swapped,
    text,
    unlisted,
    wide,
    write,
    zipped,
)

from wna_ray.moments.moments import Moments

CASES: dict[
    str, tuple[str, str, Harm]
] = {  # which commands refuse it (the others must not mind), with which words the last of them
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
    "moments: a pickle": (
        "verify report",
        "no .npy of plain numbers",
        lambda r, _: swapped(r, "sum_x.npy", PICKLED),
    ),
    "moments: a pickle in a segment": (
        "verify",
        "no .npy of plain numbers",
        lambda r, _: swapped(r, "header.npy", PICKLED, SEGMENT),
    ),
    "moments: a whole pickle": (
        "verify report",
        "no end of an archive",
        lambda r, _: write(r, MOMENTS, pickle.dumps(Bomb())),
    ),
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
    "moments: a header that nests": (
        "verify report",
        "damaged",
        lambda r, _: swapped(r, "sum_x.npy", header("(" * 400, "(1,)")),
    ),
    "moments: squeezed": (
        "verify report",
        "is not stored",
        lambda r, _: write(
            r, MOMENTS, zipped(list(members(r / MOMENTS).items()), zipfile.ZIP_DEFLATED)
        ),
    ),
    "moments: a zip bomb": (
        "verify report",
        "is not stored",
        lambda r, _: write(
            r,
            MOMENTS,
            zipped(
                [("sum_x.npy", header("'<i8'", "(12500000,)", bytes(10**8)))], zipfile.ZIP_BZIP2
            ),
        ),
    ),
    "moments: members that overlap": (
        "fetch verify report",
        "",
        lambda r, _: write(r, MOMENTS, overlapping()),
    ),
    "moments: a member twice": (
        "verify report",
        "or two",
        lambda r, _: write(
            r, MOMENTS, zipped([*members(r / MOMENTS).items(), *members(r / MOMENTS).items()])
        ),
    ),
    "moments: a member that leads elsewhere": (
        "verify report",
        "a member",
        lambda r, _: swapped(r, "../canary.npy", b""),
    ),
    "moments: a directory of a thousand": (
        "verify report",
        "directory",
        lambda r, _: write(r, MOMENTS, zipped([(f"{i}", b"") for i in range(1000)])),
    ),
    "moments: sums that no images have": (
        "verify report",
        "sums that no images can have",
        lambda r, _: respec(
            r,
            lambda s: None,
            lambda m: Moments(
                m.images,
                m.nonfinite,
                m.out_of_range,
                m.sum_x + (1 << 62),
                m.sum_xx,
                m.responses,
            ),
        ),
    ),
    "moments: other responses": (
        "verify report",
        "moments of label, not of",
        lambda r, _: respec(
            r,
            lambda s: None,
            lambda m: Moments(
                m.images,
                m.nonfinite,
                m.out_of_range,
                m.sum_x,
                m.sum_xx,
                {"label": m.responses["label"]},
            ),
        ),
    ),
    "outputs: a pickle": (
        "report",
        "no .npy of plain numbers",
        lambda r, _: write(r, OUTPUTS, PICKLED),
    ),
    "outputs: 10^12 promised": (
        "report",
        "do not hold",
        lambda r, _: write(r, OUTPUTS, header(F4, "(1000000, 1000000)")),
    ),
    "outputs: another shape": (
        "report",
        "not float32 of shape",
        lambda r, _: write(r, OUTPUTS, header(F4, "(3, 6)", bytes(72))),
    ),
    "outputs: a structure": (
        "report",
        "no .npy of plain numbers",
        lambda r, _: write(r, OUTPUTS, header("[('a', '<f4')]", "(18,)", bytes(72))),
    ),
    "offset: a pickle": (
        "verify report",
        "no .npy of plain numbers",
        lambda r, _: write(r, "offset.npy", PICKLED),
    ),
    "maps: a pickle": (
        "open",
        "no .npy of plain numbers",
        lambda r, _: write(r, "result/bias_maps.npy", PICKLED),
    ),
    "maps: other bytes": (
        "fetch verify open",
        "is not what the manifest lists",
        lambda r, _: (r / "result/z_maps.npy").write_bytes(
            (r / "result/z_maps.npy").read_bytes()[:-1] + b"x"
        ),
    ),
    "table: garbage": (
        "open",
        "classes.parquet is damaged",
        lambda r, _: write(r, "result/classes.parquet", b"PAR1" + bytes(100) + b"PAR1"),
    ),
    "table: a pickle": (
        "open",
        "classes.parquet is damaged",
        lambda r, _: write(r, "result/classes.parquet", pickle.dumps(Bomb())),
    ),
    "table: more rows": (
        "open",
        "rows",
        lambda r, _: parquet(r, lambda t: pa.concat_tables([t] * 1000)),
    ),
    "table: ten million rows": (
        "open",
        "rows",
        lambda r, _: parquet(
            r,
            lambda t: pa.table({"response": np.zeros(10_000_000, np.int64)}),
            compression="zstd",
        ),
    ),
    "table: other columns": (
        "open",
        "columns",
        lambda r, _: parquet(r, lambda t: t.drop_columns("note")),
    ),
    "table: other types": (
        "open",
        "columns",
        lambda r, _: parquet(r, lambda t: column(t, "count", t["count"].cast("string"))),
    ),
    "table: a word of 50 MB": (
        "open",
        "more values than its rows can have",
        lambda r, _: parquet(
            r, lambda t: column(t, "note", pa.array(["x" * 50_000_000] * 6)), compression="zstd"
        ),
    ),
    "table: squeezed": (
        "open",
        "more values",
        lambda r, _: parquet(r, lambda t: t, compression="gzip"),
    ),
    "table: not the names": (
        "open",
        "other values in 'name'",
        lambda r, _: parquet(r, lambda t: column(t, "name", pa.array(["x"] * 6))),
    ),
    "table: not a label": (
        "open",
        "labels that the network does not have",
        lambda r, _: parquet(r, lambda t: column(t, "self_label", pa.array(["\x1b[2J"] * 6))),
    ),
    "table: no counts": (
        "open",
        "rows without numbers",
        lambda r, _: parquet(r, lambda t: column(t, "count", pa.nulls(6, pa.int64()))),
    ),
    "table: no notes": (
        "open",
        "other values in 'note'",
        lambda r, _: parquet(r, lambda t: column(t, "note", pa.nulls(6, pa.string()))),
    ),
    "table: a note for a terminal": (
        "",
        "",
        lambda r, _: parquet(r, lambda t: column(t, "note", pa.array(["\x1b[2J" * 99] * 6))),
    ),
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
    "pipes: the evaluation": (
        "report",
        "is no regular file",
        fifo("evaluation/classifier.json"),
    ),
    "a folder for an object": (
        "fetch verify report",
        "",
        lambda r, _: (r / MOMENTS).unlink() or (r / MOMENTS).mkdir(),
    ),
    "1 TB: the spec": (
        "fetch verify report",
        "at most 16,777,216 were expected",
        lambda r, _: sparse(r / "spec.json"),
    ),
    "1 TB: the manifest": (
        "fetch verify report",
        "at most 16,777,216 were expected",
        lambda r, _: sparse(r / "MANIFEST.json"),
    ),
    "1 TB: a segment": ("fetch verify", "1099511627776", lambda r, _: sparse(r / SEGMENT)),
    "1 TB: a listed segment": (
        "fetch verify report",
        "of this spec has at most",
        lambda r, _: listed_sparse(r, SEGMENT),
    ),
    "1 TB: the listed outputs": (
        "fetch verify report",
        "of this spec has at most",
        lambda r, _: listed_sparse(r, OUTPUTS),
    ),
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
    "evaluation: of words": (
        "report",
        "is damaged (images",
        evaluation(SCORED | {"images": "many"}),
    ),
    "evaluation: deep": ("report", "nested too deeply", evaluation(DEEP)),
    "evaluation: for a terminal": (
        "",
        "",
        evaluation(
            SCORED
            | {
                "dataset": "\x1b[2J\x1b]0;x\x07",
                "templates": {"\x1b[2J": SCORED["templates"]["label"]},
            }
        ),
    ),
    "foreign: a file for a terminal": (
        "verify",
        "is foreign",
        lambda r, _: (r / "segments/\x1b[2J\n").write_bytes(b""),
    ),
    "foreign: a name that is no text": (
        "verify",
        "is foreign",
        lambda r, _: open(os.fsencode(r) + b"/result/\xff\xfe", "w").close(),
    ),
    "foreign: ten thousand files": (
        "verify",
        "more faults",
        lambda r, _: [(r / f"result/{i}").touch() for i in range(10_000)],
    ),
    "stale: a segment of another range": (
        "verify",
        "",
        lambda r, _: (
            shutil.copy(r / "segments/000000000000000-000000000000512.npz", r / SEGMENT) and seal(r)
        ),
    ),
    "stale: cut short": (
        "fetch verify report",
        "",
        lambda r, _: os.truncate(r / MOMENTS, 1000),
    ),
    "names of outputs: for a terminal": (
        "",
        "",
        lambda r, _: renamed(r, ["\x1b[2J\x1b]0;x\x07", "a\nb\r", "\u202ecba\x9b2J"]),
    ),
    "names of outputs: formulas": (
        "",
        "",
        lambda r, _: renamed(r, ["$\\frac{$", "$" * 999, "a$\\undefined$b"]),
    ),
    "names of outputs: half characters": (
        "",
        "",
        lambda r, _: renamed(r, ["a", "b", "c" * 1000]),
    ),
    "names of outputs: markup": (
        "",
        "",
        lambda r, _: renamed(r, ["[red]a", "[bold", "[link=file:///etc/passwd]c"]),
    ),
}
