"""Files of weights: what a network is given by ``weights=PATH``.

A file is read as safetensors, as an index of several such files, or as what
``torch.load(weights_only=True)`` takes, and only where it is no larger than such a network can have
use for, packed and unpacked. Training scripts put weights under many names: the one set of tensors
in the file that fits the network exactly is taken, never a part of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import safetensors.torch
import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.files import expanded, read_file
from wna_ray.networks.checkpoint_files import (
    TooLarge,
    is_safetensors,
    kind_of,
    parts_of_index,
    recipe,
    require_unpacked,
    what_it_is,
)
from wna_ray.text import plain

CHECKPOINT_SETS, CHECKPOINT_BYTES = 8, 64 << 20
"""A file of weights may hold so many times the network's own bytes: in double precision, with
averages and an optimiser's two moments.
"""
MOST_LEVELS = 3  # of mappings inside mappings
MOST_LISTED = 8  # sets of weights, or keys, that an error names

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """A set of tensors in a file.

    Attributes
    ----------
    path
        Keys of the mappings that lead to it, joined by ``/``; "" for the file itself.
    state
        Its tensors by name, without the beginning that all of them share (``module.``), where the
        network's have none.
    """

    path: str
    state: State

    @property
    def name(self) -> str:
        """For errors."""
        return f"'{plain(self.path, 80)}'" if self.path else "the file itself"


def load_weights(
    module: nn.Module, path: str, key: str | None = None, *, classes: bool = False
) -> None:
    """Load the one set of weights of a file that fits a network.

    Mappings inside mappings are looked into (``state_dict``, ``model``, ``net``, ``ema``, ...), and
    a beginning that all names share is taken off (``module.``, ``model.``, ``_orig_mod.``), or put
    before them, where they fit so.

    Parameters
    ----------
    module
        The network that takes them.
    path
        A local path or any fsspec URL, as the model's URI has it.
    key
        Which set of weights (``model_ema``, ``state_dict/net.``): keys of mappings, joined by
        ``/``; what ends in a dot is a beginning of names, and names that begin otherwise are left
        out.
    classes
        Whether the model's source takes ``num_classes=``, for errors.

    Raises
    ------
    ModelError
        The file cannot be read, holds something else, or its weights do not fit.
    """
    path, own = expanded(path), module.state_dict()
    most = CHECKPOINT_BYTES + CHECKPOINT_SETS * sum(
        v.numel() * v.element_size() for v in own.values() if isinstance(v, torch.Tensor)
    )
    tree = _read(path, most)
    sets = list(_sets(tree))
    if key is not None:
        sets = [_chosen(sets, key, path)]
    if not sets:
        raise ModelError(
            f"model: weights '{path}' hold {_keys(tree)}; expected a state dict (name -> tensor)"
        )
    fitting = [fit for fit in (_fit(weights, own) for weights in sets) if fit is not None]
    if not fitting:
        raise ModelError(_misfit(path, sets, own, classes))
    first, *others = fitting
    unlike = [other for other in others if not _same(first.state, other.state)]
    if unlike:
        names = ", ".join(weights.path or "''" for weights in [first, *unlike][:MOST_LISTED])
        raise ModelError(
            f"model: weights '{path}' hold {1 + len(unlike)} sets of other numbers that fit:"
            f" {plain(names, 400)}; weights_key=NAME chooses one"
        )
    module.load_state_dict(first.state)


def _read(path: str, most: int) -> Any:
    """What a file holds: a tree of mappings and tensors."""
    data = read_file(path, "safetensors or a PyTorch state dict", most)
    parts = parts_of_index(data, path)
    if parts is not None:
        return _read_parts(parts, path, most)
    try:
        if is_safetensors(data):
            return safetensors.torch.load(data)
        require_unpacked(data, most)
        if (known := what_it_is(data, path)) is not None:
            raise ModelError(f"model: weights '{path}' are {known}")
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except (MemoryError, ModelError):
        raise
    except TooLarge as reason:
        raise ModelError(f"model: weights '{path}' are refused: {reason}") from None
    except Exception as error:  # safetensors and torch each have their own families of errors here
        raise ModelError(
            f"model: weights '{path}' are neither safetensors nor a state dict that"
            f" weights_only=True reads ({kind_of(error)}{recipe(error, path)})"
        ) from None


def _read_parts(parts: Mapping[str, set[str]], path: str, most: int) -> State:
    """The tensors of an index, from the files beside it, each with exactly those it should have."""
    folder, left, state = path[: len(path) - len(path.rpartition("/")[2])], most, State()
    for name, keys in sorted(parts.items()):
        data = read_file(folder + name, f"a part of the weights that '{path}' lists", left)
        left -= len(data)
        try:
            part = safetensors.torch.load(data)
        except Exception as error:
            raise ModelError(
                f"model: weights '{folder}{name}' are no safetensors ({type(error).__name__}), as"
                f" '{path}' says"
            ) from None
        if set(part) != keys:
            odd = sorted(set(part) ^ keys)[0]
            raise ModelError(
                f"model: weights '{folder}{name}' do not have the tensors that '{path}' lists"
                f" ('{plain(odd, 80)}' is in one of them only); download all parts again"
            )
        state |= part
    return state


def _sets(tree: Any, path: str = "", levels: int = MOST_LEVELS) -> Iterator[Weights]:
    """Sets of tensors in a tree of mappings."""
    if not isinstance(tree, Mapping):
        return
    named = all(isinstance(key, str) for key in tree)
    if tree and named and all(isinstance(v, torch.Tensor) for v in tree.values()):
        yield Weights(path, dict(tree))
    elif not tree and not path:
        yield Weights(path, {})
    elif levels:
        for key, value in tree.items():
            yield from _sets(value, f"{path}/{key}" if path else str(key), levels - 1)


def _chosen(sets: list[Weights], key: str, path: str) -> Weights:
    """The set that a ``weights_key`` names."""
    place, _, beginning = key.rpartition("/") if key.endswith(".") else (key, "", "")
    named = [weights for weights in sets if weights.path == place]
    if key.endswith(".") and not place and not named:  # of the only set, wherever it is
        named = sets if len(sets) == 1 else []
    state = {
        name.removeprefix(beginning): value
        for weights in named[:1]
        for name, value in weights.state.items()
        if name.startswith(beginning)
    }
    if not state:
        known = ", ".join(plain(weights.path or "''", 60) for weights in sets[:MOST_LISTED])
        raise ModelError(
            f"model: weights_key={plain(key, 80)}: '{path}' holds no such weights, but"
            f" {known or 'none'}"
        )
    return Weights(key, state)


def _fit(weights: Weights, own: Mapping[str, Any]) -> Weights | None:
    """The same weights as the network names them; None where they do not fit exactly."""
    for state in (*_shortened(weights.state), *_lengthened(weights.state, own)):
        whole = _counters(own) | state
        if whole.keys() == own.keys() and all(
            isinstance(own[k], torch.Tensor) and own[k].shape == v.shape for k, v in whole.items()
        ):
            return Weights(weights.path, whole)
    return None


def _counters(own: Mapping[str, Any]) -> State:
    """What old files lack, and eval ignores."""
    return {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}


def _shortened(state: State) -> Iterator[State]:
    """A state as it is, then without its first, second, ... beginning that all names share."""
    yield state
    while state:
        beginning = next(iter(state)).partition(".")[0] + "."
        if not all(name.startswith(beginning) for name in state):
            return
        state = {name.removeprefix(beginning): value for name, value in state.items()}
        yield state


def _lengthened(state: State, own: Mapping[str, Any]) -> Iterator[State]:
    """A state whose names begin as all of the network's do: of a wrapper around one network."""
    whole = ""
    while own:
        beginning = next(iter(own)).removeprefix(whole).partition(".")[0] + "."
        if not all(name.startswith(whole + beginning) for name in own):
            return
        whole += beginning
        yield {whole + name: value for name, value in state.items()}


