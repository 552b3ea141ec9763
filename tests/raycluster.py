"""Ray on hosts that can be killed, frozen and cut off, and jobs submitted to it as people do.

with Hosts(3) as hosts, RayCluster(hosts) as cluster:
    cluster.start()
    hosts[2].kill()
    cluster.heal()
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from hosts import Hosts, environment
from servers import wait_until

BIN = Path(sys.executable).parent
RAYLET = "raylet/raylet "
FAST = {  # a dead host is noticed within seconds, as operators of short jobs would set it, too
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


class RayCluster:
    """Ray on hosts: the head on the first, a worker node on each other. Token authentication is on.

    `cpus` is what each worker node offers (the head: none), or a number for each host. Nothing here
    calls ``ray stop``, which kills every Ray of a machine: hosts are killed instead.
    """

    def __init__(
        self,
        hosts: Hosts,
        *,
        token: str | None = None,
        env: Mapping[str, str] | None = None,
        cpus: int | Sequence[int] = 1,
    ) -> None:
        self.hosts, self.token = hosts, token or secrets.token_hex(32)
        self.cpus = [0] + [cpus] * (len(hosts) - 1) if isinstance(cpus, int) else list(cpus)
        here = ",".join(
            ["localhost", "127.0.0.1", hosts.gateway, *(host.address for host in hosts)]
        )
        plain = {
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "no_proxy": here,
            "NO_PROXY": here,
        }
        self._env = FAST | plain | dict(env or {})
        self._started: dict[int, float] = {}
        self._dead: set[str] = (
            set()
        )  # nodes that we know to be gone, while the head may not have noticed

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
        command = [
            str(BIN / "ray"),
            "start",
            "--block",
            "--disable-usage-stats",
            f"--node-ip-address={host.address}",
        ]
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
        """Mend, thaw and boot the hosts, and start Ray where it has ended; returns when all nodes
        are there.

        A node that the head gave up ends itself some seconds after it is back, and must be started
        again.
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
        command = [
            str(BIN / "ray"),
            "job",
            "submit",
            "--address",
            self.dashboard,
            "--no-wait",
            "--submission-id",
            name,
        ]
        command += ["--working-dir", ".", "--runtime-env-json", runtime, "--", *entrypoint]
        done = subprocess.run(
            command, env=environment(self.env()), capture_output=True, text=True, timeout=120
        )
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
        raise TimeoutError(
            f"{name} not ended within {seconds:.0f} s:\n{client.get_job_logs(name)[-3000:]}"
        )

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
