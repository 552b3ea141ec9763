"""What tests of whole runs share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from started import result

from wna_ray import run
from wna_ray.specs.run import Spec


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Spec], dict[str, bytes]]:
    """Result bytes of an undisturbed in-process run of a spec, whatever its execution."""
    known: dict[str, dict[str, bytes]] = {}

    def of(spec: Spec) -> dict[str, bytes]:
        plain = spec.model_copy(update={"execution": Spec.model_fields["execution"].default})
        key = plain.model_dump_json()
        if key not in known:
            out = tmp_path_factory.mktemp("reference") / "run"
            run(plain, str(out), executor="local")
            known[key] = result(out)
        return known[key]

    return of
