"""Networks by a person's own function: ``python:package.module:factory?key=value``.

A URI holds text. An option becomes what the function's parameter expects: by its annotation, or
else by its default. What cannot be known stays text, and words such as ``false`` are refused there,
since any text is true.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import io
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from torch import nn

from wna_ray.errors import ModelError, near

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
NOTHING = {"none", "null", ""}
SWITCHES = {"true", "false", "yes", "no", "on", "off", "none", "null"}
_QUOTED = re.compile(r"\"(.*)\"|'(.*)'", re.DOTALL)


def network_of(where: str, factory: str, options: Mapping[str, str]) -> nn.Module:
    """Call a person's own function for a network.

    What the module or the function changes of the process (torch's default type and threads,
    warnings, NumPy's errors) is put back. The working directory is searched for modules meanwhile,
    and only then: it may be the folder of a run that a stranger has sent.

    Parameters
    ----------
    where, factory
        Module and function.
    options
        What the URI says, as text.

    Raises
    ------
    ModelError
        There is no such module or function, an option does not fit, or it gives no network.
    """
    with _working_directory(), _process_kept():
        make = _function(where, factory)
        arguments = converted(make, options, f"{where}:{factory}")
        try:
            network = make(**arguments)
        except (Exception, SystemExit) as error:  # the factory's own code may raise anything
            raise ModelError(
                f"model: {where}:{factory} {_signature(make)} does not take {arguments}"
                f" ({_reason(error)})"
            ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"model: {where}:{factory} gave {type(network).__name__}; expected a torch.nn.Module"
        )
    return network


def require_function(where: str, factory: str, options: Mapping[str, str]) -> None:
    """`ModelError` where there is no such function, or an option does not fit; it is not called."""
    with _working_directory(), _process_kept():
        converted(_function(where, factory), options, f"{where}:{factory}")


def converted(make: Callable[..., Any], options: Mapping[str, str], name: str) -> dict[str, Any]:
    """Options as a function's parameters expect them.

    Parameters
    ----------
    make
        The function.
    options
        Texts by name. A text in quotes is a text.
    name
        The function, for errors.

    Raises
    ------
    ModelError
        There is no such parameter, or the text is nothing of its type.

    Examples
    --------
    >>> def make(depth: int = 2, inverted=True, sizes: tuple[int, ...] = (3,)): ...
    >>> converted(make, {"depth": "4", "inverted": "False", "sizes": "3,5"}, "make")
    {'depth': 4, 'inverted': False, 'sizes': (3, 5)}
    """
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # some built-in functions have none
        return dict(options)
    try:
        hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except Exception:  # annotations that name what is not there
        hints = {}
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    values: dict[str, Any] = {}
    for option, text in options.items():
        parameter = parameters.get(option)
        if parameter is None and not any_name:
            known = near(option, parameters) if parameters else "none"
            raise ModelError(f"model: {name} has no option '{option}'; near it are {known}")
        default = inspect.Parameter.empty if parameter is None else parameter.default
        wanted = hints.get(option, _type_of(default))
        try:
            values[option] = value_of(text, wanted)
        except ValueError as reason:
            raise ModelError(f"model: {name}: {option}={text}: {reason}") from None
    return values


def value_of(text: str, wanted: Any) -> Any:
    """What a text is as a type; `ValueError` where it is nothing of it. ``Any``: a text."""
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        return quoted[1] if quoted[1] is not None else quoted[2]
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any or wanted is inspect.Parameter.empty:
        if text.lower() in SWITCHES:
            raise ValueError(
                "the parameter has no type, and as text this is true; give it a default or an"
                f' annotation, or write "{text}" in quotes'
            )
        return text
    if origin in (Union, types.UnionType):
        return _first_of(text, inner)
    if origin is Literal:
        return _named(text, {str(value): value for value in inner})
    if origin in (tuple, list):
        item = next((part for part in inner if part is not Ellipsis), Any)
        parts = [part for part in re.split(r"\s*,\s*", text.strip("()[] ")) if part]
        return origin(value_of(part, item) for part in parts)
    return _plain(text, wanted)


def _plain(text: str, wanted: Any) -> Any:
    """A text as a type that holds no others."""
    if wanted is bool:
        return _named(text.lower(), BOOLEANS)
    if wanted is type(None):
        return _named(text.lower(), dict.fromkeys(NOTHING))
    if wanted is str:
        return text
    if wanted is Path:
        return Path(text)
    if wanted in (tuple, list):
        return value_of(text, wanted[float | str, ...] if wanted is tuple else list[float | str])
    if inspect.isclass(wanted) and issubclass(wanted, enum.Enum):
        by_value = {str(member.value): member for member in wanted}
        return _named(text, by_value | dict(wanted.__members__))
    if wanted in (int, float):
        try:
            return wanted(text)
        except ValueError:
            what = "whole number" if wanted is int else "number"
            raise ValueError(f"expected a {what}") from None
    raise ValueError(f"a parameter of type {getattr(wanted, '__name__', wanted)} has no text")


def _first_of(text: str, wanted: tuple[Any, ...]) -> Any:
    """A text as the first of some types that it is; text itself last."""
    order = sorted(wanted, key=lambda kind: (kind is str, kind is float))
    for kind in order:
        try:
            return value_of(text, kind)
        except ValueError:
            continue
    names = " or ".join("None" if kind is type(None) else _name(kind) for kind in wanted)
    raise ValueError(f"expected {names}")


def _named(text: str, known: Mapping[str, Any]) -> Any:
    if text not in known:
        raise ValueError(f"expected one of {', '.join(filter(None, known))}")
    return known[text]


def _type_of(default: Any) -> Any:
    """The type of a default, where that says one. A whole number may stand for any."""
    if default is None or default is inspect.Parameter.empty:
        return Any
    if type(default) is int:
        return int | float
    if isinstance(default, tuple | list):
        item = _type_of(default[0]) if default else float | str
        return tuple[item, ...] if isinstance(default, tuple) else list[item]  # type: ignore[valid-type]
    return type(default)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def _function(where: str, factory: str) -> Callable[..., Any]:
    """The function, imported."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            module = importlib.import_module(where)
    except SystemExit as error:  # of argparse, say, whose usage would stand before our sentence
        raise ModelError(
            f"model: importing '{where}' ended the program ({_reason(error)}): it reads the command"
            " line; put what does so under if __name__ == '__main__'"
        ) from error
    except Exception as error:  # the module's own code may raise anything
        raise ModelError(
            f"model: cannot import '{where}' ({error}); run from the folder that holds it, or"
            " install it"
        ) from error
    sys.stderr.write(said.getvalue())
    make = getattr(module, factory, None)
    if not callable(make):
        names = [n for n, f in vars(module).items() if inspect.isroutine(f) or inspect.isclass(f)]
        raise ModelError(
            f"model: '{where}' has no function '{factory}'; near it are {near(factory, names)}"
        )
    function: Callable[..., Any] = make
    return function


def _reason(error: BaseException) -> str:
    return f"SystemExit: {error}" if isinstance(error, SystemExit) else str(error)


def _signature(function: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(function))
    except ValueError:  # some built-in functions have none
        return ""


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    """Look for modules in the working directory, too."""
    folder = os.getcwd()
    added = folder not in sys.path  # console scripts do not search it
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added:
            sys.path.remove(folder)


@contextlib.contextmanager
def _process_kept() -> Iterator[None]:
    """Put back what a script sets for its whole process."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    gradients = torch.is_grad_enabled()
    try:
        with np.errstate(), warnings.catch_warnings():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
