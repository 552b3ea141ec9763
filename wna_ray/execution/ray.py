"""The Ray executor: one actor a worker, each with its own loaded model.

Ray is asked for little: actors that are never restarted by Ray (the driver replaces them), calls
that are never retried by Ray (the driver retries them), and an object store in which partial
moments stay until an actor merges them. An actor takes one GPU where the cluster has any, else as
many CPUs as the forward pass has threads.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private import ray_constants
from ray.exceptions import ObjectFetchTimedOutError, ObjectLostError, RayError, RayTaskError
from ray.job_config import JobConfig

from wna_ray.errors import CanaryError, ModelError, SpecError, WnaError
from wna_ray.execution.executor import PayloadLost, WorkerLost
from wna_ray.execution.ray_calls import IN_FLIGHT, Actor, Call, Calls
from wna_ray.execution.worker import Worker
from wna_ray.machine import Machine
from wna_ray.networks.live import WAY_OUT
from wna_ray.networks.models import Model
from wna_ray.shards.network import Device
from wna_ray.specs.job import Held
from wna_ray.specs.parse import runs_code

os.environ.setdefault(
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
)  # workers use this interpreter, however it was started
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

FOLLOW_SECONDS = 2.0  # between looks at what the cluster has
DEAD_SECONDS = 10.0  # how long a dead actor's other calls may take to be reported dead
FETCH_SECONDS = 600.0  # for the merged moments on their way to the driver

_log = logging.getLogger(__name__)


class RayWorker(Worker):
    """A worker that knows where it is.

    Parameters
    ----------
    spec, device
        See `Worker`.
    given
        A list of the reference to the driver's module, where it has one. Ray fetches the module
        when the worker asks for it, so that what is wrong with it is an error of that call.
    """

    def __init__(self, spec: Held, device: Device, given: Sequence[Any] = ()) -> None:
        super().__init__(spec, device, (lambda: _arrived(given[0])) if given else None)

    def where(self) -> str:
        """The node's identifier."""
        return str(ray.get_runtime_context().get_node_id())


