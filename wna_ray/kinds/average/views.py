"""What people see of a run of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from rich.table import Table as RichTable

from wna_ray.drawing.page import Figure, Section, section_table
from wna_ray.errors import RunError
from wna_ray.kinds.average.evaluation import picture_name, usual_score
from wna_ray.kinds.average.evaluation_record import read_evaluation
from wna_ray.kinds.average.planned import plan_lines
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.average.tables import classifier_table, table_of_classes
from wna_ray.kinds.views import PlanOptions, Views
from wna_ray.runs.manifest import safe
from wna_ray.specs.run import Spec

MOST_PICTURE = 16 << 20  # bytes of a figure that has no digest
CLASSIFIER = (
    "Each map is a template: an image gets the class whose map has the largest score with it."
    " Shuffled maps have the same values in other places. P-values: as many right by the share of"
    " the most frequent class. The authors take averages with cosine; maps of logits are the"
    " improved way, with correlation, or centred: with images less the mean of the noise. The mean"
    " training image of each class is the ceiling of such templates, and no map. This part depends"
    " on which images were at hand, so no digest proves it."
)


class NoiseViews(Views[Spec, Run]):
    """Maps, their reliability, and how they do as classifiers."""

    title = "White-noise analysis"
    noun = "noise"
    lead = (
        "Each map is the average of the noise by the network's answers. The p-value is a test of"
        " the whole map against a response that ignores the noise; the reliability is its expected"
        " squared cosine with the map that infinitely many images would give."
    )
    captions: ClassVar[Mapping[str, str]] = {
        "bias_maps": (
            "Bias maps: where light makes the response more likely or larger (red), or less (blue)."
        ),
        "z_maps": "The same maps in standard errors, outlined where a single value is significant.",
        "whitened_maps": "Bias maps freed of the correlations of the noise.",
        "decoded_maps": (
            "The decoder's pictures of the mean code of each response, and of steps along the maps"
            " that are slopes."
        ),
        "label_frequencies": "How often each label was given to noise.",
        "filters": "True filters of linear units, and what noise found of them.",
        "reliability": "How reliable the maps had become at each look.",
    }

    def tables(self, finished: Run) -> list[RichTable]:
        return [table_of_classes(finished)]

    def further_tables(self, finished: Run) -> list[RichTable]:
        evaluation = read_evaluation(finished.directory)
        return [] if evaluation is None else [classifier_table(evaluation)]

    def headline(self, finished: Run) -> tuple[str, str]:
        medians = [
            np.nanmedian(r.reliability)
            for r in finished.readouts
            if np.isfinite(r.reliability).any()
        ]
        reliable = ", ".join(f"{median:.3f}" for median in medians) or "-"
        return ", ".join(r.kind for r in finished.spec.responses), reliable

    def facts(self, finished: Run) -> list[tuple[str, Any]]:
        left = finished.moments.seen - finished.moments.images
        return [
            ("left out", f"{left:,} (not finite, or out of range)"),
            ("noise seed", finished.spec.seed),
        ]

    def sections(self, finished: Run) -> Iterator[Section]:
        """What ``evaluation/`` holds of maps as classifiers, where there is something."""
        evaluation = read_evaluation(finished.directory)
        if evaluation is None:
            return
        figures = []
        for kind, scores in evaluation.templates.items():
            name = picture_name(kind)
            data = finished.directory.store.read(name, most=MOST_PICTURE) if safe(name) else None
            if data is not None:
                score = usual_score(kind, scores.accuracy)
                caption = f"{kind} as classifier of {evaluation.dataset}, by {score}."
                try:
                    figures.append(Figure(data, caption, caption))
                except ValueError as error:
                    raise RunError(
                        f"{name} is damaged ({error}), and no part of the result; remove it"
                    ) from None
        table = section_table(classifier_table(evaluation))
        yield Section(
            "classifier",
            "Maps as classifiers",
            text=(CLASSIFIER,),
            figures=tuple(figures),
            tables=(table,),
        )

    def in_short(self, spec: Spec) -> str:
        s = spec.stimulus
        return (
            f"{spec.model}, {s.kind} noise of scale {s.scale:g} around {s.offset}, {spec.samples:,}"
            f" images, seed {spec.seed}"
        )

    def images(self, spec: Spec) -> int:
        return spec.samples

    def plan(self, path: str, spec: Spec, options: PlanOptions) -> Iterator[str | RichTable]:
        return plan_lines(path, spec, options)


VIEWS = NoiseViews()
