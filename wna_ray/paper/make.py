"""Train and run all that the paper needs, or go on with it, and write the report.

    PAPER/
      nets/NAME/       trained networks (see `wna_ray.training.job`)
      runs/NAME/       runs, and sweeps of runs
      report.html      the gallery: one page that needs no network and no script
      numbers.json     the numbers in it
      figures/         the pictures in it

The same command again does only what is not done yet. What could not be done is said in the report,
and the exit code is not 0.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import yaml

from wna_ray.drawing.page import Page, Section, Verdict, render
from wna_ray.errors import SpecError, WnaError
from wna_ray.execution.drive import How, Where
from wna_ray.execution.tasks import task_runner
from wna_ray.kinds.any import run_any
from wna_ray.kinds.average.run import noise_runs
from wna_ray.kinds.trials.result import trials_among
from wna_ray.paper import (
    attacks,
    backdoors,
    digits,
    families,
    imagenet,
    neurons,
    objects,
    psychophysics,
)
from wna_ray.paper.experiment import Experiment, SectionParts
from wna_ray.paper.plan import STEPS, Step
from wna_ray.paper.sources import Missing, Sources
from wna_ray.runs.finished import Finished
from wna_ray.specs.base import read_yaml
from wna_ray.specs.parse import parse_spec
from wna_ray.specs.sweep import SweepSpec
from wna_ray.specs.yaml_text import parse_yaml, read_text
from wna_ray.storage.folder import write_files
from wna_ray.sweeps.job import run_sweep
from wna_ray.text import duration
from wna_ray.training.job import train
from wna_ray.training.spec import TrainSpec

PARTS = (digits, objects, imagenet, psychophysics, attacks, backdoors, neurons, families)
EXPERIMENTS: tuple[Experiment, ...] = tuple(
    sorted(
        (e for part in PARTS for e in part.EXPERIMENTS),
        key=lambda e: e.id,
    )
)
OWN = "paper"  # the directory that job files are written for
LEVEL = 0.05  # of all maps of a step together
MOST_PRINTS = 4  # fingerprints that are listed
# seconds: many sweeps wait for one another here, which is no sign of a cluster without room
PATIENCE = 86_400
# from a file of WNA_DATA, or else torchvision's own, which are downloaded
WEIGHTS = "torchvision:mobilenet_v2?weights="


@dataclass(frozen=True)
class Done:
    """What became of a paper: why steps failed, by name, and the verdict of each experiment
    (None: could not be made).
    """

    failed: Mapping[str, str]
    verdicts: Mapping[str, Verdict | None]


def make_paper(
    out: str | Path = OWN,
    *,
    jobs: str | Path = "jobs",
    full: bool = False,
    steps: Sequence[Step] = STEPS,
    experiments: Sequence[Experiment] = EXPERIMENTS,
    say: Callable[[str], None] = print,
    **where: Unpack[Where],
) -> Done:
    """Do the whole paper.

    Parameters
    ----------
    out
        A local directory.
    jobs
        Where the job files lie.
    full
        At the paper's size.
    steps, experiments
        What is done; all of it by default.
    say
        Gets lines of progress.
    executor, workers, address, single_writer
        As for a run; none of these changes a number.

    Raises
    ------
    SpecError
        The job files are missing, or have a fault.
    """
    how = How(**where)
    specs = {step.name: read_step(step, Path(jobs), out, full) for step in steps}
    begin, failed = time.monotonic(), dict[str, str]()

    def do(step: Step) -> None:
        since = time.monotonic()
        try:
            _do(specs[step.name], f"{out}/{step.name}", how)
        except WnaError as error:
            failed[step.name] = str(error)
        outcome = (
            f"failed: {failed[step.name].splitlines()[0]}"
            if step.name in failed
            else f"done in {duration(time.monotonic() - since)}"
        )
        say(f"{duration(time.monotonic() - begin):>7}  {step.name}: {outcome}")

    # All steps share one cluster.
    with task_runner(how.executor, how.workers, how.address):
        for _, wave in groupby(steps, key=lambda step: step.wave):
            together = list(wave)
            with ThreadPoolExecutor(len(together) if how.executor == "ray" else 1) as pool:
                list(pool.map(do, together))
    texts = {name: _yaml(spec) for name, spec in specs.items()}
    return Done(failed, report(Sources(out, failed), experiments, texts, full, say))


StepSpec = TrainSpec | SweepSpec | Any


def read_step(step: Step, jobs: Path, out: str | Path, full: bool) -> StepSpec:
    """The spec of a step, its paths under `out`."""
    path = jobs / step.job
    if not path.is_file():
        raise SpecError(
            f"--jobs {jobs}: there is no {step.job}; run in a checkout of the project, or name its"
            " folder of jobs"
        )
    sized = full and step.kind == "run" and "full" in parse_yaml(read_text(path), str(path))
    data = read_yaml(path, dict(step.changes) | (dict(step.full) if full else {}), sized)
    data = _moved(data, str(out))
    if step.kind == "run":
        data["execution"] = {"patience": PATIENCE} | data.get("execution", {})
    if step.kind == "train":
        return TrainSpec.parse(data, str(path))
    return SweepSpec.parse(data, str(path)) if "sweep" in data else parse_spec(data, str(path))


def _moved(value: Any, out: str) -> Any:
    """The same with paths under `out` instead of the directory that job files name, and
    ``$WNA_DATA`` filled in.
    """
    if isinstance(value, dict):
        return {key: _moved(part, out) for key, part in value.items()}
    if isinstance(value, list):
        return [_moved(part, out) for part in value]
    if not isinstance(value, str):
        return value
    for head in ("trained:", ""):
        if value.startswith(f"{head}{OWN}/"):
            return f"{head}{out}/{value.removeprefix(f'{head}{OWN}/')}"
    value = value.replace("$WNA_DATA", os.environ.get("WNA_DATA", "$WNA_DATA"))
    if value.startswith(WEIGHTS) and not Path(value.removeprefix(WEIGHTS)).is_file():
        return f"{WEIGHTS}IMAGENET1K_V2"
    return value


def _do(spec: StepSpec, out: str, how: How) -> None:
    where = Where(executor=how.executor, workers=how.workers, single_writer=how.single_writer)
    if isinstance(spec, TrainSpec):
        train(spec, out, **where)
    elif isinstance(spec, SweepSpec):
        run_sweep(spec, out, **where)
    else:
        run_any(spec, out, **where)


def _yaml(spec: StepSpec) -> str:
    """A spec as YAML, to run it again; of a sweep its first members."""
    if isinstance(spec, SweepSpec):
        parts = [
            f"# {len(spec.members)} members: {', '.join(spec.members)}\n# {name}:\n{_yaml(member)}"
            for name, member in list(spec.members.items())[:1]
        ]
        return "\n".join(parts)
    plain = spec.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"execution"}
    )
    return str(yaml.safe_dump(plain, sort_keys=False))


def report(
    sources: Sources,
    experiments: Sequence[Experiment],
    specs: Mapping[str, str],
    full: bool,
    say: Callable[[str], None] = print,
) -> dict[str, Verdict | None]:
    """Make every experiment from what lies in the directory, and write the page, its numbers and
    its pictures.

    Parameters
    ----------
    specs
        The text of each step's spec, by name.
    """
    sections, numbers, verdicts = list[Section](), dict[str, Any](), dict[str, Verdict | None]()
    for experiment in experiments:
        sources.steps_read.clear()
        try:
            parts = experiment.make(sources)
        except Missing as reason:
            verdicts[experiment.id] = None
            text = f"Could not be made. {reason}"
            sections.append(
                Section(experiment.id, experiment.title, experiment.question, text=(text,))
            )
            say(f"{experiment.title}: could not be made. {reason}")
            continue
        verdicts[experiment.id] = parts.verdict
        sections.append(_section(experiment, parts, sources, specs))
        numbers[experiment.id] = _numbers(experiment, parts)
        pictures = {
            f"{experiment.id}-{i}.png": figure.png
            for i, figure in enumerate(parts.figures, start=1)
        }
        write_files(sources.out / "figures", pictures, "--out")
        first = parts.numbers[0]
        published = f" (published: {first.theirs})" if first.theirs else ""
        say(f"{experiment.title}: {parts.verdict.value}. {first.name}: {first.ours}{published}")
    text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
    page = render(_page(sections, full))
    write_files(sources.out, {"report.html": page, "numbers.json": text.encode()}, "--out")
    return verdicts


def _section(
    experiment: Experiment, parts: SectionParts, sources: Sources, specs: Mapping[str, str]
) -> Section:
    """An experiment's section, with facts and specs of the steps that it has read."""
    steps = sorted(sources.steps_read)
    facts = [(step, fact) for step in steps if (fact := run_summary(sources.opened(step)))]
    return Section(
        experiment.id,
        experiment.title,
        experiment.question,
        parts.verdict,
        parts.text,
        parts.numbers,
        parts.figures,
        parts.tables,
        (*parts.facts, *facts),
        tuple((f"{name}: the spec", specs[name]) for name in steps if name in specs),
    )


