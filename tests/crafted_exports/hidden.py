"""What is hidden in a program: pickles, expressions, names and conditions that make the marker."""

from __future__ import annotations

import io
from typing import Any

import torch

TRAP = "trap_of_exports"
LEAF = {"type": None, "context": None, "children_spec": []}
ENUM = {"__enum__": True, "fqn": f"{TRAP}:Trap", "name": "A"}


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def trap(marker: str) -> str:
    """The source of the module `TRAP`."""
    return (
        "import enum, collections\n"
        f"open({marker!r}, 'w').close()\n"
        "class Trap(enum.Enum):\n    A = 1\n"
        "Pair = collections.namedtuple('Pair', 'a b')\n"
    )


def saved(payload: Any, protocol: int = 2) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(payload, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def expressions(marker: str) -> list[str]:
    """Sizes that do something when they are evaluated."""
    made = f"open({marker!r}, 'w')"
    return [
        made,
        f"__import__({TRAP!r})",
        f"Integer({made} and 2)",
        f"Max(2, len([{made}]))",
        f"eval({made!r})",
        f"exec({made!r})",
        f"(lambda: {made})()",
        f"getattr(__import__('io'), 'open')({marker!r}, 'w')",
        f"Symbol('s0', positive={made})",
        f"Mul(Integer(2), {made})",
    ]


def identifiers(marker: str) -> list[str]:
    """Names that are more than names where they become source."""
    made = f"open({marker!r}, 'w')"
    return [
        f"x={made}",
        f"x, y={made}",
        f"x):\n    {made}\ndef forward(self, x",
        f"x\n{made}\n",
        f"x; {made}; y",
        f"x' + str({made}) + '",
        f'x" + str({made}) + "',
        f"x\nimport {TRAP}\n",
        f"x: {made}",
    ]


def guards(marker: str) -> list[str]:
    """Conditions that do something when they are compiled or asked."""
    made = f"open({marker!r}, 'w')"
    return [
        made,
        f"__import__({TRAP!r})",
        f"True, 'a')\n  {made}\n  torch._assert(True",
        f"L['x'].size()[0] == 2 or {made}",
        f"True)\nopen({marker!r}, 'w')\n(lambda: 0",
        f'True, "") or {made} #',
    ]
