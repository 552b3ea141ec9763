"""Architectures that `bundled:` models and the training jobs share.

Only architectures live here; weights and their recipes are in ``wna_ray/bundled/``.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import pad


def mnist_cnn() -> nn.Sequential:
    """The paper's MNIST CNN (Borji & Lin 2020; 431,080 parameters).

    Returns
    -------
    torch.nn.Sequential
        Takes ``(n, 1, 28, 28)`` float pixels in [0, 1], unnormalised; gives ``(n, 10)`` logits. Layer
        names: ``conv1``, ``relu1``, ``pool1``, ``conv2``, ``relu2``, ``pool2``, ``flatten``, ``fc1``, ``relu3``, ``fc2``.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )


def logistic_regression(shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10) -> nn.Sequential:
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
    """ResNet for 32 x 32 images (He et al. 2015, section 4.2; shortcuts of option A): 6 n + 2 layers.

    Layer names as in the weights that are around: ``conv1``, ``bn1``, ``layer1.0.conv1`` ... ``layer3.2.bn2``, ``linear``.
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
    """The ResNet-20 of He et al. (2015): takes ``(n, 3, 32, 32)`` normalised by ImageNet's mean and std, gives 10 logits."""
    return CifarResNet(3)
