"""Spike-triggered covariance: along which directions of the noise does a response change, beyond
what is linear?

With r the response without its mean and its linear part, in units of its own standard deviation,
and x the noise in units of its own,

    C = E[r (x x' - 1)]

is zero if r ignores x. Its eigenvectors are the axes along which the variance of x differs between
strong and weak responses: up for excitatory axes (positive eigenvalues), down for suppressive ones.
For Gaussian noise ``sum lambda^2 / 2`` is the share of the variance of r that is quadratic in x,
and C the average Hessian (Stein). For other noise axes may come from the noise's kurtosis, along
pixels.

How large an eigenvalue is without any effect: the edges of the limiting spectrum (Marchenko &
Pastur; here for weights of either sign), and, exactly, responses paired with fresh noise that they
have never seen.

References
----------
de Ruyter van Steveninck & Bialek (1988), Proc. R. Soc. B 234:379: the method. Marchenko & Pastur
(1967), Math. USSR Sb. 1:457; Silverstein & Bai (1995), J. Multivariate Anal. 54:175: the spectrum
of weighted samples. Pillow & Simoncelli (2006), J. Vision 6(4):9: iSTAC. Rust, Schwartz, Movshon &
Simoncelli (2005), Neuron 46:945; Schwartz, Pillow, Rust & Simoncelli (2006), J. Vision 6(4):13:
nested tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.sparse.linalg import eigsh

from wna_ray.moments.counts import PassSums
from wna_ray.statistics.maps import sidak_p

Floats = NDArray[np.float64]

FEWEST_HELD_OUT = 100
"""Effective images under which an axis that was tested on other images gets no p-value: with 10
(few answered) the largest of four axes was called significant at 5 % in 7.6 % of null runs,
with 100 in 5.3 %.
"""
# matrices up to this size are taken apart whole; of larger ones only the ends of the spectrum are
# looked for
DENSE_EIGEN = 256


def spread(sums: PassSums, unit: int) -> tuple[float, float]:
    """Mean and standard deviation of a unit's residual responses."""
    n, total = sums.images, int(sums.sums["r"][unit])
    if not n:
        return 0.0, 0.0
    return (
        total / n,
        math.sqrt(n * sums.squares(unit) - total**2) / n,
    )  # whole numbers: exactly 0 where nothing varies


def matrices(sums: PassSums, unit: int, variance: float) -> Floats:
    """C of a unit, and of the same responses with fresh noise: ``(1 + B, d, d)``.

    Parameters
    ----------
    variance
        Of a grid value.
    """
    mean, sd = spread(sums, unit)
    average = sums.sums["rxx"][unit] / (sums.images * variance * sd)
    diagonal = np.arange(average.shape[-1])
    average[:, diagonal, diagonal] -= mean / sd
    return np.asarray(average)


def symmetric(matrices: Floats) -> Floats:
    """The symmetric parts of a stack of matrices."""
    return np.asarray((matrices + matrices.swapaxes(-1, -2)) / 2)


def edges(weights: Floats, ratio: float) -> tuple[float, float]:
    """Ends of the spectrum of ``(1/N) sum r_i x_i x_i'`` for responses that ignore the noise, as d
    and N grow together.

    The Stieltjes transform m of the limit solves ``z(m) = -1/m + E[r / (1 + c r m)]`` with c = d /
    N; the spectrum ends where ``dz/dm = 0`` (Silverstein & Bai 1995). With r = 1 these are
    Marchenko & Pastur's ``(1 +- sqrt(c))^2``.

    Parameters
    ----------
    weights
        A sample of r, of either sign, any size.
    ratio
        c = d / N.
    """
    square = float(np.square(weights).mean())
    if not square > 0 or not ratio > 0:
        raise ValueError("edges need some weights that are not zero, and a ratio above zero")
    scale = 1 / np.sqrt(ratio * square)  # of m at the edges

    def z(m: float) -> float:
        return float(-1 / m + (weights / (1 + ratio * weights * m)).mean())

    def slope(m: float) -> float:  # of z, times m^2: 1 near 0, below 0 near the pole
        return float(1 - ratio * np.square(weights * m / (1 + ratio * weights * m)).mean())

    def end(sign: int) -> float:
        largest = float((sign * weights).max())
        high = (1 - 1e-12) / (ratio * largest) if largest > 0 else 1e9 * scale
        return z(
            -sign
            * float(brentq(lambda t: slope(-sign * t), 1e-9 * scale, high, xtol=1e-13 * scale))
        )

    return end(-1), end(1)


