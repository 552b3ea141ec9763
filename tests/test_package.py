"""The package as it is imported: cheap, lazy, and versioned."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import wna_ray

HEAVY = ("ray", "matplotlib", "torch", "torchvision", "timm", "pandas", "typer")


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def imported(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has imported after running some code."""
    return set(
        python(
            "-c", f"import sys; {code}; print(*(m for m in {HEAVY} if m in sys.modules))"
        ).split()
    )


def test_the_oracle_sees_imports() -> None:
    assert imported("import matplotlib") == {"matplotlib"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import wna_ray") == set()


def test_a_spec_needs_neither_torch_nor_ray() -> None:
    assert imported("from wna_ray import Spec, WnaError") == set()


def test_the_public_names_do_not_import_ray() -> None:
    code = (
        "import wna_ray; from wna_ray import Spec, open_run, run; wna_ray.Spec, wna_ray.run,"
        " wna_ray.open_run, wna_ray.Run"
    )
    assert imported(code) & {"ray", "torchvision", "timm", "typer"} == set()


def test_opening_a_run_needs_no_matplotlib() -> None:
    assert imported("from wna_ray import open_run") & {"ray", "matplotlib"} == set()


def test_version_is_one_everywhere() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "wna_ray.version.__version__"
    }
    assert wna_ray.__version__ == version("wna-ray")
    assert python("-m", "wna_ray", "--version").split()[-1] == wna_ray.__version__


def test_public_names_exist_and_others_do_not() -> None:
    from wna_ray.kinds.average.job import run
    from wna_ray.specs.run import Spec

    assert all(hasattr(wna_ray, name) for name in wna_ray.__all__)
    assert wna_ray.Spec is Spec
    assert wna_ray.run is run
    with pytest.raises(AttributeError, match="module 'wna_ray' has no attribute 'spek'"):
        wna_ray.spek  # noqa: B018


MODULES = (
    "typing",
    "__future__",
    "typer",
    "numpy",
    "torch",
    "yaml",
    "rich",
    "json",
    "enum",
    "pydantic",
    "scipy",
    "fsspec",
)


@pytest.mark.parametrize("start", [("-m", "wna_ray"), ("-mwna_ray",), ("-m", "wna_ray.cli")])
def test_no_module_of_a_strangers_folder_is_imported(
    start: tuple[str, ...], tmp_path: Path
) -> None:
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(
            f"open('sprung', 'w').close()\nraise SystemExit('{name}.py of the folder was run')\n"
        )
    for command, code, text in (
        (["--version"], 0, wna_ray.__version__),
        (["plan", "nowhere.yaml"], 2, ""),  # which imports every room
    ):
        done = subprocess.run(
            [sys.executable, *start, *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout.strip()) == (code, text), done.stderr
    assert not (tmp_path / "sprung").exists()
    # the trap works: Python itself would have imported from there
    code = "import sys; sys.argv = ['x']; import json"
    assert (
        "json.py of the folder"
        in subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
        ).stderr
    )


def test_a_persons_own_session_keeps_its_folder_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 5\n")
    (tmp_path / "script.py").write_text("import wna_ray, mine; print(mine.x)\n")
    for arguments in (
        ["script.py"],
        ["-c", "import wna_ray, mine; print(mine.x)"],
        ["-m", "script"],
    ):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "5\n", done.stderr
