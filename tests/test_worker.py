"""What a worker refuses to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from wna_ray.errors import NumericsError
from wna_ray.spec import Spec
from wna_ray.worker import Worker


def test_a_worker_with_other_arithmetic_computes_nothing(make_spec: Callable[..., Spec]) -> None:
    """A fresh worker checks the canary of the run before its first shard, and before it answers to maps."""
    _, introduction = Worker(make_spec(), "cpu").introduce()
    stranger = replace(introduction.job, canary="0" * 64)
    worker = Worker(make_spec(), "cpu")
    with pytest.raises(NumericsError, match="other bits than the run has on record"):
        worker.shard(stranger, 0, 64)
    with pytest.raises(NumericsError, match="other bits than the run has on record"):
        worker.answer(stranger, np.zeros((1, 1, 4, 4), np.float32))
    partial, seconds = worker.shard(introduction.job, 0, 64)
    assert partial.moments.images == 64
    assert set(seconds) == {"noise", "forward", "responses", "moments"}


def test_more_maps_than_a_batch_are_answered(make_spec: Callable[..., Spec]) -> None:
    worker = Worker(make_spec(), "cpu")
    _, introduction = worker.introduce()
    images = np.random.default_rng(0).standard_normal((150, 1, 4, 4)).astype(np.float32)
    _, outputs = worker.answer(introduction.job, images)
    one_by_one = np.concatenate([worker.answer(introduction.job, image[None])[1] for image in images])
    assert np.array_equal(outputs, one_by_one)