def _same(a: State, b: State) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def _misfit(path: str, sets: list[Weights], own: Mapping[str, Any], classes: bool) -> str:
    """What is wrong with the weights of a file, counted of the set that is nearest."""

    def apart(pair: tuple[Weights, State]) -> int:
        unlike = [k not in own or own[k].shape != v.shape for k, v in pair[1].items()]
        return sum(map(bool, unlike)) + sum(k not in pair[1] for k in own)

    nearest, state = min(
        ((weights, state) for weights in sets for state in _shortened(weights.state)),
        key=apart,
    )
    state = _counters(own) | state
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    wrong = [f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in shapes]
    faults = [f"no {', '.join(missing[:3])}"] * bool(missing)
    faults += [f"unknown {', '.join(extra[:3])}"] * bool(extra)
    where = f" of {nearest.name}" if nearest.path else ""
    text = (
        f"model: weights '{path}' do not fit the network ({len(missing)} missing, {len(extra)}"
        f" unknown, {len(shapes)} of another shape){where}: {'; '.join([*faults, *wrong[:3]])}"
    )
    heads = {state[k].shape[0] for k in shapes if state[k].ndim and own[k].ndim}
    if classes and not missing and not extra and len(heads) == 1 and len(shapes) <= 2:
        return f"{text}; for a head of so many outputs add num_classes={heads.pop()}"
    beginnings = sorted({name.partition(".")[0] + "." for name in nearest.state if "." in name})
    ways = [weights.path for weights in sets if weights.path] + [
        f"{nearest.path}/{b}".lstrip("/") for b in beginnings
    ]
    if extra and ways:
        some = plain(", ".join(ways[:MOST_LISTED]), 400)
        return f"{text}; weights_key=NAME takes a part of the file: {some}"
    return text


def _keys(tree: Any) -> str:
    """What a tree has in the place of weights."""
    name = type(tree).__name__
    if not isinstance(tree, Mapping) or not tree:
        return name
    some = ", ".join(plain(str(key), 40) for key in list(tree)[:MOST_LISTED])
    return f"{name} of {some}{', ...' if len(tree) > MOST_LISTED else ''}"
