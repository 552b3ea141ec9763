"""Specs as commands read them: a file, changed by the options of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wna_ray.cli.shared import SpecFile
from wna_ray.errors import SpecError
from wna_ray.specs.job import JobSpec
from wna_ray.specs.parse import require_no_code
from wna_ray.specs.sweep import SweepSpec, read_asked
from wna_ray.specs.yaml_text import parse_yaml


def read_spec(file: SpecFile) -> JobSpec | SweepSpec:
    """The spec of a file; `SpecError` where it, or a change, is not fit."""
    spec = read_asked(file.path, values_of(file.changes), file.full)
    if file.no_code:
        require_no_code(spec.members.values() if isinstance(spec, SweepSpec) else [spec])
    return spec


def values_of(changes: Sequence[str] | None) -> dict[str, Any]:
    """What ``--set KEY=VALUE`` says."""
    values = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise SpecError(f"--set {change}: expected KEY=VALUE, such as stimulus.scale=0.5")
        values[key] = parse_yaml(value, f"--set {change}")
    return values
