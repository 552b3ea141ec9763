"""Hosts for tests: network, process and mount namespaces of their own on a bridge, so that a whole "machine" can be killed.

    with Hosts(3) as hosts, RayCluster(hosts) as cluster:
        cluster.start()
        hosts[2].kill()

They need root on Linux; `missing` tells why they cannot be had. Whatever an earlier run left behind, because it was
killed itself, is removed first.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from servers import spawn, wait_until

PREFIX = "wna"
BIN = Path(sys.executable).parent
FAST = {  # a dead host is noticed within seconds, as operators of short jobs would set it, too
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
MOUNTS = """
mkdir -p /tmp/ray && mount -t tmpfs -o size=2g tmpfs /dev/shm && mount -t tmpfs -o size=2g tmpfs /tmp/ray || exit
"""  # the last one tells that the host is up
IDLE = "while :; do sleep 3600 & wait $!; done"  # bash as process 1 also buries orphans
RAYLET = "raylet/raylet "
_numbers = itertools.count()


def missing() -> str | None:
    """Why there can be no hosts here, or None."""
    absent = [p for p in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(p)]
    if absent or sys.platform != "linux":
        return f"hosts need Linux with {', '.join(absent) or 'namespaces'} (.ci/install-servers)"
    if os.geteuid() != 0:
        return "hosts need root, for network namespaces"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True)
    return f"hosts need the right to make namespaces ({tried.stderr.strip()})" if tried.returncode else None


def ip(command: str, check: bool = True) -> str:
    """``ip`` with the arguments in `command`; its output."""
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"ip {command}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One host. `address` is what others reach it under; `name` is that of its network namespace."""

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
        ip(f"-n {self.name} route add default via {subnet}.1")  # Ray asks for the way to the world to learn its own address

    _init: subprocess.Popen[bytes] | None

    @property
    def up(self) -> bool:
        return self._init is not None and self._init.poll() is None

    def boot(self, command: Sequence[str] = (), env: Mapping[str, str] | None = None, log: Path | None = None) -> None:
        """Switch it on, with `command` as process 1 (the host goes down when it ends) or with nothing running yet."""
        if self.up:
            raise RuntimeError(f"{self.name} is up")
        script = MOUNTS + (f"exec {shlex.join(command)}" if command else IDLE)
        inside = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc", "bash", "-c", script]
        self._init = spawn(["ip", "netns", "exec", self.name, *inside], log or self.log, _environment(env))
        started, init = self._init, self._init.pid

        def wait(true: Callable[[], Any], what: str) -> Any:
            return wait_until(true, 10, f"{self.name} {what}", needs=started, log=log or self.log)

        self._pid = int(wait(lambda: _read(f"/proc/{init}/task/{init}/children"), "boots"))
        self._space = os.readlink(f"/proc/{self._pid}/ns/pid")  # now: a short command may be over after the next line
        wait(lambda: " /tmp/ray " in _read(f"/proc/{self._pid}/mounts"), "mounts")

    def inside(self, command: Sequence[str]) -> list[str]:
        """A command line that runs `command` in this host."""
        return ["nsenter", "--target", str(self._pid), "--net", "--pid", "--mount", "env", f"--chdir={os.getcwd()}", *command]

    def popen(self, command: Sequence[str], env: Mapping[str, str] | None = None, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start something; its output goes to `log`."""
        return spawn(self.inside(command), log or self.log, _environment(env))

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run something to its end."""
        return subprocess.run(self.inside(command), env=_environment(env), timeout=timeout, capture_output=True, text=True)

    def pids(self, pattern: str = "") -> list[int]:
        """Its processes whose command line matches, as seen from outside; oldest first."""
        return [pid for pid in _members("pid", self._space) if re.search(pattern, _command(pid) or "\0")] if self.up else []

    def kill_process(self, pattern: str) -> int:
        """kill -9 of the oldest process that matches; returns its number when it is gone."""
        if not (pids := self.pids(pattern)):
            raise LookupError(f"{self.name} has no process {pattern!r}: {[_command(pid) for pid in self.pids()]}")
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: not _command(pids[0]), 10, f"{pattern} ends")
        return pids[0]

    def kill(self) -> None:
        """As in a power cut: every process is gone at once."""
        if not self.up:
            return
        assert self._init is not None
        # Its end waits until the dead have been buried by their parents, so those outside must not be asleep.
        for pid in [self._pid, *(p for p in _members("pid_for_children", self._space) if p != self._init.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            self._init.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._init.kill()
            self._init.wait()

    def freeze(self) -> None:
        """Every process stops where it is; connections stay open and silent."""
        wait_until(self._asleep, 10, f"{self.name} freezes")  # again and again, for those that were just being born

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
    """`count` hosts on a bridge on which this machine is ``gateway``: servers that listen on 0.0.0.0 are found there.

    The bridge has a namespace of its own, out of reach of this machine's firewall (Docker's would drop what hosts say to each other).
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


class RayCluster:
    """Ray on hosts: the head on the first, a worker node on each other. Token authentication is on.

    `cpus` is what each worker node offers (the head: none), or a number for each host. Nothing here calls ``ray stop``,
    which kills every Ray of a machine: hosts are killed instead.
    """

    def __init__(
        self, hosts: Hosts, *, token: str | None = None, env: Mapping[str, str] | None = None, cpus: int | Sequence[int] = 1
    ) -> None:
        self.hosts, self.token = hosts, token or secrets.token_hex(32)
        self.cpus = [0] + [cpus] * (len(hosts) - 1) if isinstance(cpus, int) else list(cpus)
        here = ",".join(["localhost", "127.0.0.1", hosts.gateway, *(host.address for host in hosts)])
        plain = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PATH": f"{BIN}:{os.environ['PATH']}", "no_proxy": here, "NO_PROXY": here}
        self._env = FAST | plain | dict(env or {})
        self._started: dict[int, float] = {}
        self._dead: set[str] = set()  # nodes that we know to be gone, while the head may not have noticed

    @property
    def dashboard(self) -> str:
        return f"http://{self.hosts[0].address}:8265"

    @property
    def address(self) -> str:
        return f"{self.hosts[0].address}:6379"

    def env(self) -> dict[str, str]:
        """For nodes and clients."""
        return self._env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def start(self) -> None:
        """All hosts; returns when all nodes are there."""
        self.start_node(0)
        self.wait_nodes(1)
        for i in range(1, len(self.hosts)):
            self.start_node(i)
        self.wait_nodes(len(self.hosts))

    def start_node(self, i: int) -> None:
        """Boot the host if it is down, and start Ray there."""
        host = self.hosts[i]
        self._started[i] = time.monotonic()
        self._dead |= {node for node, address in self._alive().items() if address == host.address}
        if not host.up:
            host.boot()
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={host.address}"]
        command += ["--object-store-memory=500000000", f"--num-cpus={self.cpus[i]}"]
        if i == 0:
            command += ["--head", "--port=6379", f"--dashboard-host={host.address}"]
        else:
            command += [f"--address={self.address}"]
        host.popen(command, self.env())

    def nodes(self) -> int:
        """Nodes alive, as the head sees it; 0 where it does not answer."""
        return len(self._alive().keys() - self._dead)

    def _alive(self) -> dict[str, str]:
        """Addresses of the nodes alive, by the names of these nodes."""
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes", headers=self._headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(OSError, ValueError), direct.open(request, timeout=10) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
            return {node["node_id"]: node["node_ip"] for node in nodes if node["state"] == "ALIVE"}
        return {}

    def wait_nodes(self, count: int, seconds: float = 90) -> None:
        """Return when `count` nodes are alive (the head is one)."""
        wait_until(lambda: self.nodes() == count, seconds, f"{count} nodes", log=self.hosts[0].log)

    def heal(self, seconds: float = 120) -> None:
        """Mend, thaw and boot the hosts, and start Ray where it has ended; returns when all nodes are there.

        A node that the head gave up ends itself some seconds after it is back, and must be started again.
        """
        for host in self.hosts:
            host.mend()
            host.thaw()

        def whole() -> bool:
            for i, host in enumerate(self.hosts):
                starting = host.up and time.monotonic() - self._started.get(i, -60) < 20
                if i and not starting and not host.pids(RAYLET):
                    host.kill()  # what is left of a Ray without its raylet may take long to end
                    self.start_node(i)
            return self.nodes() == len(self.hosts)

        wait_until(whole, seconds, f"{len(self.hosts)} nodes", log=self.hosts[0].log)

    def submit(self, entrypoint: Sequence[str], env: Mapping[str, str], name: str) -> None:
        """`ray job submit`, as a person does, without waiting for the end."""
        runtime = json.dumps({"env_vars": dict(env)})
        command = [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, "--no-wait", "--submission-id", name]
        command += ["--working-dir", ".", "--runtime-env-json", runtime, "--", *entrypoint]
        done = subprocess.run(command, env=_environment(self.env()), capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"ray job submit: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def client(self) -> Any:
        """Ray's own client for jobs, with the token."""
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.dashboard, headers=self._headers)

    def wait_job(self, name: str, seconds: float) -> str:
        """Its last status: SUCCEEDED, FAILED or STOPPED."""
        client, until = self.client(), time.monotonic() + seconds
        while time.monotonic() < until:
            status = client.get_job_status(name)
            if status.is_terminal():
                return str(status.value)
            time.sleep(0.5)
        raise TimeoutError(f"{name} not ended within {seconds:.0f} s:\n{client.get_job_logs(name)[-3000:]}")

    def close(self) -> None:
        for host in self.hosts:
            host.kill()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment without the Ray it may use itself, and `env`."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | dict(env or {})


def _members(kind: str, space: str) -> list[int]:
    """Processes in a namespace (``pid``), or in it or about to send children there (``pid_for_children``)."""
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
    """10.x.y of which this machine has heard nothing; where to look first depends on the process, as two may look at once."""
    taken = ip("-4 route show table all") + ip("-4 -o addr")
    for i in range(1 << 14):
        n = os.getpid() * 7 + i
        if f"10.{64 + n // 256 % 64}.{n % 256}." not in taken.replace("/", "."):
            return f"10.{64 + n // 256 % 64}.{n % 256}"
    raise RuntimeError("no free subnet")


def _remove(hub: str) -> None:
    """A bridge and its hosts. The links go first and at once, the namespaces whenever the kernel has time."""
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
