"""A finished run's maps as classifiers of real images, and the network's own answer to each map:
``evaluation/``.

It is no part of the result: whether a data set is at hand must not change the bytes of a result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from wna_ray.data import datasets
from wna_ray.data.datasets import DatasetName, NotAtHand, Split, class_names
from wna_ray.data.transforms import transformed
from wna_ray.errors import ModelError, RunError, SpecError
from wna_ray.events import Callback, Stage
from wna_ray.kinds.average.evaluation_record import EVALUATION, read_evaluation
from wna_ray.kinds.average.run import Run
from wna_ray.moments.responses import is_dense
from wna_ray.networks.models import ModelURI, describe
from wna_ray.specs.run import EvaluationSpec, Spec
from wna_ray.statistics import classifier
from wna_ray.statistics.classifier import SCORES, Score, Scored, Template
from wna_ray.training.spec import TrainSpec

FIGURES = "wna_ray.kinds.average.figures"  # matplotlib, only where something is drawn

Ask = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From images ``(n, C, H, W)`` of the stimulus's space to the network's outputs ``(n, k)``."""

MEAN_IMAGE = "mean image"
AVERAGE, RMS = (
    " average",
    " rms",
)  # after the kind of a one-hot response: templates as the authors make them
MOST_MATRIX = 50  # classes of a confusion matrix; of more, ranks are reported
TOP = 5
CENTRED = "centred"  # the correlation of a map with an image less the mean of the noise


@dataclass(frozen=True)
class Data:
    """Images that maps are scored on.

    Attributes
    ----------
    name, split
        Which data set, and which of its images.
    images
        With labels 0 ... k - 1.
    others
        Training images apart from them, for the mean image of each class; None where there are
        none, and `note` says why.
    classes
        k.
    """

    name: DatasetName
    split: Literal["test", "validation"]
    images: Split
    others: Split | None
    classes: int
    note: str = ""


def scoring_of(spec: Spec) -> tuple[EvaluationSpec, TrainSpec | None]:
    """What a spec's maps are to be scored on, and what its network was trained on, where the
    network says so.

    Raises
    ------
    NotAtHand
        The network's description cannot be read here.
    """
    recipe = None
    if spec.model.startswith("trained:"):
        try:
            recipe = TrainSpec.parse(describe(ModelURI.parse(spec.model)).recipe)
        except (ModelError, SpecError) as error:
            raise NotAtHand(
                "what the network was trained on cannot be read here"
                f" ({str(error).splitlines()[0]})"
            ) from None
    default: DatasetName | Literal["none"] = (
        "mnist" if spec.model.startswith("bundled:mnist") else "none"
    )
    return spec.evaluation or EvaluationSpec(dataset=recipe.dataset if recipe else default), recipe


def data_of(wanted: EvaluationSpec, recipe: TrainSpec | None, download: bool) -> Data:
    """The images of a data set, prepared as those of the training where it was the same data set
    (its classes, its transform).

    Raises
    ------
    NotAtHand
        They are not there.
    """
    name = wanted.dataset
    assert name != "none"
    same = recipe if recipe is not None and recipe.dataset == name else None
    labels = tuple(range(len(class_names(name)))) if same is None else same.labels

    def load(train: bool) -> Split:
        split = datasets.load(name, train=train, download=download)
        split = (
            split
            if len(labels) == len(class_names(name)) and labels == tuple(sorted(labels))
            else split.of_classes(labels)
        )
        if same is None or same.transform == "none":
            return split
        return Split(
            transformed(torch.from_numpy(split.images), same.transform).contiguous().numpy(),
            split.labels,
        )

    others, note = None, ""
    if wanted.split == "validation":
        others, images = load(train=True).held_out
    else:
        images = load(train=False)
        try:
            others = load(train=True)
        except NotAtHand as reason:
            note = f"no mean images: {reason}"
    if wanted.images is not None:
        images, _ = images.cut(wanted.images)
    if not len(images.labels):
        raise NotAtHand(f"{name} has no {wanted.split} images")
    return Data(name, wanted.split, images, others, len(labels), note)


def templates_of(finished: Run) -> Iterator[tuple[str, Template]]:
    """Template sets ``(k, C, H, W)`` of a run: each response's bias maps; and of one-hot responses
    the average of the stimuli of each label, and where second moments were kept their root mean
    square (Borji & Lin 2020 take one or the other, by data set).
    """
    decoded = finished.decoded_maps
    if decoded is not None:  # codes are no images; their pictures are
        for i, response in enumerate(finished.spec.responses):
            yield response.kind, decoded[i * len(finished.names) : (i + 1) * len(finished.names)]
        return
    maps, k, row = finished.bias_maps, len(finished.names), 0
    for i, kind in enumerate(r.kind for r in finished.spec.responses):
        bias = maps[i * k : (i + 1) * k]
        yield kind, bias
        if is_dense(kind):
            continue
        average = bias + mean_stimulus(finished)
        yield kind + AVERAGE, average
        if finished.spec.keeps_squares:
            yield kind + RMS, finished.rms_maps[row : row + k].astype(np.float32)
        row += k


