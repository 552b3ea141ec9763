"""Ways to average noise by a network's answers, each as a process that waits to be asked for a slice of work.

All show uniform noise on [0, 1] to the same network and keep, of each label, the sum of the images that got it and their number. `speed.py`
lets them take turns.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from wna_ray import run
from wna_ray.events import Event, RunStarted, ShardDone
from wna_ray.models import load
from wna_ray.shard import Network
from wna_ray.spec import Spec
from wna_ray.stimuli import Stimulus, load_offset
from wna_ray.worker import keep_freed_memory

READY = 8  # batches that lie ready for the limit


@dataclass(frozen=True)
class Case:
    """A network, and how it is asked.

    Attributes
    ----------
    name
        Of the network, for people.
    uri
        Its weights; random ones are as fast.
    shape
        ``(C, H, W)`` of an image.
    batch
        Images in a forward pass, of every contender.
    dtype
        Arithmetic of the limit and of this project; the others have float32.
    block
        Images that the authors' recipe makes at a time.
    """

    name: str
    uri: str
    shape: tuple[int, int, int]
    batch: int
    block: int
    dtype: str = "float32"

    def spec(self, samples: int, kinds: tuple[str, ...] = ("label",)) -> Spec:
        """The job as a user would write it."""
        return Spec.parse(
            {
                "model": self.uri,
                "stimulus": {"kind": "uniform", "shape": self.shape, "offset": 0.5, "scale": 0.5},
                "responses": list(kinds),
                "samples": samples,
                "seed": 1,
                "numerics": {"batch": self.batch, "dtype": self.dtype},
                "evaluation": "none",
            }
        )


@dataclass(frozen=True)
class Slice:
    """What came of a slice of work.

    Attributes
    ----------
    images, seconds
        Of the steady state.
    phases
        Seconds by phase, where the contender knows them.
    memory
        Largest resident size of the process so far, in MB (of Ray's workers: of the largest).
    """

    images: int
    seconds: float
    phases: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0


class Contender(Protocol):
    """Something that can be asked for a slice of about so many seconds."""

    def __call__(self, seconds: float) -> Slice:
        """Work for about `seconds`."""


def _repeat(work: Callable[[], int], seconds: float) -> Slice:
    begin, images = time.perf_counter(), 0
    while (taken := time.perf_counter() - begin) < seconds or not images:
        images += work()
    taken = time.perf_counter() - begin
    return Slice(images, taken)


class Limit:
    """The forward pass alone, on batches that lie ready, in this project's best settings: one process a core."""

    def __init__(self, case: Case, cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._lines = []
        for _ in range(cores):
            line, other = context.Pipe()
            context.Process(target=_forward_only, args=(case, other), daemon=True).start()
            self._lines.append(line)
        for line in self._lines:
            line.recv()

    def __call__(self, seconds: float) -> Slice:
        for line in self._lines:
            line.send(seconds)
        parts: list[Slice] = [line.recv() for line in self._lines]
        rate = sum(part.images / part.seconds for part in parts)
        return Slice(round(rate * seconds), seconds, memory=max(part.memory for part in parts))


def _forward_only(case: Case, line: Connection) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    spec = case.spec(case.batch)
    network = Network(spec, "cpu")
    stimulus = Stimulus(spec.stimulus, 1, load_offset(spec.stimulus))
    grids = [stimulus.noise.grid(i * case.batch, (i + 1) * case.batch) for i in range(READY)]
    ready = [stimulus.images(grid).to(network.dtype).contiguous(memory_format=torch.channels_last) for grid in grids]
    turn = itertools.cycle(ready)

    def work() -> int:
        network.module(next(turn))
        return case.batch

    with torch.inference_mode():
        work()
        line.send("ready")
        while True:
            found = _repeat(work, line.recv())
            line.send(Slice(found.images, found.seconds, memory=_memory()))


class Ours:
    """This project, here or on Ray. The rate is that between shards: starting, looking at the model and reading out are not in it."""

    def __init__(self, case: Case, workers: int, kinds: tuple[str, ...] = ("label",)) -> None:
        self._case, self._workers, self._kinds = case, workers, kinds
        self._rate = 0.0
        if workers:
            import ray

            ray.init("local", include_dashboard=False, num_cpus=workers, log_to_driver=False, logging_level="ERROR")
        else:
            torch.set_num_threads(1)
        self._run(4 * case.batch * max(1, workers))

    def __call__(self, seconds: float) -> Slice:
        return self._run(int(self._rate * seconds) // self._case.batch * self._case.batch + 4 * self._case.batch * max(1, self._workers))

    def _run(self, samples: int) -> Slice:
        shards: list[tuple[float, int]] = []
        phases: dict[str, float] = {}
        workers = max(1, self._workers)
        spec = self._case.spec(samples, self._kinds)
        cut = max(self._case.batch, int(self._rate / workers * 0.5) // self._case.batch * self._case.batch)  # half a second a shard
        spec = spec.model_copy(update={"execution": spec.execution.model_copy(update={"shard": cut})})

        def note(event: Event) -> None:
            if isinstance(event, RunStarted):
                shards.append((time.perf_counter(), 0))
            if isinstance(event, ShardDone):
                shards.append((time.perf_counter(), event.stop - event.start))
                for phase, taken in event.seconds.items():
                    phases[phase] = phases.get(phase, 0.0) + taken

        with tempfile.TemporaryDirectory() as folder:
            where = "ray" if self._workers else "local"
            run(spec, f"{folder}/run", executor=where, workers=self._workers or None, callbacks=[note])
        warm = min(workers, len(shards) - 2)  # the first shard of each worker
        images = sum(n for _, n in shards[warm + 1 :])
        taken = shards[-1][0] - shards[warm][0]
        self._rate = images / taken
        return Slice(images, taken, phases, _memory())


class Authors:
    """The recipe of Borji & Lin's notebooks as a plain loop, with all cores: a block of ``torch.rand``, answers in batches, then a mask
    and a mean for each class.
    """

    def __init__(self, case: Case, cores: int) -> None:
        torch.set_num_threads(cores)
        self._case, self._model = case, _plain(case)
        self._sums: torch.Tensor | None = None

    def _block(self) -> int:
        case = self._case
        noise = torch.rand(case.block, *case.shape)
        with torch.no_grad():
            answers = torch.cat([self._model(part) for part in noise.split(case.batch)])
        labels = answers.argmax(1)
        if self._sums is None:
            self._sums = torch.zeros(answers.shape[1], *case.shape)
        for label in range(answers.shape[1]):
            mask = labels == label
            if mask.any():
                self._sums[label] += noise[mask].mean(0) * mask.sum()
        return case.block

    def __call__(self, seconds: float) -> Slice:
        found = _repeat(self._block, seconds)
        return Slice(found.images, found.seconds, memory=_memory())


class _Noise(Dataset[torch.Tensor]):
    """An image of noise by its number."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(self._shape, generator=torch.Generator().manual_seed(index))


class Loader:
    """``torch.utils.data.DataLoader`` with a worker for all cores but one, and a loop."""

    def __init__(self, case: Case, cores: int) -> None:
        torch.set_num_threads(1)
        self._case, self._model = case, _plain(case)
        self._sums: dict[int, torch.Tensor] = {}
        order = _Counting()
        workers = max(1, cores - 1)
        self._batches: Iterator[torch.Tensor] = iter(
            DataLoader(_Noise(case.shape), batch_size=case.batch, sampler=order, num_workers=workers)
        )
        self._batch()

    def _batch(self) -> int:
        noise = next(self._batches)
        with torch.inference_mode():
            labels = self._model(noise).argmax(1)
        for label in labels.unique().tolist():
            chosen = noise[labels == label].sum(0)
            self._sums[label] = self._sums[label] + chosen if label in self._sums else chosen
        return len(noise)

    def __call__(self, seconds: float) -> Slice:
        found = _repeat(self._batch, seconds)
        return Slice(found.images, found.seconds, memory=_memory())


class _Counting(torch.utils.data.Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class _Answer:
    """The actor of Ray Data's ``map_batches``: numbers of images in, sums of the images of each label out."""

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(1)
        self._case, self._model = case, _plain(case)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        first = int(batch["id"][0])
        noise = torch.rand(len(batch["id"]), *self._case.shape, generator=torch.Generator().manual_seed(first))
        with torch.inference_mode():
            labels = self._model(noise).argmax(1)
        there = labels.unique()
        sums = np.stack([noise[labels == label].sum(0).numpy() for label in there])
        return {"label": there.numpy(), "count": np.array([int((labels == label).sum()) for label in there]), "sum": sums}


class RayData:
    """``ray.data.range(N).map_batches(Actor)``, an actor a core, sums added by the driver. Rate between the first and the last sums."""

    def __init__(self, case: Case, cores: int) -> None:
        import ray

        ray.init("local", include_dashboard=False, num_cpus=cores + 1, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        self._ray, self._case, self._cores, self._rate = ray, case, cores, 0.0
        self._run(4 * case.batch * cores)

    def __call__(self, seconds: float) -> Slice:
        return self._run(int(self._rate * seconds) + 4 * self._case.batch * self._cores)

    def _run(self, samples: int) -> Slice:
        case, sums = self._case, dict[int, Any]()
        answers = self._ray.data.range(samples, override_num_blocks=max(1, samples // case.batch)).map_batches(
            _Answer, fn_constructor_args=(case,), batch_size=case.batch, concurrency=self._cores, num_cpus=1
        )
        stamps: list[tuple[float, int]] = []
        for part in answers.iter_batches(batch_size=None):
            for label, total in zip(part["label"], part["sum"], strict=True):
                sums[int(label)] = sums[int(label)] + total if int(label) in sums else total
            stamps.append((time.perf_counter(), int(part["count"].sum())))
        taken = stamps[-1][0] - stamps[0][0]
        images = sum(n for _, n in stamps[1:])
        self._rate = images / taken
        return Slice(images, taken, memory=_memory())


def _plain(case: Case) -> torch.nn.Module:
    """The network as PyTorch gives it, in float32; it normalises what it is shown as this project would."""
    model = load(case.uri)
    if model.normalise is None:
        return model.module.eval()
    return torch.nn.Sequential(_Normalise(model.normalise.mean, model.normalise.std), model.module).eval()


class _Normalise(torch.nn.Module):
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def _memory() -> float:
    own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, children)


CONTENDERS: dict[str, Callable[[Case, int], Contender]] = {
    "limit, one core": lambda case, cores: Limit(case, 1),
    "wna_ray, in process": lambda case, cores: Ours(case, 0),
    "wna_ray, Ray, 1 worker": lambda case, cores: Ours(case, 1),
    "limit, all cores": lambda case, cores: Limit(case, cores),
    "wna_ray, Ray, a worker a core": lambda case, cores: Ours(case, cores),
    "authors' loop": Authors,
    "Ray Data map_batches": RayData,
    "DataLoader and a loop": Loader,
}


def serve(name: str, case: Case, cores: int, line: Connection) -> None:
    """Be a contender: say "ready", then answer every number of seconds with a `Slice`, until None comes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    contender = CONTENDERS[name](case, cores)
    line.send("ready")
    while (seconds := line.recv()) is not None:
        line.send(contender(seconds))
