"""Programs saved by ``torch.export``, read without torch's own reader.

``torch.export.load`` is not made for files from strangers. It unpickles members, evaluates sizes
and guards as Python, imports what a file names, finds operators by looking up any name in torch,
and generates source from the file's names and executes it. So the file is read here instead, and
torch is given nothing of it but numbers: the graph becomes a list of calls of known operators,
which `Program` makes one after another.

What is trusted: the operators of torch that `exported_operators` names. They check their
arguments; where one leaves that to its caller, it is done there. None of them touches files,
libraries, settings of the process, or memory that is not a tensor's.

What is not trusted: every byte of the file. Its members have fixed names, are there once, are not
compressed, and lie one after another. Its text is JSON of bounded depth, also within strings. Its
names are keys of dictionaries; they never become source or paths. Its weights are bytes whose
number is compared with what is said of them. Words among the arguments are on a closed list. What
is not needed to compute is not looked at: traces, stacks, sizes inside the graph, versions of
operators. Sample inputs are never read, only refused where torch would run something for them.

What stays: a program may compute anything from its input, and may take memory and time for it.

The modules beside this one are its parts, each resting only on those before it: `exported_archive`,
`exported_arguments`, `exported_operators`, `exported_graph`, `exported_program`,
`exported_weights`, `exported_signature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from wna_ray.networks.exported.archive import (
    AGAIN,
    STATIC,
    Refused,
    check_samples,
    field,
    listed,
    parsed,
    read_members,
)
from wna_ray.networks.exported.graph import read_graph
from wna_ray.networks.exported.program import Program
from wna_ray.networks.exported.signature import read_signature
from wna_ray.networks.exported.weights import read_tensors
from wna_ray.text import plain

__all__ = ["Refused", "load_exported"]


def load_exported(data: bytes) -> nn.Module:
    """The module of an exported program.

    Parameters
    ----------
    data
        The file.

    Returns
    -------
    nn.Module
        On the CPU, in the arithmetic that it was exported in.

    Raises
    ------
    Refused
        It holds more than weights, a graph and sizes, or is not as torch writes it. The message
        completes "is refused: ...".
    MemoryError
        Its weights do not fit into memory.
    Exception
        It is no archive at all.
    """
    members = read_members(data)
    check_samples(members.get("data/sample_inputs/model.pt"))
    program = parsed(members, "models/model.json")
    _check_versions(members, program)
    module = field(program, "graph_module", dict)
    graph = read_graph(field(module, "graph", dict))
    signature = read_signature(module, graph, field(program, "range_constraints", dict))
    return Program(graph, signature, read_tensors(members, len(data), signature))


def _check_versions(members: Mapping[str, memoryview], program: Mapping[str, Any]) -> None:
    """Refuse what was written by another torch, for another runtime, or on an unlike machine."""
    for name, known in {"archive_format": b"pt2", "archive_version": b"0"}.items():
        if bytes(members.get(name, b"")) != known:
            raise Refused(f"its {name} is not {known.decode()}", AGAIN)
    if bytes(members.get("byteorder", b"little")) != b"little":
        raise Refused("it was written on a big-endian machine", AGAIN)
    if field(field(program, "schema_version", dict), "major", int) != 8:
        raise Refused("its graph is in another version of torch's format", AGAIN)
    for verifier in listed(program.get("verifiers", []), str, "its verifiers"):
        if verifier not in ("ATEN", "TRAINING", ""):
            raise Refused(f"it was made for another runtime ({plain(verifier, 40)})", AGAIN)
    if program.get("guards_code"):
        raise Refused("it holds guards, which torch would compile as Python", STATIC)
