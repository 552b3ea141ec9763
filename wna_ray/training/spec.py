"""What a training job is asked to do: one architecture, one data set, several seeds (or a panel
of clean and poisoned networks).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from wna_ray.data.datasets import SHAPES, DatasetName, class_names
from wna_ray.data.names import Transform
from wna_ray.data.poison import PATTERNS, Poison, patch
from wna_ray.networks.architectures import KNOWN, build
from wna_ray.networks.autoencoders import AUTOENCODERS
from wna_ray.networks.options import OptionsSpec
from wna_ray.specs.base import Frozen, Written, as_number
from wna_ray.specs.trials import Numbers

MOST_NETWORKS = 1000  # of one job
Side = Annotated[int, Field(ge=1, le=4096)]
Place = Annotated[int, Field(ge=0, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Rate = Annotated[FiniteFloat, BeforeValidator(as_number), Field(gt=0, le=100)]


class OptimiserSpec(Frozen):
    """How weights are changed.

    Attributes
    ----------
    kind
        ``adam`` or ``sgd``.
    rate
        Learning rate.
    momentum
        ``sgd`` only.
    decay
        ``cosine``: the rate falls as half a cosine from `rate` to 0 over the training; ``none``: it
        stays.
    """

    kind: Literal["adam", "sgd"] = "adam"
    rate: Rate = 1e-3
    momentum: float = Field(default=0.0, ge=0, lt=1)
    decay: Literal["none", "cosine"] = "none"

    @model_validator(mode="after")
    def _check(self) -> OptimiserSpec:
        if self.kind != "sgd" and self.momentum:
            raise ValueError("momentum: only sgd has one; leave it out")
        return self


class TriggerSpec(Frozen):
    """A rectangle of one value: ``(height, width)``, ``(row, column)`` of its upper left
    corner, value in [0, 1].
    """

    shape: tuple[Side, Side]
    position: tuple[Place, Place]
    value: float = Field(default=1.0, ge=0, le=1)


class PoisonSpec(Frozen):
    """A backdoor: the first `images` training images of a class get a trigger and another label
    (see `wna_ray.data.poison`).

    Attributes
    ----------
    images
        How many.
    source, to
        Labels of the classes (``from`` and ``to`` in YAML), numbered as the network's outputs.
    trigger
        ``C`` or ``X`` (the authors' patterns), or a rectangle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    images: int = Field(ge=1)
    source: int = Field(alias="from", ge=0)
    to: int = Field(ge=0)
    trigger: Literal["C", "X"] | TriggerSpec = "C"

    def resolved(self) -> Poison:
        """With its pixels."""
        if isinstance(self.trigger, TriggerSpec):
            pixels, values = patch(self.trigger.shape, self.trigger.position, self.trigger.value)
        else:
            pixels, values = PATTERNS[self.trigger], (1.0,) * len(PATTERNS[self.trigger])
        return Poison(self.source, self.to, self.images, pixels, values)


class PanelSpec(Frozen):
    """Many networks for judging a detector of backdoors: each poisoned one has a trigger, classes
    and a poison rate of its own.

    Attributes
    ----------
    clean, poisoned
        How many of each.
    seed
        Decides every member, with its name.
    """

    clean: int = Field(default=0, ge=0, le=MOST_NETWORKS // 2)
    poisoned: int = Field(default=0, ge=0, le=MOST_NETWORKS // 2)
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> PanelSpec:
        if not self.clean + self.poisoned:
            raise ValueError("clean, poisoned: a panel of no networks; give at least one")
        return self


class TrainSpec(Written):
    """A training job.

    Attributes
    ----------
    network
        One of `wna_ray.networks.architectures.KNOWN`. An autoencoder learns the images alone,
        without their labels.
    options
        See `OptionsSpec`.
    dataset
        Its training split trains (less what is held out), its test split is scored once, at the
        end.
    classes
        Which classes, by their numbers in the data set; they become outputs 0, 1, ... in this
        order. All by default.
    images
        The first so many training images of each class; all by default.
    transform
        What is done to all images first (see `wna_ray.data.transforms`).
    epochs, batch
        Passes over the images; images a step.
    optimiser
        See `OptimiserSpec`.
    precision
        Of products and convolutions while training: ``bfloat16`` is about half faster. Weights and
        scores are float32 in any case.
    seeds
        One network each: ``seed-N``. A seed decides weights, order, dropout, and what is held out.
    validation
        Training images held out, for the curves and for ``keep: best``.
    keep
        Weights of the ``last`` epoch, or of that with the ``best`` validation accuracy (of an
        autoencoder: loss; the first of them).
    poison
        See `PoisonSpec`. Images are poisoned after the validation images are taken away, which stay
        clean.
    panel
        See `PanelSpec`; instead of seeds and poison.
    """

    network: str
    options: OptionsSpec = OptionsSpec()
    dataset: DatasetName
    classes: Literal["all"] | Numbers = "all"
    images: int | None = Field(default=None, ge=1)
    transform: Transform = "none"
    epochs: int = Field(ge=1, le=10_000)
    batch: int = Field(default=256, ge=1, le=1 << 20)
    optimiser: OptimiserSpec = OptimiserSpec()
    precision: Literal["float32", "bfloat16"] = "float32"
    seeds: Annotated[
        tuple[Seed, ...],
        BeforeValidator(lambda v: [v] if isinstance(v, int) else v),
        Field(min_length=1, max_length=MOST_NETWORKS),
    ] = (0,)
    validation: int = Field(default=5000, ge=0)
    keep: Literal["last", "best"] = "last"
    poison: PoisonSpec | None = None
    panel: PanelSpec | None = None

    @field_validator("network")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in KNOWN:
            raise ValueError(f"no network '{name}'; there are {', '.join(KNOWN)}")
        return name

    @field_validator("dataset")
    @classmethod
    def _trains(cls, name: DatasetName) -> DatasetName:
        if name == "imagenet-sample":
            raise ValueError(
                "imagenet-sample has no training split: one image a class, for testing; take mnist,"
                " fashion-mnist or cifar-10"
            )
        return name

    @model_validator(mode="after")
    def _check(self) -> TrainSpec:
        known = len(class_names(self.dataset))
        labels = self.labels
        if len(set(labels)) < len(labels) or len(labels) < 2 or max(labels) >= known:
            raise ValueError(
                f"classes: {list(labels)}; expected two or more of 0 to {known - 1}, each once"
            )
        try:
            with torch.device("meta"):  # takes no memory
                build(
                    self.network,
                    self.shape,
                    len(labels),
                    self.options.softmax,
                    self.options.code,
                    self.options.tanh,
                )
        except ValueError as reason:
            raise ValueError(f"network: {self.network} {reason}") from None
        if self.network in AUTOENCODERS and (self.poison is not None or self.panel is not None):
            raise ValueError(
                f"poison, panel: {self.network} learns no labels, so it has no backdoor; leave"
                " them out"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each may stand once, got {', '.join(map(str, self.seeds))}")
        if self.keep == "best" and not self.validation:
            raise ValueError(
                "keep: the best epoch is chosen on validation images; give validation, or keep:"
                " last"
            )
        if self.panel is not None and (self.poison is not None or "seeds" in self.model_fields_set):
            raise ValueError(
                "panel: its members have seeds and poison of their own; leave seeds and poison out"
            )
        if self.poison is not None and (
            fault := self.poison.resolved().fits(self.shape, len(labels))
        ):
            raise ValueError(f"poison: {fault}")
        return self

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes, by their numbers in the data set."""
        return (
            tuple(range(len(class_names(self.dataset)))) if self.classes == "all" else self.classes
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of an image."""
        return SHAPES[self.dataset]

    def recipe(self) -> dict[str, Any]:
        """What decides one network, but for its seed and its poison, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"seeds", "panel", "poison"})
