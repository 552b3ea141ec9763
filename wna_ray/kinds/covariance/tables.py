"""The table of a finished covariance: one row an axis."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from wna_ray.drawing.tables import MOST_ROWS, fill, form_of, p_form
from wna_ray.kinds.covariance.result import Stc
from wna_ray.text import plain


def table_of_axes(finished: Stc) -> Table:
    """One row an axis."""
    table = Table(
        box=SIMPLE,
        title=f"Axes of the covariance, {finished.sums.images:,} images",
        title_justify="left",
    )
    fill(
        table,
        finished.axes,
        {
            "unit": plain,
            "axis": str,
            "eigenvalue": form_of("+.4f"),
            "standard_error": form_of(".4f"),
            "distance": form_of(".1f"),
            "p_value": p_form(".2g"),
            "explained": form_of(".4f"),
            "low_edge": form_of("+.4f"),
            "high_edge": form_of("+.4f"),
        },
        finished.axes.to_pylist()[:MOST_ROWS],
    )
    return table
