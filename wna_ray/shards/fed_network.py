"""A network with its feed, from images to outputs: what a worker holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wna_ray.cuda.stream import Beside
from wna_ray.networks.field import Field
from wna_ray.networks.models import Model
from wna_ray.networks.outputs import check_rows, rows_of, tensor_at
from wna_ray.networks.reading import AS_IT_IS, Reading
from wna_ray.networks.units import as_maps
from wna_ray.shards.feed import Feed
from wna_ray.shards.network import MemoryFormat, Network


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
    reading
        How the network's output is read, where that is the answer.
    """

    uri: str
    model: Model
    feed: Feed
    network: Network
    batch: int
    beside: Beside
    layer: str = ""
    field: Field | None = None
    reading: Reading = AS_IT_IS

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

    def in_format(self, memory_format: MemoryFormat) -> FedNetwork:
        """The same network, fed in another memory format."""
        if memory_format == self.network.memory_format:
            return self
        return replace(
            self,
            network=self.network.in_format(memory_format),
            feed=self.feed.in_format(memory_format),
        )

    def read_as(self, reading: Reading) -> FedNetwork:
        """The same network, its output read in another way."""
        return replace(self, reading=reading)

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

    def read(self, output: Any) -> NDArray[np.float32]:
        """Outputs ``(n, k)`` in the CPU's memory, of what the network itself gave for a batch."""
        with torch.inference_mode():
            return np.asarray(self._outputs(output).cpu().numpy())

    def plain(self, images: torch.Tensor) -> Any:
        """What the network itself, not compiled, gives for images of any number."""
        return self.module(self.feed.of_images(images))

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
                return x, rows_of(self.reading, tensor_at(y, self.reading.field))
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
        if self.field is not None:
            y = self.field.responses(as_maps(y, self.layer))
            return torch.as_tensor(y.reshape(n, -1).float())
        return rows_of(self.reading, check_rows(tensor_at(y, self.reading.field), n, self.uri))

    def _whole_batch(self, images: torch.Tensor) -> torch.Tensor:
        missing = self.batch - len(images)
        if missing <= 0:
            return images
        return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
