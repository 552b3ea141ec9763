"""What a network gives: which tensor of it is read, and as what.

A network may give a tensor, or a tuple, a mapping or a dataclass that holds some. One of them is
read, as scores of classes, as one logit, as probabilities, or as plain values. What is not one row
of real numbers an image is refused, with the way out: a wrong number would look like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.networks.reading import Kind, Reading
from wna_ray.text import plain

MOST_LISTED = 12  # fields that an error names
MOST_LEVELS = 3  # of fields inside fields
SUM_ERROR = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far probabilities of an image may be from adding up to 1, by the network's arithmetic."""


def tensor_at(output: Any, field: str) -> Any:
    """What stands at a field of an output, "" for itself; None where nothing does."""
    return output if not field else _at(output, field)


def rows_of(reading: Reading, y: torch.Tensor) -> torch.Tensor:
    """Scores ``(n, k)`` float32 of the tensor ``(n, ...)`` that was taken."""
    y = y.reshape(len(y), -1).float()
    least = torch.finfo(torch.float32).tiny
    if reading.kind == "one logit":
        return torch.cat([torch.zeros_like(y), y], dim=1)
    if reading.kind == "probabilities":
        return y.clamp_min(least).log()
    if reading.kind == "one probability":
        return torch.cat([(1 - y).clamp_min(least).log(), y.clamp_min(least).log()], dim=1)
    return y


def choose_field(output: Any, n: int, wanted: str | None, uri: str) -> str:
    """Choose the tensor of an output that is read.

    A tensor is taken as it is. Of several, the field that a spec names; else the one that has a
    row for each image, or else the one that is called ``logits``, or else the only one with rows
    of numbers.

    Parameters
    ----------
    output
        What the network gave for ``n`` images.
    wanted
        The field that a spec names (``output:``).
    uri
        The model, for errors.

    Returns
    -------
    str
        Its path; "" for the output itself.

    Raises
    ------
    ModelError
        There is no such field, or none is obvious; the fields are listed.
    """
    if wanted is not None:
        if not isinstance(_at(output, wanted), torch.Tensor):
            raise ModelError(
                f"output: {uri} gives no tensor '{plain(wanted, 80)}', but {describe(output)}"
            )
        return wanted
    if isinstance(output, torch.Tensor):
        return ""
    tensors = [(path, y) for path, y in tensors_of(output) if y.ndim and len(y) == n]
    real = [(path, y) for path, y in tensors if y.is_floating_point()]
    for some in (
        real,
        [(path, y) for path, y in real if path.rpartition(".")[2] == "logits"],
        [(path, y) for path, y in real if y.ndim == 2],
    ):
        if len(some) == 1:
            return some[0][0]
    way = "output: NAME chooses one" if real else "give a network that returns scores (n, k)"
    raise ModelError(f"model: {uri} gives {describe(output)}; {way}")


def check_rows(y: Any, n: int, uri: str, layer: str = "") -> torch.Tensor:
    """The tensor that was taken, where it is one row of real numbers for each of n images.

    Parameters
    ----------
    layer
        Name of the module that gives it, where it is known: units of it can be asked.

    Raises
    ------
    ModelError
        It is something else; the message says what would do.
    """
    if not isinstance(y, torch.Tensor):
        raise ModelError(
            f"model: {uri} gave {describe(y)}; expected one row of outputs for each of {n} images"
        )
    shape = tuple(y.shape)
    if y.ndim < 1 or len(y) != n or y.numel() < n:
        raise ModelError(
            f"model: {uri} gave {shape}; expected one row of outputs for each of {n} images"
        )
    if not y.is_floating_point():
        name = str(y.dtype).removeprefix("torch.")
        raise ModelError(
            f"model: {uri} gives whole numbers ({name}, {shape}), such as the number of a class,"
            " not scores; take what stands before its argmax: another field by output: NAME, an"
            " inner layer by ?layer=NAME, or a wrapper"
        )
    if any(size > 1 for size in shape[2:]):
        units = f"target: {{layer: {layer or 'NAME'}, position: centre}}"
        raise ModelError(
            f"model: {uri} gives maps {shape}, not one row of scores an image: a class for every"
            f" position is no class of the image; take the units of one position by {units}, or"
            " return one row an image"
        )
    return y


