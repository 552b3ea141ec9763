"""Load a program saved by ``torch.export`` without letting the file run code of its own.

``torch.export.load`` is not made for files from strangers: it unpickles some members, evaluates symbolic sizes as
Python, and compiles guards. So the archive is looked through first, and whatever could be more than numbers, a
graph and sizes is refused.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import torch
from torch import nn

# Sizes as torch writes them: "Symbol('s31', positive=True, integer=True)", "2*s0 + 1", "Max(1, s3)".
_SIZE = re.compile(r"[\w\s+\-*/%().,='<>]*")
_SIZE_WORDS = re.compile(r"Symbol|Integer|Max|Min|Mod|FloorDiv|True|False|integer|positive|nonnegative|[su]\d+")
_SIZE_KEYS = ("expr_str", "as_expr_str")


class Refused(Exception):
    """The file holds something that could run."""


def load_exported(data: bytes) -> nn.Module:
    """The module of an exported program.

    Raises
    ------
    Refused
        It holds more than weights, a graph and sizes.
    Exception
        Whatever torch's reader meets in a file that is no exported program.
    """
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for name in archive.namelist():
            if "opaque_obj_" in name or "/aotinductor/" in name:
                raise Refused(f"it holds '{name}', which would be unpickled or run as machine code")
            if name.endswith(".json"):
                _check(json.loads(archive.read(name)))
    # What weights_only=True refuses, torch.export.load would unpickle all the same, unless this forbids it.
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        return torch.export.load(BytesIO(data)).module()
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _check(tree: Any) -> None:
    for key, value in _items(tree):
        if key == "guards_code" and value:
            raise Refused("it holds guards, which torch would compile as Python; export it again with static sizes")
        if key == "path_name" and "opaque_obj_" in str(value):
            raise Refused("it holds an opaque constant, which torch would unpickle")
        if key in _SIZE_KEYS:
            words = re.findall(r"[A-Za-z_]\w*", str(value))
            if not _SIZE.fullmatch(str(value)) or not all(_SIZE_WORDS.fullmatch(word) for word in words):
                raise Refused("it holds a size that is not plain arithmetic, which torch would evaluate as Python")


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value in nested JSON."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _items(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _items(value)
