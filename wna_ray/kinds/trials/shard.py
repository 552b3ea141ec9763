"""Trials: signals in noise under many conditions, and exact counts of the answers.

    run_trials(job, network, start, stop) -> counts

Trial i shows signal ``i mod n`` in noise image i of the seed, under every condition. Counts are
whole numbers, so trials are cut into shards, merged, retried and resumed as the moments of a run
are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wna_ray.data.transforms import transformed
from wna_ray.kinds.trials.attack import attacked, gradient_steps
from wna_ray.kinds.trials.conditions import Condition
from wna_ray.moments.counts import PassSums, trial_shapes
from wna_ray.moments.moments import Partial
from wna_ray.networks.stimulation import Stimulation, stimulated
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.job import Job
from wna_ray.shards.timing import Phases
from wna_ray.shards.work import Host
from wna_ray.specs.trials import TrialSpec

Uint8 = NDArray[np.uint8]


@dataclass(frozen=True)
class TrialJob:
    """A resolved spec of trials: all that a shard needs besides the model itself.

    Attributes
    ----------
    fingerprint
        Of the run.
    spec
        What was asked for.
    job
        The network and the noise, as a run of noise has them.
    signals, classes
        ``(n, C, H, W)`` uint8, and ``(n,)``: the number of each one's class.
    class_count
        s, the number of classes.
    correct
        ``(s,)``: the response that names each class; -1 where none does.
    conditions
        What is counted.
    templates
        By source ``(k, C, H, W)`` float32, as they are added.
    profiles
        What strength 1 does, by layer, source and class.
    """

    fingerprint: str
    spec: TrialSpec
    job: Job
    signals: Uint8
    classes: NDArray[np.int64]
    class_count: int
    correct: NDArray[np.int64]
    conditions: tuple[Condition, ...]
    templates: Mapping[str, NDArray[np.float32]]
    profiles: Mapping[tuple[str, str, int], NDArray[np.float64]]

    @property
    def shape(self) -> dict[str, int]:
        """What the shapes of its sums follow from."""
        kept = self.spec.moments
        return {
            "conditions": len(self.conditions),
            "classes": self.class_count,
            "responses": len(self.job.names),
            "gammas": len(self.spec.gammas) if kept else 0,
            "d": self.job.stimulus.pixels if kept else 0,
            "signals": len(self.signals) if kept else 0,
        }

    def shard(self, host: Host, start: int, stop: int) -> tuple[Partial, dict[str, float]]:
        """Counts of some trials, and seconds by phase."""
        sums, seconds = run_trials(self, host.network(self.job), start, stop)
        return Partial(start, stop, sums), seconds

    def stimulation(self, condition: Condition) -> Stimulation | None:
        """What a condition does to the network's units."""
        if condition.layer is None or condition.strength == 0:
            return None
        assert condition.profile is not None
        assert condition.profile_class is not None
        unit = (
            self.profiles[condition.layer, condition.profile, condition.profile_class]
            * condition.strength
        )
        nothing = np.zeros_like(unit)
        add, scale = (
            (nothing, unit)
            if self.spec.stimulate and self.spec.stimulate.mode == "scale"
            else (unit, nothing)
        )
        return Stimulation(condition.layer, add.astype(np.float32), scale.astype(np.float32))


