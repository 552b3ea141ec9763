"""Images that a network has answered, on their way into moments: on the CPU, or on the device
that made them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.cuda.moments import DeviceMoments, chosen
from wna_ray.cuda.responses import Answers, Arriving, Responder, Values
from wna_ray.moments.kept import Stored
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import Response, respond
from wna_ray.shards.job import Job
from wna_ray.shards.timing import Phases


@dataclass(frozen=True)
class AnsweredSet:
    """Images whose answers are on their way, or have come.

    Attributes
    ----------
    grid
        ``(n, C, h, w)`` int8.
    odd
        ``(n,)``: of an odd batch.
    answers
        Their responses, where these are made on the device; else ``outputs`` ``(n, k)`` float32.
    """

    grid: torch.Tensor
    odd: NDArray[np.bool_]
    answers: Answers | Arriving

    @classmethod
    def of(
        cls,
        job: Job,
        blocks: list[torch.Tensor],
        outputs: list[torch.Tensor],
        stop: int,
        responder: Responder | None,
    ) -> AnsweredSet:
        """Put together whole batches up to image `stop`, where the run's last one may be cut off,
        and send for their answers.

        Parameters
        ----------
        blocks
            Grid values of the images, in order.
        outputs
            ``(batch, k)`` float32 of each batch.
        responder
            Makes responses where the outputs are; None if they are made on the CPU.
        """
        batch = job.spec.numerics.batch
        n = sum(map(len, blocks)) - -stop % batch
        grid, answers = (
            parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (blocks, outputs)
        )
        with torch.inference_mode():
            sent = (
                Arriving({"outputs": answers[:n]}) if responder is None else responder(answers[:n])
            )
        return cls(grid[:n], np.arange(stop - n, stop) // batch % 2 == 1, sent)

    @property
    def values(self) -> list[torch.Tensor]:
        """What the device holds of the answers."""
        return list(self.answers.values.values()) if isinstance(self.answers, Answers) else []


def add(
    job: Job,
    total: Moments | DeviceMoments,
    some: AnsweredSet,
    phase: Phases,
    stored: list[Stored] | None,
) -> Moments | DeviceMoments:
    """Add images to moments; those with an output that is not finite, or out of range, are counted
    apart.

    Parameters
    ----------
    stored
        Gets the responses.
    """
    with phase("forward"):
        some.answers.wait()
    if isinstance(total, DeviceMoments):
        return _add_on_device(total, some, phase, stored)
    return _add_on_cpu(job, total, some, phase, stored)


def _add_on_device(
    total: DeviceMoments, some: AnsweredSet, phase: Phases, stored: list[Stored] | None
) -> DeviceMoments:
    """Add images on a device."""
    assert isinstance(some.answers, Answers), "made by a responder"
    with phase("responses"):
        finite, counted, responses = some.answers.counted()
        if stored is not None:
            fetched = {
                kind: response.fetched() if isinstance(response, Values) else response
                for kind, response in responses.items()
            }
            stored.append(Stored.of(counted, fetched))
    with phase("moments"):
        grid, odd = (
            (some.grid, some.odd)
            if counted.all()
            else (chosen(some.grid, counted), some.odd[counted])
        )
        total = total.update(grid, responses)
        if total.odd is not None and odd.any():
            total = total.update_odd(
                chosen(grid, odd),
                {kind: response.keep(odd) for kind, response in responses.items()},
            )
    return total.skip(*_left_out(finite, counted))


def _add_on_cpu(
    job: Job, total: Moments, some: AnsweredSet, phase: Phases, stored: list[Stored] | None
) -> Moments:
    """Add images on the CPU."""
    assert isinstance(some.answers, Arriving), "outputs, as they are"
    stimulus, patches = job.stimulus, job.stimulus.patches_an_image
    with phase("responses"):
        finite, counted, responses = _respond(job, some.answers.arrays()["outputs"])
        if stored is not None:
            stored.append(Stored.of(counted, responses, patches))
    with phase("moments"):
        grid, odd = some.grid.cpu().numpy(), some.odd
        if not counted.all():
            grid, odd = grid[counted], odd[counted]
        total = total.update(stimulus.keep(grid), responses, patches)
        if total.odd is not None and odd.any():
            of_odd = {
                kind: response.keep(odd.repeat(patches)) for kind, response in responses.items()
            }
            total = total.update_odd(stimulus.keep(grid[odd]), of_odd, patches)
    return total.skip(*_left_out(finite, counted))


def _left_out(finite: NDArray[np.bool_], counted: NDArray[np.bool_]) -> tuple[int, int]:
    """How many images are not finite, and how many are, but are out of range."""
    return int((~finite).sum()), int((finite & ~counted).sum())


def _respond(
    job: Job, outputs: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, Response]]:
    """Which images are finite, which are counted in, and the responses of those, patch by patch."""
    patches = job.stimulus.patches_an_image
    finite = np.asarray(np.isfinite(outputs).all(axis=1))
    answered = outputs if finite.all() else outputs[finite]
    answers = {
        r.kind: respond(r, job.points[r.kind], answered.reshape(-1, outputs.shape[1] // patches))
        for r in job.spec.responses
    }
    inside = np.logical_and.reduce([within for _, within in answers.values()])
    within = inside.reshape(len(answered), patches).all(axis=1)
    responses: dict[str, Response] = {kind: response for kind, (response, _) in answers.items()}
    if not within.all():
        responses = {
            kind: response.keep(within.repeat(patches)) for kind, response in responses.items()
        }
    counted = finite.copy()
    counted[finite] = within
    return finite, counted, responses