def mean_stimulus(finished: Run) -> NDArray[np.float32]:
    """``(C, H, W)``: mean of all stimuli that were counted in."""
    stimulus, moments = finished.stimulus, finished.moments
    grid = moments.sum_x[None] * np.float64(stimulus.unit / max(moments.images, 1))
    return np.asarray(stimulus.kept_offset + stimulus.expand(grid)[0], dtype=np.float32)


def centred(split: Split, offset: NDArray[np.float32]) -> Split | None:
    """Images less the mean of the noise ``(C, H, W)``: a bias map tells what a step from there
    does. None where the mean is one grey, which no correlation sees.
    """
    return None if offset.size == 1 else Split(split.images - offset, split.labels)


def scored(
    templates: Template, split: Split, majority: float, steps: Split | None = None
) -> tuple[dict[str, Any], dict[str, Scored]]:
    """What is reported of a template set: each entry by score, as plain JSON values.

    Parameters
    ----------
    templates, split
        See `wna_ray.statistics.classifier.classify`.
    majority
        Share of the most frequent class, for p-values.
    steps
        The same images less the mean of the noise: their correlation with templates that are
        differences is the score `CENTRED`.
    """
    ways: list[tuple[str, Split, Score]] = [(score, split, score) for score in SCORES]
    ways += [] if steps is None else [(CENTRED, steps, "correlation")]
    scores = {
        name: classifier.classify(templates, scored_on, score) for name, scored_on, score in ways
    }
    control = {
        name: classifier.shuffled(templates, scored_on, score) for name, scored_on, score in ways
    }
    entry: dict[str, Any] = {
        "accuracy": {score: s.accuracy for score, s in scores.items()},
        "interval": {score: s.interval for score, s in scores.items()},
        "p_value": {score: s.p_value(majority) for score, s in scores.items()},
        "control": {score: {"mean": mean, "sd": sd} for score, (mean, sd) in control.items()},
        "mean_rank": {score: float(s.ranks.mean()) for score, s in scores.items()},
        "recall": {
            score: [None if np.isnan(r) else float(r) for r in s.recall]
            for score, s in scores.items()
        },
    }
    if len(templates) <= MOST_MATRIX:
        entry["confusion"] = {score: s.confusion.tolist() for score, s in scores.items()}
    else:
        entry["top5"] = {score: s.top(TOP) for score, s in scores.items()}
    return entry, scores


