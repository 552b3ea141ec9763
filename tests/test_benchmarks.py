"""What the benchmarks compute, not what they time: against truths that can be worked out."""

from __future__ import annotations

from pathlib import Path

import contenders
import gpu
import numpy as np
import page
import pytest
import scaling
from prepared import prepared

from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec


@pytest.mark.parametrize("late", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("skipped", [None, 4])
def test_the_steady_rate_of_two_workers(late: float, skipped: int | None) -> None:
    """Two workers, a shard of 100 images every 0.5 s: 400 images a second if both begin at 0,
    and from any later moment on in any case.
    """
    ends = sorted([0.5 * (i + 1) for i in range(6)] + [late + 0.5 * (i + 1) for i in range(6)])
    found = contenders.steady(ends, [100] * len(ends), 2, skipped)
    assert found.images == (1200 if skipped is None else 600)
    assert found.images / found.seconds == pytest.approx(
        400 if skipped is not None else 1200 / (3 + late / 2)
    )


def test_the_steady_rate_of_unequal_workers() -> None:
    """One has 100 images every 0.5 s, one every 0.625 s: 360 a second; the last two shards may
    end 0.625 s apart, of 5 s and more.
    """
    ends = sorted([0.5 * (i + 1) for i in range(12)] + [0.625 * (i + 1) for i in range(9)])
    found = contenders.steady(ends, [100] * len(ends), 2)
    assert found.images / found.seconds == pytest.approx(360, rel=0.625 / 2 / 5)


def test_the_steady_rate_of_one_worker_is_what_it_did() -> None:
    found = contenders.steady([1.0, 2.5], [300, 200], 1)
    assert (found.images, found.seconds) == (500, 2.5)


def test_a_projection_without_costs_is_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to move, nothing to add: the billion images over all rates, and what the last
    shards are longer than an even share.
    """
    monkeypatch.setattr(scaling, "NETWORK", np.inf)
    monkeypatch.setattr(scaling, "STORE", np.inf)
    found = scaling.project(8, 1000.0, 0.0, 0.0)
    assert found.forward == 1e9 / 8 / 1000
    assert (found.moving, found.tail, found.driver) == (0, 0, 0)
    assert found.seconds == found.forward + found.uneven
    assert 0 <= found.uneven < 0.01 * found.forward


def test_a_projection_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU at 10^5 images/s: shards of 1.2 GB / 15 MB/s = 80.4 s, 125 of them, each fetched
    and added once.
    """
    size = 1001 * 8 * 150_528
    found = scaling.project(1, 1e5, 2.0, 0.01)
    shards = np.ceil(1e9 / (size / 15e6 * 1e5))
    assert found.moving == pytest.approx(
        shards * (2.0 + size / 1.25e9), rel=0.1
    )  # segments cut some shards in two
    assert found.driver == pytest.approx(0.01 * shards / found.seconds, rel=0.15)
    assert found.efficiency == found.forward / found.seconds


def test_tables_are_put_where_their_marks_are(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    page.put(file, "speed", "nothing to put it into")
    assert not file.exists()
    file.write_text(
        "# A\n\n<!-- speed -->\nold\n<!-- /speed -->\n\n<!-- parts -->\n<!-- /parts -->\nend\n"
    )
    page.put(file, "speed", "new")
    page.put(file, "other", "nowhere")
    page.put(file, "speed", "newer")
    assert (
        file.read_text()
        == "# A\n\n<!-- speed -->\n\nnewer\n\n<!-- /speed -->\n\n<!-- parts -->\n<!-- /parts"
        " -->\nend\n"
    )


def test_the_network_that_devices_are_held_against_is_exact() -> None:
    """Its float32 logits are those of whole numbers, so any device that computes at all gives
    the same moments.
    """
    job, network = prepared(Spec.parse(gpu.EXACT | {"numerics": {"device": "cpu"}, "samples": 640}))
    grid = job.stimulus.noise.grid(0, 640).reshape(640, -1).astype(np.int64)
    eighths = np.rint(next(gpu.exact().parameters()).detach().numpy() * 8).astype(np.int64)
    logits = grid @ eighths.T  # in 64ths of a unit, as the noise's step is an eighth
    shown = job.stimulus.images(job.stimulus.noise.grid(0, 128))
    assert np.array_equal(network(shown).astype(np.float64) * 64, logits[:128])
    moments, _ = run_shard(job, network, 0, 640)
    assert moments.images == 640
    label = moments.responses["label"]
    assert np.array_equal(label.count, np.bincount(logits.argmax(axis=1), minlength=5)[label.rows])
