"""Hostile runs: objects that hold something else, links, pipes, and names for a terminal."""

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
    column,
    evaluation,
    fifo,
    header,
    link,
    listed_sparse,
    members,
    overlapping,
    parquet,
    renamed,
    respec,
    seal,
    sparse,
    swapped,
    write,
    zipped,
)

from wna_ray.moments.moments import Moments

OBJECTS: dict[str, tuple[str, str, Harm]] = {
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
