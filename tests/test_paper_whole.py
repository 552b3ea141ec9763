"""Every step and every experiment of the paper once, on made-up data of the real shapes and at a fraction of the size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from wna_ray import datasets, figures, pictures, training, trial_figures
from wna_ray.paper import conduct as conducting
from wna_ray.paper import found as finding
from wna_ray.paper.conduct import EXPERIMENTS, conduct
from wna_ray.paper.plan import STEPS
from wna_ray.spec import Spec
from wna_ray.sweep_spec import SweepSpec
from wna_ray.train_spec import PanelSpec, TrainSpec
from wna_ray.trial_spec import TrialSpec

JOBS = Path(__file__).parents[1] / "jobs"
ELSEWHERE = ("runs/imagenet", "runs/cifar-maps-resnet20", "runs/transforms-resnet20")  # need somebody's weights
IMAGES = {True: 70, False: 6}  # of each class; more training images than any basis has components


def made_up(name: str, train: bool, download: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes: a bright bar whose row tells the class, in noise."""
    c, h, w = datasets.SHAPES[name]
    rng = np.random.default_rng(int(train) + len(name))
    labels = np.tile(np.arange(10), IMAGES[train])
    images = rng.integers(0, 120, (len(labels), c, h, w), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label + 3 : 2 * label + 6, 4:20] += 120
    return images, labels


def small(asked: Any) -> Any:
    """The same with little of everything."""
    if isinstance(asked, SweepSpec):
        kept = {
            name: small(spec) for name, spec in asked.members.items() if not name.startswith(("clean-", "poisoned-")) or name[-2:] < "03"
        }
        return SweepSpec(asked.axes, kept) if len(kept) == len(asked.members) else SweepSpec({"network": tuple(kept)}, kept)
    numerics = asked.numerics.model_copy(update={"batch": 32}) if isinstance(asked, Spec | TrialSpec) else None
    if isinstance(asked, Spec):
        stop = asked.stop and asked.stop.model_copy(update={"first": 64})
        return asked.model_copy(update={"samples": 256, "stop": stop, "numerics": numerics})
    if isinstance(asked, TrialSpec):
        signals = asked.signals.model_copy(update={"images": 2})
        return asked.model_copy(update={"repeats": 2 if asked.moments else 1, "signals": signals, "numerics": numerics})
    assert isinstance(asked, TrainSpec)
    poison = asked.poison and asked.poison.model_copy(update={"images": 5})
    panel = asked.panel and PanelSpec(clean=4, poisoned=2, seed=1)
    sizes = {"epochs": 1, "images": 10, "validation": 5, "batch": 32}
    return asked.model_copy(update=sizes | {"poison": poison, "panel": panel})


def test_the_whole_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WNA_DATA", raising=False)
    for kind in (MNIST, FashionMNIST, CIFAR10):  # nothing real is touched
        monkeypatch.setattr(kind, "__init__", None)
    for module in (datasets, pictures, __import__("wna_ray.bases", fromlist=["x"]), __import__("wna_ray.stimuli", fromlist=["x"])):
        monkeypatch.setattr(module, "load_bytes", made_up)
    training._splits.cache_clear()
    finding.data.cache_clear()
    picture = figures.png(figures.Figure(figsize=(4, 3)))
    # Figures of runs are tested elsewhere, and would take most of the time.
    for module, name in ((figures, "draw"), (trial_figures, "draw"), (trial_figures, "draw_images")):
        real = ("bias_maps", "z_maps", "label_frequencies", "filters", "attack", "microstimulation", "sensitivity", "classification_images")
        shown = real if module is figures else real[4:6] if name == "draw" else real[6:]
        monkeypatch.setattr(module, name, lambda *_a, shown=shown, **_k: {f"{n}.png": picture for n in shown})
    monkeypatch.setattr(figures, "decoded", lambda *_: picture)
    read = conducting.read_step
    monkeypatch.setattr(conducting, "read_step", lambda *a: small(read(*a)))
    steps = [step for step in STEPS if step.name not in ELSEWHERE]
    said: list[str] = []
    try:
        done = conduct(tmp_path / "paper", jobs=JOBS, executor="local", steps=steps, say=said.append)
    finally:
        training._splits.cache_clear()
        finding.data.cache_clear()
    assert done.failed == {}, done.failed
    assert [i for i, verdict in done.verdicts.items() if verdict is None] == ["e20"], said
    numbers = json.loads((tmp_path / "paper" / "numbers.json").read_text())
    assert list(numbers) == [e.id for e in EXPERIMENTS if e.id != "e20"]
    page = (tmp_path / "paper" / "report.html").read_text()
    assert page.count("<figure") == sum(1 for _ in (tmp_path / "paper" / "figures").glob("*.png"))
    # Again: nothing is trained or run a second time, and the page has the same bytes.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "paper").rglob("*") if p.name in ("MANIFEST.json", "SWEEP.json")}
    monkeypatch.setattr(conducting, "_write", lambda folder, files: said.extend(files))
    assert len(before) > len(steps)
