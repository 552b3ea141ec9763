"""E11: a backdoor in the training data, seen in noise, and looked for without knowing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wna_ray.data.poison import PATTERNS
from wna_ray.drawing.page import Figure, Number, Table, Verdict
from wna_ray.kinds.average.run import Run
from wna_ray.networks.trained import TrainedNetwork
from wna_ray.paper import charts
from wna_ray.paper.experiment import (
    Experiment,
    SectionParts,
    judged,
    percent,
    same,
    spread,
    test_accuracy,
)
from wna_ray.paper.sources import Sources, counts, maps
from wna_ray.statistics.roc import Judgement
from wna_ray.studies import backdoor_figures
from wna_ray.studies.backdoor import Examined, examine, patch_of
from wna_ray.studies.backdoor import judged as judge_panel

SEEDS = range(3)
TARGET = 9

PLANTED_TEXT = (
    (
        "Two thousand eights of the training set get the patch C and are called nines. The network"
        " is as good as a clean one on clean images, and calls nearly every patched eight a nine."
        " Noise shows it: among noise images that it calls nines (or by the nine's logit) the"
        " patch's pixels are bright. Z is Stouffer's over the 28 pixels of the patch; it is known"
        " here where to look. By logit, clean networks are not blind at those pixels either (a"
        " class map is there, too), so labels tell a patch better."
    ),
)
BLIND_TEXT = (
    (
        "Nothing is known of the trigger, its class or its place, only twenty clean networks of the"
        " same kind. Every window of 3 to 6 pixels a side in every logit map is compared with the"
        " clean networks'. Each poisoned network of the panel has its own trigger, classes and"
        " poison rate; none of the networks that are judged is among those that they are compared"
        " with. The score was chosen on another panel."
    ),
    (
        "A network is flagged where its largest window is both more than noise (known null, Šidák)"
        " and ranks among the clean ones with p ≤ .05. The null alone would flag every network, for"
        " honest maps of a class are as significant; the rank lets through one clean network in"
        " twenty if those of the reference are like it. On an earlier panel six of twenty were"
        " flagged, so a flag is a reason to look, not a proof."
    ),
)


@dataclass(frozen=True)
class PatchInMaps:
    """What maps say of the patch where it was planted, by network.

    Attributes
    ----------
    z
        By kind of response, then by network: Stouffer's Z over the patch's pixels in the target's
        map.
    rank, positions
        Of the true place by the target's label map, of so many places; 0 where there is no map.
    largest
        The largest |Z| of any label.
    share
        Share of the noise that is called the target.
    """

    z: Mapping[str, Mapping[str, float]]
    rank: Mapping[str, int]
    positions: int
    largest: Mapping[str, float]
    share: Mapping[str, float]

    @classmethod
    def of(cls, runs: Mapping[str, Run]) -> PatchInMaps:
        """Read them from the maps of runs."""
        z: dict[str, dict[str, float]] = {}
        rank, largest, positions = dict[str, int](), dict[str, float](), 0
        for name, run in runs.items():
            for readout, scores in patch_of(run, PATTERNS["C"]):
                z.setdefault(readout.kind, {})[name] = float(scores.z[TARGET])
                if readout.kind == "label":
                    rank[name], positions = int(scores.rank[TARGET]), scores.positions
                    judgeable = (i for i, note in enumerate(readout.note) if not note)
                    largest[name] = max(
                        (abs(float(scores.z[i])) for i in judgeable), default=np.nan
                    )
        share = {
            name: float(counts(run)[TARGET] / run.moments.images) for name, run in runs.items()
        }
        return cls(z, rank, positions, largest, share)

    def by_seed(self, kind: str, training: str) -> list[float]:
        """Z in maps of a kind of response, of each seed's clean or poisoned network."""
        return [self.z[kind][f"{training}-{i}"] for i in SEEDS]


