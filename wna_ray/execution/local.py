"""The reference executor: one worker in this process, one call at a time, in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from wna_ray.errors import SpecError
from wna_ray.execution.process import Settings
from wna_ray.execution.worker import Worker
from wna_ray.machine import Machine, available
from wna_ray.networks.models import Model
from wna_ray.shards.network import Device
from wna_ray.specs.job import Held


class InProcessExecutor:
    """Runs `Worker` methods here, when they are waited for.

    Parameters
    ----------
    spec
        The run's spec.
    model
        A module of this process, in the place of the spec's model; it is the worker's from now on.
    """

    workers = wanted = window = 1

    def __init__(self, spec: Held, model: Model | None = None) -> None:
        wanted = spec.numerics.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise SpecError(
                "numerics.device: cuda, but torch finds no CUDA device here; use cpu or auto"
            )
        self.device: Device = "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
        self._settings = Settings.of(self.device)  # this process's own, given back by `close`
        self._worker = Worker(spec, self.device, None if model is None else lambda: model)
        self._numbers = itertools.count()
        self._queue: deque[tuple[int, str, tuple[Any, ...], Sequence[int]]] = deque()
        self._payloads: dict[int, Any] = {}
        self._ends: dict[int, Any] = {}

    def share(self, value: Any) -> Any:
        return value

    def machines(self) -> list[Machine]:
        memory = available()
        return [] if memory is None else [Machine("this machine", memory, None, 1)]

    def submit(
        self, method: str, *args: Any, inputs: Sequence[int] = (), avoid: int | None = None
    ) -> int:
        ticket = next(self._numbers)
        self._queue.append((ticket, method, args, tuple(inputs)))
        return ticket

    def wait(self, timeout: float) -> list[int]:
        if not self._queue:
            return []
        ticket, method, args, inputs = self._queue.popleft()
        try:
            given = [self._payloads[i] for i in inputs]
            self._payloads[ticket], self._ends[ticket] = getattr(self._worker, method)(
                *given, *args
            )
        except Exception as error:  # handed to whoever asks for the report
            self._ends[ticket] = error
        return [ticket]

    def report(self, ticket: int) -> Any:
        end = self._ends[ticket]
        if isinstance(end, Exception):
            raise end
        return end

    def payload(self, ticket: int) -> Any:
        return self._payloads[ticket]

    def release(self, ticket: int) -> None:
        self._payloads.pop(ticket, None)
        self._ends.pop(ticket, None)

    def close(self) -> None:
        self._settings.restore()
