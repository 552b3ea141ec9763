"""The rules of the house, broken on purpose: each breach is named, and nothing else is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import draw_rooms
import house
import pytest
from places import ROOT

KIND = """from wna_ray.registry import Kind
KIND = Kind(name="run", format="wna-run/1", spec="wna_ray.specs.run:Spec",
    opened="wna_ray.kinds.average.run:Run", ask="wna_ray.kinds.average.job:NoiseQuestion.of")
"""
BREACHES = {
    "a long file": ("wna_ray/noise/long.py", "x = 1\n" * 501, "length: 501 lines; at most 500"),
    "a long body": (
        "tests/test_long.py",
        'def f() -> None:\n    """Long."""\n' + "    print()\n" * 61,
        "body: f has 61 lines; at most 60",
    ),
    "a late import": (
        "wna_ray/noise/late.py",
        "def f() -> None:\n    from wna_ray import cli\n",
        "late import: in f; only cli may",
    ),
    "isinstance": ("wna_ray/runs/a.py", "isinstance(x, Run)\n", "kind: Run is told apart here"),
    "isinstance of several": (
        "wna_ray/paper/a.py",
        "isinstance(x, (int, module.Spec))\n",
        "kind: Spec is told apart here",
    ),
    "a format": ("wna_ray/runs/a.py", 'x == "wna-run/1"\n', "kind: wna-run/1 is told apart here"),
    "match": (
        "wna_ray/reports/a.py",
        "match x:\n    case Run():\n        pass\n",
        "kind: Run is told apart here",
    ),
    "a match of a format": (
        "wna_ray/cli/a.py",
        'match x:\n    case "wna-run/1":\n        pass\n',
        "kind: wna-run/1 is told apart here",
    ),
    "a table": ("wna_ray/reports/a.py", "y = {Run: 1}[type(x)]\n", "kind: Run is told apart here"),
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small house without a breach."""
    for name, text in (
        ("wna_ray/kinds/average/__init__.py", KIND),
        ("wna_ray/kinds/average/run.py", "def f(x):\n    return isinstance(x, Run)\n"),
        ("wna_ray/cli/plan.py", "def f():\n    from wna_ray import noise\n"),
        ("wna_ray/noise/stream.py", "def f():\n    import torch\n    return isinstance(x, int)\n"),
        ("tests/test_a.py", "def f(x):\n    return isinstance(x, Run)\n"),
        ("benchmarks/long.py", "x = 1\n" * 600),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_house_in_order_has_no_breach(small: Path) -> None:
    assert list(house.breaches(small)) == []


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_named(small: Path, name: str) -> None:
    path, text, said = BREACHES[name]
    (small / path).parent.mkdir(parents=True, exist_ok=True)
    (small / path).write_text(text)
    (breach,) = house.breaches(small)
    assert re.fullmatch(rf"{re.escape(path)}:\d+: {re.escape(said)}.*", breach)


def test_a_circle_is_named(small: Path) -> None:
    (small / "wna_ray/noise/a.py").write_text("from wna_ray.noise.b import x\n")
    (small / "wna_ray/noise/b.py").write_text("from wna_ray.noise import a\n")
    (breach,) = house.breaches(small)
    assert breach.startswith("wna_ray: circle: ")
    assert {"wna_ray.noise.a", "wna_ray.noise.b"} <= set(breach.split())


def test_this_house_is_in_order() -> None:
    assert list(house.breaches(ROOT)) == []


def contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    args = ["--config", ".importlinter.toml", "--no-cache"]
    return subprocess.run(
        [sys.executable, "-c", command, *args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("", "", ""),
        ("noise/stream.py", "from wna_ray.cli import shared", "Rooms"),
        ("noise/stream.py", "def f():\n    from wna_ray import specs", "Rooms"),
        ("kinds/trials/job.py", "from wna_ray.kinds.covariance import job", "Kinds of jobs"),
        ("sweeps/job.py", "import ray", "Ray stays in one room"),
        ("specs/run.py", "import torch", "What a person writes"),
    ],
)
def test_imports_that_a_contract_forbids_fail(
    tmp_path: Path, path: str, line: str, broken: str
) -> None:
    """A copy of the package with one more import; without it the copy passes."""
    shutil.copytree(ROOT / "wna_ray", tmp_path / "wna_ray")
    shutil.copy(ROOT / ".importlinter.toml", tmp_path)
    if path:
        with (tmp_path / "wna_ray" / path).open("a") as file:
            file.write(f"\n{line}\n")
    told = contracts(tmp_path)
    text = f"{told.stdout}{told.stderr}"
    assert (told.returncode == 0) == (not path), text
    names = re.findall(r"^(.*) BROKEN", text, re.MULTILINE)
    assert bool(names) == bool(path), text
    assert not path or any(name.startswith(broken) for name in names), text


def test_the_page_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [room for row in draw_rooms.layers() for room in row]
    assert set(rooms) >= {"cli", "kinds", "execution", "runs", "noise", "ground"}
    folders = {path.parent.name for path in (ROOT / "wna_ray").glob("*/__init__.py")}
    assert set(rooms) - {"ground"} == folders
    listed = page.partition("The rooms, from the top: ")[2].partition("\n\n")[0]
    assert [name for name in re.findall(r"`(\w+)`", listed)] == rooms[:-1]


def test_every_module_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", page))
    assert len(named) > 30
    missing = {name for name in named if not (ROOT / "wna_ray" / name).is_file()}
    assert missing == {"tools/house.py"}
