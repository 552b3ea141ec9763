"""Commands in processes of their own, as a person starts them; and what a run left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from wna_ray.specs.run import Spec


def start(
    tmp_path: Path, spec: Spec, *options: str, out: str = "", env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """``python -m wna_ray run`` as a person would, by default into ``tmp_path/run``."""
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    command = [
        sys.executable,
        "-m",
        "wna_ray",
        "run",
        str(path),
        "--out",
        out or str(tmp_path / "run"),
        *options,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | dict(env or {}),
    )


def result(folder: Path) -> dict[str, bytes]:
    """Every byte under result/."""
    return {
        f.relative_to(folder).as_posix(): f.read_bytes()
        for f in sorted((folder / "result").rglob("*"))
        if f.is_file()
    }
