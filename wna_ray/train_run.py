"""A training job: the networks of a spec in one directory, each a task that goes on where it stopped.

    DIR/
      spec.json             what was asked
      seed-N/               (or clean-NN/, poisoned-NN/)
        checkpoint.safetensors    after each epoch; deleted at the end
        weights.safetensors, curves.json, network.json    the network, loss and accuracy by epoch, what it is; the last is the commit
      curves.png
      MANIFEST.json         published last, once: every object and its digest

A network is committed once, by put-if-absent. The same command again does only what is not done yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from wna_ray import __version__
from wna_ray.checks import MOST_JSON, parse_json
from wna_ray.datasets import NotAtHand
from wna_ray.errors import RunError, SpecError, WnaError
from wna_ray.rundir import _json, differences, sha256
from wna_ray.store import Place, Store
from wna_ray.train_spec import TrainSpec
from wna_ray.trained import CURVES, DESCRIPTION, HEADER, WEIGHTS, Accuracy, TrainedNetwork, describe, most_bytes
from wna_ray.training import Epoch, Member, Training, members, prepared
from wna_ray.worker import environment

FORMAT = "wna_ray.training/1"
SPEC, MANIFEST, FIGURE, CHECKPOINT = "spec.json", "MANIFEST.json", "curves.png", "checkpoint.safetensors"
MOST_FIGURE = 64 << 20
LOSSES = 3  # times that the worker of one network may die


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


def told(event: TrainingEvent) -> str:
    """One line about an event."""
    if isinstance(event, EpochDone):
        e = event.epoch
        score, form = (e.squared_error, _error) if e.accuracy is None else (e.accuracy, _percent)
        held = e.validation_squared_error if e.accuracy is None else e.validation_accuracy
        shown = f"{'squared error' if e.accuracy is None else 'accuracy'} {form(score)}{'' if held is None else f', held out {form(held)}'}"
        return f"{event.name}: epoch {e.number} of {event.epochs}: loss {e.loss:.4f}, {shown} ({e.seconds:.1f} s)"
    if isinstance(event, Resumed):
        return f"{event.name}: goes on after epoch {event.epochs}"
    if isinstance(event, WorkerDied):
        return f"{event.name}: its worker died ({event.reason}); it goes on elsewhere"
    return f"{event.name}: {'was trained before' if event.before else 'trained'}, {in_words(event.network)}"


def in_words(network: TrainedNetwork) -> str:
    """How a network does on the test images."""
    test = network.scores.test
    return f"test squared error {_error(test)}" if network.autoencoder else f"test accuracy {_percent(test)}"


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.2f} %"


def _error(value: float | None) -> str:
    return f"{value or 0.0:.5f}"


def train(
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
        ``ray``: each network is a task of one CPU; ``local``: one after the other, in this process. Weights do not depend on it.
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
        events = _locally(store.place, spec, wanted) if executor == "local" else _on_ray(store.place, spec, wanted, workers, address)
        for event in events:
            for callback in callbacks:
                callback(event)
        _publish(store, spec, wanted)
    return {member.name: read_network(store, member.name) for member in wanted}


def _begin(store: Store, spec: TrainSpec) -> None:
    """Make this the directory of a spec, or make sure that it is."""
    asked = spec.model_dump(mode="json")
    if store.read(SPEC, MOST_JSON) is None and store.create(SPEC, _json({"format": FORMAT, "spec": asked})):
        return
    where = f"{store.url}/{SPEC}"
    found = parse_json(store.read(SPEC, MOST_JSON) or b"", where)
    if found.get("format") != FORMAT:
        raise RunError(f"{where} is not of a training job; give another --out")
    shown = "\n".join(f"  {path}: {old} -> {new}" for path, old, new in list(differences(found.get("spec"), asked))[:12])
    if shown:
        raise RunError(
            f"'{store.url}' holds a training of another spec; what differs (there -> asked for):\n{shown}\n"
            "Give another --out, or the spec that began it"
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
        raise RunError(f"{where} is damaged ({reason}); delete the folder '{name}' and run the same command again") from None


def train_network(place: Place, spec: TrainSpec, member: Member) -> Iterator[TrainingEvent]:
    """Train one network and commit it, saying what happens; from its checkpoint, where it has one."""
    store = Store(place)
    if store.size(f"{member.name}/{DESCRIPTION}") is not None:
        found = read_network(store, member.name)
        if (found.recipe, found.seed) != (spec.recipe(), member.seed):
            raise RunError(f"'{store.url}/{member.name}' holds a network of another spec; delete it and run the same command again")
        yield NetworkDone(member.name, found, True)
        return
    try:
        data = prepared(spec)
        training = Training(spec, member, data)
    except NotAtHand as reason:
        raise SpecError(f"dataset: {reason}") from None
    except ValueError as reason:
        raise SpecError(str(reason)) from None
    name = f"{member.name}/{CHECKPOINT}"
    kept = store.read(name, HEADER + 4 * most_bytes(training.network))  # weights, two moments of Adam, best weights
    if kept is not None:
        try:
            training.restore(kept)
        except ValueError as reason:
            raise RunError(f"'{store.url}/{name}' is {reason}; delete it and run the same command again") from None
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
    curves = _json({"epochs": [{k: v for k, v in epoch.row().items() if k != "seconds"} for epoch in training.epochs]})
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
                f"'{store.url}/{member.name}/{name}' is there with other bytes, from a machine whose arithmetic differs; "
                f"delete the folder '{member.name}' and run the same command again"
            )
    if not store.create(f"{member.name}/{DESCRIPTION}", _json(described.model_dump(mode="json"))):
        return read_network(store, member.name)  # another driver was first, with the same weights
    return described


def _publish(store: Store, spec: TrainSpec, wanted: Sequence[Member]) -> None:
    """Check all that was committed, draw the curves, and write the manifest."""
    from wna_ray import training_figures  # matplotlib, only where something is drawn

    networks = {member.name: read_network(store, member.name) for member in wanted}
    if len({tuple(sorted(network.data.items())) for network in networks.values()}) > 1:
        raise RunError(f"'{store.url}' has networks that were trained on different images of {spec.dataset}; train into a new directory")
    objects, curves = {SPEC: store.read(SPEC, MOST_JSON) or b""}, {}
    for name, network in networks.items():
        with torch.device("meta"):
            most = most_bytes(network.untrained())
        for part, limit in ((WEIGHTS, most), (CURVES, MOST_JSON), (DESCRIPTION, MOST_JSON)):
            found = store.read(f"{name}/{part}", limit)
            if found is None or (part != DESCRIPTION and sha256(found) != network.objects[part]):  # type: ignore[index]
                raise RunError(f"'{store.url}/{name}/{part}' is damaged; delete the folder '{name}' and run the same command again")
            objects[f"{name}/{part}"] = found
        curves[name] = parse_json(objects[f"{name}/{CURVES}"], f"{store.url}/{name}/{CURVES}")["epochs"]
    objects[FIGURE] = training_figures.curves(spec, networks, curves)
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
        "objects": {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in sorted(objects.items())},
    }
    if not store.create(MANIFEST, _json(manifest)):
        found = store.read(MANIFEST, MOST_JSON)
        if found is None or parse_json(found, MANIFEST).get("networks") != manifest["networks"]:
            raise RunError(f"{store.url}/{MANIFEST} exists with other content; is another job writing there?")


def _locally(place: Place, spec: TrainSpec, wanted: Sequence[Member]) -> Iterator[TrainingEvent]:
    for member in wanted:
        yield from train_network(place, spec, member)


def _on_ray(place: Place, spec: TrainSpec, wanted: Sequence[Member], workers: int | None, address: str | None) -> Iterator[TrainingEvent]:
    """Each network a task that streams what happens. One whose worker dies begins again, from its checkpoint."""
    from wna_ray.ray_executor import connect  # sets what Ray reads when it is imported

    started = connect(address, workers, 1, code=False)
    import ray
    from ray.exceptions import RayError, RayTaskError

    task: Any = ray.remote(train_network).options(num_cpus=1, max_retries=0, num_returns="streaming", scheduling_strategy="SPREAD")
    waiting, at_work, losses = list(wanted), dict[Any, Member](), dict[str, int]()
    try:
        most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        while waiting or at_work:
            while waiting and len(at_work) < most:
                member = waiting.pop(0)
                at_work[task.remote(place, spec, member)] = member
            stream: Any = ray.wait(list(at_work), num_returns=1)[0][0]
            member = at_work[stream]
            try:
                yield ray.get(next(stream))
            except StopIteration:
                del at_work[stream]
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, WnaError) else error from None
            except RayError as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                losses[member.name] = losses.get(member.name, 0) + 1
                if losses[member.name] > LOSSES:
                    raise WnaError(
                        f"the worker of {member.name} died {losses[member.name]} times ({reason}); mend the cause (memory?) and run the "
                        "same command again"
                    ) from None
                del at_work[stream]
                waiting.insert(0, member)
                yield WorkerDied(member.name, reason)
    finally:
        for stream in at_work:
            ray.cancel(stream, force=True)
        if started:
            ray.shutdown()
