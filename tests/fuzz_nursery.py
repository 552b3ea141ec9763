"""Commands, each in a process of its own, and what holds of every command, whatever it is given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import fuzz_warm
from fuzz_warm import SECONDS

BUSY = 20.0  # seconds of a processor
GROWTH = 1 << 30  # bytes of memory beyond what a process is born with
MOST_TEXT = 60_000  # characters that are printed
CODES = (0, 1, 2, 3)
CONTROLS = "\x00-\x09\x0b-\x1f\x7f-\x9f"
DIRECTIONS = "\u200e\u200f\u2028-\u202e\u2066-\u2069"
HALVES = "\ud800-\udfff"  # also bytes that are no text
UNPRINTABLE = re.compile(f"[{CONTROLS}{DIRECTIONS}{HALVES}]")

State = dict[Path, tuple[int, int, int]]


@dataclass(frozen=True)
class Told:
    """How a command ended.

    Attributes
    ----------
    code
        Exit code; negative: the signal that ended it.
    text
        All that it printed.
    growth
        Bytes that it took beyond what it was born with.
    busy
        Seconds of a processor.
    late
        Whether it was killed because its time was over.
    strayed
        What it tried beyond its folders: audit events.
    """

    code: int
    text: str
    growth: int
    busy: float
    late: bool
    strayed: tuple[str, ...] = ()


def faults(told: Told, secrets: Iterable[str] = ()) -> list[str]:
    """What does not hold of a command, though it holds of every command."""
    found = []
    if told.late:
        found.append(f"no end within {SECONDS:.0f} s")
    elif "Traceback (most recent call last)" in told.text:
        found.append("a traceback")
    elif told.code not in CODES:
        found.append(f"exit code {told.code}")
    if told.growth > GROWTH:
        found.append(f"{told.growth >> 20} MiB of memory")
    if told.busy > BUSY and not told.late:
        found.append(f"{told.busy:.0f} s of a processor")
    if (bad := UNPRINTABLE.search(told.text)) is not None:
        found.append(f"printed {bad[0]!r}")
    if len(told.text) > MOST_TEXT:
        found.append(f"printed {len(told.text)} characters")
    found += [f"printed the secret {secret}" for secret in secrets if secret in told.text]
    return found + [f"strayed: {event}" for event in told.strayed]


def there(folder: Path, except_for: Path | None = None) -> State:
    """Every file and folder: when it was written, its size and kind; links are not followed."""
    found = {}
    for path in (path for path in folder.rglob("*") if except_for not in (path, *path.parents)):
        is_there = path.lstat()
        found[path] = (is_there.st_mtime_ns, is_there.st_size, is_there.st_mode)
    return found


def changed(before: State, after: State) -> list[Path]:
    """What is new, gone, or other than it was."""
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


class Nursery:
    """The warm process.

    Parameters
    ----------
    folder
        Where the trap lies: a module that leaves a mark when something imports it.
    environment
        Variables that children have beside those of this process.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self._sprung, self._temporary = folder / "marks" / "sprung", folder / "temporary"
        for made in (self._sprung.parent, self._temporary):
            made.mkdir(parents=True)
        trap = f"open({str(self._sprung)!r}, 'w').close()\n"
        (folder / "trap_for_tests.py").write_text(trap)
        here = Path(fuzz_warm.__file__).resolve()
        given = {"PYTHONPATH": os.pathsep.join(map(str, (folder, here.parent, here.parents[1])))}
        given |= {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        given |= {"TMPDIR": str(self._temporary), "AWS_MAX_ATTEMPTS": "1"}
        given |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}  # where nothing listens
        own = ("AWS_", "WNA_", *given)
        others = {key: value for key, value in os.environ.items() if not key.startswith(own)}
        self._process = subprocess.Popen(
            [sys.executable, str(here)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=others | given | environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def told(
        self,
        argv: list[str],
        cwd: Path,
        *,
        strict: bool,
        forbidden: Path | None = None,
    ) -> Told:
        """Run ``wna ARGV`` (or ``open URL``) in a folder.

        Parameters
        ----------
        argv, cwd
            The command and its folder.
        strict
            Whether it may speak to nobody, and have no temporary files; else it may speak to this
            machine.
        forbidden
            A folder that it may not even read.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        own = [cwd, self._sprung.parent, *([] if strict else [self._temporary])]
        asked = {
            "argv": argv,
            "cwd": str(cwd),
            "out": str(cwd / "told.txt"),
            "own": list(map(str, own)),
            "strict": strict,
            "forbidden": None if forbidden is None else str(forbidden),
        }
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the warm process died")
        found = json.loads(answer)
        strayed = found.pop("strayed") + ["the trap was imported"] * self._sprung.exists()
        self._sprung.unlink(missing_ok=True)
        with (cwd / "told.txt").open(encoding="utf-8", errors="surrogateescape") as file:
            return Told(text=file.read(8 * MOST_TEXT), strayed=tuple(strayed), **found)
