"""A training job: the networks of a spec in one directory, each a task that goes on where it
stopped.

    DIR/
      spec.json             what was asked
      seed-N/               (or clean-NN/, poisoned-NN/)
        checkpoint.safetensors    after each epoch; deleted at the end
        weights.safetensors, curves.json, network.json    the network, loss and accuracy by epoch,
                                                          what it is; the last is the commit
      curves.png
      MANIFEST.json         published last, once: every object and its digest

A network is committed once, by put-if-absent. The same command again does only what is not done
yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Literal

import torch

from wna_ray.canonical import differences, json_bytes, sha256
from wna_ray.data.datasets import NotAtHand
from wna_ray.errors import RunError, SpecError, WnaError
from wna_ray.execution.tasks import Failed, Lost, Task, task_runner
from wna_ray.execution.worker import environment
from wna_ray.networks.trained import (
    CURVES,
    DESCRIPTION,
    HEADER,
    WEIGHTS,
    Accuracy,
    TrainedNetwork,
    describe,
    most_bytes,
)
from wna_ray.runs.claim import claim
from wna_ray.storage.bounds import MOST_JSON, parse_json
from wna_ray.storage.store import Place, Store
from wna_ray.training.spec import TrainSpec
from wna_ray.training.training import Epoch, Member, Training, members, prepared
from wna_ray.version import __version__

FIGURES = "wna_ray.training.figures"  # matplotlib, only where something is drawn

FORMAT = "wna_ray.training/1"
SPEC, MANIFEST, FIGURE, CHECKPOINT = (
    "spec.json",
    "MANIFEST.json",
    "curves.png",
    "checkpoint.safetensors",
)
MOST_FIGURE = 64 << 20


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a network is over; `epochs` are to be."""

    name: str
    epoch: Epoch
    epochs: int


@dataclass(frozen=True)
class Resumed:
    """A network goes on after so many epochs."""

    name: str
    epochs: int


@dataclass(frozen=True)
class NetworkDone:
    """A network is committed; `before` where it was already."""

    name: str
    network: TrainedNetwork
    before: bool


@dataclass(frozen=True)
class WorkerDied:
    """The worker of a network died; the network goes on elsewhere."""

    name: str
    reason: str


TrainingEvent = EpochDone | Resumed | NetworkDone | WorkerDied


def event_text(event: TrainingEvent) -> str:
    """One line about an event."""
    if isinstance(event, EpochDone):
        e = event.epoch
        score, form = (e.squared_error, _error) if e.accuracy is None else (e.accuracy, _percent)
        held = e.validation_squared_error if e.accuracy is None else e.validation_accuracy
        score_text = (
            f"{'squared error' if e.accuracy is None else 'accuracy'}"
            f" {form(score)}{'' if held is None else f', held out {form(held)}'}"
        )
        return (
            f"{event.name}: epoch {e.number} of {event.epochs}: loss {e.loss:.4f}, {score_text}"
            f" ({e.seconds:.1f} s)"
        )
    if isinstance(event, Resumed):
        return f"{event.name}: goes on after epoch {event.epochs}"
    if isinstance(event, WorkerDied):
        return f"{event.name}: its worker died ({event.reason}); it goes on elsewhere"
    return (
        f"{event.name}: {'was trained before' if event.before else 'trained'},"
        f" {in_words(event.network)}"
    )


def in_words(network: TrainedNetwork) -> str:
    """How a network does on the test images."""
    test = network.scores.test
    return (
        f"test squared error {_error(test)}"
        if network.autoencoder
        else f"test accuracy {_percent(test)}"
    )


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.2f} %"


def _error(value: float | None) -> str:
    return f"{value or 0.0:.5f}"


