"""Names of processes: of each one another, and known to be over as soon as it is."""

from __future__ import annotations

import os
import subprocess

import pytest

from wna_ray import processes as process


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def test_a_living_process_has_a_name_of_its_own(sleeper: subprocess.Popen[bytes]) -> None:
    mine, other = process.name_of(os.getpid()), process.name_of(sleeper.pid)
    assert mine.startswith(f"{process.place()}/")
    assert mine != other
    assert process.lives(sleeper.pid, other) is True
    assert process.lives(sleeper.pid, mine) is False, "its number, but it began at another time"
    sleeper.kill()
    sleeper.wait()


def test_a_process_is_over_even_before_anybody_asks_how_it_ended(
    sleeper: subprocess.Popen[bytes],
) -> None:
    name = process.name_of(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert (process.lives(sleeper.pid, name), process.name_of(sleeper.pid)) == (False, "")
    sleeper.wait()
    assert process.lives(sleeper.pid, name) is False


@pytest.mark.parametrize("name", ["", "7", "another boot/pid:[1]/7"])
def test_what_is_elsewhere_cannot_be_told(name: str) -> None:
    assert process.lives(os.getpid(), name) is None
    assert process.lives(1 << 40, process.name_of(os.getpid())) is None


def test_a_process_that_is_hidden_may_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems show nobody the processes of others; that there is one can still be found
    out.
    """
    name = process.name_of(os.getpid())
    monkeypatch.setattr(process, "_stat", lambda pid: [])
    assert process.lives(os.getpid(), name) is None
    assert process.lives(2**31 - 2, name) is False


def test_without_a_table_of_processes_nothing_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "place", lambda: "")
    assert process.name_of(os.getpid()) == ""
    assert process.lives(os.getpid(), "") is None
