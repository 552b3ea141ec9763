"""Fuzzer of run directories: ``python tests/fuzz_runs.py --seed 1``; ``--only I`` does one again.

Small runs of every kind are copied, a copy is broken in one place (see `fuzz_harms` and
`fuzz_targets`), and commands read it. Each of them may refuse it in a sentence, or do its work;
what holds in any case is in `fuzz_nursery.faults` and in `beside`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz_fixtures import RUNS, make
from fuzz_harms import (
    FAMILIES,
    LARGE,
    Scene,
    entries,
    load,
    own_file,
    seal_sweep,
    sha256,
    sweep_json,
)
from fuzz_ledger import Found, Ledger
from fuzz_mutations import MARKUP
from fuzz_nursery import UNPRINTABLE, Nursery, Told, changed, faults, there
from fuzz_targets import TARGETS

KINDS = {"plain": 8, "full": 6, "stop": 4, "spectrum": 3, "gradient": 3, "units": 5, "dense": 3}
KINDS |= {"matrix-free": 3, "basis": 2, "images": 2, "trials": 5, "sweep": 5}  # how often
PAIRED = ("plain", "full", "spectrum", "gradient", "sweep")  # kinds that have logits
PAIRS = ("compare", "contrast", "contrast, the other way", "patch", "panel")
ONE_MORE = {"": 4.0, "status": 2.0, "fetch": 1.5, "report": 0.8, "html": 0.7}  # how often
UNFINISHED = {"": 3.0, "verify": 1.0, "open": 1.0, "fetch": 1.0, "report": 1.0}
ODD_NAME = "[/red]run"
SWEEP = "sweep json"  # family of a sweep's own files
PLACED = ("told.txt", "out", "copy")  # what a command may leave in its folder

COMMANDS: dict[str, Callable[[str, str], list[str]]] = {  # of a run, and of an honest one
    "verify": lambda run, _: ["verify", run],
    "open": lambda run, _: ["open", run],
    "status": lambda run, _: ["status", run],
    "fetch": lambda run, _: ["fetch", run, "copy", "--workers", "2"],
    "report": lambda run, _: ["report", run, "--to", "out"],
    "html": lambda run, _: ["report", run, "--html", "--to", "out"],
    "compare": lambda run, _: ["compare", run, run, "--kind", "logits", "--to", "out"],
    "contrast": lambda run, full: [
        "contrast",
        run,
        full,
        "--kind",
        "logits",
        "--name",
        "0",
        "--to",
        "out",
    ],
    "contrast, the other way": lambda run, full: [
        *("contrast", full, run, "--kind", "logits", "--name", "0", "--other", "1"),
        *("--to", "out"),
    ],
    "patch": lambda run, _: ["backdoor", run, "--patch", "0,0,2,2", "--to", "out"],
    "panel": lambda run, full: [
        *("backdoor", "--panel", str(Path(run).parent)),
        *("--networks", str(Path(full).parent), "--to", "out"),
    ],
}


@dataclass(frozen=True)
class Plan:
    """A mutation.

    Attributes
    ----------
    seed, index
        What decides all of it.
    kind, member
        The run that is broken, or the member of a sweep.
    family
        What is done to it.
    commands
        Which then read it.
    unfinished
        Whether the manifest is taken away at last.
    folder
        Name of the run.
    target
        Name in `fuzz_targets.TARGETS`; else chance decides what is changed.
    """

    seed: int
    index: int
    kind: str
    family: str
    commands: tuple[str, ...]
    unfinished: bool
    member: str = ""
    folder: str = "run"
    target: str = ""

    @property
    def again(self) -> str:
        """The command line that does it again."""
        return f"python tests/fuzz_runs.py --seed {self.seed} --only {self.index}"

    def __str__(self) -> str:
        of = f"{self.kind}/{self.member}" if self.member else self.kind
        return f"seed {self.seed}, mutation {self.index}: {of}, {self.family}"


def planned(seed: int, index: int) -> Plan:
    """The mutation of a number: the first are the targets in their order, the others by chance."""
    rng, names = Random(f"{seed}/{index}"), list(TARGETS)
    if index < len(names):
        of = TARGETS[names[index]]
        kind, commands = of.kind, of.commands
        return Plan(seed, index, kind, "targets", commands, of.unfinished, target=names[index])
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    member = rng.choice(["", "a", "b", "b"]) if kind == "sweep" else ""
    family = rng.choices(list(FAMILIES), [often for often, _ in FAMILIES.values()])[0]
    family = SWEEP if kind == "sweep" and not member else family
    unfinished = kind != "sweep" and (family == "drivers" or rng.random() < 0.12)
    usual, one_more = (["status"], UNFINISHED) if unfinished else (["verify", "open"], ONE_MORE)
    more = rng.choices(list(one_more), list(one_more.values()))[0]
    pair = kind in PAIRED and not unfinished and rng.random() < 0.05
    commands = (*usual, *([more] if more else []), *([rng.choice(PAIRS)] if pair else []))
    folder = rng.choices(["run", ODD_NAME], [30, 1])[0]
    return Plan(seed, index, kind, family, commands, unfinished, member, folder)


def harmed(plan: Plan, run: Path, canary: Path) -> str:
    """Break a copy of a run as it is planned; tells what was done."""
    if plan.target:
        TARGETS[plan.target].harm(run, canary)
        what = plan.target
    else:
        change = sweep_json if plan.family == SWEEP else FAMILIES[plan.family][1]
        rng = Random(f"{plan.seed}/{plan.index}/change")
        what = change(Scene(rng, run / plan.member, canary))
        if plan.member and rng.random() < 0.8:
            seal_sweep(run)
            what += ", sweep forged"
    if plan.unfinished:
        (run / "MANIFEST.json").unlink(missing_ok=True)
    return what


def differing(run: Path) -> list[str]:
    """Objects of a run (and of the members of a sweep) that are not what its manifest lists."""
    found = list[str]()
    for path in sorted([run / "MANIFEST.json", *run.glob("[ab]/MANIFEST.json")]):
        if not path.is_file():
            continue
        for name, entry in entries(load(path)).items():
            place = path.parent / name
            same = own_file(path.parent, name) and place.stat().st_size == entry.get("bytes")
            same = same and (entry["bytes"] >= LARGE or sha256(place) == entry.get("sha256"))
            found += [] if same else [str(place.relative_to(run))]
    return found


def beside(command: str, told: Told, run: Path, cwd: Path) -> list[str]:
    """What does not hold of a command by what it left, though it holds of each."""
    found = [f"left {path.name!r}" for path in cwd.iterdir() if path.name not in PLACED]
    if command == "verify" and told.code == 0:
        found += [f"verified {name}, which is not as it is listed" for name in differing(run)[:1]]
    copy, pages = cwd / "copy", sorted((cwd / "out").rglob("*.html"))
    if command == "fetch" and told.code == 0:
        found += [f"fetched {name}, which is not as it is listed" for name in differing(copy)[:1]]
    if command == "fetch" and told.code != 0 and list(copy.glob("MANIFEST.json")):
        found.append("left a manifest of what was not fetched")
    for page in pages:
        text = page.read_text(errors="replace")
        planted = [mark for mark in ("<script", *MARKUP) if mark in text]
        if planted or UNPRINTABLE.search(text):
            found.append(f"wrote {(*planted, 'control characters')[0]} into a page")
    return found


@dataclass(frozen=True)
class Workplace:
    """Honest runs, a folder for a copy, and a warm process."""

    honest: Path
    folder: Path
    nursery: Nursery

    def tried(self, plan: Plan) -> Iterator[tuple[Told, Found | None]]:
        """Do a mutation and its commands; of each how it ended, and what does not hold of it."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        run, canary = work / "runs" / plan.folder, work / "canary"
        canary.mkdir(parents=True)
        (canary / "x").write_text("canary")
        shutil.copytree(self.honest / plan.kind, run)
        about = f"{plan}: {harmed(plan, run, canary)}{', unfinished' * plan.unfinished}"
        names = {str(work): "WORK", str(self.honest): "HONEST"}
        before = there(work, work / "cwd")
        for command in plan.commands:
            cwd = work / "cwd" / command
            cwd.mkdir(parents=True, exist_ok=True)
            argv = COMMANDS[command](str(run), str(self.honest / "full"))
            told = self.nursery.told(argv, cwd, strict=True, forbidden=canary)
            broken = [*faults(told), *beside(command, told, run, cwd)]
            after = there(work, work / "cwd")
            broken += [f"changed {path.relative_to(work)}" for path in changed(before, after)[:1]]
            before = after
            for path, name in names.items():
                argv = [word.replace(path, name) for word in argv]
            found = Found(plan.again, about, tuple(argv), tuple(broken), told)
            yield told, found if broken else None
        shutil.rmtree(work)


