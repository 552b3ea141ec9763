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


def require_no_code(specs: Iterable[AnySpec]) -> None:
    """`SpecError` where a spec names a model of ``python:``, whose code would run.

    A spec is to be trusted like a script: such a model is any function of any installed module, called with what the
    spec says. All other models are read as numbers and sizes.
    """
    for spec in specs:
        for name in ("model", "decoder"):
            uri = getattr(spec, name, None)
            if isinstance(uri, str) and uri.partition(":")[0] == "python":
                raise SpecError(f"--no-code: {name}: {uri} would run code; leave --no-code out if you trust this spec like a script")
