"""A tree of the package, the folder where its jobs are done, and the proof that it does them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from same_jobs import Command, Job
from same_objects import objects
from same_texts import without_circumstances

PACKAGE = "wna_ray"
HERE = Path(__file__).parent
SCRIPTS = {"calls": HERE / "same_calls.py", "readers": HERE / "same_readers.py"}
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
ONE_CORE = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB")
NOWHERE = "http://127.0.0.1:9"  # a proxy that is not there: nothing is downloaded
SECONDS = 900  # that a command may take
TOO_LONG = 124


class Unfit(Exception):
    """What is asked for cannot be compared; the message says why."""


@dataclass
class Side:
    """One tree, and what came of its jobs.

    Attributes
    ----------
    home
        Its folder: ``tree``, ``runs``, ``texts``, and a home for what programs cache.
    data
        The folder of made-up data sets, ``fonts`` beside it.
    faults
        What must not be, whatever the other tree does: exit codes, foreign modules.
    """

    home: Path
    data: Path
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Return what it is called in faults."""
        return self.home.name

    @property
    def tree(self) -> Path:
        """Return where the package lies."""
        return self.home / "tree"

    @property
    def runs(self) -> Path:
        """Return where commands work."""
        return self.home / "runs"

    @property
    def texts(self) -> Path:
        """Return where the texts are that they printed."""
        return self.home / "texts"

    @property
    def ledger(self) -> Path:
        """Return where processes say from where they import the package."""
        return self.home / "imports.txt"

    @property
    def readings(self) -> Path:
        """Return where `same_readers` says what it read."""
        return self.home / "readings.json"

    def prepare(self, given: Path) -> None:
        """Make its folders, with what jobs are given."""
        for folder in (self.texts, self.home / "home"):
            folder.mkdir(parents=True)
        shutil.copytree(given, self.runs / given.name)

    def environment(self) -> dict[str, str]:
        """Return variables of its processes: one core, no GPU, no network, a home of its own."""
        found = {name: os.environ[name] for name in KEPT if name in os.environ}
        found |= {f"{name}_NUM_THREADS": "1" for name in ONE_CORE}
        found |= {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "RAY_USAGE_STATS_ENABLED": "0"}
        found |= {"HOME": str(self.home / "home"), "MPLCONFIGDIR": str(self.data.parent / "fonts")}
        found |= {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}
        found |= {"SAME_TREE": str(self.tree), "SAME_LEDGER": str(self.ledger)}
        paths = os.pathsep.join((str(self.tree), str(HERE / "witness")))
        return found | {"WNA_DATA": str(self.data), "PYTHONPATH": paths}

    def do(self, jobs: Iterable[Job]) -> None:
        """Do jobs, one after the other."""
        begin = time.monotonic()
        for job in jobs:
            for number, command in enumerate(job.commands, 1):
                self._do(command, f"{job.name}-{number}-{command.word}")
        self.seconds = time.monotonic() - begin

    def _do(self, command: Command, title: str) -> None:
        """Run a command, keep what it printed, and note what must not be."""
        for glob in command.lose:
            self._lose(glob, title)
        before = len(self._imports())
        code, out, err = self._run(command)
        self._keep(command, f"{title}.out", out)
        self._keep(command, f"{title}.err", err)
        if code != command.code:
            last = (err.strip().splitlines() or ["it printed no error"])[-1][:200]
            self.faults.append(f"{title}: exit code {code}, not {command.code} ({last})")
        self._prove(self._imports()[before:], command.processes, title)

    def _run(self, command: Command) -> tuple[int, str, str]:
        module = ["-m", PACKAGE]
        args = list(command.args)
        if command.program != "wna":
            module = [str(SCRIPTS[command.program])]
            args = [str(self.readings)] if command.program == "readers" else []
        how = {"cwd": self.runs, "env": self.environment(), "timeout": SECONDS}
        line = [sys.executable, "-P", *module, *args]
        try:
            ended = subprocess.run(line, capture_output=True, check=False, **how)
        except subprocess.TimeoutExpired:
            return TOO_LONG, "", f"it took more than {SECONDS} s"
        out, err = (text.decode(errors="replace") for text in (ended.stdout, ended.stderr))
        return ended.returncode, out, err

    def _lose(self, glob: str, title: str) -> None:
        found = list(self.runs.glob(glob))
        for path in found:
            path.unlink()
        if not found:
            self.faults.append(f"{title}: no {glob} to delete before")

    def _keep(self, command: Command, name: str, text: str) -> None:
        folders = {str(self.tree): "<tree>", str(self.home): "<home>", str(self.data): "<data>"}
        (self.texts / name).write_text(without_circumstances(command.word, text, folders))

    def _imports(self) -> list[list[str]]:
        """Read the ledger: process, whose module it was, its name, and its place."""
        text = self.ledger.read_text() if self.ledger.exists() else ""
        return [line.split("\t") for line in text.splitlines()]

    def _prove(self, imports: list[list[str]], processes: int, title: str) -> None:
        """Note modules of another tree, and processes that did not import the package at all."""
        foreign = [f"{name} from {origin}" for _, whose, name, origin in imports if whose != "own"]
        if foreign:
            told = ", ".join(foreign[:3])
            self.faults.append(f"{title}: imports modules of another tree: {told}")
        seen = len({number for number, *_ in imports})
        if seen < processes:
            told = f"{seen} of at least {processes} processes said from where"
            self.faults.append(f"{title}: {told} they import {PACKAGE}")

    def found(self) -> dict[str, str]:
        """Collect everything that is compared, by name: objects, texts, readings."""
        found = dict(objects(self.runs))
        found |= {f"texts/{path.name}": path.read_text() for path in self.texts.iterdir()}
        if self.readings.exists():
            read = json.loads(self.readings.read_text())
            found |= {f"readings/{name}": digest for name, digest in read.items()}
        return found


def lay_out_commit(repository: Path, ref: str, to: Path) -> str:
    """Lay out the tree of a commit, and return the commit's short name.

    Raises
    ------
    Unfit
        There is no such commit, or it has no package.
    """
    if not ref or ref.startswith("-"):
        raise Unfit("REF is missing: make same REF=COMMIT, such as REF=HEAD or REF=v0.1.0")
    asked = ["rev-parse", "--verify", "--quiet", "--short", f"{ref}^{{commit}}"]
    commit = _git(repository, *asked).decode().strip()
    if not commit:
        raise Unfit(f"REF={ref}: {repository} has no such commit (git log shows those it has)")
    with tarfile.open(fileobj=io.BytesIO(_git(repository, "archive", commit))) as archive:
        archive.extractall(to, filter="data")
    return require_package(to, f"REF={ref}") and commit


def lay_out_folder(folder: Path, to: Path) -> None:
    """Copy the package of a folder as it is: whoever goes on working there disturbs nothing."""
    require_package(folder, str(folder))
    shutil.copytree(folder / PACKAGE, to / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))


def require_package(folder: Path, told: str) -> bool:
    """Raise `Unfit` where a folder does not hold the package."""
    if not (folder / PACKAGE / "__init__.py").is_file():
        raise Unfit(f"{told} has no {PACKAGE}/__init__.py")
    return True


def _git(repository: Path, *args: str) -> bytes:
    """Return what git prints; nothing where it fails."""
    line = ["git", "-C", str(repository), *args]
    return subprocess.run(line, capture_output=True, check=False).stdout
