"""Training jobs: what lies on disk, resume after any interruption, refusals, and the same bytes
on Ray.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import made_up_digits
import pytest
from typer.testing import CliRunner

from wna_ray.cli import app
from wna_ray.errors import RunError, SpecError
from wna_ray.storage.store import Place, Store
from wna_ray.training import job as train_run
from wna_ray.training import training
from wna_ray.training.job import (
    EpochDone,
    NetworkDone,
    Resumed,
    TrainingEvent,
    event_text,
    train,
    train_network,
)
from wna_ray.training.spec import TrainSpec
from wna_ray.training.training import members


def spec(**changes: Any) -> TrainSpec:
    base = {
        "network": "logistic",
        "dataset": "mnist",
        "epochs": 3,
        "batch": 32,
        "validation": 80,
        "seeds": [0, 5],
    }
    return TrainSpec.parse(base | changes)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    return made_up_digits.install(monkeypatch)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same(one: Path, two: Path) -> None:
    """The same objects; all bytes are the same but those that tell of seconds."""
    a, b = files(one), files(two)
    assert a.keys() == b.keys()
    for name in a:
        if name.endswith("network.json"):
            first, second = (json.loads(x[name]) | {"seconds": 0} for x in (a, b))
            assert first == second, name
        elif name != "MANIFEST.json":  # it holds the digests of network.json
            assert a[name] == b[name], name


def test_what_lies_on_disk(digits: list[bool], tmp_path: Path) -> None:
    events: list[TrainingEvent] = []
    networks = train(spec(), str(tmp_path), executor="local", callbacks=[events.append])
    found = files(tmp_path)
    per_network = [
        f"seed-{n}/{name}"
        for n in (0, 5)
        for name in ("curves.json", "network.json", "weights.safetensors")
    ]
    assert sorted(found) == sorted(["MANIFEST.json", "curves.png", "spec.json", *per_network])
    manifest = json.loads(found["MANIFEST.json"])
    assert {n: e["sha256"] for n, e in manifest["objects"].items()} == {
        n: hashlib.sha256(data).hexdigest() for n, data in found.items() if n != "MANIFEST.json"
    }
    assert list(networks) == list(manifest["networks"]) == ["seed-0", "seed-5"]
    curves = json.loads(found["seed-5/curves.json"])["epochs"]
    assert [row["number"] for row in curves] == [1, 2, 3]
    assert curves[-1]["validation_accuracy"] == networks["seed-5"].accuracy.validation
    assert networks["seed-5"].seed == 5
    assert [type(e).__name__ for e in events] == ["EpochDone"] * 3 + ["NetworkDone"] + [
        "EpochDone"
    ] * 3 + ["NetworkDone"]
    assert event_text(events[0]).startswith("seed-0: epoch 1 of 3: loss ")


def test_the_same_command_again_does_nothing(digits: list[bool], tmp_path: Path) -> None:
    first = train(spec(), str(tmp_path), executor="local")
    before = files(tmp_path)
    digits.clear()
    events: list[TrainingEvent] = []
    assert train(spec(), str(tmp_path), executor="local", callbacks=[events.append]) == first
    assert (files(tmp_path), digits, events) == (before, [], [])


class Crash(BaseException):
    """As if the process were killed."""


@pytest.mark.parametrize("operation", range(12))
def test_a_crash_at_any_write_is_resumed(
    operation: int, digits: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any number of writes; each network is committed once, no epoch before the last
    checkpoint is trained again.
    """
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(spec(), str(whole), executor="local")
    writes = 0

    def count(real: Any) -> Any:
        def write(self: Store, name: str, data: bytes) -> Any:
            nonlocal writes
            writes += 1
            if writes > operation:
                raise Crash(name)
            return real(self, name, data)

        return write

    with monkeypatch.context() as patch:
        for name in ("create", "replace"):
            patch.setattr(Store, name, count(getattr(Store, name)))
        with pytest.raises(Crash):
            train(spec(), str(cut), executor="local")
    checkpoints = [path for path in files(cut) if "checkpoint" in path]
    events: list[TrainingEvent] = []
    train(spec(), str(cut), executor="local", callbacks=[events.append])
    same(whole, cut)
    resumed = [e for e in events if isinstance(e, Resumed)]
    done_before = {e.name for e in events if isinstance(e, NetworkDone) and e.before}
    assert {e.name for e in resumed} == {path.split("/")[0] for path in checkpoints} - done_before
    for event in resumed:
        assert [
            e.epoch.number for e in events if isinstance(e, EpochDone) and e.name == event.name
        ] == list(range(event.epochs + 1, 4))


def test_another_spec_is_refused_with_the_difference(digits: list[bool], tmp_path: Path) -> None:
    train(spec(), str(tmp_path), executor="local")
    with pytest.raises(
        RunError,
        match=r"(?s)another spec.*optimiser.rate: 0.001 -> 0.01\n.*seeds: \[0,5\] -> \[0\]",
    ):
        train(spec(seeds=[0], optimiser={"rate": 0.01}), str(tmp_path), executor="local")


def test_foreign_and_damaged_directories(digits: list[bool], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.json").write_text('{"format": "wna_ray.run/3"}')
    with pytest.raises(RunError, match="not of a training job"):
        train(spec(), str(tmp_path / "run"), executor="local")
    out = tmp_path / "out"
    train(spec(), str(out), executor="local")
    (out / "MANIFEST.json").unlink()
    weights = out / "seed-0" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"?")
    with pytest.raises(
        RunError, match=r"seed-0/weights.safetensors' is damaged; delete the folder 'seed-0'"
    ):
        train(spec(), str(out), executor="local")
    weights.write_bytes(whole)
    (out / "seed-5").rename(out / "kept")
    (out / "seed-0").rename(out / "seed-5")
    (out / "kept").rename(out / "seed-0")
    with pytest.raises(RunError, match="holds a network of another spec"):
        train(spec(), str(out), executor="local")
    (out / "seed-0" / "network.json").write_text("{}")
    with pytest.raises(RunError, match=r"network.json is damaged"):
        train(spec(), str(out), executor="local")


