"""Which kind of spec a YAML file is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wna_ray.errors import SpecError
from wna_ray.registry import Kind, kind_of_spec, kinds
from wna_ray.specs.base import read_yaml
from wna_ray.specs.job import JobSpec


def read_spec(path: str | Path, changes: Mapping[str, Any] | None = None) -> JobSpec:
    """The spec of a YAML file that asks for one run (see `parse_spec`)."""
    return parse_spec(read_yaml(path, changes), str(path))


def parse_spec(data: Mapping[str, Any], source: str) -> JobSpec:
    """The spec of a mapping: of trials where it names ``signals``, of the covariance of a run
    where it names a ``run``, else of a run.
    """
    if "network" in data:
        raise SpecError(
            f"{source}: a training job (it names a network); start it by: wna train {source}"
        )
    spec: type[JobSpec] = kind_of_spec(data, source).part("spec")
    return spec.parse(data, source)


def kind_of(spec: JobSpec) -> Kind:
    """The kind of job that a spec is of."""
    return next(kind for kind in kinds() if type(spec) is kind.part("spec"))


def code_of(spec: object) -> tuple[str, str] | None:
    """Which part of a spec names a model whose code would run, and that model; None where none
    does.
    """
    named = ((name, getattr(spec, name, None)) for name in ("model", "decoder"))
    return next(
        (
            (name, uri)
            for name, uri in named
            if uri is not None and uri.partition(":")[0] == "python"
        ),
        None,
    )


def runs_code(spec: object) -> bool:
    """Whether a spec names a model whose code would run."""
    return code_of(spec) is not None


def require_no_code(specs: Iterable[JobSpec]) -> None:
    """`SpecError` where a spec names a model of ``python:``, whose code would run.

    A spec is to be trusted like a script: such a model is any function of any installed module,
    called with what the spec says. All other models are read as numbers and sizes.
    """
    for name, uri in filter(None, map(code_of, specs)):
        raise SpecError(
            f"--no-code: {name}: {uri} would run code; leave --no-code out if you trust this spec"
            " like a script"
        )
