"""An exported program as a module of torch: what it is fed, what it holds, what it gives.

Nothing here reads the file: a `Program` is made of parts that were read and checked elsewhere.
What callers give is not trusted to fit: it is compared with what the program was exported for
before anything is computed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wna_ray.networks.exported.archive import odd
from wna_ray.networks.exported.arguments import Name
from wna_ray.networks.exported.graph import Graph
from wna_ray.text import plain

Range = tuple[int, float]
"""Least and most of a size that is free."""

_KINDS: dict[str, type] = {"tuple": tuple, "list": list, "dict": dict, "ordered": OrderedDict}


@dataclass(frozen=True)
class Tree:
    """How values are packed: a leaf, a tuple, a list, or a dictionary with keys."""

    kind: str
    keys: tuple[str | int, ...] = ()
    children: tuple[Tree, ...] = ()

    def leaves(self) -> int:
        """How many values there are."""
        return 1 if self.kind == "leaf" else sum(child.leaves() for child in self.children)

    def flattened(self, value: Any) -> list[Any]:
        """The values; `TypeError` where they are packed in another way."""
        if self.kind == "leaf":
            return [value]
        kind: Any = type(value)
        if kind is not _KINDS[self.kind] or len(value) != len(self.children):
            wanted = f"a {self.kind} of {len(self.children)}"
            raise TypeError(f"the program was exported for {wanted}, not for a {_type_text(value)}")
        if self.keys and set(value) != set(self.keys):
            raise TypeError(f"the program was exported for {', '.join(map(str, self.keys))}")
        parts = [value[key] for key in self.keys] if self.keys else value
        values = []
        for child, part in zip(self.children, parts, strict=True):
            values += child.flattened(part)
        return values

    def packed(self, values: Iterator[Any]) -> Any:
        """The values, packed."""
        if self.kind == "leaf":
            return next(values)
        parts = [child.packed(values) for child in self.children]
        if self.kind in ("tuple", "list"):
            return tuple(parts) if self.kind == "tuple" else parts
        return _KINDS[self.kind](zip(self.keys, parts, strict=True))


def _type_text(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list | dict) else ""
    return type(value).__name__ + size


@dataclass(frozen=True)
class Fed:
    """What a caller gives in one place: a tensor of these sizes, a whole number, or this value."""

    name: str
    kind: Literal["tensor", "number", "fixed"]
    sizes: tuple[int | str, ...] = ()
    value: Any = None

    def check(self, given: Any, ranges: Mapping[str, Range], met: dict[str, int]) -> None:
        """`ValueError` or `TypeError` where the program was not exported for what is given."""
        if self.kind == "fixed":
            if self.value is not None and (type(given), given) != (type(self.value), self.value):
                raise ValueError(f"'{self.name}' was exported as {plain(repr(self.value), 80)}")
        elif self.kind == "number":
            if not isinstance(given, int | torch.SymInt):
                raise TypeError(f"'{self.name}' must be a whole number, not {_type_text(given)}")
        elif not isinstance(given, torch.Tensor):
            raise TypeError(f"'{self.name}' must be a tensor, not a {_type_text(given)}")
        elif not self._fits(given.shape, ranges, met):
            wanted = ", ".join("any" if isinstance(size, str) else str(size) for size in self.sizes)
            raise ValueError(f"'{self.name}' is {tuple(given.shape)}; exported for ({wanted})")

    def _fits(self, shape: torch.Size, ranges: Mapping[str, Range], met: dict[str, int]) -> bool:
        """Whether the sizes are these; `met` are those of free ones so far."""
        if len(shape) != len(self.sizes):
            return False
        for size, wanted in zip(shape, self.sizes, strict=True):
            if isinstance(wanted, int):
                if size != wanted:
                    return False
            else:
                least, most = ranges.get(wanted, (0, math.inf))
                if met.setdefault(wanted, size) != size or not least <= size <= most:
                    return False
        return True


@dataclass(frozen=True)
class Weight:
    """A tensor of the program's own, by its name in the network.

    A ``constant`` is not one of its parameters and buffers. A ``passing`` buffer is not saved.
    """

    path: str
    kind: Literal["parameter", "buffer", "passing", "constant"]


@dataclass(frozen=True)
class Input:
    """An input of the graph: its name there, and what it is."""

    name: str | None
    source: Weight | Fed


@dataclass(frozen=True)
class Signature:
    """How a program is fed and what it gives.

    Attributes
    ----------
    inputs
        Of the graph.
    ranges
        Least and most of each size that is free.
    copied
        Outputs of the graph that are written over inputs at its end: which over which.
    takes, gives
        How arguments and outputs are packed.
    """

    inputs: tuple[Input, ...]
    ranges: Mapping[str, Range]
    copied: tuple[tuple[int, int], ...]
    takes: Tree
    gives: Tree


class Program(nn.Module):
    """A program that was exported. Bit for bit it gives what torch's own module of it gives.

    Parameters
    ----------
    graph
        What is computed.
    signature
        From what, and how the outputs are packed.
    tensors
        Those that the signature names.
    """

    def __init__(
        self,
        graph: Graph,
        signature: Signature,
        tensors: Mapping[Weight, Tensor],
    ) -> None:
        super().__init__()
        self._graph, self._signature = graph, signature
        self._constants = {w: t for w, t in tensors.items() if w.kind == "constant"}
        held = {w: t for w, t in tensors.items() if w.kind != "constant"}
        self._held = {weight: _placed(self, weight, tensor) for weight, tensor in held.items()}
        self.train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs; `ValueError` or `TypeError` where it was exported for other inputs."""
        met: dict[str, int] = {}
        given = iter(self._signature.takes.flattened((args, kwargs)))
        inputs = []
        for taken in self._signature.inputs:
            if isinstance(taken.source, Weight):
                inputs.append(self._tensor(taken.source))
            else:
                inputs.append(next(given))
                taken.source.check(inputs[-1], self._signature.ranges, met)
        outputs = self._graph.run(inputs)
        return self._signature.gives.packed(iter(self._written(inputs, outputs)))

    def _tensor(self, weight: Weight) -> Tensor:
        if weight.kind == "constant":
            return self._constants[weight]
        owner, leaf = self._held[weight]
        tensor: Tensor = getattr(owner, leaf)
        return tensor

    def _written(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """Write outputs over inputs where the program says so; gives those of the caller."""
        back: dict[Name, Any] = {}
        copied = dict(self._signature.copied)
        for place, over in copied.items():
            back[self._graph.gives[place]] = inputs[over].copy_(outputs[place])
        return [
            back.get(name, outputs[place]) if isinstance(name, Name) else outputs[place]
            for place, name in enumerate(self._graph.gives)
            if place not in copied
        ]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Program:
        """Constants go where weights go, but keep their type, as in torch."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._constants = {w: c.to(fn(c).device) for w, c in self._constants.items()}
        return self


def _placed(root: nn.Module, weight: Weight, tensor: Tensor) -> tuple[nn.Module, str]:
    """Register a parameter or buffer under its dotted name; gives its module and its name there."""
    *folders, leaf = weight.path.split(".")
    owner = root
    try:
        for folder in folders:
            if not isinstance(getattr(owner, folder, None), nn.Module):
                owner.add_module(folder, nn.Module())
            owner = owner.get_submodule(folder)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor, persistent=weight.kind != "passing")
    except KeyError:
        raise odd(f"it has a weight '{plain(weight.path, 80)}', a name that is taken") from None
    return owner, leaf
