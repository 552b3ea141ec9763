"""``evaluation/classifier.json``: its types and bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from wna_ray.runs.directory import RunDirectory
from wna_ray.storage.bounds import Loose, validated
from wna_ray.text import plain

EVALUATION = "evaluation/classifier.json"

_ByScore = dict[Literal["dot", "correlation", "cosine", "centred"], float]


class _Control(Loose):
    mean: float
    sd: float


class _Template(Loose):
    accuracy: _ByScore
    interval: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict
    )
    p_value: _ByScore = Field(default_factory=dict)
    control: dict[str, _Control] = Field(default_factory=dict)
    mean_rank: _ByScore = Field(default_factory=dict)
    top5: _ByScore = Field(default_factory=dict)


class _Rank(Loose):
    mean: float
    standard_error: float


class _Self(Loose):
    own: int
    maps: int


class _Evaluation(Loose):
    dataset: str
    split: str = "test"
    images: int
    chance: float
    majority_class: float
    chance_rank: _Rank | None = None
    note: str = ""
    templates: Annotated[dict[str, _Template], Field(max_length=16)]
    self: Annotated[dict[str, _Self], Field(max_length=16)] = Field(default_factory=dict)


def read_evaluation(directory: RunDirectory) -> dict[str, Any] | None:
    """What the maps of a run do as classifiers; None where that was not asked, `RunError` where
    it is damaged.
    """
    evaluation = directory.read_json(EVALUATION)
    if evaluation is not None:
        check_evaluation(evaluation, f"{directory.url}/{EVALUATION}")
    return evaluation


def check_evaluation(evaluation: dict[str, Any], where: str) -> None:
    """Types of ``evaluation/classifier.json``, which has no digest; its words are made plain."""
    validated(_Evaluation, evaluation, f"{where} (which is no part of the result)")
    evaluation["dataset"] = plain(evaluation["dataset"], 40)
    for key, most in (("split", 40), ("note", 300)):
        evaluation[key] = plain(evaluation.get(key, ""), most)
    for key in ("templates", "self"):
        evaluation[key] = {
            plain(kind, 40): entry for kind, entry in evaluation.get(key, {}).items()
        }
