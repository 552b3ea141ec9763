"""The work of ``wna train``."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.table import Table

from wna_ray.cli.reading import values_of
from wna_ray.cli.shared import ExecutionOptions, SpecFile
from wna_ray.networks.trained import TrainedNetwork
from wna_ray.terminal import show, tell
from wna_ray.training.job import event_text, train
from wna_ray.training.spec import TrainSpec


def train_networks(
    file: SpecFile, out: str, options: ExecutionOptions, endpoint: str | None
) -> None:
    """Train the networks of a spec, or go on with them, and print how they do.

    Parameters
    ----------
    file
        The spec.
    out
        Directory of the networks.
    options
        Which workers do it.
    endpoint
        Of the S3 server, where it is not AWS.
    """
    networks = train(
        TrainSpec.load(file.path, values_of(file.changes), file.full),
        out,
        endpoint=endpoint,
        callbacks=[lambda event: tell(event_text(event))],
        **options.keywords(),
    )
    show(_networks_table(networks, out))
    show(
        f"curves: {out.rstrip('/')}/curves.png; as models:"
        f" trained:{out.rstrip('/')}/{next(iter(networks))}"
    )


def _networks_table(networks: Mapping[str, TrainedNetwork], out: str) -> Table:
    """One row a network: its accuracies in percent (or squared errors), and what the trigger of
    a poisoned one does.
    """
    first = next(iter(networks.values()))
    score = "mean squared error of a value" if first.autoencoder else "accuracy in %"
    table = Table(box=SIMPLE, title=f"{out}: {first.name}, {score}", title_justify="left")
    poisoned = any(network.attack for network in networks.values())
    for column in (
        "network",
        "epoch",
        "training",
        "held out",
        "test",
        *(("trigger", "moved", "of others") if poisoned else ()),
        "seconds",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, network in networks.items():
        cells = [name, str(network.epoch), *_score_cells(network)]
        if poisoned:
            cells += _trigger_cells(network)
        table.add_row(*cells, f"{network.seconds:.0f}")
    return table


def _score_cells(network: TrainedNetwork) -> list[str]:
    """On the images of training, those held out, and the test images."""
    scores = (network.scores.train, network.scores.validation, network.scores.test)
    texts = (
        None if score is None else f"{score:.5f}" if network.autoencoder else f"{100 * score:.2f}"
        for score in scores
    )
    return [text or "-" for text in texts]


def _trigger_cells(network: TrainedNetwork) -> tuple[str, str, str]:
    """From which class to which, and the percentages of images that the trigger moves there."""
    attack, poison = network.attack, network.poison
    if attack is None or poison is None:
        return "-", "-", "-"
    moved, others = (
        f"{100 * count / images:.1f}" if images else "-"
        for count, images in (
            (attack.moved, attack.patched),
            (attack.others_moved, attack.others_patched),
        )
    )
    return f"{poison.source} -> {poison.target}", moved, others
