"""Tables of a finished run of noise, and of its maps as classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.drawing.tables import MOST_ROWS, fill, form_of, p_form
from wna_ray.kinds.average.evaluation_record import Evaluation
from wna_ray.kinds.average.run import Run
from wna_ray.runs.names import RESULT
from wna_ray.statistics.maps import entropy
from wna_ray.text import plain


def table_of_classes(finished: Run) -> Table:
    """One row a response."""
    moments, spec = finished.moments, finished.spec
    apart = (
        f", {moments.nonfinite:,} not finite and {moments.out_of_range:,} out of range left out"
        if moments.seen > moments.images
        else ""
    )
    table = Table(
        box=SIMPLE,
        title=f"{spec.model}: N = {moments.images:,} images{apart}",
        title_justify="left",
    )
    print_classes(finished.classes, table)
    sentences = [table.caption, _labels(finished), *map(plain, finished.reading.said)]
    table.caption = ". ".join(str(text) for text in sentences if text) or None
    return table


def classifier_table(evaluation: Evaluation) -> Table:
    """How well maps classify images, as ``evaluation/classifier.json`` has it: one row a
    template set and score.
    """
    ranked = any(scores.top5 for scores in evaluation.templates.values())
    title = (
        f"As classifiers of {evaluation.dataset}: {evaluation.images:,} {evaluation.split}"
        f" images, chance {evaluation.chance:.3g}, majority class"
        f" {evaluation.majority_class:.3g}"
    )
    if ranked and (rank := evaluation.chance_rank) is not None:
        title += f", mean rank by chance {rank.mean:.1f} ± {rank.standard_error:.1f}"
    table = Table(box=SIMPLE, title=title, title_justify="left")
    for column in (
        "templates",
        "score",
        "accuracy",
        "95 % interval",
        "p-value",
        "shuffled maps",
        *(("top 5", "mean rank") if ranked else ()),
    ):
        table.add_column(
            column, justify="left" if column in ("templates", "score") else "right", no_wrap=True
        )
    digits = 4 if ranked else 3
    for kind, scores in evaluation.templates.items():
        for score, accuracy in scores.accuracy.items():
            interval, control = scores.interval.get(score), scores.control.get(score)
            cells = [kind, score, f"{accuracy:.{digits}f}"]
            cells.append(
                "-" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
            )
            cells.append(_maybe(scores.p_value.get(score), p_form(".1e")))
            cells.append(
                "-" if control is None else f"{control.mean:.{digits}f} ± {control.sd:.{digits}f}"
            )
            if ranked:
                cells += [
                    _maybe(scores.top5.get(score), form_of(".4f")),
                    _maybe(scores.mean_rank.get(score), form_of(".1f")),
                ]
            table.add_row(*cells)
    notes = [
        f"scaled to [0, 1], {own.own} of {own.maps} {kind} averages get their own label"
        for kind, own in evaluation.own_labels.items()
    ]
    notes += [evaluation.note] if evaluation.note else []
    table.caption = ". ".join(notes) or None
    return table


def _maybe(value: float | None, form: Callable[[Any], str]) -> str:
    """A number, or a dash where an older version did not know it."""
    return "-" if value is None else form(value)


def _labels(finished: Run) -> str:
    """What labels the noise was given: how many, how evenly, and the most frequent ones; ""
    where labels were not asked for.
    """
    readout = next((r for r in finished.readouts if r.kind in ("label", "confidence")), None)
    if readout is None:
        return ""
    shares, k = np.nan_to_num(readout.share), len(readout.names)
    first = ", ".join(
        f"{readout.names[i]} {100 * shares[i]:.3g} %"
        for i in np.argsort(-shares, kind="stable")[:3]
        if shares[i] > 0
    )
    reached = int((readout.count > 0).sum())
    text = (
        f"{reached:,} of {k:,} labels reached, entropy {entropy(shares):.2f} of {np.log2(k):.2f}"
        " bits"
    )
    return text + (f"; most frequent: {first}" if first else "")


def print_classes(classes: pa.Table, table: Table, most: int = MOST_ROWS) -> None:
    """Fill a table with one row a response; only the most reliable ones where there are many,
    and no columns that are empty.
    """
    forms: dict[str, Callable[[Any], str]] = {
        "kind": str,
        "name": str,
        "count": form_of(","),
        "share": form_of(".4f"),
        "rho2": form_of(".2e"),
        "p_value": p_form(".1e"),
        "reliability": form_of(".3f"),
        "split_half": form_of(".3f"),
        "filter_cosine": form_of(".4f"),
        "self_label": str,
        "self_confidence": form_of(".2f"),
        "note": str,
    }
    rows = classes.to_pylist()
    if len(rows) > most:
        rows = sorted(rows, key=lambda r: -(r["reliability"] or -1.0))[:most]
        table.caption = (
            f"the {most} most reliable of {classes.num_rows} rows; all are in"
            f" {RESULT}/classes.parquet"
        )
    fill(table, classes, forms, rows)
