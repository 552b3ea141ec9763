"""A small part of what ``make fuzz`` does, and that all of it reaches what it promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fuzz_runs
import fuzz_specs
import pytest
from fuzz_fixtures import RUNS, make
from fuzz_harms import FAMILIES
from fuzz_ledger import Found
from fuzz_nursery import GROWTH, Nursery, Told, faults
from fuzz_spec_text import SECRET, Case, spec
from fuzz_targets import TARGETS

SEED, COUNT = 1, 5200  # of make fuzz
CHANCE = 300  # specs by chance
SLOW = ("net.pt2", "trained", "bomb.npy", "bomb.pt", "bomb.pt2")
EACH = 3  # mutations by chance of a kind
OFTEN = 5  # every fifth target
CASES = fuzz_specs.listed(SEED, CHANCE)
DONE = Told(0, "whole", 0, 0.1, False)


def few_mutations() -> list[int]:
    """Some of each kind and of each family, and some of the targets."""
    chosen = list(range(0, len(TARGETS), OFTEN))
    plans = [fuzz_runs.planned(SEED, i) for i in range(len(TARGETS), COUNT)]
    for kind in fuzz_runs.KINDS:
        chosen += [plan.index for plan in plans if plan.kind == kind][:EACH]
    for family in (*FAMILIES, fuzz_runs.SWEEP):
        chosen += [plan.index for plan in plans if plan.family == family][:1]
    return sorted(set(chosen))


def few_specs() -> list[int]:
    """Some of each family; files that take long are left to make fuzz."""
    quick = [i for i, case in enumerate(CASES) if not any(map(slow, case.files))]
    families = sorted({CASES[i].family for i in quick})
    of = {family: [i for i in quick if CASES[i].family == family] for family in families}
    return sorted({i for some in of.values() for i in some[:: max(1, len(some) // 3)]})


def slow(name: str) -> bool:
    """Whether a file takes a second to make."""
    return any(name.endswith(slow) for slow in SLOW)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def nursery(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("fuzz") / "nursery"
    with Nursery(folder, WNA_DATA=str(honest / "data")) as warm:
        yield warm


@pytest.fixture(scope="module")
def runs(
    honest: Path,
    nursery: Nursery,
    tmp_path_factory: pytest.TempPathFactory,
) -> fuzz_runs.Workplace:
    return fuzz_runs.Workplace(honest, tmp_path_factory.mktemp("runs"), nursery)


@pytest.fixture(scope="module")
def specs(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> fuzz_specs.Workplace:
    files, folder = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("specs")
    return fuzz_specs.Workplace(files, folder, nursery)


@pytest.mark.parametrize("kind", RUNS)
def test_an_honest_run_is_read(kind: str, runs: fuzz_runs.Workplace, tmp_path: Path) -> None:
    """So that no refusal is the limits' work."""
    for command in ("verify", "open", "html"):
        argv = fuzz_runs.COMMANDS[command](str(runs.honest / kind), "")
        (cwd := tmp_path / command).mkdir()
        told = runs.nursery.told(argv, cwd, strict=True)
        assert (told.code, faults(told)) == (0, []), told.text


@pytest.mark.parametrize("index", few_mutations())
def test_a_broken_run_is_read_or_refused(index: int, runs: fuzz_runs.Workplace) -> None:
    found = [found for _, found in runs.tried(fuzz_runs.planned(SEED, index)) if found]
    assert not found, "\n\n".join(map(str, found))


@pytest.mark.parametrize("index", few_specs())
def test_a_hostile_spec_is_done_or_refused(index: int, specs: fuzz_specs.Workplace) -> None:
    again = f"python tests/fuzz_specs.py --seed {SEED} --count {CHANCE} --only {index}"
    _, found = specs.tried(CASES[index], again)
    assert found is None, str(found)


def test_mutations_reach_every_family_of_every_kind() -> None:
    plans = [fuzz_runs.planned(SEED, index) for index in range(COUNT)]
    reached = {(plan.kind, plan.family) for plan in plans if plan.kind != "sweep" or plan.member}
    assert reached >= {(kind, family) for kind in RUNS for family in FAMILIES}
    assert ("sweep", fuzz_runs.SWEEP) in {(plan.kind, plan.family) for plan in plans}
    assert [plan.target for plan in plans if plan.target] == list(TARGETS)
    assert {command for plan in plans for command in plan.commands} == set(fuzz_runs.COMMANDS)
    assert {plan.kind for plan in plans if plan.unfinished} == set(RUNS) - {"sweep"}


def test_there_are_hundreds_of_different_specs() -> None:
    assert len({(case.text, case.argv) for case in CASES}) >= 700
    assert len({(case.text, case.argv) for case in fuzz_specs.listed(SEED, 0)}) >= 400
    assert fuzz_specs.listed(SEED, CHANCE) == CASES
    assert fuzz_specs.listed(SEED + 1, CHANCE) != CASES


@pytest.mark.parametrize(
    "told, expected",
    [
        (DONE, []),
        (Told(3, "not finished\n", GROWTH, 20.0, False), []),
        (Told(4, "", 0, 0.1, False), ["exit code 4"]),
        (Told(-9, "", 0, 0.1, True), ["no end within 25 s"]),
        (Told(-11, "", 0, 0.1, False), ["exit code -11"]),
        (Told(70, "Traceback (most recent call last):\n", 0, 0.1, False), ["a traceback"]),
        (Told(0, "", 2 * GROWTH, 0.1, False), ["2048 MiB of memory"]),
        (Told(0, "", 0, 21.0, False), ["21 s of a processor"]),
        (Told(0, "a\x1b[2J", 0, 0.1, False), ["printed '\\x1b'"]),
        (Told(0, "a\r", 0, 0.1, False), ["printed '\\r'"]),
        (Told(0, "\u202eabc", 0, 0.1, False), ["printed '\\u202e'"]),
        (Told(0, "a" * 60_001, 0, 0.1, False), ["printed 60001 characters"]),
        (Told(0, f"a{SECRET}", 0, 0.1, False), [f"printed the secret {SECRET}"]),
        (Told(0, "", 0, 0.1, False, ("os.mkdir",)), ["strayed: os.mkdir"]),
    ],
)
def test_what_does_not_hold_is_named(told: Told, expected: list[str]) -> None:
    assert faults(told, [SECRET]) == expected


def test_a_command_does_not_leave_its_folder(runs: fuzz_runs.Workplace, tmp_path: Path) -> None:
    (cwd := tmp_path / "cwd").mkdir()
    argv = ["fetch", str(runs.honest / "plain"), str(tmp_path / "elsewhere")]
    told = runs.nursery.told(argv, cwd, strict=True)
    assert told.strayed, told.text
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_imported_is_seen(specs: fuzz_specs.Workplace) -> None:
    case = Case("", "a trap", spec(model="python:trap_for_tests:make"))
    _, found = specs.tried(case, "")
    assert found is not None
    assert found.faults == ("strayed: the trap was imported",)


def test_the_same_fault_has_the_same_signature() -> None:
    frame = '  File "/x/wna_ray/cli/main.py", line {}, in verify\n'
    text = "Traceback (most recent call last):\n" + frame + "TypeError: {}\n"
    told = [Told(70, text.format(n, n), 0, 0.1, False) for n in (1, 2)]
    found = [Found("", "", ("verify", "run"), ("a traceback",), one) for one in told]
    assert len({one.signature for one in found}) == 1
