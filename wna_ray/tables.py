"""Tables of finished runs, as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.checks import plain
from wna_ray.opened import AnyRun
from wna_ray.results import Run
from wna_ray.rundir import RESULT
from wna_ray.stc_results import Stc
from wna_ray.trial_results import Trials

MOST_ROWS = 40  # of a printed table


def tables_of(finished: AnyRun) -> list[Table]:
    """The tables of a finished run of any kind; long ones end after `MOST_ROWS` rows, and say so."""
    if isinstance(finished, Stc):
        return [_axes(finished)]
    if isinstance(finished, Trials):
        return [_conditions(finished), *([_detection(finished.detection)] if finished.spec.moments else [])]
    return [_classes(finished)]


def _axes(finished: Stc) -> Table:
    """One row an axis."""
    table = Table(box=SIMPLE, title=f"Axes of the covariance, {finished.sums.images:,} images", title_justify="left")
    _fill(
        table,
        finished.axes,
        {
            "unit": plain,
            "axis": str,
            "eigenvalue": _form("+.4f"),
            "standard_error": _form(".4f"),
            "distance": _form(".1f"),
            "p_value": p_form(".2g"),
            "explained": _form(".4f"),
            "low_edge": _form("+.4f"),
            "high_edge": _form("+.4f"),
        },
        finished.axes.to_pylist()[:MOST_ROWS],
    )
    return table


def _conditions(finished: Trials) -> Table:
    """Conditions, pooled over targets and classes."""
    pooled = finished.pooled
    rows = pooled.to_pylist()
    trials = finished.answers[0].sum()
    table = Table(box=SIMPLE, title=f"{finished.spec.model}: {trials:,} trials in each of {len(finished.conditions):,} conditions")
    table.title_justify, table.min_width = "left", 80
    if len(rows) > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {len(rows)} rows; all conditions are in {RESULT}/trials.parquet"
    forms: dict[str, Callable[[Any], str]] = dict.fromkeys(("transform", "attack", "layer", "profile"), plain)
    forms |= dict.fromkeys(("gamma", "weight", "strength"), _form("g")) | dict.fromkeys(("correct", "moved", "kept"), _form(".4f"))
    _fill(table, pooled, {name: forms[name] for name in pooled.column_names}, rows[:MOST_ROWS])
    return table


def _detection(detection: pa.Table) -> Table:
    """Sensitivity and criterion by signal weight, of responses that name a class; of the first weights where there are many."""
    forms: dict[str, Callable[[Any], str]] = {"gamma": _form("g"), "response": plain, "hits": _form(","), "false_alarms": _form(",")}
    forms |= dict.fromkeys(("d_prime", "d_prime_error", "criterion", "criterion_error"), _form(".3f"))
    forms |= dict.fromkeys(("reliability", "steadiness"), _form(".3f")) | {"note": str}
    rows = [row for row in detection.to_pylist() if row["d_prime"] is not None]
    table = Table(box=SIMPLE, title="Each class against the others, and the classification image of its answer", title_justify="left")
    if len(rows) > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {len(rows)} rows; all are in {RESULT}/detection.parquet"
    _fill(table, detection, forms, rows[:MOST_ROWS])
    return table


def _classes(finished: Run) -> Table:
    """One row a response."""
    moments, spec = finished.moments, finished.spec
    apart = (
        f", {moments.nonfinite:,} not finite and {moments.out_of_range:,} out of range left out" if moments.seen > moments.images else ""
    )
    table = Table(box=SIMPLE, title=f"{spec.model}: N = {moments.images:,} images{apart}", title_justify="left")
    print_classes(finished.classes, table)
    return table


def print_classes(classes: pa.Table, table: Table, most: int = MOST_ROWS) -> None:
    """Fill a table with one row a response; only the most reliable ones where there are many, and no columns that are empty."""
    forms: dict[str, Callable[[Any], str]] = {
        "kind": str,
        "name": str,
        "count": _form(","),
        "share": _form(".4f"),
        "rho2": _form(".2e"),
        "p_value": p_form(".1e"),
        "reliability": _form(".3f"),
        "split_half": _form(".3f"),
        "filter_cosine": _form(".4f"),
        "self_label": str,
        "self_confidence": _form(".2f"),
        "note": str,
    }
    rows = classes.to_pylist()
    if len(rows) > most:
        rows = sorted(rows, key=lambda r: -(r["reliability"] or -1.0))[:most]
        table.caption = f"the {most} most reliable of {classes.num_rows} rows; all are in {RESULT}/classes.parquet"
    _fill(table, classes, forms, rows)


def patch_scores(scores: pa.Table, title: str) -> Table:
    """One row a response: how sensitive it is at the pixels of a patch."""
    table = Table(box=SIMPLE, title=title, title_justify="left")
    forms: dict[str, Callable[[Any], str]] = {"kind": str, "class": plain, "z": _form("+.2f"), "p_value": p_form(".1e")}
    rows = scores.to_pylist()
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda r: -(r["z"] if r["z"] is not None else -np.inf))[:MOST_ROWS]
        table.caption = f"the {MOST_ROWS} largest of {scores.num_rows} rows"
    _fill(table, scores, forms | {"rank": str, "positions": str, "note": str}, rows)
    return table


def suspects(networks: pa.Table) -> Table:
    """One row a network: its most suspicious class and window, and the truth where it is known."""
    table = Table(box=SIMPLE, title="The most suspicious window of each network", title_justify="left")
    forms: dict[str, Callable[[Any], str]] = dict.fromkeys(("network", "class"), plain) | dict.fromkeys(
        ("row", "column", "height", "width"), str
    )
    forms |= {"score": _form(".2f"), "z": _form("+.1f"), "null_p": p_form(".1e"), "panel_p": _form(".3f"), "clean": str}
    if any(networks["poisoned"].to_pylist()):
        forms |= {"source": plain, "target": plain, "overlaps": lambda yes: "yes" if yes else "no"}
    _fill(table, networks, forms, networks.to_pylist())
    return table


def _fill(table: Table, values: pa.Table, forms: Mapping[str, Callable[[Any], str]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Fill a table with rows, each column in its form; without the columns that are empty."""
    shown = {column: form for column, form in forms.items() if values[column].null_count < values.num_rows}
    for column in shown:
        side: Literal["left", "right"] = "left" if column in ("kind", "name", "note", "unit", "network") else "right"
        table.add_column(column, justify=side, no_wrap=True, max_width=18 if column in ("name", "self_label", "unit") else None)
    for row in rows:
        table.add_row(*("-" if row[column] is None else form(row[column]) for column, form in shown.items()))


def p_form(form: str) -> Callable[[Any], str]:
    """Of p-values: the smallest are bounds."""
    return lambda p: "<1e-300" if p < 1e-300 else format(p, form)


def _form(form: str) -> Callable[[Any], str]:
    return lambda value: format(value, form)
