"""The white-box twin of the noise: gradients of responses.

For Gaussian noise ``E[(x - mu) f(x)] = sigma^2 E[grad f(x)]`` (Stein 1981, Ann. Stat. 9:1135, lemma
2): the mean gradient is the map that responses and noise alone would give, but each image tells
about all d values at once, not one number. It is the oracle of the black-box path, and where
weights are at hand it needs fewer images by about d over the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from wna_ray.errors import ModelError
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import GRADIENT_BITS, GRADIENT_LIMIT, differentiable, respond
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.job import Job
from wna_ray.shards.timing import Phases
from wna_ray.specs.response import ResponseSpec
from wna_ray.specs.run import Spec
from wna_ray.stimuli.stimulus import Stimulus

Floats = NDArray[np.float64]

LINEAR = 1e-3  # relative difference of gradients below which they are the same
LINEAR_IMAGES = 32  # at which a linear unit has the same gradient


def exponents(spec: Spec, stimulus: Stimulus, network: FedNetwork) -> dict[str, tuple[int, ...]]:
    """log2 of the steps of gradients, by kind and row: from the first batch, a row's root mean
    square is about 2^8 steps.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for response, _, gradients in _batch(
        spec, stimulus, network, stimulus.noise.grid(0, spec.numerics.batch)
    ):
        size = np.array(
            [np.sqrt(np.square(np.nan_to_num(g, posinf=0.0, neginf=0.0)).mean()) for g in gradients]
        )
        loudest = float(size.max()) or 1.0
        sizes[response.kind] = tuple(
            int(e) for e in np.floor(np.log2(np.where(size > 0, size, loudest))) - GRADIENT_BITS
        )
    return sizes


def first_gradient(spec: Spec, stimulus: Stimulus, network: FedNetwork) -> Floats:
    """``(n, d)``: gradients of the first row to the first batch, whose bits tell one arithmetic
    from another.
    """
    _, _, rows = next(_batch(spec, stimulus, network, stimulus.noise.grid(0, spec.numerics.batch)))
    return next(rows)


def add_gradients(job: Job, network: FedNetwork, start: int, stop: int, phase: Phases) -> Moments:
    """Moments of ``estimator: gradient``: where others keep sums of ``y x`` and ``y x^2``, sums
    of the gradient and of its square.
    """
    batch, total = job.spec.numerics.batch, job.no_images()
    for a in range(start, stop, batch):
        with phase("noise"):
            grid = job.stimulus.noise.grid(
                a, a + batch
            )  # whole, as the forward pass is; what is beyond `stop` is not counted
        n = min(batch, stop - a)
        with phase("forward"):  # and back
            batches = [
                (response, outputs[:n], _steps(rows, job.gradients[response.kind], n))
                for response, outputs, rows in _batch(job.spec, job.stimulus, network, grid)
            ]
        with phase("moments"):
            gradients = [g for _, _, rows in batches for g in rows]
            finite = np.logical_and.reduce(
                [
                    *(np.isfinite(y).all(axis=1) for _, y, _ in batches),
                    *(np.isfinite(g).all(axis=1) for g in gradients),
                ]
            )
            outputs = np.where(finite[:, None], batches[0][1], 0.0).astype(np.float32)
            answers = {
                response.kind: respond(response, job.points[response.kind], outputs)
                for response, _, _ in batches
            }
            counted = np.logical_and.reduce(
                [finite, *map(_small, gradients), *(within for _, within in answers.values())]
            )
            part = job.no_images().update(
                job.stimulus.keep(grid[:n][counted]),
                {kind: response.keep(counted) for kind, (response, _) in answers.items()},
            )
            sums = dict(part.responses)
            for response, _, rows in batches:
                whole = np.stack([g[counted] for g in rows]).astype(np.int64)
                if counted.any():
                    sums[response.kind] = replace(
                        sums[response.kind],
                        sum_yx=whole.sum(axis=1),
                        sum_yxx=np.square(whole).sum(axis=1),
                    )
            odd = (
                replace(part, odd=None, responses=sums)
                if total.odd is not None and a // batch % 2
                else part.odd
            )
            part = replace(part, responses=sums, odd=odd)
            total = total.merge(
                part.skip(
                    nonfinite=int((~finite).sum()), out_of_range=int((finite & ~counted).sum())
                )
            )
    return total


def gradients_of(
    job: Job,
    network: FedNetwork,
    grid: NDArray[np.int8],
    n: int,
    response: ResponseSpec,
    rows: Sequence[int],
) -> tuple[list[Floats], NDArray[np.bool_]]:
    """Gradients of some rows of one response to the first n images of a batch, each ``(n, d)``
    whole steps; and which images count.
    """
    _, outputs, gradients = next(
        _batch(_only(job.spec, response), job.stimulus, network, grid, rows)
    )
    whole = _steps(gradients, [job.gradients[response.kind][row] for row in rows], n)
    return whole, np.logical_and.reduce(
        [np.isfinite(outputs[:n]).all(axis=1), *(_small(g) for g in whole)]
    )


def _only(spec: Spec, response: ResponseSpec) -> Spec:
    """The same spec with one response only."""
    return spec.model_copy(update={"responses": (response,)})


def _steps(gradients: Iterable[Floats], exponents: Sequence[int], n: int) -> list[Floats]:
    """Gradients of the first n images, in whole steps of 2^exponent."""
    return [np.rint(np.ldexp(g[:n], -e)) for g, e in zip(gradients, exponents, strict=True)]


