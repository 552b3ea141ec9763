"""What a finished run directory holds, read from storage alone: nothing is believed that the
manifest's digests do not prove.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from wna_ray.canonical import sha256
from wna_ray.errors import RunError
from wna_ray.machine import require_memory
from wna_ray.moments.moments import Partial
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.formats import kind_of_format
from wna_ray.runs.names import ENVIRONMENT, MOMENTS, RESULT, SPEC
from wna_ray.runs.segments import unpack_moments
from wna_ray.specs.job import JobSpec
from wna_ray.storage.arrays import from_npy, reading
from wna_ray.storage.bounds import parse_json, validated
from wna_ray.storage.store import Place
from wna_ray.text import plain, redacted_tree

T = TypeVar("T")
E = TypeVar("E")
M = TypeVar("M", bound=BaseModel)


class Finished:
    """Spec, manifest and objects of a finished run directory of any kind.

    Parameters
    ----------
    place
        A path, any fsspec URL, or a `Place`.

    Attributes
    ----------
    directory
        Where it lies.
    described
        What ``spec.json`` says.
    manifest
        What ``MANIFEST.json`` lists.
    extent
        How large its objects may be.
    kind
        Of the job.
    objects
        Of the result, by name, where they were made again (`remade`); empty otherwise.

    Raises
    ------
    RunError
        There is nothing, it is not finished, or something in it is damaged.
    """

    from_result: ClassVar[tuple[str, ...]] = ()
    """Cached properties that are read from objects which `derive` makes again."""

    def __init__(self, place: Place | str) -> None:
        self.objects: Mapping[str, bytes] = {}
        self.directory = RunDirectory(place)
        self.described, self.manifest, self.extent = self.directory.finished()
        if self.manifest.fingerprint != self.described.fingerprint:
            raise RunError(f"{self.directory.url}/MANIFEST.json is of another run")
        self.kind = kind_of_format(self.described.format, self._spec_url)

    @property
    def spec(self) -> JobSpec:
        """The spec as asked."""
        spec: type[JobSpec] = self.kind.part("spec")
        return spec.parse(self.described.spec, self._spec_url)

    @property
    def fingerprint(self) -> str:
        """What the result is a function of, with N."""
        return self.described.fingerprint

    @property
    def names(self) -> list[str]:
        """Names of outputs or units, made plain: one line each, and nothing that a terminal
        would obey.
        """
        return [plain(name) for name in self.described.names]

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and device that began the run (``environment.json``), without secrets of URLs.

        Raises
        ------
        RunError
            It is not what the manifest lists, or no JSON object.
        """
        where = f"{self.directory.url}/{ENVIRONMENT}"
        environment = self._parsed(ENVIRONMENT, lambda data: parse_json(data, where))
        with reading(where):  # too deep a tree is damage
            redacted: dict[str, Any] = redacted_tree(environment)
        return redacted

    @property
    def images(self) -> int:
        """Images (or trials) that were counted in."""
        images: int = self.partial.moments.images
        return images

    @cached_property
    def partial(self) -> Partial:
        """The merged sums, with their range."""
        where, samples = f"{self.directory.url}/{MOMENTS}", self.extent.samples
        partial = unpack_moments(self._bytes(MOMENTS), self.fingerprint, where, self.extent)
        if (partial.start, partial.stop) != (0, samples):
            raise RunError(
                f"{where} holds images [{partial.start}, {partial.stop}), not [0, {samples})"
            )
        return partial

    def derive(self) -> dict[str, bytes]:
        """Every object of the result, as it is stored, its digest checked."""
        beginning = f"{RESULT}/"
        objects = self.manifest.objects
        return {name: self._bytes(name) for name in objects if name.startswith(beginning)}

    def remade(self) -> Self:
        """This run with its result made again: a table of it is then not read from storage, where
        somebody else may have put it beside the sums.
        """
        if self.objects:
            return self
        other = copy.copy(self)
        other.objects = self.derive()
        for name in self.from_result:
            other.__dict__.pop(name, None)
        return other

    @property
    def _spec_url(self) -> str:
        """Where its spec lies, for messages."""
        return f"{self.directory.url}/{SPEC}"

    def _expect(self, kind: type[E], otherwise: str) -> E:
        """How large its objects may be; `RunError` where it is a directory of the other kind."""
        if not isinstance(self.extent, kind):
            raise RunError(f"'{self.directory.url}' is {otherwise}")
        return self.extent

    def _identified(self, kind: type[M]) -> M:
        """The identity as the record of its kind, which was compared with the spec before."""
        return validated(kind, self.described.identity, self._spec_url)

    def figure(self, name: str) -> bytes:
        """One of its figures, PNG, its digest checked."""
        return self._bytes(f"{RESULT}/figures/{name}.png")

    def _bytes(self, name: str) -> bytes:
        """An object: as it was made again, or from storage, its digest checked."""
        if name in self.objects:
            return self.objects[name]
        where, entry = f"{self.directory.url}/{name}", self.manifest.objects.get(name)
        if entry is None:
            raise RunError(f"{where} is not listed in the manifest: the run was made without it")
        require_memory(2 * entry.bytes, where)
        data = self.directory.store.read(name, most=entry.bytes)
        if data is None:
            raise RunError(f"{where} is missing (wna verify tells what else is)")
        if sha256(data) != entry.sha256:
            raise RunError(f"{where} is damaged: it is not what the manifest lists")
        return data

    def _parsed(self, name: str, parse: Callable[[bytes], T]) -> T:
        """What an object's bytes say; `RunError` where they are not what `parse` expects."""
        data = self._bytes(name)
        with reading(f"{self.directory.url}/{name}"):
            return parse(data)

    def _array(
        self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32
    ) -> NDArray[Any]:
        """An array of exactly this shape and type."""

        def parse(data: bytes) -> NDArray[Any]:
            array = from_npy(data)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of shape {shape}"
                )
            return array

        return self._parsed(name, parse)
