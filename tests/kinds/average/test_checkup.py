"""A first look at a network tells what a run would read, assume and refuse."""

from __future__ import annotations

import json
import math
from typing import Any

import foreign_networks as foreign
import numpy as np
import pytest
import torch
from scipy.stats import entropy
from typer.testing import CliRunner

from wna_ray import Spec, check
from wna_ray.cli import app
from wna_ray.errors import ModelError, SpecError
from wna_ray.kinds.average.checkup import (
    BATCH,
    Checked,
    NoiseTried,
    lines_of,
    recommended,
)
from wna_ray.noise.stream import Noise

SIDE = foreign.SIDE


def look(name: str, **more: Any) -> Checked:
    """At one of the foreign networks."""
    return check(f"python:foreign_networks:make?name={name}", (3, SIDE, SIDE), **more)


@pytest.mark.parametrize(
    ("name", "output", "sound", "words"),
    [
        ("Body", "10 scores an image", True, ""),
        ("InMapping", "10 scores an image (field 'logits')", True, ""),
        ("OneLogit", "one logit an image: two classes", True, ""),
        ("OneProbability", "one probability an image: two classes", True, ""),
        ("Softmaxed", "10 probabilities an image", True, ""),
        ("SelfCentred", "10 scores an image", True, ""),
        ("Pair", "", False, "output: NAME chooses one"),
        ("ForEveryPixel", "", False, "layer: last, position: centre"),
        ("Decided", "", False, "gives whole numbers"),
        ("Masked", "", False, "never finite"),
        ("BatchNormed", "10 scores an image", False, "neighbours in the batch"),
        ("Random", "10 scores an image", False, "differently each time"),
    ],
)
def test_what_comes_out(name: str, output: str, sound: bool, words: str) -> None:
    checked = look(name)
    assert (checked.output, checked.sound) == (output, sound)
    assert words in "".join(checked.problems)
    assert bool(checked.noises) == sound == (checked.recommended is not None)
    assert json.loads(json.dumps(checked.to_json()))["sound"] is sound


def test_a_field_and_names_can_be_given() -> None:
    checked = look("Pair", output="0", classes=list("abcdefghij"))
    assert checked.sound
    assert checked.names == tuple("abcdefghij")
    with pytest.raises(SpecError, match="shape"):
        check("bundled:mnist-cnn", (1, 0, 28))
    with pytest.raises(ModelError, match="no bundled model"):
        check("bundled:nothing", (1, 28, 28))


def test_layers_and_their_units() -> None:
    checked = look("Tokens")
    layers = {layer.name: layer for layer in checked.layers}
    assert list(layers) == ["embed", "norm", "attention", "head"]
    assert (layers["embed"].shape, layers["embed"].units) == ((16, 3, 3), 16)
    assert (layers["head"].shape, layers["head"].units) == ((10,), 10)
    assert (layers["norm"].units, layers["norm"].why) == (0, "neither neurons nor maps")
    assert (layers["attention"].units, layers["attention"].why) == (0, "gives tuple, no tensor")


def test_numbers_of_a_noise_against_a_naive_loop() -> None:
    checked = look("Body")
    tried = checked.noises[1]
    assert (tried.offset, tried.scale) == (0.0, 1.0)
    network, labels, saturated, x, y = foreign.Body().eval(), [], 0, [], []
    spec = Spec.parse(
        {
            "model": "python:foreign_networks:make?name=Body",
            "stimulus": {
                "kind": "gaussian",
                "shape": [3, SIDE, SIDE],
                "scale": 1,
                "space": "input",
            },
            "samples": tried.images,
        }
    )
    noise = Noise(spec.stimulus.kind, spec.stimulus.shape, seed=0)
    unit = noise.table.unit
    for a in range(0, tried.images, BATCH):
        grid = noise.grid(a, a + BATCH).astype(np.float32)
        with torch.inference_mode():
            outputs = network(torch.from_numpy(grid * np.float32(unit))).numpy()
        for row in outputs.astype(np.float64):
            p = np.exp(row - row.max())
            labels.append(int(row.argmax()))
            saturated += p.max() / p.sum() > 0.99
            y.append(row)
        x += list(grid.reshape(len(grid), -1).astype(np.float64) * unit)
    counts = np.bincount(labels, minlength=10)
    assert tried.entropy == pytest.approx(entropy(counts, base=2), abs=1e-9)
    assert tried.reached == (counts > 0).mean()
    assert tried.saturated == saturated / tried.images
    z, d = [], 3 * SIDE * SIDE
    for j in range(10):
        c = np.array(y)[:, j] - np.mean(np.array(y)[:, j])
        a = c @ np.array(x)
        z.append((a @ a) / (c @ c))
    rho2 = float(np.mean((np.array(z) - d) / tried.images))
    assert tried.images_needed == pytest.approx(d / rho2 * 9, rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        # The fewest images, but hardly any labels: another that needs few more has them.
        ([(0.1, 1000, 0.1, 0.0), (0.3, 1400, 2.0, 0.0), (1.0, 9000, 3.0, 0.0)], 0.3),
        ([(0.1, 1000, 0.1, 0.0), (0.3, 1600, 2.0, 0.0)], 0.1),
        ([(0.1, 1000, 0.5, 0.0), (0.3, 100, 2.0, 0.9)], 0.1),
        ([(0.1, None, 0.5, 0.0), (0.3, None, 2.0, 0.0)], 0.3),
    ],
)
def test_which_noise_is_recommended(
    rows: list[tuple[float, int | None, float, float]], best: float
) -> None:
    noises = [NoiseTried(0.0, s, 128, e, 1.0, full, n) for s, n, e, full in rows]
    keys = recommended((1, 4, 4), "input", noises)
    assert keys is not None
    assert keys["scale"] == best


def test_the_recommended_noise_is_a_stimulus() -> None:
    checked = check("bundled:mnist-cnn", (1, 28, 28))
    spec = Spec.parse(
        {"model": "bundled:mnist-cnn", "stimulus": checked.recommended, "samples": 10}
    )
    assert spec.stimulus.space == "pixel", "its source declares a normalisation"
    needed = [noise.images_needed for noise in checked.noises]
    assert len(needed) == 6
    assert all(n is None or 1 <= n < math.inf for n in needed)


def test_text_is_short() -> None:
    text = list(lines_of(look("Tokens"), most_layers=2))
    assert sum(line.startswith("layer") for line in text) == 2
    assert any("and 2 more layers" in line for line in text)


def test_the_command() -> None:
    uri, runner = "python:foreign_networks:make?name={}", CliRunner()
    done = runner.invoke(app, ["check", uri.format("Body"), "--shape", "3,12,12", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["names"] == [str(i) for i in range(10)]
    done = runner.invoke(app, ["check", uri.format("Pair"), "--shape", "3x12x12"])
    assert done.exit_code == 2
    assert "problem   model: " in done.stdout
    done = runner.invoke(app, ["check", uri.format("Pair"), "--shape", "3,12"])
    assert done.exit_code == 2
    assert "--shape 3,12: expected channels, rows and columns" in done.output
    done = runner.invoke(app, ["check", uri.format("Pair"), "--shape", "3,12,12", "--no-code"])
    assert done.exit_code == 2
    assert "--no-code" in done.output


def test_a_module_in_memory_stays_as_it_is() -> None:
    network = foreign.Body().train()
    network.head.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    checked = check(network, (3, SIDE, SIDE))
    assert (checked.model, checked.sound) == ("live:Body", True)
    assert checked.noises == look("Body").noises
    assert network.training
    assert [p.requires_grad for p in network.parameters()] == [True, True, True, False]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
