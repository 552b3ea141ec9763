"""From a spec to a network on a device that can be shown images."""

from __future__ import annotations

import torch
from torch import nn

from wna_ray.cuda.stream import Beside
from wna_ray.errors import ModelError
from wna_ray.networks import live, models
from wna_ray.networks.units import Tap
from wna_ray.shards.decoder import LoadedDecoder, load_decoder
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.feed import Feed
from wna_ray.shards.network import Device, Network
from wna_ray.specs.numerics import NormaliseSpec
from wna_ray.specs.run import Spec

Shape = tuple[int, int, int]


def load_network(spec: Spec, device: Device, given: models.Model | None = None) -> FedNetwork:
    """Load the model of a spec, and the decoder before it, if any.

    One whose spec has a target is not aimed yet (see `wna_ray.shards.aim`): it gives all of the
    target's layer. On a CUDA device its bits are repeatable once
    `wna_ray.execution.process.set_up_process` has been called.

    Parameters
    ----------
    spec
        Gives model, decoder, numerics, normalisation and the target's layer.
    device
        Where it runs.
    given
        A module of a process, which takes the place of the spec's model and belongs to the network
        from now on.

    Raises
    ------
    ModelError
        Something cannot be loaded, or does not fit the rest of the spec.
    """
    numerics, place = spec.numerics, torch.device(device)
    dtype: torch.dtype = getattr(torch, numerics.dtype)
    beside = Beside(place)
    if given is None:
        live.require_loadable(spec.model)
    model = given or models.load(spec.model)
    decoder: LoadedDecoder | None = None
    if spec.decoder is not None:
        decoder = load_decoder(spec.decoder, spec.stimulus.shape, numerics.batch, place, dtype)
    shape = spec.stimulus.shape if decoder is None else decoder.record.shape
    normalise = _normalisation(spec, model.normalise, channels=shape[0])
    _require_shape(spec, model.shape, shape)
    module = _to_layer(spec, model.module)
    return FedNetwork(
        uri=spec.model,
        model=model,
        feed=Feed(place, dtype, shape, normalise, decoder),
        network=Network(module, spec.model, place, dtype, numerics.compile),
        batch=numerics.batch,
        beside=beside,
        layer="" if spec.target is None else spec.target.layer,
    )


def _normalisation(
    spec: Spec, declared: NormaliseSpec | None, channels: int
) -> NormaliseSpec | None:
    """What stands between pixels and the network: the spec's, or what the model declares; None
    where the noise lives in the network's input space.
    """
    if spec.stimulus.space == "input" and spec.decoder is None:
        return None
    normalise = spec.normalise or declared
    if normalise is None:
        given, way = (
            "stimulus.space: pixel",
            ", or space: input if the noise is what the network itself is fed",
        )
        if spec.decoder is not None:
            given, way = (
                "decoder: it makes pictures in pixels",
                " (of 0 and 1 if they are what the network itself is fed)",
            )
        raise ModelError(
            f"{given}, but {spec.model} declares no normalisation; give normalise: {{mean:"
            f" [...], std: [...]}}{way}"
        )
    if {len(normalise.mean), len(normalise.std)} - {1, channels}:
        raise ModelError(
            f"normalise: {len(normalise.mean)} means and {len(normalise.std)} stds for"
            f" {channels} channels; give one each, or one for all"
        )
    return normalise


def _require_shape(spec: Spec, required: Shape | None, shape: Shape) -> None:
    """`ModelError` where the model says what it must be fed, and is fed something else."""
    if required is None or required == shape:
        return
    given = (
        f"stimulus.shape: {shape}"
        if spec.decoder is None
        else f"decoder: {spec.decoder} gives pictures {shape}"
    )
    raise ModelError(f"{given}, but {spec.model} takes {required}")


def _to_layer(spec: Spec, module: nn.Module) -> nn.Module:
    """The network, or the part of it up to the target's layer."""
    if spec.target is not None:
        if isinstance(module, Tap):
            raise ModelError(
                "target.layer: the model's URI already takes a layer; leave layer= out of it"
            )
        module = Tap(module, spec.target.layer, "target.layer").eval()
    if spec.numerics.compile is not None and isinstance(module, Tap):
        raise ModelError(
            "numerics.compile: a compiled network gives its outputs, no more, but layer= looks"
            " inside; leave one out"
        )
    return module
