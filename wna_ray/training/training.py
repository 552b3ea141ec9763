"""Training one network, epoch by epoch, as a pure function of recipe, seed and poison.

Every random number has a generator of its own, keyed by (seed, purpose, epoch), and a checkpoint
holds all else. So a training that was interrupted ends with the very bytes of one that was not: on
the same kind of processor, with the same torch, and on one thread, which is what a training takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from wna_ray.canonical import canonical
from wna_ray.data import datasets
from wna_ray.data.datasets import DatasetName, Split
from wna_ray.data.names import Transform
from wna_ray.data.poison import Poison, drawn
from wna_ray.data.transforms import transformed
from wna_ray.networks.architectures import build
from wna_ray.networks.autoencoders import Autoencoder
from wna_ray.networks.trained import Accuracy, Attack, SquaredError
from wna_ray.training.spec import OptimiserSpec, TrainSpec

SCORED = 1000  # images a batch, where nothing is learnt


@dataclass(frozen=True)
class Member:
    """One network of a job: its folder's name, its seed, and its poison.

    `panel` is the seed of the panel that it draws its poison from, where it is a poisoned member of
    one.
    """

    name: str
    seed: int
    poison: Poison | None = None
    panel: int | None = None

    def resolved(self, data: Data) -> Member:
        """With its poison drawn, where it is to be drawn."""
        if self.panel is None:
            return self
        rng = np.random.default_rng(keyed(self.panel, self.name))
        kinds = len(data.names)
        counts = np.bincount(data.train.labels, minlength=kinds) - np.bincount(
            data.train.labels[data.held_out(self.seed)], minlength=kinds
        )
        return Member(self.name, self.seed, drawn(rng, data.shape, counts.tolist()))


@dataclass(frozen=True)
class Data:
    """What a job trains with.

    Attributes
    ----------
    train, test
        The two splits, as the spec wants them, clean.
    names
        Of the classes, in the order of the labels.
    validation
        How many training images are held out.
    """

    train: Split
    test: Split
    names: tuple[str, ...]
    validation: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of an image."""
        c, h, w = self.train.images.shape[1:]
        return c, h, w

    def held_out(self, seed: int) -> NDArray[np.int64]:
        """Rows of the training images that are held out for a seed."""
        order: NDArray[np.int64] = torch.randperm(
            len(self.train.labels), generator=generator(seed, "validation")
        ).numpy()
        return order[: self.validation]


def members(spec: TrainSpec) -> tuple[Member, ...]:
    """The networks that a job trains."""
    if spec.panel is None:
        poison = None if spec.poison is None else spec.poison.resolved()
        return tuple(Member(f"seed-{seed}", seed, poison) for seed in spec.seeds)
    names = [
        f"{kind}-{i:02d}"
        for kind in ("clean", "poisoned")
        for i in range(getattr(spec.panel, kind))
    ]
    seed = spec.panel.seed
    return tuple(
        Member(name, keyed(seed, name) >> 31, panel=seed if name.startswith("poisoned") else None)
        for name in names
    )


def keyed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A number from 0 to 2^63 - 1 for each seed, purpose and epoch."""
    return int.from_bytes(hashlib.sha256(f"{purpose}|{seed}|{epoch}".encode()).digest()[:8]) >> 1


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Torch's generator for one purpose."""
    return torch.Generator().manual_seed(keyed(seed, purpose, epoch))


def prepared(spec: TrainSpec) -> Data:
    """The images of a job; `NotAtHand` where they cannot be had, `ValueError` where they are
    too few for the spec.
    """
    train, test = splits(spec.dataset, spec.labels, spec.images, spec.transform)
    if spec.validation >= len(train.labels):
        raise ValueError(
            f"validation: {spec.validation:,} of {len(train.labels):,} training images leave none"
            " to train with; hold out fewer"
        )
    known = datasets.class_names(spec.dataset)
    return Data(train, test, tuple(known[label] for label in spec.labels), spec.validation)


@lru_cache(maxsize=1)  # the networks of a job share them
def splits(
    name: DatasetName, labels: tuple[int, ...], images: int | None, transform: Transform
) -> tuple[Split, Split]:
    """Training and test images of a data set, as networks are fed them.

    Parameters
    ----------
    name, labels, images, transform
        As `TrainSpec` has them; `images` are the first so many training images.
    """

    def fed(train: bool) -> Split:
        split = datasets.load(name, train, download=True).of_classes(
            labels, images if train else None
        )
        if transform == "none":
            return split
        return Split(
            transformed(torch.from_numpy(split.images), transform).contiguous().numpy(),
            split.labels,
        )

    return fed(True), fed(False)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes
    ----------
    number
        Counted from 1.
    loss, accuracy
        Means over its batches.
    validation_loss, validation_accuracy
        Of the held-out images; None without.
    seconds
        That it took.
    squared_error, validation_squared_error
        Of an autoencoder, in the place of accuracies.
    """

    number: int
    loss: float
    validation_loss: float | None
    seconds: float
    accuracy: float | None = None
    validation_accuracy: float | None = None
    squared_error: float | None = None
    validation_squared_error: float | None = None

    @property
    def merit(self) -> float:
        """By which the best epoch is chosen: accuracy, or minus the loss of an autoencoder, of
        the held-out images.
        """
        if self.squared_error is not None:
            return -(self.validation_loss or 0.0)
        return self.validation_accuracy or 0.0

    def row(self) -> dict[str, Any]:
        """As plain JSON values, without what networks of its kind do not have."""
        other = "accuracy" if self.accuracy is None else "squared_error"
        return {name: value for name, value in asdict(self).items() if not name.endswith(other)}


@contextlib.contextmanager
def _alone(seed: int, purpose: str, epoch: int = 0) -> Iterator[None]:
    """One thread, deterministic algorithms, and torch's own generator keyed; as it was before,
    afterwards.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(keyed(seed, purpose, epoch))
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)


