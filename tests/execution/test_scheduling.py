"""Planning and scheduling, with a simulated executor: every image once, whatever fails, in any
order of completion.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wna_ray.errors import StoreError, WnaError
from wna_ray.events import (
    Committed,
    CopyStarted,
    Event,
    SegmentCommitted,
    ShardDone,
    ShardFailed,
    ShardRetried,
)
from wna_ray.execution.executor import PayloadLost, WorkerLost, call
from wna_ray.execution.plan import FAN_IN, MERGE_BYTES, Cut, Plan, fan_in, plan
from wna_ray.execution.scheduler import Scheduler
from wna_ray.geometry import Span
from wna_ray.machine import Machine

COMMITTED = Committed(1.0, 100, 0)


@dataclass
class Simulated:
    """An executor whose payloads are lists of shard ranges, and whose calls end in random order.

    Attributes
    ----------
    faults
        For a shard's start (or a method's name), what its first calls do: an exception to raise, or
        None to end well.
    """

    faults: dict[int | str, list[Exception | None]] = field(default_factory=dict)
    seed: int = 0
    workers: int = 2
    window: int = 4
    committed: list[Span] = field(default_factory=list)
    live: int = 0
    most_live: int = 0
    merges: list[int] = field(default_factory=list)
    stuck: set[int] = field(default_factory=set)
    copies: list[tuple[int, int]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.running: dict[int, tuple[str, tuple[Any, ...], list[int]]] = {}
        self.payloads: dict[int, list[Span]] = {}
        self.ends: dict[int, Any] = {}
        self.count = 0

    def share(self, value: Any) -> Any:
        return value

    @property
    def wanted(self) -> int:
        return self.workers

    def machines(self) -> list[Machine]:
        return []

    def submit(
        self, method: str, *args: Any, inputs: Sequence[int] = (), avoid: int | None = None
    ) -> int:
        self.count += 1
        if avoid is not None:
            self.copies.append((avoid, self.count))
        self.running[self.count] = (method, args, list(inputs))
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        return self.count

    def wait(self, timeout: float) -> list[int]:
        self.now += 1.0
        free = [
            ticket
            for ticket in sorted(self.running)
            if self.running[ticket][1][1:2] not in [(start,) for start in self.stuck]
        ]
        free += [copy for _, copy in self.copies if copy in self.running and copy not in free]
        tickets = self.random.sample(free, min(len(free), self.random.randint(1, 3)))
        for ticket in tickets:
            method, args, inputs = self.running.pop(ticket)
            key: int | str = args[1] if method in ("shard", "read") else method
            planned = self.faults.get(key, [])
            fault = planned.pop(0) if planned else None
            given = [span for i in inputs for span in self.payloads[i]]
            if fault is not None:
                self.ends[ticket] = fault
                continue
            self.ends[ticket] = COMMITTED if method == "commit" else {"forward": 1.0}
            if method in ("shard", "read"):
                self.payloads[ticket] = [(args[1], args[2])]
            elif method == "merge":
                assert all(a[1] == b[0] for a, b in itertools.pairwise(given)), (
                    f"not neighbours: {given}"
                )
                self.merges.append(len(inputs))
                self.payloads[ticket] = given
            else:
                assert (method, args) == ("commit", ("url", "fingerprint"))
                self.committed += given
                self.payloads[ticket] = []
        return tickets

    def report(self, ticket: int) -> Any:
        if isinstance(self.ends[ticket], Exception):
            raise self.ends[ticket]
        return self.ends[ticket]

    def payload(self, ticket: int) -> Any:
        return self.payloads[ticket]

    def release(self, ticket: int) -> None:
        self.live -= 1
        self.running.pop(ticket, None)
        self.payloads.pop(ticket, None)

    def close(self) -> None:
        pass


def cut(samples: int = 4000, shard: int = 64, segments: int = 5) -> Plan:
    return plan([(0, samples)], samples, 2, Cut(16, 0.01, 10, 100, shard=shard, segments=segments))


def drive(executor: Simulated, planned: Plan, attempts: int = 3) -> tuple[Scheduler, list[Event]]:
    events: list[Event] = []
    scheduler = Scheduler(executor, attempts, events.append, clock=lambda: executor.now)
    scheduler.run(planned, ("job",), ("url", "fingerprint"))
    return scheduler, events


def all_shards(planned: Plan) -> list[Span]:
    return [span for segment in planned.segments for span in planned.cut(segment)]


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 5000),
    batch=st.integers(1, 64),
    shard=st.one_of(st.none(), st.integers(1, 3000)),
    segments=st.one_of(st.none(), st.integers(1, 80)),
    workers=st.integers(1, 9),
    done=st.lists(st.integers(0, 100), max_size=6),
)
def test_a_plan_tiles_what_is_missing(
    samples: int, batch: int, shard: int | None, segments: int | None, workers: int, done: list[int]
) -> None:
    edges = sorted({min(x * batch, samples) for x in done} | {0, samples})
    gaps = [(a, b) for i, (a, b) in enumerate(itertools.pairwise(edges)) if i % 2 == 0]
    planned = plan(
        gaps, samples, workers, Cut(batch, 0.01, 10, 100, shard=shard, segments=segments)
    )
    spans = all_shards(planned)
    assert sorted(i for a, b in spans for i in range(a, b)) == [
        i for a, b in gaps for i in range(a, b)
    ]
    assert all(
        a % batch == 0 and (b % batch == 0 or b == samples) and 0 < b - a <= planned.shard
        for a, b in spans
    )
    assert all(b - a <= planned.segment for a, b in planned.segments)
    assert len(spans) == planned.shards


def test_large_moments_make_few_segments() -> None:
    few = plan([(0, 10**6)], 10**6, 2, Cut(64, 1.0, 1000, (5 << 30) // 1000))
    assert len(few.segments) == 3


def test_a_short_run_with_many_rows_makes_one_segment() -> None:
    """2,000 images for 4,000 rows: a commit would cost more than the work it saves."""
    assert len(plan([(0, 2000)], 2000, 2, Cut(32, 0.05, 4000, 14_000)).segments) == 1


@pytest.mark.parametrize("seed", range(5))
def test_every_shard_is_committed_once_in_any_order(seed: int) -> None:
    executor, planned = Simulated(seed=seed), cut()
    scheduler, events = drive(executor, planned)
    assert sorted(executor.committed) == all_shards(planned)
    assert scheduler.failed == {}
    assert sum(isinstance(e, ShardDone) for e in events) == planned.shards
    assert sum(isinstance(e, SegmentCommitted) for e in events) == len(planned.segments)
    assert executor.live == 0, "every ticket is released"
    assert max(executor.merges) <= FAN_IN


def test_memory_does_not_grow_with_the_run() -> None:
    """Tickets alive at once: the window, the partials of the segments under way, and their
    merges; not the shards.
    """
    executor = Simulated()
    drive(executor, cut(samples=200_000, segments=50))
    assert executor.most_live < 3 * (200_000 // 64 // 50)


TABLE: dict[str, tuple[dict[int | str, list[Exception | None]], int, int]] = {
    # name: (what fails, shards retried, shards given up)
    "one error": ({640: [MemoryError("once")]}, 1, 0),
    "two errors": ({640: [MemoryError("1"), MemoryError("2")]}, 2, 0),
    "poison": ({640: [MemoryError("x")] * 3}, 2, 1),
    "two poison shards": ({0: [ValueError("x")] * 3, 3968: [ValueError("y")] * 3}, 4, 2),
    "a worker dies": ({640: [WorkerLost("gone")]}, 1, 0),
    "poison that kills": ({640: [WorkerLost("gone")] * 3}, 2, 1),
    "a bystander is not blamed": ({640: [WorkerLost("gone", blamed=False)] * 9}, 9, 0),
    "a worker dies in a merge": ({"merge": [WorkerLost("gone")] * 2}, 0, 0),
    "a worker dies in a commit": ({"commit": [WorkerLost("gone")] * 2}, 0, 0),
    "a lost commit": ({"commit": [PayloadLost("lost")]}, 13, 0),
    "commits that never work": ({"commit": [MemoryError("x")] * 9}, 2 * 13, 13),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("seed", range(3))
def test_failures(name: str, seed: int) -> None:
    faults, retried, given_up = TABLE[name]
    planned = cut(segments=1, samples=13 * 64) if name.startswith("commits") else cut()
    executor = Simulated({k: list(v) for k, v in faults.items()}, seed)
    scheduler, events = drive(executor, planned)
    lost = set(scheduler.failed)
    assert sorted(executor.committed) == sorted(set(all_shards(planned)) - lost)
    assert len(lost) == given_up == sum(isinstance(e, ShardFailed) for e in events)
    again = sum(isinstance(e, ShardRetried) for e in events)
    assert again == retried or (
        name == "a lost commit" and again == 12
    )  # the last of five segments is a shard shorter
    assert executor.live == 0


def test_a_lost_partial_is_computed_again() -> None:
    executor, planned = Simulated({"merge": [PayloadLost("lost")]}), cut()
    scheduler, events = drive(executor, planned)
    assert sorted(executor.committed) == all_shards(planned)
    assert 2 <= sum(isinstance(e, ShardRetried) for e in events) <= 13
    assert (scheduler.failed, executor.live) == ({}, 0)


def test_segments_do_not_depend_on_speed_or_workers() -> None:
    """Two drivers of one run, one slow and one fast, cut the same segments."""
    plans = [
        plan([(0, 10**5)], 10**5, workers, Cut(64, seconds, 100, 10**4))
        for workers in (1, 7)
        for seconds in (1e-4, 0.05, 0.07, 3.0)
    ]
    ends = [p.segments for p in plans]
    assert all(e == ends[0] for e in ends)
    assert len({p.shard for p in plans}) > 1


@settings(max_examples=80, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_random_storms(data: st.DataObject, seed: int) -> None:
    """Random faults anywhere: what is committed and what is given up make up the plan, each
    shard once.
    """
    faults: dict[int | str, list[Exception | None]] = {}
    fault = st.sampled_from(
        [None, MemoryError("m"), WorkerLost("w"), WorkerLost("w", blamed=False), PayloadLost("p")]
    )
    for start in data.draw(
        st.lists(st.integers(0, 62).map(lambda i: 64 * i), max_size=8, unique=True)
    ):
        faults[start] = data.draw(st.lists(fault, max_size=4))
    faults["merge"] = data.draw(st.lists(fault, max_size=6))
    faults["commit"] = data.draw(st.lists(fault, max_size=4))
    executor, planned = Simulated(faults, seed), cut()
    scheduler, _ = drive(executor, planned)
    assert sorted([*executor.committed, *scheduler.failed]) == all_shards(planned)
    assert executor.live == 0


def test_an_error_that_no_retry_mends_stops_the_run() -> None:
    with pytest.raises(StoreError, match="disk full"):
        drive(Simulated({"commit": [StoreError("disk full")]}), cut())


def passing(text: str) -> StoreError:
    error = StoreError(text)
    error.passing = True
    return error


def test_a_commit_that_storage_refuses_for_now_is_tried_again() -> None:
    """Another worker may reach what this one does not; but not for ever."""
    executor, planned = Simulated({"commit": [passing("slow down")] * 2}), cut()
    drive(executor, planned)
    assert sorted(executor.committed) == all_shards(planned)
    with pytest.raises(StoreError, match="slow down"):
        drive(Simulated({"commit": [passing("slow down")] * 99}), cut(segments=1, samples=13 * 64))


@pytest.mark.parametrize("seed", range(5))
def test_a_straggler_gets_a_second_copy(seed: int) -> None:
    """The worker that has shard 640 never answers. Its copy does; the run ends without the
    straggler, each shard counted once.
    """
    executor, planned = Simulated(seed=seed, stuck={640}, workers=3, window=6), cut()
    _, events = drive(executor, planned)
    assert sorted(executor.committed) == all_shards(planned)
    assert (640, 704) in [(e.start, e.stop) for e in events if isinstance(e, CopyStarted)]
    assert sum(isinstance(e, ShardDone) for e in events) == planned.shards
    assert executor.live == 0, "the straggler is forgotten, too"


def test_a_single_worker_never_gets_second_copies() -> None:
    executor = Simulated(workers=1, window=2)
    _, events = drive(executor, cut())
    assert not [e for e in events if isinstance(e, CopyStarted)]


@pytest.mark.parametrize("fault", [None, MemoryError("m"), WorkerLost("w"), PayloadLost("p")])
def test_merging_what_was_committed_goes_through_the_same_tree(fault: Exception | None) -> None:
    executor = Simulated({64 * 3: [fault], "merge": [fault, None, fault]})
    leaves = {(64 * i, 64 * (i + 1)): ("place", 64 * i, 64 * (i + 1)) for i in range(40)}
    ticket, reports = Scheduler(executor, 4, lambda _: None).merge(leaves, "read")
    assert executor.payload(ticket) == list(leaves)
    assert sorted(reports) == list(leaves)
    executor.release(ticket)
    assert executor.live == 0


def test_large_partials_are_merged_by_twos() -> None:
    assert (fan_in(1), fan_in(MERGE_BYTES // 4), fan_in(10 * MERGE_BYTES)) == (FAN_IN, 4, 2)
    executor, events = Simulated(), list[Event]()
    planned = cut()
    Scheduler(executor, 3, events.append, partial_bytes=MERGE_BYTES).run(
        planned, ("job",), ("url", "fingerprint")
    )
    assert sorted(executor.committed) == all_shards(planned)
    assert set(executor.merges) == {2}


def test_single_calls_are_tried_again_where_their_worker_died() -> None:
    executor = Simulated({"read": []})
    executor.faults = {5: [WorkerLost("w"), WorkerLost("w")]}
    assert call(executor, 3, "read", "place", 5, 6) == {"forward": 1.0}
    executor.faults = {5: [WorkerLost("w")] * 3}
    with pytest.raises(WnaError, match="workers died 3 times in 'read'"):
        call(executor, 3, "read", "place", 5, 6)
    assert executor.live == 0
