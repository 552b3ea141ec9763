"""Noise: the stream to the bit, the tables' exact moments, and independence of how it is asked
for.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from fractions import Fraction

import numpy as np
import philox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN_FOLDER
from scipy.special import ndtri

from wna_ray.errors import SpecError
from wna_ray.noise.stream import KINDS, Kind, Noise, Words, table

GOLDEN = json.loads((GOLDEN_FOLDER / "noise.json").read_text())
DENSITY: dict[str, float | None] = {
    "gaussian": None,
    "uniform": None,
    "binary": None,
    "sparse": 0.1,
}


def test_known_answer_of_philox() -> None:
    """The all-ones vector of the Random123 distribution (kat_vectors, philox4x64-10)."""
    ones = philox.MASK
    expected = [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]
    assert philox.block((ones, ones), (1 << 256) - 1) == expected


@pytest.mark.parametrize(
    "case", GOLDEN["words"], ids=lambda c: f"seed{c['seed']}-image{c['index']}"
)
def test_words_are_golden(case: dict[str, int | list[int]]) -> None:
    got = Words(case["seed"], case["index"], len(case["words"])).take(1)[0]
    assert got.tolist() == case["words"]
    assert philox.image_words(case["seed"], case["index"], len(case["words"])) == case["words"]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_golden_and_as_specified(kind: Kind) -> None:
    t = table(kind, DENSITY[kind])
    assert hashlib.sha256(t.values.tobytes()).hexdigest() == GOLDEN["tables"][kind]
    assert t.values.tolist() == [philox.value(kind, u, DENSITY[kind]) for u in range(65536)]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_golden(kind: Kind) -> None:
    case = GOLDEN["values"][kind]
    grid = Noise(kind, (1, 3, 7), case["seed"], DENSITY[kind]).grid(
        case["index"], case["index"] + 1
    )
    assert grid.reshape(-1).tolist() == case["values"]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_the_table(kind: Kind) -> None:
    t = table(kind, DENSITY[kind])
    listed = [int(v) for v in t.values]
    assert sum(listed) == 0
    assert t.variance == Fraction(sum(v * v for v in listed), 65536)
    assert t.moment(4) == Fraction(sum(v**4 for v in listed), 65536)
    assert t.range == (min(listed), max(listed))
    assert t.values.dtype == np.int8


def test_specified_variances() -> None:
    """The numbers that docs/noise.md states."""
    assert table("gaussian").variance == Fraction(55119986, 65536)
    assert table("uniform").variance == Fraction(355112320, 65536)
    assert table("binary").variance == 1
    assert table("sparse", 0.25).variance == Fraction(2 * 8192, 65536)


def test_gaussian_table_has_no_rounding_ties() -> None:
    """Any correct quantile function gives the same table: no entry is within 1e-6 of a half."""
    x = 29 * ndtri((np.arange(32768, 65536) + 0.5) / 65536)
    assert np.abs(x - np.floor(x) - 0.5).min() > 1e-6


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 2**40),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    chunk=st.integers(1, 500),
)
def test_any_slice_gives_the_same_images(
    kind: Kind, shape: tuple[int, int, int], seed: int, start: int, cuts: list[int], chunk: int
) -> None:
    noise = Noise(kind, shape, seed, DENSITY[kind])
    whole = noise.grid(start, start + 12)
    edges = [0, *sorted(cuts), 12]
    pieces = [
        Noise(kind, shape, seed, DENSITY[kind], chunk).grid(start + a, start + b)
        for a, b in itertools.pairwise(edges)
    ]
    assert np.array_equal(np.concatenate(pieces), whole)
    expected = [
        philox.value(kind, u, DENSITY[kind])
        for u in philox.image_words(seed, start + 5, noise.pixels)
    ]
    assert whole[5].reshape(-1).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_sample_moments_agree_with_the_table(kind: Kind) -> None:
    """2e6 values: mean and mean square within 5 standard errors of the exact ones (the errors
    are the table's own).
    """
    noise = Noise(kind, (1, 20, 20), 3, DENSITY[kind])
    g = noise.grid(0, 5000).astype(np.float64)
    m2, m4 = float(noise.table.variance), float(noise.table.moment(4))
    assert abs(g.mean()) < 5 * np.sqrt(m2 / g.size)
    assert abs((g**2).mean() - m2) <= 5 * np.sqrt((m4 - m2**2) / g.size)


def test_values_of_an_image_and_of_neighbours_are_uncorrelated() -> None:
    """Correlations between all pairs of 64 values, and with the next image's: |r| < 5.5 /
    sqrt(n) for 6,000 pairs.
    """
    g = Noise("gaussian", (1, 8, 8), 11).grid(0, 20_001).reshape(20_001, 64).astype(np.float64)
    within = np.corrcoef(g.T)[np.triu_indices(64, 1)]
    across = (g[:-1].T @ g[1:]) / 20_000 / g.var()
    assert np.abs(within).max() < 5.5 / np.sqrt(20_000)
    assert np.abs(across).max() < 5.5 / np.sqrt(20_000)


def test_seeds_differ() -> None:
    a, b = (Noise("binary", (1, 16, 16), seed).grid(0, 4) for seed in (0, 1))
    assert abs(np.mean(a == b) - 0.5) < 5 * 0.5 / np.sqrt(a.size)


def test_sparse_reaches_every_row_and_column() -> None:
    on = Noise("sparse", (1, 7, 7), 5, 0.05).grid(0, 2000)[:, 0] != 0
    assert on.any(axis=(0, 1)).all()
    assert on.any(axis=(0, 2)).all()


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, 1e-6])
def test_density_out_of_range(bad: float) -> None:
    with pytest.raises(SpecError, match=r"density.*not in \(0, 1\]"):
        table("sparse", bad)


def test_faults_name_what_would_do() -> None:
    with pytest.raises(SpecError, match="families are gaussian, uniform, binary, sparse"):
        table("pink")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="needed by kind 'sparse'"):
        table("sparse")
    with pytest.raises(SpecError, match="by no other"):
        table("gaussian", 0.1)
    with pytest.raises(SpecError, match="seed"):
        Noise("gaussian", (1, 2, 2), 1 << 64)