@dataclass(frozen=True)
class Axes:
    """Axes of one unit, strongest first; t of them.

    Attributes
    ----------
    values
        ``(t,)`` eigenvalues: above zero excitatory, below zero suppressive.
    vectors
        ``(t, d)`` of length 1, on the grid of the noise.
    p_value
        ``(t,)``: chance of one at least so far out, at either end, after those before it; NaN where
        nothing was tested. Each holds for all directions at once.
    error
        ``(t,)`` standard error of the eigenvalue, where it was measured on other images than the
        axis was found on; else NaN.
    distance
        ``(t,)``: how far out it is, in standard deviations: of the extreme eigenvalues of fresh
        noise, or of its own error. Tells axes apart whose p-values are all as small as the number
        of fresh noises allows.
    """

    values: Floats
    vectors: Floats
    p_value: Floats
    error: Floats
    distance: Floats

    def significant(self, alpha: float = 0.05) -> int:
        """How many axes are significant: the test goes on until the first that is not."""
        passed = np.concatenate([self.p_value <= alpha, [False]])
        return int(np.argmin(passed))


def ends_of(matrix: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest eigenvalue ``(2,)`` of a symmetric matrix, and their vectors ``(2,
    d)``.
    """
    if len(matrix) <= DENSE_EIGEN:
        values, vectors = np.linalg.eigh(matrix)
        return values[[0, -1]], vectors[:, [0, -1]].T
    start = np.cos(np.arange(len(matrix)))  # always the same, and along no axis in particular
    values, vectors = eigsh(matrix, k=2, which="BE", v0=start)
    return np.asarray(values), np.asarray(vectors.T)


def nested_axes(matrices: Floats, most: int) -> Axes:
    """Axes one after the other, each tested against fresh noise in the directions that are left.

    Step by step the eigenvalue that is largest beside the fresh noise's usual extreme is taken, at
    whichever end of the spectrum, and its axis is projected out of the matrix and of all the null
    matrices: if r depends on x through these axes alone, the rest of the noise is independent of r,
    as the fresh noise is. p is the rank among the null's extremes at that end, doubled for the two
    ends.

    Parameters
    ----------
    matrices
        ``(1 + B, d, d)``: C, and its null matrices.
    most
        Axes to take, at most.
    """
    work = matrices.copy()
    values, vectors, p_values, distance = (
        list[float](),
        list[Floats](),
        list[float](),
        list[float](),
    )
    for _ in range(min(most, matrices.shape[1])):
        (low, high), (down, up) = ends_of(work[0])
        null = np.array([ends_of(matrix)[0] for matrix in work[1:]]).reshape(-1, 2)
        beyond = (1 + np.array([(null[:, 0] <= low).sum(), (null[:, 1] >= high).sum()])) / (
            1 + len(null)
        )
        size = np.array([-low, high])
        usual = np.abs(null).mean(axis=0) if len(null) else np.ones(2)
        side = int(np.argmax(size / np.maximum(usual, 1e-300)))
        width = float(null[:, side].std(ddof=1)) if len(null) > 1 else 0.0
        distance.append(float(size[side] - usual[side]) / width if width else float("nan"))
        axis = (down, up)[side]
        values.append(float((low, high)[side]))
        vectors.append(axis)
        p_values.append(min(1.0, 2 * float(beyond[side])) if len(null) else float("nan"))
        for matrix in work:
            along = matrix @ axis
            matrix -= (
                np.outer(axis, along)
                + np.outer(along, axis)
                - (axis @ along) * np.outer(axis, axis)
            )
    # A later axis cannot be more certain than one before it.
    p = (
        np.maximum.accumulate(p_values)
        if p_values and not np.isnan(p_values[0])
        else np.array(p_values)
    )
    return Axes(
        np.array(values),
        _signed(np.array(vectors)),
        p,
        np.full(len(values), np.nan),
        np.array(distance),
    )


def _signed(vectors: Floats) -> Floats:
    """Eigenvectors have no sign of their own: the largest value is made positive."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return vectors * np.sign(largest)


class Krylov:
    """Extreme eigenvectors of a matrix that is only known by what it does to blocks of vectors.

    Block Lanczos with everything kept and orthogonalised again: each block ``Q`` (d, c) and its
    image ``C Q`` join the space in which the extremes of the quadratic form are taken
    (Rayleigh-Ritz); the next block is what the images add to it.

    Parameters
    ----------
    first
        ``(d, c)``.
    """

    def __init__(self, first: Floats) -> None:
        self._blocks: list[Floats] = []
        self._images: list[Floats] = []
        self.next = np.linalg.qr(first)[0]

    def add(self, block: Floats, image: Floats) -> None:
        """Take in what the matrix does to a block, and choose the next."""
        self._blocks.append(block)
        self._images.append(image)
        space = np.concatenate(self._blocks, axis=1)
        rest = image
        for _ in "ab":  # once is not enough in floating point
            basis = np.linalg.qr(space)[0]
            rest = rest - basis @ (basis.T @ rest)
        room = len(rest) - space.shape[1]
        left, size, _ = np.linalg.svd(rest, full_matrices=False)
        self.next = left[
            :,
            : max(
                0,
                min(
                    image.shape[1],
                    room,
                    int((size > 1e-12 * max(size.max(initial=0.0), 1e-300)).sum()),
                ),
            ),
        ]

    def axes(self, most: int) -> tuple[Floats, Floats]:
        """Ritz values ``(t,)`` and vectors ``(t, d)``, largest size first."""
        space, image = np.concatenate(self._blocks, axis=1), np.concatenate(self._images, axis=1)
        basis, triangle = np.linalg.qr(space)
        form = basis.T @ image @ np.linalg.inv(triangle)
        values, vectors = np.linalg.eigh((form + form.T) / 2)
        order = np.argsort(-np.abs(values), kind="stable")[:most]
        return values[order], _signed((basis @ vectors[:, order]).T)


def held_out(
    sums: PassSums, block: Floats, shift: int, variance: float, fourth: float, effective: float
) -> Axes:
    """Test axes on images that they were not found on.

    Given an axis q, ``sum r (q'x)^2`` is a sum over independent images, so its value under the null
    is normal with mean ``sum r * E (q'x)^2`` and variance ``sum r^2 * Var (q'x)^2``, both known
    from the noise. p-values are two-sided and corrected for the number of axes (Sidak).

    Parameters
    ----------
    sums
        Of a pass with `block`, of one unit.
    block
        ``(d, c)``: the axes, of any length.
    shift
        log2 of the step to which the pass rounded ``r (x'q)``.
    variance, fourth
        ``E g^2`` and ``E g^4`` of a grid value.
    effective
        Images of equal weight that the responses are worth: with fewer than `FEWEST_HELD_OUT` p is
        NaN.
    """
    mean, sd = spread(sums, 0)
    if not sd > 0:  # in the half that tests the response never varied
        nothing = np.full(block.shape[1], np.nan)
        return Axes(
            nothing,
            _signed((block / np.sqrt(np.square(block).sum(axis=0))).T),
            nothing,
            nothing,
            nothing,
        )
    n, size = sums.images, np.square(block).sum(axis=0)
    product = np.ldexp((block.T * sums.sums["rqx"]).sum(axis=1), shift)
    values = product / (n * variance * size * sd) - mean / sd
    square = 2 * (variance * size) ** 2 + (fourth - 3 * variance**2) * (block**4).sum(
        axis=0
    )  # Var (q'x)^2
    error = np.sqrt(square / n) / (variance * size)
    z = np.abs(values) / error
    p = sidak_p(z, len(z)) if effective >= FEWEST_HELD_OUT else np.full(len(z), np.nan)
    order = np.argsort(-z, kind="stable")
    return Axes(
        values[order], _signed((block / np.sqrt(size)).T[order]), p[order], error[order], z[order]
    )


def information(mean: Floats, covariance: Floats, axes: Floats) -> float:
    """Nats that a spike tells about the noise in a space: KL of Gaussians, of spikes against all
    (Pillow & Simoncelli 2006, eq. 8).

    Parameters
    ----------
    mean, covariance
        ``(d,)`` and ``(d, d)`` of the stimuli that made spikes, whitened: without them 0 and 1.
    axes
        ``(t, d)`` orthonormal.
    """
    inner = axes @ covariance @ axes.T
    along = axes @ mean
    return float((np.trace(inner) + along @ along - np.linalg.slogdet(inner)[1] - len(axes)) / 2)


def istac(mean: Floats, covariance: Floats, count: int) -> tuple[Floats, Floats]:
    """The most informative axes, from the first four moments: number of spikes, their mean and
    their covariance.

    One axis after the other, each the best beside those before it; from several starts (the mean,
    and both ends of the spectrum).

    Parameters
    ----------
    mean, covariance
        As for `information`.
    count
        t.

    Returns
    -------
    axes
        ``(t, d)`` orthonormal.
    information
        ``(t,)`` nats a spike of the first 1, 2, ... t axes together.
    """
    axes = np.zeros((0, len(mean)))
    gained = []
    for _ in range(count):
        outside = np.eye(len(mean)) - axes.T @ axes
        vectors = np.linalg.eigh(outside @ (covariance - np.eye(len(mean))) @ outside)[1]
        starts = [
            v for v in (outside @ mean, vectors[:, 0], vectors[:, -1]) if np.linalg.norm(v) > 1e-9
        ]
        tried = [_climb(mean, covariance, axes, outside @ start) for start in starts]
        axes = np.vstack(
            [axes, max(tried, key=lambda v: information(mean, covariance, np.vstack([axes, v])))]
        )
        gained.append(information(mean, covariance, axes))
    return axes, np.array(gained)


def _climb(mean: Floats, covariance: Floats, known_axes: Floats, start: Floats) -> Floats:
    """A local maximum of `information` over one more axis."""

    def unit(v: Floats) -> Floats:
        v = v - known_axes.T @ (known_axes @ v)
        return np.asarray(v / np.linalg.norm(v))

    def loss(v: Floats) -> tuple[float, Floats]:
        size = float(np.linalg.norm(v - known_axes.T @ (known_axes @ v)))
        axis = unit(v)
        axes = np.vstack([known_axes, axis])
        inner = np.linalg.inv(axes @ covariance @ axes.T)
        gradient = covariance @ axis + mean * (mean @ axis) - covariance @ (axes.T @ inner[:, -1])
        gradient -= known_axes.T @ (known_axes @ gradient)
        return -information(mean, covariance, axes), -(gradient - axis * (axis @ gradient)) / size

    best = minimize(
        loss,
        unit(start),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 500, "ftol": 1e-15, "gtol": 1e-9},
    )
    return unit(np.asarray(best.x))


def null_edges(residuals: Floats, ratio: float) -> tuple[float, float]:
    """`edges` for a sample of residuals, in units of their standard deviation; NaN where they
    never vary.
    """
    sd = float(residuals.std()) if residuals.size else 0.0
    return edges((residuals - residuals.mean()) / sd, ratio) if sd else (float("nan"), float("nan"))
