"""What is written to a terminal: nothing that it would obey, no secrets, and nothing lost in
silence.

Results go to standard output, where a line that cannot be written is an error. What tells how the
work goes on goes to standard error, where it must never end the work.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import os
import sys
import traceback
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from wna_ray.errors import WnaError
from wna_ray.text import plain, printable, redacted, redacted_tree

NARROW = "wna-narrow"  # the error handler of streams whose encoding lacks some signs
_lacking = set[str]()


class OutputError(WnaError):
    """Standard output takes no more."""


class PlainConsole(Console):
    """Rich's console for text that somebody else may have written: no markup, no emoji codes.

    Parameters
    ----------
    file
        Where to; standard output by default.
    settings
        Passed on to `rich.console.Console`.
    """

    def __init__(self, file: TextIO | None = None, **settings: Any) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **how: Any) -> Text:
        """Every string that is printed comes through here, cells and titles of tables, too."""
        return super().render_str(printable(text), **how | {"markup": False, "emoji": False})


class Forgiving:
    """A stream that is given up once it cannot be written to (a full disk, a terminal that is
    gone).

    Parameters
    ----------
    stream
        The stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or lose it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, or lose it."""
        self._try(self._stream.flush)

    def _try(self, call: Any) -> None:
        if self._lost:
            return
        try:
            call()
        except (OSError, ValueError):  # ValueError: it is closed
            self._lost = True


def console() -> Console:
    """A console for results, whose tables are not squeezed where there is no terminal to fit."""
    fitting = PlainConsole()
    return fitting if fitting.is_terminal else PlainConsole(width=160)


def show(value: Any) -> None:
    """Print a table or a line of results; `OutputError` where that cannot be done."""
    try:
        console().print(value)
        sys.stdout.flush()
    except OSError as error:
        raise _unwritable(error) from None


def say(line: str) -> None:
    """Print a line of results as it is; `OutputError` where that cannot be done."""
    try:
        print(printable(line), flush=True)
    except OSError as error:
        raise _unwritable(error) from None


def say_json(value: Any) -> None:
    """Print a JSON value, whole: its escapes leave nothing that a terminal would obey, and secrets
    are hidden.
    """
    try:
        print(json.dumps(redacted_tree(value), indent=1), flush=True)
    except OSError as error:
        raise _unwritable(error) from None


def tell(line: str) -> None:
    """Print a line beside the results; one that cannot be written is lost."""
    print(printable(line), file=Forgiving(sys.stderr), flush=True)


def _unwritable(error: OSError) -> OutputError | BrokenPipeError:
    """Say why, and let Python end without trying again."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file of this process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # whoever read has seen enough: wna report RUN | head
        return error
    return OutputError(
        f"cannot write to standard output ({error.strerror or error}); what was computed is safe,"
        " and wna report shows it again"
    )


def prepare() -> None:
    """Let standard output and error take every sign: what their encoding lacks is written as an
    escape.
    """
    codecs.register_error(NARROW, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=NARROW)


def tell_what_was_escaped() -> None:
    """Say once that signs were written as escapes, where some were."""
    if _lacking:
        tell(
            f"wna: the encoding {', '.join(sorted(_lacking))} lacks some signs, which were written"
            " as escapes such as \\xb1; set PYTHONUTF8=1 for UTF-8"
        )
        _lacking.clear()


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        _lacking.add(error.encoding)
    return codecs.backslashreplace_errors(error)


class PrintableFormatter(logging.Formatter):
    """Log lines without secrets and commands for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return _fit(super().format(record))


def traceback_text() -> str:
    """The traceback of the error that is being handled, without secrets and commands for a
    terminal.
    """
    return _fit(traceback.format_exc())


def _fit(text: str) -> str:
    """Text of any number of lines."""
    return "\n".join(redacted(plain(line, 2_000)) for line in text.splitlines())
