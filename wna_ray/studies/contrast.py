"""Two runs under the same noise, paired: where do their maps differ?

Two models, two checkpoints or two classes that saw the same images share the noise of their
estimates, so the difference of their maps is known better than either map. With responses a and b
in units of their own standard deviations,

    z = sum (a - b) x / (sigma * sqrt(sum (a - b)^2))

is standard normal at every value if the difference of the responses ignores the stimulus: it is the
z-map of a - b. The product of both responses comes from those that were kept; nothing is shown
again.

References
----------
Murray (2011), J. Vision 11(5):2, on comparing classification images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wna_ray.errors import RunError
from wna_ray.kinds.average.run import Run
from wna_ray.specs.response import ResponseKind
from wna_ray.statistics.maps import chi_square_p, explained_variance, reliability

Floats = NDArray[np.float64]

CHUNK_VALUES = 1 << 22  # grid values turned into float64 at a time (32 MB)


@dataclass(frozen=True)
class Contrast:
    """The difference of two responses to the same noise.

    Attributes
    ----------
    z
        ``(C, H, W)``: the paired z-map of ``a - b``, on the pixels that both see.
    unpaired
        ``(C, H, W)``: what two independent runs of the same size would give, ``(z_a - z_b) /
        sqrt(2)``.
    correlation
        Of the two responses over images. Pairing divides the standard error by ``sqrt(1 / (1 -
        correlation))``.
    images
        Images counted by both.
    rho2, p_value, reliability
        Of the difference (see `wna_ray.statistics.maps`).
    """

    z: Floats
    unpaired: Floats
    correlation: float
    images: int
    rho2: float
    p_value: float
    reliability: float


def contrast(
    a: Run,
    b: Run,
    kind: ResponseKind,
    name: str,
    other: str | None = None,
    other_kind: ResponseKind | None = None,
) -> Contrast:
    """Compare a response of one run with one of another (or of the same) run, paired image by
    image.

    Parameters
    ----------
    a, b
        Finished runs with ``keep_responses: true`` that showed the same noise: seed, family, shape,
        scale and window.
    kind, name
        The response of `a`.
    other, other_kind
        The response of `b`; by default of the same name and kind.

    Raises
    ------
    RunError
        The runs showed other noise or other images, did not keep their responses, or one response
        never varied.
    """
    _same_noise(a, b)
    ask = ((a, kind, name), (b, other_kind or kind, other or name))
    rows = [_row(run, kind_, name_) for run, kind_, name_ in ask]
    d = a.stimulus.pixels
    n, sums, product, maps, total = 0, np.zeros(2), np.zeros((2, 2)), np.zeros((2, d)), np.zeros(d)
    for low, high in _common_spans(a, b):
        parts = [
            _values(run, kind_, row, low, high)
            for (run, kind_, _), row in zip(ask, rows, strict=True)
        ]
        both = parts[0][0] & parts[1][0]
        y = np.stack([values for _, values in parts])
        n, sums, product = (
            n + int(both.sum()),
            sums + y[:, both].sum(axis=1),
            product + y[:, both] @ y[:, both].T,
        )
        step = max(1, CHUNK_VALUES // a.stimulus.noise.pixels)
        for at in range(0, high - low, step):
            part = both[at : at + step]
            grid = a.stimulus.keep(
                a.stimulus.noise.grid(low + at, low + at + len(part))[part]
            ).reshape(int(part.sum()), d)
            total += grid.sum(axis=0)
            maps += y[:, at : at + step][:, part] @ grid.astype(np.float64)
    if n < 2:
        raise RunError(f"'{a.directory.url}' and '{b.directory.url}' count no images in common")
    mean = sums / n
    covariance = product / n - np.outer(mean, mean)
    sd = np.sqrt(np.diag(covariance))
    if not (sd > 0).all():
        run, _, constant = ask[int(np.argmin(sd))]
        raise RunError(
            f"'{run.directory.url}': {constant!r} never varied; there is nothing to compare"
        )
    scaled = (maps - mean[:, None] * total) / sd[:, None]
    correlation = float(covariance[0, 1] / sd.prod())
    sigma = float(np.sqrt(float(a.stimulus.noise.table.variance)))
    left = max(2 * (1 - correlation), 0.0)
    if left < 1e-12:
        raise RunError(
            f"{name!r} and {other or name!r} are the same response to every image; there is no"
            " difference"
        )
    z = (scaled[0] - scaled[1]) / (sigma * np.sqrt(n * left))
    one = np.array([np.square(z).sum()])
    return Contrast(
        a.stimulus.expand_z(z[None])[0],
        a.stimulus.expand_z(z[None] * np.sqrt(1 - correlation))[0],
        correlation,
        n,
        float(explained_variance(one, d, n)[0]),
        float(chi_square_p(one, d)[0]),
        float(reliability(one, d)[0]),
    )


def _same_noise(a: Run, b: Run) -> None:
    """`RunError` where two runs did not show the same noise."""
    for run in (a, b):
        _ = run.stored_spans
        if run.spec.stimulus.measured:
            raise RunError(
                f"'{run.directory.url}' shows pictures whose pixels correlate; the test is for"
                " noise, whose values are independent"
            )
        if run.stimulus.patches_an_image > 1:
            raise RunError(
                f"'{run.directory.url}' pools positions, whose patches are no independent images;"
                " take target.position: centre"
            )
    what = {
        "seed": (a.spec.seed, b.spec.seed),
        "samples": (a.samples, b.samples),
        "stimulus": tuple(
            run.spec.stimulus.model_dump(exclude={"offset", "scale", "space"}) for run in (a, b)
        ),
        "the basis of the stimulus": tuple(run.stimulus.content for run in (a, b)),
        "the window that is shown": (a.stimulus.shown, b.stimulus.shown),
        "the window that moments are kept of": (a.stimulus.patches, b.stimulus.patches),
    }
    different = [name for name, (left, right) in what.items() if left != right]
    if different:
        raise RunError(
            f"'{a.directory.url}' and '{b.directory.url}' did not see the same noise:"
            f" {', '.join(different)} differ; run both with the same seed, samples and stimulus"
            " (and target.evaluate: image, where windows differ)"
        )


def _row(run: Run, kind: ResponseKind, name: str) -> int:
    kinds = [r.kind for r in run.spec.responses]
    if kind not in kinds or name not in run.names:
        raise RunError(
            f"'{run.directory.url}' has no {kind} of {name!r}; it has {', '.join(kinds)} of"
            f" {', '.join(run.names[:8])}"
        )
    return run.names.index(name)


def _common_spans(a: Run, b: Run) -> list[tuple[int, int]]:
    """Ranges that lie within one file of kept responses of either run."""
    edges = sorted({edge for run in (a, b) for span in run.stored_spans for edge in span})
    return list(pairwise(edges))


def _values(
    run: Run, kind: ResponseKind, row: int, low: int, high: int
) -> tuple[NDArray[np.bool_], Floats]:
    """Which of the images ``low ... high - 1`` are counted, and a response to each, in its own
    units.
    """
    span = next(span for span in run.stored_spans if span[0] <= low < span[1])
    stored = run.stored_part(*span).part(slice(low - span[0], high - span[0]))
    return stored.counted, stored.row(kind, row).astype(np.float64)
