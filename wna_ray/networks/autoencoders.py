"""Autoencoders: networks that make a code of an image, and the image of its code.

Only architectures and what each makes small live here. Those of Borji & Lin (2020), with sigmoid
outputs, so that pictures are in [0, 1] as a classifier expects them. Their own end in a tanh:
pictures in (-1, 1), of images 2 x - 1 (their defect: no classifier has seen such). Noise shown to a
decoder is noise in the space of codes; only those of a variational autoencoder are made to be N(0,
1).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from wna_ray.geometry import Shape

CODE = "the numbers of a code: options: {code: 20}"


class Autoencoder(nn.Module):
    """An encoder and its decoder, trained by their mean squared error.

    Parameters
    ----------
    encoder
        From images ``(n, C, H, W)`` to codes.
    decoder
        From codes ``(n, *code)`` to pictures ``(n, C, H, W)``; its last module is the sigmoid or
        tanh.
    code
        Shape of a code as a stimulus.
    tanh
        Whether pictures are in (-1, 1), and so images are first brought there.
    """

    def __init__(
        self, encoder: nn.Sequential, decoder: nn.Sequential, code: Shape, tanh: bool = False
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.code, self.tanh = encoder, decoder, code, tanh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.decoder(self.encoder(x)))

    def losses(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is made small, and the mean squared error of a value: here the same, each ``()``
        float32.
        """
        error = mse_loss(self(x).float(), 2 * x - 1 if self.tanh else x)
        return error, error.detach()


class Variational(Autoencoder):
    """A variational autoencoder (Kingma & Welling 2014): the encoder gives mean and log
    variance of a Gaussian code.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.decoder(self.encoder(x).chunk(2, dim=1)[0]))

    def losses(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The negative of their bound (their equation 10, of one code drawn from torch's
        generator), in nats an image: the cross-entropy of pixels as probabilities, and
        `divergence`; and the mean squared error of a value, of the mean code's picture.
        """
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        drawn = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        logits = self.decoder[:-1](drawn).float()
        with torch.no_grad():
            error = mse_loss(self.decoder(mean).float(), x)
        entropy = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (entropy + divergence(mean, log_variance).sum()) / len(x), error


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """``(n,)``: Kullback-Leibler divergence of Gaussians ``(n, d)`` from N(0, 1), in nats
    (Kingma & Welling 2014, appendix B).
    """
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1) / 2


def _linear(widths: Sequence[int]) -> OrderedDict[str, nn.Module]:
    """Linear layers with ReLU between them: ``fc1``, ``relu1``, ``fc2``, ..."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"fc{i}"] = nn.Linear(before, after)
        if i < len(widths) - 1:
            layers[f"relu{i}"] = nn.ReLU()
    return layers


def _perceptron(
    shape: Shape, hidden: Sequence[int], code: int, tanh: bool, variational: bool = False
) -> Autoencoder:
    pixels = math.prod(shape)
    encoder = _linear([pixels, *hidden, code * (1 + variational)])
    decoder = _linear([code, *reversed(hidden), pixels])
    decoder |= {"picture": nn.Unflatten(1, shape), "out": nn.Tanh() if tanh else nn.Sigmoid()}
    return (Variational if variational else Autoencoder)(
        nn.Sequential(encoder), nn.Sequential(decoder), (1, 1, code), tanh
    )


def _hidden(
    *hidden: int, variational: bool = False
) -> Callable[[Shape, int | None, bool], Autoencoder]:
    def build(shape: Shape, code: int | None, tanh: bool) -> Autoencoder:
        if code is None:
            raise ValueError(f"needs {CODE}")
        if variational and tanh:
            raise ValueError(
                "takes its pictures for probabilities, so it has no form that ends in a tanh"
            )
        return _perceptron(shape, hidden, code, tanh, variational)

    return build


def _convolutional(shape: Shape, code: int | None, tanh: bool) -> Autoencoder:
    """The paper's: a 3 x 3 convolution to 16 channels and a pooling of two, and the same way
    back; 305 parameters for one channel.
    """
    c, height, width = shape
    if code is not None:
        raise ValueError("has 16 maps of half the size as its code; leave options.code out")
    if height % 2 or width % 2:
        raise ValueError(f"images of {height} x {width}; it takes even sides")
    encoder = OrderedDict(
        conv1=nn.Conv2d(c, 16, 3, padding=1), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2)
    )
    decoder: OrderedDict[str, nn.Module] = OrderedDict(
        up1=nn.Upsample(scale_factor=2), conv1=nn.Conv2d(16, c, 3, padding=1)
    )
    decoder["out"] = nn.Tanh() if tanh else nn.Sigmoid()
    return Autoencoder(
        nn.Sequential(encoder), nn.Sequential(decoder), (16, height // 2, width // 2), tanh
    )


@dataclass(frozen=True)
class Autoencoding:
    """An autoencoder that can be trained, and loaded by its name.

    Attributes
    ----------
    build
        From the ``(C, H, W)`` of an image, the numbers of a code, and whether it ends in a tanh;
        `ValueError` where they do not fit.
    about
        What it is, in a few words.
    variational
        Whether its codes are made to be N(0, 1).
    """

    build: Callable[[Shape, int | None, bool], Autoencoder]
    about: str
    variational: bool = False


AUTOENCODERS: dict[str, Autoencoding] = {
    "autoencoder": Autoencoding(
        _hidden(400), "one hidden layer of 400 ReLU units on either side of the code"
    ),
    "autoencoder-deep": Autoencoding(
        _hidden(128, 64, 12), "the paper's, of 128, 64 and 12 ReLU units (its code: 9)"
    ),
    "autoencoder-conv": Autoencoding(
        _convolutional, "the paper's of one convolution on either side, with a code of 16 maps"
    ),
    "vae": Autoencoding(
        _hidden(400, variational=True),
        "a variational autoencoder of 400 ReLU units (Kingma & Welling 2014)",
        True,
    ),
}
