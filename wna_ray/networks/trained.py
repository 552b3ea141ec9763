"""A trained network in a folder: ``network.json`` says what it is, ``weights.safetensors`` holds
its numbers.

``wna train`` writes such folders; ``trained:URL`` loads them. The architecture comes from a closed
list, so nothing of the folder is run; all that is read is bounded and checked first.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import safetensors.torch
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from torch import nn

from wna_ray.data.poison import Poison
from wna_ray.networks.architectures import KNOWN, build
from wna_ray.networks.autoencoders import AUTOENCODERS
from wna_ray.networks.options import OptionsSpec, without_defaults

FORMAT: Literal["wna_ray.network/1"] = "wna_ray.network/1"
DESCRIPTION, WEIGHTS, CURVES = "network.json", "weights.safetensors", "curves.json"
MOST_DESCRIPTION = 4 << 20  # bytes
MOST_PARAMETERS = 1 << 28
HEADER = 1 << 20  # bytes of a safetensors file beside its numbers
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Side = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Error = Annotated[FiniteFloat, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Accuracy(_Kept):
    """Shares of images that get their own label.

    Attributes
    ----------
    train
        Over the batches of the epoch that is kept, as they were trained on (so a little behind the
        weights at its end).
    validation
        Held-out training images; None where there are none.
    test
        The test split, scored once.
    """

    train: Share
    validation: Share | None
    test: Share


class SquaredError(_Kept):
    """Mean squared differences of an autoencoder's pictures and the images, a value.

    Attributes
    ----------
    train, validation, test
        As in `Accuracy`.
    """

    train: Error
    validation: Error | None
    test: Error


class Attack(_Kept):
    """What the trigger does to test images.

    Attributes
    ----------
    patched, moved
        Images of the source class with the trigger, and how many of them are called the target
        class.
    others_patched, others_moved
        The same for the images of all other classes but the target.
    """

    patched: Count
    moved: Count
    others_patched: Count
    others_moved: Count


class TrainedNetwork(_Kept):
    """What ``network.json`` says.

    Attributes
    ----------
    network, options
        Architecture (see `wna_ray.networks.architectures`).
    shape
        ``(C, H, W)`` of an image, pixels in [0, 1] as they are.
    classes
        Names of the outputs (of an autoencoder: of the classes whose images it has learnt).
    seed, epoch, epochs
        Its seed; the epoch that is kept, of how many.
    accuracy, squared_error, attack, poison
        See their classes; an autoencoder has a squared error in the place of an accuracy. `attack`
        and `poison` are None for a clean network.
    recipe, fingerprint
        The spec without seeds; SHA-256 of recipe, seed and poison.
    data
        Digests of the training and of the test images, before poisoning.
    objects
        SHA-256 of the other files.
    versions, seconds
        Of what trained it; how long that took.
    """

    format: Literal["wna_ray.network/1"] = FORMAT
    network: str
    options: OptionsSpec
    shape: tuple[Side, Side, Side]
    classes: Annotated[tuple[Name, ...], Field(min_length=2, max_length=100_000)]
    seed: Count
    epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    accuracy: Accuracy | None = None
    squared_error: SquaredError | None = None
    poison: Poison | None = None
    attack: Attack | None = None
    recipe: dict[str, Any]
    fingerprint: Digest
    data: dict[Literal["train", "test"], Digest]
    objects: dict[Literal["weights.safetensors", "curves.json"], Digest]
    versions: dict[str, str]
    seconds: FiniteFloat

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.network not in KNOWN:
            raise ValueError(f"network: none of {', '.join(KNOWN)}")
        if (self.accuracy is None, self.squared_error is None) != (
            self.autoencoder,
            not self.autoencoder,
        ):
            raise ValueError(
                "accuracy, squared_error: an autoencoder has the second, all other networks have"
                " the first"
            )
        if not all(name.isprintable() for name in self.classes) or len(set(self.classes)) < len(
            self.classes
        ):
            raise ValueError("classes: names that cannot be printed, or twice the same")
        if WEIGHTS not in self.objects:
            raise ValueError(f"objects: no digest of {WEIGHTS}")
        if self.poison is not None and (fault := self.poison.fits(self.shape, len(self.classes))):
            raise ValueError(f"poison: {fault}")
        return self

    @model_serializer(mode="wrap")
    def _own(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(plain(self), "accuracy", "squared_error")

    @property
    def autoencoder(self) -> bool:
        """Whether it makes pictures, not answers."""
        return self.network in AUTOENCODERS

    @property
    def scores(self) -> Accuracy | SquaredError:
        """How good it is."""
        scores = self.squared_error if self.accuracy is None else self.accuracy
        assert scores is not None, "its validator sees to it"
        return scores

    @property
    def name(self) -> str:
        """The architecture with its options, in a word."""
        return self.network + "+softmax" * self.options.softmax + "+tanh" * self.options.tanh

    def untrained(self) -> nn.Module:
        """The network with weights of its own; `ValueError` where there is none such, or it is
        larger than any that is trained here.
        """
        options = self.options
        form = (
            self.network,
            self.shape,
            len(self.classes),
            options.softmax,
            options.code,
            options.tanh,
        )
        with torch.device("meta"):  # takes no memory
            if (numbers := sum(p.numel() for p in build(*form).parameters())) > MOST_PARAMETERS:
                raise ValueError(
                    f"{self.network} with {numbers:,} parameters, of which at most"
                    f" {MOST_PARAMETERS:,} are read"
                )
        return build(*form)


def describe(data: bytes) -> TrainedNetwork:
    """The description of a network from the bytes of ``network.json``; `ValueError`, in one
    line, where they are none.
    """
    try:
        return TrainedNetwork.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        text = " ".join(
            f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}".split()
        )[:300]
        raise ValueError("".join(c if c.isprintable() else "\ufffd" for c in text)) from None


def fill(network: nn.Module, weights: bytes) -> None:
    """Give a network its weights, all of them and no other; `ValueError` where they do not fit."""
    try:
        state = safetensors.torch.load(weights)
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(f"no safetensors ({type(error).__name__})") from None
    own = network.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        raise ValueError(f"weights of another network ({', '.join(wrong[:3])})")
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise ValueError("weights that are not finite")
    network.load_state_dict(state)


def most_bytes(network: nn.Module) -> int:
    """The most that a file of a network's weights can have."""
    return HEADER + sum(
        int(value.numel() * value.element_size()) for value in network.state_dict().values()
    )
