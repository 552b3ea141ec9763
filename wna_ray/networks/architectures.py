"""Architectures that `bundled:` and `trained:` models and the training job share.

Only architectures live here: `NETWORKS` (classifiers) and `AUTOENCODERS` are the closed list of
what `wna train` trains and `trained:` loads. Bundled weights and their recipe are in
``wna_ray/bundled/``. All but ResNet-20 are those of Borji & Lin (2020), named by what their layers
do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import pad

from wna_ray.geometry import Shape
from wna_ray.networks.autoencoders import AUTOENCODERS


def convolutional(
    shape: Shape = (1, 28, 28),
    classes: int = 10,
    first: int = 20,
    second: int = 50,
    hidden: int = 500,
    side: int = 5,
) -> nn.Sequential:
    """The paper's CNN: two convolutions, each with ReLU and a pooling of two, and two linear layers
    (``hidden = 0``: one, ``fc``).

    Returns
    -------
    torch.nn.Sequential
        Takes ``(n, C, H, W)``; gives ``(n, classes)`` logits. Layer names: ``conv1``, ``relu1``,
        ``pool1``, ``conv2``, ``relu2``, ``pool2``, ``flatten``, ``fc1``, ``relu3``, ``fc2``.
    """
    c, height, width = shape
    rows, columns = (((n - side + 1) // 2 - side + 1) // 2 for n in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(
            f"images of {height} x {width} are too small for two {side} x {side} convolutions with"
            " pooling"
        )
    flat = second * rows * columns
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(c, first, side),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(first, second, side),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )
    if not hidden:
        return nn.Sequential(layers | {"fc": nn.Linear(flat, classes)})
    return nn.Sequential(
        layers
        | {
            "fc1": nn.Linear(flat, hidden),
            "relu3": nn.ReLU(),
            "fc2": nn.Linear(hidden, classes),
        }
    )


def mnist_cnn() -> nn.Sequential:
    """The paper's MNIST CNN (431,080 parameters): ``(n, 1, 28, 28)`` pixels in [0, 1],
    unnormalised, to ``(n, 10)`` logits.
    """
    return convolutional()


class TwoClasses(nn.Module):
    """One logit z of the second class as the logits ``(0, z)`` of two classes: their softmax is the
    sigmoid of z.

    So cross-entropy is the binary cross-entropy of the sigmoid, and the larger logit names the
    class at a threshold of .5.
    """

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.zeros_like(z), z), dim=1)


def _binary(first: int) -> Callable[[Shape, int], nn.Sequential]:
    """The paper's binary CNNs, with one output ``fc2``."""

    def build(shape: Shape, classes: int) -> nn.Sequential:
        network = convolutional(shape, 1, first, 50, 100)
        network.add_module("two", TwoClasses())
        return network

    return build


def logistic_regression(shape: Shape = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """Multinomial logistic regression: the network whose logit maps are its own weight rows.

    Parameters
    ----------
    shape
        ``(C, H, W)`` of the input.
    classes
        Number of logits.
    """
    c, h, w = shape
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(c * h * w, classes)))


def perceptron(shape: Shape = (1, 28, 28), classes: int = 10, hidden: int = 1000) -> nn.Sequential:
    """One hidden layer of ReLU units: ``flatten``, ``fc1``, ``relu1``, ``fc2``."""
    c, h, w = shape
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(c * h * w, hidden),
            relu1=nn.ReLU(),
            fc2=nn.Linear(hidden, classes),
        )
    )


class Rows(nn.Module):
    """Images ``(n, C, H, W)`` as H steps of C W values: ``(n, H, C W)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).flatten(2)


class LastStep(nn.Module):
    """What a recurrent network says after the last step."""

    def forward(self, states: tuple[torch.Tensor, object]) -> torch.Tensor:
        return states[0][:, -1]


def _recurrent(cell: type[nn.RNNBase]) -> Callable[[Shape, int], nn.Sequential]:
    """Two recurrent layers of 100 units that read an image row by row from a state of zeros,
    and a linear layer on the last state.
    """

    def build(shape: Shape, classes: int) -> nn.Sequential:
        c, _, width = shape
        layers = cell(input_size=c * width, hidden_size=100, num_layers=2, batch_first=True)  # type: ignore[call-arg]  # RNNBase wants mode
        return nn.Sequential(
            OrderedDict(rows=Rows(), recurrent=layers, last=LastStep(), fc=nn.Linear(100, classes))
        )

    return build


def cifar_cnn(shape: Shape = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """The paper's CIFAR-10 CNN (5,852,170 parameters): six 3 x 3 convolutions in three blocks, and
    three linear layers.

    Layer names: in block i ``conv{i}a``, ``bn{i}``, ``relu{i}a``, ``conv{i}b``, ``relu{i}b``,
    ``pool{i}``; then ``fc1`` to ``fc3``. In eval mode ``drop2``, ``drop3`` and ``drop4`` do
    nothing.
    """
    before, height, width = shape
    if height < 8 or width < 8:
        raise ValueError(f"images of {height} x {width} are too small for three poolings")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (a, b) in enumerate(((32, 64), (128, 128), (256, 256)), start=1):
        layers |= {
            f"conv{i}a": nn.Conv2d(before, a, 3, padding=1),
            f"bn{i}": nn.BatchNorm2d(a),
            f"relu{i}a": nn.ReLU(),
        }
        layers |= {
            f"conv{i}b": nn.Conv2d(a, b, 3, padding=1),
            f"relu{i}b": nn.ReLU(),
            f"pool{i}": nn.MaxPool2d(2),
        }
        if i == 2:
            layers["drop2"] = nn.Dropout2d(0.05)
        before = b
    layers |= {
        "flatten": nn.Flatten(),
        "drop3": nn.Dropout(0.1),
        "fc1": nn.Linear(256 * (height // 8) * (width // 8), 1024),
    }
    layers |= {
        "relu4": nn.ReLU(),
        "fc2": nn.Linear(1024, 512),
        "relu5": nn.ReLU(),
        "drop4": nn.Dropout(0.1),
    }
    return nn.Sequential(layers | {"fc3": nn.Linear(512, classes)})


class _Shortcut(nn.Module):
    """He et al.'s option A: every other row and column, and new channels of zeros on both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 4, self.channels // 4))


