"""Small specs, one of every kind, and a network of one's own.

They are laid out in a folder ``given``, of which both trees have the same bytes. How work is cut
always stands in a spec, since by default it follows from how fast a machine is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Spec = dict[str, Any]

GIVEN = "given"
PROGRAM = "program.pt2"  # saved by torch.export
BATCH = 64
CUT: Spec = {"shard": 128, "segments": 4}
NOISE: Spec = {"kind": "gaussian", "shape": [1, 28, 28], "offset": "mean:mnist", "scale": 0.3}
UNIFORM: Spec = {"kind": "uniform", "shape": [1, 28, 28], "offset": 0.5, "scale": 0.5}
PHOTOGRAPHS: Spec = {"kind": "images", "dataset": "imagenet-sample", "split": "test"}
PHOTOGRAPHS |= {"shape": [3, 224, 224], "cell": 32, "classes": "0:1000:60"}
DIGITS: Spec = {"kind": "images", "dataset": "mnist", "split": "train", "shape": [1, 28, 28]}
GABOR: Spec = {"kind": "gabor-pca", "dataset": "mnist", "components": 20}
AUTHORS: Spec = GABOR | {"spread": "range", "centre": False, "rescale": "minmax"}
COLOUR: Spec = {"kind": "gaussian", "shape": [3, 64, 64], "offset": 0.5, "scale": 0.2}
CENTRED: Spec = {"kind": "logits", "centred": True}  # as by default before 0.1.0
OWN = f"{GIVEN}.own_model"

OWN_MODEL = '''"""A small network, as somebody may bring one."""

import torch
from torch import nn


def network(seed: str = "0") -> nn.Module:
    """One convolution and one linear layer, their weights drawn anew."""
    torch.manual_seed(int(seed))
    layers = nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5)
    return nn.Sequential(*layers)
'''


def base(samples: int = 512, **more: Any) -> Spec:
    """Make the spec of a run of the bundled network."""
    found: Spec = {"model": "bundled:mnist-cnn", "stimulus": NOISE, "responses": [CENTRED]}
    found |= {"samples": samples, "seed": 3, "evaluation": "none"}
    return found | {"numerics": {"batch": BATCH}, "execution": CUT} | more


def trials(**more: Any) -> Spec:
    """Make the spec of trials of the bundled network."""
    found: Spec = {"model": "bundled:mnist-cnn", "signals": {"dataset": "mnist", "images": 2}}
    return found | {"seed": 5, "numerics": {"batch": 32}, "execution": CUT} | more


def sweep(spec: Spec, **axes: Spec) -> Spec:
    """Make a sweep around a spec."""
    return {"sweep": axes} | spec


def training(network: str, **more: Any) -> Spec:
    """Make the spec of a training that takes a second."""
    found: Spec = {"network": network, "dataset": "mnist", "images": 20, "epochs": 2, "batch": 32}
    found |= {"optimiser": {"kind": "adam", "rate": 0.002, "decay": "cosine"}, "validation": 40}
    return found | more


KINDS: Spec = {
    "uniform": {"stimulus": UNIFORM},
    "binary": {"stimulus.kind": "binary", "stimulus.offset": 0.5, "stimulus.scale": 0.5},
    "sparse": {"stimulus": UNIFORM | {"kind": "sparse", "density": 0.0204, "cell": 4}},
    "spectrum": {"stimulus.spectrum": 1},
    "stripes": {"stimulus": UNIFORM | {"basis": {"kind": "stripes"}}},
    "gabor": {"stimulus.scale": 0.05, "stimulus.basis": {"kind": "gabor"}},
    "pca": {"stimulus.offset": 0, "stimulus.basis": GABOR | {"kind": "pca"}},
    "gabor-pca": {"stimulus.offset": 0, "stimulus.scale": 1, "stimulus.basis": GABOR},
    "authors": {"stimulus": UNIFORM | {"offset": 0, "scale": 1, "basis": AUTHORS}},
}
"""Every kind of noise."""

CONV2: Spec = {"layer": "conv2", "units": [4, 5, 13]}
ANSWERS: Spec = {
    "units": {
        "target": CONV2,
        "responses": ["rectified", {"kind": "spikes", "quantile": 0.9}],
        "keep_responses": True,
    },
    "pooled": {"target": {"layer": "conv1", "position": "pooled"}, "responses": ["activation"]},
    "mean": {"target": CONV2 | {"position": "mean"}, "responses": ["activation"]},
    "gradient": {"estimator": "gradient", "samples": 256},
    "unit-gradient": {"target": CONV2, "responses": ["rectified"], "estimator": "gradient"},
    "digits": {
        "target": {"layer": "conv1", "position": [10, 10]},
        "stimulus": DIGITS,
        "responses": ["rectified"],
    },
    "digit-gradient": {"stimulus": DIGITS, "estimator": "gradient", "samples": 256},
    "enough": {
        "stop": {"reliability": 0.4, "share": 1.0, "first": 256},
        "samples": 4096,
        "moments": {"halves": True},
    },
    "bfloat16": {"numerics": {"batch": BATCH, "dtype": "bfloat16"}, "samples": 256},
}
"""Every kind of answer, and every way to look at it."""

AS_INPUT: Spec = {"stimulus.space": "input"}  # networks that declare no normalisation
MODELS: Spec = {
    "own": {"model": f"python:{OWN}:network?seed=4", **AS_INPUT},
    "exported": {"model": f"export:{GIVEN}/{PROGRAM}", **AS_INPUT},
    "trained": {"model": "trained:nets/seed-0", "evaluation": {"dataset": "mnist", "images": 50}},
    "decoded": {
        "decoder": "trained:vae/seed-0",
        "stimulus": {"kind": "gaussian", "shape": [1, 1, 6], "scale": 1, "space": "input"},
        "evaluation": {"dataset": "mnist", "split": "validation"},
    },
    "torchvision": {
        "model": "torchvision:squeezenet1_1?seed=0",
        "target": {"layer": "features.3", "units": [0, 1]},
        "stimulus": PHOTOGRAPHS,
        "responses": ["activation"],
        "samples": 16,
        "numerics": {"batch": 8},
    },
    "timm": {
        "model": "timm:test_resnet?seed=0",
        "target": {"layer": "layer1.0.conv1", "units": [0, 1]},
        "stimulus": COLOUR,
        "responses": ["activation"],
        "samples": 64,
        "numerics": {"batch": 16},
    },
}
"""Every way to name a network."""

MIX: Spec = {"run": "demo", "response": "logits", "form": "mix", "weights": [0, 0.5]}
LAYERS: Spec = {"layers": ["fc1", "conv2"], "strengths": [-0.5, 0, 0.5], "classes": ["3", "8"]}
DONE_TO: Spec = {
    "mixed": {
        "gammas": [0, 1],
        "attack": MIX | {"by": ["map", "mean", "permuted", "random"], "targets": ["3", "8"]},
    },
    "steps": {"attack": {"by": ["fgsm", "random"], "form": "l2", "weights": [0, 2]}},
    "untargeted": {"attack": {"by": "fgsm-untargeted", "form": "linf", "weights": [0, 0.1]}},
    "stimulated": {"gammas": [0.5], "stimulate": LAYERS | {"by": ["class-mean", "sta", "sham"]}},
    "scaled": {"gammas": [0.5], "stimulate": LAYERS | {"mode": "scale"}},
    "moved": {"transforms": ["none", "shrink-upper-left", "rotate-90", "zoom"]},
}
"""Everything that can be done to trials."""

HALF: Spec = {"run": "answers/units", "response": "rectified", "axes": 3}
COVARIANCES: Spec = {
    "dense": {},
    "triggered": {"linear": False, "fresh": 0},
    "clipped": {"clip": 2.0, "fresh": 0},
    "matrix-free": {"method": "matrix-free", "passes": 2, "units": ["4"]},
    "hessian": {
        "run": "answers/gradient",
        "model": "bundled:mnist-cnn",
        "response": "logits",
        "units": ["3"],
        "fresh": 1,
    },
}
"""Every kind of covariance."""

PANEL = ("clean-00", "clean-01", "clean-02", "poisoned-00")
NETWORKS: Spec = {
    "trained": {"model": "bundled:mnist-cnn", "seed": 1},
    "drawn": {"model": "bundled:mnist-cnn?seed=1", "seed": 2},
}

SPECS: dict[str, Spec] = {
    "one": base(stimulus=NOISE | {"offset": "bundled:mnist-mean"}, keep_responses=True),
    "demo": base(
        1024,
        responses=["label", "confidence", CENTRED, "probabilities"],
        moments={"second": True, "halves": True},
        keep_responses=True,
        evaluation="mnist",
    ),
    "kinds": sweep(base(responses=["label", CENTRED]), noise=KINDS),
    "answers": sweep(base(), answer=ANSWERS),
    "models": sweep(base(256), model=MODELS),
    "pairs": sweep(
        base(full={"samples": 2048}),
        network=NETWORKS,
        noise={"mean": {"stimulus.offset": "bundled:mnist-mean"}, "grey": {"stimulus.offset": 0.5}},
    ),
    "panel-runs": sweep(
        base(256, responses=["label", CENTRED]),
        network={name: {"model": f"trained:panel/{name}"} for name in PANEL},
    ),
    "own": base(256, model=f"python:{OWN}:network", stimulus=NOISE | {"space": "input"}),
    "trials": trials(
        model="trained:binary/seed-0",
        signals={"dataset": "mnist", "classes": [5, 6], "images": 10},
        noise={"kind": "gaussian", "offset": "mean:mnist", "scale": 0.3},
        gammas=[0.3, 0.1, 0],
        repeats=4,
        moments=True,
    ),
    "done-to": sweep(trials(noise=UNIFORM), done=DONE_TO),
    "stc": HALF | {"units": ["4", "5"], "fresh": 2, "execution": CUT},
    "covariances": sweep(HALF | {"fresh": 1, "execution": CUT}, way=COVARIANCES),
    "nets": training("cnn", images=60, seeds=[0], keep="best"),
    "vae": training("vae", options={"code": 6}),
    "panel": training("small-cnn", epochs=1, panel={"clean": 3, "poisoned": 1, "seed": 7}),
    "binary": training("cnn-binary", classes=[5, 6], images=60, precision="bfloat16"),
    "wrong": base(0, modell="x", stimulus=NOISE | {"scale": "wide"}),
}


def write_specs(folder: Path) -> None:
    """Write all specs, and the network of one's own, into a folder."""
    folder.mkdir(parents=True)
    for name, spec in SPECS.items():
        (folder / f"{name}.yaml").write_text(json.dumps(spec, indent=1) + "\n")
    (folder / "own_model.py").write_text(OWN_MODEL)
