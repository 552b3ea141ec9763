"""Which kind of spec a YAML file is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wna_ray.errors import SpecError
from wna_ray.spec import Spec, StcSpec, read_yaml
from wna_ray.trial_spec import TrialSpec

AnySpec = Spec | StcSpec | TrialSpec


def read_spec(path: str | Path, changes: Mapping[str, Any] | None = None) -> AnySpec:
    """The spec of a YAML file that asks for one run (see `parse_spec`)."""
    return parse_spec(read_yaml(path, changes), str(path))


def parse_spec(data: Mapping[str, Any], source: str) -> AnySpec:
    """The spec of a mapping: of trials where it names ``signals``, of the covariance of a run where it names a ``run``, else of a run."""
    if "network" in data:
        raise SpecError(f"{source}: a training job (it names a network); start it by: wna train {source}")
    kind = TrialSpec if "signals" in data else StcSpec if "run" in data else Spec
    return kind.parse(data, source)


def code_of(spec: AnySpec) -> tuple[str, str] | None:
    """Which part of a spec names a model whose code would run, and that model; None where none does."""
    named = ((name, getattr(spec, name, None)) for name in ("model", "decoder"))
    return next(((name, uri) for name, uri in named if uri is not None and uri.partition(":")[0] == "python"), None)


def runs_code(spec: AnySpec) -> bool:
    """Whether a spec names a model whose code would run."""
    return code_of(spec) is not None


def require_no_code(specs: Iterable[AnySpec]) -> None:
    """`SpecError` where a spec names a model of ``python:``, whose code would run.

    A spec is to be trusted like a script: such a model is any function of any installed module, called with what the
    spec says. All other models are read as numbers and sizes.
    """
    for name, uri in filter(None, map(code_of, specs)):
        raise SpecError(f"--no-code: {name}: {uri} would run code; leave --no-code out if you trust this spec like a script")
