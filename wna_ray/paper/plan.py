"""What ``wna paper`` trains and runs: jobs of ``jobs/`` and ``jobs/paper/``, in order, each a
directory under ``paper/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AUTHORS: dict[str, Any] = {"epochs": 15, "batch": 256, "optimiser": {"kind": "adam", "rate": 1e-3}}
"""How the authors trained their networks."""


@dataclass(frozen=True)
class Step:
    """One job.

    Attributes
    ----------
    name
        Its directory under the paper's.
    job
        Its YAML file in ``jobs/``.
    kind
        What to do with it.
    changes
        Dotted keys that are set in it.
    full
        More of them, at the paper's size. (Files of runs say in themselves what changes at that
        size.)
    wave
        Steps of one wave are done at the same time.
    """

    name: str
    job: str
    kind: Literal["train", "run"] = "run"
    changes: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)
    wave: int = 0


def _train(name: str, job: str, full: Mapping[str, Any] = AUTHORS, **changes: Any) -> Step:
    return Step(f"nets/{name}", f"train-{job}.yaml", "train", changes, full)


def _run(name: str, wave: int) -> Step:
    return Step(f"runs/{name}", f"paper/{name}.yaml", wave=wave)


RNN: dict[str, Any] = {
    "epochs": 17,
    "batch": 100,
    "optimiser": {"kind": "sgd", "rate": 0.01},
    "keep": "best",
}
CIFAR: dict[str, Any] = {"images": None, **AUTHORS, "keep": "best"}

STEPS: tuple[Step, ...] = (
    _train("mnist", "mnist"),
    _train("mnist-softmax", "mnist", options={"softmax": True}, seeds=[0]),
    _train("logistic", "logistic"),
    _train("mlp", "mlp", AUTHORS | {"epochs": 30}),
    _train("rnn", "rnn", RNN | {"images": None}, images=3000),
    _train("lstm", "rnn", RNN, network="lstm", epochs=2, seeds=[0]),
    _train("fashion", "fashion", network="cnn"),
    _train("fashion-wide", "fashion", options={"softmax": True}, seeds=[0], images=3000),
    _train(
        "cifar",
        "cifar",
        CIFAR,
        network="cnn",
        images=None,
        epochs=4,
        seeds=[0, 1, 2],
        validation=5000,
    ),
    _train("cifar-paper", "cifar", CIFAR, images=600, validation=1000),
    _train(
        "cifar-centre",
        "cifar",
        CIFAR,
        network="cnn",
        images=2000,
        epochs=3,
        transform="shrink-centre",
    ),
    _train("binary-56", "binary-56", AUTHORS | {"batch": 100, "epochs": 20}),
    _train("logistic-56", "logistic", classes=[5, 6], seeds=[0], validation=1000),
    _train(
        "binary-28",
        "binary-56",
        AUTHORS | {"batch": 100},
        network="cnn-binary-2",
        classes=[2, 8],
        seeds=[0],
    ),
    _train("backdoor", "backdoor", seeds=[0, 1, 2]),
    _train("panel", "panel", {}, panel={"clean": 40, "poisoned": 20, "seed": 5}),
    _train("autoencoder", "autoencoder", {}),
    _train("autoencoder-tanh", "autoencoder", {}, options={"code": 200, "tanh": True}),
    _train("vae", "vae", {}),
    # Sweeps: each member is a task of one core, so all of them fill the machine together.
    *(
        _run(name, 1)
        for name in (
            "imagenet",
            "imagenet-photographs",
            "cifar-maps-resnet20",
            "transforms-resnet20",
            "cifar-maps",
            "cifar-gabor",
            "transforms",
            "psychometric",
            "psychometric-ten",
            "mnist-maps",
            "mnist-gabor",
            "fashion-maps",
            "fashion-gabor",
            "family-maps",
            "noise-kinds",
            "backdoor-maps",
            "panel-maps",
            "raw-inputs",
            "gradients",
            "units",
            "latent",
        )
    ),
    *(_run(name, 2) for name in ("attack", "attack-budget")),  # with maps of the wave before
    # Single runs have the whole cluster each.
    *(
        _run(name, 3 + i)
        for i, name in enumerate(
            ("fgsm", "units-images", "microstimulation", "microstimulation-binary")
        )
    ),
)
