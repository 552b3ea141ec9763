"""The shard function against a naive float64 loop, and its independence of how it is cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import networks_for_tests
import numpy as np
import pytest
import torch
from prepared import prepared

from wna_ray.errors import NumericsError
from wna_ray.moments.moments import Partial
from wna_ray.shards.network import Network
from wna_ray.shards.resolve import check_canary
from wna_ray.shards.shard import run_shard
from wna_ray.shards.update import add
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]


def arrays_equal(a: Partial, b: Partial) -> bool:
    x, y = a.moments.arrays(), b.moments.arrays()
    return all(np.array_equal(x[key], y[key]) for key in x | y)


@pytest.mark.parametrize(
    "kind, density", [("gaussian", None), ("uniform", None), ("binary", None), ("sparse", 0.3)]
)
def test_against_a_naive_float64_loop(
    make_spec: MakeSpec, kind: str, density: float | None
) -> None:
    """Label sums exactly; logit sums to the rounding of 2,000 responses (half a step each, |x|
    <= 127).
    """
    scale = {"gaussian": 29.0, "uniform": 127.0}.get(
        kind, 1.0
    )  # one grid unit is 1: logits are exact, and so are ties
    stimulus = {"kind": kind, "density": density, "scale": scale / 8}
    spec = make_spec(
        stimulus=stimulus,
        responses=["label", "confidence", {"kind": "logits", "centred": True}, "probabilities"],
    )
    job, network = prepared(spec)
    assert job.stimulus.unit == 1 / 8
    moments, _ = run_shard(job, network, 0, 2000)
    w = networks_for_tests.weights().numpy().astype(np.float64)
    noise, unit = job.stimulus.noise, job.stimulus.unit
    sums = {k: np.zeros((3, 16)) for k in ("label", "confidence", "logits", "probabilities")}
    counts = np.zeros(3, dtype=int)
    for i in range(2000):
        g = noise.grid(i, i + 1).reshape(-1).astype(np.float64)
        y = w @ (g * unit)
        p = np.exp(y - y.max()) / np.exp(y - y.max()).sum()
        k = int(np.argmax(y.astype(np.float32)))
        counts[k] += 1
        sums["label"][k] += g
        sums["confidence"][k] += p[k] * g
        sums["logits"] += np.outer(y - y.mean(), g)
        sums["probabilities"] += np.outer(p, g)
    got = moments.responses
    assert moments.images == 2000
    assert got["label"].count.tolist() == counts.tolist()
    assert got["label"].sum_yx.tolist() == sums["label"].tolist()
    for kind_ in ("confidence", "logits", "probabilities"):
        point = job.points[kind_]
        centre = np.array(point.centre)[:, None] * moments.sum_x[None, :]
        real = (got[kind_].sum_yx + (0 if kind_ == "confidence" else centre)) * point.step[:, None]
        error = np.abs(real - sums[kind_]).max()
        # float32 outputs (relative 2^-22 of at most ~100) and half a step, each times |g| and 2,000
        # images
        allowed = 2000 * noise.table.range[1] * (point.step.max() / 2 + 100 * 2**-22)
        assert error < allowed, f"{kind_}: {error} of {allowed}"


@pytest.mark.parametrize(
    "edges",
    [[0, 2000], [0, 64, 128, 2000], [0, 1024, 1984, 2000], [*list(range(0, 2000, 64)), 2000]],
)
def test_any_cut_gives_the_same_bytes(
    make_spec: MakeSpec, edges: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, network = prepared(
        make_spec(model="python:networks_for_tests:sometimes_nan", moments={"second": True})
    )
    whole = Partial(0, 2000, run_shard(job, network, 0, 2000)[0])
    monkeypatch.setattr("wna_ray.shards.shard.PENDING_VALUES", 1)
    parts = [Partial(a, b, run_shard(job, network, a, b)[0]) for a, b in itertools.pairwise(edges)]
    assert arrays_equal(reduce(Partial.merge, parts), whole)


@pytest.mark.parametrize("block", [1, 1 << 20], ids=["blocks of a batch", "whole sets"])
@pytest.mark.parametrize("batches, sets", [(1, 32), (3, 11), (1000, 1)])
def test_images_are_added_in_sets(
    make_spec: MakeSpec, block: int, batches: int, sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many batches as fit, made in one go or in several: the same moments, and never more
    images than were asked for.
    """
    job, network = prepared(make_spec())
    whole, _ = run_shard(job, network, 0, 2000)
    monkeypatch.setattr("wna_ray.shards.shard.PENDING_VALUES", batches * 64 * job.stimulus.pixels)
    monkeypatch.setattr("wna_ray.shards.shard.BLOCK_VALUES", block)
    made: list[int] = []
    monkeypatch.setattr(
        "wna_ray.shards.shard.add",
        lambda job, total, some, *rest: made.append(len(some.grid)) or add(job, total, some, *rest),
    )
    again, _ = run_shard(job, network, 0, 2000)
    assert len(made) == sets
    assert sum(made) == 2000
    assert max(made) <= batches * 64
    assert all(
        np.array_equal(array, again.arrays()[name]) for name, array in whole.arrays().items()
    )


