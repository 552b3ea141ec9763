"""What commands print, without what tells of the moment, the machine or the folder."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

TIME = r"[\d.]+ (?:s|min|h)"


@dataclass(frozen=True)
class Rule:
    """A pattern in a line that a command prints, what stands in its place, and why.

    Where nothing stands in its place (None), the whole line is left out.
    """

    command: str
    pattern: str
    by: str | None
    reason: str


PROGRESS = r"^[\d,]+ of [\d,]+ images, .*images/s"
RULES = (
    Rule("*", PROGRESS, None, "a line that comes every five seconds, with a rate"),
    Rule("plan", r"^time {6}", None, "seconds on this machine"),
    Rule("run", r"begins on \S+", "begins on <host>", "of a sweep: where a member is run"),
    Rule("run", rf"images in {TIME};", "images in <time>;", "of a sweep: time of a member"),
    Rule("run", rf", [\d,]+ images/s(, {TIME} left)?$", ", <rate>", "of a sweep: its rate"),
    Rule("train", r"\([\d.]+ s\)", "(<seconds>)", "seconds of an epoch"),
    Rule(
        "train",
        r"^(  (?:seed|clean|poisoned)-\d+ .*?) +\d+ *$",
        r"\1 <seconds>",
        "the last column of the table: seconds of a training",
    ),
    Rule("status", r"process \d+ on \S+", "process <number> on <host>", "who drove a run"),
    Rule("status", rf"{TIME} ago", "<time> ago", "when that was"),
    Rule("status", r"[\d,]+ images/s lately", "<rate> lately", "how fast that was"),
    Rule("status", r"^  worker time: ", None, "shares of seconds"),
    Rule("status", r"commits, .* each;", "commits, <seconds> and <bytes> each;", "their seconds"),
    Rule("fetch", r"(B|bytes) \S+( \S+/s)? \S+$", r"\1 <rate> <time>", "the end of its bar"),
    Rule("paper", rf"^ *{TIME}  ", "<time>  ", "time since the beginning"),
    Rule("paper", rf"done in {TIME}", "done in <time>", "time of a step"),
)
"""Every exception, by name."""


def without_circumstances(command: str, text: str, folders: Mapping[str, str]) -> str:
    """Make of a text what another tree prints, at another time, as well.

    Parameters
    ----------
    command, text
        The word for a command, and what it printed.
    folders
        Paths, and the words that stand in their places; a path inside another one comes first.
    """
    for path, word in folders.items():
        text = text.replace(path, word)
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "<host>", text)
    lines = (ruled(command, line) for line in text.replace("\r", "\n").splitlines())
    return "".join(f"{line}\n" for line in lines if line is not None)


def ruled(command: str, line: str) -> str | None:
    """Apply all rules to a line of a command; None where it is left out."""
    for rule in (rule for rule in RULES if rule.command in (command, "*")):
        if rule.by is None:
            if re.search(rule.pattern, line):
                return None
        else:
            line = re.sub(rule.pattern, rule.by, line)
    return line
