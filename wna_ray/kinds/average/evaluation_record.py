"""``evaluation/classifier.json``: what maps do as classifiers, as a record with bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wna_ray.runs.directory import RunDirectory
from wna_ray.storage.bounds import Loose, validated
from wna_ray.text import plain

EVALUATION = "evaluation/classifier.json"


def _line(most: int) -> AfterValidator:
    """One line of a text, made plain."""
    return AfterValidator(lambda text: plain(text, most))


_Word = Annotated[str, _line(40)]
_Sentence = Annotated[str, _line(300)]
_ByScore = dict[Literal["dot", "correlation", "cosine", "centred"], float]


class ShuffledMaps(Loose):
    """Accuracy of maps whose values lie in other places: over several shuffles."""

    mean: float
    sd: float


class TemplateScores(Loose):
    """How well a set of templates does, by score; older versions know fewer of these numbers."""

    accuracy: _ByScore
    interval: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict
    )
    p_value: _ByScore = Field(default_factory=dict)
    control: dict[str, ShuffledMaps] = Field(default_factory=dict)
    mean_rank: _ByScore = Field(default_factory=dict)
    top5: _ByScore = Field(default_factory=dict)


class ChanceRank(Loose):
    """Mean rank of the right class where classes are ordered by chance."""

    mean: float
    standard_error: float


class OwnLabels(Loose):
    """How many of the maps that there are get their own label from the network."""

    own: int
    maps: int


class Evaluation(Loose):
    """What the maps of a run do as classifiers.

    Attributes
    ----------
    dataset, split, images
        What they are scored on; `wanted` says how many images that was to be, None for all.
    chance, majority_class
        Accuracies of guesses: by chance, and always the most frequent class.
    chance_rank
        Of guesses, where there are many classes.
    note
        What could not be done, and why.
    templates
        By the name of each set.
    own_labels
        By the kind of the response whose averages the network was shown.
    """

    dataset: _Word
    split: _Word = ""
    wanted: int | None = None
    images: int
    chance: float
    majority_class: float
    chance_rank: ChanceRank | None = None
    note: _Sentence = ""
    templates: Annotated[dict[_Word, TemplateScores], Field(max_length=16)]
    own_labels: Annotated[dict[_Word, OwnLabels], Field(max_length=16)] = Field(
        default_factory=dict, alias="self"
    )


def read_evaluation(directory: RunDirectory) -> Evaluation | None:
    """What the maps of a run do as classifiers; None where that was not asked, `RunError` where
    it is damaged. It has no digest, so its words are made plain.
    """
    value, where = directory.read_json(EVALUATION), f"{directory.url}/{EVALUATION}"
    if value is None:
        return None
    return validated(Evaluation, value, f"{where} (which is no part of the result)")
