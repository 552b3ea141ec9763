"""Errors that a person is meant to read.

Every message names the argument or the file, says what was expected, and tells the way out. The
command line prints the message alone and exits with the class's ``exit_code``.

A message often quotes what somebody else wrote: a model's own error, a name in a run directory, a
URL with a password. So all of them are made printable where they are made: no terminal commands, no
secrets of URLs, no megabytes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from wna_ray.text import printable


class WnaError(Exception):
    """Base of all errors raised on purpose. Takes one message, so it survives pickling between
    processes.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class SpecError(WnaError):
    """The spec, or an argument, asks for something that does not exist or does not fit."""

    exit_code = 2


class ModelError(WnaError):
    """A model cannot be found, read, or fed with the stimulus."""

    exit_code = 2


class StoreError(WnaError):
    """The storage refused to read or to write. `passing` where it may do so later, or for
    another machine.
    """

    passing = False


class RunError(WnaError):
    """A run directory is damaged, foreign, unfinished, or of another spec."""


class NumericsError(WnaError):
    """A worker's arithmetic differs from the one that began the run."""


class CanaryError(NumericsError):
    """One worker's arithmetic differs; another machine's may not."""


class ShardError(WnaError):
    """Some shards failed every attempt; all other images are committed."""


class Stopped(WnaError):
    """The run was stopped before its end; what is committed stays."""

    exit_code = 130


def near(name: str, known: Iterable[str], most: int = 6) -> str:
    """The known names nearest to `name`, for an error message; the first few where none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.4)
    rest = len(known) - len(close or known[:most])
    return ", ".join(close or known[:most]) + (f" (and {rest} more)" if rest else "")
