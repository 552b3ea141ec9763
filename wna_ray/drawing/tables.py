"""Tables for a terminal: rows of an Arrow table, each column in its form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from rich.table import Table

MOST_ROWS = 40  # of a printed table


def fill(
    table: Table,
    values: pa.Table,
    forms: Mapping[str, Callable[[Any], str]],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Fill a table with rows, each column in its form; without the columns that are empty."""
    filled = {
        column: form
        for column, form in forms.items()
        if values[column].null_count < values.num_rows
    }
    for column in filled:
        side: Literal["left", "right"] = (
            "left" if column in ("kind", "name", "note", "unit", "a", "b", "network") else "right"
        )
        table.add_column(
            column,
            justify=side,
            no_wrap=True,
            max_width=18 if column in ("name", "self_label", "unit") else None,
        )
    for row in rows:
        table.add_row(
            *("-" if row[column] is None else form(row[column]) for column, form in filled.items())
        )


def p_form(form: str) -> Callable[[Any], str]:
    """Of p-values: the smallest are bounds."""
    return lambda p: "<1e-300" if p < 1e-300 else format(p, form)


def form_of(form: str) -> Callable[[Any], str]:
    return lambda value: format(value, form)
