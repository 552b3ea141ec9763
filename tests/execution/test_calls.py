"""Calls of one method on all workers: reports in order, tried again where a worker died."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from wna_ray.errors import ModelError, WnaError
from wna_ray.execution.executor import WorkerLost, call_each


class Workers:
    """Two workers that end calls out of order, some of them dying first."""

    window, workers, wanted = 3, 2, 2

    def __init__(self, deaths: dict[Any, int], error: Exception | None = None) -> None:
        self.deaths, self.error = dict(deaths), error
        self.running: list[int] = []
        self.arguments: dict[int, Any] = {}
        self.released: list[int] = []
        self.most = 0

    def submit(
        self, method: str, *args: Any, inputs: Sequence[int] = (), avoid: int | None = None
    ) -> int:
        ticket = len(self.arguments)
        self.arguments[ticket] = args[0]
        self.running.append(ticket)
        self.most = max(self.most, len(self.running))
        return ticket

    def wait(self, timeout: float) -> list[int]:
        ended, self.running = self.running[::-1][:2], self.running[::-1][2:][::-1]
        return ended

    def report(self, ticket: int) -> Any:
        value = self.arguments[ticket]
        if self.deaths.get(value, 0):
            self.deaths[value] -= 1
            raise WorkerLost("it died", True)
        if value == 5 and self.error is not None:
            raise self.error
        return 10 * value

    def release(self, ticket: int) -> None:
        self.released.append(ticket)


def test_reports_are_in_order() -> None:
    workers, ended = Workers({}), list[int]()
    got = call_each(workers, 4, "answer", [(i,) for i in range(9)], ended.append)
    assert got == [10 * i for i in range(9)]
    assert ended == list(range(1, 10))
    assert workers.most == workers.window
    assert sorted(workers.released) == list(range(9))


def test_calls_whose_worker_died_are_tried_again() -> None:
    workers = Workers({2: 3, 4: 1})
    assert call_each(workers, 4, "answer", [(i,) for i in range(6)]) == [10 * i for i in range(6)]
    with pytest.raises(WnaError, match="workers died 4 times in 'answer'"):
        call_each(Workers({2: 4}), 4, "answer", [(i,) for i in range(6)])


def test_an_error_ends_all_calls() -> None:
    workers = Workers({}, ModelError("model: broken"))
    with pytest.raises(ModelError, match="broken"):
        call_each(workers, 4, "answer", [(i,) for i in range(9)])
    assert sorted(workers.released) == sorted(workers.arguments)


def test_no_calls_have_no_reports() -> None:
    assert call_each(Workers({}), 4, "answer", []) == []
