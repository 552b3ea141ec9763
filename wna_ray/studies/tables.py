"""Tables of comparisons of finished runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.drawing.tables import MOST_ROWS, fill, form_of, p_form
from wna_ray.text import plain


def pairs_table(mean: pa.Table) -> Table:
    """Correlations of maps, one row a pair of networks (see
    `wna_ray.studies.compare.mean_correlations`).
    """
    table = Table(box=SIMPLE, title="Correlation of maps, mean over classes", title_justify="left")
    forms: dict[str, Callable[[Any], str]] = {"a": str, "b": str, "classes": str} | dict.fromkeys(
        ("r", "corrected"), form_of("+.3f")
    )
    forms |= {"corrected_classes": str} | dict.fromkeys(("standard_error", "lift"), form_of(".3f"))
    if mean.num_rows > MOST_ROWS:
        table.caption = (
            f"the first {MOST_ROWS} of {mean.num_rows:,} pairs; all are in"
            " mean_correlations.parquet"
        )
    fill(table, mean, forms, mean.slice(0, MOST_ROWS).to_pylist())
    return table


def images_table(needed: pa.Table) -> Table:
    """Images that maps take, one row a run (see `wna_ray.studies.compare.images_needed`)."""
    table = Table(
        box=SIMPLE,
        title="Images for the median map (between quartiles) to be so reliable",
        title_justify="left",
    )
    looked = [r for r in ("0.5", "0.9") if needed[f"look_{r}"].null_count < needed.num_rows]
    for column in (
        "run",
        "noise",
        "d",
        "rows",
        "N",
        "reliability",
        "N for 0.5",
        "N for 0.9",
        *(f"look at {r}" for r in looked),
    ):
        table.add_column(
            column,
            justify="left" if column in ("run", "noise") else "right",
            no_wrap=column != "noise",
        )
    for row in needed.slice(0, MOST_ROWS).to_pylist():
        spans = [
            "-" if row[f"images_{r}"] is None else _span(row, f"images_{r}") for r in ("0.5", "0.9")
        ]
        looks = ["-" if row[f"look_{r}"] is None else f"{row[f'look_{r}']:,}" for r in looked]
        counts = (f"{row[name]:,}" for name in ("d", "rows", "samples"))
        table.add_row(
            row["run"], row["noise"], *counts, f"{row['reliability']:.3f}", *spans, *looks
        )
    if needed.num_rows > MOST_ROWS:
        table.caption = (
            f"the first {MOST_ROWS} of {needed.num_rows:,} runs; all are in images.parquet"
        )
    return table


def _span(row: Mapping[str, Any], name: str) -> str:
    low, middle, high = (row[f"{name}{part}"] for part in ("_low", "", "_high"))
    return f"{_short(middle)} ({_short(low)} to {'-' if high is None else _short(high)})"


def _short(images: float) -> str:
    """Three digits are more than is known."""
    return f"{float(f'{images:.3g}'):,.0f}"


def patch_scores(scores: pa.Table, title: str) -> Table:
    """One row a response: how sensitive it is at the pixels of a patch."""
    table = Table(box=SIMPLE, title=title, title_justify="left")
    forms: dict[str, Callable[[Any], str]] = {
        "kind": str,
        "class": plain,
        "z": form_of("+.2f"),
        "p_value": p_form(".1e"),
    }
    rows = scores.to_pylist()
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda r: -(r["z"] if r["z"] is not None else -np.inf))[:MOST_ROWS]
        table.caption = f"the {MOST_ROWS} largest of {scores.num_rows} rows"
    fill(table, scores, forms | {"rank": str, "positions": str, "note": str}, rows)
    return table


def suspects(networks: pa.Table) -> Table:
    """One row a network: its most suspicious class and window, and the truth where it is known."""
    table = Table(
        box=SIMPLE, title="The most suspicious window of each network", title_justify="left"
    )
    forms: dict[str, Callable[[Any], str]] = dict.fromkeys(
        ("network", "class"), plain
    ) | dict.fromkeys(("row", "column", "height", "width"), str)
    forms |= {
        "score": form_of(".2f"),
        "z": form_of("+.1f"),
        "null_p": p_form(".1e"),
        "panel_p": form_of(".3f"),
        "clean": str,
    }
    if any(networks["poisoned"].to_pylist()):
        forms |= {"source": plain, "target": plain, "overlaps": lambda yes: "yes" if yes else "no"}
    fill(table, networks, forms, networks.to_pylist())
    return table