class RayExecutor:
    """Runs `Worker` methods on Ray actors, as many as the cluster has room for from moment to
    moment.

    Parameters
    ----------
    spec
        The run's spec.
    workers
        Number of actors to ask for (an autoscaler makes room for them); by default one a GPU that
        is there, or one for every ``numerics.threads`` CPUs, and more as machines join.
    model
        A module of this process, in the place of the spec's model: it travels once, and each
        worker has a copy.
    address
        Ray address. By default the cluster this process belongs to (a job, or ``RAY_ADDRESS``),
        else a new local one that ends with this executor.
    """

    def __init__(
        self,
        spec: Held,
        workers: int | None = None,
        address: str | None = None,
        model: Model | None = None,
    ) -> None:
        self._spec, self._target = spec, workers
        self.pool: list[Actor] = []
        """Actors that have started, or are starting."""
        self.unfit: dict[str, CanaryError] = {}
        """Machines, by node, whose arithmetic is not the run's."""
        self._calls = Calls(self.pool)
        self._losses = 0  # actors lost since a call last ended well
        self._alone_since = self._followed = time.monotonic()
        # Its class may be of a module beside the notebook, where workers then look for it, too.
        code = model is not None or runs_code(spec)
        self._started = connect(address, workers, spec.numerics.threads, code)
        self._given: tuple[list[Any], ...] = ()
        try:
            self._given = () if model is None else ([_sent(model)],)
            self.device: Device = self._choose_device(
                local=self._started and not (address or os.environ.get("RAY_ADDRESS"))
            )
            self._follow()
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        return sum(actor.node is not None for actor in self.pool)

    @property
    def wanted(self) -> int:
        return max(1, len(self.pool))

    @property
    def window(self) -> int:
        return IN_FLIGHT * max(1, self.workers)

    def machines(self) -> list[Machine]:
        slots = {node["NodeID"]: self._slots(node["Resources"]) for node in _nodes()}
        share = min(1.0, self.wanted / max(1, sum(slots.values())))
        return [
            Machine(
                str(node["NodeManagerAddress"]),
                int(node["Resources"].get("memory", 0)),
                int(node["Resources"].get("object_store_memory", 0)),
                math.ceil(slots[node["NodeID"]] * share),
            )
            for node in _nodes()
            if slots[node["NodeID"]]
        ]

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def submit(
        self, method: str, *args: Any, inputs: Sequence[Call] = (), avoid: Call | None = None
    ) -> Call:
        call = Call(method, tuple(inputs), args, avoid)
        self._calls.add(call)
        self._calls.dispatch()
        return call

    def wait(self, timeout: float) -> list[Call]:
        self._follow()
        self._calls.dispatch()
        calls = {call.report: actor for actor in self.pool for call in actor.calls}
        starting = {actor.ready: actor for actor in self.pool if actor.node is None}
        refs = [*calls, *starting]
        assert refs or self._calls.any_ended, "calls are waited for that no worker has"
        longest = 0 if self._calls.any_ended else timeout
        ready, _ = ray.wait(refs, num_returns=1, timeout=longest, fetch_local=True)
        if ready:  # take all that is ready, not only the first
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=True)
        for actor in {id(a): a for a in (calls.get(r) or starting[r] for r in ready)}.values():
            self._look_at(actor, set(ready))
        self._calls.dispatch()
        return self._calls.take_ended()

    def report(self, ticket: Call) -> Any:
        return ticket.result()

    def payload(self, ticket: Call) -> Any:
        try:
            return ray.get(ticket.payload, timeout=FETCH_SECONDS)
        except RayError as error:
            raise PayloadLost(_first_line(error)) from None

    def release(self, ticket: Call) -> None:
        self._calls.drop(ticket)

    def close(self) -> None:
        for actor in self.pool:
            with contextlib.suppress(RayError):
                ray.kill(actor.handle)
        if self._started:
            ray.shutdown()

    def _choose_device(self, local: bool) -> Device:
        wanted = self._spec.numerics.device
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if wanted == "cuda" and local and not resources.get("GPU"):
            raise SpecError("numerics.device: cuda, but this machine has no GPU; use cpu or auto")
        if (
            wanted == "auto"
            and not resources.get("GPU")
            and resources.get("CPU", 0) < self._spec.numerics.threads
        ):
            raise SpecError(
                "numerics.device: auto, but the cluster has no machine for workers yet, so nobody"
                " can tell; say cuda or cpu, and --workers N for an autoscaler to make room"
            )
        return "cuda" if wanted == "cuda" or (wanted == "auto" and resources.get("GPU")) else "cpu"

    def _slots(self, resources: Mapping[str, float]) -> int:
        """Workers for which there is room."""
        by_cpu = int(resources.get("CPU", 0) // self._spec.numerics.threads)
        return min(by_cpu, int(resources.get("GPU", 0))) if self.device == "cuda" else by_cpu

    def _follow(self) -> None:
        """Ask for as many actors as were asked for, or as the cluster has room for now; stop
        when nobody comes for too long.
        """
        now = time.monotonic()
        if self.pool and now - self._followed < FOLLOW_SECONDS:
            return
        self._followed = now
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        self._calls.note_gone({node["NodeID"] for node in nodes if not node["Alive"]})
        fit = [node for node in nodes if node["Alive"] and node["NodeID"] not in self.unfit]
        target = self._target or max(1, sum(self._slots(node["Resources"]) for node in fit))
        while len(self.pool) < target:
            self.pool.append(self._hire())
        for actor in [actor for actor in self.pool if actor.node is None][
            : max(0, len(self.pool) - target)
        ]:
            self.pool.remove(actor)
            with contextlib.suppress(RayError):
                ray.kill(actor.handle)
        if self.workers:
            self._alone_since = now
        elif now - self._alone_since > self._spec.execution.patience:
            raise WnaError(
                f"no worker for {now - self._alone_since:.0f} s (execution.patience): the cluster"
                f" has no room for an actor with {self._needs()}. What was committed stays: run the"
                " same command again when there is room"
            )

    def _needs(self) -> str:
        threads = self._spec.numerics.threads
        return f"{threads} CPU{'s' * (threads > 1)}{' and 1 GPU' if self.device == 'cuda' else ''}"

    def _hire(self) -> Actor:
        # Out of order: a merge that waits for a partial on its way (or on a machine that is gone)
        # must not hold up a shard.
        options: dict[str, Any] = {
            "max_restarts": 0,
            "max_task_retries": 0,
            "allow_out_of_order_execution": True,
        }
        options["num_cpus"] = self._spec.numerics.threads
        if self.device == "cuda":
            options["num_gpus"] = 1
        if self.unfit:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self.unfit)})"}
        handle: Any = (
            ray.remote(RayWorker)
            .options(scheduling_strategy="SPREAD", **options)
            .remote(self._spec, self.device, *self._given)
        )
        return Actor(handle, handle.where.remote())

    def _look_at(self, actor: Actor, ready: set[Any]) -> None:
        """Note that an actor has started, and how its calls ended; replace it if it is dead."""
        try:
            if actor.ready in ready:
                actor.node = ray.get(actor.ready)
            for call in [c for c in actor.calls if c.report in ready]:
                end = _end(call)
                if isinstance(end, CanaryError):
                    self._shun(actor, end)
                    return
                self._calls.settle(actor, call, end)
                self._losses = 0
        except (
            RayError
        ) as error:  # it died, or its machine did, or it ran out of memory, or it cannot be reached
            self._bury(actor, error)

    def _shun(self, actor: Actor, error: CanaryError) -> None:
        """Use a machine no more whose arithmetic is not the run's; the others go on. If there
        are no others, that is the end.
        """
        assert actor.node is not None
        self.unfit[actor.node] = error
        if all(node["NodeID"] in self.unfit for node in _nodes() if self._slots(node["Resources"])):
            raise error
        for dead in [a for a in self.pool if a.node == actor.node]:
            self._bury(dead, error, blame=False)

    def _bury(self, dead: Actor, error: Exception, blame: bool = True) -> None:
        """Put a new actor in a dead one's place; its calls that had not ended are lost, and the
        oldest of them is to blame.
        """
        self._losses += blame
        if self._losses > 3 * len(self.pool) + 3:
            raise WnaError(
                f"{self._losses} workers in a row died without finishing a call"
                f" ({_first_line(error)}); mend the cause (memory? libraries?) and run the same"
                " command again"
            )
        with contextlib.suppress(RayError):
            ray.kill(dead.handle)  # in case it is only unreachable: its place must become free
        self.pool[self.pool.index(dead)] = self._hire()
        for call in list(dead.calls):
            try:
                end = WorkerLost(_first_line(error), blamed=False) if not blame else _end(call)
            except RayError:
                end, blame = WorkerLost(_first_line(error), blame), False
            self._calls.settle(dead, call, end)