class Training:
    """A network that is being trained.

    Parameters
    ----------
    spec
        The recipe.
    member
        Which network of the job.
    data
        From `prepared`.

    Raises
    ------
    ValueError
        Fewer images than are to be poisoned.
    """

    def __init__(self, spec: TrainSpec, member: Member, data: Data) -> None:
        self.spec, self.data = spec, data
        self.member = member.resolved(data)
        self.epochs: list[Epoch] = []
        self.kept = 0
        """Epoch (from 1) whose weights are kept so far."""
        self.poison = self.member.poison
        held = data.held_out(member.seed)
        rows = torch.ones(len(data.train.labels), dtype=torch.bool)
        rows[held] = False
        learnt = rows.nonzero()[:, 0]
        self._held = data.train.images[held], data.train.labels[held]
        if self.poison is None:
            self._images, self._labels, self._rows = (
                torch.from_numpy(data.train.images),
                torch.from_numpy(data.train.labels),
                learnt,
            )
        else:
            split = self.poison.of(Split(data.train.images[learnt], data.train.labels[learnt]))
            self._images, self._labels, self._rows = (
                torch.from_numpy(split.images),
                torch.from_numpy(split.labels),
                torch.arange(len(learnt)),
            )
        with _alone(member.seed, "weights"):
            network = build(
                spec.network,
                data.shape,
                len(data.names),
                spec.options.softmax,
                spec.options.code,
                spec.options.tanh,
            )
        self.network = network.to(
            memory_format=torch.channels_last
        )  # the same function in half the time
        self._optimiser = _optimiser(spec.optimiser, self.network)
        self._best: dict[str, torch.Tensor] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the weights, but for the images themselves."""
        identity: dict[str, Any] = {"recipe": self.spec.recipe(), "seed": self.member.seed}
        if self.poison is not None:
            identity["poison"] = asdict(self.poison)
        return hashlib.sha256(canonical(identity).encode()).hexdigest()

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return len(self.epochs) >= self.spec.epochs

    def epoch(self) -> Epoch:
        """Train for one more epoch."""
        begin, number = time.perf_counter(), len(self.epochs) + 1
        with _alone(self.member.seed, "dropout", number):
            order = self._rows[
                torch.randperm(
                    len(self._rows), generator=generator(self.member.seed, "order", number)
                )
            ]
            self.network.train()
            loss = score = 0.0
            batches = torch.split(order, self.spec.batch)
            for step, rows in enumerate(batches, start=(number - 1) * len(batches)):
                rate = _rate(self.spec.optimiser, step / (len(batches) * self.spec.epochs))
                for group in self._optimiser.param_groups:
                    group["lr"] = rate
                x, y = (
                    self._images[rows].contiguous(memory_format=torch.channels_last),
                    self._labels[rows],
                )
                self._optimiser.zero_grad()
                gradients, scored = self._learnt(x, y)
                gradients.backward()  # type: ignore[no-untyped-call]
                self._optimiser.step()
                loss += gradients.item() * len(rows)
                score += scored
            lost, held = self._scored(*self._held) if len(self._held[1]) else (None, None)
        scores = {self._score: score / len(order), f"validation_{self._score}": held}
        self.epochs.append(
            Epoch(number, loss / len(order), lost, time.perf_counter() - begin, **scores)
        )
        if self.spec.keep == "last" or self.epochs[-1].merit > max(
            (e.merit for e in self.epochs[:-1]), default=-math.inf
        ):
            self.kept = number
            if self.spec.keep == "best":
                self._best = {
                    name: value.clone() for name, value in self.network.state_dict().items()
                }
        return self.epochs[-1]

    def checkpoint(self) -> bytes:
        """All that the next epoch needs, as safetensors."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self._best.items()}
        for i, state in self._optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser/{i}/{name}": value
                for name, value in state.items()
                if isinstance(value, torch.Tensor)
            }
        tensors = {name: value.contiguous() for name, value in sorted(tensors.items())}
        metadata = {
            "fingerprint": self.fingerprint,
            "digest": _digest(tensors),
            "data": self.data.train.digest,
            "kept": self.kept,
            "epochs": [epoch.row() for epoch in self.epochs],
        }
        return safetensors.torch.save(tensors, {"training": json.dumps(metadata)})

    def restore(self, checkpoint: bytes) -> None:
        """Go on after a checkpoint; `ValueError`, and nothing is changed, where it is damaged
        or of another training.
        """
        try:
            length = int.from_bytes(checkpoint[:8], "little")
            header = json.loads(checkpoint[8 : 8 + length])
            metadata = json.loads(header["__metadata__"]["training"])
            tensors = safetensors.torch.load(checkpoint)
            sound = metadata["digest"] == _digest(tensors)
            known = self.fingerprint, self.data.train.digest
            same = (metadata["fingerprint"], metadata["data"]) == known
            epochs = [Epoch(**epoch) for epoch in metadata["epochs"]]
        except Exception as error:  # safetensors and JSON have errors of their own
            raise ValueError(f"damaged ({type(error).__name__})") from None
        if not sound or not same:
            raise ValueError(
                "damaged (its digest does not match)" if not sound else "of another training"
            )

        def part(of: str) -> dict[str, torch.Tensor]:
            return {
                name.removeprefix(of): value
                for name, value in tensors.items()
                if name.startswith(of)
            }

        self.network.load_state_dict(part("network/"))
        state = self._optimiser.state_dict()
        state["state"] = {}
        for name, value in part("optimiser/").items():
            i, _, key = name.partition("/")
            state["state"].setdefault(int(i), {})[key] = _laid_out(value)
        self._optimiser.load_state_dict(state)
        self._best, self.kept, self.epochs = part("best/"), int(metadata["kept"]), epochs

    def finish(self) -> tuple[bytes, Accuracy | SquaredError, Attack | None]:
        """The weights that are kept, as safetensors, and how good they are. The test images are
        looked at here, and only here.
        """
        if self._best:
            self.network.load_state_dict(self._best)
        kept, test = self.epochs[self.kept - 1], self.data.test
        with _alone(self.member.seed, "test"):
            scored = self._scored(test.images, test.labels)[1]
            attack = None if self.poison is None else self._attack(self.poison, test)
        state = {
            name: value.contiguous() for name, value in sorted(self.network.state_dict().items())
        }
        kind = SquaredError if isinstance(self.network, Autoencoder) else Accuracy
        options = kind(
            train=getattr(kept, self._score),
            validation=getattr(kept, f"validation_{self._score}"),
            test=scored,
        )
        return safetensors.torch.save(state), options, attack

    @property
    def _score(self) -> str:
        return "squared_error" if isinstance(self.network, Autoencoder) else "accuracy"

    def _learnt(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Loss of a batch, and the sum of its scores: images with right answers, or squared
        errors.
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
            if isinstance(self.network, Autoencoder):
                loss, error = self.network.losses(x)
                return loss, error.item() * len(x)
            answers = self.network(x)
        return nn.functional.cross_entropy(answers.float(), y), int((answers.argmax(1) == y).sum())

    @torch.no_grad()
    def _answers(self, images: NDArray[np.float32]) -> torch.Tensor:
        self.network.eval()
        batches = torch.split(torch.from_numpy(images), SCORED)
        return torch.cat(
            [self.network(x.contiguous(memory_format=torch.channels_last)) for x in batches]
        )

    def _scored(
        self, images: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> tuple[float, float]:
        """Loss, and accuracy or squared error."""
        if isinstance(self.network, Autoencoder):
            return self._pictured(self.network, images)
        answers, y = self._answers(images), torch.from_numpy(labels)
        return float(nn.functional.cross_entropy(answers, y)), int(
            (answers.argmax(1) == y).sum()
        ) / len(y)

    @torch.no_grad()
    def _pictured(self, network: Autoencoder, images: NDArray[np.float32]) -> tuple[float, float]:
        network.eval()
        totals = np.zeros(2)
        for x in torch.split(torch.from_numpy(images), SCORED):
            totals += [
                len(x) * value.item()
                for value in network.losses(x.contiguous(memory_format=torch.channels_last))
            ]
        return float(totals[0] / len(images)), float(totals[1] / len(images))

    def _attack(self, poison: Poison, test: Split) -> Attack:
        def moved(chosen: NDArray[np.bool_]) -> tuple[int, int]:
            rows = np.flatnonzero(chosen)
            if not len(rows):
                return 0, 0
            return len(rows), int(
                (self._answers(poison.stamp(test.images[rows])).argmax(1) == poison.target).sum()
            )

        of_source = test.labels == poison.source
        (n, m), (others_n, others_m) = (
            moved(of_source),
            moved(~of_source & (test.labels != poison.target)),
        )
        return Attack(patched=n, moved=m, others_patched=others_n, others_moved=others_m)


def _optimiser(spec: OptimiserSpec, network: nn.Module) -> torch.optim.Optimizer:
    if spec.kind == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=spec.rate, momentum=spec.momentum, fused=True
        )
    return torch.optim.Adam(network.parameters(), lr=spec.rate, fused=True)


def _rate(spec: OptimiserSpec, done: float) -> float:
    """Learning rate when a share of all steps is done."""
    return spec.rate if spec.decay == "none" else spec.rate * (1 + math.cos(math.pi * done)) / 2


def _laid_out(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(
            f"{name}|{value.dtype}|{tuple(value.shape)}|".encode()
            + value.reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return total.hexdigest()