def _small(whole: Floats) -> NDArray[np.bool_]:
    """Which images have a finite gradient, within the limit of the exact sums."""
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(whole) <= GRADIENT_LIMIT).all(axis=1))


def _batch(
    spec: Spec,
    stimulus: Stimulus,
    network: FedNetwork,
    grid: NDArray[np.int8],
    some: Sequence[int] | None = None,
) -> Iterator[tuple[ResponseSpec, NDArray[np.float32], Iterator[Floats]]]:
    """For each response: the outputs ``(n, k)`` of a batch, and of all or some rows the gradients
    ``(n, d)``, response per stimulus unit.

    Raises
    ------
    ModelError
        The network cannot be differentiated.
    """
    try:
        x, y = network.tracked(stimulus.images(grid, network.device))
        if not y.requires_grad:
            raise RuntimeError("nothing in it has a gradient")
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"estimator: gradient, but {spec.model} cannot be differentiated ({reason}); take"
            " estimator: noise"
        ) from None

    def rows(answers: torch.Tensor) -> Iterator[Floats]:
        for row in range(answers.shape[1]) if some is None else some:
            (gradient,) = torch.autograd.grad(answers[:, row].sum(), x, retain_graph=True)
            yield _on_grid(stimulus, gradient)

    for response in spec.responses:
        with torch.enable_grad():
            answers = differentiable(response, y, network.reading.constant)
        yield response, y.detach().cpu().numpy(), rows(answers)


def _on_grid(stimulus: Stimulus, gradient: torch.Tensor) -> Floats:
    """Gradients ``(n, C, H, W)`` of shown images as ``(n, d)``: of cells the sum over their
    pixels, and only where moments are kept.
    """
    cells = gradient.double()
    if stimulus.spec.cell > 1:
        cells = avg_pool2d(cells, stimulus.spec.cell, ceil_mode=True, divisor_override=1)
    cells = stimulus.adjoint(cells)
    return np.asarray(stimulus.middle(cells.cpu().numpy()).reshape(len(gradient), stimulus.pixels))


def linear_filters(job: Job, network: FedNetwork, start: int, stop: int) -> Floats:
    """What the STA of a linear unit must become: its gradient, on the grid of the noise.

    Parameters
    ----------
    start, stop
        Which of the job's units; `start` is a multiple of the batch.

    Returns
    -------
    numpy.ndarray
        ``(stop - start, d)``, activation per unit of the stimulus; NaN where a unit is not linear:
        it does not add up at some images of noise, or its gradients there differ (or are zero, or
        do not exist).
    """
    stimulus, batch = job.stimulus, job.spec.numerics.batch
    filters = np.full((stop - start, stimulus.pixels), np.nan)
    images = stimulus.images(stimulus.noise.grid(0, LINEAR_IMAGES), network.device)
    rounding = torch.finfo(network.network.dtype).eps
    # Where rounding is coarse, adding up tells little, and gradients are compared, too.
    others = images[1:] if rounding > LINEAR / 10 else images[:0]
    affine = _affine(job, network, images, rounding)
    try:
        for a in range(start, stop, batch):
            units = np.arange(a, min(a + batch, stop))
            if not affine[units].any():
                continue
            first = _one_each(job, network, images[0], units)
            kept = first.square().sum(dim=(1, 2, 3))
            linear = torch.from_numpy(affine[units]).to(kept.device) & (kept > 0)
            for image in others:
                if not linear.any():
                    break
                off = (_one_each(job, network, image, units) - first).square().sum(dim=(1, 2, 3))
                linear &= off <= LINEAR**2 * kept
            if linear.any():
                filters[units[linear.cpu().numpy()] - start] = _on_grid(stimulus, first[linear])
    except RuntimeError:  # it has no gradients
        pass
    return filters


def _affine(
    job: Job, network: FedNetwork, images: torch.Tensor, rounding: float
) -> NDArray[np.bool_]:
    """``(k,)``: which units add up, ``y(a) + y(b) = y(a + b - c) + y(c)``, at many images of noise:
    within `LINEAR` of what y varies by, and rounding. All are tried at once, by a few forward
    passes; a gradient for each unit and image would take minutes for thousands of units.
    """
    k, middle = len(job.names), job.stimulus.middle_patch

    def answers(x: torch.Tensor) -> Floats:
        y = np.concatenate([network(some) for some in torch.split(x, network.batch)])
        return y.reshape(len(x), -1, k)[:, middle].astype(np.float64)

    a, b, c = images[0::2], images[1::2], images[:1]
    y = answers(images)
    off, varied = y[0::2] + y[1::2] - answers(a + b - c) - y[:1], y.std(axis=0)
    with np.errstate(invalid="ignore"):
        most = LINEAR * varied + 4 * rounding * np.abs(y).max(axis=0)
        return np.asarray((np.abs(off) <= most).all(axis=0) & (varied > 0))


def _one_each(
    job: Job, network: FedNetwork, image: torch.Tensor, units: NDArray[np.int64]
) -> torch.Tensor:
    """Gradients ``(n, C, H, W)`` of some of a job's units at one image."""
    if job.field is not None:
        network = network.aimed(job.field.only([int(i) for i in units]))
    x, y = network.tracked(image.expand(len(units), *image.shape))
    (gradient,) = torch.autograd.grad(y[torch.arange(len(y)), torch.arange(len(y))].sum(), x)
    return gradient
