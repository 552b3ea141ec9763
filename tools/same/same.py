"""Prove that a change of layout changed no byte of any result: ``make same REF=COMMIT``.

The tree of a commit and the working tree each do the same small jobs (see `same_jobs`), side by
side, one core each, on made-up data. Then everything is compared, name by name: every object that
they left, the text that every command printed (see `same_texts`), its exit code, and what Python
reads of every run (see `same_readers`). Nothing is recorded, since bytes hold on one kind of
processor only. What a change means to change stands in ``expected.txt``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from same_compare import Unreasoned, differences, judge, read_expected, told
from same_jobs import JOBS, Job, chosen
from same_paper import write_small_jobs
from same_tree import Side, Unfit, lay_out_commit, lay_out_folder

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SAME, DIFFERENT, UNUSABLE = 0, 1, 2
REF, NOW = "ref", "now"  # of one length: lines with paths in them are cut at the same places


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Read what is asked on the command line."""
    parser = argparse.ArgumentParser(prog="same.py", description=__doc__.partition("\n")[0])
    parser.add_argument("ref", nargs="?", default="", help="the commit to compare with")
    parser.add_argument("--only", default="", metavar="JOB,...", help="these, and their needs")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave both folders there")
    parser.add_argument("--tree", type=Path, default=REPOSITORY, help="instead of the working tree")
    parser.add_argument("--expected", type=Path, default=HERE / "expected.txt")
    return parser.parse_args(args)


@contextmanager
def working_folder(keep: Path | None) -> Iterator[Path]:
    """Make a folder that is removed at the end, unless somebody wants to look into it."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="same-") as folder:
            yield Path(folder).resolve()
        return
    if keep.exists() and any(keep.iterdir()):
        raise Unfit(f"--keep {keep}: is not empty; give another folder, or delete it")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def jobs_of(only: str) -> tuple[Job, ...]:
    """Find the jobs that are asked for; all by default."""
    try:
        return chosen(only.split(",")) if only else JOBS
    except KeyError as name:
        known = ", ".join(job.name for job in JOBS)
        raise Unfit(f"--only {only}: there is no job {name}; there are {known}") from None


def make_up(folder: Path, jobs: Path) -> tuple[Path, Path]:
    """Make up the data sets, and what jobs are given; return both folders."""
    line = [sys.executable, "-P", str(HERE / "same_data.py"), str(folder)]
    env = os.environ | {"MPLCONFIGDIR": str(folder / "fonts"), "PYTHONPATH": str(HERE)}
    subprocess.run(line, env=env, check=True)
    write_small_jobs(jobs, folder / "given" / "jobs")
    return folder / "data", folder / "given"


def both(sides: Sequence[Side], jobs: Sequence[Job]) -> None:
    """Do the jobs of both sides at once."""
    with ThreadPoolExecutor(len(sides)) as pool:
        list(pool.map(lambda side: side.do(jobs), sides))


def compare(asked: argparse.Namespace, folder: Path) -> int:
    """Do everything, and return the exit code."""
    jobs, expected = jobs_of(asked.only), read_expected(asked.expected.read_text())
    commit = lay_out_commit(REPOSITORY, asked.ref, folder / REF / "tree")
    lay_out_folder(asked.tree, folder / NOW / "tree")
    data, given = make_up(folder, folder / REF / "tree" / "jobs")
    sides = before, after = [Side(folder / name, data) for name in (REF, NOW)]
    for side in sides:
        side.prepare(given)
    print(f"{commit} (ref) and {asked.tree} (now): {len(jobs)} jobs in each", flush=True)
    both(sides, jobs)
    print(f"ref took {before.seconds:.0f} s, now {after.seconds:.0f} s", flush=True)
    made = before.found(), after.found()
    verdict = judge(differences(*made), expected)
    if asked.only:  # lines about other jobs match nothing here
        verdict = replace(verdict, stale=())
    faults = [f"{side.name}: {fault}" for side in sides for fault in side.faults]
    wrong = [*faults, *told(verdict)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    count = f"{len(made[0].keys() | made[1].keys()):,} objects of {len(jobs)} jobs"
    but = f", but for {verdict.excused:,} that are expected to differ" if verdict.excused else ""
    different = f"{len(verdict.unexpected):,} differ; {len(faults)} faults"
    print(f"{count}: {different if wrong else f'all the same{but}'}")
    return DIFFERENT if wrong else SAME


def main(args: Sequence[str] | None = None) -> int:
    """Return 0 where all is the same, 1 where something differs, 2 where nothing is compared."""
    asked = arguments(args)
    try:
        with working_folder(asked.keep) as folder:
            return compare(asked, folder)
    except (Unfit, Unreasoned) as reason:
        where = f"{asked.expected}, " if isinstance(reason, Unreasoned) else ""
        print(f"same: {where}{reason}", file=sys.stderr)
        return UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