def test_images_past_n_are_not_counted(make_spec: MakeSpec) -> None:
    job, network = prepared(make_spec())
    assert run_shard(job, network, 1984, 2000)[0].images == 16


def test_a_shard_starts_at_a_batch(make_spec: MakeSpec) -> None:
    job, network = prepared(make_spec())
    with pytest.raises(ValueError, match="multiple of the batch"):
        run_shard(job, network, 32, 128)


def test_nonfinite_outputs_are_counted_apart(make_spec: MakeSpec) -> None:
    spec = make_spec(model="python:networks_for_tests:sometimes_nan")
    job, network = prepared(spec)
    moments, _ = run_shard(job, network, 0, 2000)
    first = job.stimulus.noise.grid(0, 2000)[:, 0, 0, 0] / 29
    bad = (first > 1) | (first < -1.5)
    assert moments.nonfinite == bad.sum() > 100
    assert (moments.images, moments.seen) == (2000 - bad.sum(), 2000)
    assert (
        moments.sum_x.tolist()
        == job.stimulus.noise.grid(0, 2000)[~bad].reshape(-1, 16).astype(int).sum(axis=0).tolist()
    )


@pytest.mark.parametrize("target", [None, {"layer": "conv", "position": "pooled"}])
def test_shards_in_which_nothing_is_finite(
    make_spec: MakeSpec, target: dict[str, Any] | None
) -> None:
    """Hardly an image is: those that are not are counted apart, also where they are all of a
    shard.
    """
    base = {
        "model": "python:networks_for_tests:seldom",
        "stimulus": {"shape": [1, 6, 6]},
        "responses": ["activation"],
    }
    job, network = prepared(make_spec(**base, target=target, numerics={"batch": 8}))
    parts = [run_shard(job, network, a, a + 8)[0] for a in range(0, 400, 8)]
    assert {moments.seen for moments in parts} == {8}
    assert any(moments.images == 0 for moments in parts)
    finite = job.stimulus.noise.grid(0, 400)[:, 0, 0, 0] / 29 >= np.float32(1.7)
    assert sum(moments.images for moments in parts) == finite.sum() > 0


def test_out_of_range_responses_are_counted_apart(make_spec: MakeSpec) -> None:
    """Huge logits that the pilot (64 images, none beyond 2.5 sd at the first pixel) did not
    show.
    """
    job, network = prepared(make_spec(model="python:networks_for_tests:wild"))
    first = job.stimulus.noise.grid(0, 2000)[:, 0, 0, 0] / 29
    assert not (first[:64] > 2.5).any()
    moments, _ = run_shard(job, network, 0, 2000)
    assert moments.out_of_range == (first > 2.5).sum() > 0
    assert moments.seen == 2000


def test_fingerprint_follows_everything_that_matters(make_spec: MakeSpec) -> None:
    base = make_spec()
    job = prepared(base)[0]
    same = [{"execution": {"shard": 64}}, {"evaluation": "none"}, {"samples": 3000}]
    other = [
        {"seed": 8},
        {"stimulus": {"scale": 0.5}},
        {"stimulus": {"offset": 0.1}},
        {"stimulus": {"kind": "uniform"}},
        {"stimulus": {"cell": 2}},
        {"responses": ["label"]},
        {"responses": ["label", {"kind": "logits", "centred": True}]},
        {"moments": {"second": True}},
        {"numerics": {"batch": 128}},
        {"numerics": {"batch": 64, "dtype": "bfloat16"}},
        {"numerics": {"batch": 64, "threads": 2}},
        {"model": "python:networks_for_tests:linear?k=4"},
    ]
    assert {prepared(make_spec(**change))[0].fingerprint for change in same} == {job.fingerprint}
    prints = {prepared(make_spec(**change))[0].fingerprint for change in other}
    assert len(prints | {job.fingerprint}) == len(other) + 1


@pytest.mark.parametrize(
    "responses, batches",
    [
        (["label", "confidence"], 1),
        (["label", "logits"], 2),
        ([{"kind": "spikes", "threshold": 0.5}], 1),
        ([{"kind": "spikes", "quantile": 0.9}], 4096 // 32),
    ],
)
def test_a_pilot_is_run_where_something_is_read_off_it(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, responses: list[Any], batches: int
) -> None:
    """Labels and confidences have fixed steps: the first batch is enough for them, which for a
    large network is much quicker.
    """
    asked = list[int]()
    forward = Network.forward
    monkeypatch.setattr(
        Network, "forward", lambda self, fed: asked.append(len(fed)) or forward(self, fed)
    )
    prepared(make_spec(responses=responses, numerics={"batch": 32}))
    assert asked == [32] * batches


def test_the_canary_tells_other_arithmetic(make_spec: MakeSpec) -> None:
    job, network = prepared(make_spec())
    check_canary(job, network)
    with torch.no_grad():
        network.module.w[0, 0] += 2**-10
    with pytest.raises(NumericsError, match="other bits than the run has on record"):
        check_canary(job, network)


def test_one_last_bit_is_enough_for_the_canary(make_spec: MakeSpec) -> None:
    job, network = prepared(make_spec())
    with pytest.raises(NumericsError):
        check_canary(replace(job, canary="0" * 64), network)