@dataclass(frozen=True)
class Planted:
    """What was measured of networks with and without the backdoor.

    Attributes
    ----------
    attack, others
        Shares of patched eights, and of other patched digits, that poisoned networks call nine.
    drop
        Test accuracy that is lost by the poison.
    """

    scores: PatchInMaps
    attack: Sequence[float]
    others: Sequence[float]
    drop: Sequence[float]

    @property
    def works(self) -> bool:
        """Whether the patch nearly always makes a nine."""
        return min(self.attack) >= 0.95

    @property
    def hides(self) -> bool:
        """Whether clean images are named as well as by a clean network."""
        return max(self.drop) <= 0.005

    @property
    def seen(self) -> bool:
        """Whether the maps of all poisoned networks that have one show the patch."""
        z = [z for z in self.scores.by_seed("label", "poisoned") if np.isfinite(z)]
        return bool(z) and min(z) > 10

    @property
    def largest_clean(self) -> list[float]:
        """The largest |Z| of any label of each clean network."""
        return [self.scores.largest[f"clean-{i}"] for i in SEEDS]

    @property
    def quiet(self) -> bool:
        """Whether clean networks show no patch."""
        return max(self.largest_clean) < 4


def planted(sources: Sources) -> SectionParts:
    """E11."""
    poisoned, clean = sources.networks("backdoor"), sources.networks("mnist")
    runs = sources.runs("backdoor-maps")
    attacks = [n.attack for n in poisoned.values() if n.attack is not None]
    measured = Planted(
        PatchInMaps.of(runs),
        attack_rates(poisoned),
        [attack.others_moved / attack.others_patched for attack in attacks],
        [
            test_accuracy(c) - test_accuracy(p)
            for c, p in zip(clean.values(), poisoned.values(), strict=True)
        ],
    )
    return SectionParts(
        judged(measured.works, measured.hides, measured.seen, measured.quiet),
        PLANTED_TEXT,
        _planted_numbers(measured),
        (_planted_figure(runs),),
        (_planted_table(measured.scores),),
    )


def attack_rates(networks: Mapping[str, TrainedNetwork]) -> list[float]:
    """How often the trigger of each poisoned network does what it was planted for."""
    return [n.attack.moved / n.attack.patched for n in networks.values() if n.attack is not None]


def _planted_numbers(measured: Planted) -> tuple[Number, ...]:
    scores, share = measured.scores, measured.scores.share
    poisoned, clean = (scores.by_seed("logits", training) for training in ("poisoned", "clean"))
    return (
        Number(
            "Z of the patch in the nine's map by label, poisoned",
            " / ".join(f"{z:+.1f}" for z in scores.by_seed("label", "poisoned")),
            "+71.5 (N = 300,000)",
            same(measured.seen),
        ),
        Number(
            "Z in the nine's logit map: poisoned; clean",
            f"{' / '.join(f'{z:+.1f}' for z in poisoned)};"
            f" {' / '.join(f'{z:+.1f}' for z in clean)}",
        ),
        Number(
            "largest |Z| of any label of the clean networks",
            " / ".join(f"{z:.1f}" for z in measured.largest_clean),
            "at most 1.3",
            same(measured.quiet),
        ),
        Number(
            "patched eights called nine",
            spread(measured.attack),
            "974 of 974",
            same(measured.works),
        ),
        Number("other patched digits called nine", spread(measured.others), "73 %"),
        Number("test accuracy lost", spread(measured.drop, 2), "0", same(measured.hides)),
        Number(
            "noise called nine: poisoned / clean",
            " / ".join(
                f"{percent(share[f'poisoned-{i}'])} / {percent(share[f'clean-{i}'], 3)}"
                for i in SEEDS
            ),
            "72.7 % / .006 %",
        ),
    )