def _sent(model: Model) -> Any:
    """A reference to a module in Ray's object store; `ModelError` where it cannot travel."""
    try:
        return ray.put(model)
    except Exception as error:  # whatever its parts raise when they are pickled
        raise ModelError(
            f"model: {model.source} cannot be sent to workers ({_first_line(error)}); take"
            f" executor='local', or {WAY_OUT}"
        ) from None


def _arrived(reference: Any) -> Model:
    """The driver's module, on a worker; `ModelError` where its code is not there."""
    try:
        model: Model = ray.get(reference)
    except (RayError, ImportError, AttributeError) as error:
        raise ModelError(
            "model: the module cannot be read on a worker, which lacks its code"
            f" ({str(error).strip().rpartition(chr(10))[2]}); install the package that defines it"
            f" there, or {WAY_OUT}"
        ) from None
    return model


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _end(call: Call) -> Any:
    """The report of a call, or the error it ended with; raises a `RayError` where its actor did
    not live to tell.
    """
    try:
        return ray.get(call.report, timeout=DEAD_SECONDS)
    except RayTaskError as error:  # the method itself raised, or an argument could not be had
        # The payload holds the same error, which Ray would print as one that nobody has looked at.
        with contextlib.suppress(Exception):
            ray.get(call.payload, timeout=DEAD_SECONDS)
        cause = error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))
        return PayloadLost(_first_line(cause)) if isinstance(cause, RayError) else cause
    except (ObjectLostError, ObjectFetchTimedOutError) as error:
        return PayloadLost(_first_line(error))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def connect(address: str | None, workers: int | None, threads: int, code: bool) -> bool:
    """Join the cluster that is meant, or start a local one; returns whether to end it here.

    A local one (no address, or ``local``) listens on this machine's loopback address alone. A
    cluster listens where the one who started it said (docs/clusters.md, "What listens where").

    Workers search the working directory for modules only where a spec names `code`.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR}
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if not code and not where.startswith("ray://"):  # there the server makes the configuration
        quiet["job_config"] = _OwnCode()
    try:
        if where != "local":
            _knock(where)
            ray.init(address=where, **quiet)
        else:
            cpus = max(os.cpu_count() or 1, (workers or 1) * threads)
            local: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False} | quiet
            with _loopback():
                ray.init("local", num_cpus=cpus, **local)
            token = Path.home() / ".ray" / "auth_token"
            if token.is_file() and token.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                token.chmod(0o600)  # Ray writes it readable by all
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "a local cluster"
        raise WnaError(
            f"cannot reach Ray at {where} ({_first_line(error)}); check --address (and, if the"
            " cluster wants a token, RAY_AUTH_MODE=token), or use --executor local"
        ) from error
    return True


def disconnect() -> None:
    """End what `connect` has started."""
    ray.shutdown()


class _OwnCode(JobConfig):
    """A job whose workers import what is installed, and this package from where it is here.

    Ray has every worker search the driver's working directory first, which may be the folder of a
    stranger's run. It leaves that out where the job brings a directory of its own.
    """

    def __init__(self) -> None:
        package = str(Path(__file__).parents[2])
        super().__init__(_py_driver_sys_path=[] if package in sys.path else [package])

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Have the Ray that is started meanwhile listen on the loopback address, not on all interfaces.

    Ray does so where it can't make clusters, by default on macOS and Windows. Its variable for that
    (``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0``) is read when Ray is imported, perhaps long before, and
    would hold when a cluster is joined, too. ``ray.init(_node_ip_address="127.0.0.1")`` does not
    do it: Ray replaces the loopback address by the one that other machines see.
    """
    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if not ipaddress.ip_address(address).is_loopback:
        _log.warning(
            "Ray %s does not keep to this machine: its ports are open to the network, and its "
            "/metrics answers anybody. constraints.txt names a Ray that does",
            ray.__version__,
        )


def _knock(address: str) -> None:
    """Make sure that somebody listens at ``HOST:PORT``: Ray itself would try for minutes. Other
    addresses pass.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
