"""Networks and runs of the paper's directory, opened for reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from wna_ray.data.datasets import DatasetName, NotAtHand, Split, load
from wna_ray.errors import RunError
from wna_ray.kinds.any import open_any
from wna_ray.kinds.average.evaluation import mean_stimulus
from wna_ray.kinds.average.run import Run, as_run, noise_runs
from wna_ray.kinds.trials.result import Trials, trials_among
from wna_ray.networks.models import load as load_model
from wna_ray.networks.trained import TrainedNetwork
from wna_ray.runs.finished import Finished
from wna_ray.statistics.classifier import Score, Scored, classify
from wna_ray.storage.store import Place, Store
from wna_ray.sweeps.finished import open_sweep
from wna_ray.training.job import read_network

Maps = NDArray[np.float64]


class Missing(Exception):
    """Something that an experiment reads is not at hand; the message says what, in a sentence."""


class Sources:
    """The networks and runs that lie in a paper's directory.

    Parameters
    ----------
    out
        The directory.
    why
        Why a step could not be done, by its name, for those that could not.
    """

    def __init__(self, out: str | Path, why: Mapping[str, str] | None = None) -> None:
        self.out, self.why = Path(out), dict(why or {})
        self.steps_read: set[str] = set()
        """Names of steps that were read, since it was last emptied."""
        self._opened: dict[str, dict[str, Finished]] = {}

    def _path(self, step: str) -> str:
        self.steps_read.add(step)
        if step in self.why:
            raise Missing(f"{step} could not be made: {self.why[step]}")
        return str(self.out / step)

    def networks(self, name: str) -> dict[str, TrainedNetwork]:
        """The networks of a training job, by name."""
        path = Path(self._path(f"nets/{name}"))
        try:
            store = Store(Place(str(path)))
            return {
                folder.name: read_network(store, folder.name)
                for folder in sorted(path.glob("*/"))
                if (folder / "network.json").exists()
            }
        except RunError as reason:
            raise Missing(str(reason)) from None

    def any(self, name: str) -> Finished:
        """A finished run of any kind."""
        return self._open(name, lambda path: {"": open_any(path)})[""]

    def members(self, name: str) -> dict[str, Finished]:
        """The finished runs of a sweep, by their paths."""
        return self._open(name, lambda path: open_sweep(path).members)

    def opened(self, step: str) -> dict[str, Finished]:
        """Runs of a step that were opened."""
        return self._opened.get(step.removeprefix("runs/"), {})

    def _open(self, name: str, how: Callable[[str], dict[str, Finished]]) -> dict[str, Finished]:
        path = self._path(f"runs/{name}")
        if name not in self._opened:
            try:
                self._opened[name] = how(path)
            except RunError as reason:
                raise Missing(str(reason)) from None
        return self._opened[name]

    def is_finished(self, name: str) -> bool:
        """Whether a sweep that not everybody can run (it needs somebody's weights) is finished."""
        try:
            return bool(self.members(name))
        except Missing:
            return False

    def run(self, name: str) -> Run:
        """A step that is one run of noise."""
        return as_run(self.any(name), f"{name}: no run of noise")

    def one_trials(self, name: str) -> Trials:
        """A step that is one run of trials."""
        (trials,) = trials_among({name: self.any(name)}).values()
        return trials

    def runs(self, name: str) -> dict[str, Run]:
        """The same, where all are runs of noise."""
        return noise_runs(self.members(name))

    def trials(self, name: str) -> dict[str, Trials]:
        """The same, where all are runs of trials."""
        return trials_among(self.members(name))


def figure(run: Finished, name: str) -> bytes:
    """One of a run's own figures, PNG."""
    return run.figure(name)


@cache
def data(name: DatasetName, train: bool) -> Split:
    """A split of a data set; `Missing` where it is not at hand."""
    try:
        return load(name, train, download=True)
    except NotAtHand as reason:
        raise Missing(str(reason)) from None


def maps(run: Run, kind: str) -> Maps:
    """Bias maps ``(k, C, H, W)`` of a kind of response, float64; NaN where there is none."""
    return run.stimulus.expand(next(r.bias for r in run.readouts if r.kind == kind))


def counts(run: Run) -> NDArray[np.int64]:
    """``(k,)``: how often each label was given."""
    return next(r.count for r in run.readouts if r.kind == "label")


def label_means(run: Run) -> Maps:
    """Mean stimulus of each label ``(k, C, H, W)``; NaN where there is none."""
    return np.asarray(maps(run, "label") + mean_stimulus(run))


def unit_length(templates: Maps) -> Maps:
    """Each template ``(k, C, H, W)`` over its Euclidean norm."""
    return np.asarray(templates / np.sqrt(np.square(templates).sum(axis=(1, 2, 3), keepdims=True)))


def scored(templates: Maps, dataset: DatasetName, score: Score) -> Scored:
    """How templates classify the test images of a data set."""
    return classify(templates, data(dataset, False), score)


def held_out(runs: Iterable[Run]) -> Scored:
    """How runs that showed pictures of some classes name the pictures of the others, all answers
    together.

    By whitened maps and the step from the mean picture, in the dot product: the linear part of what
    a response says of an image. Maps and images are compared in the cells that moments were kept
    of.
    """
    scores = []
    for run in runs:
        spec = run.stimulus.spec
        assert spec.dataset is not None, "runs of pictures"
        split, cell = data(spec.dataset, spec.split == "train"), spec.cell
        rest = ~np.isin(split.labels, spec.classes or ())
        means = avg_pool2d(
            torch.from_numpy(split.images[rest]), cell, ceil_mode=True, count_include_pad=False
        ).numpy()
        steps = means - mean_stimulus(run)[:, ::cell, ::cell]
        scores.append(
            classify(run.whitened()[:, :, ::cell, ::cell], Split(steps, split.labels[rest]), "dot")
        )
    confusion, ranks = (
        np.sum([score.confusion for score in scores], axis=0),
        np.concatenate([score.ranks for score in scores]),
    )
    return Scored(float(np.trace(confusion) / confusion.sum()), confusion, ranks)


def weights_of(uri: str) -> Maps:
    """``(k, d)``: weight rows of a logistic regression, less their mean row, as its centred
    logits have them.
    """
    weights = load_model(uri).module.state_dict()["fc.weight"].double().numpy()
    return np.asarray(weights - weights.mean(axis=0))
