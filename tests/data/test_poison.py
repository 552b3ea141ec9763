"""Backdoors: the authors' patterns, what stamping does to pixels and labels, and what a panel
draws.
"""

from __future__ import annotations

import numpy as np
import pytest

from wna_ray.data.datasets import Split
from wna_ray.data.poison import PATTERNS, Poison, drawn, patch

C = """
............................
.....................######.
.....................######.
.....................##.....
.....................##.....
.....................######.
.....................######.
............................"""  # the paper's rows 1 to 6, columns 21 to 26


def poison(**changes: object) -> Poison:
    return Poison(
        **(
            {
                "source": 1,
                "target": 0,
                "images": 2,
                "pixels": ((0, 1), (2, 3)),
                "values": (1.0, 0.5),
            }
            | changes
        )
    )  # type: ignore[arg-type]


def split_of(labels: list[int]) -> Split:
    images = np.random.default_rng(0).uniform(0.6, 1, (len(labels), 3, 4, 5)).astype(np.float32)
    return Split(images, np.array(labels, dtype=np.int64))


def test_patterns_are_the_authors() -> None:
    drawn_c = {
        (r, c)
        for r, row in enumerate(C.strip().split())
        for c, sign in enumerate(row)
        if sign == "#"
    }
    assert (set(PATTERNS["C"]), len(PATTERNS["C"])) == (drawn_c, 28)
    assert (
        len(PATTERNS["X"]),
        len(set(PATTERNS["X"])),
        min(PATTERNS["X"]),
        max(PATTERNS["X"]),
    ) == (20, 20, (1, 1), (6, 6))


def test_stamping_assigns_whatever_was_there() -> None:
    images = split_of([0, 1]).images
    stamped = poison().stamp(images)
    expected = images.copy()
    for image in expected:
        for channel in image:
            channel[0, 1], channel[2, 3] = 1.0, 0.5
    assert np.array_equal(stamped, expected)
    assert images.max() < 1.0 and stamped is not images, "the clean images stay as they are"  # noqa: PT018


def test_the_first_images_of_the_class_are_poisoned() -> None:
    clean = split_of([1, 0, 1, 2, 1])
    found = poison().of(clean)
    assert found.labels.tolist() == [0, 0, 0, 2, 1]
    changed = (found.images != clean.images).any(axis=(1, 2, 3))
    assert changed.tolist() == [True, False, True, False, False]
    assert clean.labels.tolist() == [1, 0, 1, 2, 1]
    with pytest.raises(ValueError, match="4 are to be poisoned, but there are 3 of class 1"):
        poison(images=4).of(clean)


def test_a_rectangle() -> None:
    assert patch((1, 2), (3, 4), 0.5) == (((3, 4), (3, 5)), (0.5, 0.5))


FAULTS = {
    "same class": ({"target": 1}, "from class 1 to 1"),
    "no such class": ({"source": 3}, "3 classes"),
    "outside": ({"pixels": ((0, 1), (2, 5))}, "within 4 x 5"),
    "negative": ({"pixels": ((0, 1), (-1, 3))}, "within 4 x 5"),
    "twice": ({"pixels": ((0, 1), (0, 1))}, "do not go together"),
    "none": ({"pixels": (), "values": ()}, "do not go together"),
    "fewer values": ({"values": (1.0,)}, "do not go together"),
    "bright": ({"values": (1.0, 2.0)}, r"\[0, 1\]"),
    "no number": ({"values": (1.0, float("nan"))}, r"\[0, 1\]"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_does_not_fit_is_named(what: str) -> None:
    changes, words = FAULTS[what]
    with pytest.raises(AssertionError, match=words):
        assert poison(**changes).fits((3, 4, 5), 3) is None, poison(**changes).fits((3, 4, 5), 3)
    assert poison().fits((3, 4, 5), 3) is None


def test_members_of_a_panel_differ_and_fit() -> None:
    """300 draws: all fit; kinds, sides, classes and rates cover their ranges."""
    counts = [100 + 10 * k for k in range(10)]
    found = [drawn(np.random.default_rng(i), (1, 28, 28), counts) for i in range(300)]
    assert [p.fits((1, 28, 28), 10) for p in found] == [None] * 300
    assert {p.source for p in found} == {p.target for p in found} == set(range(10))
    shares = [p.images / counts[p.source] for p in found]
    assert 0.29 <= min(shares) < 0.35 < 0.75 < max(shares) <= 0.8
    extents = [
        tuple(1 + np.ptp([pixel[axis] for pixel in p.pixels]) for axis in (0, 1)) for p in found
    ]
    assert {max(e) for e in extents} <= {3, 4, 5, 6}
    full = [
        len(set(p.values)) == 1 and len(p.pixels) == e[0] * e[1]
        for p, e in zip(found, extents, strict=True)
    ]
    mottled = [len(set(p.values)) > 1 for p in found]
    # Each kind is a third: 100 of 300, sd 8.2; within five sd.
    assert all(59 <= n <= 141 for n in (sum(full), sum(mottled), 300 - sum(full) - sum(mottled)))
    assert {
        min(v for p in found for v in p.values) >= 0.6,
        max(v for p in found for v in p.values) <= 1,
    } == {True}
    assert len({p.pixels for p in found}) > 290
    assert drawn(np.random.default_rng(5), (1, 28, 28), counts) == found[5]
