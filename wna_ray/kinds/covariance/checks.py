"""What a finished run must be for its covariance to be taken: one sentence where it is not."""

from __future__ import annotations

from collections.abc import Sequence

from wna_ray.errors import SpecError
from wna_ray.kinds.average.run import Run
from wna_ray.specs.covariance import StcSpec
from wna_ray.specs.response import ResponseKind

MOST_DENSE = 4096  # values of an image up to which all of the matrix is kept


def check_estimator(spec: StcSpec, run: Run) -> None:
    """Make sure that a model is given exactly where gradients need it, and that answers were kept.

    Raises
    ------
    SpecError
        The model is missing, or not needed; or gradients went through a decoder.
    RunError
        The responses of the run were not kept.
    """
    where = _where(run)
    if run.spec.estimator != "gradient":
        if spec.model is not None:
            raise SpecError(
                f"model: {where} was made by answers, which were kept; only runs with"
                " estimator: gradient need their model"
            )
        _ = run.stored_spans
        return
    if run.spec.decoder is not None:
        raise SpecError(
            f"{where} was made by gradients through a decoder, whose covariance is not taken"
            " here; take its answers: estimator: noise with keep_responses: true"
        )
    if spec.model is None:
        raise SpecError(
            f"{where} was made by gradients, so its covariance needs the network once more;"
            f" give model: {run.spec.model} (if you trust it)"
        )


def chosen_kind(spec: StcSpec, run: Run) -> ResponseKind:
    """The response to take: the spec's, or the run's first; `SpecError` where it has none such."""
    kinds = [r.kind for r in run.spec.responses]
    kind = spec.response or kinds[0]
    if kind not in kinds:
        raise SpecError(f"response: {_where(run)} has no {kind}; it has {', '.join(kinds)}")
    return kind


def chosen_names(spec: StcSpec, run: Run) -> tuple[str, ...]:
    """Names of the units to take; `SpecError` where the run has one of them not."""
    names = tuple(run.names) if spec.units == "all" else spec.units
    unknown = [name for name in names if name not in run.names]
    if unknown:
        raise SpecError(
            f"units: {_where(run)} has no {unknown[0]!r}; it has"
            f" {', '.join(run.names[:8])}{', ...' * (len(run.names) > 8)}"
        )
    return names


def check_noise(run: Run) -> None:
    """`SpecError` where the images of a run are no independent samples of noise."""
    if run.stimulus.patches_an_image > 1:
        raise SpecError(
            f"{_where(run)} pools positions whose patches overlap, so they are no independent"
            " samples; take target.position: centre"
        )
    if run.spec.stimulus.measured:
        raise SpecError(
            f"{_where(run)} shows pictures whose pixels correlate, which would be axes of their"
            " own; a covariance needs noise"
        )


def check_method(spec: StcSpec, run: Run, names: Sequence[str]) -> None:
    """`SpecError` where the method is not for that many values or units, or not for gradients."""
    where, d, gradient = _where(run), run.stimulus.pixels, run.spec.estimator == "gradient"
    if spec.method == "dense" and d > MOST_DENSE:
        raise SpecError(
            f"method: dense is for up to {MOST_DENSE:,} values an image, but {where} has {d:,};"
            " take matrix-free"
        )
    if spec.method == "matrix-free" and len(names) != 1:
        raise SpecError(
            f"units: matrix-free takes one unit at a time, got {len(names)}; give units:"
            f" [{names[0]}]"
        )
    if spec.clip is not None and gradient:
        raise SpecError(f"clip: is for answers, but {where} was made by gradients; leave it out")
    if spec.method == "matrix-free" and gradient:
        raise SpecError(
            f"method: matrix-free works on kept responses, but {where} was made by gradients;"
            " take dense"
        )


def _where(run: Run) -> str:
    return f"run: '{run.directory.url}'"
