"""Moments on a device (here the CPU, as torch sees it) against those of `wna_ray.moments`, which have oracles of their own, and int64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from prepared import prepared

from wna_ray import device_moments, shard
from wna_ray.device_moments import DeviceMoments
from wna_ray.moments import Moments
from wna_ray.noise import Noise
from wna_ray.responses import LIMIT, Dense, Selected, respond
from wna_ray.shard import run_shard, stays_on_device
from wna_ray.spec import Spec

MakeSpec = Callable[..., Spec]
CPU = torch.device("cpu")


def equal(a: Moments, b: Moments) -> None:
    one, other = a.arrays(), b.arrays()
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert np.array_equal(array, other[name]), name


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("chunk", [1 << 26, 1])
def test_the_largest_values_are_summed_exactly(second: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses and grid at the ends of their range, all of one sign: against int64 arithmetic, and `Moments`."""
    monkeypatch.setattr(device_moments, "CHUNK_VALUES", chunk)
    rng = np.random.default_rng(0)
    n, d = 20_000, 3
    grid = np.full((n, d), -128, dtype=np.int8)
    grid[:, 1] = rng.integers(-128, 128, n)
    y = np.full((n, 2), LIMIT, dtype=np.int64)
    y[:, 1] = rng.integers(-LIMIT, LIMIT + 1, n)
    rows, weights = rng.integers(0, 40, n), rng.integers(1, 1 << 16, n)
    responses = {"logits": Dense(y), "confidence": Selected(rows, weights)}
    empty = Moments.identity(d, responses, second)
    found = DeviceMoments(empty, CPU)
    for a in (0, 7000):
        b = 7000 if a == 0 else n
        part = {"logits": Dense(y[a:b]), "confidence": Selected(rows[a:b], weights[a:b])}
        found = found.update(torch.from_numpy(grid[a:b]), part)
    fetched = found.fetched()
    x = grid.astype(np.int64)
    assert np.array_equal(fetched.sum_x, x.sum(axis=0))
    assert np.array_equal(fetched.responses["logits"].sum_yx, y.T @ x)
    if second:
        assert np.array_equal(fetched.responses["logits"].sum_yxx, y.T @ x**2)
    equal(fetched, empty.update(grid, responses))


def test_rows_come_in_any_order() -> None:
    """A label that shows up late may be the smallest."""
    grid = np.arange(12, dtype=np.int8).reshape(6, 2)
    rows, ones = np.array([9, 5, 9, 2, 5, 7]), np.ones(6, dtype=np.int64)
    empty = Moments.identity(2, ["label"], second=True)
    found = DeviceMoments(empty, CPU)
    for part in (slice(0, 3), slice(3, 6)):
        found = found.update(torch.from_numpy(grid[part]), {"label": Selected(rows[part], ones[part])})
    equal(found.fetched(), empty.update(grid, {"label": Selected(rows, ones)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"responses": ["label", "logits"]},
        {"responses": ["confidence", "probabilities"], "moments": {"second": True}},
        {"moments": {"halves": True, "second": True}},
        {"model": "python:networks_for_tests:sometimes_nan", "moments": {"halves": True}},
    ],
)
@pytest.mark.parametrize("most", [1 << 28, 2000])
def test_a_shard_on_a_device_has_the_same_moments(
    changes: dict[str, Any], most: int, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers handled one set late, sums kept on the device: the bytes of the plain way."""
    job, network = prepared(make_spec(**changes))
    plain, _ = run_shard(job, network, 64, 2000)
    assert plain.seen == 1936
    monkeypatch.setattr(shard, "stays_on_device", lambda *_: True)
    monkeypatch.setattr(shard, "DEVICE_PENDING_VALUES", most)
    found, seconds = run_shard(job, network, 64, 2000)
    equal(found, plain)
    assert set(seconds) == {"noise", "forward", "responses", "moments"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("on_device", [False, True], ids=["plain", "on a device"])
def test_each_arithmetic_is_summed_as_int64_would(
    dtype: str, on_device: bool, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the network computes in: its answers, rounded once, and the grid are whole numbers, and their sums those of int64 loops."""
    kinds = ["label", "confidence", "logits", "probabilities"]
    numerics = {"batch": 64, "dtype": dtype}
    job, network = prepared(make_spec(responses=kinds, moments={"second": True, "halves": True}, numerics=numerics))
    monkeypatch.setattr(shard, "stays_on_device", lambda *_: on_device)
    monkeypatch.setattr(shard, "DEVICE_PENDING_VALUES", 5000)
    found, _ = run_shard(job, network, 0, 300)
    sums: dict[tuple[bool, str, int], list[Any]] = {}
    for i in range(300):
        grid = job.stimulus.noise.grid(i, i + 1)
        x, outputs = grid.reshape(-1).astype(np.int64), network(job.stimulus.images(grid))
        for kind in kinds:
            answer, within = respond(next(r for r in job.spec.responses if r.kind == kind), job.points[kind], outputs)
            assert within.all()
            rows = [int(answer.rows[0])] if isinstance(answer, Selected) else range(answer.values.shape[1])
            values = answer.weights if isinstance(answer, Selected) else answer.values[0]
            for row, y in zip(rows, values.tolist(), strict=True):
                for odd in {False, i // 64 % 2 == 1}:
                    old = sums.setdefault((odd, kind, row), [0, 0, np.zeros_like(x), np.zeros_like(x)])
                    sums[odd, kind, row] = [old[0] + 1, old[1] + y, old[2] + y * x, old[3] + y * x * x]
    assert found.odd is not None
    for odd, moments in ((False, found), (True, found.odd)):
        for kind in kinds:
            got = moments.responses[kind]
            assert got.rows.tolist() == sorted(row for o, k, row in sums if (o, k) == (odd, kind))
            for at, row in enumerate(got.rows.tolist()):
                count, y, yx, yxx = sums[odd, kind, row]
                assert (int(got.count[at]), int(got.sum_y[at])) == (count, y)
                assert np.array_equal(got.sum_yx[at], yx)
                assert np.array_equal(got.sum_yxx[at], yxx)


def test_what_stays_on_a_device(make_spec: MakeSpec) -> None:
    """Noise of whole images does; windows of units and pictures go the plain way, as everything does on the CPU."""
    job, _ = prepared(make_spec())
    assert isinstance(job.stimulus.noise, Noise)
    assert stays_on_device(job, torch.device("cuda"))
    assert not stays_on_device(job, CPU)
    units, _ = prepared(make_spec(model="python:networks_for_tests:layered", responses=["activation"], target={"layer": "maps"}))
    assert not stays_on_device(units, torch.device("cuda"))
