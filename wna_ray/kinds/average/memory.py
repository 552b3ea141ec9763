"""What a run needs of memory, and what machines have: refused before it starts, not killed
after an hour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wna_ray.errors import SpecError
from wna_ray.machine import Machine
from wna_ray.moments.responses import is_dense
from wna_ray.shards.job import Job
from wna_ray.shards.shard import PENDING_VALUES
from wna_ray.specs.run import Spec
from wna_ray.storage.store import MOST_BYTES
from wna_ray.text import size

BASE_BYTES = 700 << 20  # Python, torch and a small network
# a shard's total, the chunk that is added to it, their sum, and one that is on its way to the
# object store
WORKER_PARTIALS = 4
WHITENED_PARTIALS = 2  # maps freed of correlations: float64, and as they are written
SPECTRUM_BYTES = (
    16  # a value of a batch whose noise is filtered: its transform, that filtered, and back
)
BASIS_BYTES = 20  # a number of a basis: as it is kept, as it is shown, and float64 twice
MIXED_BYTES = 24  # a pixel of a batch that is a mixture of a basis
SHOWN_IMAGES = {
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar-10": 50_000,
    "imagenet-sample": 1_000,
}
SHOWN_COPIES = 3  # while it is read
RESPONSE_COPIES = 4  # a segment's, as they come, joined, as a table, as a file
PICTURE_BYTES = (
    12  # a value of a decoder's picture of a map: as it comes, in its row, and as it is written
)
DRIVER_BYTES = 850 << 20  # Python, torch, a small network and figures
DRIVER_PARTIALS = 2  # the merged moments, and as they are written
DRIVER_MAPS = 5  # float64 maps and z-maps, float32 copies, and the objects to write
ANSWER_BYTES = 4  # of an output for a map


@dataclass(frozen=True)
class Needs:
    """Bytes that a run needs.

    Attributes
    ----------
    partial
        Moments as they are expected to become.
    worker
        One worker, at its most.
    store
        Object store for each worker: what a merge takes in and gives. Ray puts other partials on
        the disk where there is no room.
    driver
        The driver, while it reads out the result.
    answers
        Of those, the network's outputs for each map: k for each of the rows of all responses.
    """

    partial: int
    worker: int
    store: int
    driver: int
    answers: int


def moment_sets(spec: Spec) -> int:
    """Sums of d values for each row of moments."""
    return (1 + spec.keeps_squares) * (1 + spec.moments.halves)


def expected_rows(job: Job, seen: Mapping[str, int]) -> int:
    """Rows that moments are expected to have.

    Parameters
    ----------
    seen
        By one-hot response kind, the classes that a few images gave. Noise reaches few classes;
        more images find some more, so three times as many (and ten) are expected, at most all.
    """
    k = len(job.names)
    return 1 + sum(
        k if is_dense(r.kind) else min(k, 3 * seen.get(r.kind, k) + 10) for r in job.spec.responses
    )


def needs(job: Job, rows: int, fan_in: int, responses: int = 0) -> Needs:
    """What a run needs whose moments have so many rows, and that keeps so many bytes of
    responses of a segment.
    """
    d, batch = job.stimulus.pixels, job.spec.numerics.batch
    partial = rows * d * 8 * moment_sets(job.spec)
    stimulus, fed_pixels = job.spec.stimulus, math.prod(job.stimulus.shown_shape)
    each = 9 if stimulus.spectrum is None else 9 + SPECTRUM_BYTES
    shard = PENDING_VALUES + each * batch * max(
        job.stimulus.noise.pixels, d * job.stimulus.patches_an_image
    )
    if job.basis is not None:
        shard += BASIS_BYTES * job.basis.size + MIXED_BYTES * batch * fed_pixels
    if stimulus.kind == "images":
        shard += (
            SHOWN_COPIES * SHOWN_IMAGES[stimulus.dataset or "mnist"] * math.prod(stimulus.shape)
        )
    maps = len(job.names) * len(job.spec.responses)
    # The table of outputs and its file; or the table, what one call gives, and its parts.
    tables = max(2 * maps, maps + 2 * (rows - 1))
    answers = ANSWER_BYTES * tables * len(job.names)
    pictures = 0 if job.decoder is None else PICTURE_BYTES * maps * math.prod(job.decoder.shape)
    return Needs(
        partial,
        BASE_BYTES + shard + WORKER_PARTIALS * partial + RESPONSE_COPIES * responses,
        (fan_in + 1) * partial + 2 * responses,
        DRIVER_BYTES
        + pictures
        + answers
        + DRIVER_PARTIALS * partial
        + (DRIVER_MAPS + WHITENED_PARTIALS * job.spec.stimulus.mixed) * maps * d * 8,
        answers,
    )


def check(
    job: Job, rows: int, need: Needs, machines: Sequence[Machine], driver: int | None
) -> None:
    """Refuse a run that cannot fit.

    Parameters
    ----------
    machines
        Where workers run; none where they are still to come.
    driver
        Bytes that the driver may take; None where that is not known.

    Raises
    ------
    SpecError
        Says what is needed, what there is, and which number to change.
    """
    d = job.stimulus.pixels
    what = (
        f"moments of {rows:,} rows x {d:,} values x {8 * moment_sets(job.spec)} bytes ="
        f" {size(need.partial)}"
    )
    if need.partial > MOST_BYTES:
        raise SpecError(
            f"{what}, but a segment is one object of at most {size(MOST_BYTES)};"
            f" {_smaller(job, need.partial / MOST_BYTES)}"
        )
    if driver is not None and need.driver > driver:
        ratio = (need.driver - DRIVER_BYTES) / max(driver - DRIVER_BYTES, 1)
        maps, k = len(job.names) * len(job.spec.responses), len(job.names)
        way = _smaller(job, ratio)
        if 2 * need.answers > need.driver:  # pixels do not matter then
            kinds = "responses: fewer kinds" if maps > k else "a network of fewer outputs"
            way = f"take {kinds}"
        raise SpecError(
            f"the driver needs {size(need.driver)} to read out {what}, and the network's {k:,}"
            f" outputs for each of {maps:,} maps ({size(need.answers)}), but has {size(driver)};"
            f" {way}, or start it on a machine with more memory"
        )
    for machine in machines:
        room = min(
            [
                machine.memory // need.worker,
                *([machine.store // need.store] if machine.store is not None else []),
            ]
        )
        if room >= machine.workers:
            continue
        needed, free = size(need.worker), size(machine.memory)
        ratio = need.worker * machine.workers / max(machine.memory, 1)
        if machine.store is not None:
            needed += f" and {size(need.store)} of object store"
            free += f" and {size(machine.store)} of object store"
            ratio = max(ratio, need.store * machine.workers / max(machine.store, 1))
        fewer = "numerics.threads (more threads a worker make fewer workers); or " if room else ""
        raise SpecError(
            f"a worker needs {needed} ({what}), but {machine.name} has {free} for"
            f" {machine.workers} worker{'s' * (machine.workers > 1)}, which is enough for {room};"
            f" change {fewer}{_smaller(job, ratio)}; or larger machines"
        )


def _smaller(job: Job, ratio: float) -> str:
    """Which numbers make the moments smaller by a ratio."""
    hints = []
    if job.spec.moments.halves:
        hints.append("moments.halves: false (halves them)")
    if job.spec.moments.second:
        hints.append("moments.second: false (halves them)")
    dense = [r.kind for r in job.spec.responses if is_dense(r.kind)]
    if dense:
        hints.append(
            f"responses: without {' and '.join(dense)} (each keeps a row for all {len(job.names):,}"
            " outputs)"
        )
    cell = job.spec.stimulus.cell
    if job.basis is not None or job.spec.stimulus.kind == "images":
        return "; or ".join(hints) or "responses: fewer"
    hints.append(f"stimulus.cell: {max(cell + 1, -int(-cell * ratio**0.5 // 1))} instead of {cell}")
    return "; or ".join(hints)
