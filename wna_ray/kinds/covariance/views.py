"""What people see of a covariance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from rich.table import Table

from wna_ray.kinds.covariance.job import Question
from wna_ray.kinds.covariance.result import Stc
from wna_ray.kinds.covariance.tables import table_of_axes
from wna_ray.kinds.views import PlanOptions, Views
from wna_ray.specs.covariance import StcSpec
from wna_ray.text import size

MOST_UNITS = 12  # that a plan names


class CovarianceViews(Views[StcSpec, Stc]):
    """Axes, and what their passes take."""

    title = "Covariance"
    noun = "covariance"
    lead = (
        "Axes are the directions of the noise along which a response changes without regard to"
        " sign, tested against fresh noise."
    )
    captions: ClassVar[Mapping[str, str]] = {
        "axes": "Directions of the noise along which a response changes without regard to sign.",
        "spectra": "Eigenvalues of each unit's covariance, beside those of fresh noise.",
        "profiles": "Mean response along each axis.",
    }

    def model(self, finished: Stc) -> str:
        model = finished.spec.model
        return model if model is not None else f"the run {finished.spec.run}"

    def tables(self, finished: Stc) -> list[Table]:
        return [table_of_axes(finished)]

    def headline(self, finished: Stc) -> tuple[str, str]:
        return str(finished.spec.response or "-"), "-"

    def in_short(self, spec: StcSpec) -> str:
        return f"covariance of the run '{spec.run}', {spec.method}"

    def plan(self, path: str, spec: StcSpec, options: PlanOptions) -> Iterator[str | Table]:
        question = Question.of(spec)
        run, streams = question.run, 1 + spec.fresh if spec.method == "dense" else 1
        passes = 1 if spec.method == "dense" else spec.passes + 1
        units = ", ".join(question.names[:MOST_UNITS])
        yield (
            f"{path}: covariance of {question.kind} of '{run.directory.url}', {spec.method}; units"
            f" {units}"
        )
        yield (
            f"noise     {run.spec.stimulus.kind}, d = {question.d:,} values, {streams} streams of"
            f" {run.samples:,} images"
        )
        network = (
            "without a forward pass"
            if spec.model is None
            else "with a forward and a backward pass an image"
        )
        yield (
            f"work      {passes} pass{'es' * (passes > 1)} {network}; sums of"
            f" {size(question.sum_bytes)} each"
        )
        for name, (low, high) in list(question.null_edges().items())[:MOST_UNITS]:
            yield (
                f"spectrum  {name}: without any axis from {low:+.3g} to {high:+.3g} sd of the"
                " response, so weaker axes hide in it"
            )


VIEWS = CovarianceViews()