def test_a_damaged_checkpoint_is_told(digits: list[bool], tmp_path: Path) -> None:
    steps = train_network(Place(str(tmp_path)), spec(), members(spec())[0])
    next(steps)
    next(steps)
    steps.close()
    checkpoint = tmp_path / "seed-0" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match=r"checkpoint.safetensors' is damaged.*delete it"):
        train(spec(), str(tmp_path), executor="local")


def test_weights_of_other_arithmetic_are_told(digits: list[bool], tmp_path: Path) -> None:
    """A network half committed by a machine that rounds otherwise."""
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "weights.safetensors").write_bytes(b"other bytes")
    with pytest.raises(RunError, match="other bytes, from a machine whose arithmetic differs"):
        train(spec(), str(tmp_path), executor="local")


def test_other_images_are_told(
    digits: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = train_network(Place(str(tmp_path)), spec(), members(spec())[0])
    assert isinstance(list(steps)[-1], NetworkDone)
    real = made_up_digits.split
    monkeypatch.setattr(
        made_up_digits, "split", lambda train: real(train).of_classes(tuple(range(9, -1, -1)))
    )
    training.splits.cache_clear()
    with pytest.raises(RunError, match="trained on different images"):
        train(spec(), str(tmp_path), executor="local")


def test_absent_images_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise train_run.NotAtHand("no MNIST at hand; set WNA_DATA to a folder that holds MNIST/raw")

    monkeypatch.setattr(training.datasets, "load", absent)
    training.splits.cache_clear()
    with pytest.raises(SpecError, match=r"^dataset: no MNIST at hand; set WNA_DATA"):
        train(spec(), str(tmp_path), executor="local")


def test_a_panel(digits: list[bool], tmp_path: Path) -> None:
    asked = TrainSpec.parse(
        {
            "network": "logistic",
            "dataset": "mnist",
            "epochs": 1,
            "validation": 80,
            "panel": {"clean": 1, "poisoned": 2},
        }
    )
    networks = train(asked, str(tmp_path), executor="local")
    assert list(networks) == ["clean-00", "poisoned-00", "poisoned-01"]
    truth = [n.poison for n in networks.values()]
    assert truth[0] is None
    assert truth[1] != truth[2]
    assert [n.attack is None for n in networks.values()] == [True, False, False]


@pytest.mark.ray
def test_ray_gives_the_same_bytes(wna_data: Path, ray_cluster: None, tmp_path: Path) -> None:
    training.splits.cache_clear()
    asked = spec(images=50, epochs=2, validation=100)
    train(asked, str(tmp_path / "local"), executor="local")
    events: list[TrainingEvent] = []
    train(asked, str(tmp_path / "ray"), workers=2, callbacks=[events.append])
    same(tmp_path / "local", tmp_path / "ray")
    assert sorted((e.name, e.epoch.number) for e in events if isinstance(e, EpochDone)) == [
        (f"seed-{s}", n) for s in (0, 5) for n in (1, 2)
    ]
    with pytest.raises(SpecError, match=r"^validation: 500 of 500"):
        train(spec(images=50, validation=500), str(tmp_path / "few"))


@pytest.mark.ray
def test_a_worker_that_dies_is_replaced(wna_data: Path, ray_cluster: None, tmp_path: Path) -> None:
    """The task kills its own process after the first checkpoint, once."""
    import os
    from collections.abc import Iterator

    training.splits.cache_clear()
    asked = spec(images=50, epochs=3, validation=100, seeds=[0])
    train(asked, str(tmp_path / "local"), executor="local")
    real, flag = train_run.train_network, str(tmp_path / "died")

    def dying(place: Place, spec: TrainSpec, member: Any) -> Iterator[TrainingEvent]:
        for event in real(place, spec, member):
            yield event
            if (
                isinstance(event, EpochDone)
                and event.epoch.number == 2
                and not os.path.exists(flag)
            ):
                open(flag, "w").close()
                os._exit(1)

    events: list[TrainingEvent] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_run, "train_network", dying)
        train(asked, str(tmp_path / "ray"), callbacks=[events.append])
    same(tmp_path / "local", tmp_path / "ray")
    kinds = [type(e).__name__ for e in events]
    assert kinds.count("WorkerDied") == 1
    assert "Resumed" in kinds


def test_the_command(digits: list[bool], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("network: logistic\ndataset: mnist\nepochs: 1\nvalidation: 80\n")
    done = CliRunner().invoke(
        app,
        [
            "train",
            str(path),
            "--out",
            str(tmp_path / "out"),
            "--executor",
            "local",
            "--set",
            "seeds=[3]",
        ],
    )
    assert done.exit_code == 0, done.output
    assert f"trained:{tmp_path / 'out'}/seed-3" in done.output.replace("\n", "")
    again = CliRunner().invoke(
        app, ["train", str(path), "--out", str(tmp_path / "out"), "--executor", "local"]
    )
    assert (again.exit_code, "seeds: [3] -> [0]" in again.output) == (1, True)
    wrong = CliRunner().invoke(
        app, ["train", str(path), "--out", str(tmp_path / "other"), "--set", "network=cnm"]
    )
    assert (wrong.exit_code, "no network 'cnm'" in wrong.output) == (2, True)
