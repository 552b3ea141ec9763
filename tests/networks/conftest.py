"""Fixtures that tests of networks share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crafted_exports import honest
from crafted_exports.honest import Honest
from model_uris import exportable


@pytest.fixture(scope="session")
def bases() -> dict[str, Honest]:
    """The honest programs that the hostile ones are made of."""
    return honest.bases()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported program, `exportable` at a batch of 4."""
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    torch.export.save(torch.export.export(exportable(), (torch.zeros(4, 1, 4, 4),)), path)
    return path
