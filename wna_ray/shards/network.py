"""A model on its device: the forward pass, and what it is fed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wna_ray.cuda import noise as device_noise
from wna_ray.cuda.stream import Beside
from wna_ray.errors import ModelError
from wna_ray.networks import models
from wna_ray.networks.field import Field
from wna_ray.networks.tuning import CANDIDATES, Compiled, Tuned, choose_batch
from wna_ray.networks.units import Tap, as_maps
from wna_ray.specs.numerics import NormaliseSpec
from wna_ray.specs.run import Spec
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.text import first_line

Device = Literal["cpu", "cuda"]
LARGE_IMAGE = (
    1 << 16
    # values of an image that is better made ready alone, in the cache, than with others
    # (docs/decisions/0008-large-images.md)
)


@dataclass(frozen=True)
class Decoder:
    """What makes pictures of codes.

    Attributes
    ----------
    source, digest
        What it is, and the digest of its weights.
    shape
        ``(C, H, W)`` of a picture.
    """

    source: str
    digest: str
    shape: tuple[int, int, int]


class Network:
    """A model on its device, in its arithmetic, with the decoder before it, if any. One whose spec
    has a target answers once it is aimed at a `Field`.

    Parameters
    ----------
    spec
        Gives model, numerics and normalisation.
    device
        Where it runs.
    """

    def __init__(self, spec: Spec, device: Device) -> None:
        self.spec, self.device = spec, torch.device(device)
        self.beside = Beside(self.device)
        self.model = models.load(spec.model)
        self.dtype: torch.dtype = getattr(torch, spec.numerics.dtype)
        if device == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.decoder: Decoder | None = None
        if spec.decoder is not None:
            self.decoder = self._load_decoder(spec.decoder)
        self.seen = spec.stimulus.shape if self.decoder is None else self.decoder.shape
        """``(C, H, W)`` of what is shown to the model."""
        self.normalise = self._normalise()
        if self.model.shape is not None and self.model.shape != self.seen:
            given = (
                f"stimulus.shape: {self.seen}"
                if self.decoder is None
                else f"decoder: {spec.decoder} gives pictures {self.seen}"
            )
            raise ModelError(f"{given}, but {spec.model} takes {self.model.shape}")
        self.field: Field | None = None
        self.tuned: Tuned | None = None
        module = self.model.module
        if spec.target is not None:
            if isinstance(module, Tap):
                raise ModelError(
                    "target.layer: the model's URI already takes a layer; leave layer= out of it"
                )
            module = Tap(module, spec.target.layer, "target.layer").eval()
        self.module = self._here(module, spec.model)
        mode = spec.numerics.compile
        if mode is not None and isinstance(module, Tap):
            raise ModelError(
                "numerics.compile: a compiled network gives its outputs, no more, but layer= looks"
                " inside; leave one out"
            )
        self._compiled = None if mode is None else Compiled(self.module, mode, spec.model)
        if self.normalise is not None:
            channels = (1, -1, 1, 1)
            self._mean, self._std = (
                torch.tensor(v, dtype=torch.float32, device=self.device).view(channels)
                for v in (self.normalise.mean, self.normalise.std)
            )

    def _here(self, module: nn.Module, uri: str) -> nn.Module:
        """A module on the device, in its arithmetic."""
        module = module.to(self.device, self.dtype)
        return (
            module if uri.startswith("export:") else module.to(memory_format=torch.channels_last)
        )  # a program has a format built in

    def _load_decoder(self, uri: str) -> Decoder:
        """Load the decoder, and look at its picture of a code."""
        loaded, shape = models.load_decoder(uri), self.spec.stimulus.shape
        if loaded.shape not in (None, shape):
            raise ModelError(f"stimulus.shape: {shape}, but {uri} takes codes {loaded.shape}")
        self._decoding = self._here(loaded.module, uri)
        codes = torch.zeros((self.spec.numerics.batch, *shape), device=self.device)
        try:
            with torch.inference_mode():
                pictures = self._pictures(codes)
        except Exception as error:  # whatever the decoder's own code raises
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(
                f"decoder: {uri} does not take codes {shape} ({reason}); see stimulus.shape"
            ) from error
        if pictures.ndim != 4 or len(pictures) != len(codes) or not pictures.numel():
            raise ModelError(
                f"decoder: {uri} gave {tuple(pictures.shape)} for {len(codes)} codes; expected"
                " pictures (n, C, H, W)"
            )
        _, c, h, w = pictures.shape
        return Decoder(loaded.source, loaded.digest, (c, h, w))

    def _normalise(self) -> NormaliseSpec | None:
        spec = self.spec
        if spec.stimulus.space == "input" and self.decoder is None:
            return None
        normalise = spec.normalise or self.model.normalise
        if normalise is None:
            given, way = (
                "stimulus.space: pixel",
                ", or space: input if the noise is what the network itself is fed",
            )
            if self.decoder is not None:
                given, way = (
                    "decoder: it makes pictures in pixels",
                    " (of 0 and 1 if they are what the network itself is fed)",
                )
            raise ModelError(
                f"{given}, but {spec.model} declares no normalisation; give normalise: {{mean:"
                f" [...], std: [...]}}{way}"
            )
        channels = self.seen[0]
        if {len(normalise.mean), len(normalise.std)} - {1, channels}:
            raise ModelError(
                f"normalise: {len(normalise.mean)} means and {len(normalise.std)} stds for"
                f" {channels} channels; give one each, or one for all"
            )
        return normalise

    def tune(self, shape: tuple[int, int, int]) -> int:
        """Choose the batch for images ``(C, H, W)`` by the network as it is, not compiled, and
        keep to it; `tuned` has all rates.
        """

        def prepared(n: int) -> Callable[[], None]:
            images = torch.rand((n, *shape), device=self.device)

            def forward() -> None:
                with torch.inference_mode():
                    self._pass(images)
                if self.device.type == "cuda":
                    torch.cuda.synchronize()

            return forward

        try:
            self.tuned = choose_batch(prepared)
        except Exception as error:  # whatever the network's own code raises
            raise ModelError(
                f"numerics.tune: {self.spec.model} does not take batches of {CANDIDATES[0]} images"
                f" and more of {shape} here ({type(error).__name__}: {first_line(error)}); give"
                " numerics.batch instead"
            ) from error
        self.spec = self.spec.with_batch(self.tuned.batch)
        return self.tuned.batch

    def aim(self, field: Field | None) -> None:
        """Answer for the units of a field."""
        self.field = field
        if (
            isinstance(self.module, Tap) and not self.module.counted
        ):  # by a whole image: a window may not reach the network's end
            self.maps(torch.zeros((1, *self.spec.stimulus.shape), device=self.device))

    def __call__(self, images: torch.Tensor) -> NDArray[np.float32]:
        """What `answer` gives, in the CPU's memory."""
        return np.asarray(self.answer(images).cpu().numpy())

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """Outputs ``(n, k)`` float32 of images ``(n, C, H, W)`` float32, on the device; ``n`` is at
        most the fixed batch.

        Of units that are pooled, ``(n, patches * k)``. The forward pass always has the same shape:
        fewer images are padded with copies of the last.
        """
        with torch.inference_mode():
            return self._outputs(self.forward(self._fed(self._whole_batch(images))))[: len(images)]

    def answer_shown(self, shown: torch.Tensor) -> torch.Tensor:
        """The same of what `shown` gives, a whole batch."""
        with torch.inference_mode():
            return self._outputs(self.forward(shown if self.decoder is None else self._fed(shown)))

    def forward(self, fed: torch.Tensor) -> torch.Tensor:
        """What the network gives for a whole batch of what `ready` gives: the forward pass,
        compiled where it is, and nothing else.
        """
        found: torch.Tensor = (self._compiled or self.module)(fed)
        return found

    def _outputs(self, y: Any) -> torch.Tensor:
        batch = self.spec.numerics.batch
        if not isinstance(y, torch.Tensor) or y.ndim < 1 or len(y) != batch or y.numel() < batch:
            found = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ModelError(
                f"model: {self.spec.model} gave {found}; expected one row of outputs for each of"
                f" {batch} images"
            )
        if self.field is not None:
            y = self.field.responses(self._maps_of(y))
        return torch.as_tensor(y.reshape(batch, -1).float())

    def _whole_batch(self, images: torch.Tensor) -> torch.Tensor:
        missing = self.spec.numerics.batch - len(images)
        return (
            torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
            if missing > 0
            else images
        )

    def pictures(self, codes: torch.Tensor) -> NDArray[np.float32]:
        """The decoder's pictures ``(n, C, H, W)`` float32 of codes ``(n, C', H', W')``, as the
        model is shown them; at most a batch.
        """
        with torch.inference_mode():
            return np.asarray(self._pictures(self._whole_batch(codes))[: len(codes)].cpu().numpy())

    def _pictures(self, codes: torch.Tensor) -> torch.Tensor:
        pictures: torch.Tensor = self._decoding(
            codes.to(self.dtype).contiguous(memory_format=torch.channels_last)
        )
        return pictures.float()

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The target layer's maps ``(n, C', H', W')`` for images of any number and size."""
        with torch.inference_mode():
            return self._maps_of(self._pass(images)).float().clone()

    def tracked(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``(n, C, H, W)`` and outputs ``(n, k)`` float32 that gradients can be taken
        of; of pooled positions the middle one's.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = images.clone().requires_grad_()
            y = self._pass(x)
            y = y.reshape(len(x), -1) if self.field is None else self.field.middle(self._maps_of(y))
            return x, y.float()

    def levels(self, stimulus: Stimulus) -> torch.Tensor:
        """``(C, 256)``: what the network is fed in each channel for grid values of -128 ...
        127, of a stimulus that is `pointwise`.
        """
        values = torch.arange(-128, 128, dtype=torch.int8, device=self.device).view(-1, 1, 1, 1)
        fed = self.ready(
            stimulus.images(values.expand(-1, stimulus.shown_shape[0], 1, 1), self.device)
        )
        return fed[:, :, 0, 0].T.contiguous()

    def shown(self, stimulus: Stimulus, grid: torch.Tensor) -> torch.Tensor:
        """What can be made of grid values ``(n, C, h, w)`` int8 before a network runs: what a
        decoder is shown, or what `ready` gives for their images. Large ones are made one by one on
        a CPU, in its cache.
        """
        if self.decoder is not None:
            return stimulus.images(grid, self.device)
        if (
            self.device.type != "cpu"
            or not stimulus.pointwise
            or math.prod(stimulus.shown_shape) < LARGE_IMAGE
        ):
            return self.ready(stimulus.images(grid, self.device))
        out = device_noise.room((len(grid), *stimulus.shown_shape), self.dtype, self.device)
        for image, values in zip(torch.split(out, 1), torch.split(grid, 1), strict=True):
            image.copy_(self._normalised(stimulus.images(values)))
        return out

    def ready(self, images: torch.Tensor) -> torch.Tensor:
        """What the model itself is fed for images ``(n, C, H, W)`` float32: normalised, in its
        arithmetic and memory format.
        """
        return self._normalised(images).to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        if self.normalise is None or (self.normalise.mean, self.normalise.std) == ((0.0,), (1.0,)):
            return images
        return images.sub(self._mean).div_(self._std)

    def _fed(self, images: torch.Tensor) -> torch.Tensor:
        return self.ready(images if self.decoder is None else self._pictures(images))

    def _pass(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.module(self._fed(images))
        return output

    def _maps_of(self, output: torch.Tensor) -> torch.Tensor:
        return as_maps(output, self.spec.target.layer if self.spec.target is not None else "")
