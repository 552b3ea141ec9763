"""Every step and every experiment of the paper once, on made-up data of the real shapes and at
a fraction of the size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from places import JOBS_FOLDER

from wna_ray.data import datasets
from wna_ray.drawing import sheets
from wna_ray.kinds.average import figures
from wna_ray.kinds.trials import figures as trial_figures
from wna_ray.paper import make as making
from wna_ray.paper import sources
from wna_ray.paper.make import EXPERIMENTS, Done, make_paper
from wna_ray.paper.plan import STEPS
from wna_ray.specs.run import Spec
from wna_ray.specs.sweep import SweepSpec
from wna_ray.specs.trials import TrialSpec
from wna_ray.stimuli import bases, offsets, pictures
from wna_ray.training import training
from wna_ray.training.spec import PanelSpec, TrainSpec

JOBS = JOBS_FOLDER
ELSEWHERE = (
    "runs/imagenet",
    "runs/imagenet-photographs",
    "runs/cifar-maps-resnet20",
    "runs/transforms-resnet20",
)  # need somebody's weights
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
        panel = ("clean-00", "clean-01", "clean-02", "clean-03", "poisoned-00", "poisoned-01")
        if "clean-00" in asked.members:
            return SweepSpec(
                {"network": panel}, {name: small(asked.members[name]) for name in panel}
            )
        return SweepSpec(asked.axes, {name: small(spec) for name, spec in asked.members.items()})
    numerics = (
        asked.numerics.model_copy(update={"batch": 32})
        if isinstance(asked, Spec | TrialSpec)
        else None
    )
    if isinstance(asked, Spec):
        stop = asked.stop and asked.stop.model_copy(update={"first": 64})
        return asked.model_copy(update={"samples": 256, "stop": stop, "numerics": numerics})
    if isinstance(asked, TrialSpec):
        signals = asked.signals.model_copy(update={"images": 2})
        return asked.model_copy(
            update={"repeats": 2 if asked.moments else 1, "signals": signals, "numerics": numerics}
        )
    assert isinstance(asked, TrainSpec)
    poison = asked.poison and asked.poison.model_copy(update={"images": 5})
    panel = asked.panel and PanelSpec(clean=4, poisoned=2, seed=1)
    sizes = {"epochs": 1, "images": 10, "validation": 5, "batch": 32}
    return asked.model_copy(update=sizes | {"poison": poison, "panel": panel})


@dataclass(frozen=True)
class Whole:
    """What came of it."""

    out: Path
    done: Done
    lines: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """The paper, made in this process."""
    out, lines = tmp_path_factory.mktemp("whole") / "paper", list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WNA_DATA", raising=False)
        for module in (datasets, pictures, bases, offsets):
            patch.setattr(module, "load_bytes", made_up)
        # Figures of runs are tested elsewhere, and would take most of the time.
        picture = sheets.png(figures.Figure(figsize=(4, 3)))
        drawn = {
            (figures, "draw"): ("bias_maps", "z_maps", "label_frequencies", "filters"),
            (trial_figures, "draw"): ("attack", "microstimulation"),
            (trial_figures, "draw_images"): ("sensitivity", "classification_images"),
        }
        for (module, name), names in drawn.items():
            patch.setattr(
                module, name, lambda *_a, names=names, **_k: {f"{n}.png": picture for n in names}
            )
        patch.setattr(figures, "decoded", lambda *_: picture)
        read = making.read_step
        patch.setattr(making, "read_step", lambda *a: small(read(*a)))
        steps = [step for step in STEPS if step.name not in ELSEWHERE]
        training.splits.cache_clear()
        sources.data.cache_clear()
        yield Whole(
            out,
            make_paper(out, jobs=JOBS, executor="local", steps=steps, say=lines.append),
            lines,
        )
    training.splits.cache_clear()
    sources.data.cache_clear()


def test_every_step_is_done(whole: Whole) -> None:
    assert whole.done.failed == {}
    done = {line.split()[2].rstrip(":") for line in whole.lines if ": done in" in line}
    assert done == {step.name for step in STEPS} - set(ELSEWHERE)


def test_every_experiment_is_made_but_the_one_whose_data_is_not_there(whole: Whole) -> None:
    assert [i for i, verdict in whole.done.verdicts.items() if verdict is None] == ["e20"], (
        whole.lines
    )
    numbers = json.loads((whole.out / "numbers.json").read_text())
    assert list(numbers) == [e.id for e in EXPERIMENTS if e.id != "e20"]
    assert all(found["numbers"] for found in numbers.values())


def test_the_report_has_every_picture_and_every_spec(whole: Whole) -> None:
    page, names = (
        (whole.out / "report.html").read_text(),
        [p.name for p in (whole.out / "figures").glob("*.png")],
    )
    assert page.count("data:image/png;base64,") == len(names) >= len(EXPERIMENTS) - 1
    for step in STEPS:
        if step.kind == "run" and step.name not in ELSEWHERE:
            assert f"{step.name}: the spec" in page, step.name
    assert "6 runs of 256 images" in page  # of networks, whose noise is 256 images each
    assert "are significant (p &lt; 0.05 after Bonferroni)" in page


def test_the_report_in_a_browser(whole: Whole, tmp_path: Path) -> None:
    with browser.chromium(tmp_path / "profile") as running:
        question = (
            "[...document.images].every(i => i.complete && i.naturalWidth > 0) &&"
            " document.documentElement.scrollWidth"
        )
        for width in (360, 1280):
            found, said = running.ask(whole.out / "report.html", question, width)
            assert 0 < found <= width
            assert said == []
