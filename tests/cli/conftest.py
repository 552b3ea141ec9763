"""Finished runs that the tests of commands share."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from places import GOLDEN_FOLDER


@pytest.fixture
def golden_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders ``run``, ``stc`` and ``sweep``, in the working directory."""
    with tarfile.open(GOLDEN_FOLDER / "runs-of-73302e1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path
