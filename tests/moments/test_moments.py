"""Moments: exactly what a naive loop of Python integers gives, and an exact commutative monoid."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import wna_ray.moments.moments as moments_module
from wna_ray.errors import NumericsError
from wna_ray.moments.moments import Moments, Partial
from wna_ray.moments.responses import LIMIT, Dense, Response, Selected

KINDS = ("label", "logits")


def batch(
    n: int, d: int, k: int, seed: int, extreme: bool = False
) -> tuple[NDArray[np.int8], dict[str, Response]]:
    """Random grid values and responses; `extreme` takes the largest magnitudes everywhere."""
    rng = np.random.default_rng(seed)
    if extreme:
        signs = rng.choice([-1, 1], size=(n, k))
        return np.full((n, d), 127, np.int8), {
            "label": Selected(np.zeros(n, np.int64), np.full(n, 65536)),
            "logits": Dense(signs * LIMIT),
        }
    grid = rng.integers(-127, 128, size=(n, d)).astype(np.int8)
    dense = rng.integers(-LIMIT, LIMIT + 1, size=(n, k))
    return grid, {
        "label": Selected(rng.integers(0, k, n), rng.integers(1, 65537, n)),
        "logits": Dense(dense),
    }


def naive(grid: NDArray[np.int8], responses: dict[str, Response]) -> dict[str, Any]:
    """Every sum, in Python integers, one image at a time."""
    out: dict[str, Any] = {}
    for kind, response in responses.items():
        rows: dict[int, dict[str, Any]] = {}
        for i, x in enumerate(grid.astype(object)):
            if isinstance(response, Selected):
                fed = [(int(response.rows[i]), int(response.weights[i]))]
            else:
                fed = [(j, int(y)) for j, y in enumerate(response.values[i])]
            for j, y in fed:
                row = rows.setdefault(
                    j, {"count": 0, "peak": 0, "y": 0, "yy": 0, "yx": x * 0, "yxx": x * 0}
                )
                row["count"] += 1
                row["peak"] = max(row["peak"], abs(y))
                row["y"] += y
                row["yy"] += y * y
                row["yx"] = row["yx"] + y * x
                row["yxx"] = row["yxx"] + y * x * x
        out[kind] = rows
    return out


def assert_equal(got: Moments, grid: NDArray[np.int8], responses: dict[str, Response]) -> None:
    x = grid.astype(object)
    assert got.images == len(grid)
    assert got.sum_x.tolist() == (x.sum(axis=0).tolist() if len(grid) else [0] * grid.shape[1])
    assert got.sum_xx.tolist() == (
        (x * x).sum(axis=0).tolist() if len(grid) else [0] * grid.shape[1]
    )
    for kind, rows in naive(grid, responses).items():
        r = got.responses[kind]
        assert r.rows.tolist() == sorted(rows)
        for at, j in enumerate(sorted(rows)):
            assert (int(r.count[at]), int(r.sum_y[at]), int(r.peak[at])) == (
                rows[j]["count"],
                rows[j]["y"],
                rows[j]["peak"],
            )
            assert (int(r.sum_yy[at, 0]) << 32) + int(r.sum_yy[at, 1]) == rows[j]["yy"]
            assert r.sum_yx[at].tolist() == rows[j]["yx"].tolist()
            assert r.sum_yxx[at].tolist() == rows[j]["yxx"].tolist()


def identical(a: Moments, b: Moments) -> bool:
    x, y = a.arrays(), b.arrays()
    return x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x)


def of(grid: NDArray[np.int8], responses: dict[str, Response]) -> Moments:
    return Moments.identity(grid.shape[1], KINDS, second=True).update(grid, responses)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 40), d=st.integers(1, 7), k=st.integers(1, 5), seed=st.integers(0, 1000))
def test_update_is_the_naive_sum(n: int, d: int, k: int, seed: int) -> None:
    grid, responses = batch(n, d, k, seed)
    assert_equal(of(grid, responses), grid, responses)


def test_exact_at_the_largest_magnitudes() -> None:
    """One chunk of the largest allowed length at the largest values: products sum to 2^44,
    still exact.
    """
    n = moments_module.MAX_CHUNK + 3
    grid, responses = batch(n, 2, 1, 0, extreme=True)
    logits = responses["logits"]
    assert isinstance(logits, Dense)
    responses["logits"] = Dense(np.abs(logits.values))
    got = of(grid, responses)
    assert got.responses["logits"].sum_yx.tolist() == [[n * LIMIT * 127] * 2]
    assert got.responses["logits"].sum_yxx.tolist() == [[n * LIMIT * 127 * 127] * 2]
    high, low = got.responses["logits"].sum_yy[0]
    assert (int(high) << 32) + int(low) == n * LIMIT * LIMIT


def test_sum_of_squares_does_not_overflow() -> None:
    """2^40 images at the limit would be 2^86: doubled up by merging, kept in two words."""
    grid, responses = batch(1 << 10, 1, 1, 0, extreme=True)
    logits = responses["logits"]
    assert isinstance(logits, Dense)
    responses["logits"] = Dense(
        np.where(np.arange(1 << 10)[:, None] % 2, LIMIT, -LIMIT)
    )  # the other sums cancel
    total = of(grid, responses)
    total = replace(total, responses={"logits": total.responses["logits"]})
    for _ in range(30):
        total = total.merge(total)
    high, low = total.responses["logits"].sum_yy[0]
    assert (int(high) << 32) + int(low) == (1 << 40) * LIMIT * LIMIT
    assert 0 <= low < 1 << 32


def test_a_sum_that_leaves_int64_raises() -> None:
    """2^33 images that all answer the limit to 127 would sum to 2^63: merging refuses, and does
    not wrap.
    """
    total = Moments.identity(1, ["logits"]).update(
        np.full((1 << 10, 1), 127, np.int8), {"logits": Dense(np.full((1 << 10, 1), LIMIT))}
    )
    for _ in range(22):
        total = total.merge(total)
    assert total.responses["logits"].sum_yx.tolist() == [[(1 << 32) * LIMIT * 127]]
    total = total.merge(total) if (1 << 33) * LIMIT * 127 < 1 << 63 else total
    with pytest.raises(NumericsError, match="left the range of int64"):
        total.merge(total)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=3, max_size=3), seed=st.integers(0, 1000))
def test_merge_is_an_exact_commutative_monoid(sizes: list[int], seed: int) -> None:
    a, b, c = (
        of(*batch(n, 3, 4, seed + i)).skip(nonfinite=i, out_of_range=2 * i)
        for i, n in enumerate(sizes)
    )
    zero = Moments.identity(3, KINDS, second=True)
    assert identical(a.merge(zero), a)
    assert identical(zero.merge(a), a)
    assert identical(a.merge(b), b.merge(a))
    assert identical(a.merge(b).merge(c), a.merge(b.merge(c)))


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 50), max_size=5),
    chunk=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_any_cut_gives_the_same_moments(cuts: list[int], chunk: int, seed: int) -> None:
    grid, responses = batch(50, 3, 4, seed)
    whole = of(grid, responses)
    edges = [0, *sorted(cuts), 50]
    total = Moments.identity(3, KINDS, second=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments_module, "MAX_CHUNK", chunk)  # caps MIN_CHUNK, too
        for a, b in itertools.pairwise(edges):
            mask = np.zeros(50, dtype=bool)
            mask[a:b] = True
            total = total.update(grid[mask], {kind: r.keep(mask) for kind, r in responses.items()})
    assert identical(total, whole)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 20), seed=st.integers(0, 100))
def test_round_trip(n: int, seed: int) -> None:
    m = of(*batch(n, 3, 2, seed)).skip(nonfinite=4)
    assert identical(Moments.from_arrays(m.arrays()), m)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("with_logits", [False, True], ids=["labels", "labels and logits"])
@pytest.mark.parametrize("columns", [1 << 18, 1], ids=["whole", "column by column"])
def test_labels_are_added_as_they_are(
    second: bool, with_logits: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one label each, at both ends of the grid, against Python's integers; beside a
    matrix product, or without one.
    """
    monkeypatch.setattr(moments_module, "CHUNK_VALUES", columns)
    rng = np.random.default_rng(0)
    grid = rng.choice(np.array([-128, -1, 0, 127], dtype=np.int8), size=(300, 3))
    responses: dict[str, Response] = {
        "label": Selected(rng.choice([2, 5, 900], 300), np.ones(300, dtype=np.int64))
    }
    if with_logits:
        responses["logits"] = Dense(rng.integers(-LIMIT, LIMIT + 1, size=(300, 4)))
    got = Moments.identity(3, list(responses), second).update(grid, responses)
    x = grid.astype(object)
    assert got.sum_x.tolist() == x.sum(axis=0).tolist()
    assert got.sum_xx.tolist() == ((x * x).sum(axis=0).tolist() if second else [])
    for kind, rows in naive(grid, responses).items():
        found = got.responses[kind]
        assert found.rows.tolist() == sorted(rows)
        for at, row in enumerate(sorted(rows)):
            assert (int(found.count[at]), int(found.sum_y[at])) == (
                rows[row]["count"],
                rows[row]["y"],
            )
            assert found.sum_yx[at].tolist() == rows[row]["yx"].tolist()
            assert found.sum_yxx[at].tolist() == (rows[row]["yxx"].tolist() if second else [])


