"""Random changes of what a run consists of: JSON values, packed archives, arrays, tables, bytes.

Each is a function of a random generator and of what was there, and says what it has done.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from crafted_runs import npy
from numpy.typing import NDArray

from wna_ray.storage.arrays import pack, unpack

Changed = tuple[bytes, str]  # other bytes, and what is different about them

MARKUP = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>')
RAW = {"nan": "NaN", "infinite": "1e999", "digits": "9" * 5000, "deep": "[" * 5000 + "]" * 5000}
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, -0.0, 1e308, -1e308, 5e-324, 1e-300),
    *(2**31, 2**40, 2**41, 2**62, 2**63, 2**63 - 1, 2**64, -(2**63), 10**30, 10**400, -(10**400)),
    *("", "x", "../../canary/x", "../canary/x", "/etc/passwd", "a\0b", "\x1b[2J\x1b]0;x\x07"),
    *("\x9b2J", "\u202eabc", "a\nb\r", "e\u0301" * 300, "\U0001f600" * 50, "\ud800"),
    *("[link=file:///etc/passwd]x[/link]", "[bold]", "[/]", "[/red]", "[/red]x", "\\[/red]"),
    *("=cmd|'/C calc'!A0", "$\\frac{", "{{7*7}}", "%s%n", "${HOME}", "x" * 999, "x" * 100_000),
    *("nan", "NaN", "1e999", "mnist", "imagenet", "label", "logits", "0" * 64, "f" * 64, *MARKUP),
    *("trained:/etc", "python:os:getcwd", "python:trap_for_tests:make", "http://127.0.0.1:9/x"),
    *("s3://KEY:SECRET@bucket/x", "trained:http://127.0.0.1:9/x", "2026-01-01T00:00:00"),
    *("9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+14:00", "2026-01-01"),
    *([], {}, [[]], [None], [0] * 3, [1, 1, 1], [1, 4, 4], [1] * 1000, ["a"] * 3, ["[/red]"] * 3),
    *({"a": 1}, {"": {}}, {"kind": "label"}, {"a": 10**400, "b": 0.5}, [1.5], [-1], [2**62]),
    *(f"@{name}@" for name in RAW),
)
KEYS = ("x", "../x", "a\0", "\x1b[2J", "[/red]", "__class__", "label", "\ud800", "result/X.npz")
MORE_KEYS = ("result/figures/z.png", "Result/moments.npz", "images", "samples", "offset.npy")


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def hostile(rng: Random) -> Any:
    """A value that somebody may not have thought of."""
    deep = rng.random() < 0.02
    return nested(rng.choice([50, 300, 600, 900])) if deep else rng.choice(HOSTILE)


def alike(rng: Random, old: Any) -> Any:
    """A value of the same type as the one that was there, which goes further than others."""
    number = isinstance(old, int | float) and not isinstance(old, bool)
    if number and rng.random() < 0.5:
        return rng.choice([old + 1, old - 1, -old, old * 2, old * 1000, old + 0.5, old * 10**9, 0])
    return rng.choice([value for value in HOSTILE if type(value) is type(old)])


def dumps(value: Any) -> bytes:
    """JSON, also of what JSON cannot hold."""
    text = json.dumps(value, indent=1)
    for name, raw in RAW.items():
        text = text.replace(f'"@{name}@"', raw)
    return text.encode()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value; of long lists only the first places."""
    keys = list(value) if isinstance(value, dict) else []
    keys = list(range(min(len(value), 6))) if isinstance(value, list) else keys
    for key in keys:
        yield (*path, key)
        yield from paths(value[key], (*path, key))


def path(rng: Random, value: Any) -> tuple[Any, ...]:
    """A place in a JSON value: any, or one found by walking down, as big branches hide others."""
    if rng.random() < 0.5:
        return rng.choice(list(paths(value)))
    walked: tuple[Any, ...] = ()
    while isinstance(value, dict | list) and value and (not walked or rng.random() < 0.7):
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        walked, value = (*walked, key), value[key]
    return walked


