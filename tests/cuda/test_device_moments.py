"""Moments on a device (here the CPU, as torch sees it) against those of
`wna_ray.moments.moments`, which have oracles of their own, and int64.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from prepared import prepared

from wna_ray.cuda import moments as device_moments
from wna_ray.cuda.constants import DEPTH
from wna_ray.cuda.moments import DeviceMoments, chosen, digits, digits_for, require_range
from wna_ray.cuda.responses import Values
from wna_ray.errors import NumericsError
from wna_ray.moments.kept import Stored
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import LIMIT, Dense, Selected, respond
from wna_ray.noise.stream import Noise
from wna_ray.shards import shard
from wna_ray.shards.shard import run_shard, stays_on_device
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]
CPU = torch.device("cpu")


def equal(a: Moments, b: Moments) -> None:
    one, other = a.arrays(), b.arrays()
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert np.array_equal(array, other[name]), name


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("step", [1 << 26, 1])
def test_the_largest_values_are_summed_exactly(
    second: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses and grid at the ends of their range, all of one sign: against int64 arithmetic,
    and `Moments`.
    """
    monkeypatch.setattr(device_moments, "PRODUCT_VALUES", step)
    rng = np.random.default_rng(0)
    n, d = 20_000, 35
    grid = rng.integers(-128, 128, (n, d)).astype(np.int8)
    grid[:, 0] = -128
    y = np.full((n, 7), LIMIT, dtype=np.int64)
    y[:, 1] = rng.integers(-LIMIT, LIMIT + 1, n)
    for row, size in (
        (2, 127),
        (3, 128),
        (4, 32_639),
        (5, 32_640),
    ):  # the last of a digit, and the first of the next
        y[:, row] = rng.choice([-size, size], n)
    y[:, 6] = 0
    rows, weights = rng.integers(0, 40, n), rng.integers(1, 1 << 16, n)
    responses = {"logits": Dense(y), "confidence": Selected(rows, weights)}
    empty = Moments.identity(d, responses, second)
    found = DeviceMoments(empty, CPU)
    for a in (0, 7000):
        b = 7000 if a == 0 else n
        part = {
            "logits": Values.of(Dense(y[a:b]), CPU),
            "confidence": Selected(rows[a:b], weights[a:b]),
        }
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
        found = found.update(
            torch.from_numpy(grid[part]), {"label": Selected(rows[part], ones[part])}
        )
    equal(found.fetched(), empty.update(grid, {"label": Selected(rows, ones)}))


def test_digits_hold_every_integer() -> None:
    """Digits and powers of 256 make up the integer again; so many hold all up to a magnitude,
    and one less does not.
    """
    values = torch.tensor(
        [
            0,
            1,
            -1,
            127,
            128,
            -128,
            -129,
            255,
            32_639,
            32_640,
            -32_640,
            LIMIT,
            -LIMIT,
            2_139_062_143,
        ],
        dtype=torch.int32,
    )
    rest, found = values, torch.zeros(len(values), dtype=torch.int64)
    for place in range(4):
        digit, rest = digits(rest)
        assert digit.dtype == torch.int8
        found += digit.to(torch.int64) << (8 * place)
    assert torch.equal(found, values.to(torch.int64))
    for most, needed in (
        (0, 1),
        (1, 1),
        (127, 1),
        (128, 2),
        (32_639, 2),
        (32_640, 3),
        (8_355_711, 3),
        (8_355_712, 4),
        (LIMIT, 4),
    ):
        assert digits_for(np.array([most])).tolist() == [needed]
        rest, places = torch.tensor([most, -most], dtype=torch.int32), 0
        while rest.any():
            _, rest = digits(rest)
            places += 1
        assert max(places, 1) == needed