class _Block(nn.Module):
    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        stride = channels // before
        self.conv1 = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _Shortcut(channels) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return torch.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for 32 x 32 images (He et al. 2015, section 4.2; shortcuts of option A): 6 n + 2
    layers.

    Layer names as in the weights that are around: ``conv1``, ``bn1``, ``layer1.0.conv1`` ...
    ``layer3.2.bn2``, ``linear``.
    """

    def __init__(self, n: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(_Block(before if i == 0 else channels, channels) for i in range(n)))
            for before, channels in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return torch.as_tensor(self.linear(y.mean(dim=(2, 3))))


def cifar_resnet20() -> CifarResNet:
    """The ResNet-20 of He et al. (2015): takes ``(n, 3, 32, 32)`` normalised by ImageNet's mean
    and std, gives 10 logits.
    """
    return CifarResNet(3)


def _resnet20(shape: Shape, classes: int) -> CifarResNet:
    if shape[0] != 3:
        raise ValueError(f"images of {shape[0]} channel(s); it takes three")
    return CifarResNet(3, classes)


@dataclass(frozen=True)
class Architecture:
    """A network that can be trained, and loaded by its name.

    Attributes
    ----------
    build
        From the ``(C, H, W)`` of an image and the number of classes; `ValueError` where they do not
        fit.
    about
        What it is, in a few words.
    binary
        Whether it tells two classes apart, by one logit.
    softmax
        Whether the authors' double softmax can be had (their defect: a softmax inside the network,
        under cross-entropy).
    """

    build: Callable[[Shape, int], nn.Module]
    about: str
    binary: bool = False
    softmax: bool = True


NETWORKS: dict[str, Architecture] = {
    "logistic": Architecture(logistic_regression, "multinomial logistic regression"),
    "mlp": Architecture(perceptron, "one hidden layer of 1,000 ReLU units"),
    "cnn": Architecture(convolutional, "the paper's CNN for MNIST: 20 and 50 channels, 500 units"),
    "cnn-fashion": Architecture(
        lambda s, k: convolutional(s, k, 40, 50, 1000),
        "the paper's wider CNN: 40 and 50 channels, 1,000 units",
    ),
    "cnn-binary": Architecture(
        _binary(40),
        "the paper's CNN of one logit: 40 and 50 channels, 100 units",
        binary=True,
        softmax=False,
    ),
    "cnn-binary-2": Architecture(
        _binary(10), "the same with 10 and 50 channels", binary=True, softmax=False
    ),
    "cnn-cifar": Architecture(
        cifar_cnn, "the paper's CNN for CIFAR-10: six convolutions, three linear layers"
    ),
    "rnn": Architecture(_recurrent(nn.RNN), "two tanh layers of 100 units that read rows"),
    "lstm": Architecture(_recurrent(nn.LSTM), "two LSTM layers of 100 units that read rows"),
    "small-cnn": Architecture(
        lambda s, k: convolutional(s, k, 8, 16, 0),
        "a CNN of 8 and 16 channels, quick to train by the dozen",
    ),
    "resnet20": Architecture(
        _resnet20, "the ResNet-20 of He et al. (2015) for 32 x 32 images", softmax=False
    ),
}


KNOWN = (*NETWORKS, *AUTOENCODERS)


def build(
    name: str,
    shape: Shape,
    classes: int,
    softmax: bool = False,
    code: int | None = None,
    tanh: bool = False,
) -> nn.Module:
    """An untrained network of `KNOWN`; its weights are drawn from torch's generator.

    Parameters
    ----------
    name
        One of `KNOWN`.
    shape
        ``(C, H, W)`` of an image.
    classes
        Number of outputs; no matter to autoencoders.
    softmax
        End in a softmax, so that what is called its logits are probabilities (the authors' double
        softmax, for comparison with them).
    code, tanh
        Of autoencoders: the numbers of a code; end in a tanh, not in a sigmoid (see
        `wna_ray.networks.autoencoders`).

    Raises
    ------
    ValueError
        The network has no such form. The message does not name it.
    """
    if name in AUTOENCODERS:
        if softmax:
            raise ValueError("has no form that ends in a softmax")
        return AUTOENCODERS[name].build(shape, code, tanh)
    if code is not None or tanh:
        raise ValueError("is no autoencoder; leave options.code and options.tanh out")
    architecture = NETWORKS[name]
    if architecture.binary and classes != 2:
        raise ValueError(f"tells two classes apart, not {classes}")
    if softmax and not architecture.softmax:
        raise ValueError("has no form that ends in a softmax")
    network = architecture.build(shape, classes)
    if softmax:
        network.add_module("softmax", nn.Softmax(dim=1))
    return network
