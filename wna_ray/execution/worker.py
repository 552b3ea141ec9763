"""What a worker can be asked to do. The in-process executor and the Ray actors run this same class.

Every method gives ``(payload, report)``: the payload may be large and stays where it was made, the
report is small and goes to the driver. A worker keeps what costs time to get: a loaded network, and
the run that it read last.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import CanaryError, ModelError, NumericsError, WnaError
from wna_ray.events import Committed
from wna_ray.execution.process import set_up_process
from wna_ray.moments.moments import Partial
from wna_ray.moments.responses import is_dense
from wna_ray.networks.models import Model
from wna_ray.networks.stimulation import Activity, measure
from wna_ray.networks.tuning import Tuned
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.manifest import Segment
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.gradients import linear_filters
from wna_ray.shards.job import Job
from wna_ray.shards.loading import load_network
from wna_ray.shards.look import require_independent
from wna_ray.shards.network import Device
from wna_ray.shards.resolve import check_canary, resolve
from wna_ray.shards.shard import run_shard
from wna_ray.shards.work import NetworkWork, Work
from wna_ray.specs.job import Held
from wna_ray.specs.run import Spec
from wna_ray.storage.store import Place
from wna_ray.text import first_line

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class Introduction:
    """The job that a spec becomes, the seconds that one batch takes, and where this was found out.

    `seen` is, by one-hot response kind, the classes that the first batch gave.
    """

    job: Job
    batch_seconds: float
    seen: dict[str, int]
    environment: dict[str, Any]


class Worker:
    """Holds a model; makes and merges partial moments.

    Parameters
    ----------
    spec
        The run's spec; the model is loaded when it is first needed.
    device
        Where the forward pass runs.
    given
        Gives a module of the driver's process in the place of the spec's model; called once, when
        it is first needed.
    """

    def __init__(
        self, spec: Held, device: Device, given: Callable[[], Model] | None = None
    ) -> None:
        set_up_process(device, spec.numerics.threads)
        self._spec, self._device, self._given = spec.network, device, given
        self._loaded: FedNetwork | None = None
        self._checked: dict[str, FedNetwork] = {}  # by fingerprint of the job
        self._source: tuple[Any, Any] | None = None

    @property
    def _network_spec(self) -> Spec:
        assert self._spec is not None, "a pass has no model"
        return self._spec

    def introduce(self) -> tuple[None, Introduction]:
        """Load the model, look at it through the first batch, twice: a network must repeat
        itself.
        """
        resolved = resolve(self._network_spec, self._load())
        job, spec = resolved.job, resolved.job.spec
        try:
            network = self._checked[job.fingerprint] = check_canary(job, resolved.network)
        except CanaryError:
            raise NumericsError(
                f"model: {spec.model} answers the same batch differently each time; results"
                " could not be repeated (is something random in its forward pass?)"
            ) from None
        except NumericsError:
            raise
        except Exception as error:
            raise _failed(spec, error) from error
        try:
            require_independent(network, job.stimulus)
            begin = time.perf_counter()
            moments, _ = run_shard(job, network, 0, min(spec.numerics.batch, spec.samples))
        except WnaError:
            raise
        except Exception as error:  # whatever the network's own code raises
            raise _failed(spec, error) from error
        seconds = time.perf_counter() - begin
        seen: dict[str, int] = {
            r.kind: len(moments.responses[r.kind].rows)
            for r in spec.responses
            if not is_dense(r.kind)
        }
        recorded = environment(self._device) | _timed(resolved.tuned)
        if job.assumed:
            recorded["assumed"] = list(job.assumed)
        return None, Introduction(job, seconds, seen, recorded)

    def shard(self, work: Work, start: int, stop: int) -> tuple[Partial, dict[str, float]]:
        """Sums of a shard (and its responses, where they are kept), and seconds by phase."""
        return work.shard(self, start, stop)

    def merge(self, *partials: Partial) -> tuple[Partial, None]:
        """Merge neighbours, given in order."""
        return reduce(Partial.merge, partials), None

    def commit(self, partial: Partial, place: Place, fingerprint: str) -> tuple[None, Committed]:
        """Publish a partial as a segment of the run."""
        begin, directory = time.perf_counter(), RunDirectory(place)
        directory.commit(partial, fingerprint)
        return None, Committed(
            time.perf_counter() - begin, directory.store.written, directory.store.retries
        )

    def read(
        self, place: Place, fingerprint: str, names: list[str]
    ) -> tuple[Partial, list[Segment]]:
        """Read segments, check them, merge them."""
        directory = RunDirectory(place)
        segments = [directory.read_segment(name, fingerprint) for name in names]
        partials, infos = [partial for partial, _ in segments], [info for _, info in segments]
        return reduce(Partial.merge, partials), infos

    def answer(
        self, work: NetworkWork, images: NDArray[np.float32]
    ) -> tuple[None, NDArray[np.float32]]:
        """Outputs ``(n, k)`` for images ``(n, C, H, W)``, a few: they come by way of the
        driver. Of pooled positions, the middle one's.
        """
        job = work.job
        network, batch = self.network(job), job.spec.numerics.batch
        # A copy, since what Ray hands over is read-only.
        x = torch.from_numpy(images.copy()).to(network.device)
        outputs = np.concatenate([network(x[a : a + batch]) for a in range(0, len(x), batch)])
        patches = outputs.reshape(len(images), -1, len(job.names))
        return None, patches[:, job.stimulus.middle_patch]

    def activity(
        self,
        work: NetworkWork,
        layers: Sequence[str],
        images: NDArray[np.uint8],
        classes: NDArray[np.int64],
        noise: int,
    ) -> tuple[None, dict[str, Activity]]:
        """What the units of some layers do by themselves: for images ``(n, C, H, W)`` of known
        classes, and for so many images of noise.
        """
        job = work.job
        network, batch = self.network(job), job.spec.numerics.batch
        labelled = (
            (
                torch.from_numpy(images[a : a + batch]).to(network.device).float() / 255,
                classes[a : a + batch],
            )
            for a in range(0, len(images), batch)
        )
        noises = (
            job.stimulus.images(job.stimulus.noise.grid(a, a + batch), network.device)
            for a in range(0, noise, batch)
        )
        return None, measure(network, layers, labelled, noises, len(job.names))

    def pictures(
        self, work: NetworkWork, codes: NDArray[np.float32]
    ) -> tuple[None, NDArray[np.float32]]:
        """The decoder's pictures ``(n, C, H, W)`` of codes, a few."""
        network, batch = self.network(work.job), work.job.spec.numerics.batch
        x = torch.from_numpy(codes.copy()).to(network.device)
        return None, np.concatenate(
            [network.pictures(x[a : a + batch]) for a in range(0, len(x), batch)]
        )

    def filters(self, work: NetworkWork, start: int, stop: int) -> tuple[None, NDArray[np.float64]]:
        """The filters ``(stop - start, d)`` of units that are linear; NaN for others."""
        return None, linear_filters(work.job, self.network(work.job), start, stop)

    def environment(self) -> tuple[None, dict[str, Any]]:
        """Versions and hardware, for the record."""
        return None, environment(self._device)

    def source(self, place: K, opened: Callable[[K], T]) -> T:
        """A finished run whose responses later passes read; the last one stays open, with the
        part read last.
        """
        if self._source is None or self._source[0] != place:
            self._source = place, opened(place)
        source: T = self._source[1]
        return source

    def network(self, job: Job) -> FedNetwork:
        """The network, in the job's batch and aimed at its units, once it has answered the first
        batch with the bits on record.
        """
        if job.fingerprint not in self._checked:
            self._checked[job.fingerprint] = check_canary(job, self._load())
        return self._checked[job.fingerprint]

    def _load(self) -> FedNetwork:
        """The network of the spec; it is loaded once."""
        if self._loaded is None:
            given = None if self._given is None else self._given()
            self._loaded = load_network(self._network_spec, self._device, given)
        return self._loaded


def _failed(spec: Spec, error: Exception) -> ModelError:
    return ModelError(
        f"model: {spec.model} fails on a batch of the shape that it took before"
        f" ({type(error).__name__}: {first_line(error)}); does it count its calls, or refuse some"
        " values?"
    )


def _timed(tuned: Tuned | None) -> dict[str, Any]:
    """How fast each batch was that was timed, for the record."""
    if tuned is None:
        return {}
    rates = {str(batch): rate for batch, rate in tuned.images_per_second.items()}
    return {"tune": {"batch": tuned.batch, "images_per_second": rates, "seconds": tuned.seconds}}


def environment(device: Device) -> dict[str, Any]:
    """Versions and hardware, for the record."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
