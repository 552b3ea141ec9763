"""Names for processes that no other ever has, and whether a process still lives.

What a killed process left behind can so be told from what a living one still needs, at once, and
without asking anybody. A name says which boot of which machine, which namespace of process numbers
(two containers count theirs apart), and when the process started: a number that is used again is
another process.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

STATE, THREADS, STARTED = 0, 17, 19  # fields of /proc/PID/stat behind the command's name


def place() -> str:
    """Boot and namespace in which a number means a process; "" where they are not known."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return ""


def name_of(pid: int) -> str:
    """A name for a living process of this machine; "" where there is none, or it cannot be seen."""
    machine, fields = place(), _stat(pid)
    return f"{machine}/{fields[STARTED]}" if machine and fields and not _is_zombie(fields) else ""


def lives(pid: int, name: str) -> bool | None:
    """Whether the process of that number and name still lives; None where that cannot be told."""
    machine = place()
    if not machine or name.rpartition("/")[0] != machine or not 0 < pid < 1 << 31:
        return None
    fields = _stat(pid)
    if fields:
        return fields[STARTED] == name.rpartition("/")[2] and not _is_zombie(fields)
    try:
        os.kill(pid, 0)  # a signal that is not sent: some systems hide the processes of others
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return None


def _stat(pid: int) -> list[str]:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields if len(fields) > STARTED else []
    return []


def _is_zombie(fields: list[str]) -> bool:
    """Whether all of a process has ended, but for the word to whoever started it."""
    return fields[STATE] in ("Z", "X") and int(fields[THREADS]) <= 1
