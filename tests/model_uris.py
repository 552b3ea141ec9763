"""What tests of models share: URIs, an exportable network, and refusals in one sentence."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.networks.models import load

BUNDLED = Path(str(files("wna_ray") / "bundled"))
LINEAR = "python:networks_for_tests:linear"


def refusal(uri: str, *words: str) -> str:
    """The message of the `ModelError` that a URI gives: one line that holds all `words`."""
    with pytest.raises(ModelError) as caught:
        load(uri)
    message = str(caught.value)
    assert "\n" not in message, message
    assert [word for word in ("model:", *words) if word not in message] == [], message
    return message


def own_digest(state: dict[str, torch.Tensor]) -> str:
    lines = [
        f"{n}|{v.dtype}|{tuple(v.shape)}|".encode() + v.detach().numpy().tobytes()
        for n, v in sorted(state.items())
    ]
    return hashlib.sha256(b"".join(lines)).hexdigest()


def exportable() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