def change(rng: Random, value: Any) -> str:
    """One change of a JSON value, in place."""
    if not value:
        return "nothing to change"
    where = path(rng, value)
    *above, last = where
    node, how, name = value, rng.random(), ".".join(map(str, where))
    for key in above:
        node = node[key]
    if how < 0.68:
        node[last] = new = alike(rng, node[last]) if rng.random() < 0.6 else hostile(rng)
        return f"{name} = {str(new)[:60]!r}"
    if how < 0.82:
        del node[last]
        return f"without {name}"
    if isinstance(node, dict):
        key = rng.choice(KEYS + MORE_KEYS)
        node[key] = hostile(rng)
        return f"{'.'.join(map(str, above))}: {key!r} = {str(node[key])[:60]!r}"
    node.insert(0, hostile(rng))
    return f"{'.'.join(map(str, above))}: one more, {str(node[0])[:60]!r}"


def flipped(rng: Random, data: bytes) -> bytes:
    """Some other bytes; sometimes fewer or more."""
    some = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 4, 32]) if some else 0):
        at = rng.randrange(len(some))
        bit = some[rng.randrange(len(some))] ^ (1 << rng.randrange(8))
        some[at] = rng.choice([0, 255, rng.randrange(256), bit])
    how, at = rng.random(), rng.randrange(len(some) + 1)
    if how < 0.1:
        return bytes(some[:at])
    if how < 0.2:
        return bytes(some) + rng.randbytes(rng.randrange(100))
    return bytes(some[:at] + some[at + rng.randrange(9) :]) if how < 0.3 else bytes(some)


def extreme(rng: Random, array: NDArray[Any]) -> NDArray[Any]:
    """The same with values at the edge of what they can be: one, few, or all."""
    found = array.copy()
    flat = found.reshape(-1)
    if not flat.size:
        return found
    most = rng.choice([1, 1, 3, flat.size])
    at: Any = slice(None) if most >= flat.size else [rng.randrange(flat.size) for _ in range(most)]
    huge = 3e38 if array.dtype == np.float32 else 1e308
    values: dict[str, list[float]] = {
        "f": [np.nan, np.inf, -np.inf, 0, 1e38, -1e38, 1e-45, huge],
        "u": [0, 255, 34, 92],
        "i": [0, -1, 1, 2**62, -(2**62), 2**63 - 1, -(2**63), 2**31, 2**32, 127, 10**12],
    }
    with np.errstate(all="ignore"):
        flat[at] = np.array(rng.choice(values[array.dtype.kind])).astype(array.dtype)
    return found


def archive(rng: Random, data: bytes) -> Changed:
    """Another archive, its digest as it should be."""
    header, found = unpack(data, "a fixture")
    arrays, how = dict(found), rng.random()
    name, other = rng.choice(list(arrays)), rng.choice(list(arrays))
    array, what = arrays[name], ""
    if how < 0.35:
        arrays[name], what = extreme(rng, array), f"extreme values of {name}"
    elif how < 0.45:
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(rng.choice([np.int32, np.float64, np.float32, np.uint8]))
        what = f"{name} of {arrays[name].dtype}"
    elif how < 0.6:
        arrays[name] = _reshaped(rng, array)
        what = f"{name} of shape {arrays[name].shape}"
    elif how < 0.68:
        del arrays[name]
        what = f"without {name}"
    elif how < 0.74:
        name = rng.choice([*ARRAYS, name])
        shape, dtype = rng.choice([((3,), "i8"), ((0,), "i8"), ((0, 10**9), "i8"), ((2, 2), "f8")])
        arrays[name] = np.zeros(shape, dtype)
        what = f"{name} of shape {shape} and {dtype}"
    elif how < 0.8:
        arrays[name], arrays[other] = arrays[other], array
        what = f"{name} and {other} exchanged"
    else:
        what = f"header: {change(rng, header)}"
    return pack(header, arrays), what


ARRAYS = ["z", "label/x", "label/rows", "logits/sum_y", "foo/rows", "odd/x", "sum_xx", "sum_x"]
ARRAYS += ["counts", "noise", "rxx", "rqx", "answers", "by_signal"]


def _reshaped(rng: Random, array: NDArray[Any]) -> NDArray[Any]:
    flat = array.reshape(-1)
    other = [flat, array.reshape(1, *array.shape), array[:0], np.concatenate([flat, flat]), array.T]
    return rng.choice([*other, flat[:1], array[..., :3]])


