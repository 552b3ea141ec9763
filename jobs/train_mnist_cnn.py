"""Train the bundled MNIST CNN and write what the package ships.

    python jobs/train_mnist_cnn.py [--data DIR] [--out wna_ray/bundled] [--seed 1] [--epochs 12]

Writes ``mnist-cnn.safetensors`` (weights), ``mnist-mean.npy`` (mean training image, float32 in [0,
1]) and ``mnist-cnn.json`` (recipe, seed, accuracies, digests). Inputs are pixels in [0, 1] in
training and in testing alike. The recipe is fixed in advance: 5,000 training images are held out to
watch the training, the weights of the last epoch are kept, and the test set is scored once, at the
end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.datasets import MNIST

from wna_ray.networks.architectures import mnist_cnn


def load(root: str, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """MNIST as float32 ``(n, 1, 28, 28)`` in [0, 1] and int64 labels ``(n,)``."""
    data = MNIST(root, train=train, download=not (Path(root) / "MNIST" / "raw").is_dir())
    return data.data.unsqueeze(1).float() / 255, data.targets


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(a).argmax(1) == b).sum())
        for a, b in zip(x.split(1000), y.split(1000), strict=True)
    )
    return hits / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default=os.environ.get("WNA_DATA", "data"), help="folder that holds MNIST/raw"
    )
    parser.add_argument("--out", default=str(Path(__file__).parents[1] / "wna_ray" / "bundled"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()

    held_out, batch, peak_rate = 5_000, 128, 2e-3
    x, y = load(args.data, train=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))
    fit, watch = order[held_out:], order[:held_out]

    torch.manual_seed(args.seed)
    model = mnist_cnn()
    optimiser = torch.optim.Adam(model.parameters(), lr=peak_rate)
    steps = len(fit) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peak_rate, total_steps=args.epochs * steps
    )
    watched = []
    for epoch in range(args.epochs):
        model.train()
        for index in fit[torch.randperm(len(fit))][: steps * batch].split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimiser.step()
            schedule.step()
        watched.append(accuracy(model, x[watch], y[watch]))
        print(f"epoch {epoch + 1}/{args.epochs}: held-out accuracy {watched[-1]:.4f}", flush=True)

    test = accuracy(model, *load(args.data, train=False))
    print(f"test accuracy {test:.4f}")
    if test < 0.99:
        raise SystemExit(f"test accuracy {test:.4f} is below 0.99: nothing written")

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        out / "mnist-cnn.safetensors",
    )
    np.save(out / "mnist-mean.npy", x.double().mean(0).float().numpy())
    files = ("mnist-cnn.safetensors", "mnist-mean.npy")
    recipe = {
        "architecture": "wna_ray.networks:mnist_cnn",
        "data": "MNIST train, 60,000 images, pixels in [0, 1], no normalisation",
        "held_out": held_out,
        "seed": args.seed,
        "epochs": args.epochs,
        "batch": batch,
        "optimiser": f"Adam, one-cycle schedule, peak rate {peak_rate}",
        "loss": "cross-entropy on logits",
        "torch": str(torch.__version__),
        "held_out_accuracy": watched,
        "test_accuracy": test,
        "sha256": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files},
    }
    (out / "mnist-cnn.json").write_text(json.dumps(recipe, indent=2) + "\n")


if __name__ == "__main__":
    main()
