"""Commands that read a directory, or only print, load no room that they do not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "matplotlib", "ray")
MOST_SECONDS = 0.5  # of processor time, for ``wna --version``


def loaded(code: str) -> set[str]:
    """Which of the heavy packages a process has imported after it ran some code; all that it
    printed before is dropped.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{set(HEAVY)!r} & sys.modules.keys())"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def loaded_by(command: str) -> set[str]:
    """Which of the heavy packages a command imports; it must end with exit code 0."""
    return loaded(
        "from wna_ray.cli import main\n"
        f"sys.argv = ['wna', *{command.split()!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code in (None, 0), end.code\n"
        "print()"
    )


def processor_seconds(*arguments: str) -> float:
    """What a process takes of the processors, for itself and for the system."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def test_the_oracle_sees_what_a_command_imports(golden_runs: Path) -> None:
    assert loaded_by("report run --to report") == {"torch", "matplotlib"}


@pytest.mark.parametrize("command", ["--version", "--help", "plan --help"])
def test_texts_load_nothing(command: str) -> None:
    assert loaded_by(command) == set()


@pytest.mark.parametrize("name", ["run", "stc", "sweep"])
@pytest.mark.parametrize("command", ["status", "verify", "fetch"])
def test_directories_are_read_without_torch(command: str, name: str, golden_runs: Path) -> None:
    arguments = f"{name} copy" if command == "fetch" else name
    assert loaded_by(f"{command} {arguments}") == set()


def test_sizes_of_objects_are_known_without_torch() -> None:
    """Of every kind of job that is installed."""
    code = "from wna_ray.registry import kinds\nfor kind in kinds(): kind.part('extent')"
    assert loaded(code) == set()


def test_the_version_is_printed_at_once() -> None:
    """The best of three, for the machine may be busy."""
    seconds = min(processor_seconds("-P", "-m", "wna_ray", "--version") for _ in range(3))
    assert seconds < MOST_SECONDS
