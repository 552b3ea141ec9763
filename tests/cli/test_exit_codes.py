"""Exit codes: one table, which the help and the README show, and which every command keeps to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_up_digits
import pytest
import yaml
from places import ROOT
from typer.main import get_command
from typer.testing import CliRunner, Result

from wna_ray.cli import (
    app,
    checking,
    comparing,
    contrasting,
    inspecting,
    planning,
    reporting,
    reproducing,
    running,
    searching,
    training,
)
from wna_ray.cli.shared import MEANINGS, ExitCode
from wna_ray.errors import Stopped, WnaError
from wna_ray.paper.make import Done

SPEC: dict[str, Any] = {
    "model": "python:networks_for_tests:linear",
    "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "scale": 1.0, "space": "input"},
    "samples": 500,
    "numerics": {"batch": 50},
}
FILES: dict[str, dict[str, Any]] = {
    "spec.yaml": SPEC,
    "covariance.yaml": {"run": "nowhere", "fresh": 1},
    "train.yaml": {"network": "logistic", "dataset": "mnist", "epochs": 1, "validation": 80},
}
LOCAL = "--executor local"
COMMANDS = {
    "check": {  # reads nothing but a model, so all of its errors are of an argument
        ExitCode.DONE: "python:networks_for_tests:linear --shape 1,4,4",
        ExitCode.ARGUMENT: "python:networks_for_tests:linear --shape 1,5,5",
    },
    "plan": {
        ExitCode.DONE: "spec.yaml --pilot 50",
        ExitCode.ERROR: "covariance.yaml",
        ExitCode.ARGUMENT: "nowhere.yaml",
    },
    "run": {
        ExitCode.DONE: f"spec.yaml --out new {LOCAL}",
        ExitCode.ERROR: f"spec.yaml --out run {LOCAL}",
        ExitCode.ARGUMENT: f"spec.yaml --out new {LOCAL} --set samples=none",
    },
    "train": {
        ExitCode.DONE: f"train.yaml --out new {LOCAL}",
        ExitCode.ERROR: f"train.yaml --out run {LOCAL}",
        ExitCode.ARGUMENT: f"train.yaml --out new {LOCAL} --set network=none",
    },
    "paper": {
        ExitCode.DONE: "--out whole",
        ExitCode.ERROR: "--out failed",
        ExitCode.ARGUMENT: "--workers none",
    },
    "status": {
        ExitCode.DONE: "run",
        ExitCode.ERROR: "nowhere",
        ExitCode.ARGUMENT: "",
        ExitCode.UNFINISHED: "unfinished",
    },
    "fetch": {
        ExitCode.DONE: "run copy",
        ExitCode.ERROR: "unfinished copy",
        ExitCode.ARGUMENT: "run copy --workers 0",
    },
    "verify": {
        ExitCode.DONE: "run",
        ExitCode.ERROR: "unfinished",
        ExitCode.ARGUMENT: "run --unknown",
    },
    "report": {
        ExitCode.DONE: "stc --to new",
        ExitCode.ERROR: "unfinished --to new",
        ExitCode.ARGUMENT: "stc --to",
    },
    "contrast": {
        ExitCode.DONE: "run run --kind logits --name 0 --other 1 --to new",
        ExitCode.ERROR: "run stc --kind logits --name 0",
        ExitCode.ARGUMENT: "run run",
    },
    "compare": {
        ExitCode.DONE: "run --kind logits --only-convergence --to new",
        ExitCode.ERROR: "stc --kind logits",
        ExitCode.ARGUMENT: "run",
    },
    "backdoor": {
        ExitCode.DONE: "white --patch 0,0,2,2 --to new",
        ExitCode.ERROR: "nowhere --patch C",
        ExitCode.ARGUMENT: "white",
    },
}
WORK = {
    "check": (checking, "print_check"),
    "plan": (planning, "print_plan"),
    "run": (running, "run_spec"),
    "train": (training, "train_networks"),
    "paper": (reproducing, "reproduce_paper"),
    "status": (inspecting, "print_status"),
    "fetch": (inspecting, "fetch_to"),
    "verify": (inspecting, "print_proof"),
    "report": (reporting, "write_report"),
    "contrast": (contrasting, "write_contrast"),
    "compare": (comparing, "write_comparison"),
    "backdoor": (searching, "search_backdoor"),
}
CASES = [(command, code) for command, ends in COMMANDS.items() for code in ends]


def wna(command: str, arguments: str) -> Result:
    return CliRunner().invoke(app, [command, *arguments.split()], catch_exceptions=False)


@pytest.fixture
def folder(golden_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Specs and runs of all kinds of ends; a data set and a paper that take no time."""
    for name, content in FILES.items():
        (golden_runs / name).write_text(yaml.safe_dump(content))
    assert wna("run", f"spec.yaml --out white {LOCAL}").exit_code == 0
    assert wna("fetch", "run unfinished").exit_code == 0
    (golden_runs / "unfinished" / "MANIFEST.json").unlink()
    made_up_digits.install(monkeypatch)
    failed = {"whole": {}, "failed": {"demo": "no space"}}
    monkeypatch.setattr(reproducing, "make_paper", lambda out, **how: Done(failed[out.name], {}))
    return golden_runs


def test_the_cases_are_of_all_commands() -> None:
    assert set(COMMANDS) == set(WORK) == set(get_command(app).commands)
    for command, ends in COMMANDS.items():
        unfinished = {ExitCode.UNFINISHED} if command == "status" else set()
        error = set() if command == "check" else {ExitCode.ERROR}
        assert set(ends) == {ExitCode.DONE, ExitCode.ARGUMENT} | error | unfinished


@pytest.mark.parametrize(("command", "code"), CASES, ids=[f"{c}-{code:d}" for c, code in CASES])
def test_a_command_ends_with_its_code(command: str, code: ExitCode, folder: Path) -> None:
    got = wna(command, COMMANDS[command][code])
    assert got.exit_code == code, got.output


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), Stopped("stopped")], ids=["key", "job"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_stopped_says_so(
    command: str, reason: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise reason

    monkeypatch.setattr(*WORK[command], stop)
    assert wna(command, COMMANDS[command][ExitCode.DONE]).exit_code == ExitCode.STOPPED


def test_an_unfinished_sweep_is_unfinished(golden_runs: Path) -> None:
    (golden_runs / "sweep" / "SWEEP.json").unlink()
    assert wna("status", "sweep").exit_code == ExitCode.UNFINISHED


def errors(kind: type[WnaError] = WnaError) -> Iterator[type[WnaError]]:
    """An error and all that are more special."""
    yield kind
    for special in kind.__subclasses__():
        yield from errors(special)


def test_every_error_has_a_code_of_the_table() -> None:
    for kind in errors():
        assert ExitCode(kind.exit_code) not in (ExitCode.DONE, ExitCode.UNFINISHED), kind


def test_the_help_shows_the_table() -> None:
    lines = [line.strip() for line in CliRunner().invoke(app, ["--help"]).stdout.splitlines()]
    table = lines[lines.index("Exit codes:") + 1 :]
    assert [line for line in table if line] == [
        f"{code}  {meaning}" for code, meaning in MEANINGS.items()
    ]


def test_the_readme_shows_the_table() -> None:
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| exit code |") :].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE)
    assert rows == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]
