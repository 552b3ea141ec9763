"""What an experiment is, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wna_ray.drawing.page import Figure, Number, Table, Verdict
from wna_ray.networks.trained import TrainedNetwork
from wna_ray.paper.sources import Sources


@dataclass(frozen=True)
class SectionParts:
    """What came out of an experiment: the parts of its section in the report."""

    verdict: Verdict
    text: tuple[str, ...]
    numbers: tuple[Number, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One row of the paper's table.

    Attributes
    ----------
    id, title, question
        As its section is headed.
    make
        Reads finished runs and networks; raises `wna_ray.paper.sources.Missing` where one is not
        at hand.
    """

    id: str
    title: str
    question: str
    make: Callable[[Sources], SectionParts]


def percent(value: float, digits: int = 1) -> str:
    """A share, in percent."""
    return f"{100 * value:.{digits}f} %"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation of shares over networks, in percent."""
    if len(values) == 1:
        return percent(values[0], digits)
    return (
        f"{100 * np.mean(values):.{digits}f} ± {100 * np.std(values, ddof=1):.{digits}f} %"
        f" ({len(values)} seeds)"
    )


def judged(*right: bool | np.bool) -> Verdict:
    """All of it found again, some of it, or none."""
    return Verdict.REPRODUCED if all(right) else Verdict.PARTLY if any(right) else Verdict.NOT


def same(right: bool | np.bool) -> Verdict:
    """Whether one number is what it should be."""
    return Verdict.REPRODUCED if right else Verdict.NOT


def test_accuracy(network: TrainedNetwork) -> float:
    """Of a classifier; autoencoders have none."""
    assert network.accuracy is not None
    return network.accuracy.test


def entropy(counts: NDArray[np.int64]) -> float:
    """Bits of a distribution of labels."""
    share = np.asarray(counts, dtype=np.float64)
    share = share[share > 0] / share.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0
