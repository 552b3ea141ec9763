"""The whole paper: its plan is sound at both sizes, and a report comes out whatever is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import JOBS_FOLDER

from wna_ray.drawing.page import Figure, Number, Verdict
from wna_ray.errors import SpecError
from wna_ray.paper import make as making
from wna_ray.paper.charts import Line, Panel, curves, dots, sheet, unit_scaled
from wna_ray.paper.experiment import Experiment, SectionParts, entropy, judged, spread
from wna_ray.paper.make import EXPERIMENTS, make_paper, read_step
from wna_ray.paper.plan import STEPS
from wna_ray.paper.sources import Missing, Sources
from wna_ray.specs.sweep import SweepSpec
from wna_ray.training.spec import TrainSpec

JOBS = JOBS_FOLDER


@pytest.mark.parametrize("full", [False, True], ids=["small", "full"])
@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.name)
def test_every_step_is_a_job_at_both_sizes(step: Any, full: bool) -> None:
    spec = read_step(step, JOBS, "elsewhere", full)
    assert isinstance(spec, TrainSpec) == step.name.startswith("nets/")
    specs = list(spec.members.values()) if isinstance(spec, SweepSpec) else [spec]
    text = "\n".join(spec.model_dump_json() for spec in specs)
    assert re.search(r'[":]paper/', text) is None, "a path that does not follow --out"


def test_full_size_is_larger() -> None:
    """Images shown or trained with, of every step that says what its full size is."""

    def size(spec: Any) -> float:
        if isinstance(spec, TrainSpec):
            return spec.epochs * (spec.images or 10**4)
        specs = list(spec.members.values()) if isinstance(spec, SweepSpec) else [spec]
        return sum(
            getattr(s, "samples", 0) or s.repeats * (s.signals.images or 10**4) * len(s.gammas)
            for s in specs
        )

    for step in STEPS:
        if step.full or "full" in yaml.safe_load((JOBS / step.job).read_text()):
            small, full = (size(read_step(step, JOBS, "paper", f)) for f in (False, True))
            assert full > small, (step.name, small, full)


def test_runs_read_networks_that_were_trained_before() -> None:
    trained = {step.name: step.wave for step in STEPS if step.kind == "train"}
    for step in STEPS:
        text = (JOBS / step.job).read_text()
        for name in {
            part.split("/seed")[0].split("/clean")[0].split("/poisoned")[0]
            for part in text.split("trained:paper/")[1:]
        }:
            assert trained[name.split('"')[0].strip()] < step.wave, (step.name, name)


def test_all_twenty_experiments_are_there() -> None:
    names = [e.id for e in EXPERIMENTS]
    assert {i[:3] for i in names} == {f"e{i:02d}" for i in range(1, 21)}
    assert names == sorted(set(names))


def test_a_report_of_nothing_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WNA_DATA", raising=False)
    monkeypatch.setattr(making, "EXPERIMENTS", ())
    quiet = [e for e in EXPERIMENTS if e.id != "e08"]  # which would download
    lines: list[str] = []
    done = make_paper(
        tmp_path / "paper",
        jobs=JOBS,
        executor="local",
        steps=(),
        experiments=quiet,
        say=lines.append,
    )
    assert done.verdicts == {e.id: None for e in quiet}
    page = (tmp_path / "paper" / "report.html").read_text()
    assert page.count("Could not be made") == len(quiet) == len(lines)
    assert json.loads((tmp_path / "paper" / "numbers.json").read_text()) == {}


def test_a_step_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    def make(sources: Sources) -> SectionParts:
        sources.runs("broken")
        raise AssertionError

    def whole(sources: Sources) -> SectionParts:
        picture = Figure(dots({"a": [0.1, 0.2]}, "two", "share"), "dots", "dots")
        return SectionParts(
            Verdict.PARTLY, ("It is so.",), (Number("n", "1", "2", Verdict.NOT),), (picture,)
        )

    experiments = (Experiment("e01", "Broken", "?", make), Experiment("e02", "Whole", "!", whole))
    sources = Sources(tmp_path, {"runs/broken": "the disk is full"})
    verdicts = making.report(sources, experiments, {}, False, lambda line: None)
    assert verdicts == {"e01": None, "e02": Verdict.PARTLY}
    assert (
        "runs/broken could not be made: the disk is full" in (tmp_path / "report.html").read_text()
    )
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers == {
        "e02": {
            "title": "Whole",
            "verdict": "reproduced in part",
            "numbers": [{"name": "n", "ours": "1", "published": "2", "verdict": "not reproduced"}],
        }
    }
    assert (tmp_path / "figures" / "e02-1.png").read_bytes().startswith(b"\x89PNG")


def test_without_job_files_it_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"--jobs .*nowhere: there is no train-mnist.yaml; run in a checkout"
    ):
        make_paper(tmp_path, jobs=tmp_path / "nowhere", executor="local")


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    for ask in (lambda f: f.runs("x"), lambda f: f.any("x")):
        with pytest.raises(Missing):
            ask(Sources(tmp_path))


def test_how_numbers_are_written() -> None:
    assert spread([0.5]) == "50.0 %"
    assert (
        spread([0.5, 0.7]) == "60.0 ± 14.1 % (2 seeds)"
    )  # sd of two: half their difference times sqrt 2
    assert entropy([5, 5, 0]) == 1.0
    assert str(entropy([7, 0])) == "0.0"
    assert [judged(*r) for r in ((True, True), (True, False), (False,))] == [
        Verdict.REPRODUCED,
        Verdict.PARTLY,
        Verdict.NOT,
    ]


def test_charts_are_pictures() -> None:
    import numpy as np

    maps = np.random.default_rng(0).normal(size=(3, 1, 4, 4))
    maps[1] = np.nan
    drawn = [
        curves(
            (
                Panel(
                    "p", (Line("a", [1, 2], [0, 1]), Line("b", [1, 2], [1, 0])), "x", "y", log=True
                ),
            ),
            "t",
        ),
        dots({"a": [0.1, 0.2], "b": [0.3]}, "t", "x", {"chance": 0.1}),
        dots({"a": [0.1, 0.2], "b": [0.3, 0.1]}, "t", "x", each=["one", "two"]),
        sheet({"r": maps}, ["a", "b", "c"], "t"),
        sheet({"r": unit_scaled(maps)}, ["a", "b", "c"], "t", True, {"r": ["1", "2", "3"]}),
    ]
    assert all(png.startswith(b"\x89PNG") for png in drawn)
    scaled = unit_scaled(maps)
    assert (scaled[0].min(), scaled[0].max()) == (0, 1)
    assert np.isnan(scaled[1]).all()
