"""How what is missing of a run is cut into shards and segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from wna_ray.geometry import Span

FAN_IN = 8
MERGE_BYTES = 512 << 20  # what one merge takes in: large partials are merged by twos
MOST_SEGMENTS = 64
IMAGES_A_ROW = 4
SEGMENT_BYTES = 16 << 30  # all segments of a run together
RESPONSES_BYTES = 256 << 20  # of the responses of a segment, where they are kept
SHARD_SECONDS = 2.0
PARTIAL_BYTES_A_SECOND = (
    15e6  # a worker must not make partials faster than they are moved and merged
)


@dataclass(frozen=True)
class Plan:
    """How [0, N) is cut.

    Attributes
    ----------
    shard
        Images in a shard, at most.
    segment
        Images in a segment, at most.
    segments
        Ranges of the segments to do. Their shards are cut when they are needed: there may be
        millions.
    """

    shard: int
    segment: int
    segments: tuple[Span, ...]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return sum(-(-(b - a) // self.shard) for a, b in self.segments)

    def cut(self, segment: Span) -> tuple[Span, ...]:
        """The shards of a segment."""
        return tuple(pairwise([*range(*segment, self.shard), segment[1]]))


@dataclass(frozen=True)
class Cut:
    """What decides how a run is cut into segments and shards.

    Attributes
    ----------
    batch
        Images in a forward pass; shards are multiples of it (the last of the run excepted).
    batch_seconds
        That one takes, for the default shard: about two seconds (more where its moments are large),
        but at least four a worker.
    moment_rows, row_bytes
        Most rows of a segment's moments, and the size of each: a segment holds at least four images
        a row (making it must take much longer than committing it), and all segments together at
        most 16 GiB.
    image_bytes
        What is kept of every image's responses; those of a segment are at most 256 MiB.
    shard, segments
        Asked-for images in a shard, and number of segments of the whole run.
    """

    batch: int
    batch_seconds: float
    moment_rows: int
    row_bytes: int
    image_bytes: int = 0
    shard: int | None = None
    segments: int | None = None


def plan(gaps: Sequence[Span], samples: int, workers: int, cut: Cut) -> Plan:
    """Cut what is missing into segments and shards.

    Parameters
    ----------
    gaps
        Ranges still to do; they start at multiples of the batch.
    samples
        N.
    workers
        That share the work.
    cut
        See `Cut`.

    Returns
    -------
    Plan
        Where segments end depends on `samples`, the batch, the moments' size and the number of
        segments alone, so two drivers of one run cut the same segments, however fast they are;
        shards are cut inside.
    """
    batches = -(-samples // cut.batch)
    segment = segment_images(samples, cut)
    if cut.shard is None:
        seconds = max(SHARD_SECONDS, cut.moment_rows * cut.row_bytes / PARTIAL_BYTES_A_SECOND)
        wanted = max(1, round(seconds / max(cut.batch_seconds, 1e-6)))
        size = min(wanted, max(1, batches // (4 * workers))) * cut.batch
    else:
        size = -(-cut.shard // cut.batch) * cut.batch
    spans: list[Span] = []
    for start, stop in gaps:
        spans += pairwise([start, *range((start // segment + 1) * segment, stop, segment), stop])
    return Plan(min(size, segment), segment, tuple(spans))


def segment_images(samples: int, cut: Cut) -> int:
    """Images in a segment (see `plan`)."""
    usual = (
        SEGMENT_BYTES // (cut.moment_rows * cut.row_bytes),
        samples // (IMAGES_A_ROW * cut.moment_rows),
    )
    count = cut.segments or max(1, min(MOST_SEGMENTS, *usual))
    count = max(count, -(-samples * cut.image_bytes // RESPONSES_BYTES))
    batches = -(-samples // cut.batch)
    return -(-batches // count) * cut.batch


def fan_in(partial_bytes: int) -> int:
    """Partials in one merge: eight, fewer where they are large."""
    return max(2, min(FAN_IN, MERGE_BYTES // max(1, partial_bytes)))
