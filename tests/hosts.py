"""Hosts for tests: network, process and mount namespaces of their own on a bridge, so that a whole
"machine" can be killed.

    with Hosts(3) as hosts:
        hosts[1].boot()
        hosts[1].popen(["python", "-m", "http.server"])
        hosts[1].kill()

They need root on Linux; `missing` tells why they cannot be had. Whatever an earlier run left
behind, because it was killed itself, is removed first.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from servers import spawn, wait_until

PREFIX = "wna"
MOUNTS = """
mkdir -p /tmp/ray && mount -t tmpfs -o size=2g tmpfs /dev/shm \\
    && mount -t tmpfs -o size=2g tmpfs /tmp/ray || exit
"""  # the last one tells that the host is up
IDLE = "while :; do sleep 3600 & wait $!; done"  # bash as process 1 also buries orphans
_numbers = itertools.count()


def missing() -> str | None:
    """Why there can be no hosts here, or None."""
    absent = [p for p in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(p)]
    if absent or sys.platform != "linux":
        return f"hosts need Linux with {', '.join(absent) or 'namespaces'} (.ci/install-servers)"
    if os.geteuid() != 0:
        return "hosts need root, for network namespaces"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
    )
    return (
        f"hosts need the right to make namespaces ({tried.stderr.strip()})"
        if tried.returncode
        else None
    )


def ip(command: str, check: bool = True) -> str:
    """``ip`` with the arguments in `command`; its output."""
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"ip {command}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One host. `address` is what others reach it under; `name` is that of its network
    namespace.
    """

    def __init__(self, hub: str, index: int, subnet: str, folder: Path) -> None:
        self.name, self.index, self.address = f"{hub}h{index}", index, f"{subnet}.{10 + index}"
        self.log = folder / f"{self.name}.log"
        self._hub, self._init, self._space = hub, None, ""
        ip(f"netns add {self.name}")
        ip(f"-n {hub} link add h{index} type veth peer name eth0 netns {self.name}")
        ip(f"-n {hub} link set h{index} master bridge up")
        ip(f"-n {self.name} link set lo up")
        ip(f"-n {self.name} addr add {self.address}/24 dev eth0")
        ip(f"-n {self.name} link set eth0 up")
        ip(
            f"-n {self.name} route add default via {subnet}.1"
        )  # Ray asks for the way to the world to learn its own address

    _init: subprocess.Popen[bytes] | None

    @property
    def up(self) -> bool:
        return self._init is not None and self._init.poll() is None

    def boot(
        self,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """Switch it on, with `command` as process 1 (the host goes down when it ends) or with
        nothing running yet.
        """
        if self.up:
            raise RuntimeError(f"{self.name} is up")
        script = MOUNTS + (f"exec {shlex.join(command)}" if command else IDLE)
        inside = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount",
            "--mount-proc",
            "bash",
            "-c",
            script,
        ]
        self._init = spawn(
            ["ip", "netns", "exec", self.name, *inside], log or self.log, environment(env)
        )
        started, init = self._init, self._init.pid

        def wait(true: Callable[[], Any], what: str) -> Any:
            return wait_until(true, 10, f"{self.name} {what}", needs=started, log=log or self.log)

        self._pid = int(wait(lambda: _read(f"/proc/{init}/task/{init}/children"), "boots"))
        self._space = os.readlink(
            f"/proc/{self._pid}/ns/pid"
        )  # now: a short command may be over after the next line
        wait(lambda: " /tmp/ray " in _read(f"/proc/{self._pid}/mounts"), "mounts")

    def inside(self, command: Sequence[str]) -> list[str]:
        """A command line that runs `command` in this host."""
        return [
            "nsenter",
            "--target",
            str(self._pid),
            "--net",
            "--pid",
            "--mount",
            "env",
            f"--chdir={os.getcwd()}",
            *command,
        ]

    def popen(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start something; its output goes to `log`."""
        return spawn(self.inside(command), log or self.log, environment(env))

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run something to its end."""
        return subprocess.run(
            self.inside(command),
            env=environment(env),
            timeout=timeout,
            capture_output=True,
            text=True,
        )

    def pids(self, pattern: str = "") -> list[int]:
        """Its processes whose command line matches, as seen from outside; oldest first."""
        return (
            [
                pid
                for pid in _members("pid", self._space)
                if re.search(pattern, _command(pid) or "\0")
            ]
            if self.up
            else []
        )

    def kill_process(self, pattern: str) -> int:
        """kill -9 of the oldest process that matches; returns its number when it is gone."""
        if not (pids := self.pids(pattern)):
            raise LookupError(
                f"{self.name} has no process {pattern!r}: {[_command(pid) for pid in self.pids()]}"
            )
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: not _command(pids[0]), 10, f"{pattern} ends")
        return pids[0]

    def kill(self) -> None:
        """As in a power cut: every process is gone at once."""
        if not self.up:
            return
        assert self._init is not None
        # Its end waits until the dead have been buried by their parents, so those outside must not
        # be asleep.
        for pid in [
            self._pid,
            *(p for p in _members("pid_for_children", self._space) if p != self._init.pid),
        ]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            self._init.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._init.kill()
            self._init.wait()

    def freeze(self) -> None:
        """Every process stops where it is; connections stay open and silent."""
        wait_until(
            self._asleep, 10, f"{self.name} freezes"
        )  # again and again, for those that were just being born

    def _asleep(self) -> bool:
        awake = [pid for pid in self.pids() if _state(pid) not in "TtZX"]
        for pid in awake:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return not awake

    def thaw(self) -> None:
        """All go on, also each nsenter outside: it stops itself when it sees its child stop."""
        for pid in _members("pid_for_children", self._space) if self.up else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def cut(self) -> None:
        """Pull the network cable."""
        ip(f"-n {self._hub} link set h{self.index} down")

    def mend(self) -> None:
        ip(f"-n {self._hub} link set h{self.index} up")


