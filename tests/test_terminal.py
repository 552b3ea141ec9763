"""What reaches a terminal: no commands, no markup, no secrets; and what happens when it takes
no more.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO, cast

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from wna_ray.events import RunStarted, Stage
from wna_ray.execution.progress import ProgressPrinter
from wna_ray.sweeps.job import MemberFailed, SweepPrinter
from wna_ray.terminal import Forgiving, PlainConsole, PrintableFormatter, tell

HOSTILE = [
    "[/red]",
    "[link=file:///etc/passwd]x[/link]",
    "[bold]b[/]",
    "python:x:y",
    ":smiley:",
    "\x1b[2J\x1b]0;x\x07",
    "a\u202eb",
    "[/",
]
SPEC = """
model: bundled:mnist-cnn
stimulus: {kind: gaussian, shape: [1, 28, 28], offset: 0.5, scale: 0.3}
samples: 100
numerics: {batch: 50}
"""


def printed(value: object) -> str:
    stream = io.StringIO()
    PlainConsole(stream, width=200).print(value)
    return stream.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_is_printed_as_it_stands_in_every_part_of_a_table(text: str) -> None:
    table = Table(title=f"title {text}", caption=f"caption {text}")
    table.add_column(f"header {text}")
    table.add_row(f"cell {text}")
    text_of_table = printed(table)
    plain = "".join("\ufffd" if c in "\x1b\x07\u202e" else c for c in text)
    for part in ("title", "caption", "header", "cell"):
        assert f"{part} {plain}" in text_of_table
    assert not set(text_of_table) & {"\x1b", "\x07", "\u202e"}
    assert plain in printed(text)


def test_tables_tell_no_secrets_of_urls() -> None:
    table = Table(title="http://me:pw1@host/x?sig=pw2")
    table.add_row("http://me:pw1@host/" + "long/" * 60 + "?sig=pw2")
    assert "pw" not in printed(table).replace("\n", "")


def test_progress_prints_foreign_text_as_it_stands() -> None:
    for text in HOSTILE:
        stream = io.StringIO()
        printer = ProgressPrinter(stream)
        printer(RunStarted(text, "0" * 64, 10, 0, 1, 1, "cpu"))
        printer(Stage(text))
        printer.close()
        SweepPrinter(stream)(MemberFailed("a", text))
        assert "\x1b" not in stream.getvalue()
        assert (
            text.replace("\x1b", "\ufffd").replace("\x07", "\ufffd").replace("\u202e", "\ufffd")
            in stream.getvalue()
        )


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_progress_that_cannot_be_written_ends_nothing() -> None:
    printer = ProgressPrinter(Full())
    printer(RunStarted("x", "0" * 64, 10, 0, 1, 1, "cpu"))
    printer(Stage("merge"))
    printer.close()
    SweepPrinter(Full())(MemberFailed("a", "b"))
    with Progress(TextColumn("x"), console=PlainConsole(cast(TextIO, Forgiving(Full())))) as bar:
        bar.add_task("")


def test_lines_beside_the_results_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    tell("nobody reads this")


def test_log_lines_are_printable() -> None:
    record = logging.LogRecord(
        "wna_ray", logging.WARNING, "x", 1, "on %s: http://a:pw@h\n\x1b[2J", ("\x07",), None
    )
    assert PrintableFormatter("%(message)s").format(record) == "on \ufffd: http://***@h\n\ufffd[2J"


def wna(
    folder: Path, redirect: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with its streams redirected by a shell."""
    command = f"{sys.executable} -P -m wna_ray {' '.join(arguments)} {redirect}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | environment,
        text=True,
        capture_output=True,
        encoding="utf-8",
    )


def test_a_run_whose_streams_are_full_is_made_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    quiet = wna(
        tmp_path, "2> /dev/full", "run", "spec.yaml", "--executor", "local", "--out", "quiet"
    )
    assert quiet.returncode == 0
    assert "N = 100 images" in quiet.stdout
    full = wna(tmp_path, "> /dev/full", "verify", "quiet")
    assert full.returncode == 1
    assert full.stderr.startswith("wna: cannot write to standard output (No space left on device)")
    assert full.stderr.count("\n") == 1


def test_a_narrow_encoding_is_told_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    got = wna(
        tmp_path, "", "plan", "spec.yaml", "--pilot", "50", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert got.returncode == 0, got.stderr
    assert "\\xb1" in got.stdout
    assert "the encoding ascii lacks some signs" in got.stderr
    assert "Traceback" not in got.stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    got = wna(tmp_path, "| head -c 1; exit ${PIPESTATUS[0]}", "plan", "--help")
    assert "Traceback" not in got.stderr


def test_a_bug_keeps_its_traceback_and_tells_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "def network():\n    raise KeyboardInterrupt.__class__('x', (),"
        " {}).__missing__('http://me:pw@h')\n"
    )
    (tmp_path / "spec.yaml").write_text(SPEC.replace("bundled:mnist-cnn", "python:broken:network"))
    (tmp_path / "bug.py").write_text(
        "from wna_ray.cli import main\nimport wna_ray.cli.reading as reading\n"
        "def boom(*_, **__): raise RuntimeError('http://me:pw@host/x?sig=pw \\x1b[2J')\n"
        "reading.read_asked = boom\nmain()\n"
    )
    got = subprocess.run(
        [sys.executable, "bug.py", "plan", "spec.yaml"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert got.returncode == 1
    assert "Traceback" in got.stderr
    assert "RuntimeError: http://***@host/x?sig=***" in got.stderr
    assert "pw" not in got.stderr.replace("http://me:pw@host/x?sig=pw \\x1b", "")
    assert "\x1b" not in got.stderr
