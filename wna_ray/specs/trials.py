"""What a run of trials is asked to do: signals in noise, shown under every condition, and their
answers counted.

Every trial is a signal (an image of a data set) in noise, ``(1 - gamma) noise + gamma signal``. It
is shown once under each condition: each signal weight, transformed, attacked, or with units of the
network stimulated, as the spec says. All conditions show the same signals in the same noise, so
their differences are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from wna_ray.data.datasets import SHAPES, DatasetName
from wna_ray.data.names import Transform
from wna_ray.specs.base import Frozen, Written, as_units
from wna_ray.specs.numerics import ExecutionSpec, NormaliseSpec, NumericsSpec
from wna_ray.specs.output import Classes, Output
from wna_ray.specs.response import ResponseKind
from wna_ray.specs.run import EvaluationSpec, Spec
from wna_ray.specs.stimulus import StimulusSpec

Weight = Annotated[FiniteFloat, Field(ge=0)]
Gamma = Annotated[float, Field(ge=0, le=1)]
AttackSource = Literal["map", "mean", "permuted", "random", "fgsm", "fgsm-untargeted"]
ProfileSource = Literal["class-mean", "sta", "sham"]
Numbers = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...],
    BeforeValidator(as_units),
    Field(min_length=1),
]

MOST_CONDITIONS = 100_000


def _listed(value: Any) -> Any:
    """One thing where a list is expected."""
    return [value] if isinstance(value, str | int | float) else value


class SignalSpec(Frozen):
    """The signals.

    Attributes
    ----------
    dataset, split
        Where they come from.
    classes
        Which classes, by their numbers in the data set.
    images
        How many of each class, the first ones; all by default.
    """

    dataset: DatasetName
    split: Literal["test", "train"] = "test"
    classes: Literal["all"] | Numbers = "all"
    images: int | None = Field(default=None, ge=1)


class AttackSpec(Frozen):
    """What is added to a stimulus to make the network say something else.

    Attributes
    ----------
    by
        ``map``: the bias map of the target in `run`. ``mean``: the target's mean training image.
        ``permuted``: the bias map, its pixels in random order. ``random``: a random direction.
        ``fgsm``: the sign of the gradient of the target's cross-entropy at the stimulus (white box;
        Goodfellow et al. 2015). ``fgsm-untargeted``: the same, away from the signal's own class.
    run, response
        The finished run whose bias maps are used, and of which kind; by default its first.
    form
        ``mix``: ``(1 - w) stimulus + w template``, the template scaled to [0, 1] (Borji & Lin).
        ``l2``, ``linf``: ``stimulus + step`` where the step has length w in that norm (along the
        template less the mean of all templates, or its sign), then cut to [0, 1].
    weights
        w: shares for ``mix``; lengths in pixel units else.
    targets
        Which responses are aimed at, by their names; ``all`` by default.
    """

    by: Annotated[tuple[AttackSource, ...], BeforeValidator(_listed), Field(min_length=1)]
    run: str | None = None
    response: ResponseKind | None = None
    form: Literal["mix", "l2", "linf"] = "linf"
    weights: Annotated[tuple[Weight, ...], BeforeValidator(_listed), Field(min_length=1)]
    targets: (
        Literal["all"]
        | Annotated[
            tuple[str, ...],
            BeforeValidator(lambda v: [str(x) for x in v] if isinstance(v, list) else v),
        ]
    ) = "all"

    @model_validator(mode="after")
    def _check(self) -> AttackSpec:
        needs_run = sorted({"map", "permuted"} & set(self.by))
        if needs_run and self.run is None:
            raise ValueError(
                f"run: {needs_run[0]} needs the bias maps of a finished run; give its directory"
            )
        if not needs_run and (self.run is not None or self.response is not None):
            raise ValueError("run: only map and permuted use a run; leave it out")
        gradient = [source for source in self.by if source.startswith("fgsm")]
        if self.form == "mix" and gradient:
            raise ValueError(f"form: {gradient[0]} has no template to mix in; take linf or l2")
        if self.form == "mix" and max(self.weights) > 1:
            raise ValueError(
                f"weights: {max(self.weights):g} is no share; with form: mix weights go from 0 to 1"
            )
        return self


class StimulateSpec(Frozen):
    """Microstimulation: activity added to the units of a layer while the network answers (by hooks;
    the model stays as it is).

    Attributes
    ----------
    layers
        Dotted names of modules; their outputs are changed.
    by
        How strongly each unit is stimulated, relative to the others. ``class-mean``: as its mean
        rectified activity over the training images of a class. ``sta``: as it correlates with the
        class's logit over noise. ``sham``: the class mean, shuffled over units.
    classes
        Whose profiles, by their names among the network's answers.
    strengths
        s, each a condition; negative ones suppress.
    unit
        ``sd``: s standard deviations of the layer's activity (root mean square over units).
        ``max``: s for the strongest unit (the paper's, for convolutions). ``activity``: s times the
        mean activity itself (the paper's, for fc1).
    mode
        ``add``: the profile is added. ``scale``: activity is multiplied by ``1 + s profile / max
        profile``; has no unit.
    units
        Which units (channels, neurons); ``all`` by default.
    """

    layers: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    by: Annotated[tuple[ProfileSource, ...], BeforeValidator(_listed), Field(min_length=1)] = (
        "class-mean",
    )
    classes: (
        Literal["all"]
        | Annotated[
            tuple[str, ...],
            BeforeValidator(lambda v: [str(x) for x in v] if isinstance(v, list) else v),
        ]
    ) = "all"
    strengths: Annotated[tuple[FiniteFloat, ...], BeforeValidator(_listed), Field(min_length=1)]
    unit: Literal["sd", "max", "activity"] = "sd"
    mode: Literal["add", "scale"] = "add"
    units: Literal["all"] | Numbers = "all"

    @model_validator(mode="after")
    def _check(self) -> StimulateSpec:
        if self.mode == "scale" and self.unit != "sd":
            raise ValueError("unit: only added activity has one; leave it out with mode: scale")
        if self.unit == "activity" and "sta" in self.by:
            raise ValueError("unit: activity is that of class means; with by: sta take sd or max")
        return self


class TrialSpec(Written):
    """A run of trials.

    Attributes
    ----------
    model, output, classes, normalise, numerics, execution, seed
        As for a run of noise. Signals are right where the network says the name of their class, so
        that a network of one's own needs `classes`, named as the data set's are.
    signals
        The signals.
    repeats
        How often all signals are shown, each time in fresh noise: N = repeats x signals.
    noise
        Family, offset and scale of the noise, in pixel units; its shape is the signals'. Only
        needed where a gamma is below 1.
    gammas
        Signal weights.
    transforms
        What is done to the signals first (see `wna_ray.data.transforms`); ``none`` by default.
    attack, stimulate
        See their classes.
    moments
        Also keep the sums of the noise for each (gamma, signal class, response), which
        classification images are made of, and how often each single signal got each response.
    """

    model: str
    output: Output = None
    classes: Classes = None
    signals: SignalSpec
    repeats: int = Field(default=1, ge=1, le=1 << 30)
    noise: StimulusSpec | None = None
    gammas: Annotated[tuple[Gamma, ...], BeforeValidator(_listed), Field(min_length=1)] = (1.0,)
    transforms: Annotated[tuple[Transform, ...], BeforeValidator(_listed), Field(min_length=1)] = (
        "none",
    )
    attack: AttackSpec | None = None
    stimulate: StimulateSpec | None = None
    moments: bool = False
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    numerics: NumericsSpec = NumericsSpec()
    normalise: NormaliseSpec | None = None
    execution: ExecutionSpec = ExecutionSpec()

    unwritten: ClassVar[frozenset[str]] = frozenset({"output", "classes"})

    @model_validator(mode="before")
    @classmethod
    def _shape_of_noise(cls, data: Any) -> Any:
        """The noise's shape is that of the signals, so it is not written twice."""
        if (
            not isinstance(data, Mapping)
            or not isinstance(data.get("noise"), Mapping)
            or not isinstance(data.get("signals"), Mapping)
        ):
            return data
        name = data["signals"].get("dataset")
        shape = SHAPES.get(name) if isinstance(name, str) else None
        return data if shape is None else {**data, "noise": {"shape": shape, **data["noise"]}}

    @model_validator(mode="after")
    def _check(self) -> TrialSpec:
        for name in ("gammas", "transforms"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: each may stand once, got {', '.join(map(str, values))}")
        if self.noise is None and min(self.gammas) < 1:
            raise ValueError(
                f"noise: gamma {min(self.gammas):g} shows noise; say which (kind, offset, scale)"
            )
        if self.noise is not None and self.noise.space != "pixel":
            raise ValueError(
                "noise.space: signals are pixels in [0, 1], so the noise is, too; leave it out"
            )
        if self.noise is not None and (self.noise.basis is not None or self.noise.kind == "images"):
            what = "basis" if self.noise.basis is not None else "kind"
            raise ValueError(
                f"noise.{what}: trials show signals in noise of single pixels, cells or a spectrum;"
                " take one of those"
            )
        if self.numerics.compile is not None or self.numerics.tune:
            which = "tune" if self.numerics.tune else "compile"
            raise ValueError(
                f"numerics.{which}: is for runs; trials change what happens inside the network, so"
                " leave it out"
            )
        if self.moments and (
            self.noise is None or self.attack or self.stimulate or len(self.transforms) > 1
        ):
            raise ValueError(
                "moments: are kept of signals in noise alone; leave attack, stimulate and"
                " transforms out, and give noise"
            )
        return self

    def noise_spec(self, shape: tuple[int, int, int], samples: int) -> Spec:
        """The spec of the network and the noise, as a run would have it."""
        noise = self.noise or StimulusSpec(kind="uniform", shape=shape, offset=0.5, scale=0.5)
        return Spec(
            model=self.model,
            output=self.output,
            classes=self.classes,
            stimulus=noise,
            responses=("label",),  # type: ignore[arg-type]  # made a ResponseSpec by its validator
            samples=samples,
            seed=self.seed,
            numerics=self.numerics,
            normalise=self.normalise,
            evaluation=EvaluationSpec(dataset="none"),
            execution=self.execution,
        )