def train(  # noqa: PLR0913  # its parameters are promised
    spec: TrainSpec,
    out: str,
    *,
    executor: Literal["ray", "local"] = "ray",
    workers: int | None = None,
    address: str | None = None,
    endpoint: str | None = None,
    single_writer: bool = False,
    callbacks: Sequence[Callable[[TrainingEvent], None]] = (),
) -> dict[str, TrainedNetwork]:
    """Train the networks of a spec, or go on with them.

    Parameters
    ----------
    spec
        What to train.
    out
        Directory: a path or any fsspec URL. Each network is then a model, ``trained:OUT/seed-N``.
    executor
        ``ray``: each network is a task of one CPU; ``local``: one after the other, in this process.
        Weights do not depend on it.
    workers
        Most tasks at a time; by default as many as the cluster has CPUs.
    address, endpoint, single_writer
        As for a run.
    callbacks
        Called with what happens.

    Returns
    -------
    dict
        What each network is, by its name.

    Raises
    ------
    SpecError
        The data set is not at hand, or too small for the spec.
    RunError
        The directory holds something else, or what it holds is damaged.
    """
    store = Store(Place(out, endpoint, single_writer))
    store.require_conditions()
    wanted = members(spec)
    _begin(store, spec)
    store.sweep()
    if store.read(MANIFEST, MOST_JSON) is None:
        tasks = [Task(member.name, train_network, (store.place, spec, member)) for member in wanted]
        with task_runner(executor, workers, address) as runner:
            for name, event in runner.stream(tasks, workers):
                happened = _as_event(name, event)
                for callback in callbacks:
                    callback(happened)
        _publish(store, spec, wanted)
    return {member.name: read_network(store, member.name) for member in wanted}


def _begin(store: Store, spec: TrainSpec) -> None:
    """Make this the directory of a spec, or make sure that it is."""
    wanted, where = spec.model_dump(mode="json"), f"{store.url}/{SPEC}"

    def differs() -> Iterator[str]:
        recorded = parse_json(store.read(SPEC, MOST_JSON) or b"", where)
        if recorded.get("format") != FORMAT:
            raise RunError(f"{where} is not of a training job; give another --out")
        for path, old, new in differences(recorded.get("spec"), wanted):
            yield f"{path}: {old} -> {new}"

    claim(
        store,
        SPEC,
        json_bytes({"format": FORMAT, "spec": wanted}),
        differs,
        "a training of another spec",
        "spec",
    )


def _as_event(name: str, event: TrainingEvent | Lost | Failed) -> TrainingEvent:
    """What a task's event means for its network; the error of one that is given up is raised."""
    if isinstance(event, Lost):
        return WorkerDied(name, event.reason)
    if not isinstance(event, Failed):
        return event
    if event.error is not None:
        raise event.error
    raise WnaError(
        f"the worker of {name} died {event.losses} times ({event.reason}); mend the cause (memory?)"
        " and run the same command again"
    )


def read_network(store: Store, name: str) -> TrainedNetwork:
    """What a committed network is; `RunError` where it is damaged, or not there."""
    where = f"{store.url}/{name}/{DESCRIPTION}"
    data = store.read(f"{name}/{DESCRIPTION}", MOST_JSON)
    if data is None:
        raise RunError(f"{where} is not there; run the same command again")
    try:
        return describe(data)
    except ValueError as reason:
        raise RunError(
            f"{where} is damaged ({reason}); delete the folder '{name}' and run the same command"
            " again"
        ) from None


def train_network(place: Place, spec: TrainSpec, member: Member) -> Iterator[TrainingEvent]:
    """Train one network and commit it, saying what happens; from its checkpoint, where it has
    one.
    """
    store = Store(place)
    if store.size(f"{member.name}/{DESCRIPTION}") is not None:
        earlier = read_network(store, member.name)
        if (earlier.recipe, earlier.seed) != (spec.recipe(), member.seed):
            raise RunError(
                f"'{store.url}/{member.name}' holds a network of another spec; delete it and run"
                " the same command again"
            )
        yield NetworkDone(member.name, earlier, True)
        return
    try:
        data = prepared(spec)
        training = Training(spec, member, data)
    except NotAtHand as reason:
        raise SpecError(f"dataset: {reason}") from None
    except ValueError as reason:
        raise SpecError(str(reason)) from None
    name = f"{member.name}/{CHECKPOINT}"
    kept = store.read(
        name, HEADER + 4 * most_bytes(training.network)
    )  # weights, two moments of Adam, best weights
    if kept is not None:
        try:
            training.restore(kept)
        except ValueError as reason:
            raise RunError(
                f"'{store.url}/{name}' is {reason}; delete it and run the same command again"
            ) from None
        yield Resumed(member.name, len(training.epochs))
    while not training.done:
        epoch = training.epoch()
        if not training.done:
            store.replace(name, training.checkpoint())
        yield EpochDone(member.name, epoch, spec.epochs)
    yield NetworkDone(member.name, _commit(store, training), False)
    store.discard(name)


