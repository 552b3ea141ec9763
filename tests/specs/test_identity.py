"""The one rule of identities: keys that come later change no fingerprint where nobody uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from wna_ray.specs.base import Frozen
from wna_ray.specs.numerics import NumericsSpec
from wna_ray.specs.response import MomentsSpec, ResponseSpec
from wna_ray.specs.stimulus import BasisSpec, StimulusSpec

WHITE = {"kind": "gaussian", "shape": [1, 28, 28], "scale": 0.5}


class Later(NumericsSpec):
    """Numerics with keys that are to come: a memory format, and an engine whose default changed."""

    blocks: str = "rows"
    engine: str = "inductor"

    later: ClassVar[Mapping[str, Any]] = {
        **NumericsSpec.later,
        "blocks": "rows",
        "engine": "torch",
    }


def test_a_key_with_its_old_default_is_left_out() -> None:
    old = NumericsSpec(batch=64).identity()
    assert old == {"dtype": "float32", "batch": 64, "threads": 1, "device": "auto"}
    assert Later(batch=64, engine="torch").identity() == old
    changed = Later(batch=64, engine="torch", blocks="columns").identity()
    assert changed == {**old, "blocks": "columns"}


def test_a_default_that_changed_is_written_out() -> None:
    """The engine came with ``torch``; now another is the default, and that is another result."""
    assert Later(batch=64).identity() == {**NumericsSpec(batch=64).identity(), "engine": "inductor"}


@pytest.mark.parametrize(
    ("part", "identity"),
    [
        (MomentsSpec(), {"second": False}),
        (MomentsSpec(halves=True), {"second": False, "halves": True}),
        (NumericsSpec(tune=True, compile="default").identity()["compile"], "default"),
        (ResponseSpec(kind="logits", centred=True), {"kind": "logits", "centred": True}),
        (ResponseSpec(kind="logits"), {"kind": "logits", "centred": False}),
        (NumericsSpec(memory_format="channels_last"), NumericsSpec().identity()),
        (
            NumericsSpec(memory_format="contiguous"),
            NumericsSpec().identity() | {"memory_format": "contiguous"},
        ),
        (
            ResponseSpec(kind="spikes", quantile=0.9),
            {"kind": "spikes", "centred": True, "quantile": 0.9},
        ),
        (
            StimulusSpec.model_validate(WHITE),
            {
                "kind": "gaussian",
                "shape": [1, 28, 28],
                "scale": 0.5,
                "cell": 1,
                "density": None,
                "space": "pixel",
            },
        ),
    ],
)
def test_identities_are_what_they_were(part: Any, identity: Any) -> None:
    """Word for word: fingerprints of runs that were made before are digests of these."""
    assert (part.identity() if isinstance(part, Frozen) else part) == identity


def test_a_part_of_a_part_follows_the_rule() -> None:
    basis = {"kind": "gabor"}
    spec = StimulusSpec.model_validate({**WHITE, "basis": basis})
    assert spec.identity()["basis"] == BasisSpec.model_validate(basis).identity()
    assert "rescale" not in spec.identity()["basis"]
