"""The way from grid values of noise to what a network is fed.

A stimulus scales grid values and adds its offset; a decoder, if there is one, makes pictures of
them; these are normalised, rounded to the network's arithmetic and laid out in its memory format.
All steps before a decoder can be made ahead, while the network is busy with the last batch:

    begun = feed.begin(stimulus, grid)    # no network runs
    fed = feed.finish(begun)              # the decoder runs, if there is one
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from wna_ray.cuda import noise as device_noise
from wna_ray.cuda.constants import has_kernels
from wna_ray.shards.decoder import LoadedDecoder
from wna_ray.shards.network import FORMATS, MemoryFormat
from wna_ray.specs.numerics import NormaliseSpec
from wna_ray.stimuli.stimulus import Stimulus

LARGE_IMAGE = 1 << 16
"""Values of an image that is better made ready alone, in the cache, than with others
(docs/decisions/0008-large-images.md).
"""
NO_CHANGE = ((0.0,), (1.0,))  # mean and standard deviation of a normalisation that does nothing


class Feed:
    """Makes what a network is fed.

    Parameters
    ----------
    device, dtype
        Where the network runs, and in which arithmetic.
    shape
        ``(C, H, W)`` of a whole image that the network is fed.
    normalise
        Stands between the images (or the decoder's pictures) and the network; None where the
        noise lives in the network's input space.
    decoder
        Makes pictures of the noise first.
    memory_format
        How images lie in memory.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        shape: tuple[int, int, int],
        normalise: NormaliseSpec | None = None,
        decoder: LoadedDecoder | None = None,
        memory_format: MemoryFormat = "channels_last",
    ) -> None:
        self.device, self.dtype, self.shape = device, dtype, shape
        self.normalise, self.decoder, self.memory_format = normalise, decoder, memory_format
        self._mean_std: tuple[torch.Tensor, torch.Tensor] | None = None
        if normalise is not None and (normalise.mean, normalise.std) != NO_CHANGE:
            mean, std = (
                torch.tensor(v, dtype=torch.float32, device=device).view(1, -1, 1, 1)
                for v in (normalise.mean, normalise.std)
            )
            self._mean_std = mean, std

    def in_format(self, memory_format: MemoryFormat) -> Feed:
        """The same in another memory format."""
        return Feed(
            self.device, self.dtype, self.shape, self.normalise, self.decoder, memory_format
        )

    def beginning(self, stimulus: Stimulus) -> Callable[[torch.Tensor], torch.Tensor]:
        """`begin` for one stimulus, or the look-up that gives the same: a function of grid
        values.
        """
        if not self.looks_up(stimulus):
            return lambda grid: self.begin(stimulus, grid.contiguous())
        levels = self.levels(stimulus)
        return lambda grid: self._laid_out(device_noise.fed(grid, levels, stimulus))

    def begin(self, stimulus: Stimulus, grid: torch.Tensor) -> torch.Tensor:
        """All that can be made of grid values ``(n, C, h, w)`` int8 before a network runs: the
        decoder's codes, or else what the network is fed. Large images are made one by one on a
        CPU, in its cache.
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
        return self._laid_out(out)

    def finish(self, begun: torch.Tensor) -> torch.Tensor:
        """What the network is fed, of what `begin` gives."""
        return begun if self.decoder is None else self.of_images(begun)

    def of_images(self, images: torch.Tensor) -> torch.Tensor:
        """What the network is fed for images ``(n, C, H, W)`` float32 of a stimulus, which are
        a decoder's codes where there is one.
        """
        return self.ready(images if self.decoder is None else self.decoder.pictures(images))

    def ready(self, images: torch.Tensor) -> torch.Tensor:
        """The last step: images ``(n, C, H, W)`` float32 normalised, in the network's arithmetic
        and memory format.
        """
        return self._laid_out(self._normalised(images).to(self.dtype))

    def looks_up(self, stimulus: Stimulus) -> bool:
        """Whether what the network is fed is looked up, value by value of the grid, by one
        kernel.
        """
        return has_kernels(self.device) and stimulus.pointwise and self.decoder is None

    def levels(self, stimulus: Stimulus) -> torch.Tensor:
        """``(C, 256)``: what the network is fed in each channel for grid values of -128 ...
        127, of a stimulus that is `pointwise`.
        """
        values = torch.arange(-128, 128, dtype=torch.int8, device=self.device).view(-1, 1, 1, 1)
        fed = self.ready(
            stimulus.images(values.expand(-1, stimulus.shown_shape[0], 1, 1), self.device)
        )
        return fed[:, :, 0, 0].T.contiguous()

    def _laid_out(self, images: torch.Tensor) -> torch.Tensor:
        return images.contiguous(memory_format=FORMATS[self.memory_format])

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        if self._mean_std is None:
            return images
        mean, std = self._mean_std
        return images.sub(mean).div_(std)
