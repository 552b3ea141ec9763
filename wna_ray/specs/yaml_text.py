"""YAML as a person means it: what two readers could understand in two ways is refused.

YAML 1.1, which PyYAML reads, has traps: ``1:30`` is ninety, ``010`` is eight, and of two equal keys
the last one wins without a word. A file from a stranger may also be made to fill the memory, by
aliases of aliases or a hundred thousand brackets. Each of these is one sentence here, at once.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from wna_ray.errors import SpecError

MOST_TEXT = 1 << 20  # bytes of a spec
MOST_DEPTH = 64  # mappings and lists in each other
MOST_VALUES = 100_000  # with every alias written out
MOST_DIGITS = 100
_BASE_60 = re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?")
_OCTAL = re.compile(r"[-+]?0[\d_]+")


def read_text(path: str | Path) -> str:
    """The text of a spec's file, of at most 1 MiB; `SpecError` where it is none.

    A pipe that somebody writes to is read, too: ``wna plan <(sed ... spec.yaml)``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            os.close(descriptor)
            raise SpecError(
                f"{path}: cannot be read as text (it is no file); give a YAML spec such as those in"
                " jobs/"
            )
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb") as file:
            data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise SpecError(f"{path}: has more than {MOST_TEXT:,} bytes, which no spec needs")
        return data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise SpecError(f"{path}: no such file; give a YAML spec such as those in jobs/") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: cannot be read as text ({error})") from None


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Parameters
    ----------
    text
        The text.
    where
        What an error message begins with.

    Raises
    ------
    SpecError
        It is no YAML, or holds what people and programs read differently, or what would take more
        memory than any spec needs.

    Examples
    --------
    >>> parse_yaml("samples: 1_000", "spec.yaml")
    {'samples': 1000}
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise SpecError(f"{where}: not valid YAML ({line}{error.problem})") from None
    except MemoryError:
        raise
    except Exception as error:  # its constructors raise of every family on odd values
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"{where}: not valid YAML ({first})") from None
    count, depth = _written_out(value, {}, ())
    if count > MOST_VALUES or depth > MOST_DEPTH:
        most = f"{MOST_VALUES:,} values on {MOST_DEPTH} levels"
        raise SpecError(
            f"{where}: more than {most}, its aliases (*) written out, which no spec needs"
        )
    return value


Extent = tuple[int, int]  # values, and levels


def _written_out(value: Any, known: dict[int, Extent], above: tuple[int, ...]) -> Extent:
    """How many values there would be without aliases, and on how many levels."""
    if not isinstance(value, dict | list):
        return 1, 0
    if id(value) in known:
        return known[id(value)]
    if id(value) in above or len(above) > MOST_DEPTH:
        return MOST_VALUES + 1, MOST_DEPTH + 1  # it holds itself, or is too deep
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    sizes = [_written_out(part, known, (*above, id(value))) for part in parts]
    known[id(value)] = 1 + sum(n for n, _ in sizes), 1 + max((d for _, d in sizes), default=0)
    return known[id(value)]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with bounds and without surprises."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = self._merged = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._values += 1
        if self._values > MOST_VALUES:
            self._refuse(f"more than {MOST_VALUES:,} values, which no spec needs", self.get_mark())
        if self._depth > MOST_DEPTH:
            self._refuse(f"nested deeper than {MOST_DEPTH} levels", self.get_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    self._refuse(f"the key {key.value!r} stands twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > MOST_VALUES:
            self._refuse("merge keys (<<) that stand for too many values", node.start_mark)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        self._refuse_traps(text, node)
        return int(super().construct_yaml_int(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        self._refuse_traps(str(self.construct_scalar(node)), node)
        return float(super().construct_yaml_float(node))

    def construct_word(self, node: yaml.ScalarNode) -> str:
        return str(self.construct_scalar(node))

    def _refuse_traps(self, text: str, node: yaml.ScalarNode) -> None:
        start = text[:20] + "..." * (len(text) > 20)
        if len(text) > MOST_DIGITS:
            self._refuse(f"a number of {len(text):,} digits", node.start_mark)
        if _BASE_60.fullmatch(text):
            self._refuse(f"{start} would be a number in base 60; put it in quotes", node.start_mark)
        if _OCTAL.fullmatch(text):
            self._refuse(
                f"{start} would be an octal number; leave out the zero in front, or put it in"
                " quotes",
                node.start_mark,
            )

    def _refuse(self, problem: str, mark: Any) -> None:
        raise yaml.constructor.ConstructorError(None, None, problem, mark)


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "str", "seq", "map")
}
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_yaml_float)
_Loader.add_constructor(f"{_TAG}timestamp", _Loader.construct_word)  # a date is a word
