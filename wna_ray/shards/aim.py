"""Aiming a network at the units of a target: where they look, and what has to be shown to them."""

from __future__ import annotations

import numpy as np
import torch

from wna_ray.errors import ModelError
from wna_ray.networks.field import Field
from wna_ray.networks.units import Tap, find_field
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.specs.run import Spec
from wna_ray.stimuli.stimulus import Stimulus
from wna_ray.text import first_line

FIELD_IMAGES = 8  # of noise, on which a receptive field is put to the test


def look_for_field(spec: Spec, stimulus: Stimulus, network: FedNetwork) -> tuple[Field | None, str]:
    """Find what the target's units see.

    Parameters
    ----------
    stimulus
        The noise as whole images.

    Returns
    -------
    field
        Where they look; None without a target.
    reason
        Why the whole image is shown to them, or "" where only a window is.
    """
    if spec.target is None:
        return None, ""
    mean = np.broadcast_to(stimulus.shown_offset, spec.stimulus.shape).copy()
    image = torch.from_numpy(mean).to(network.device)
    noise = stimulus.images(stimulus.noise.grid(0, FIELD_IMAGES), network.device)
    rounding = torch.finfo(network.network.dtype).eps
    try:
        return find_field(spec.target, network.maps, image, noise, spec.stimulus.cell, rounding)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # of the network's own code, which took whole images before
        raise ModelError(
            f"target.position: what units see is found by images with NaN in them, which"
            f" {network.uri} refuses ({type(error).__name__}: {first_line(error)}); take"
            " target.position: mean, which needs none"
        ) from error


def aim(network: FedNetwork, field: Field | None, shape: tuple[int, int, int]) -> FedNetwork:
    """The same network, answering for the units of a field (or as it is, for None).

    A network that ends at a layer first counts how often a pass uses the layer, by a whole image
    of a `shape`: a window may not reach the network's end.
    """
    if isinstance(network.module, Tap) and not network.module.counted:
        network.maps(torch.zeros((1, *shape), device=network.device))
    return network.aimed(field)
