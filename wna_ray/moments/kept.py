"""Responses of every image, kept as Parquet beside the moments: later passes pair them with noise
made again, and need no network.

One file a segment, ``responses/A-B.parquet``, one row an image:

    image     int64     A ... B - 1
    counted   bool      whether the image is in the moments (else its responses are 0)
    KIND      list      the exact integers that the moments are made of, a fixed number an image:
                        label (row), confidence (row, weight), others (a number for every row; of
                        pooled positions patch by patch)

A real response is ``(centre + integer) * 2 ** exponent`` with the fixed point that ``spec.json``
has for its kind and row.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wna_ray.moments.responses import Dense, Response, is_dense
from wna_ray.specs.response import ResponseKind

Ints = NDArray[np.int32]

GROUP_BYTES = 16 << 20  # of a row group: what a reader holds at a time
FILE_BYTES = 1 << 16  # of a file beside its values and 64 bytes a row group and column
IMAGE_BYTES = 9 + 1  # an image's number and whether it is counted


def width(kind: ResponseKind, rows: int, patches: int) -> int:
    """Integers of an image."""
    return rows * patches if is_dense(kind) else 2 if kind == "confidence" else 1


@dataclass(frozen=True)
class Stored:
    """Responses of consecutive images.

    Attributes
    ----------
    counted
        ``(n,)`` bool.
    values
        ``(n, width)`` int32 by kind; 0 where an image is not counted.
    """

    counted: NDArray[np.bool_]
    values: Mapping[str, Ints]

    @classmethod
    def of(
        cls, counted: NDArray[np.bool_], responses: Mapping[str, Response], patches: int = 1
    ) -> Stored:
        """From the responses of those images that are counted, each of so many patches."""
        values = {}
        for kind, response in responses.items():
            if isinstance(response, Dense):
                some = response.values.reshape(
                    int(counted.sum()), patches * response.values.shape[1]
                )
            else:
                some = np.stack(
                    [response.rows, response.weights][: 2 if kind == "confidence" else 1], axis=1
                )
            values[kind] = np.zeros((len(counted), some.shape[1]), dtype=np.int32)
            values[kind][counted] = some
        return cls(counted, values)

    def row(self, kind: ResponseKind, row: int) -> NDArray[np.int64]:
        """``(n,)``: the integer response of one row to each image; of one-hot kinds 0 where
        another row was chosen.
        """
        values = self.values[kind]
        if is_dense(kind):
            return values[:, row].astype(np.int64)
        weight = values[:, 1] if kind == "confidence" else 1
        return np.where(values[:, 0] == row, weight, 0).astype(np.int64)

    def part(self, at: slice | NDArray[np.int64]) -> Stored:
        """Some of the images."""
        return Stored(self.counted[at], {kind: values[at] for kind, values in self.values.items()})

    @classmethod
    def join(cls, parts: Sequence[Stored]) -> Stored:
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        values = {kind: np.concatenate([p.values[kind] for p in parts]) for kind in parts[0].values}
        return cls(np.concatenate([p.counted for p in parts]), values)

    def pack(self, start: int) -> bytes:
        """As the bytes of a Parquet file; a function of the content (and of the version of
        Arrow).
        """
        columns: dict[str, pa.Array] = {
            "image": pa.array(np.arange(start, start + len(self.counted), dtype=np.int64)),
            "counted": pa.array(self.counted),
        }
        for kind, values in self.values.items():
            columns[kind] = pa.FixedSizeListArray.from_arrays(
                pa.array(values.reshape(-1)), values.shape[1]
            )
        row = IMAGE_BYTES + 4 * sum(v.shape[1] for v in self.values.values())
        sink = io.BytesIO()
        pq.write_table(
            pa.table(columns),
            sink,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            row_group_size=max(1, GROUP_BYTES // row),
        )
        return sink.getvalue()


def most_bytes(images: int, widths: Sequence[int]) -> int:
    """Most bytes of a file of so many images; definition levels of lists take a little."""
    row = IMAGE_BYTES + sum(5 * w for w in widths)
    return (
        FILE_BYTES
        + images * row
        + (1 << 12) * (1 + images * row // GROUP_BYTES) * (2 + len(widths))
    )


def unpack(data: bytes, start: int, stop: int, widths: Mapping[str, int]) -> Stored:
    """Responses from the bytes of a file; `ValueError` where they are not those of the images
    ``start ... stop - 1``.

    Parameters
    ----------
    widths
        Integers of an image, by kind.
    """
    n, said = stop - start, pq.ParquetFile(pa.BufferReader(data))
    meta = said.metadata
    expected = {"image": pa.int64(), "counted": pa.bool_()} | {
        kind: pa.list_(pa.int32(), w) for kind, w in widths.items()
    }
    types = {field.name: field.type for field in said.schema_arrow}
    same = types.keys() == expected.keys() and all(
        types[name].equals(t) for name, t in expected.items()
    )
    if meta.num_rows != n or not same:
        raise ValueError(f"{meta.num_rows} rows of {', '.join(types)}, which are not this run's")
    parts = [
        meta.row_group(i).column(j)
        for i in range(meta.num_row_groups)
        for j in range(meta.num_columns)
    ]
    if any(p.compression != "UNCOMPRESSED" for p in parts) or sum(
        p.total_uncompressed_size for p in parts
    ) > len(data):
        raise ValueError("more values than its bytes can hold")
    table = said.read(use_threads=False).combine_chunks()
    table.validate(full=True)
    if any(column.null_count for column in table.columns) or not np.array_equal(
        table["image"].to_numpy(), np.arange(start, stop)
    ):
        raise ValueError("other images than its name says")
    values = {}
    for kind, w in widths.items():
        flat = np.concatenate([chunk.flatten().to_numpy() for chunk in table[kind].chunks])
        if flat.size != n * w:
            raise ValueError(f"{flat.size} values of '{kind}', not {n * w}")
        values[kind] = flat.reshape(n, w)
    return Stored(table["counted"].to_numpy(), values)
