"""Tables of finished trials: conditions, and detection by the weight of the signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.drawing.tables import MOST_ROWS, fill, form_of
from wna_ray.kinds.trials.result import Trials
from wna_ray.runs.names import RESULT
from wna_ray.text import plain


def table_of_conditions(finished: Trials) -> Table:
    """Conditions, pooled over targets and classes."""
    pooled = finished.pooled
    rows = pooled.to_pylist()
    trials = finished.answers[0].sum()
    table = Table(
        box=SIMPLE,
        title=(
            f"{finished.spec.model}: {trials:,} trials in each of {len(finished.conditions):,}"
            " conditions"
        ),
    )
    table.title_justify, table.min_width = "left", 80
    if len(rows) > MOST_ROWS:
        table.caption = (
            f"the first {MOST_ROWS} of {len(rows)} rows; all conditions are in"
            f" {RESULT}/trials.parquet"
        )
    forms: dict[str, Callable[[Any], str]] = dict.fromkeys(
        ("transform", "attack", "layer", "profile"), plain
    )
    forms |= dict.fromkeys(("gamma", "weight", "strength"), form_of("g")) | dict.fromkeys(
        ("correct", "moved", "kept"), form_of(".4f")
    )
    fill(table, pooled, {name: forms[name] for name in pooled.column_names}, rows[:MOST_ROWS])
    return table


def table_of_detection(detection: pa.Table) -> Table:
    """Sensitivity and criterion by signal weight, of responses that name a class; of the first
    weights where there are many.
    """
    forms: dict[str, Callable[[Any], str]] = {
        "gamma": form_of("g"),
        "response": plain,
        "hits": form_of(","),
        "false_alarms": form_of(","),
    }
    forms |= dict.fromkeys(
        ("d_prime", "d_prime_error", "criterion", "criterion_error"), form_of(".3f")
    )
    forms |= dict.fromkeys(("reliability", "steadiness"), form_of(".3f")) | {"note": str}
    rows = [row for row in detection.to_pylist() if row["d_prime"] is not None]
    table = Table(
        box=SIMPLE,
        title="Each class against the others, and the classification image of its answer",
        title_justify="left",
    )
    if len(rows) > MOST_ROWS:
        table.caption = (
            f"the first {MOST_ROWS} of {len(rows)} rows; all are in {RESULT}/detection.parquet"
        )
    fill(table, detection, forms, rows[:MOST_ROWS])
    return table