class Hosts:
    """`count` hosts on a bridge on which this machine is ``gateway``: servers that listen on
    0.0.0.0 are found there.

    The bridge has a namespace of its own, out of reach of this machine's firewall (Docker's would
    drop what hosts say to each other).
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        _remove_leftovers()
        self._hub = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.subnet = _free_subnet()
        self.gateway = f"{self.subnet}.1"
        self._hosts: list[Host] = []
        try:
            ip(f"netns add {self._hub}")
            ip(f"-n {self._hub} link add bridge up type bridge")
            ip(f"link add {self._hub} type veth peer name root netns {self._hub}")
            ip(f"-n {self._hub} link set root master bridge up")
            ip(f"addr add {self.gateway}/24 dev {self._hub}")
            ip(f"link set {self._hub} up")
            if folder is None:
                (folder := _folder(self._hub)).mkdir(mode=0o700)
            for i in range(count):
                self._hosts.append(Host(self._hub, i, self.subnet, folder))
        except BaseException:
            self.close()
            raise

    def __getitem__(self, i: int) -> Host:
        return self._hosts[i]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def close(self) -> None:
        for host in self._hosts:
            host.kill()
        _remove(self._hub)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment without the Ray it may use itself, and `env`."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | dict(env or {})


def _members(kind: str, space: str) -> list[int]:
    """Processes in a namespace (``pid``), or in it or about to send children there
    (``pid_for_children``).
    """
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if os.readlink(folder / "ns" / kind) == space:
                    found.append(int(folder.name))
    return sorted(found)


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_bytes().decode(errors="replace")
    return ""


def _command(pid: int) -> str:
    """Its command line; empty when it has ended."""
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ")


def _state(pid: int) -> str:
    """Its state as ``ps`` shows it, X when it is gone."""
    return (_read(f"/proc/{pid}/stat").rpartition(")")[2].split() or "X")[0]


def _free_subnet() -> str:
    """10.x.y of which this machine has heard nothing; where to look first depends on the
    process, as two may look at once.
    """
    taken = ip("-4 route show table all") + ip("-4 -o addr")
    for i in range(1 << 14):
        n = os.getpid() * 7 + i
        if f"10.{64 + n // 256 % 64}.{n % 256}." not in taken.replace("/", "."):
            return f"10.{64 + n // 256 % 64}.{n % 256}"
    raise RuntimeError("no free subnet")


def _remove(hub: str) -> None:
    """A bridge and its hosts. The links go first and at once, the namespaces whenever the
    kernel has time.
    """
    ip(f"link del {hub}", check=False)
    for space in re.findall(rf"^{hub}(?:h\d+)?\b", ip("netns list"), re.M):
        for pid in ip(f"netns pids {space}", check=False).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip(f"netns del {space}", check=False)
    shutil.rmtree(_folder(hub), ignore_errors=True)


def _folder(hub: str) -> Path:
    """Where logs go if nobody says."""
    return Path(tempfile.gettempdir()) / hub


def _remove_leftovers() -> None:
    names = ip("netns list") + ip("-o link show type veth").replace(": ", "\n")
    for hub in set(re.findall(rf"^({PREFIX}\d+-\d+)\b", names, re.M)):
        if not Path(f"/proc/{hub.removeprefix(PREFIX).partition('-')[0]}").exists():
            _remove(hub)
