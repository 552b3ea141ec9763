"""Responses made where the outputs are (here the CPU, as torch sees it) against
`wna_ray.moments.responses`, which has oracles of its own.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wna_ray.cuda.responses import Arriving, Responder, Values, row_sums, softmax
from wna_ray.moments.responses import LIMIT, Dense, FixedPoint, Selected, calibrate, respond
from wna_ray.specs.response import ResponseKind, ResponseSpec

CPU = torch.device("cpu")
KINDS: list[ResponseKind] = [
    "label",
    "confidence",
    "logits",
    "probabilities",
    "activation",
    "rectified",
    "spikes",
]


def specs_of(*kinds: ResponseKind) -> list[ResponseSpec]:
    return [
        ResponseSpec(kind=kind, quantile=0.8) if kind == "spikes" else ResponseSpec(kind=kind)
        for kind in kinds
    ]


def outputs_of(n: int, k: int, seed: int = 0) -> np.ndarray:
    """Gaussian outputs whose rows differ in size, with ties, and some that are not finite."""
    rng = np.random.default_rng(seed)
    outputs = (rng.normal(size=(n, k)) * np.geomspace(0.1, 30, k)).astype(np.float32)
    outputs[3] = outputs[3, 0]
    outputs[5, k // 2], outputs[8, 0], outputs[n - 1, k - 1] = np.nan, np.inf, -np.inf
    return outputs


@pytest.mark.parametrize("k", [1, 2, 7, 100])
@pytest.mark.parametrize(
    "kinds",
    [*([kind] for kind in KINDS), KINDS],
    ids=lambda kinds: kinds[0] if len(kinds) == 1 else "all",
)
def test_integers_are_those_of_numpy(kinds: list[ResponseKind], k: int) -> None:
    """Rounded to whole steps: sums in another order differ in the 16th digit, and none of these
    lies so near to a half.
    """
    specs, outputs = specs_of(*kinds), outputs_of(500, k)
    points = {r.kind: calibrate(r, outputs[20:80]) for r in specs}
    finite, counted, found = Responder.of(specs, points, CPU)(torch.from_numpy(outputs)).counted()
    assert finite.tolist() == np.isfinite(outputs).all(axis=1).tolist()
    assert counted.tolist() == finite.tolist()
    assert list(found) == kinds
    for spec in specs:
        expected, within = respond(spec, points[spec.kind], outputs[finite])
        assert within.all()
        got = found[spec.kind]
        if isinstance(expected, Selected):
            assert isinstance(got, Selected)
            assert np.array_equal(got.rows, expected.rows)
            assert np.array_equal(got.weights, expected.weights)
        else:
            assert isinstance(got, Values)
            assert np.array_equal(got.fetched().values, expected.values)
            assert (np.abs(expected.values).max(axis=0) <= got.most).all()


def test_responses_out_of_range_are_left_out() -> None:
    """At the limit an image counts, one step beyond it does not; of two kinds both must fit."""
    specs = specs_of("activation", "rectified")
    points: dict[str, FixedPoint] = {
        "activation": FixedPoint((0, 0), (5, 0)),
        "rectified": FixedPoint((-1, 0), (0, 0)),
    }
    outputs = np.array(
        [
            [LIMIT + 5, 0],
            [LIMIT + 6, 0],
            [5 - LIMIT, 0],
            [4 - LIMIT, 0],
            [1 << 22, 0],
            [(1 << 22) + 1, 0],
        ],
        dtype=np.float32,
    )
    finite, counted, found = Responder.of(specs, points, CPU)(torch.from_numpy(outputs)).counted()
    assert finite.all()
    assert counted.tolist() == [False, False, True, False, True, False]
    assert isinstance(found["activation"], Values)
    assert found["activation"].fetched().values.tolist() == [[-LIMIT, 0], [(1 << 22) - 5, 0]]
    for spec in specs:
        _, within = respond(spec, points[spec.kind], outputs)
        assert not (counted & ~within).any()


@pytest.mark.parametrize("kind", ["logits", "probabilities", "confidence"])
def test_an_image_is_answered_the_same_in_any_company(kind: ResponseKind) -> None:
    """To the last bit, or shards cut elsewhere would not merge to the same moments."""
    y = torch.from_numpy(outputs_of(64, 1000)[9:60]).to(torch.float64)
    assert torch.equal(row_sums(y), torch.cat([row_sums(row[None]) for row in y]))
    assert torch.equal(softmax(y), torch.cat([softmax(row[None]) for row in y]))
    (spec,) = specs_of(kind)
    responder = Responder.of([spec], {kind: calibrate(spec, y.float().numpy())}, CPU)
    *_, whole = responder(y.float()).counted()
    for i in range(len(y)):
        *_, one = responder(y[i : i + 1].float()).counted()
        mask = np.arange(len(y)) == i
        a, b = whole[kind].keep(mask), one[kind]
        if isinstance(a, Values) and isinstance(b, Values):
            assert torch.equal(a.values, b.values)
        else:
            assert isinstance(a, Selected)
            assert isinstance(b, Selected)
            assert (a.rows.tolist(), a.weights.tolist()) == (b.rows.tolist(), b.weights.tolist())


def halved(row: np.ndarray) -> float:
    """The sum of its halves, value by value, until one is left; of an odd number the middle one
    has no partner.
    """
    while len(row) > 1:
        half = -(-len(row) // 2)
        row = np.array(
            [row[i] + row[half + i] if half + i < len(row) else row[i] for i in range(half)]
        )
    return float(row[0])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 1000, 1023])
def test_rows_are_summed(k: int) -> None:
    """Against exact sums, from which halves are at most log2 k roundings of all magnitudes off;
    and in their order, to the bit.
    """
    y = np.random.default_rng(1).normal(size=(6, k))
    bound = math.ceil(math.log2(k) + 1) * 2.0**-53 * np.abs(y).sum(axis=1)
    found = row_sums(torch.from_numpy(y)).numpy()
    assert found.shape == (6, 1)
    assert (np.abs(found[:, 0] - [math.fsum(row) for row in y]) <= bound).all()
    assert found[:, 0].tolist() == [halved(row) for row in y]


def test_what_is_on_its_way_arrives() -> None:
    arriving = Arriving({"a": torch.arange(3), "b": torch.zeros(2, 2)})
    arriving.wait()
    assert {name: array.tolist() for name, array in arriving.arrays().items()} == {
        "a": [0, 1, 2],
        "b": [[0, 0], [0, 0]],
    }


def test_values_go_there_and_back() -> None:
    there = Values.of(Dense(np.array([[1, -LIMIT], [2, 3]])), CPU)
    assert there.most.tolist() == [2, LIMIT]
    assert there.values.dtype == torch.int32
    assert there.part(slice(1, 2)).fetched().values.tolist() == [[2, 3]]
    assert there.keep(np.array([True, False])).fetched().values.tolist() == [[1, -LIMIT]]