def _commit(store: Store, training: Training) -> TrainedNetwork:
    spec, data, member = training.spec, training.data, training.member
    begin = time.perf_counter()
    weights, scores, attack = training.finish()
    seconds = sum(epoch.seconds for epoch in training.epochs) + time.perf_counter() - begin
    curves = json_bytes(
        {
            "epochs": [
                {k: v for k, v in epoch.row().items() if k != "seconds"}
                for epoch in training.epochs
            ]
        }
    )
    described = TrainedNetwork(
        network=spec.network,
        options=spec.options,
        shape=data.shape,
        classes=data.names,
        seed=member.seed,
        epoch=training.kept,
        epochs=spec.epochs,
        accuracy=scores if isinstance(scores, Accuracy) else None,
        squared_error=None if isinstance(scores, Accuracy) else scores,
        poison=training.poison,
        attack=attack,
        recipe=spec.recipe(),
        fingerprint=training.fingerprint,
        data={"train": data.train.digest, "test": data.test.digest},
        objects={"weights.safetensors": sha256(weights), "curves.json": sha256(curves)},
        versions=environment("cpu") | {"wna_ray": __version__},
        seconds=round(seconds, 3),
    )
    for name, content in ((WEIGHTS, weights), (CURVES, curves)):
        if not store.create(f"{member.name}/{name}", content):
            raise RunError(
                f"'{store.url}/{member.name}/{name}' is there with other bytes, from a machine"
                f" whose arithmetic differs; delete the folder '{member.name}' and run the same"
                " command again"
            )
    if not store.create(
        f"{member.name}/{DESCRIPTION}", json_bytes(described.model_dump(mode="json"))
    ):
        return read_network(store, member.name)  # another driver was first, with the same weights
    return described


def _publish(store: Store, spec: TrainSpec, wanted: Sequence[Member]) -> None:
    """Check all that was committed, draw the curves, and write the manifest."""

    networks = {member.name: read_network(store, member.name) for member in wanted}
    if len({tuple(sorted(network.data.items())) for network in networks.values()}) > 1:
        raise RunError(
            f"'{store.url}' has networks that were trained on different images of {spec.dataset};"
            " train into a new directory"
        )
    objects, curves = {SPEC: store.read(SPEC, MOST_JSON) or b""}, {}
    for name, network in networks.items():
        with torch.device("meta"):
            most = most_bytes(network.untrained())
        for part, limit in ((WEIGHTS, most), (CURVES, MOST_JSON), (DESCRIPTION, MOST_JSON)):
            data = store.read(f"{name}/{part}", limit)
            if data is None or (part != DESCRIPTION and sha256(data) != network.objects[part]):  # type: ignore[index]
                raise RunError(
                    f"'{store.url}/{name}/{part}' is damaged; delete the folder '{name}' and run"
                    " the same command again"
                )
            objects[f"{name}/{part}"] = data
        curves[name] = parse_json(objects[f"{name}/{CURVES}"], f"{store.url}/{name}/{CURVES}")[
            "epochs"
        ]
    objects[FIGURE] = resolve_name(FIGURES).curves(spec, networks, curves)
    store.replace(FIGURE, objects[FIGURE])
    manifest = {
        "format": FORMAT,
        "networks": {
            name: {
                "fingerprint": n.fingerprint,
                "squared_error" if n.autoencoder else "accuracy": n.scores.model_dump(),
                "weights": n.objects["weights.safetensors"],
            }
            for name, n in networks.items()
        },
        "objects": {
            name: {"bytes": len(data), "sha256": sha256(data)}
            for name, data in sorted(objects.items())
        },
    }
    if not store.create(MANIFEST, json_bytes(manifest)):
        earlier = store.read(MANIFEST, MOST_JSON)
        if earlier is None or parse_json(earlier, MANIFEST).get("networks") != manifest["networks"]:
            raise RunError(
                f"{store.url}/{MANIFEST} exists with other content; is another job writing there?"
            )
