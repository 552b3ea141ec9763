"""Architectures that `bundled:` models and the training jobs share.

Only architectures live here; weights and their recipes are in ``wna_ray/bundled/``.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


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
