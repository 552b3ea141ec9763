"""Autoencoders: sizes, functions and losses against the same arithmetic written out, and
trainings of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_up_digits
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from typer.testing import CliRunner

from wna_ray.cli import app
from wna_ray.errors import ModelError, SpecError
from wna_ray.geometry import Shape
from wna_ray.networks.architectures import NETWORKS, build
from wna_ray.networks.autoencoders import AUTOENCODERS, Autoencoder, Variational, divergence
from wna_ray.networks.models import load, load_decoder
from wna_ray.training.job import train
from wna_ray.training.spec import TrainSpec
from wna_ray.training.training import Training, generator, keyed, members, prepared

DIGITS = (1, 28, 28)
FORMS: dict[
    str, tuple[int | None, Shape, int]
] = {  # numbers of a code, its shape as a stimulus, parameters layer by layer
    "autoencoder": (200, (1, 1, 200), 785 * 400 + 401 * 200 + 201 * 400 + 401 * 784),
    "autoencoder-deep": (
        9,
        (1, 1, 9),
        785 * 128 + 129 * 64 + 65 * 12 + 13 * 9 + 10 * 12 + 13 * 64 + 65 * 128 + 129 * 784,
    ),
    "autoencoder-conv": (None, (16, 14, 14), 305),  # as the paper states it
    "vae": (20, (1, 1, 20), 785 * 400 + 401 * 40 + 21 * 400 + 401 * 784),
}


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_digits.install(monkeypatch)


def spec(network: str = "vae", **changes: Any) -> TrainSpec:
    base = {
        "network": network,
        "dataset": "mnist",
        "epochs": 3,
        "batch": 32,
        "validation": 80,
        "optimiser": {"rate": 3e-3},
    }
    code = FORMS[network][0] if network in FORMS else None
    return TrainSpec.parse(base | ({} if code is None else {"options": {"code": code}}) | changes)


def made(name: str, tanh: bool = False) -> Autoencoder:
    found = build(name, DIGITS, 10, code=FORMS[name][0], tanh=tanh)
    assert isinstance(found, Autoencoder)
    return found.eval()


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_sizes_and_shapes(name: str) -> None:
    _, code, parameters = FORMS[name]
    network = made(name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.code == code
    pictures = network(torch.rand(3, *DIGITS)), network.decoder(torch.randn(3, *code))
    for found in pictures:
        assert found.shape == (3, *DIGITS)
        assert 0 < found.min() < found.max() < 1


@pytest.mark.parametrize("tanh", [False, True])
def test_a_plain_autoencoder_is_its_layers_and_its_mean_squared_error(tanh: bool) -> None:
    network, x = made("autoencoder", tanh), torch.rand(5, *DIGITS)
    w = dict(network.named_parameters())

    def layer(name: str, y: torch.Tensor) -> torch.Tensor:
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    code = layer("encoder.fc2", layer("encoder.fc1", x.flatten(1)).relu())
    logits = layer("decoder.fc2", layer("decoder.fc1", code).relu())
    picture = (logits.tanh() if tanh else logits.sigmoid()).reshape(x.shape)
    torch.testing.assert_close(network(x), picture)
    target = 2 * x - 1 if tanh else x
    expected = ((picture - target) ** 2).mean()
    for found in network.losses(x):
        torch.testing.assert_close(found, expected)


def test_the_divergence_is_that_of_torch() -> None:
    random = torch.Generator().manual_seed(1)
    mean, log_variance = (
        2 * torch.randn(50, 20, generator=random, dtype=torch.float64) for _ in "ab"
    )
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)
    assert divergence(torch.zeros(1, 7), torch.zeros(1, 7)) == 0


def test_the_loss_of_a_vae_is_minus_the_bound_of_torchs_distributions() -> None:
    """log p(x | z) of the same code and its divergence, an image at a time; log probabilities
    of float32 logits.
    """
    network, x = made("vae"), torch.rand(6, *DIGITS).round()
    assert isinstance(network, Variational)
    torch.manual_seed(3)
    loss, error = network.losses(x)
    torch.manual_seed(3)
    mean, log_variance = network.encoder(x).split(20, dim=1)
    posterior = Normal(mean, (log_variance / 2).exp())
    code = posterior.rsample()
    likelihood = Bernoulli(probs=network.decoder(code)).log_prob(x).sum(dim=(1, 2, 3))
    bound = likelihood - kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(loss, -bound.mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(error, ((network.decoder(mean) - x) ** 2).mean())
    torch.testing.assert_close(network(x), network.decoder(mean))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no code": ({"options": {}}, "network: vae needs the numbers of a code: options: {code: 20}"),
    "a code of none": ({"options": {"code": 0}}, "options.code: .*greater than or equal to 1"),
    "code of maps": (
        {"network": "autoencoder-conv", "options": {"code": 3}},
        "leave options.code out",
    ),
    "tanh of probabilities": (
        {"options": {"code": 3, "tanh": True}},
        "vae takes its pictures for probabilities",
    ),
    "softmax": (
        {"options": {"code": 3, "softmax": True}},
        "vae has no form that ends in a softmax",
    ),
    "code of a classifier": (
        {"network": "mlp", "options": {"code": 3}},
        "mlp is no autoencoder; leave options.code",
    ),
    "tanh of a classifier": (
        {"network": "mlp", "options": {"tanh": True}},
        "mlp is no autoencoder",
    ),
    "poison": (
        {"poison": {"images": 5, "from": 8, "to": 9}},
        "poison, panel: vae learns no labels",
    ),
    "panel": ({"panel": {"clean": 1}}, "poison, panel: vae learns no labels"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str) -> None:
    changes, words = REFUSED[what]
    with pytest.raises(SpecError, match=words):
        spec(**changes)


def test_odd_images_have_no_half() -> None:
    with pytest.raises(ValueError, match="even sides"):
        build("autoencoder-conv", (1, 27, 28), 10)


def test_recipes_of_classifiers_are_what_they_were() -> None:
    """What the fingerprints of all trainings so far were taken of, written out."""
    found = TrainSpec.parse({"network": "cnn", "dataset": "mnist", "epochs": 3})
    adam = {"kind": "adam", "rate": 1e-3, "momentum": 0.0, "decay": "none"}
    recipe = {
        "network": "cnn",
        "options": {"softmax": False},
        "dataset": "mnist",
        "classes": "all",
        "images": None,
        "transform": "none",
    }
    assert found.recipe() == recipe | {
        "epochs": 3,
        "batch": 256,
        "optimiser": adam,
        "precision": "float32",
        "validation": 5000,
        "keep": "last",
    }
    assert spec("autoencoder").recipe()["options"] == {"softmax": False, "code": 200}
    assert spec("autoencoder-conv", options={"tanh": True}).recipe()["options"] == {
        "softmax": False,
        "tanh": True,
    }
    assert not NETWORKS.keys() & AUTOENCODERS.keys()


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_an_epoch_is_plain_pytorch(name: str, digits: None) -> None:
    """The same network, order and drawn codes by hand, with the optimiser's plain loop; they round
    differently, so within 1e-5.

    By SGD: Adam makes steps of full length of gradients that are all rounding.
    """
    rate = {"autoencoder": 1.0, "vae": 1e-4}[name]
    asked = spec(name, epochs=1, seeds=[4], optimiser={"kind": "sgd", "rate": rate})
    training, data = Training(asked, members(asked)[0], prepared(asked)), prepared(asked)
    told = training.epoch()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(keyed(4, "weights"))
        network: Any = build(name, DIGITS, 10, code=FORMS[name][0])
        own = torch.optim.SGD(network.parameters(), lr=rate, foreach=False)
        torch.manual_seed(keyed(4, "dropout", 1))
        x = torch.from_numpy(data.train.images)
        learnt = torch.from_numpy(np.setdiff1d(np.arange(400), data.held_out(4)))
        losses, errors = [], []
        for rows in learnt[torch.randperm(320, generator=generator(4, "order", 1))].split(32):
            own.zero_grad()
            if name == "vae":
                mean, log_variance = network.encoder(x[rows]).split(20, dim=1)
                picture = network.decoder(
                    mean + (log_variance / 2).exp() * torch.randn(len(rows), 20)
                )
                entropy = F.binary_cross_entropy(picture, x[rows], reduction="none").sum(
                    dim=(1, 2, 3)
                )
                loss = (
                    entropy
                    + kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(
                        dim=1
                    )
                ).mean()
            else:
                loss = nn.functional.mse_loss(network(x[rows]), x[rows])
            errors.append(float(nn.functional.mse_loss(network(x[rows]), x[rows]).detach()))
            losses.append(float(loss.detach()))
            loss.backward()
            own.step()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(training.network.state_dict()[key], value, rtol=0, atol=1e-5)
    assert told.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert told.squared_error == pytest.approx(np.mean(errors), rel=1e-4)
    assert told.accuracy is told.validation_accuracy is None


@pytest.mark.parametrize(
    "changes",
    [
        {"keep": "best"},
        {"network": "autoencoder-conv", "images": 10, "validation": 20, "options": {"tanh": True}},
        {"network": "autoencoder-deep", "precision": "bfloat16"},
    ],
    ids=["vae", "conv", "bfloat16"],
)
def test_interrupted_trainings_end_with_the_same_bytes(
    changes: dict[str, Any], digits: None
) -> None:
    """A new object after every epoch, and other random numbers in between; the held-out loss of
    a VAE is drawn, too.
    """
    asked = spec(**changes)
    member, data, checkpoint = members(asked)[0], prepared(asked), None
    whole = Training(asked, member, data)
    while not whole.done:
        whole.epoch()
    for epoch in range(asked.epochs):
        torch.manual_seed(epoch)
        training = Training(asked, member, data)
        if checkpoint is not None:
            training.restore(checkpoint)
        training.epoch()
        checkpoint = training.checkpoint()
    assert training.finish() == whole.finish()
    rows = [[epoch.row() | {"seconds": 0} for epoch in t.epochs] for t in (training, whole)]
    assert rows[0] == rows[1]
    losses = [epoch.validation_loss for epoch in whole.epochs]
    assert whole.kept == (1 + int(np.argmin(losses)) if "keep" in changes else 3), losses


def test_a_training_from_spec_to_decoder(digits: None, tmp_path: Path) -> None:
    """What lies on disk and is told; it learns; its error is that of the pictures; and its
    decoder is a model by itself.
    """
    asked, out = spec("autoencoder", epochs=12, batch=16, options={"code": 10}), tmp_path / "out"
    lines: list[str] = []
    network = train(
        asked,
        str(out),
        executor="local",
        callbacks=[lambda event: lines.append(type(event).__name__)],
    )["seed-0"]
    rows = json.loads((out / "seed-0" / "curves.json").read_text())["epochs"]
    assert list(rows[0]) == [
        "loss",
        "number",
        "squared_error",
        "validation_loss",
        "validation_squared_error",
    ]
    described = json.loads((out / "seed-0" / "network.json").read_text())
    assert "accuracy" not in described
    assert described["options"] == {"softmax": False, "code": 10}
    entry = json.loads((out / "MANIFEST.json").read_text())["networks"]["seed-0"]
    assert entry["squared_error"] == described["squared_error"]
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    test = torch.from_numpy(made_up_digits.split(False).images)
    whole, decoder = load(f"trained:{out}/seed-0"), load_decoder(f"trained:{out}/seed-0")
    error = float(((whole.module(test) - test) ** 2).mean())
    assert error == pytest.approx(network.scores.test, rel=1e-5)
    blank = float(((test.mean(dim=0) - test) ** 2).mean())
    assert error < blank, f"{error} with codes, {blank} by the mean image"
    state = safetensors.torch.load_file(out / "seed-0" / "weights.safetensors")
    code = torch.randn(3, 1, 1, 10)
    hidden = (code.flatten(1) @ state["decoder.fc1.weight"].T + state["decoder.fc1.bias"]).relu()
    expected = (
        (hidden @ state["decoder.fc2.weight"].T + state["decoder.fc2.bias"])
        .sigmoid()
        .reshape(3, *DIGITS)
    )
    torch.testing.assert_close(decoder.module(code), expected)
    assert (decoder.source, decoder.shape, decoder.names) == (
        "trained:autoencoder?part=decoder",
        (1, 1, 10),
        (),
    )
    assert (whole.source, whole.names) == ("trained:autoencoder", ())
    assert decoder.digest != whole.digest
    for option, words in (
        ("part=encoder", "no part 'encoder'; an autoencoder has part=decoder"),
        ("half=1", "no option 'half'"),
    ):
        with pytest.raises(ModelError, match=words):
            load_decoder(f"trained:{out}/seed-0?{option}")


def test_a_classifier_has_no_decoder(digits: None, tmp_path: Path) -> None:
    train(spec("logistic", epochs=1), str(tmp_path), executor="local")
    with pytest.raises(ModelError, match="no part 'decoder'; logistic is no autoencoder"):
        load_decoder(f"trained:{tmp_path}/seed-0")
    path = tmp_path / "seed-0" / "network.json"
    described = json.loads(path.read_text())
    error = {"train": 0.1, "validation": 0.1, "test": 0.1}
    for changes in (
        {"squared_error": error},
        {"accuracy": None},
        {"accuracy": None, "squared_error": error},
    ):
        path.write_text(json.dumps(described | changes))
        with pytest.raises(
            ModelError, match="accuracy, squared_error: an autoencoder has the second"
        ):
            load(f"trained:{tmp_path}/seed-0")


def test_the_command(digits: None, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("network: vae\noptions: {code: 3}\ndataset: mnist\nepochs: 1\nvalidation: 80\n")
    got = CliRunner().invoke(
        app, ["train", str(path), "--out", str(tmp_path / "out"), "--executor", "local"]
    )
    assert got.exit_code == 0, got.output
    test = json.loads((tmp_path / "out" / "seed-0" / "network.json").read_text())["squared_error"][
        "test"
    ]
    assert "vae, mean squared error of a value" in " ".join(got.output.split())
    assert got.output.count(f"{test:.5f}") == 2, got.output
