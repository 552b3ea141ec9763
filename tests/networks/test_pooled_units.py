"""Units at all positions of a layer's map, pooled: their sums, their maps and p-values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prepared import prepared, read
from scipy.ndimage import gaussian_filter
from scipy.stats import chi2
from unit_specs import CNN, PADDED, units

from wna_ray import run
from wna_ray.errors import ModelError, RunError
from wna_ray.geometry import Box, Patches
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import Dense, FixedPoint
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec
from wna_ray.statistics.nulls import KnownNoise
from wna_ray.statistics.readouts import read_out
from wna_ray.stimuli.stimulus import make_stimulus

MakeSpec = Callable[..., Spec]


def test_pooled_positions_against_a_naive_loop(make_spec: MakeSpec) -> None:
    """Every image, every position whose field is whole: row 2 r - 3 ... 2 r + 3, columns alike."""
    job, network = prepared(units(make_spec, PADDED, "second", position="pooled", samples=128))
    assert job.field is not None
    assert job.field.patches == Patches(Box(1, 1, 7, 7), 7, 9, (2, 2))
    moments, _ = run_shard(job, network, 0, 128)
    assert (moments.images, moments.responses["activation"].count[0]) == (128, 128 * 63)
    grid = job.stimulus.noise.grid(0, 128)
    maps = network.maps(job.stimulus.images(grid)).numpy()
    point = job.points["activation"]
    total = np.zeros((4, 2 * 49), dtype=np.int64)
    for i in range(128):
        for r in range(2, 9):
            for c in range(2, 11):
                y = np.rint(maps[i, :, r, c] / point.step).astype(np.int64) - np.array(point.centre)
                total += np.outer(
                    y,
                    grid[i, :, 2 * r - 3 : 2 * r + 4, 2 * c - 3 : 2 * c + 4]
                    .astype(np.int64)
                    .ravel(),
                )
    assert np.array_equal(moments.responses["activation"].sum_yx, total)


def test_pooling_makes_maps_better_and_keeps_z_standard(make_spec: MakeSpec) -> None:
    """63 patches an image: reliability rises; where the response ignores the pixels, z has variance
    1 within 4 standard errors.

    The last channel of `deafened` reads only the first of two stimulus channels: the 49 values of
    the other are null. Overlapping patches make them dependent, so the variance is averaged over 30
    independent runs of 4 units and its error taken between runs.
    """
    single = prepared(units(make_spec, PADDED, "deafened", position=[4, 5]))
    pooled = prepared(units(make_spec, PADDED, "deafened", position="pooled"))
    (one,), (many,) = (
        read(job, run_shard(job, network, 0, 256)[0]) for job, network in (single, pooled)
    )
    assert (many.reliability > one.reliability).all()
    found = []
    job, network = pooled
    for a in range(0, 30 * 64, 64):
        (readout,) = read(job, run_shard(job, network, a, a + 64)[0])
        found.append(np.square(readout.z[:, 49:]).mean())
    assert abs(np.mean(found) - 1) < 4 * np.std(found) / math.sqrt(len(found)), (
        np.mean(found),
        np.std(found),
    )


def test_pooled_p_values_hold_for_dependent_values() -> None:
    """Responses that ignore the noise, but resemble their neighbours, as maps do: 600 null runs of
    32 images with 10 x 10 patches of 3 x 3.

    Overlapping patches make the values of such a z-map dependent. Sidak's p errs in at most 5 %
    (within 4 binomial errors), the chi-square that single positions have would err in far more. And
    the p-value is Sidak's of the largest |z|, written out.
    """
    spec = Spec.parse(
        CNN | {"samples": 32, "stimulus": {"kind": "gaussian", "shape": [1, 12, 12], "scale": 1}}
    ).stimulus
    patches, random, alarms = (
        Patches(Box(0, 0, 3, 3), 10, 10),
        np.random.default_rng(0),
        np.zeros(2),
    )
    for seed in range(600):
        stimulus = make_stimulus(spec, seed, np.zeros((1, 1, 1), np.float32), patches=patches)
        maps = gaussian_filter(random.standard_normal((32, 10, 10)), (0, 1.5, 1.5)) * 4096
        response = {"activation": Dense(np.rint(maps).astype(np.int64).reshape(3200, 1))}
        moments = Moments.identity(9, ["activation"]).update(
            stimulus.keep(stimulus.noise.grid(0, 32)), response, 100
        )
        found = read_out(
            moments,
            "activation",
            FixedPoint((0,), (0,)),
            KnownNoise(stimulus.noise.table, 1.0, 100),
            ["0"],
        )
        largest = np.abs(found.z[0]).max()
        assert found.p_value[0] == pytest.approx(
            1 - (1 - math.erfc(largest / math.sqrt(2))) ** 9, rel=1e-9
        )
        alarms += found.p_value[0] <= 0.05, chi2.sf(np.square(found.z[0]).sum(), 9) <= 0.05
    allowed = 4 * math.sqrt(0.05 * 0.95 / 600)
    assert alarms[0] / 600 < 0.05 + allowed, alarms
    assert alarms[1] / 600 > 0.05 + allowed, f"no need for Sidak here: {alarms}"


def test_pooled_maps_have_no_clusters(make_spec: MakeSpec, tmp_path: Path) -> None:
    finished = run(
        units(make_spec, PADDED, "second", position="pooled", samples=128),
        str(tmp_path / "run"),
        executor="local",
    )
    with pytest.raises(RunError, match="pools positions whose patches overlap"):
        finished.clusters("activation", "0")


def test_what_is_too_large_cannot_be_pooled(make_spec: MakeSpec) -> None:
    with pytest.raises(
        ModelError,
        match=(
            r"fields of 'gated' are too large to be shifted in the image \(20 x 24 of 20 x 24"
            r" pixels\)"
        ),
    ):
        prepared(units(make_spec, PADDED, "gated", position="pooled"))
