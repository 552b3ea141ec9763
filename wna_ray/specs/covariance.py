"""The spec of a spike-triggered covariance of a finished run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from wna_ray.specs.base import Written, as_names
from wna_ray.specs.numerics import ExecutionSpec, PassNumerics
from wna_ray.specs.response import ResponseKind


class StcSpec(Written):
    """Spike-triggered covariance of a finished run, from its kept responses and regenerated noise;
    or, of a run of gradients, the average Hessian, through its network.

    Attributes
    ----------
    run
        The run directory: a path or any fsspec URL. It was made with ``keep_responses: true``, or
        with ``estimator: gradient``.
    model
        Of a run of gradients: the URI of its model. A run directory may be anybody's, so no model
        is loaded because it says so.
    response
        Which of its responses; the first by default.
    units
        Which of its units (or classes), by their names; ``all`` by default.
    method
        ``dense``: all eigenvalues of the (d, d) matrix, d <= 4096, with a test against fresh noise.
        ``matrix-free``: the strongest axes for any d, without the matrix: found on the even batches
        of images, tested on the odd ones.
    linear
        Take the linear part out of the responses first (the STA explains it, here it would be
        noise).
    clip
        Count residual responses beyond so many standard deviations of the response as that many.
        Rare large ones fill the spectrum with single images, and hide all axes where d is not small
        beside N: without clipping where it is not given.
    fresh
        ``dense``: how many streams of fresh noise the responses are paired with. The smallest
        p-value is 2 / (fresh + 1).
    axes
        How many axes are kept, at most; for ``matrix-free`` also the columns of the block.
    passes
        ``matrix-free``: passes over the noise, each of which adds a block to the space in which
        axes are looked for.
    seed
        Of the fresh noise, and of the first block.
    numerics, execution
        See their classes. A run of gradients brings its own numerics.
    """

    run: str = Field(min_length=1)
    model: str | None = None
    response: ResponseKind | None = None
    units: Literal["all"] | Annotated[tuple[str, ...], BeforeValidator(as_names)] = "all"
    method: Literal["dense", "matrix-free"] = "dense"
    linear: bool = True
    clip: float | None = Field(default=None, gt=0, le=1e6)
    fresh: int = Field(default=39, ge=0, le=1000)
    axes: int = Field(default=8, ge=1, le=64)
    passes: int = Field(default=6, ge=1, le=64)
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    numerics: PassNumerics = PassNumerics()
    execution: ExecutionSpec = ExecutionSpec()

    @property
    def network(self) -> None:
        """None: kept responses need no network, and gradients that of the run (see
        `wna_ray.kinds.covariance.job.Question.held`).
        """
        return None
