"""A module of this process as a model: a copy of it, recorded as ``live:CLASS``.

    model = model_of(net)     # a copy in eval mode; net stays as it is
    uri_of(net)                                       # "live:Net", which no other process can load

What wraps a network is taken off first: ``torch.compile``, ``DataParallel`` and
``DistributedDataParallel``, around it and inside it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import nn

from wna_ray.errors import ModelError
from wna_ray.networks.models import Model, state_digest
from wna_ray.text import first_line, plain

LIVE = "live"
WAY_OUT = "write a function that makes it, and give model: python:package.module:function"
HOOKS = ("_forward_pre_hooks", "_forward_hooks")

Arithmetic = Literal["float32", "bfloat16", "float16"]


def uri_of(module: nn.Module) -> str:
    """What ``spec.json`` records in the place of a URI: ``live:`` and the class's qualified
    name.
    """
    return f"{LIVE}:{plain(type(unwrapped(module)).__qualname__, 200)}"


def require_loadable(uri: str) -> None:
    """`ModelError` where a URI names a module of a process, which can't be loaded again."""
    if uri.partition(":")[0] == LIVE:
        raise ModelError(
            f"model: '{uri}' was a module in the memory of a Python process, so it cannot be loaded"
            " from its name; make the module again in Python and call run(spec, model=net)"
        )


def model_of(module: nn.Module) -> Model:
    """A copy of a module as a model. The module is not changed.

    Parameters
    ----------
    module
        In any mode, on any device. Its weights are in memory twice as long as the copy lives. Its
        hooks are copied, too: they run on the copy.

    Raises
    ------
    ModelError
        It is no module, has no weights yet, or cannot be copied.
    """
    uri = uri_of(module)
    inner = unwrapped(module)
    if isinstance(inner, torch.jit.ScriptModule):  # a trace keeps the mode in which it was taken
        raise ModelError(
            f"model: {uri} is TorchScript, which may have its mode built in; give the"
            " torch.nn.Module that it was compiled from"
        )
    if "eval" in vars(inner):  # torch.export gives its programs one that refuses
        raise ModelError(
            f"model: {uri} has its mode built in (a program of torch.export); save it by"
            " torch.export.save, and give model: export:PATH"
        )
    network = copied(inner, uri)
    try:
        network = network.eval().requires_grad_(False).cpu()
        digest = state_digest(network)
    except Exception as error:  # a method of its own may raise anything; extra state is no tensor
        raise ModelError(
            f"model: {uri} cannot be set to eval mode on the CPU, or its state read"
            f" ({type(error).__name__}: {first_line(error)}); give a torch.nn.Module whose state"
            " dict holds tensors only"
        ) from error
    return Model(module=network, source=uri, digest=digest)


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, without what `torch.compile` and data-parallel wrappers put around it."""
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"model: {type(module).__name__} is no torch.nn.Module; wrap a function into a module"
            " whose forward calls it"
        )
    while (inner := _inside(module)) is not None:
        if _is_hooked(module):
            raise ModelError(
                f"model: hooks are on the {type(module).__name__} around"
                f" {type(inner).__name__}, which a run leaves out; register them on the module"
                " inside"
            )
        module = inner
    return module


def _is_hooked(module: nn.Module) -> bool:
    return any(vars(module).get(name) for name in HOOKS)


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None where a module is no wrapper."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast(nn.Module, module.module)
    # By name: importing torch's compiler takes seconds.
    if type(module).__name__ == "OptimizedModule":
        return dict(module.named_children()).get("_orig_mod")
    return None


def copied(module: nn.Module, uri: str) -> nn.Module:
    """A deep copy that shares nothing with a module; `ModelError` where there is none."""
    for name, value in _tensors(module):
        if value.is_meta or nn.parameter.is_lazy(value):
            raise ModelError(
                f"model: '{name}' of {uri} has no values yet (a meta or lazy tensor); load its"
                " weights, or show it a batch, first"
            )
    memo: dict[int, Any] = {}
    try:
        for part in module.modules():
            for value in vars(part).values():
                _detach(value, memo)
            if _inside(part) is not None:  # compiled and parallel parts are copied without that
                memo[id(part)] = copy.deepcopy(unwrapped(part), memo)
        duplicate = copy.deepcopy(module, memo)
    except MemoryError:
        raise
    except Exception as error:  # whatever the module's own parts raise
        raise ModelError(
            f"model: {uri} cannot be copied ({type(error).__name__}: {first_line(error)}), and a"
            f" run works on a copy so that the module stays as it is; {WAY_OUT}"
        ) from error
    if places_of(module) & places_of(duplicate) or set(module.modules()) & set(duplicate.modules()):
        raise ModelError(
            f"model: a copy of {uri} shares its parts (has it a __deepcopy__ of its own?), and a"
            f" run works on a copy so that the module stays as it is; {WAY_OUT}"
        )
    return duplicate


def _detach(value: Any, memo: dict[int, Any]) -> None:
    """Note copies of tensors that a module keeps of a forward pass, which torch does not copy:
    an attribute, or in a list, tuple or dict.
    """
    values = value.values() if isinstance(value, dict) else value
    for tensor in values if isinstance(value, dict | list | tuple) else (value,):
        if isinstance(tensor, torch.Tensor) and not tensor.is_leaf:
            memo[id(tensor)] = tensor.detach().clone()


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def places_of(module: nn.Module) -> set[int]:
    """Where in memory the values of parameters and buffers lie."""
    return {value.data_ptr() for _, value in _tensors(module) if value.numel()} - {0}


def arithmetic_of(module: nn.Module) -> Arithmetic:
    """The arithmetic that a module's own weights have: one half precision where all have it, else
    float32.
    """
    dtypes = {value.dtype for value in module.parameters() if value.is_floating_point()}
    if dtypes == {torch.bfloat16}:
        return "bfloat16"
    return "float16" if dtypes == {torch.float16} else "float32"


def notes_on(module: nn.Module, arithmetic: str) -> list[str]:
    """Lines on what is not as it may be expected: weights that are rounded or widened, hooks that
    run.
    """
    module = unwrapped(module)
    dtypes = {value.dtype for value in module.parameters() if value.is_floating_point()}
    others = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
    lines = []
    if others and others != [arithmetic]:
        lines.append(f"weights are {', '.join(others)}; the copy computes in {arithmetic}")
    hooked = sum(map(_is_hooked, module.modules()))
    if hooked:
        lines.append(
            f"hooks of {hooked} module{'s' * (hooked > 1)} run on the copy, for every batch of"
            " noise: take off those that collect, or write"
        )
    return lines
