"""Fuzzer of specs and the files they name: ``python tests/fuzz_specs.py``; ``--only I`` for one.

Each of `fuzz_spec_cases` and `fuzz_spec_chance` is given to a command. It may refuse it in a
sentence, or do its work; what holds in any case is in `fuzz_nursery.faults` and in `beside`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import fuzz_files
from fuzz_fixtures import digits
from fuzz_ledger import Found, Ledger
from fuzz_nursery import Nursery, Told, changed, faults, there
from fuzz_spec_cases import cases
from fuzz_spec_chance import generated, honest
from fuzz_spec_text import SECRET, Case

PLACED = ("told.txt", "out", "spec.yaml")  # what lies in a command's folder, or may be left there
LARGE = 1 << 24  # bytes: what is stored of a spec is smaller


def listed(seed: int, count: int) -> list[Case]:
    """Honest specs, the table, and so many more by chance."""
    return [*honest(), *cases(), *(generated(seed, index) for index in range(count))]


def beside(case: Case, told: Told, cwd: Path) -> list[str]:
    """What does not hold of a command by what it left, though it holds of each."""
    placed = (*PLACED, case.argv[-1].split("/")[0])
    found = [f"left {path.name!r}" for path in cwd.iterdir() if path.name not in placed]
    if case.refused and told.code == 0:
        found.append("did what nobody can mean")
    if case.honest and told.code != 0:
        found.append("refused an honest spec")
    made = (path for path in sorted((cwd / "out").rglob("*")) if path.is_file())
    for path in (path for path in made if path.stat().st_size < LARGE):
        if SECRET.encode() in path.read_bytes():
            found.append(f"stored a secret in {path.name}")
    return found


@dataclass(frozen=True)
class Workplace:
    """A folder of hostile files, one for each command, and a warm process."""

    files: Path
    folder: Path
    nursery: Nursery

    def tried(self, case: Case, again: str) -> tuple[Told, Found | None]:
        """Do a case: how it ended, and what does not hold of it."""
        cwd = self.folder / "cwd"
        shutil.rmtree(cwd, ignore_errors=True)
        cwd.mkdir(parents=True)
        for name in case.files:
            fuzz_files.make(name, self.files)
        text = case.text.encode(errors="surrogatepass") if isinstance(case.text, str) else case.text
        (cwd / "spec.yaml").write_bytes(text.replace(b"FILES/", f"{self.files}/".encode()))
        argv = ["spec.yaml" if word == "SPEC" else word for word in case.argv]
        argv = [word.replace("FILES/", f"{self.files}/") for word in argv]
        before = there(self.files)
        told = self.nursery.told(argv, cwd, strict=False)
        broken = [*faults(told, [SECRET]), *beside(case, told, cwd)]
        broken += [f"changed {path.name}" for path in changed(before, there(self.files))[:1]]
        shutil.rmtree(cwd)
        about = f"{case.family}: {case.name}"
        return told, Found(again, about, case.argv, tuple(broken), told) if broken else None


@contextmanager
def workplace(folder: Path, data: Path) -> Iterator[Workplace]:
    """A warm process with its folder."""
    (folder / "files").mkdir(parents=True)
    with Nursery(folder / "nursery", WNA_DATA=str(data)) as nursery:
        yield Workplace(folder / "files", folder, nursery)


def fuzz(chosen: Sequence[tuple[Case, str]], folder: Path, jobs: int, ledger: Ledger) -> None:
    """Do cases, several at a time."""
    data = digits(folder / "data")

    def work(number: int) -> None:
        with workplace(folder / f"worker-{number}", data) as place:
            for case, again in chosen[number::jobs]:
                ledger.add(case.family, *place.tried(case, again))
                ledger.step()

    # A network is trained on the data.
    with patch.dict(os.environ, WNA_DATA=str(data)), ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(jobs)))


def main() -> int:
    """Entry point; gives the exit code, 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    by_chance = f"cases by chance, beside the {len(listed(0, 0))} of the table"
    parser.add_argument("--count", type=int, default=300, help=by_chance)
    parser.add_argument("--only", type=int, help="do this one alone")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    command = f"python tests/fuzz_specs.py --seed {asked.seed} --count {asked.count} --only"
    numbered = enumerate(listed(asked.seed, asked.count))
    chosen = [(case, f"{command} {index}") for index, case in numbered]
    chosen = chosen if asked.only is None else chosen[asked.only :][:1]
    ledger = Ledger(len(chosen))
    with tempfile.TemporaryDirectory(prefix="wna-fuzz-") as folder:
        fuzz(chosen, Path(folder), min(asked.jobs, len(chosen)), ledger)
    return ledger.close()


if __name__ == "__main__":
    sys.exit(main())
