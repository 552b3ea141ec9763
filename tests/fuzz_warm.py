"""The warm process of `fuzz_nursery`: everything imported, it forks a child for every command.

What a child tries beyond its own folders is told, and refused, by an audit hook: so a fuzzer that
asks for harm does none, and a file is seen that would have been removed again.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

SECONDS = 25.0  # from birth to end; then a child is killed
SPACE = 4 << 30  # bytes of addresses beyond those that it is born with
MOST_FILE = 1 << 30  # bytes of a file that it writes
PATIENCE = 0.5  # seconds: servers that are not there stay away
MOST_STRAYED = 20  # events that it tells

WARM = [
    "cli",
    "kinds.average.figures",
    "statistics.classifier",
    "studies.compare_figures",
    "studies.backdoor_figures",
]
WARM += ["kinds.trials.figures", "kinds.covariance.figures", "execution.local", "drawing.page"]
WARM += [f"cli.{work}" for work in ("planning", "running", "inspecting", "reporting")]
WARM += [f"cli.{work}" for work in ("training", "contrasting", "comparing", "searching")]
CHANGES = [f"os.{name}" for name in ("mkdir", "remove", "rename", "rmdir", "symlink", "link")]
CHANGES += [f"os.{name}" for name in ("chmod", "chown", "truncate", "utime", "setxattr")]
BEGINS = ["os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class"]
SPEAKS = ["socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Asked = dict[str, Any]  # argv, cwd, out, own folders, strict, forbidden (see `fuzz_nursery`)


def serve() -> None:
    """Read what is asked, fork, and tell how it ended, a line of JSON each."""
    import torch
    import torchvision  # noqa: F401  # it makes folders when it is first imported

    from wna_ray.storage import store

    torch.set_num_threads(1)
    for name in WARM:
        import_module(f"wna_ray.{name}")
    store.PATIENCE_SECONDS = PATIENCE
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            child(json.loads(line), write)
        os.close(write)
        print(json.dumps(end(pid, read)), flush=True)
    os._exit(0)  # what was imported has nothing to tidy up


def end(pid: int, pipe: int) -> dict[str, Any]:
    """Wait for a child, kill it when its time is over, and say how it ended."""
    watch = os.pidfd_open(pid)
    late = not select.select([watch], [], [], SECONDS)[0]
    if late:
        os.killpg(pid, signal.SIGKILL)
    os.close(watch)
    _, status, used = os.wait4(pid, 0)
    with open(pipe, errors="replace") as file:
        born, *strayed = file.read().splitlines()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "growth": (used.ru_maxrss << 10) - int(born),
        "busy": used.ru_utime + used.ru_stime,
        "late": late,
        "strayed": strayed,
    }


def child(asked: Asked, pipe: int) -> None:
    """Run a command within limits; does not return."""
    os.setsid()
    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(old, new)
    os.chdir(asked["cwd"])
    pages = [int(n) for n in Path("/proc/self/statm").read_text().split()]
    size, resident = pages[0] * resource.getpagesize(), pages[1] * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE,) * 2)
    os.write(pipe, f"{resident}\n".encode())
    sys.addaudithook(watcher(asked, pipe))
    code = run(asked["argv"])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
        code = 71
    os._exit(code)


def run(argv: list[str]) -> int:
    """Run ``wna ARGV``, or look at a run; gives the exit code, 70 where anything else is raised."""
    import typer

    from wna_ray.cli import app
    from wna_ray.cli.shared import exiting

    try:
        if argv[0] == "open":
            exiting(look)(argv[1])
        else:
            app(argv)
    except typer.Exit as left:
        return left.exit_code
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def look(url: str) -> None:
    """Look at all that an opened run (or each member of a sweep) has; tells what it refuses."""
    from wna_ray import Sweep
    from wna_ray.kinds.any import open_any
    from wna_ray.sweeps.directory import is_sweep

    for opened in Sweep(url).members.values() if is_sweep(url) else [open_any(url)]:
        for name in (name for name in dir(type(opened)) if not name.startswith("_")):
            look_at(opened, name)


def look_at(opened: Any, name: str) -> None:
    """Look at a property, or at the responses of single images."""
    from wna_ray import WnaError

    try:
        if isinstance(getattr(type(opened), name), property | cached_property):
            getattr(opened, name)
        elif name == "stored":
            for _, part in opened.stored():
                for kind in part.values:
                    part.row(kind, 0)
    except WnaError as error:
        print(f"{name}: {error}")


def watcher(asked: Asked, pipe: int) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses what leads beyond a child's folders, and tells it by a pipe."""
    told = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal told
        if strays(asked, event, args):
            told += 1
            if told <= MOST_STRAYED:
                line = " ".join(f"{event} {args!r}".split())[:300]
                os.write(pipe, f"{line}\n".encode(errors="replace"))
            raise PermissionError(errno.EACCES, "this is a test, which nothing may leave")
        if event == "socket.connect" and isinstance(args[1], tuple) and not near(str(args[1][0])):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "this is a test without a network")

    return hook


def strays(asked: Asked, event: str, args: tuple[Any, ...]) -> bool:
    """Whether an event leads beyond a child's own folders, or reads what it may not read."""
    if event == "open":
        path, flags = place(asked, args[0]), args[2] if isinstance(args[2], int) else 0
        if path is None or path == os.devnull:
            return False
        secret = asked["forbidden"] is not None and within(path, asked["forbidden"])
        return secret or bool(flags & WRITES and outside(asked, path))
    if event in CHANGES:
        paths = [place(asked, arg) for arg in args[:2]]
        return any(path is not None and outside(asked, path) for path in paths)
    return event in BEGINS or (event in SPEAKS and asked["strict"])


def place(asked: Asked, path: Any) -> str | None:
    """Where a path leads, links not followed; None of what is no path."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    return os.path.normpath(os.path.join(asked["cwd"], os.fsdecode(path)))


def outside(asked: Asked, path: str) -> bool:
    return not any(within(path, folder) for folder in asked["own"])


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


def near(host: str) -> bool:
    """Whether an address is of this machine."""
    return host.startswith("127.") or host in ("localhost", "::1")


if __name__ == "__main__":
    serve()
