"""The Ray executor: one actor a worker, each with its own loaded model.

Ray is asked for little: actors that are never restarted by Ray (the driver replaces them), calls that are never
retried by Ray (the driver retries them), and an object store in which partial moments stay until an actor merges
them. An actor takes one GPU where the cluster has any, else as many CPUs as the forward pass has threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this interpreter, however it was started
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from wna_ray.errors import SpecError, WnaError
from wna_ray.scheduling import WorkerLost
from wna_ray.shard import Device
from wna_ray.spec import Spec
from wna_ray.worker import Worker

IN_FLIGHT = 2  # calls on an actor: one that runs, one that waits, so that no actor idles for the driver
DEAD_SECONDS = 10.0  # how long a dead actor's other calls may take to be reported dead


@dataclass(eq=False)
class _Actor:
    handle: Any
    calls: list[_Call] = field(default_factory=list)


@dataclass(eq=False)
class _Call:
    """A ticket: a call on an actor."""

    method: str
    payload: Any  # ray.ObjectRef
    report: Any  # ray.ObjectRef
    actor: _Actor
    end: Any = None


class RayExecutor:
    """Runs `Worker` methods on Ray actors.

    Parameters
    ----------
    spec
        The run's spec.
    workers
        Number of actors; by default one a GPU, or one for every ``numerics.threads`` CPUs.
    address
        Ray address. By default the cluster this process belongs to (a job, or ``RAY_ADDRESS``), else a new local one
        that ends with this executor.
    """

    def __init__(self, spec: Spec, workers: int | None = None, address: str | None = None) -> None:
        self._spec = spec
        self._started = _connect(address, workers, spec.numerics.threads)
        try:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
            if spec.numerics.device == "cuda" and not gpus:
                raise SpecError("numerics.device: cuda, but the Ray cluster has no GPU; use cpu or auto")
            self.device: Device = "cuda" if gpus and spec.numerics.device != "cpu" else "cpu"
            self.workers = workers or max(1, gpus if self.device == "cuda" else cpus // spec.numerics.threads)
            room = gpus if self.device == "cuda" else cpus // spec.numerics.threads
            if self.workers > room:
                raise SpecError(f"workers: {self.workers} asked for, but the cluster has room for {room} ({cpus} CPUs, {gpus} GPUs)")
            self._pool = [self._hire() for _ in range(self.workers)]
        except BaseException:
            self.close()
            raise
        self._ended: list[_Call] = []
        self._losses = 0  # actors lost since a call last ended well

    @property
    def window(self) -> int:
        return IN_FLIGHT * self.workers

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def submit(self, method: str, *args: Any, inputs: Sequence[_Call] = ()) -> _Call:
        actor = min(self._pool, key=lambda a: len(a.calls))
        bound = getattr(actor.handle, method).options(num_returns=2)
        payload, report = bound.remote(*(ticket.payload for ticket in inputs), *args)
        call = _Call(method, payload, report, actor)
        actor.calls.append(call)
        return call

    def wait(self, timeout: float) -> list[_Call]:
        refs = {call.report: call for actor in self._pool for call in actor.calls}
        if refs:
            ready, _ = ray.wait(list(refs), num_returns=1, timeout=timeout)
            if ready:  # take all that is ready, not only the first
                ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
            for ref in ready:
                self._settle(refs[ref])
        ended, self._ended = self._ended, []
        return ended

    def report(self, ticket: _Call) -> Any:
        if isinstance(ticket.end, BaseException):
            raise ticket.end
        return ticket.end

    def payload(self, ticket: _Call) -> Any:
        return ray.get(ticket.payload)

    def release(self, ticket: _Call) -> None:
        ticket.payload = ticket.report = None  # the last references: the object store frees the arrays

    def close(self) -> None:
        for actor in getattr(self, "_pool", []):
            with contextlib.suppress(RayError):
                ray.kill(actor.handle)
        if self._started:
            ray.shutdown()

    def _hire(self) -> _Actor:
        threads = self._spec.numerics.threads
        options: dict[str, Any] = {"num_cpus": threads, "max_restarts": 0, "max_task_retries": 0}
        if self.device == "cuda":
            options["num_gpus"] = 1
        return _Actor(ray.remote(Worker).options(**options).remote(self._spec, self.device))

    def _settle(self, call: _Call, blamed: bool = True) -> bool:
        """Note how a call ended (once); returns whether its actor is alive."""
        if call not in call.actor.calls:
            return True
        alive = True
        try:
            call.end = ray.get(call.report, timeout=DEAD_SECONDS)
            self._losses = 0
        except RayTaskError as error:  # the method itself raised
            call.end = error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))
        except GetTimeoutError:
            call.end, alive = WorkerLost("its worker died", blamed), False
        except RayError as error:
            call.end, alive = WorkerLost(_reason(error), blamed), False
        call.actor.calls.remove(call)
        self._ended.append(call)
        if not alive and call.actor in self._pool:
            self._replace(call)
        return alive

    def _replace(self, lost: _Call) -> None:
        """Put a new actor in a dead one's place; settle what else was on it. The oldest call was the one running."""
        self._losses += 1
        if self._losses > 3 * self.workers + 3:
            raise WnaError(
                f"{self._losses} workers in a row died without finishing a call ({lost.end}); "
                "mend the cause (memory? libraries?) and run the same command again"
            )
        dead = lost.actor
        self._pool[self._pool.index(dead)] = self._hire()
        for call in list(dead.calls):
            self._settle(call, blamed=False)


def _reason(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _connect(address: str | None, workers: int | None, threads: int) -> bool:
    """Join the cluster that is meant, or start a local one; returns whether this process must end it."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR}
    try:
        if where := address or os.environ.get("RAY_ADDRESS"):
            _knock(where)
            ray.init(address=where, **quiet)
        else:
            cpus = max(os.cpu_count() or 1, (workers or 1) * threads)
            ray.init("local", include_dashboard=False, num_cpus=cpus, log_to_driver=False, **quiet)
            token = Path.home() / ".ray" / "auth_token"
            if token.is_file() and token.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                token.chmod(0o600)  # Ray writes it readable by all
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "a local cluster"
        raise WnaError(f"cannot reach Ray at {where} ({_first(error)}); check --address, or use --executor local") from error
    return True


def _knock(address: str) -> None:
    """Make sure that somebody listens at ``HOST:PORT``: Ray itself would try for minutes. Other addresses pass."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
