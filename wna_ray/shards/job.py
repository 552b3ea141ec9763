"""A resolved spec: all that a shard needs besides the model itself, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wna_ray.canonical import canonical
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import FixedPoint
from wna_ray.networks.field import Field
from wna_ray.networks.reading import AS_IT_IS, Reading
from wna_ray.noise.stream import STREAM
from wna_ray.shards.decoder import Decoder
from wna_ray.shards.network import Device
from wna_ray.specs.numerics import NormaliseSpec
from wna_ray.specs.run import Spec
from wna_ray.stimuli.geometry import geometry_of
from wna_ray.stimuli.stimulus import Stimulus, make_stimulus


@dataclass(frozen=True)
class Job:
    """A resolved spec: all that a shard needs besides the model itself.

    Attributes
    ----------
    spec
        What was asked for.
    device
        Kind of device that the forward pass runs on.
    offset
        ``(C, H, W)`` or ``(1, 1, 1)`` float32.
    source, digest
        What the network is, and the digest of its weights.
    names
        One name a response row (k of them).
    normalise
        Applied between stimulus (or its picture) and network; None where the noise lives in the
        network's input space.
    points
        Fixed point by response kind.
    canary
        SHA-256 of the outputs of the first batch (and of gradients, where they are used): the same
        bits mean the same network and the same arithmetic.
    gradients
        With ``estimator: gradient``: by response kind, log2 of each row's step; else empty.
    field
        Where the units look; None where the network's output is asked.
    whole
        Why the whole image is shown to units, or "" where only a window is.
    basis
        Of the stimulus, where it has one (see `wna_ray.stimuli.bases.build`).
    content
        SHA-256 of what a data set has given to the stimulus, its basis or its images; "" where
        nothing.
    decoder
        What makes pictures of the stimuli first; None where they are shown as they are.
    reading
        How the network's output is read.
    assumed
        What was assumed of the network rather than said, in lines.
    """

    spec: Spec
    device: Device
    offset: NDArray[np.float32]
    source: str
    digest: str
    names: tuple[str, ...]
    normalise: NormaliseSpec | None
    points: Mapping[str, FixedPoint]
    canary: str
    gradients: Mapping[str, tuple[int, ...]]
    field: Field | None = None
    whole: str = ""
    basis: NDArray[np.int32] | None = None
    content: str = ""
    decoder: Decoder | None = None
    reading: Reading = AS_IT_IS
    assumed: tuple[str, ...] = ()

    @cached_property
    def stimulus(self) -> Stimulus:
        """The noise as images."""
        return stimulus_of(self.spec, self.offset, self.field, self.basis, self.content)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a result, as plain JSON values."""
        spec = self.spec
        identity: dict[str, Any] = {
            "stream": STREAM,
            "seed": spec.seed,
            "stimulus": spec.stimulus.identity() | {"offset": self.stimulus.offset_digest},
            "model": {
                "source": self.source,
                "digest": self.digest,
                "outputs": len(self.names),
                "normalise": self.normalise.model_dump(mode="json") if self.normalise else None,
            },
            "responses": [r.identity() for r in spec.responses],
            "fixed_point": {kind: p.identity() for kind, p in self.points.items()},
            "moments": spec.moments.identity(),
            "numerics": spec.numerics.identity() | {"device": self.device},
            "canary": self.canary,
        }
        # What only some runs have is left out of all others, so that their fingerprints stay what
        # they were.
        if spec.target is not None and self.field is not None:
            identity["target"] = {"layer": spec.target.layer, **self.field.identity()}
        if self.content:
            identity["stimulus"]["content"] = self.content
        if self.decoder is not None:
            shape = list(self.decoder.shape)
            identity["decoder"] = {
                "source": self.decoder.source,
                "digest": self.decoder.digest,
                "shape": shape,
            }
        if output := self.reading.identity():
            identity["output"] = output
        if spec.keep_responses:
            identity["keep_responses"] = True
        if spec.estimator == "gradient":
            identity["gradient_exponent"] = {kind: list(e) for kind, e in self.gradients.items()}
        return identity

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical identity. A result is a function of this and N alone."""
        return hashlib.sha256(canonical(self.identity).encode()).hexdigest()

    def no_images(self) -> Moments:
        """The moments of no images, in this job's shape."""
        kinds = [r.kind for r in self.spec.responses]
        return Moments.identity(
            self.stimulus.pixels, kinds, self.spec.keeps_squares, self.spec.moments.halves
        )


def stimulus_of(
    spec: Spec,
    offset: NDArray[np.float32],
    field: Field | None,
    basis: NDArray[np.int32] | None = None,
    content: str = "",
) -> Stimulus:
    """The noise as images, whole or as units see it."""
    seen = geometry_of(spec.stimulus, field)
    return make_stimulus(seen.spec, spec.seed, offset, seen.shown, seen.patches, basis, content)
