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
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this interpreter, however it was started
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import ObjectFetchTimedOutError, ObjectLostError, RayError, RayTaskError

from wna_ray.errors import SpecError, WnaError
from wna_ray.scheduling import PayloadLost, WorkerLost
from wna_ray.shard import Device
from wna_ray.spec import Spec
from wna_ray.worker import Worker

IN_FLIGHT = 2  # calls on an actor: one that runs, one that waits, so that no actor idles for the driver
DEAD_SECONDS = 10.0  # how long a dead actor's other calls may take to be reported dead
START_SECONDS = 300.0  # how long the run waits while no actor at all is alive or starting up


@dataclass(eq=False)
class _Actor:
    handle: Any
    ready: Any  # ray.ObjectRef: ends when the actor has started
    started: bool = False
    calls: list[_Call] = field(default_factory=list)


@dataclass(eq=False)
class _Call:
    """A ticket: a call that waits for an actor, or is on one, or has ended."""

    method: str
    inputs: Sequence[_Call]
    args: tuple[Any, ...]
    payload: Any = None  # ray.ObjectRef, once it is on an actor
    report: Any = None  # ray.ObjectRef
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
        self._waiting: deque[_Call] = deque()
        self._ended: list[_Call] = []
        self._losses = 0  # actors lost since a call last ended well
        self._idle_since = time.monotonic()  # when an actor was last known to be alive

    @property
    def window(self) -> int:
        return IN_FLIGHT * self.workers

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def submit(self, method: str, *args: Any, inputs: Sequence[_Call] = ()) -> _Call:
        call = _Call(method, tuple(inputs), args)
        if inputs:
            self._waiting.appendleft(call)  # merges and commits free memory: they go first
        else:
            self._waiting.append(call)
        self._dispatch()
        return call

    def wait(self, timeout: float) -> list[_Call]:
        self._dispatch()
        calls = {call.report: actor for actor in self._pool for call in actor.calls}
        starting = {actor.ready: actor for actor in self._pool if not actor.started}
        refs = [*calls, *starting]
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout, fetch_local=True)
        if ready:  # take all that is ready, not only the first
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=True)
        for actor in {id(a): a for a in (calls.get(r) or starting[r] for r in ready)}.values():
            self._look_at(actor, set(ready))
        self._dispatch()
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
        ticket.inputs = ()

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
        handle: Any = ray.remote(Worker).options(**options).remote(self._spec, self.device)
        return _Actor(handle, handle.__ray_ready__.remote())

    def _dispatch(self) -> None:
        """Give waiting calls to actors that have started and have room; never to one that may not find a place."""
        while self._waiting:
            started = [actor for actor in self._pool if actor.started and len(actor.calls) < IN_FLIGHT]
            if not started:
                break
            actor, call = min(started, key=lambda a: len(a.calls)), self._waiting.popleft()
            bound = getattr(actor.handle, call.method).options(num_returns=2)
            call.payload, call.report = bound.remote(*(ticket.payload for ticket in call.inputs), *call.args)
            actor.calls.append(call)
        if any(actor.started for actor in self._pool):
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > START_SECONDS:
            raise WnaError(
                f"no worker could start within {START_SECONDS:.0f} s (is the cluster full, or its last machine gone?); what was committed "
                "stays: run the same command again when there is room"
            )

    def _look_at(self, actor: _Actor, ready: set[Any]) -> None:
        """Note that an actor has started, and how its calls ended; replace it if it is dead."""
        try:
            if actor.ready in ready:
                ray.get(actor.ready)
                actor.started = True
            for call in [c for c in actor.calls if c.report in ready]:
                self._settle(actor, call, _end(call))
                self._losses = 0
        except RayError as error:  # it died, or its machine did, or it ran out of memory, or it cannot be reached
            self._bury(actor, error)

    def _bury(self, dead: _Actor, error: RayError) -> None:
        """Put a new actor in a dead one's place; its calls that had not ended are lost, and the oldest of them is to blame."""
        self._losses += 1
        if self._losses > 3 * self.workers + 3:
            raise WnaError(
                f"{self._losses} workers in a row died without finishing a call ({_first_line(error)}); "
                "mend the cause (memory? libraries?) and run the same command again"
            )
        with contextlib.suppress(RayError):
            ray.kill(dead.handle)  # in case it is only unreachable: its place must become free
        self._pool[self._pool.index(dead)] = self._hire()
        blamed = True
        for call in list(dead.calls):
            try:
                end = _end(call)
            except RayError:
                end, blamed = WorkerLost(_first_line(error), blamed), False
            self._settle(dead, call, end)

    def _settle(self, actor: _Actor, call: _Call, end: Any) -> None:
        call.end = end
        actor.calls.remove(call)
        self._ended.append(call)


def _end(call: _Call) -> Any:
    """The report of a call, or the error it ended with; raises a `RayError` where its actor did not live to tell."""
    try:
        return ray.get(call.report, timeout=DEAD_SECONDS)
    except RayTaskError as error:  # the method itself raised, or an argument could not be had
        cause = error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))
        return PayloadLost(_first_line(cause)) if isinstance(cause, RayError) else cause
    except (ObjectLostError, ObjectFetchTimedOutError) as error:
        return PayloadLost(_first_line(error))


def _first_line(error: Exception) -> str:
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
        raise WnaError(
            f"cannot reach Ray at {where} ({_first_line(error)}); check --address (and, if the cluster wants a token, "
            "RAY_AUTH_MODE=token), or use --executor local"
        ) from error
    return True


def _knock(address: str) -> None:
    """Make sure that somebody listens at ``HOST:PORT``: Ray itself would try for minutes. Other addresses pass."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
