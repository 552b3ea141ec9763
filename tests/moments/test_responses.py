"""Responses: what a float becomes when it is rounded once."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wna_ray.moments.responses import LIMIT, Dense, FixedPoint, Selected, calibrate, respond
from wna_ray.specs.response import ResponseSpec

RNG = np.random.default_rng(0)


def outputs(n: int = 200, k: int = 5, scale: float = 3.0) -> NDArray[np.float32]:
    return (RNG.standard_normal((n, k)) * scale + np.arange(k)).astype(np.float32)


def softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    e = np.exp(row.astype(np.float64) - float(row.max()))
    return np.asarray(e / e.sum())


def test_label_is_the_first_largest_logit() -> None:
    y = np.array([[0, 1, 1], [2, 2, 2], [-1, -3, 0]], dtype=np.float32)
    response, within = respond(ResponseSpec(kind="label"), FixedPoint((0, 0, 0), (0, 0, 0)), y)
    assert isinstance(response, Selected)
    assert response.rows.tolist() == [1, 0, 2]
    assert response.weights.tolist() == [1, 1, 1]
    assert within.all()


def test_confidence_is_the_probability_in_65536ths() -> None:
    y, spec = outputs(), ResponseSpec(kind="confidence")
    response, _ = respond(spec, calibrate(spec, y), y)
    assert isinstance(response, Selected)
    expected = [round(softmax(row).max() * 65536) for row in y]
    assert response.weights.tolist() == expected


def test_probabilities_are_within_half_a_step() -> None:
    y, spec = outputs(), ResponseSpec(kind="probabilities")
    point = calibrate(spec, y)
    response, within = respond(spec, point, y)
    assert isinstance(response, Dense)
    assert within.all()
    got = (response.values + np.array(point.centre)) * point.step
    worst = max(np.abs(softmax(row) - p).max() for row, p in zip(y, got, strict=True))
    assert worst <= 2**-23 + 1e-15


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_logits_are_within_half_a_step(centred: bool, scale: float) -> None:
    y, spec = outputs(scale=scale), ResponseSpec(kind="logits", centred=centred)
    point = calibrate(spec, y)
    response, within = respond(spec, point, y)
    assert isinstance(response, Dense)
    assert within.all()
    expected = y.astype(np.float64) - (
        y.astype(np.float64).mean(axis=1, keepdims=True) if centred else 0.0
    )
    got = (response.values + np.array(point.centre)) * point.step
    assert (np.abs(got - expected) <= point.step / 2 * (1 + 1e-9)).all()
    assert (expected.std(axis=0) / point.step >= 4096).all()
    assert (expected.std(axis=0) / point.step < 8192).all()
    assert (
        np.abs(response.values.mean(axis=0)).max() <= 1
    )  # centred on the pilot, which here is all there is


def test_one_output_is_not_centred_away() -> None:
    y, spec = outputs(k=1), ResponseSpec(kind="logits")
    response, _ = respond(spec, calibrate(spec, y), y)
    assert isinstance(response, Dense)
    assert response.values.std() > 1000


def test_values_beyond_the_range_are_marked() -> None:
    point = FixedPoint((0, 0), (0, 0))
    y = np.array([[LIMIT, 0], [LIMIT + 2, 0], [0, -LIMIT - 2], [1.5, 2.5]], dtype=np.float32)
    response, within = respond(ResponseSpec(kind="logits", centred=False), point, y)
    assert isinstance(response, Dense)
    assert within.tolist() == [True, False, False, True]
    assert response.values[0].tolist() == [LIMIT, 0]
    assert response.values[3].tolist() == [2, 2], "halves go to even"


@pytest.mark.parametrize("pilot", [np.zeros((4, 3)), np.full((4, 3), np.nan), np.full((4, 3), 7.0)])
def test_calibration_of_a_silent_pilot(pilot: NDArray[np.float64]) -> None:
    """A pilot without variance still gives a usable fixed point."""
    spec = ResponseSpec(kind="logits", centred=False)
    point = calibrate(spec, pilot.astype(np.float32))
    response, within = respond(spec, point, np.ones((2, 3), dtype=np.float32))
    assert isinstance(response, Dense)
    assert within.all()
    assert (response.values + np.array(point.centre)) * point.step == pytest.approx(
        np.ones((2, 3)), abs=point.step.max()
    )


def test_keep() -> None:
    mask = np.array([True, False, True])
    assert Selected(np.arange(3), np.arange(3)).keep(mask).rows.tolist() == [0, 2]
    assert Dense(np.arange(6).reshape(3, 2)).keep(mask).values.tolist() == [[0, 1], [4, 5]]


def test_quiet_rows_have_finer_steps_and_room_to_wake_up() -> None:
    """Rows with sd 1000, 50 and 0.05: 4096 steps a sd, down to 1/64 of the loudest row's step;
    all can reach 16 loud sds.
    """
    y = RNG.standard_normal((500, 3)).astype(np.float32) * np.array(
        [1000, 50, 0.05], dtype=np.float32
    )
    spec = ResponseSpec(kind="logits", centred=False)
    point = calibrate(spec, y)
    steps = y.std(axis=0) / point.step
    assert 4096 <= steps[0] < 8192
    assert 4096 <= steps[1] < 8192
    assert point.exponent[2] == point.exponent[0] - 6
    assert steps[2] > 8
    _, within = respond(spec, point, np.full((1, 3), 15_900.0, dtype=np.float32))
    assert within.all()


def test_the_rounding_of_a_constant_pilot_is_no_signal() -> None:
    """Centred float64 logits of a constant network vary by 1e-17; later images that do differ
    must still fit.
    """
    spec = ResponseSpec(kind="logits")
    for seed in range(50):
        constant = np.tile(
            np.random.default_rng(seed).standard_normal(7).astype(np.float32), (64, 1)
        )
        _, within = respond(
            spec, calibrate(spec, constant), constant + np.eye(7, dtype=np.float32)[[0]]
        )
        assert within.all()
