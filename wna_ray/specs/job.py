"""What every spec of a job has, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from wna_ray.specs.numerics import ExecutionSpec, NumericsSpec, PassNumerics
from wna_ray.specs.run import Spec


class Held(Protocol):
    """A spec that workers are made for: their threads, their device, and the network they load."""

    @property
    def numerics(self) -> NumericsSpec | PassNumerics:
        """Threads and device of a worker."""

    @property
    def execution(self) -> ExecutionSpec:
        """How the work is cut, and how long workers are waited for."""

    @property
    def network(self) -> Spec | None:
        """Which network is shown what; None where no network is asked."""


class JobSpec(Protocol):
    """What a person writes of one job; its kind is told by `wna_ray.specs.parse.parse_spec`."""

    @property
    def numerics(self) -> NumericsSpec | PassNumerics:
        """Threads and device of a worker."""

    @property
    def execution(self) -> ExecutionSpec:
        """How the work is cut; nothing there changes a result."""

    def chosen_from(self, done: Any) -> Self:
        """With what a run chooses when it begins taken from a spec of the same run."""

    @classmethod
    def parse(cls, data: Mapping[str, Any], source: str = "spec") -> Self:
        """From a mapping; `SpecError` names every fault."""

    def model_dump(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As a mapping."""