def _numbers(experiment: Experiment, parts: SectionParts) -> dict[str, Any]:
    """An experiment's entry in ``numbers.json``."""
    return {
        "title": experiment.title,
        "verdict": parts.verdict.value,
        "numbers": [
            {
                "name": n.name,
                "ours": n.ours,
                "published": n.theirs,
                "verdict": n.verdict and n.verdict.value,
            }
            for n in parts.numbers
        ],
    }


def _page(sections: Sequence[Section], full: bool) -> Page:
    size = "the paper's size" if full else "a size for two cores (make paper FULL=1: the paper's)"
    return Page(
        "White noise analysis of neural networks: the whole paper again",
        f"Every experiment of Borji & Lin (ICLR 2020) on real data, at {size}. For each: the"
        " question, our numbers beside the published ones, whether it reproduces, the figures, and"
        " the specs to run it again. Failures to reproduce are explained where they stand.",
        tuple(sections),
        "Experiments",
    )


def run_summary(runs: Mapping[str, Finished]) -> str:
    """N of some runs, and how sure their maps are: in one line."""
    if not runs:
        return ""
    samples = sorted({run.images for run in runs.values()})
    noun = "trials" if len(trials_among(runs)) == len(runs) else "images"
    words = [
        f"{len(runs)} run{'s' * (len(runs) > 1)} of"
        f" {' to '.join(f'{n:,}' for n in (samples[0], samples[-1])[: len(samples)])} {noun}"
    ]
    readouts = [r for run in noise_runs(runs).values() for r in run.readouts]
    p = np.concatenate([r.p_value for r in readouts]) if readouts else np.zeros(0)
    tested = p[np.isfinite(p)]
    if len(tested):
        reliable = np.concatenate([r.reliability for r in readouts])[np.isfinite(p)]
        significant = int((tested < LEVEL / len(tested)).sum())
        words.append(
            f"{significant:,} of {len(tested):,} maps with enough images are significant (p <"
            f" {LEVEL:g} after Bonferroni)"
        )
        words.append(f"median reliability {np.median(reliable):.3f}")
    prints = [run.fingerprint[:8] for run in runs.values()]
    words.append(
        f"fingerprint{'s' * (len(prints) > 1)} {', '.join(prints[:MOST_PRINTS])}"
        + ", ..." * (len(prints) > MOST_PRINTS)
    )
    return "; ".join(words)