def test_a_full_chunk_of_the_largest_values_in_one_label() -> None:
    """2^14 images of -128 with the same label: the squares add up to 2^28, which int32 holds."""
    n = moments_module.MAX_CHUNK
    label = {"label": Selected(np.full(n, 3), np.ones(n, dtype=np.int64))}
    got = Moments.identity(1, ["label"], second=True).update(
        np.full((n, 1), -128, dtype=np.int8), label
    )
    assert got.responses["label"].sum_yx.tolist() == [[-128 * n]]
    assert (
        got.responses["label"].sum_yxx.tolist()
        == got.sum_xx.reshape(1, 1).tolist()
        == [[128 * 128 * n]]
    )


def test_only_rows_that_occurred_are_kept() -> None:
    grid = np.ones((3, 2), np.int8)
    m = Moments.identity(2, ["label"]).update(
        grid, {"label": Selected(np.array([7, 900, 7]), np.ones(3, np.int64))}
    )
    assert m.responses["label"].rows.tolist() == [7, 900]
    assert m.responses["label"].count.tolist() == [2, 1]
    assert m.responses["label"].sum_yxx.shape == (2, 0)


def test_variation_is_exact_where_float_sums_are_not() -> None:
    """Responses 2^23 and 2^23 - 1: mean squares differ in the 14th digit; the variance is 1/4
    exactly.
    """
    values = np.array([LIMIT, LIMIT - 1] * 500)[:, None]
    m = Moments.identity(1, ["logits"]).update(
        np.zeros((1000, 1), np.int8), {"logits": Dense(values)}
    )
    assert m.responses["logits"].variation(1000).tolist() == [250.0]


@pytest.mark.parametrize("damage", ["missing", "dtype", "shape", "order"])
def test_damaged_arrays_are_refused(damage: str) -> None:
    arrays: dict[str, NDArray[Any]] = dict(of(*batch(9, 3, 4, 0)).arrays())
    if damage == "missing":
        del arrays["label/count"]
    elif damage == "dtype":
        arrays["sum_x"] = arrays["sum_x"].astype(np.float64)
    elif damage == "shape":
        arrays["logits/sum_yx"] = arrays["logits/sum_yx"][:, :2]
    else:
        arrays["label/rows"] = arrays["label/rows"][::-1]
    with pytest.raises(ValueError, match=r"expected the int64 arrays|do not fit each other"):
        Moments.from_arrays(arrays)


def test_partials_merge_with_their_neighbour_only() -> None:
    m = of(*batch(5, 3, 2, 0))
    a, b = Partial(0, 5, m), Partial(5, 10, m)
    assert (a.merge(b).start, a.merge(b).stop, a.merge(b).moments.images) == (0, 10, 10)
    with pytest.raises(ValueError, match="does not follow"):
        b.merge(a)
    with pytest.raises(ValueError, match="5 images for the range"):
        Partial(0, 6, m)