@contextmanager
def workplace(honest: Path, folder: Path) -> Iterator[Workplace]:
    """A warm process with its folder."""
    with Nursery(folder / "nursery", WNA_DATA=str(honest / "data")) as nursery:
        yield Workplace(honest, folder, nursery)


def fuzz(plans: Sequence[Plan], honest: Path, folder: Path, jobs: int, ledger: Ledger) -> None:
    """Do mutations, several at a time."""

    def work(number: int) -> None:
        with workplace(honest, folder / f"worker-{number}") as place:
            for plan in plans[number::jobs]:
                for told, found in place.tried(plan):
                    ledger.add(plan.family, told, found)
                ledger.step()

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(jobs)))


def main() -> int:
    """Entry point; gives the exit code, 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    of_them = f"mutations, of which the first {len(TARGETS)} are targets"
    parser.add_argument("--count", type=int, default=5200, help=of_them)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", type=int, help="do this one alone")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    numbers = range(asked.first, asked.first + asked.count) if asked.only is None else [asked.only]
    plans = [planned(asked.seed, index) for index in numbers]
    needed = {plan.kind for plan in plans} | {"full", "units"}
    ledger = Ledger(len(plans))
    with tempfile.TemporaryDirectory(prefix="wna-fuzz-") as folder:
        honest = make(Path(folder, "honest"), [kind for kind in RUNS if kind in needed])
        fuzz(plans, honest, Path(folder), min(asked.jobs, len(plans)), ledger)
    return ledger.close()


if __name__ == "__main__":
    sys.exit(main())