def read_kind(
    read: Literal["auto", "logits", "probabilities", "values"],
    y: torch.Tensor,
    labelled: bool,
    dtype: torch.dtype,
) -> Kind:
    """What the rows of an output are.

    Parameters
    ----------
    read
        What a spec says.
    y
        ``(n, k)`` float32 of some images; rows that are not finite are left out.
    labelled
        Whether a label, or a probability, is asked for.
    dtype
        The network's arithmetic.

    Raises
    ------
    ModelError
        A spec calls probabilities what cannot be any.
    """
    rows = y[y.isfinite().all(dim=1)]
    single, inside = y.shape[1] == 1, bool(((rows >= 0) & (rows <= 1)).all())
    apart = float((rows.sum(dim=1) - 1).abs().max()) if len(rows) else 0.0
    sums = inside and len(rows) > 0 and (single or apart <= SUM_ERROR.get(dtype, 1e-3))
    if read == "values" or (read == "logits" and not single):
        return "scores"
    if read == "logits":
        return "one logit"
    if read == "probabilities":
        if not sums:
            fault = "leave [0, 1]" if not inside else f"add up to 1 only within {apart:.2g}"
            raise ModelError(
                f"output.read: probabilities, but the network's outputs {fault}; take read: values,"
                " or logits"
            )
        return "one probability" if single else "probabilities"
    if single:
        if not labelled:
            return "scores"
        return "one probability" if sums else "one logit"
    return "probabilities" if sums else "scores"


def tensors_of(output: Any, path: str = "", levels: int = MOST_LEVELS) -> Iterator[tuple[str, Any]]:
    """Name the tensors that an output holds, in mappings, dataclasses and tuples."""
    if isinstance(output, torch.Tensor):
        yield path, output
    elif levels:
        for name, value in _parts(output):
            yield from tensors_of(value, f"{path}.{name}" if path else name, levels - 1)


def describe(output: Any) -> str:
    """What an output is, in a few words: its fields with their shapes, or its type."""
    if isinstance(output, torch.Tensor):
        return f"a tensor {tuple(output.shape)}"
    tensors = [f"{plain(path, 60)} {tuple(y.shape)}" for path, y in tensors_of(output)]
    name = plain(type(output).__name__, 60)
    if not tensors:
        return name
    rest = [f"and {len(tensors) - MOST_LISTED} more"] * (len(tensors) > MOST_LISTED)
    return f"{name} of {', '.join(tensors[:MOST_LISTED] + rest)}"


def layer_that_gives(module: nn.Module, fed: torch.Tensor, field: str) -> str:
    """Name of the innermost module whose output is the one that is read; "" where there is none.

    The network is run once more.
    """
    outputs = dict[str, torch.Tensor]()
    handles = [
        inner.register_forward_hook(
            lambda _module, _inputs, y, name=name: (
                outputs.update({name: y}) if isinstance(y, torch.Tensor) else None
            )
        )
        for name, inner in module.named_modules()
        if name
    ]
    try:
        taken = tensor_at(module(fed), field)
    finally:
        for handle in handles:
            handle.remove()
    return next((name for name, y in reversed(outputs.items()) if y is taken), "")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        yield from zip(map(str, names), value, strict=True)


def _at(output: Any, path: str) -> Any:
    """What stands at a path; names with dots in them are looked for first."""
    parts = dict(_parts(output))
    if path in parts:
        return parts[path]
    if isinstance(output, tuple) and path.isdecimal() and int(path) < len(output):
        return output[int(path)]  # of a namedtuple, by number
    first, _, rest = path.partition(".")
    return _at(parts[first], rest) if rest and first in parts else None
