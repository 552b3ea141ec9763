"""A network with its feed, from images to outputs: what a worker holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wna_ray.cuda.stream import Beside
from wna_ray.errors import ModelError
from wna_ray.networks.field import Field
from wna_ray.networks.models import Model
from wna_ray.networks.units import as_maps
from wna_ray.shards.feed import Feed
from wna_ray.shards.network import Network


@dataclass(frozen=True, eq=False)
class FedNetwork:
    """Shows images to a network, and reads its answers. It never changes: another batch, or other
    units, make another one around the same network (see `with_batch` and `aimed`).

    Attributes
    ----------
    uri
        What was loaded, for errors.
    model
        What is known of it: its source and digest, and the names of its outputs.
    feed
        Makes what the network is fed.
    network
        The forward pass.
    batch
        Images in a forward pass.
    beside
        The device's second stream, one for all that is done for this network: torch keeps the
        memory that a stream has freed for this stream.
    layer
        Whose units answer; "" where the network's outputs do.
    field
        Where these units look; None where the network's outputs, or all of a layer, are the answer.
    """

    uri: str
    model: Model
    feed: Feed
    network: Network
    batch: int
    beside: Beside
    layer: str = ""
    field: Field | None = None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.network.device

    @property
    def module(self) -> nn.Module:
        """The network itself, to look into, or to act on while it runs."""
        return self.network.module

    def with_batch(self, batch: int) -> FedNetwork:
        """The same network for another batch."""
        return replace(self, batch=batch)

    def aimed(self, field: Field | None) -> FedNetwork:
        """The same network, answering for the units of a field."""
        return replace(self, field=field)

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
            fed = self.feed.of_images(self._whole_batch(images))
            return self._outputs(self.network.forward(fed))[: len(images)]

    def answer_begun(self, begun: torch.Tensor) -> torch.Tensor:
        """The same of a whole batch of what `Feed.begin` gives."""
        with torch.inference_mode():
            return self._outputs(self.network.forward(self.feed.finish(begun)))

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """What the network itself, not compiled, gives for images of any number."""
        output: torch.Tensor = self.module(self.feed.of_images(images))
        return output

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The layer's maps ``(n, C', H', W')`` for images of any number and size."""
        with torch.inference_mode():
            return as_maps(self.plain(images), self.layer).float().clone()

    def tracked(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``(n, C, H, W)`` and outputs ``(n, k)`` float32 that gradients can be taken
        of; of pooled positions the middle one's.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = images.clone().requires_grad_()
            y = self.plain(x)
            if self.field is None:
                return x, y.reshape(len(x), -1).float()
            return x, self.field.middle(as_maps(y, self.layer)).float()

    def pictures(self, codes: torch.Tensor) -> NDArray[np.float32]:
        """The decoder's pictures ``(n, C, H, W)`` float32 of codes ``(n, C', H', W')``, before
        they are normalised; at most a batch.
        """
        assert self.feed.decoder is not None, "there are pictures where there is a decoder"
        with torch.inference_mode():
            pictures = self.feed.decoder.pictures(self._whole_batch(codes))
            return np.asarray(pictures[: len(codes)].cpu().numpy())

    def _outputs(self, y: Any) -> torch.Tensor:
        """One row of outputs an image, of whatever a network gives for a whole batch."""
        n = self.batch
        if not isinstance(y, torch.Tensor) or y.ndim < 1 or len(y) != n or y.numel() < n:
            given = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ModelError(
                f"model: {self.uri} gave {given}; expected one row of outputs for each of {n}"
                " images"
            )
        if self.field is not None:
            y = self.field.responses(as_maps(y, self.layer))
        return torch.as_tensor(y.reshape(n, -1).float())

    def _whole_batch(self, images: torch.Tensor) -> torch.Tensor:
        missing = self.batch - len(images)
        if missing <= 0:
            return images
        return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
