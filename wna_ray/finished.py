"""What a finished run directory holds, read from storage alone: nothing is believed that the manifest's digests do not prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wna_ray.archive import from_npy, reading
from wna_ray.checks import Extent, PassExtent, TrialExtent, parse_json, require_memory
from wna_ray.errors import RunError
from wna_ray.rundir import ENVIRONMENT, RunDirectory, sha256
from wna_ray.store import Place
from wna_ray.text import plain, redacted_tree

T = TypeVar("T")
E = TypeVar("E", Extent, PassExtent, TrialExtent)


class Finished:
    """Spec, manifest and objects of a finished run directory of either kind.

    Parameters
    ----------
    place
        A path, any fsspec URL, or a `Place`.

    Raises
    ------
    RunError
        There is nothing, it is not finished, or something in it is damaged.
    """

    def __init__(self, place: Place | str) -> None:
        self.directory = RunDirectory(place)
        self._described, self._manifest, self._found = self.directory.finished()
        if self._manifest["fingerprint"] != self._described["fingerprint"]:
            raise RunError(f"{self.directory.url}/MANIFEST.json is of another run")
        self._objects: dict[str, dict[str, Any]] = self._manifest["objects"]

    @property
    def fingerprint(self) -> str:
        """What the result is a function of, with N."""
        return str(self._described["fingerprint"])

    @property
    def names(self) -> list[str]:
        """Names of outputs or units, made plain: one line each, and nothing that a terminal would obey."""
        return [plain(name) for name in self._described["names"]]

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and device that began the run (``environment.json``), without secrets of URLs.

        Raises
        ------
        RunError
            It is not what the manifest lists, or no JSON object.
        """
        where = f"{self.directory.url}/{ENVIRONMENT}"
        found = self._parsed(ENVIRONMENT, lambda data: parse_json(data, where))
        with reading(where):  # too deep a tree is damage
            shown: dict[str, Any] = redacted_tree(found)
        return shown

    def _expect(self, kind: type[E], otherwise: str) -> E:
        """How large its objects may be; `RunError` where it is a directory of the other kind."""
        if not isinstance(self._found, kind):
            raise RunError(f"'{self.directory.url}' is {otherwise}")
        return self._found

    def _bytes(self, name: str) -> bytes:
        """An object, its digest checked."""
        where, entry = f"{self.directory.url}/{name}", self._objects.get(name)
        if entry is None:
            raise RunError(f"{where} is not listed in the manifest: the run was made without it")
        require_memory(2 * entry["bytes"], where)
        data = self.directory.store.read(name, most=entry["bytes"])
        if data is None:
            raise RunError(f"{where} is missing (wna verify tells what else is)")
        if sha256(data) != entry["sha256"]:
            raise RunError(f"{where} is damaged: it is not what the manifest lists")
        return data

    def _parsed(self, name: str, parse: Callable[[bytes], T]) -> T:
        """What an object's bytes say; `RunError` where they are not what `parse` expects."""
        data = self._bytes(name)
        with reading(f"{self.directory.url}/{name}"):
            return parse(data)

    def _array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> NDArray[Any]:
        """An array of exactly this shape and type."""

        def parse(data: bytes) -> NDArray[Any]:
            array = from_npy(data)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of shape {shape}")
            return array

        return self._parsed(name, parse)


def table_of(columns: Mapping[str, pa.DataType], lines: Iterable[Sequence[Any]]) -> pa.Table:
    """A table from its rows; what is not a number is null."""
    found: dict[str, list[Any]] = {name: [] for name in columns}
    for line in lines:
        for values, value in zip(found.values(), line, strict=True):
            values.append(None if isinstance(value, float) and math.isnan(value) else value)
    return pa.table({name: pa.array(found[name], kind) for name, kind in columns.items()})


def read_parquet(data: bytes, columns: Mapping[str, pa.DataType], rows: range, most: int, dictionaries: Sequence[str]) -> pa.Table:
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
        raise ValueError(f"{meta.num_rows} rows of {meta.num_columns} columns, which are not this run's")
    parts = [meta.row_group(i).column(j) for i in range(meta.num_row_groups) for j in range(meta.num_columns)]
    if any(p.compression not in ("SNAPPY", "UNCOMPRESSED") for p in parts) or sum(p.total_uncompressed_size for p in parts) > most:
        raise ValueError("more values than its rows can have")
    table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(dictionaries)).read(use_threads=False)
    table.validate(full=True)
    return table


def words_of(column: pa.ChunkedArray) -> list[str | None]:
    """Values of a dictionary column; equal ones are one object."""
    found: list[str | None] = []
    for chunk in column.chunks:
        words = [*chunk.dictionary.to_pylist(), None]
        found += [words[-1 if i is None else i] for i in chunk.indices.to_pylist()]
    return found
