"""Text that somebody else wrote, made fit to be printed and stored.

A run directory, a spec, a model's error or a server's answer may hold anything: commands for a
terminal, a megabyte of nothing, the password of a URL. It goes through one of these functions
before it is printed or stored:

    plain("two\nlines")                          one line, nothing that a terminal would obey
    printable(message)                           the same of a message of several lines, no secrets
    redacted("http://me:secret@host/w?sig=1")    http://***@host/w?sig=***
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

HIDDEN = "***"
MOST_LINE, MOST_LINES = 1_200, 80  # of a message; our own longest line has about 700 characters
MOST_READ = 100_000  # characters of a message that are looked at
MODEL_SCHEMES = ("bundled", "torchvision", "timm", "python", "export", "trained")
MODEL_OPTIONS = (
    "weights",
    "layer",
    "weights_key",
    "seed",
    "part",
    "pretrained",
    "num_classes",
    "in_chans",
)

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, direction, half characters, line ends


def plain(text: str, most: int = 1_000) -> str:
    """Text that is one line and does nothing to a terminal: other characters become U+FFFD, the
    rest beyond `most` is cut.
    """
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return "".join("\ufffd" if unicodedata.category(c) in _UNPRINTABLE else c for c in cut)


def printable(text: str) -> str:
    """A message of any number of lines, as it may be printed: each is `plain` and `redacted`,
    and very long ones are cut.
    """
    lines = text[:MOST_READ].split("\n")
    kept = [_cut(redacted(plain(line, MOST_READ + 3))) for line in lines[:MOST_LINES]]
    if len(text) > MOST_READ or len(lines) > MOST_LINES:
        kept.append("... (cut: the whole message is longer)")
    return "\n".join(kept)


def _cut(line: str) -> str:
    """A line without its middle where it is too long: its beginning says what is wrong, its end
    tells the way out.
    """
    if len(line) <= MOST_LINE:
        return line
    return f"{line[: MOST_LINE - 400]} ... {line[-390:]}"


def _sign(sign: str) -> str:
    """A sign as it is, or percent-encoded, however often: the URL of weights is an option of
    the URL of a model.
    """
    return rf"(?:{re.escape(sign)}|%(?:25)*{ord(sign):02x})"


_URL = re.compile(rf"[a-z][a-z0-9+.\-]{{0,30}}{_sign(':')}{_sign('/')}{_sign('/')}", re.IGNORECASE)
_TOKEN = re.compile(
    r"(?:(?!::[A-Za-z][\w+.\-]*:[:/])[^\s'\"<>`])*"
)  # up to the next of chained storages
_CLOSING = ").,;:]}"
_AT, _SLASH, _EQUALS = (re.compile(_sign(sign), re.IGNORECASE) for sign in "@/=")
_QUERY = re.compile(rf"{_sign('?')}|{_sign('#')}", re.IGNORECASE)
_PATH = re.compile(rf"{_sign('/')}|{_sign('?')}|{_sign('#')}", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?:(?!{_sign('/')}|{_sign('@')}|{_sign('?')}|{_sign('#')}).)*?{_sign(':')}(?!\d+(?:{_sign('/')}|$))",
    re.IGNORECASE,
)
_CONTAINER = re.compile(
    r"(abfss?|wasbs?|az)\b", re.IGNORECASE
)  # abfs://CONTAINER@ACCOUNT is no login
_AND = re.compile(rf"({_sign('&')})", re.IGNORECASE)
_MODEL = re.compile(rf"({'|'.join(MODEL_SCHEMES)}):[^?\s]*\?")


def redacted(text: str) -> str:
    """Text whose URLs tell no secrets: who logs in becomes ``***``, and so does the value of every
    parameter.

    Which parameter is a signature, a token or a key is not to be known, so none is told. Its name
    is kept, and so are scheme, host and path. URLs that are percent-encoded, as in the ``weights=``
    of a model, are found, too. What cannot be told from a name stays: a secret in a path, for one.
    """
    model = _MODEL.match(text)
    if model is None:
        return _hide_all(text)
    # An option's value that is a URL ends where the next option begins: but what follows a bare ?
    # may belong to either.
    parts, in_query = [_hide_all(model[0][:-1]) + "?"], False
    for option in text[model.end() :].split("&"):
        url = _URL.search(option)
        ours = option.partition("=")[0] in MODEL_OPTIONS
        parts += [_hide_pair(option) if in_query and not ours else _hide_all(option), "&"]
        in_query |= url is not None and "?" in option[url.end() :]
    return "".join(parts[:-1])


def redacted_tree(value: Any) -> Any:
    """The same JSON value with every text in it `redacted`, keys left as they are."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: redacted_tree(part) for key, part in value.items()}
    return [redacted_tree(part) for part in value] if isinstance(value, list | tuple) else value


def has_login(url: str) -> bool:
    """Whether a URL says who logs in: ``scheme://NAME:SECRET@host``."""
    start = _URL.search(url)
    return start is not None and _login(start[0], url[start.end() :]) > 0


def _hide_all(text: str) -> str:
    parts, at = [], 0
    while (start := _URL.search(text, at)) is not None:
        token = _TOKEN.match(text, start.end())
        assert token is not None, "it matches nothing, too"
        address = token[0].rstrip(_CLOSING)  # the sentence's own signs stay
        parts += [text[at : start.end()], _hide(start[0], address), token[0][len(address) :]]
        at = token.end()
    return "".join([*parts, text[at:]])


def _login(scheme: str, rest: str) -> int:
    """Where the host begins in what stands behind ``scheme://``; 0 where nobody logs in."""
    if _NAMED.match(
        rest
    ):  # a name and a secret, which may hold any sign (those of AWS do hold slashes)
        query = _QUERY.search(rest)
        ends = [m.end() for m in _AT.finditer(rest, 0, query.start() if query else len(rest))] or [
            m.end() for m in _AT.finditer(rest)
        ]
        return ends[-1] if ends else 0
    if _CONTAINER.match(scheme):
        return 0
    path = _PATH.search(rest)
    return max(
        (m.end() for m in _AT.finditer(rest, 0, path.start() if path else len(rest))), default=0
    )


def _hide(scheme: str, rest: str) -> str:
    """What stands behind ``scheme://``, without secrets."""
    host = _login(scheme, rest)
    sign = next(m for m in reversed(list(_AT.finditer(rest, 0, host))))[0] if host else ""
    login, rest = (HIDDEN + sign) * bool(host), rest[host:]
    query = _QUERY.search(rest)
    if query is None:
        return login + rest
    query_text, after = rest[query.end() :], ""
    if len(query[0]) > 1:  # percent-encoded, so a bare & belongs to the text around it
        query_text, bare, after = query_text.partition("&")
        after = bare + after
    pairs = _AND.split(query_text)
    hidden = [pair if i % 2 else _hide_pair(pair) for i, pair in enumerate(pairs)]
    return login + rest[: query.end()] + "".join(hidden) + _hide_all(after)


def _hide_pair(pair: str) -> str:
    equals = _EQUALS.search(pair)
    if equals is None:
        return HIDDEN if pair else ""
    return pair[: equals.end()] + HIDDEN


def size(n: float) -> str:
    """``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def duration(seconds: float) -> str:
    """``8 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
