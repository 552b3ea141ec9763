"""What both trees do: one small job of every kind, and every command that reads what jobs made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from same_specs import GIVEN, SPECS

Program = Literal["wna", "calls", "readers"]
FINISHED, FAILED, REFUSED, UNFINISHED = 0, 1, 2, 3


@dataclass(frozen=True)
class Command:
    """Something to run in the folder of a tree's runs.

    Attributes
    ----------
    args
        Its arguments.
    code
        The exit code that it must have.
    lose
        Globs of files that are deleted before, as if a machine had lost them.
    program
        The command line, or a script of this tool.
    processes
        How many processes import the package, at least.
    """

    args: tuple[str, ...]
    code: int = FINISHED
    lose: tuple[str, ...] = ()
    program: Program = "wna"
    processes: int = 1

    @property
    def word(self) -> str:
        """Say what it is, in a word."""
        return self.args[0] if self.program == "wna" else self.program

    def but(self, code: int) -> Command:
        """Expect another exit code."""
        return replace(self, code=code)

    def losing(self, *lose: str) -> Command:
        """Have files lost before."""
        return replace(self, lose=lose)


@dataclass(frozen=True)
class Job:
    """Commands, one after the other, and the jobs whose runs they read."""

    name: str
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()


def wna(line: str) -> Command:
    """Take a command line apart; its words have no blanks."""
    return Command(tuple(line.split()))


def run(name: str, out: str = "", more: str = "") -> Command:
    """Run a spec in the process itself."""
    return wna(f"run {spec(name)} --out {out or name} --executor local {more}")


def train(name: str) -> Command:
    """Train the networks of a spec in the process itself."""
    return wna(f"train {spec(name)} --out {name} --executor local")


def spec(name: str) -> str:
    """Say where a spec lies."""
    assert name in SPECS, name
    return f"{GIVEN}/{name}.yaml"


def on_ray(command: Command) -> Command:
    """Do the same on workers of Ray, which import the package, too."""
    args = [word for word in command.args if word not in ("--executor", "local")]
    return replace(command, args=(*args, "--workers", "1"), processes=2)


LOST = ("resumed/MANIFEST.json", "resumed/*/*128-*", "resumed/*/*384-*", "resumed/result/*.npy")
LOST_MEMBER = ("pairs/SWEEP.json", "pairs/drawn/grey/*.json")
LOST_TRAINING = ("nets/MANIFEST.json", "nets/curves.png")

JOBS: tuple[Job, ...] = (
    Job(
        "wrong",
        (
            run("wrong").but(REFUSED),
            wna("status nowhere").but(FAILED),
            run("one", "one", "--set samples").but(REFUSED),
        ),
    ),
    Job("plan", (wna(f"plan {spec('one')} --pilot 128"), wna(f"plan {spec('pairs')} --full"))),
    Job("demo", (run("demo"), wna("report demo --to demo-tables"))),
    Job(
        "resumed",
        (
            run("one", "resumed"),
            wna("status resumed").but(UNFINISHED).losing(*LOST),
            wna("report resumed --to nowhere").but(FAILED),
            run("one", "resumed"),
            wna("status resumed"),
            wna("verify resumed"),
        ),
    ),
    Job(
        "fetched",
        (
            wna("fetch resumed fetched"),
            wna("verify fetched").but(FAILED).losing("fetched/result/z_maps.npy"),
            wna("fetch resumed fetched"),
            wna("verify fetched"),
        ),
        ("resumed",),
    ),
    Job("kinds", (run("kinds"),)),
    Job("answers", (run("answers"), wna("report answers --to answers-tables"))),
    Job("nets", (train("nets"), train("nets").losing(*LOST_TRAINING))),
    Job("vae", (on_ray(train("vae")),)),
    Job("panel", (train("panel"),)),
    Job("binary", (train("binary"),)),
    Job("models", (run("models"), wna("verify models")), ("nets", "vae")),
    Job(
        "own",
        (run("own", more="--no-code").but(REFUSED), on_ray(run("own")), wna("verify own")),
    ),
    Job(
        "pairs",
        (
            run("pairs"),
            wna("status pairs").but(UNFINISHED).losing(*LOST_MEMBER),
            on_ray(run("pairs")),
            wna("status pairs"),
            wna("verify pairs"),
            wna("fetch pairs fetched-pairs --without-segments"),
            wna("report pairs --html --to pairs-pages"),
            wna("compare pairs --kind logits --to compared"),
        ),
    ),
    Job(
        "contrast",
        (wna("contrast demo demo --kind logits --name 3 --other 8 --to contrasted"),),
        ("demo",),
    ),
    Job(
        "backdoor",
        (
            run("panel-runs"),
            wna("backdoor --panel panel-runs --networks panel --to suspects"),
            wna("backdoor panel-runs/poisoned-00 --patch C --clean panel-runs --to suspect"),
        ),
        ("panel",),
    ),
    Job(
        "trials",
        (
            wna(f"plan {spec('trials')}"),
            run("trials"),
            wna("verify trials"),
            wna("report trials --to trials-tables"),
        ),
        ("binary",),
    ),
    Job("done-to", (run("done-to"), wna("report done-to --html --to done-pages")), ("demo",)),
    Job(
        "stc",
        (
            wna(f"plan {spec('stc')}"),
            run("stc"),
            wna("verify stc"),
            wna("report stc --to stc-tables"),
        ),
        ("answers",),
    ),
    Job(
        "covariances",
        (run("covariances"), wna("report covariances --html --to covariance-pages")),
        ("answers",),
    ),
    Job("calls", (Command((), program="calls"),), ("demo", "answers")),
    Job(
        "readers",
        (Command((), program="readers"),),
        ("demo", "kinds", "answers", "models", "pairs", "trials", "done-to", "stc", "covariances"),
    ),
    Job("paper", (wna(f"paper --jobs {GIVEN}/jobs --executor local").but(FAILED),)),
)


def chosen(names: Iterable[str]) -> tuple[Job, ...]:
    """Find jobs by name, with those that they need; `KeyError` where there is no such job."""
    known, wanted, waiting = {job.name: job for job in JOBS}, set[str](), list(names)
    while waiting:
        job = known[waiting.pop()]
        wanted.add(job.name)
        waiting += job.needs
    return tuple(job for job in JOBS if job.name in wanted)