PRODUCTS = """
import numpy as np
import torch
from wna_ray.cuda.moments import add_by_kernel
from wna_ray.cuda.moments import product_by_torch

rng = np.random.default_rng(3)
for m, d, n in ((3, 40, 128), (70, 300, 130), (129, 257, 256), (1, 1, 1)):
    left, right = (rng.integers(-128, 128, (side, n)).astype(np.int8) for side in (m, d))
    left[0], right[0] = -128, -128  # the largest sum that there is
    slots = rng.permutation(m + 5)[:m]
    before = rng.integers(-(1 << 60), 1 << 60, (m + 5, d + 7))
    for scale in (1, 256, 1 << 32):
        sums = torch.from_numpy(before.copy())
        sides = (torch.from_numpy(side) for side in (slots, left, right))
        add_by_kernel(sums[:, 4 : 4 + d], *sides, scale)
        expected = before.copy()
        expected[slots, 4 : 4 + d] += scale * (left.astype(np.int64) @ right.astype(np.int64).T)
        assert np.array_equal(sums.numpy(), expected), (m, d, n, scale)
    expected = left.astype(np.int64) @ right.astype(np.int64).T
    product = product_by_torch(torch.from_numpy(left), torch.from_numpy(right))
    assert np.array_equal(product, expected)
print("exact")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_kernel_adds_products_as_int64_would() -> None:
    """Under Triton's interpreter: sides that fill tiles or do not, rows in any order, some columns
    of the sums, each power of 256; beside it torch's own product.
    """
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        timeout=300,
    )
    assert done.stdout.split() == ["exact"], done.stderr[-3000:]


def test_images_of_a_mask_are_chosen_side_by_side() -> None:
    grid = torch.arange(60, dtype=torch.int8).reshape(12, 5).t().reshape(5, 3, 2, 2)
    mask = np.array([True, False, True, True, False])
    some = chosen(grid, mask)
    assert torch.equal(some, grid[torch.from_numpy(mask)])
    assert some.flatten(1).stride() == (1, 3)


UNITS = {
    "model": "python:networks_for_tests:linear",
    "responses": ["activation", "rectified", {"kind": "spikes", "quantile": 0.8}],
}


@pytest.mark.parametrize(
    "changes",
    [
        {"responses": ["label", "logits"]},
        {"responses": ["confidence", "probabilities"], "moments": {"second": True}},
        {"moments": {"halves": True, "second": True}},
        {"model": "python:networks_for_tests:sometimes_nan", "moments": {"halves": True}},
        {
            "model": "python:networks_for_tests:wild",
            "responses": ["label", "logits"],
            "moments": {"halves": True},
        },
        {
            "model": "python:networks_for_tests:seldom",
            "responses": ["label", "logits"],
            "moments": {"halves": True},
        },
        UNITS,
    ],
    ids=[
        "logits",
        "probabilities",
        "halves",
        "sometimes NaN",
        "wild",
        "hardly ever finite",
        "units",
    ],
)
@pytest.mark.parametrize("most", [1 << 28, 2000])
def test_a_shard_on_a_device_has_the_same_moments(
    changes: dict[str, Any], most: int, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers handled one set late, sums kept on the device, responses made there: the bytes of
    the plain way, kept responses, too.
    """
    job, network = prepared(make_spec(**changes))
    here: list[Stored] = []
    plain, _ = run_shard(job, network, 64, 2000, here)
    assert plain.seen == 1936
    monkeypatch.setattr(shard, "stays_on_device", lambda *_: True)
    monkeypatch.setattr(shard, "DEVICE_PENDING_VALUES", most)
    there: list[Stored] = []
    found, seconds = run_shard(job, network, 64, 2000, there)
    equal(found, plain)
    assert len(there) == (
        1 if most > 2000 else -(-1936 // (most // job.stimulus.pixels // 64 * 64))
    )
    one, other = (Stored.join(parts) for parts in (here, there))
    assert np.array_equal(one.counted, other.counted)
    assert all(np.array_equal(values, other.values[kind]) for kind, values in one.values.items())
    assert set(seconds) == {"noise", "forward", "responses", "moments", "fetch"}


@pytest.mark.parametrize("batch, whole", [(64, 2 * 64), (100, 32 * 100), (256, 256), (3, 128 * 3)])
def test_sets_on_a_device_are_whole_batches_and_tiles(
    batch: int, whole: int, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many images as there is room for, a multiple of both, so that a product reads 16 bytes
    at a time; one batch at least.
    """
    job, _ = prepared(make_spec(numerics={"batch": batch}))
    assert whole == math.lcm(batch, DEPTH)
    most, block = shard.set_on_device(job, CPU)
    assert most == block == (1 << 14) // whole * whole
    monkeypatch.setattr(shard, "DEVICE_PENDING_OUTPUTS", len(job.names) * 5000)
    assert shard.set_on_device(job, CPU)[0] == 5000 // whole * whole
    monkeypatch.setattr(shard, "DEVICE_PENDING_VALUES", 1)
    assert shard.set_on_device(job, CPU)[0] == batch


def test_sums_that_may_have_wrapped_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device adds up without a word; once fetched, images x largest response x largest square
    of the grid must stay below 2^63.
    """
    grid = torch.full((64, 2), -128, dtype=torch.int8)
    values = Values.of(Dense(np.full((64, 1), LIMIT)), CPU)
    sums = DeviceMoments(Moments.identity(2, ["logits"], second=True), CPU).update(
        grid, {"logits": values}
    )
    assert sums.fetched().images == 64
    require_range("logits", (1 << 26) - 1, LIMIT, second=True)
    with pytest.raises(NumericsError, match=r"give a smaller execution\.shard"):
        require_range("logits", 1 << 26, LIMIT, second=True)
    monkeypatch.setattr(device_moments, "LARGEST", (1 << 17) - 1)
    sums.fetched()
    monkeypatch.setattr(device_moments, "LARGEST", 1 << 17)
    with pytest.raises(NumericsError, match=r"give a smaller execution\.shard"):
        sums.fetched()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("on_device", [False, True], ids=["plain", "on a device"])
def test_each_arithmetic_is_summed_as_int64_would(
    dtype: str, on_device: bool, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the network computes in: its answers, rounded once, and the grid are whole
    numbers, and their sums those of int64 loops.
    """
    kinds = ["label", "confidence", "logits", "probabilities"]
    numerics = {"batch": 64, "dtype": dtype}
    job, network = prepared(
        make_spec(responses=kinds, moments={"second": True, "halves": True}, numerics=numerics)
    )
    monkeypatch.setattr(shard, "stays_on_device", lambda *_: on_device)
    monkeypatch.setattr(shard, "DEVICE_PENDING_VALUES", 5000)
    found, _ = run_shard(job, network, 0, 300)
    sums: dict[tuple[bool, str, int], list[Any]] = {}
    for i in range(300):
        grid = job.stimulus.noise.grid(i, i + 1)
        x, outputs = grid.reshape(-1).astype(np.int64), network(job.stimulus.images(grid))
        for kind in kinds:
            answer, within = respond(
                next(r for r in job.spec.responses if r.kind == kind), job.points[kind], outputs
            )
            assert within.all()
            rows = (
                [int(answer.rows[0])]
                if isinstance(answer, Selected)
                else range(answer.values.shape[1])
            )
            values = answer.weights if isinstance(answer, Selected) else answer.values[0]
            for row, y in zip(rows, values.tolist(), strict=True):
                for odd in {False, i // 64 % 2 == 1}:
                    old = sums.setdefault(
                        (odd, kind, row), [0, 0, np.zeros_like(x), np.zeros_like(x)]
                    )
                    sums[odd, kind, row] = [
                        old[0] + 1,
                        old[1] + y,
                        old[2] + y * x,
                        old[3] + y * x * x,
                    ]
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
    """Noise of whole images does; windows of units and pictures go the plain way, as everything
    does on the CPU.
    """
    job, _ = prepared(make_spec())
    assert isinstance(job.stimulus.noise, Noise)
    assert stays_on_device(job, torch.device("cuda"))
    assert not stays_on_device(job, CPU)
    pictures, _ = prepared(make_spec(stimulus={"basis": {"kind": "gabor", "rescale": "minmax"}}))
    assert not isinstance(pictures.stimulus.noise, Noise)
    assert not stays_on_device(pictures, torch.device("cuda"))
    units, _ = prepared(
        make_spec(
            model="python:networks_for_tests:layered",
            responses=["activation"],
            target={"layer": "maps"},
        )
    )
    assert not stays_on_device(units, torch.device("cuda"))
