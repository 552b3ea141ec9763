"""What a run is asked to do: one frozen model for YAML, Python and the command line.

`Spec` is what a person writes. `Job` (in `wna_ray.shards.shard`) is what becomes of it once the
model has been looked at; the fingerprint is taken there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from wna_ray.data.datasets import DatasetName
from wna_ray.specs.base import Frozen, Written
from wna_ray.specs.numerics import ExecutionSpec, NormaliseSpec, NumericsSpec
from wna_ray.specs.output import Classes, Output
from wna_ray.specs.response import (
    DIFFERENTIABLE,
    UNIT_KINDS,
    MomentsSpec,
    ResponseSpec,
    StopSpec,
    TargetSpec,
    as_response,
)
from wna_ray.specs.stimulus import StimulusSpec


def _dataset(value: Any) -> Any:
    return {"dataset": value} if isinstance(value, str) else value


def _as_uri(value: Any) -> Any:
    if not isinstance(value, str) and callable(value):
        raise ValueError(
            f"expected a URI, such as python:MODULE:FUNCTION, got {type(value).__name__}; a module"
            " in memory goes by wna_ray.analyse(net, shape), or run(spec, model=net)"
        )
    return value


class EvaluationSpec(Frozen):
    """Images that maps are scored on as classifiers; in YAML also the name of the data set alone.

    Attributes
    ----------
    dataset
        Which one (see `wna_ray.data.datasets`); ``none``: maps are not scored.
    split
        ``test``; or ``validation``: the last sixth of the training images, on which noise and score
        are chosen.
    images
        The first so many of them; all by default.
    """

    dataset: Literal[DatasetName, "none"]
    split: Literal["test", "validation"] = "test"
    images: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> EvaluationSpec:
        if self.dataset == "imagenet-sample" and self.split == "validation":
            raise ValueError(
                "split: imagenet-sample has one image a class, for testing; leave split out"
            )
        return self

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        """As it is written: the name alone where that says all."""
        return self.dataset if (self.split, self.images) == ("test", None) else handler(self)


class Spec(Written):
    """A whole run.

    Attributes
    ----------
    model
        Model URI (see ``wna_ray.networks.models``).
    decoder
        URI of a network whose pictures are shown to the model: the noise is its input, a code, and
        so are the maps. Of a trained autoencoder its decoder is taken.
    target
        Units inside the network, instead of its output; their default response is their activation.
    output
        Which tensor of the network's output is read, and as what (see `OutputSpec`); by default the
        one that is obvious, as its first values show.
    classes
        Names of the outputs: a list, or a file with one name a line (or a JSON list). By default
        those that the model's source knows, or else numbers. Not part of the fingerprint.
    stimulus, responses, moments, numerics, execution
        See their classes.
    samples
        N: images 0 ... N - 1 of the seed are shown; at most so many where `stop` is given.
    stop
        End earlier, at a look at which the maps are reliable enough.
    seed
        Chooses the noise stream, 0 <= seed < 2**64.
    estimator
        ``noise``: cov(y, x) / sigma^2, from responses alone. ``gradient``: the mean gradient of the
        response, which for Gaussian noise is the same map (Stein's identity) from far fewer images;
        needs a network that can be differentiated. Over ``images`` it is the mean gradient, and no
        more than that.
    keep_responses
        Also keep the responses of every image (``responses/*.parquet``), for passes that come
        later.
    normalise
        Overrides the normalisation that the model's source declares.
    evaluation
        Data set on which the bias maps are scored as classifiers, if it is at hand (see
        `EvaluationSpec`); by default ``mnist`` for bundled MNIST models, for ``trained:`` ones what
        they were trained on, and none for others. Not part of the fingerprint.
    """

    model: Annotated[str, BeforeValidator(_as_uri)]
    decoder: str | None = None
    target: TargetSpec | None = None
    output: Output = None
    classes: Classes = None
    stimulus: StimulusSpec
    responses: tuple[Annotated[ResponseSpec, BeforeValidator(as_response)], ...] = Field(
        default=(ResponseSpec(kind="label"), ResponseSpec(kind="logits")), min_length=1
    )
    samples: int = Field(ge=1, le=1 << 40)
    stop: StopSpec | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    moments: MomentsSpec = MomentsSpec()
    numerics: NumericsSpec = NumericsSpec()
    estimator: Literal["noise", "gradient"] = "noise"
    keep_responses: bool = False
    normalise: NormaliseSpec | None = None
    evaluation: Annotated[EvaluationSpec | None, BeforeValidator(_dataset)] = None
    execution: ExecutionSpec = ExecutionSpec()

    unwritten: ClassVar[frozenset[str]] = frozenset({"output", "classes"})

    @model_validator(mode="before")
    @classmethod
    def _default_responses(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "responses" in data:
            return data
        if data.get("target") is not None:
            return {**data, "responses": ["activation"]}
        return {**data, "responses": ["logits"]} if data.get("estimator") == "gradient" else data

    @model_validator(mode="after")
    def _check(self) -> Spec:
        """`ValueError` for the first parts that do not go together."""
        self._check_responses()
        self._check_decoder()
        if self.estimator == "gradient":
            self._check_gradient()
        self._check_stop()
        self._check_numerics()
        self._check_correlations()
        return self

    def with_batch(self, batch: int) -> Self:
        """The same with a batch that has been chosen."""
        return self.model_copy(
            update={"numerics": self.numerics.model_copy(update={"batch": batch, "tune": False})}
        )

    def in_format(self, memory_format: Literal["channels_last", "contiguous"]) -> Self:
        """The same with the memory format that a network has turned out to need."""
        if memory_format == "channels_last":
            return self
        numerics = self.numerics.model_copy(update={"memory_format": memory_format})
        return self.model_copy(update={"numerics": numerics})

    def chosen_from(self, done: Self) -> Self:
        """With the batch of a run that has begun, where it is to be chosen."""
        return self.with_batch(done.numerics.batch) if self.numerics.tune else self

    @property
    def network(self) -> Spec:
        """The spec whose network workers load: this one."""
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of images after which a run may end, in order; the last is `samples`."""
        if self.stop is None:
            return (self.samples,)
        first, looks = -(-self.stop.first // self.numerics.batch) * self.numerics.batch, list[int]()
        while first < self.samples:
            looks.append(first)
            first *= 2
        return (*looks, self.samples)

    @property
    def keeps_squares(self) -> bool:
        """Whether sums of squares are kept for every value: of the noise (or of pictures) by
        response, or of the gradient.
        """
        return self.moments.second or self.estimator == "gradient" or self.stimulus.measured

    def _check_gradient(self) -> None:
        rough = [r.kind for r in self.responses if r.kind not in DIFFERENTIABLE]
        if rough:
            raise ValueError(
                f"estimator: {rough[0]} has no gradient; with estimator: gradient take"
                f" {', '.join(DIFFERENTIABLE)}"
            )
        if self.stimulus.kind not in ("gaussian", "images"):
            raise ValueError(
                "estimator: the mean gradient is the map for gaussian noise only (Stein's"
                f" identity), not {self.stimulus.kind}"
            )
        for name in ("spectrum", "basis"):
            if getattr(self.stimulus, name) is not None:
                raise ValueError(
                    f"estimator: gradient has the map of white noise; leave stimulus.{name} out"
                )
        if self.target is not None and self.target.position == "pooled":
            raise ValueError(
                "estimator: gradient has no pooled positions; take target.position: centre or mean"
            )
        if self.moments.second or self.keep_responses:
            raise ValueError(
                "estimator: gradient keeps neither second moments nor single responses; leave"
                " them out"
            )

    def _check_responses(self) -> None:
        kinds = [r.kind for r in self.responses]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"responses: each kind may stand once, got {', '.join(kinds)}")
        foreign = [kind for kind in kinds if kind not in UNIT_KINDS]
        if self.target is not None and foreign:
            raise ValueError(
                f"responses: {foreign[0]} is of the network's output; units (target:) have"
                f" {', '.join(UNIT_KINDS)}"
            )
        for name in ("output", "classes"):
            if self.target is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: says how the network's output is read, but units (target:) are asked;"
                    " leave one out"
                )

    def _check_decoder(self) -> None:
        if self.decoder is None:
            return
        if self.stimulus.space != "input":
            raise ValueError(
                "decoder: the noise is what it is fed, not pixels; give stimulus.space: input"
            )
        if self.target is not None and self.target.evaluate != "image":
            raise ValueError("decoder: it takes whole codes only; give target.evaluate: image")

    def _check_stop(self) -> None:
        kinds = [r.kind for r in self.responses]
        if self.stop is not None and self.stop.response not in (None, *kinds):
            raise ValueError(
                f"stop.response: {self.stop.response} is none of the responses ({', '.join(kinds)})"
            )

    def _check_numerics(self) -> None:
        inside = self.target is not None or self.estimator == "gradient"
        if self.numerics.compile is not None and inside:
            other = "target" if self.target is not None else "estimator: gradient"
            raise ValueError(
                f"numerics.compile: a compiled network gives its outputs, no more, but {other}"
                " looks inside; leave one out"
            )
        if self.numerics.tune and self.estimator == "gradient":
            raise ValueError(
                "numerics.tune: times forward passes, but estimator: gradient goes backward, too;"
                " give numerics.batch instead"
            )
        uris = (self.model, self.decoder or "")
        if self.numerics.tune and any(uri.startswith("export:") for uri in uris):
            raise ValueError(
                "numerics.tune: a program saved by torch.export has its batch built in; give"
                " numerics.batch instead"
            )

    def _check_correlations(self) -> None:
        """Pooled positions and second moments need values that are independent of each other."""
        pooled = self.target is not None and self.target.position == "pooled"
        if pooled and self.stimulus.cell > 1:
            raise ValueError(
                "target.position: pooled needs noise of single pixels; leave stimulus.cell out"
            )
        correlates = next(
            (name for name in ("spectrum", "basis") if getattr(self.stimulus, name) is not None),
            None,
        )
        if self.moments.second and self.stimulus.mixed:
            raise ValueError(
                "moments.second: variances of single values say nothing where values correlate;"
                f" leave stimulus.{correlates} out"
            )
        if pooled and correlates is not None:
            raise ValueError(
                "target.position: pooled needs patches of white noise; leave"
                f" stimulus.{correlates} out, or take centre"
            )
        if pooled and self.stimulus.measured:
            raise ValueError(
                "target.position: patches of one picture are no independent samples, so pooled"
                " needs noise; take centre"
            )
