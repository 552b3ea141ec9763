"""Ways to average noise by a network's answers, each of which waits until it is asked for a slice
of work.

All show uniform noise on [0, 1] to the same network in the same batches and keep, of each label,
the sum of the images that got it and their number. `speed.py` lets them take turns. A contender
lives in a process of its own, forked from one that has torch loaded; those on Ray share a process
and a cluster.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from wna_ray.events import Event, ShardDone
from wna_ray.execution.drive import make_executor
from wna_ray.execution.executor import call
from wna_ray.execution.plan import Cut, plan
from wna_ray.execution.process import keep_freed_memory
from wna_ray.execution.scheduler import Scheduler
from wna_ray.execution.worker import Introduction
from wna_ray.kinds.average.job import description_of, moment_size
from wna_ray.kinds.average.work import NoiseWork
from wna_ray.networks.models import load
from wna_ray.runs.directory import RunDirectory
from wna_ray.shards.loading import load_network
from wna_ray.specs.run import Spec
from wna_ray.stimuli.offsets import load_offset
from wna_ray.stimuli.stimulus import make_stimulus

READY = 8  # batches that lie ready for the limit
SHARDS = 2  # of a worker in a slice; a real run's last two seconds and more, and cost less
TRIES = 1


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
    block
        Images that the authors' recipe makes at a time.
    seconds, rounds
        Of a slice, and how many of each contender.
    normalise
        Mean and std by channel, where the network's source declares none.
    dtype, compile
        Arithmetic of the limit and of this project, and whether they compile; the others have plain
        float32.
    """

    name: str
    uri: str
    shape: tuple[int, int, int]
    batch: int
    block: int
    seconds: float
    rounds: int
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    dtype: str = "float32"
    compile: str | None = None

    def spec(self) -> Spec:
        """The job as a user would write it."""
        return Spec.parse(
            {
                "model": self.uri,
                "stimulus": {"kind": "uniform", "shape": self.shape, "offset": 0.5, "scale": 0.5},
                "responses": ["label"],
                "samples": 1 << 40,
                "seed": 1,
                "numerics": {
                    "batch": self.batch,
                    "dtype": self.dtype,
                    "device": "cpu",
                    "compile": self.compile,
                },
                "normalise": (
                    None
                    if self.normalise is None
                    else dict(zip(("mean", "std"), self.normalise, strict=True))
                ),
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
        Seconds of all workers by phase, where the contender knows them.
    memory
        Largest resident size of a process that runs the network, in MB.
    """

    images: float
    seconds: float
    phases: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0


class Contender(Protocol):
    """Something that starts when it is made, and can be waited for, asked for a slice of about
    so many seconds, and closed.
    """

    def ready(self) -> None:
        """Wait until it has started, and warm up."""

    def __call__(self, seconds: float) -> Slice:
        """Work for about `seconds`."""

    def close(self) -> None:
        """End its processes."""


def repeat(work: Callable[[], int], seconds: float) -> Slice:
    """Do something, which says how many images it was, for so long; once at least."""
    begin, images = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or not images:
        images += work()
    return Slice(images, time.perf_counter() - begin, memory=peak())


def steady(
    stamps: list[float], images: list[int], workers: int, skipped: int | None = None
) -> Slice:
    """The rate of shards that ended at `stamps`: from 0 on (a worker that begins late is slower),
    or from when the workers had ended one shard each after those that are skipped. The end is the
    mean of the last shards', one a worker: that one ends before another is no loss.
    """
    end = float(np.mean(stamps[-workers:]))
    if skipped is None:
        return Slice(sum(images), end)
    first = skipped + workers
    return Slice(sum(images[first:]), end - float(np.mean(stamps[skipped:first])))


class Limit:
    """The forward pass alone, on batches that lie ready, as a worker of this project runs it: a
    process of one thread a core.
    """

    def __init__(self, case: Case, cores: int) -> None:
        self._lines, self._processes = [], []
        for _ in range(cores):
            line, other = multiprocessing.Pipe()
            self._processes.append(
                multiprocessing.get_context("fork").Process(
                    target=_forward_only, args=(case, other), daemon=True
                )
            )
            self._processes[-1].start()
            other.close()
            self._lines.append(line)

    def ready(self) -> None:
        for line in self._lines:
            line.recv()

    def __call__(self, seconds: float) -> Slice:
        for line in self._lines:
            line.send(seconds)
        parts: list[Slice] = [line.recv() for line in self._lines]
        rate = sum(part.images / part.seconds for part in parts)
        return Slice(rate * seconds, seconds, memory=max(part.memory for part in parts))

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _forward_only(case: Case, line: Connection) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    spec = case.spec()
    network = load_network(spec, "cpu")
    stimulus = make_stimulus(spec.stimulus, 1, load_offset(spec.stimulus))
    grids = [stimulus.noise.grid(i * case.batch, (i + 1) * case.batch) for i in range(READY)]
    turn = itertools.cycle([network.feed.ready(stimulus.images(grid)) for grid in grids])

    def work() -> int:
        network.network.forward(next(turn))
        return case.batch

    with torch.inference_mode():
        repeat(work, 0.0)
        line.send("ready")
        while True:
            line.send(repeat(work, line.recv()))


class Ours:
    """This project, here or on Ray: noise, forward pass, responses, moments, handed over shard by
    shard to its scheduler. The merging and the commit at the end of a slice are not in its rate,
    but told apart: a run has at most 64 of these, however long it is. Starting, looking at the
    model and reading out, which a run has once, are in neither.
    """

    introduced: ClassVar[dict[Case, Introduction]] = {}
    """By whoever of this process was first."""

    def __init__(self, case: Case, workers: int) -> None:
        self._case, self._batch = case, case.batch
        self._executor = make_executor(case.spec(), "ray" if workers else "local", workers or None)
        self._workers, self._ray = max(1, workers), workers > 0
        self._folder = tempfile.TemporaryDirectory()
        self._directory = RunDirectory(f"{self._folder.name}/run")
        self._at, self._rate, self._processes = 0, 0.0, {"self"}

    def ready(self) -> None:
        if self._case not in self.introduced:
            self.introduced[self._case] = call(self._executor, TRIES, "introduce")
        self._introduction = self.introduced[self._case]
        self._job = self._introduction.job
        self._shared = self._executor.share(NoiseWork(self._job))
        self._directory.begin(description_of(self._job, self._introduction.environment))
        for _ in range(
            2
        ):  # the first looks at the network once more, and is no measure of the rate
            self._work(1)
        if self._ray:
            import ray

            # Nobody else wants to know an actor's process.
            numbers = [
                actor.handle.__ray_call__.remote(lambda _: os.getpid())
                for actor in self._executor.pool
            ]
            self._processes = {str(number) for number in ray.get(numbers)}

    def __call__(self, seconds: float) -> Slice:
        return self._work(
            max(1, round(self._rate * seconds / (SHARDS * self._workers * self._batch)))
        )

    def _work(self, batches: int) -> Slice:
        """Some shards for each worker, of so many batches."""
        stamps, images, phases = list[float](), list[int](), dict[str, float]()

        def note(event: Event) -> None:
            if isinstance(event, ShardDone):
                stamps.append(time.perf_counter() - begin)
                images.append(event.stop - event.start)
                for phase, taken in event.seconds.items():
                    phases[phase] = phases.get(phase, 0.0) + taken

        job, shard, seconds = self._job, batches * self._batch, self._introduction.batch_seconds
        span = self._at, self._at + SHARDS * self._workers * shard
        cut = plan(
            [span],
            span[1],
            self._workers,
            Cut(self._batch, seconds, *moment_size(job), shard=shard, segments=1),
        )
        scheduler = Scheduler(self._executor, TRIES, note, 0)
        begin = time.perf_counter()
        scheduler.run(cut, (self._shared,), (self._directory.store.place, job.fingerprint))
        phases["segment"] = time.perf_counter() - begin - stamps[-1]
        self._at = span[1]
        found = steady(stamps, images, self._workers)
        self._rate = found.images / found.seconds
        return Slice(found.images, found.seconds, phases, peak(*self._processes))

    def close(self) -> None:
        self._executor.close()
        self._folder.cleanup()


class Authors:
    """The recipe of Borji & Lin's notebooks as a plain loop, with all cores: a block of
    ``torch.rand``, answers in batches, all of them kept, then a mask and a mean for each class.
    """

    def __init__(self, case: Case, cores: int) -> None:
        torch.set_num_threads(cores)
        self._case, self._model = case, plain(case)
        self._sums: torch.Tensor | None = None

    def ready(self) -> None:
        self._block()

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
        return repeat(self._block, seconds)

    def close(self) -> None:
        pass


class _Noise(Dataset[torch.Tensor]):
    """An image of noise by its number."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(self._shape, generator=torch.Generator().manual_seed(index))


class _Counting(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class Loader:
    """``torch.utils.data.DataLoader`` that makes noise in a process for all cores but one, and
    a loop that runs the network on all.
    """

    def __init__(self, case: Case, cores: int) -> None:
        torch.set_num_threads(cores)
        self._model = plain(case, channels_last=True)
        self._sums: dict[int, torch.Tensor] = {}
        loader = DataLoader(
            _Noise(case.shape),
            case.batch,
            sampler=_Counting(),
            num_workers=max(1, cores - 1),
            multiprocessing_context="fork",
        )
        self._batches: Iterator[torch.Tensor] = iter(loader)

    def ready(self) -> None:
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
        return repeat(self._batch, seconds)

    def close(self) -> None:
        del self._batches


class _Answer:
    """The actor of Ray Data's ``map_batches``: numbers of images in, sums of the images of each
    label out.
    """

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(1)
        self._case, self._model = case, plain(case, channels_last=True)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        first = int(batch["id"][0])
        noise = torch.rand(
            len(batch["id"]), *self._case.shape, generator=torch.Generator().manual_seed(first)
        )
        with torch.inference_mode():
            labels = self._model(noise).argmax(1)
        there, count = labels.unique(return_counts=True)
        sums = np.stack([noise[labels == label].sum(0).numpy() for label in there])
        return {
            "label": there.numpy(),
            "count": count.numpy(),
            "sum": sums,
            "memory": np.full(len(there), peak()),
        }


class RayData:
    """``ray.data.range(N).map_batches(Actor)``, an actor a core, sums added by the driver. The
    first third is not counted: actors may start one after another.
    """

    def __init__(self, case: Case, cores: int) -> None:
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self._case, self._cores = case, cores

    def ready(self) -> None:
        case = self._case
        model, noise = plain(case, channels_last=True), torch.rand(case.batch, *case.shape)
        with torch.inference_mode():
            model(noise)
            found = repeat(lambda: len(model(noise)), 0.3)
        self._guess = self._cores * found.images / found.seconds

    def __call__(self, seconds: float) -> Slice:
        return self._run(max(9 * self._cores, round(self._guess * seconds / self._case.batch)))

    def _run(self, batches: int) -> Slice:
        import ray.data

        case, sums, each = (
            self._case,
            dict[int, Any](),
            -(-batches // 64),
        )  # batches in a block, whole ones
        batches = -(-batches // each) * each
        answers = ray.data.range(
            batches * case.batch, override_num_blocks=batches // each
        ).map_batches(
            _Answer,
            fn_constructor_args=(case,),
            batch_size=case.batch,
            compute=ray.data.ActorPoolStrategy(size=self._cores),
            num_cpus=1,
        )
        stamps, images, memory = list[float](), list[int](), 0.0
        begin = time.perf_counter()
        for part in answers.iter_batches(batch_size=None):
            for label, total in zip(part["label"], part["sum"], strict=True):
                sums[int(label)] = sums[int(label)] + total if int(label) in sums else total.copy()
            stamps.append(time.perf_counter() - begin)
            images.append(int(part["count"].sum()))
            memory = max(memory, float(part["memory"].max()))
        found = steady(stamps, images, self._cores, len(stamps) // 3)
        return Slice(found.images, found.seconds, memory=memory)

    def close(self) -> None:
        pass


def plain(case: Case, channels_last: bool = False) -> torch.nn.Module:
    """The network as PyTorch gives it, in float32, or in the faster memory format; it
    normalises what it is shown as this project would.
    """
    model, normalise = load(case.uri), case.normalise
    if normalise is None:
        assert model.normalise is not None, "noise is in pixels"
        normalise = model.normalise.mean, model.normalise.std
    form = torch.channels_last if channels_last else torch.preserve_format
    return torch.nn.Sequential(
        _Normalise(*normalise, form), model.module.to(memory_format=form)
    ).eval()


class _Normalise(torch.nn.Module):
    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], form: torch.memory_format
    ) -> None:
        super().__init__()
        self.form = form
        self.mean, self.std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x - self.mean) / self.std).to(memory_format=self.form)


def peak(*numbers: str) -> float:
    """Largest resident size so far, in MB, of the largest of some processes; of this one by
    default.
    """
    lines = (
        line
        for n in numbers or ("self",)
        for line in _text(Path("/proc") / n / "status").splitlines()
        if line.startswith("VmHWM")
    )
    return max((int(line.split()[1]) / 1024 for line in lines), default=0.0)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # the process has ended
        return ""


LIMITS = ("limit, one core", "limit, all cores")
CONTENDERS: dict[str, Callable[[Case, int], Contender]] = {
    LIMITS[0]: lambda case, cores: Limit(case, 1),
    "wna_ray, in process": lambda case, cores: Ours(case, 0),
    "wna_ray, Ray, 1 worker": lambda case, cores: Ours(case, 1),
    LIMITS[1]: Limit,
    "wna_ray, Ray, a worker a core": Ours,
    "authors' loop": Authors,
    "Ray Data map_batches": RayData,
    "DataLoader and a loop": Loader,
}
ON_RAY = {"wna_ray, Ray, 1 worker", "wna_ray, Ray, a worker a core", "Ray Data map_batches"}


def serve(cores: int, cluster: bool, line: Connection) -> None:
    """Be some contenders: for ``(name, case)`` become one more (the answer is "" or what went
    wrong), for ``(name, "")`` wait until it is ready, for ``(name, seconds)`` work (the answer is a
    `Slice`), for ``(name, None)`` close it, for None end.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    there: dict[str, Contender] = {}
    if cluster:
        import ray

        path = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
        # Ray starts a process for each CPU at once, and those that nobody uses cost 1 % of a core
        # each: no more than will be needed.
        cpus = (
            1 + cores + cores + 1
        )  # the first worker, a worker a core, Ray Data's actors, what they read
        ray.init(
            "local",
            include_dashboard=False,
            num_cpus=cpus,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=path,
        )
    else:
        torch.set_num_threads(1)
    while (asked := line.recv()) is not None:
        name, what = asked
        try:
            if isinstance(what, Case):
                there[name] = CONTENDERS[name](what, cores)
                line.send("")
            elif what == "":
                there[name].ready()
                line.send("")
            elif what is None:
                there.pop(name).close()
                line.send("")
            else:
                line.send(there[name](what))
        except Exception:
            line.send(traceback.format_exc())
    for contender in there.values():
        contender.close()
    if cluster:
        ray.shutdown()
    os._exit(0)  # whatever threads a library has left
