"""What people see of a run of trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from rich.table import Table

from wna_ray.execution.executor import call
from wna_ray.execution.local import InProcessExecutor
from wna_ray.execution.worker import Introduction
from wna_ray.kinds.trials.conditions import conditions
from wna_ray.kinds.trials.job import TrialQuestion
from wna_ray.kinds.trials.result import Trials
from wna_ray.kinds.trials.tables import table_of_conditions, table_of_detection
from wna_ray.kinds.views import PlanOptions, Views
from wna_ray.specs.trials import TrialSpec
from wna_ray.text import duration, size


class TrialViews(Views[TrialSpec, Trials]):
    """Conditions, detection, and what they take."""

    title = "Trials"
    noun = "trials"
    counted = "trials"
    lead = (
        "Every condition shows the same signals in the same noise, so that differences between"
        " conditions are theirs."
    )
    captions: ClassVar[Mapping[str, str]] = {
        "attack": "How often an attack of growing weight gives the target's label.",
        "microstimulation": "How answers change while units are stimulated.",
        "psychometric": "How answers change with the weight of the signal in the noise.",
        "transforms": "Right answers to transformed signals.",
        "sensitivity": "Sensitivity and criterion of each answer by the weight of the signal.",
        "classification_images": "Which noise makes the network give each answer.",
    }

    def tables(self, finished: Trials) -> list[Table]:
        detection = [table_of_detection(finished.detection)] if finished.spec.moments else []
        return [table_of_conditions(finished), *detection]

    def headline(self, finished: Trials) -> tuple[str, str]:
        return "label", "-"

    def facts(self, finished: Trials) -> list[tuple[str, Any]]:
        return [("noise seed", finished.spec.seed)]

    def in_short(self, spec: TrialSpec) -> str:
        return (
            f"{spec.model}, {spec.signals.dataset}, {spec.repeats:,} x each signal,"
            f" {len(spec.gammas)} gammas"
        )

    def plan(self, path: str, spec: TrialSpec, options: PlanOptions) -> Iterator[str | Table]:
        """What trials would take: conditions, forward passes, time of one worker here, bytes."""
        question = TrialQuestion.of(spec)
        executor = InProcessExecutor(question.held)
        try:
            introduction: Introduction = call(executor, 1, "introduce")
        finally:
            executor.close()
        job = introduction.job
        count, k = len(conditions(spec, job.names)), len(job.names)
        cells = count * len(question.classes) * k
        seconds = question.samples * count * introduction.batch_seconds / spec.numerics.batch
        yield f"{path}: {spec.model}, {k} answers, on {job.device}"
        yield (
            f"signals   {len(question.signals.labels):,} images of {len(question.classes)} classes,"
            f" {spec.repeats:,} times each"
        )
        yield (
            f"work      {question.samples:,} trials x {count:,} conditions ="
            f" {question.samples * count:,} forward passes"
        )
        yield f"counts    {size(8 * cells)}"
        yield f"time      about {duration(seconds)} for one worker here"


VIEWS = TrialViews()
