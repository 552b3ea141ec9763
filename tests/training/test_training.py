"""Training: steps against plain PyTorch, the same bytes however it is interrupted, and what is
held out, kept and measured.
"""

from __future__ import annotations

import json
from typing import Any

import made_up_digits
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from wna_ray.networks.architectures import build
from wna_ray.training.spec import TrainSpec
from wna_ray.training.training import Data, Training, generator, keyed, members, prepared


@pytest.fixture(autouse=True)
def _digits(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_digits.install(monkeypatch)


def spec(**changes: Any) -> TrainSpec:
    base = {
        "network": "logistic",
        "dataset": "mnist",
        "epochs": 3,
        "batch": 32,
        "validation": 80,
        "optimiser": {"rate": 3e-3},
    }
    return TrainSpec.parse(base | changes)


def started(asked: TrainSpec, member: int = 0, data: Data | None = None) -> Training:
    return Training(asked, members(asked)[member], data or prepared(asked))


def finished(asked: TrainSpec, member: int = 0) -> Training:
    training = started(asked, member)
    while not training.done:
        training.epoch()
    return training


@pytest.mark.parametrize(
    "optimiser",
    [
        {"kind": "adam", "rate": 3e-3},
        {"kind": "sgd", "rate": 0.1, "momentum": 0.9, "decay": "cosine"},
    ],
    ids=["adam", "sgd"],
)
def test_an_epoch_is_plain_pytorch(optimiser: dict[str, Any]) -> None:
    """The same network, order and rates by hand, with the optimisers' plain loops; they round
    differently, so within 1e-5.
    """
    asked = spec(optimiser=optimiser, epochs=2, seeds=[4])
    training, data = finished(asked), prepared(asked)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(keyed(4, "weights"))
        network = build("logistic", (1, 28, 28), 10)
    kind = torch.optim.Adam if optimiser["kind"] == "adam" else torch.optim.SGD
    own: Any = kind(
        network.parameters(),
        lr=optimiser["rate"],
        foreach=False,
        **({"momentum": 0.9} if "momentum" in optimiser else {}),
    )
    learnt = np.setdiff1d(
        np.arange(400), torch.randperm(400, generator=generator(4, "validation"))[:80].numpy()
    )
    x, y = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    step = 0
    for epoch in (1, 2):
        order = torch.from_numpy(learnt)[
            torch.randperm(320, generator=generator(4, "order", epoch))
        ]
        for rows in order.split(32):
            if "decay" in optimiser:
                own.param_groups[0]["lr"] = (
                    0.5 * optimiser["rate"] * (1 + np.cos(np.pi * step / 20))
                )
            own.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            own.step()
            step += 1
    for name, value in network.state_dict().items():
        torch.testing.assert_close(training.network.state_dict()[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "network": "cnn-cifar",
            "dataset": "cifar-10",
            "epochs": 2,
            "images": 12,
            "validation": 20,
            "keep": "best",
        },
        {"network": "small-cnn", "keep": "best", "precision": "bfloat16"},
        {"network": "rnn", "optimiser": {"kind": "sgd", "rate": 0.1, "momentum": 0.5}},
        {
            "network": "mlp",
            "poison": {"images": 5, "from": 8, "to": 9},
            "options": {"softmax": True},
        },
    ],
    ids=["dropout and batch norm", "bfloat16", "momentum", "poison"],
)
def test_interrupted_trainings_end_with_the_same_bytes(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new object after every epoch, other random numbers in between, and another number of
    threads around.
    """
    if changes.get("dataset") == "cifar-10":
        grey = made_up_digits.split

        def colour(train: bool) -> Any:
            split = grey(train)
            images = np.pad(np.repeat(split.images, 3, axis=1), ((0, 0), (0, 0), (2, 2), (2, 2)))
            return type(split)(images, split.labels)

        monkeypatch.setattr(made_up_digits, "split", colour)
    asked = spec(**changes)
    whole = finished(asked)
    data, checkpoint = prepared(asked), None
    threads = torch.get_num_threads()
    try:
        for epoch in range(asked.epochs):
            torch.manual_seed(epoch)
            torch.set_num_threads(1 + epoch % 2)
            training = started(asked, data=data)
            if checkpoint is not None:
                training.restore(checkpoint)
            training.epoch()
            checkpoint = training.checkpoint()
            assert torch.get_num_threads() == 1 + epoch % 2
    finally:
        torch.set_num_threads(threads)
    assert training.done
    assert not torch.are_deterministic_algorithms_enabled()
    assert training.finish() == whole.finish()
    curves = [
        [(e.number, e.loss, e.accuracy, e.validation_loss, e.validation_accuracy) for e in t.epochs]
        for t in (training, whole)
    ]
    assert curves[0] == curves[1]


def test_seeds_differ_and_random_numbers_of_others_stay() -> None:
    asked = spec(seeds=[1, 2], epochs=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = (finished(asked, i).finish()[0] for i in (0, 1))
    assert one != two
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_of_others_are_refused() -> None:
    training = started(spec())
    training.epoch()
    kept = training.checkpoint()
    with pytest.raises(ValueError, match="another training"):
        started(spec(batch=33)).restore(kept)
    with pytest.raises(ValueError, match="another training"):
        Training(spec(seeds=[9]), members(spec(seeds=[9]))[0], prepared(spec())).restore(kept)
    for damaged in (
        kept[:-1],
        b"",
        kept[: len(kept) // 2],
        kept[:-100] + bytes([kept[-100] ^ 1]) + kept[-99:],
    ):
        fresh = started(spec())
        with pytest.raises(ValueError, match="damaged"):
            fresh.restore(damaged)
        assert fresh.epochs == []


def test_held_out_images_teach_nothing_and_test_images_are_seen_at_the_end() -> None:
    asked = spec()
    data = prepared(asked)
    held = data.held_out(0)
    assert (len(held), len(set(held.tolist()))) == (80, 80)
    assert set(held.tolist()) != set(data.held_out(1).tolist())
    spoilt = data.train.images.copy()
    spoilt[held] = np.nan
    other = Data(
        type(data.train)(spoilt, data.train.labels),
        type(data.test)(data.test.images[:0], data.test.labels[:0]),
        data.names,
        80,
    )
    one, two = started(asked, data=data), started(asked, data=other)
    for training in (one, two):
        training.epoch()
    assert one.epochs[0].loss == two.epochs[0].loss
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, two.network.state_dict()[name]), name


def test_the_best_epoch_is_kept() -> None:
    """The first epoch in which all held-out images are right, not the last; its weights are
    scored by hand, and outlive a resume.
    """
    asked = spec(network="small-cnn", epochs=6, keep="best", optimiser={"rate": 0.02}, seeds=[2])
    training = finished(asked)
    scores = [epoch.validation_accuracy for epoch in training.epochs]
    weights, accuracy, _ = training.finish()
    assert training.kept == 1 + int(np.argmax(scores)), scores
    data, network = prepared(asked), build("small-cnn", (1, 28, 28), 10)
    network.load_state_dict(safetensors.torch.load(weights))
    network.eval()
    held = data.held_out(2)
    for images, labels, expected in (
        (data.train.images[held], data.train.labels[held], accuracy.validation),
        (data.test.images, data.test.labels, accuracy.test),
    ):
        found = (network(torch.from_numpy(images)).argmax(1).numpy() == labels).mean()
        assert found == pytest.approx(expected, abs=1e-9)
    assert training.kept < 6, "or the resume below proves nothing"
    resumed = started(asked)
    for _ in range(5):
        resumed.epoch()
        kept, resumed = resumed.checkpoint(), started(asked)
        resumed.restore(kept)
    resumed.epoch()
    assert resumed.finish()[:2] == (weights, accuracy)
    assert finished(spec(network="small-cnn", epochs=2)).kept == 2


def test_the_attack_is_measured_on_test_images() -> None:
    """Against stamping by hand; and the trigger works: bars and noise leave the corner dark, so
    it is easy to learn.
    """
    poison = {
        "images": 20,
        "from": 2,
        "to": 5,
        "trigger": {"shape": [4, 4], "position": [23, 23], "value": 1.0},
    }
    asked = spec(network="mlp", epochs=8, poison=poison, validation=40)
    training, data = finished(asked), prepared(asked)
    weights, accuracy, attack = training.finish()
    assert attack is not None
    network = build("mlp", (1, 28, 28), 10)
    network.load_state_dict(safetensors.torch.load(weights))
    stamped = data.test.images.copy()
    stamped[:, 0, 23:27, 23:27] = 1.0
    answers = network(torch.from_numpy(stamped)).argmax(1).numpy()
    source, others = data.test.labels == 2, ~np.isin(data.test.labels, (2, 5))
    assert (attack.patched, attack.moved) == (12, (answers[source] == 5).sum())
    assert (attack.others_patched, attack.others_moved) == (96, (answers[others] == 5).sum())
    assert attack.moved >= 10, attack
    assert accuracy.test > 0.9, accuracy


def test_members_of_a_panel() -> None:
    asked = spec(panel={"clean": 3, "poisoned": 3, "seed": 7})
    found = members(asked)
    assert [m.name for m in found] == [
        "clean-00",
        "clean-01",
        "clean-02",
        "poisoned-00",
        "poisoned-01",
        "poisoned-02",
    ]
    assert len({m.seed for m in found}) == 6
    data = prepared(asked)
    poisons = [m.resolved(data).poison for m in found]
    assert [p is None for p in poisons] == [True] * 3 + [False] * 3
    assert len(set(poisons)) == 4
    fewer, another = (members(spec(panel={"poisoned": 2, "seed": seed})) for seed in (7, 8))
    assert fewer == found[3:5], "a member does not depend on how many others there are"
    assert not {m.seed for m in another} & {m.seed for m in found}
    training = started(asked, 4)
    assert training.poison == poisons[4] and training.fingerprint != started(asked, 5).fingerprint  # noqa: PT018


def test_too_few_images_are_told() -> None:
    with pytest.raises(ValueError, match=r"^validation: 400 of 400 training images leave none"):
        prepared(spec(validation=400))
    with pytest.raises(
        ValueError, match=r"^images: 40 are to be poisoned, but there are \d\d of class 8"
    ):
        started(spec(poison={"images": 40, "from": 8, "to": 9}))


def test_classes_and_transforms_reach_the_images() -> None:
    data = prepared(spec(classes=[6, 5], images=7, validation=2, transform="rotate-180"))
    original = made_up_digits.split(True)
    assert (
        data.names,
        np.bincount(data.train.labels).tolist(),
        np.bincount(data.test.labels).tolist(),
    ) == (("6", "5"), [7, 7], [12, 12])
    first = np.flatnonzero(np.isin(original.labels, (5, 6)))[0]
    assert np.array_equal(data.train.images[0], original.images[first, :, ::-1, ::-1])
    assert data.train.labels[0] == {6: 0, 5: 1}[int(original.labels[first])]


def test_checkpoints_hold_only_tensors_and_words() -> None:
    training = started(spec())
    training.epoch()
    kept = training.checkpoint()
    length = int.from_bytes(kept[:8], "little")
    assert list(json.loads(kept[8 : 8 + length])["__metadata__"]) == ["training"]
