"""A decoder: a network that makes pictures of noise, which another network then looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wna_ray.errors import ModelError
from wna_ray.networks import models
from wna_ray.shards.network import FORMATS, MemoryFormat, Network, first_that_runs
from wna_ray.text import first_line


@dataclass(frozen=True)
class Decoder:
    """What makes pictures of codes, for the record.

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


@dataclass(frozen=True, eq=False)
class LoadedDecoder:
    """A decoder that is ready to run.

    Attributes
    ----------
    record
        Which one it is.
    network
        Its forward pass.
    """

    record: Decoder
    network: Network

    def pictures(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures ``(n, C, H, W)`` float32 of codes ``(n, C', H', W')``."""
        return _pictures(self.network, codes)


def load_decoder(
    uri: str, shape: tuple[int, int, int], batch: int, device: torch.device, dtype: torch.dtype
) -> LoadedDecoder:
    """Load a decoder, and look at its picture of a code.

    Parameters
    ----------
    shape
        ``(C', H', W')`` of a code: of the noise.
    batch
        Codes in a batch.

    Raises
    ------
    ModelError
        There is no such decoder, it does not take such codes, or it gives no pictures.
    """
    model = models.load_decoder(uri)
    if model.shape not in (None, shape):
        raise ModelError(f"stimulus.shape: {shape}, but {uri} takes codes {model.shape}")
    network = Network(model.module, uri, device, dtype)

    def attempt(memory_format: MemoryFormat) -> tuple[Network, torch.Tensor]:
        laid_out = network.in_format(memory_format)
        with torch.inference_mode():
            return laid_out, _pictures(laid_out, torch.zeros((batch, *shape), device=device))

    try:
        network, pictures = first_that_runs("auto", attempt)
    except Exception as error:  # whatever the decoder's own code raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(
            f"decoder: {uri} does not take codes {shape} ({reason}); see stimulus.shape"
        ) from error
    if pictures.ndim != 4 or len(pictures) != batch or not pictures.numel():
        raise ModelError(
            f"decoder: {uri} gave {tuple(pictures.shape)} for {batch} codes; expected"
            " pictures (n, C, H, W)"
        )
    _, c, h, w = pictures.shape
    return LoadedDecoder(Decoder(model.source, model.digest, (c, h, w)), network)


def _pictures(network: Network, codes: torch.Tensor) -> torch.Tensor:
    codes = codes.to(network.dtype).contiguous(memory_format=FORMATS[network.memory_format])
    pictures: torch.Tensor = network.forward(codes).float()
    return pictures
