"""The strictest oracles: networks whose maps are known, and the demo's claims on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wna_ray import run
from wna_ray.data.datasets import load
from wna_ray.kinds.average.run import Run
from wna_ray.networks.architectures import logistic_regression
from wna_ray.specs.run import Spec
from wna_ray.statistics.classifier import classify, mean_images

DEMO = Path(__file__).parents[1] / "jobs" / "demo.yaml"


def correlations(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each pair of rows."""
    a, b = (
        m.reshape(len(m), -1) - m.reshape(len(m), -1).mean(axis=1, keepdims=True)
        for m in (maps, truth)
    )
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_logistic_regression_on_real_digits_shows_its_weights(
    wna_data: Path, tmp_path: Path
) -> None:
    """Trained on MNIST; under zero-mean noise each of the ten logit maps is its weight row
    minus the mean row: r >= 0.95 at 200,000.
    """
    train = load("mnist", train=True)
    x, y = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    torch.manual_seed(0)
    model = logistic_regression()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for index in torch.randperm(len(x)).repeat(3).split(256):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[index]), y[index]).backward()
        optimiser.step()
    save_file(model.state_dict(), tmp_path / "lr.safetensors")
    got = run(
        Spec.parse(
            {
                "model": (
                    "python:wna_ray.networks:logistic_regression"
                    f"?weights={tmp_path / 'lr.safetensors'}"
                ),
                "stimulus": {
                    "kind": "uniform",
                    "shape": [1, 28, 28],
                    "scale": 1.0,
                    "space": "input",
                },
                "responses": ["logits", "label"],
                "samples": 200_000,
                "seed": 3,
                "numerics": {"batch": 500},
            }
        ),
        str(tmp_path / "run"),
        executor="local",
    )
    w = model.fc.weight.detach().numpy()
    r = correlations(got.bias_maps[:10], w)
    assert r.min() >= 0.95, f"correlations {np.round(r, 3)}"
    # and the run's own reliability must say the same: squared cosine with the truth, within 0.01
    assert got.classes["reliability"].to_numpy()[:10] == pytest.approx(r**2, abs=0.01)


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo at 100,000 images, in this process."""
    spec = Spec.load(DEMO, {"samples": 100_000, "numerics": {"batch": 128}, "evaluation": "none"})
    return run(spec, str(tmp_path_factory.mktemp("demo") / "run"), executor="local")


def test_the_network_recognises_its_own_maps(small_demo: Run) -> None:
    """At least 8 of 10 logit maps, and all but one of the label maps that rest on 1,000 images
    or more.
    """
    rows = small_demo.classes.to_pylist()
    logits = [r["self_label"] == r["name"] for r in rows if r["kind"] == "logits"]
    labels = [
        r["self_label"] == r["name"] for r in rows if r["kind"] == "label" and r["count"] >= 1000
    ]
    assert sum(logits) >= 8, f"{sum(logits)} of 10 logit maps"
    assert labels
    assert sum(labels) >= len(labels) - 1, f"{sum(labels)} of {len(labels)} label maps"


def test_every_well_populated_map_carries_its_significance(small_demo: Run) -> None:
    for row in small_demo.classes.to_pylist():
        if row["kind"] == "logits" or row["count"] >= 1000:
            assert row["note"] == ""
            assert row["p_value"] < 1e-10
            assert 0.5 < row["reliability"] < 1


def test_the_logit_maps_classify_digits(small_demo: Run, wna_data: Path) -> None:
    """Centred correlation with the ten logit maps names >= 40 % of the test digits (chance 10
    %); permuted pixels do not.
    """
    test = load("mnist", train=False)
    maps = small_demo.bias_maps[10:]
    assert classify(maps, test, "correlation").accuracy >= 0.40
    shuffled = maps.reshape(10, -1)[:, np.random.default_rng(0).permutation(784)].reshape(
        maps.shape
    )
    assert classify(shuffled, test, "correlation").accuracy < 0.25


def test_mean_images_classify_as_published(wna_data: Path) -> None:
    """The mean-image ceiling with a plain dot product: 0.631 +- 0.002."""
    train, test = load("mnist", train=True), load("mnist", train=False)
    assert classify(mean_images(train, 10), test, "dot").accuracy == pytest.approx(0.631, abs=0.002)
