"""Parquet tables with bounds: written in order, read with every column checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def table_of(columns: Mapping[str, pa.DataType], lines: Iterable[Sequence[Any]]) -> pa.Table:
    """A table from its rows; what is not a number is null."""
    lists: dict[str, list[Any]] = {name: [] for name in columns}
    for line in lines:
        for values, value in zip(lists.values(), line, strict=True):
            values.append(None if isinstance(value, float) and math.isnan(value) else value)
    return pa.table({name: pa.array(lists[name], kind) for name, kind in columns.items()})


def read_parquet(
    data: bytes,
    columns: Mapping[str, pa.DataType],
    rows: range,
    most: int,
    dictionaries: Sequence[str],
) -> pa.Table:
    """A table from its bytes; `ValueError` where it has other columns, or more than it can have.

    What the file says of itself is looked at before its columns are read.

    Parameters
    ----------
    columns
        Their names and types, in order.
    rows
        How many there may be.
    most
        Bytes of all its values.
    dictionaries
        Columns of words, each of which is read once.
    """
    said = pq.ParquetFile(pa.BufferReader(data))
    meta, types = said.metadata, {field.name: field.type for field in said.schema_arrow}
    if meta.num_rows not in rows or meta.num_columns != len(columns) or types != columns:
        raise ValueError(
            f"{meta.num_rows} rows of {meta.num_columns} columns, which are not this run's"
        )
    parts = [
        meta.row_group(i).column(j)
        for i in range(meta.num_row_groups)
        for j in range(meta.num_columns)
    ]
    if (
        any(p.compression not in ("SNAPPY", "UNCOMPRESSED") for p in parts)
        or sum(p.total_uncompressed_size for p in parts) > most
    ):
        raise ValueError("more values than its rows can have")
    table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(dictionaries)).read(
        use_threads=False
    )
    table.validate(full=True)
    return table


def words_of(column: pa.ChunkedArray) -> list[str | None]:
    """Values of a dictionary column; equal ones are one object."""
    texts: list[str | None] = []
    for chunk in column.chunks:
        words = [*chunk.dictionary.to_pylist(), None]
        texts += [words[-1 if i is None else i] for i in chunk.indices.to_pylist()]
    return texts
