"""The one pure function: ``run_shard(job, network, start, stop) -> moments``.

A `Job` is a spec whose model has been looked at: it knows the outputs, the fixed points and the
canary, and its fingerprint names everything that can change a result. A `FedNetwork` is its model
on a device, with what makes its images. Neither knows about Ray or storage.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

import torch

from wna_ray.cuda import noise as device_noise
from wna_ray.cuda.constants import DEPTH
from wna_ray.cuda.moments import DeviceMoments
from wna_ray.cuda.responses import Responder
from wna_ray.cuda.stream import Beside
from wna_ray.moments.kept import Stored
from wna_ray.moments.moments import MAX_CHUNK, Moments
from wna_ray.noise.stream import Noise
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.gradients import add_gradients
from wna_ray.shards.job import Job
from wna_ray.shards.timing import Phases
from wna_ray.shards.update import AnsweredSet, add

PENDING_VALUES = 32 << 20  # grid values a shard keeps before it adds them to its moments (32 MB)
BLOCK_VALUES = 1 << 20  # grid values made in one go, for several small batches (1 MB)
DEVICE_PENDING_VALUES = 1 << 30
"""`PENDING_VALUES` where grid values stay on a CUDA device: the more, the rarer large sums are
added up (docs/decisions/0017-device-sets.md).
"""
DEVICE_SHARE = 1 / 8
"""But no more than this part of the memory that is free; half a dozen copies are made, some of them
wider.
"""
DEVICE_PENDING_OUTPUTS = 32 << 20
"""And so many outputs, of which several copies are made in float64 (256 MB each)."""


def run_shard(
    job: Job, network: FedNetwork, start: int, stop: int, stored: list[Stored] | None = None
) -> tuple[Moments, dict[str, float]]:
    """Moments of images ``start ... stop - 1``.

    Parameters
    ----------
    network
        In the job's batch and aimed at its units, as `check_canary` and `resolve` give it.
    start
        A multiple of the batch.
    stop
        A multiple of the batch, or N. The last batch is filled up with the noise that would come
        next, and those images are not counted.
    stored
        Gets the responses, part by part.

    Returns
    -------
    moments
        Exact; any cut of [0, N) into shards merges to the same.
    seconds
        By phase: noise, forward, responses, moments; and fetch, of sums that were on a CUDA device.
    """
    batch = job.spec.numerics.batch
    if start % batch:
        raise ValueError(f"a shard starts at a multiple of the batch ({batch}), got {start}")
    phase, total = Phases(), job.no_images()
    if job.spec.estimator == "gradient":
        return add_gradients(job, network, start, stop, phase), phase.seconds
    device, beside = network.device, network.beside
    on_device = stays_on_device(job, device)
    with beside():
        sums: Moments | DeviceMoments = DeviceMoments(total, device) if on_device else total
    responder = Responder.of(job.spec.responses, job.points, device) if on_device else None
    most, block = set_on_device(job, device) if on_device else set_on_cpu(job)
    late = 1 if on_device else 0
    begin = network.feed.beginning(job.stimulus)
    sets: deque[AnsweredSet] = deque()
    blocks: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    ahead = _blocks(job, device, start, stop, beside, block)
    at = start
    while at < stop:
        with phase("noise"):
            grids = next(ahead)
        for grid in torch.split(grids, batch):
            with phase("noise"), torch.inference_mode():
                begun = begin(grid)
            with phase("forward"):
                outputs.append(network.answer_begun(begun))
        blocks.append(grids)
        at += len(grids)
        if sum(map(len, blocks)) + block > most or at >= stop:
            with phase("responses"):
                sets.append(AnsweredSet.of(job, blocks, outputs, min(at, stop), responder))
            blocks, outputs = [], []
        while len(sets) > (late if at < stop else 0):
            some = sets.popleft()
            with beside(some.grid, *some.values):
                sums = add(job, sums, some, phase, stored)
    if isinstance(sums, DeviceMoments):
        with phase("moments"):
            beside.wait()
        with phase("fetch"), beside():
            sums = sums.fetched()
    return sums, phase.seconds


def set_on_cpu(job: Job) -> tuple[int, int]:
    """Most images that are added to moments together on the CPU (or one batch), and how many of
    them have their noise made in one go.
    """
    batch, stimulus = job.spec.numerics.batch, job.stimulus
    most = max(
        1, PENDING_VALUES // max(stimulus.noise.pixels, stimulus.pixels * stimulus.patches_an_image)
    )
    return most, batch * max(1, min(BLOCK_VALUES // stimulus.noise.pixels, most) // batch)


def set_on_device(job: Job, device: torch.device) -> tuple[int, int]:
    """The same on a CUDA device: all of a set in one go. Whole tiles of a product, where
    batches make them up.
    """
    batch, values = job.spec.numerics.batch, DEVICE_PENDING_VALUES
    if device.type == "cuda":
        free = (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
        values = min(values, int(DEVICE_SHARE * free))
    batches = max(
        1,
        min(
            values // job.stimulus.noise.pixels, DEVICE_PENDING_OUTPUTS // len(job.names), MAX_CHUNK
        )
        // batch,
    )
    whole = DEPTH // math.gcd(DEPTH, batch)
    if batches > whole:
        batches -= batches % whole
    return batches * batch, batches * batch


def _blocks(
    job: Job, device: torch.device, start: int, stop: int, beside: Beside, block: int
) -> Iterator[torch.Tensor]:
    """Grid values of so many images after others, the last batch filled up. On a CUDA device
    the next are made while the network is busy with the last.
    """
    source, end = job.stimulus.noise, stop + -stop % job.spec.numerics.batch

    def started(a: int) -> Callable[[], torch.Tensor]:
        return beside.start(lambda: device_noise.grid(source, a, min(a + block, end), device))

    coming = started(start)
    for a in range(start, end, block):
        grids = coming()
        if a + block < end:
            coming = started(a + block)
        yield grids


def stays_on_device(job: Job, device: torch.device) -> bool:
    """Whether grid values are made on the device, and the large sums of moments kept there, so
    that no image ever travels.
    """
    return (
        device.type == "cuda"
        and isinstance(job.stimulus.noise, Noise)
        and job.stimulus.patches is None
    )
