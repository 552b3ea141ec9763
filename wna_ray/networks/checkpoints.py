"""Files of weights: what a network is given by ``weights=PATH``.

A file is read as safetensors, or as what ``torch.load(weights_only=True)`` takes, and only where it
is no larger than such a network can have use for, packed and unpacked.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import safetensors.torch
import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.files import expanded, read_file

CHECKPOINT_SETS, CHECKPOINT_BYTES = 8, 64 << 20
"""A file of weights may hold so many times the network's own bytes: in double precision, with
averages and an optimiser's two moments.
"""


def load_weights(module: nn.Module, path: str) -> None:
    """Load safetensors or a plain state dict; unwraps ``{"state_dict": ...}`` and a leading
    ``module.``.

    Parameters
    ----------
    module
        The network that takes them.
    path
        A local path or any fsspec URL, as the model's URI has it.

    Raises
    ------
    ModelError
        The file cannot be read, holds something else, or its weights do not fit.
    """
    path, own = expanded(path), module.state_dict()
    most = CHECKPOINT_BYTES + CHECKPOINT_SETS * sum(
        v.numel() * v.element_size() for v in own.values()
    )
    data = read_file(path, "safetensors or a PyTorch state dict", most)
    state: Any
    try:
        if urlsplit(path).path.endswith(".safetensors"):
            state = safetensors.torch.load(data)
        else:
            _require_unpacked(data, most)
            state = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except _TooLarge as reason:
        raise ModelError(f"model: weights '{path}' are refused: {reason}") from None
    except Exception as error:  # safetensors and torch each have their own families of errors here
        raise ModelError(
            f"model: weights '{path}' are neither safetensors nor a state dict that"
            f" weights_only=True reads ({kind_of(error)})"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise ModelError(
            f"model: weights '{path}' hold {type(state).__name__}; expected a state dict (name ->"
            " tensor)"
        )
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    counters = {
        key: value for key, value in own.items() if key.endswith("num_batches_tracked")
    }  # old files lack them; eval ignores them
    state = {**counters, **state}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or shapes:
        wrong = [
            f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in sorted(shapes)
        ]
        faults = [f"no {', '.join(missing[:3])}"] * bool(missing) + [
            f"unknown {', '.join(extra[:3])}"
        ] * bool(extra)
        raise ModelError(
            f"model: weights '{path}' do not fit the network ({len(missing)} missing, {len(extra)}"
            f" unknown, {len(shapes)} of another shape): {'; '.join([*faults, *wrong[:3]])}"
        )
    module.load_state_dict(state)


class _TooLarge(Exception):
    """An archive that would take more memory than the network has use for."""


def _require_unpacked(data: bytes, most: int) -> None:
    """Refuse an archive whose members are more than the network needs once they are unpacked.

    torch reads sizes from the archive's last directory, and so does zipfile, as long as nothing
    stands behind it.
    """
    if not data.startswith(b"PK"):
        return  # the older form, which is not packed
    if data[-22:-18] != b"PK\5\6" or data[-2:] != b"\0\0":
        raise _TooLarge("something stands behind its archive; save it again by torch.save")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            total = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, struct.error, NotImplementedError):
        return  # torch says what it is
    if total > most:
        raise _TooLarge(
            f"unpacked it has {total:,} bytes, more than the {most:,} that such a network can have"
            " use for"
        )


def kind_of(error: Exception) -> str:
    """What went wrong, without torch's own advice (which is to switch its safety off)."""
    return (
        "it is a pickle of more than tensors"
        if isinstance(error, pickle.UnpicklingError)
        else type(error).__name__
    )