def run_trials(
    work: TrialJob, network: FedNetwork, start: int, stop: int
) -> tuple[PassSums, dict[str, float]]:
    """Counts of the trials ``start ... stop - 1``, and seconds by phase (noise, forward, moments);
    `start` is a multiple of the batch.

    A trial with an output that is not finite under any condition is not counted under any.
    """
    job, batch = work.job, work.job.spec.numerics.batch
    k, images, phase = len(job.names), 0, Phases()
    sums = {
        name: np.zeros(shape, dtype=np.int64) for name, shape in trial_shapes(**work.shape).items()
    }
    for a in range(start, stop, batch):
        n = min(batch, stop - a)
        which = np.arange(a, a + batch) % len(work.signals)  # a whole batch, as the forward pass is
        with phase("noise"):
            grid = job.stimulus.noise.grid(a, a + batch)
            noise = job.stimulus.images(grid, network.device)
            signals = torch.from_numpy(work.signals[which]).to(network.device).float() / 255
        with phase("forward"):
            labels, finite = (
                np.empty((len(work.conditions), n), dtype=np.int64),
                np.ones(n, dtype=bool),
            )
            for row, outputs in zip(
                labels, _outputs(work, network, noise, signals, which), strict=True
            ):
                row[:] = outputs[:n].argmax(axis=1)
                finite &= np.isfinite(outputs[:n]).all(axis=1)
        with phase("moments"):
            labels, counted = labels[:, finite], which[:n][finite]
            classes = work.classes[counted]
            cells = (np.arange(len(labels))[:, None] * work.class_count + classes) * k + labels
            sums["answers"] += np.bincount(cells.ravel(), minlength=sums["answers"].size).reshape(
                sums["answers"].shape
            )
            if work.spec.moments:
                _add_moments(sums, labels, classes, counted, grid[:n][finite])
        images += int(finite.sum())
    return PassSums(images, 0, sums, stop - start - images), phase.seconds


def _outputs(
    work: TrialJob,
    network: FedNetwork,
    noise: torch.Tensor,
    signals: torch.Tensor,
    which: NDArray[np.int64],
) -> Iterator[NDArray[np.float32]]:
    """Outputs ``(batch, k)`` under each condition, in order; equal conditions are shown once."""
    known: dict[tuple[Any, ...], NDArray[np.float32]] = {}
    base, base_of = noise, None
    steps: dict[tuple[Any, ...], torch.Tensor] = {}
    for c in work.conditions:
        if (c.gamma, c.transform) != base_of:
            base = (1 - c.gamma) * noise + c.gamma * transformed(signals, c.transform)
            base_of, known, steps = (c.gamma, c.transform), {}, {}
        attack = (c.attack, c.target, c.weight) if c.attack is not None and c.weight else None
        stimulation = (c.layer, c.profile, c.profile_class, c.strength) if c.strength else None
        if (attack, stimulation) not in known:
            stimuli = base if attack is None else _attacked(work, network, base, c, which, steps)
            with stimulated(network.module, work.stimulation(c)):
                known[attack, stimulation] = network(stimuli)
        yield known[attack, stimulation]


def _attacked(
    work: TrialJob,
    network: FedNetwork,
    base: torch.Tensor,
    c: Condition,
    which: NDArray[np.int64],
    steps: dict[tuple[Any, ...], torch.Tensor],
) -> torch.Tensor:
    """The stimuli of a condition; `steps` keeps directions for other weights."""
    assert work.spec.attack is not None
    assert c.attack is not None
    form, key = work.spec.attack.form, (c.attack, c.target)
    if key not in steps:
        if not c.attack.startswith("fgsm"):
            steps[key] = torch.from_numpy(work.templates[c.attack][c.target]).to(network.device)
        else:
            targets = (
                work.correct[work.classes[which]]
                if c.target is None
                else np.full(len(which), c.target)
            )
            steps[key] = gradient_steps(
                network,
                base,
                torch.from_numpy(targets).to(network.device),
                c.target is not None,
                form,
            )
    return attacked(base, steps[key], c.weight, form)


def _add_moments(
    sums: dict[str, NDArray[np.int64]],
    labels: NDArray[np.int64],
    classes: NDArray[np.int64],
    signals: NDArray[np.int64],
    grid: NDArray[np.int8],
) -> None:
    """Add noise by (gamma, class, response), and counts by (gamma, signal, response): one
    condition is one gamma here.
    """
    g, s, k, d = sums["noise"].shape
    x = torch.from_numpy(grid.reshape(len(grid), d)).to(torch.float64)
    for i in range(g):
        cells, rows = np.unique(classes * k + labels[i], return_inverse=True)
        left = torch.zeros(len(cells), len(x), dtype=torch.float64)
        left[torch.from_numpy(rows), torch.arange(len(x))] = 1
        sums["noise"][i].reshape(s * k, d)[cells] += (left @ x).numpy().astype(np.int64)
        np.add.at(sums["by_signal"][i], (signals, labels[i]), 1)
