"""Architectures: their sizes against the paper, their functions against the same arithmetic
written out.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wna_ray.geometry import Shape
from wna_ray.networks.architectures import NETWORKS, build

DIGITS, COLOUR = (1, 28, 28), (3, 32, 32)
# Parameters: those of the paper's networks as it states them; of the others, layer by layer.
SIZES: dict[str, tuple[Shape, int, int]] = {
    "logistic": (DIGITS, 10, 7_850),
    "mlp": (DIGITS, 10, 795_010),
    "cnn": (DIGITS, 10, 431_080),
    "cnn-fashion": (DIGITS, 10, 862_100),
    "cnn-binary": (DIGITS, 2, 131_291),
    "cnn-binary-2": (DIGITS, 2, 93_011),
    "cnn-cifar": (COLOUR, 10, 5_852_170),
    "rnn": (DIGITS, 10, 34_210),
    "lstm": (DIGITS, 10, 4 * (13_000 + 20_200) + 1_010),
    "small-cnn": (DIGITS, 10, 8 * 26 + 16 * 201 + 10 * 257),
    "resnet20": (COLOUR, 10, 269_722),  # the published file, less its counters: 0.27 M
}


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_and_shapes(name: str) -> None:
    shape, classes, parameters = SIZES[name]
    network = build(name, shape, classes).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.rand(3, *shape)).shape == (3, classes)


@pytest.mark.parametrize("name", [name for name, a in NETWORKS.items() if a.softmax])
def test_the_double_softmax_gives_the_probabilities_of_the_same_network(name: str) -> None:
    shape, classes, _ = SIZES[name]
    x, plain, double = (
        torch.rand(4, *shape),
        build(name, shape, classes).eval(),
        build(name, shape, classes, softmax=True).eval(),
    )
    double.load_state_dict(plain.state_dict())
    assert torch.equal(double(x), plain(x).softmax(dim=1))


def test_one_logit_as_two_is_the_sigmoid() -> None:
    """Probabilities, decisions and loss against sigmoid, a threshold of .5 and binary
    cross-entropy.
    """
    network, x, y = build("cnn-binary", DIGITS, 2), torch.rand(50, *DIGITS), torch.arange(50) % 2
    assert isinstance(network, nn.Sequential)
    logits, z = network(x), network[:-1](x)[:, 0]
    torch.testing.assert_close(logits.softmax(1)[:, 1], z.sigmoid())
    assert torch.equal(logits.argmax(1) == 1, z.sigmoid() > 0.5)
    torch.testing.assert_close(
        F.cross_entropy(logits, y), F.binary_cross_entropy_with_logits(z, y.float())
    )


def test_the_rnn_is_the_recurrence_over_rows() -> None:
    network, image = build("rnn", DIGITS, 10), torch.rand(1, *DIGITS)
    w = dict(network.named_parameters())
    h = [torch.zeros(100), torch.zeros(100)]
    for row in image[0, 0]:
        below = row
        for layer in range(2):
            ih, hh, bi, bh = (
                w[f"recurrent.{kind}_l{layer}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h[layer] = below = torch.tanh(ih @ below + bi + hh @ h[layer] + bh)
    torch.testing.assert_close(
        network(image)[0], w["fc.weight"] @ h[1] + w["fc.bias"], rtol=1e-4, atol=1e-5
    )


def test_rows_of_a_colour_image_hold_all_channels() -> None:
    network, image = build("rnn", COLOUR, 10), torch.rand(1, *COLOUR)
    assert isinstance(network, nn.Sequential)
    assert torch.equal(network[0](image)[0, 5], torch.cat([image[0, c, 5] for c in range(3)]))


REFUSED = {
    "three classes": ("cnn-binary", DIGITS, 3, False, "two classes"),
    "softmax of one logit": ("cnn-binary", DIGITS, 2, True, "softmax"),
    "small images": ("cnn", (1, 12, 12), 10, False, "too small"),
    "small colour images": ("cnn-cifar", (3, 7, 32), 10, False, "too small"),
    "grey images": ("resnet20", DIGITS, 10, False, "three"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str) -> None:
    name, shape, classes, softmax, words = REFUSED[what]
    with pytest.raises(ValueError, match=words):
        build(name, shape, classes, softmax)
