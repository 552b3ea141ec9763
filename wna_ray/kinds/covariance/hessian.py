"""The average Hessian by gradients: passes over a run of ``estimator: gradient``, through its
network.

For Gaussian noise ``E[grad f (x - mu)'] = sigma^2 E[Hessian f]`` (Stein's identity once more, of
the gradient; Stein 1981, Ann. Stat. 9:1135): the covariance C that `wna_ray.statistics.covariance`
takes from responses, but each image tells about d columns of it, not about one product. And where f
is made of rectifiers, whose own second derivative is zero everywhere, it still is the curvature
that the noise sees.

The gradient is rounded as its run rounds it, its mean (the linear part, with which it would only
add noise) is taken away in whole steps, and sums are of integers: a pass is cut, retried and
resumed like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.errors import RunError
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.covariance.passes import Floats, pass_shape, profile, streams_of
from wna_ray.moments.counts import PassSums
from wna_ray.moments.moments import Ints, Partial
from wna_ray.moments.responses import Dense, respond
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.gradients import gradients_of
from wna_ray.shards.job import Job
from wna_ray.shards.timing import Phases
from wna_ray.shards.work import Host
from wna_ray.specs.response import ResponseKind
from wna_ray.statistics.covariance import symmetric

# share of a response's variance beyond its linear part under which there is nothing to explain
LEAST_LEFT = 1e-4


@dataclass(frozen=True)
class Bend:
    """How the gradient of a unit differs from its mean: ``rint(2^-exponent * gradient) - slope``.

    Attributes
    ----------
    row
        The unit's row in the responses.
    slope
        ``(d,)``: the mean gradient in whole steps, as float64; zeros where the linear part is not
        taken out.
    exponent
        log2 of a step.
    sd
        Standard deviation of the response, without its linear part where that is taken out.
    """

    row: int
    slope: Floats
    exponent: int
    sd: float

    @classmethod
    def of(cls, run: Run, kind: ResponseKind, row: int, linear: bool) -> Bend:
        """From the moments of a run of gradients; `RunError` where nothing is left to explain."""
        readout = next(r for r in run.readouts if r.kind == kind)
        moments, exponent = run.moments, run.gradient_exponents[kind][row]
        sums, left = moments.responses[kind], 0.0
        sd = (
            math.sqrt(sums.variation(moments.images)[row] / moments.images)
            * float(run.points[kind].step[row])
            if len(sums.rows)
            else 0.0
        )
        if sd:
            # A response varies no more than its gradient does, times the noise's sd (Poincare's
            # inequality for Gaussian noise).
            bent = (
                moments.images
                * run.stimulus.pixels
                * (readout.standard_error[row] * run.stimulus.sd / sd) ** 2
            )
            left = min(1 - readout.rho2[row], bent)
        if not left > LEAST_LEFT:
            raise RunError(
                f"'{run.directory.url}': the {kind} of '{run.names[row]}' is linear in the noise,"
                " or never varied, so there is nothing left to explain; choose other units"
            )
        slope = (
            np.rint(np.ldexp(readout.bias[row], -exponent))
            if linear
            else np.zeros(moments.sum_x.size)
        )
        return cls(row, slope, exponent, sd * math.sqrt(left if linear else 1.0))


@dataclass(frozen=True)
class TwinPass:
    """A pass over a run of gradients; what its fields mean is said in
    `wna_ray.kinds.covariance.passes.Pass`.

    Attributes
    ----------
    job
        The run's, as its network's workers found it again.
    """

    fingerprint: str
    kind: ResponseKind
    units: tuple[Bend, ...]
    job: Job
    seeds: tuple[int, ...] = ()
    block: Floats | None = None
    owners: tuple[int, ...] = ()

    @property
    def shape(self) -> dict[str, int]:
        """What the shapes of its sums follow from."""
        return pass_shape(
            len(self.units), len(self.units[0].slope), self.seeds, self.block, self.owners
        )

    def shard(self, host: Host, start: int, stop: int) -> tuple[Partial, dict[str, float]]:
        """Sums of the gradients of some images, and seconds by phase."""
        sums, seconds = run_twin_pass(self, host.network(self.job), start, stop)
        return Partial(start, stop, sums), seconds


def run_twin_pass(
    work: TwinPass, network: FedNetwork, start: int, stop: int
) -> tuple[PassSums, dict[str, float]]:
    """Sums of the images ``start ... stop - 1``, and seconds by phase (noise, forward, moments);
    `start` is a multiple of the batch.

    Images whose gradient (or response, for a profile) is not finite or out of range are not
    counted.
    """
    job, rows = work.job, [unit.row for unit in work.units]
    stimulus, batch = job.stimulus, job.spec.numerics.batch
    response = next(r for r in job.spec.responses if r.kind == work.kind)
    sums, images, phase = PassSums.zeros(**work.shape), 0, Phases()
    for a in range(start, stop, batch):
        n = min(batch, stop - a)
        with phase("noise"):
            grid = stimulus.noise.grid(a, a + batch)  # whole, as the forward pass is
        if work.owners and work.block is not None:
            with phase("forward"):
                outputs = network(stimulus.images(grid, network.device))[:n]
            with phase("moments"):
                finite = np.isfinite(outputs).all(axis=1)
                answers, within = respond(response, job.points[work.kind], outputs[finite])
                kept = np.flatnonzero(finite)[within]
                assert isinstance(answers, Dense), "a response with a gradient is a number"
                values = [answers.values[within, row] for row in rows]
                profile(
                    sums,
                    stimulus.keep(grid[kept]).reshape(len(kept), -1),
                    work.block,
                    values,
                    work.owners,
                    stimulus,
                )
            images += len(kept)
            continue
        with phase("forward"):  # and back
            whole, counted = gradients_of(job, network, grid, n, response, rows)
        images += int(counted.sum())
        with phase("moments"):
            deviations = [
                g[counted] - unit.slope for g, unit in zip(whole, work.units, strict=True)
            ]
            _outer(sums["rxx"][:, 0], deviations, stimulus.keep(grid[:n][counted]))
        for i, other in enumerate(streams_of(stimulus, work.seeds)):
            with phase("noise"):
                fresh = other.keep(other.noise.grid(a, a + n)[counted])
            with phase("moments"):
                _outer(sums["rxx"][:, 1 + i], deviations, fresh)
    return PassSums(images, stop - start - images, sums), phase.seconds


def _outer(out: Ints, deviations: list[Floats], grid: NDArray[np.int8]) -> None:
    """Add ``sum g x'`` of every unit: products of whole numbers, below 2^53 in all (2^19 by
    2^7, 2^16 images at most).
    """
    x = torch.from_numpy(grid.reshape(len(grid), -1)).to(torch.float64)
    for j, g in enumerate(deviations):
        out[j] += (torch.from_numpy(g).T @ x).numpy().astype(np.int64)


def hessians(sums: PassSums, unit: int, bend: Bend, grid_unit: float) -> Floats:
    """C of a unit, and of its gradients with fresh noise: ``(1 + B, d, d)``, in units of
    `wna_ray.statistics.covariance.matrices`.

    Parameters
    ----------
    grid_unit
        Size of a grid unit in the stimulus's units: with x on the grid, ``C = sym(E[(grad f -
        slope) x']) * grid_unit / sd``.
    """
    scale = math.ldexp(grid_unit / bend.sd, bend.exponent) / sums.images
    return symmetric(sums.sums["rxx"][unit] * scale)