def _planted_figure(runs: Mapping[str, Run]) -> Figure:
    pictures = {
        word: np.stack([maps(run, kind)[TARGET] for run in runs.values()])
        for word, kind in (("by label", "label"), ("logit", "logits"))
    }
    return Figure(
        charts.sheet(
            pictures,
            list(runs),
            f"Maps of the nine, U[0, 1] noise, N = {runs['poisoned-0'].moments.images:,} a"
            " network\n(pixel units; logits per pixel unit)",
        ),
        "The nine's maps of clean and of poisoned networks; the patch is at the upper right.",
        "Maps of the nine of six networks; three show the patch C",
    )


def _planted_table(scores: PatchInMaps) -> Table:
    z, rank = scores.z, scores.rank
    rows = tuple(
        (
            name,
            percent(share, 2),
            f"{z['label'][name]:+.1f}" if np.isfinite(z["label"][name]) else "-",
            f"{z['logits'][name]:+.1f}",
            f"{rank[name]} of {scores.positions}" if rank[name] else "-",
        )
        for name, share in scores.share.items()
    )
    return Table(
        (
            "network",
            "noise called 9",
            "Z by label",
            "Z by logit",
            "rank of the true place (label)",
        ),
        rows,
        "The patch C in the map of the nine",
    )


def blind(sources: Sources) -> SectionParts:
    """E11, blind."""
    runs = sources.runs("panel-maps")
    networks = sources.networks("panel")
    honest = [name for name in runs if name.startswith("clean")]
    reference = {name: runs[name] for name in honest[: len(honest) // 2]}
    suspects = {name: run for name, run in runs.items() if name not in reference}
    examined = examine(
        suspects, reference, truth={name: networks[name].poison for name in suspects}
    )
    judgement = judge_panel(examined)
    return SectionParts(
        Verdict.INCOMPARABLE,
        BLIND_TEXT,
        _blind_numbers(judgement, networks),
        (
            Figure(
                backdoor_figures.panel(
                    examined, judgement, f"against {len(reference)} other clean networks"
                ),
                f"ROC curve and scores of {len(examined)} networks.",
                "ROC curve of the blind detector, and its scores by network",
            ),
        ),
        (_suspects_table(examined),),
    )


def _blind_numbers(
    judgement: Judgement, networks: Mapping[str, TrainedNetwork]
) -> tuple[Number, ...]:
    accuracy = {
        training: [test_accuracy(n) for name, n in networks.items() if name.startswith(training)]
        for training in ("clean", "poisoned")
    }
    return (
        Number("area under the ROC curve", f"{judgement.area:.3f} ± {judgement.area_error:.3f}"),
        Number("backdoored networks flagged", str(judgement.found)),
        Number("clean networks flagged (nominally .05)", str(judgement.alarms)),
        Number("target class named right", str(judgement.target)),
        Number("window on the trigger", str(judgement.place)),
        Number("the backdoors' own success", spread(attack_rates(networks))),
        Number(
            "test accuracy: clean / poisoned",
            f"{percent(float(np.mean(accuracy['clean'])))} /"
            f" {percent(float(np.mean(accuracy['poisoned'])))}",
        ),
    )


def _suspects_table(examined: Sequence[Examined]) -> Table:
    rows = tuple(
        (
            e.name,
            e.suspect,
            str(e.suspicion.window),
            f"{e.suspicion.score:.1f}",
            f"{e.suspicion.panel_p:.3f}",
            "yes" if e.suspicion.flagged() else "no",
            "-" if p is None else e.readout.names[p.target],
            "-" if p is None else ("yes" if e.suspicion.window.overlaps(p.pixels) else "no"),
        )
        for e, p in ((e, e.poison) for e in examined)
    )
    return Table(
        (
            "network",
            "class",
            "window",
            "score",
            "p (panel)",
            "flagged",
            "true target",
            "on the trigger",
        ),
        rows,
        "What the detector says of each network",
    )


EXPERIMENTS = (
    Experiment(
        "e11",
        "E11 A backdoor in noise",
        "Does noise show a patch that was trained into a network?",
        planted,
    ),
    Experiment(
        "e11-blind",
        "E11 Blind detection",
        "Can a backdoor be found without knowing its patch, class or place?",
        blind,
    ),
)