def self_labels(templates: Template, ask: Ask) -> dict[str, Any]:
    """What the network says of each template scaled to [0, 1] by its own smallest and largest value
    (the authors' check of their maps).

    Returns
    -------
    dict
        ``labels`` and ``confidence``, one a template (None where there is none, or no answer);
        ``own``: how many of the ``maps`` that there are get their own label.
    """
    k = len(templates)
    low, high = (f(templates, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    with np.errstate(invalid="ignore", divide="ignore"):
        images = ((templates - low) / (high - low)).astype(np.float32)
    finite = np.flatnonzero(np.isfinite(images).all(axis=(1, 2, 3)))
    labels: list[int | None] = [None] * k
    confidence: list[float | None] = [None] * k
    if finite.size:
        outputs = ask(images[finite]).astype(np.float64)
        for row, output in zip(finite.tolist(), outputs, strict=True):
            if np.isfinite(output).all():
                labels[row], confidence[row] = int(output.argmax()), float(softmax(output).max())
    return {
        "labels": labels,
        "confidence": confidence,
        "own": sum(a == i for i, a in enumerate(labels)),
        "maps": int(finite.size),
    }


def picture_name(kind: str) -> str:
    """Where the figure of a template set lies."""
    return f"{EVALUATION.rpartition('/')[0]}/classifier_{kind.replace(' ', '_')}.png"


def usual_score(kind: str, scores: Collection[str]) -> str:
    """The score of a template set's figure, of those that there are: the authors' for templates
    of theirs.
    """
    if kind.endswith((AVERAGE, RMS)):
        return "cosine"
    return CENTRED if CENTRED in scores else "correlation"


def _picture(
    kind: str, scores: Mapping[str, Scored], entry: Mapping[str, Any], names: list[str], data: Data
) -> bytes:
    figures = resolve_name(FIGURES)
    score, n, k = usual_score(kind, scores), len(data.images.labels), data.classes
    s, control = scores[score], entry["control"][score]
    title = (
        f"{kind} as classifier of {data.name}: accuracy {s.accuracy:.4g} ({score})\n{n:,}"
        f" {data.split} images; "
    )
    if k <= MOST_MATRIX:
        title += f"shuffled maps {control['mean']:.3f} ± {control['sd']:.3f}, chance {1 / k:.3g}"
        picture: bytes = figures.confusion(s.confusion, names, title)
        return picture
    mean, error = classifier.chance_rank(k, n)
    title += f"mean rank {s.ranks.mean():.1f} of {k:,} (chance {mean:.1f} ± {error:.1f})"
    picture = figures.ranks(s.ranks, k, title)
    return picture


def evaluate(spec: Spec, finished: Run, emit: Callback, ask: Ask) -> None:
    """Score the maps as classifiers where a data set is at hand, once; writes ``evaluation/``."""
    if spec.target is not None or (
        spec.evaluation is not None and spec.evaluation.dataset == "none"
    ):
        return
    try:
        wanted, recipe = scoring_of(spec)
        if wanted.dataset == "none" or _was_scored(finished, wanted):
            return
        data = data_of(wanted, recipe, download=spec.evaluation is not None)
    except NotAtHand as reason:
        emit(Stage(f"bias-map classifier skipped: {reason}"))
        return
    images, k, decoded = data.images, data.classes, finished.decoded_maps
    if (
        images.images.shape[1:] != (spec.stimulus.shape if decoded is None else decoded.shape[1:])
        or len(finished.names) != k
    ):
        emit(
            Stage(
                f"bias-map classifier skipped: {data.name} has images {images.images.shape[1:]} of"
                f" {k} classes"
            )
        )
        return
    emit(Stage(f"bias-map classifier on {data.name}, {data.split} images"))
    report = _report(spec, finished, data, wanted, ask)
    finished.directory.store.replace(EVALUATION, (json.dumps(report, indent=1) + "\n").encode())


def _report(
    spec: Spec, finished: Run, data: Data, wanted: EvaluationSpec, ask: Ask
) -> dict[str, Any]:
    """Score every template set; gives what ``classifier.json`` says, and writes the figures."""
    store, names = finished.directory.store, finished.names
    images, k = data.images, data.classes
    majority = float(np.bincount(images.labels).max() / len(images.labels))
    mean_rank, rank_error = classifier.chance_rank(k, len(images.labels))
    report: dict[str, Any] = {
        "dataset": data.name,
        "split": data.split,
        "wanted": wanted.images,
        "images": len(images.labels),
        "classes": k,
        "chance": 1 / k,
        "majority_class": majority,
        "chance_rank": {"mean": mean_rank, "standard_error": rank_error},
        "note": data.note,
        "templates": {},
        "self": {},
    }
    cell = spec.stimulus.cell if finished.stimulus.gain is None else 1
    small = classifier.on_cells(images, cell) if cell > 1 else None
    at_scale, offset = (images if small is None else small), finished.stimulus.offset
    if (
        small is not None
        and offset.size > 1
        and (cells := classifier.on_cells(Split(offset[None], images.labels[:1]), cell)) is not None
    ):
        offset = cells.images[0]
    steps = centred(at_scale, offset)
    for kind, maps in templates_of(finished):
        on_grid = maps if small is None else maps[:, :, ::cell, ::cell]
        entry, scores = scored(
            on_grid, at_scale, majority, None if kind.endswith((AVERAGE, RMS)) else steps
        )
        report["templates"][kind] = entry
        store.replace(picture_name(kind), _picture(kind, scores, entry, names, data))
        if kind.endswith(AVERAGE):
            report["self"][kind.removesuffix(AVERAGE)] = self_labels(maps, ask)
    if data.others is not None:
        entry, scores = scored(classifier.mean_images(data.others, k), images, majority)
        report["templates"][MEAN_IMAGE] = entry
        store.replace(picture_name(MEAN_IMAGE), _picture(MEAN_IMAGE, scores, entry, names, data))
    return report


def _was_scored(finished: Run, wanted: EvaluationSpec) -> bool:
    """Whether ``evaluation/`` holds just that."""
    try:
        recorded = read_evaluation(finished.directory)
    except RunError:
        return False  # damaged: made anew
    return recorded is not None and (recorded.dataset, recorded.split, recorded.wanted) == (
        wanted.dataset,
        wanted.split,
        wanted.images,
    )
