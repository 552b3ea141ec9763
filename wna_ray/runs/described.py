"""``spec.json``: what it says, as a record, once its digests are proved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from wna_ray.canonical import canonical, sha256
from wna_ray.errors import RunError
from wna_ray.storage.bounds import Loose, validated
from wna_ray.text import redacted_tree


class Described(Loose):
    """What ``spec.json`` says of a run. Its kind knows what the identity and the spec must say.

    Attributes
    ----------
    format
        Of its kind (see `wna_ray.registry`).
    fingerprint
        SHA-256 of the canonical identity.
    identity
        Everything that can change a result.
    samples
        N, at most.
    names
        Of outputs or units.
    spec
        As it was written, without secrets of URLs.
    digest
        SHA-256 of all the rest, in its canonical form.
    """

    format: str
    fingerprint: str
    identity: dict[str, Any]
    samples: int
    names: list[str]
    spec: dict[str, Any]
    digest: str

    @classmethod
    def parse(cls, value: Mapping[str, Any], where: str) -> Self:
        """What a JSON object says; `RunError` where that is of no run."""
        described = validated(cls, value, where)
        # Earlier versions stored secrets of URLs.
        return described.model_copy(update={"spec": redacted_tree(described.spec)})


def require_digests(value: Mapping[str, Any], where: str) -> None:
    """`RunError` where the fingerprint or the digest of a ``spec.json`` is not its own."""
    rest = {key: part for key, part in value.items() if key != "digest"}
    try:
        if sha256(canonical(value.get("identity")).encode()) != value.get("fingerprint"):
            raise RunError(f"{where} is damaged: its fingerprint does not match its identity")
        if value.get("digest") != sha256(canonical(rest).encode()):
            raise RunError(f"{where} is damaged: its digest does not match")
    except RecursionError:
        raise RunError(f"{where} is damaged (nested too deeply)") from None