def _said(array: NDArray[Any], descr: str = "", fortran: bool = False, shape: Any = None) -> bytes:
    """A ``.npy`` whose header says what it is told to."""
    said = f"{{'descr': {descr or repr(array.dtype.str)}, 'fortran_order': {fortran}, "
    said += f"'shape': {array.shape if shape is None else shape}, }}"
    return npy(said.encode(), np.ascontiguousarray(array).tobytes())


def array(rng: Random, data: bytes) -> Changed:
    """Another ``.npy``."""
    found, how = np.load(io.BytesIO(data)), rng.random()
    if how < 0.4:
        return _said(extreme(rng, found)), "extreme values"
    if how < 0.5:
        return _said(found, fortran=True), "other order"
    if how < 0.6:
        descr = rng.choice(DESCR)
        return _said(found, descr), f"said to be of {descr}"
    if how < 0.75:
        shapes = [(0, *found.shape), (*found.shape, 1), (found.size,), (), (10**9, 0)]
        shape = rng.choice([*shapes, (1,) * 8 + found.shape, (2**60, 2**60), found.shape[::-1]])
        return _said(found, shape=shape), f"said to be of shape {shape}"
    if how < 0.9:
        as_other = [found.astype(np.float64), found.astype(np.float32)]
        other = rng.choice([_reshaped(rng, found), *as_other])
        return _said(other), f"{other.dtype} of shape {other.shape}"
    return flipped(rng, data), "other bytes"


DESCR = ("'>f4'", "'>i8'", "'<f2'", "'|O'", "'<U4'", "'<M8[s]'", "[('a','<f4')]", "'<c8'", "'|b1'")
FLOATS, WHOLE = (float("nan"), float("inf"), -1e308, 0.0, None), (None, 0, -1, 2**62, -(2**62))
WORDS = (None, "", "\x1b[2J", "[/red]", MARKUP[0], "x" * 1000, "label")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"compression": "zstd"},
    {"compression": "brotli"},
    {"compression": "gzip"},
    {"compression": "snappy", "data_page_size": 1},
    {"row_group_size": 1},
    {"use_dictionary": False},
    {"data_page_version": "2.0"},
    {"version": "1.0"},
    {"write_statistics": False},
)


def table(rng: Random, data: bytes) -> Changed:
    """Another Parquet file."""
    found, how = pq.read_table(io.BytesIO(data)), rng.random()
    at, n = rng.randrange(found.num_columns), found.num_rows
    name, options, what = found.schema.names[at], {}, ""
    if how < 0.35:
        found, what = found.set_column(at, name, _values(rng, found[name])), f"values of {name}"
    elif how < 0.5:
        some = rng.choice([None, b"x", [1], {"a": 1}, 1.5, "a", True])
        found, what = found.set_column(at, name, pa.array([some] * n)), f"{name} of {some!r}"
    elif how < 0.6:
        fewer = found.slice(0, rng.randrange(n + 1))
        found = rng.choice([fewer, pa.concat_tables([found] * rng.choice([2, 100]))])
        what = f"{found.num_rows} rows"
    elif how < 0.7:
        more = found.append_column("x", pa.array([1] * n))
        twice, back = found.append_column(name, found[name]), found.select(found.schema.names[::-1])
        found, what = rng.choice([found.drop_columns(name), more, twice, back]), "other columns"
    elif how < 0.82:
        options = rng.choice(OPTIONS)
        what = f"written with {options}"
    else:
        return flipped(rng, data), "other bytes"
    sink = io.BytesIO()
    pq.write_table(found, sink, **options)
    return sink.getvalue(), what


def _values(rng: Random, column: Any) -> pa.Array:
    """Other values of the same type: one, or each."""
    values, kind, n = column.to_pylist(), column.type, len(column)
    if pa.types.is_fixed_size_list(kind):
        odd = [rng.choice([2**31 - 1, -(2**31), 0, 7])] * kind.list_size
        return pa.array([odd if rng.random() < 0.3 else value for value in values], kind)
    some: tuple[Any, ...] = (None, True, False) if pa.types.is_boolean(kind) else WORDS
    some = FLOATS if pa.types.is_floating(kind) else WHOLE if pa.types.is_integer(kind) else some
    for _ in range(rng.choice([1, n]) if n else 0):
        values[rng.randrange(n)] = rng.choice(some)
    return pa.array(values, kind)
