"""The weights of an exported program: tensors made of bytes of the file.

Nothing of the file is trusted. A tensor's sizes, strides and offset must stay within the bytes of
its member, and all tensors together within a bound that the file's own length sets. Its bytes are
copied and taken as numbers; nothing is unpickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wna_ray.networks.exported.archive import (
    PLAIN,
    Refused,
    dotted,
    field,
    natural,
    odd,
    parsed,
    single,
    typed,
)
from wna_ray.networks.exported.arguments import read_device, read_dtype, read_layout
from wna_ray.networks.exported.program import Signature, Weight
from wna_ray.text import plain

SPARE = 64 << 20  # bytes that weights may take beyond the file's: some repeat one number


@dataclass(frozen=True)
class _Stored:
    """A tensor as the file describes it."""

    payload: str
    dtype: torch.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    parameter: bool
    tracked: bool

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.sizes)

    @property
    def reach(self) -> int:
        """Bytes that its payload must have at least."""
        steps = zip(self.sizes, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        return (last + 1) * self.dtype.itemsize if self.numel else 0


def read_tensors(
    members: Mapping[str, memoryview],
    length: int,
    signature: Signature,
) -> dict[Weight, Tensor]:
    """The tensors that a signature names."""
    weights = _stored(members, "data/weights", "model_weights_config.json", "weight_")
    constants = _stored(members, "data/constants", "model_constants_config.json", "tensor_")
    described = (*weights.values(), *constants.values())
    taken = sum(stored.numel * stored.dtype.itemsize for stored in described)
    if taken > 4 * length + SPARE:
        raise Refused(f"its weights overlap, and would take {taken:,} bytes", PLAIN)
    payloads: dict[str, Tensor] = {}
    tensors: dict[Weight, Tensor] = {}
    for source in (taken.source for taken in signature.inputs):
        if isinstance(source, Weight) and source not in tensors:
            stored = (constants if source.kind in ("constant", "passing") else weights).get(
                source.path,
            )
            if stored is None or stored.parameter < (source.kind == "parameter"):
                raise odd(f"it lacks the {source.kind} '{plain(source.path, 80)}'")
            tensors[source] = _tensor(stored, members, payloads, source.kind == "parameter")
    return tensors


def _stored(
    members: Mapping[str, memoryview],
    folder: str,
    config: str,
    prefix: str,
) -> dict[str, _Stored]:
    """Descriptions of all tensors in a folder, each compared with its payload."""
    weights = {}
    for path, entry in field(parsed(members, f"{folder}/{config}"), "config", dict).items():
        described = typed(dict, entry, "a weight in it")
        name = field(described, "path_name", str)
        if described.get("use_pickle") is not False or not re.fullmatch(
            prefix + "[0-9]{1,6}", name
        ):
            raise Refused(f"torch would unpickle '{plain(path, 80)}' in it", PLAIN)
        stored = _described(described, f"{folder}/{name}")
        if stored.payload not in members or stored.reach > len(members[stored.payload]):
            raise odd(f"'{plain(path, 80)}' in it has less numbers than it should")
        weights[dotted(path)] = stored
    return weights


def _described(entry: Mapping[str, Any], payload: str) -> _Stored:
    meta = field(entry, "tensor_meta", dict)
    dtype, parameter = read_dtype(meta.get("dtype")), field(entry, "is_param", bool)
    tracked = field(meta, "requires_grad", bool) and parameter
    if tracked and not (dtype.is_floating_point or dtype.is_complex):
        raise odd("a weight of whole numbers in it has gradients")
    read_layout(meta.get("layout"))
    read_device(meta.get("device"))
    sizes, strides = (_fixed(field(meta, key, list)) for key in ("sizes", "strides"))
    if len(sizes) != len(strides) or len(sizes) > 64:
        raise odd("a weight in it has other strides than sizes")
    (offset,) = _fixed([meta.get("storage_offset")])
    return _Stored(payload, dtype, sizes, strides, offset, parameter, tracked)


def _fixed(sizes: Sequence[Any]) -> tuple[int, ...]:
    """Sizes that are numbers."""
    parts = []
    for kind, value in (single(size, "a size in it") for size in sizes):
        if kind != "as_int":
            raise odd("a weight in it has a size that is not fixed")
        parts.append(natural(value))
    return tuple(parts)


def _tensor(
    stored: _Stored,
    members: Mapping[str, memoryview],
    payloads: dict[str, Tensor],
    parameter: bool,
) -> Tensor:
    """A tensor, made of its payload; those of one payload share it."""
    if stored.payload not in payloads:
        payloads[stored.payload] = _copy(members[stored.payload])
    flat = payloads[stored.payload]
    if stored.dtype == torch.bool and flat.numel() and int(flat.max()) > 1:
        raise odd("a truth value in it is neither true nor false")
    tensor = torch.empty(0, dtype=stored.dtype)
    if stored.numel:
        tensor.set_(flat.untyped_storage(), stored.offset, stored.sizes, stored.strides)
    else:
        tensor = tensor.reshape(stored.sizes)
    return nn.Parameter(tensor, requires_grad=stored.tracked) if parameter else tensor


def _copy(payload: memoryview) -> Tensor:
    """Bytes in memory of torch's own, which is aligned as its kernels like it."""
    try:
        tensor = torch.empty(len(payload), dtype=torch.uint8)
    except RuntimeError as error:  # torch's word for it
        raise MemoryError(f"{len(payload):,} bytes of weights") from error
    tensor.numpy()[:] = np.frombuffer(payload, np.uint8)
    return tensor
