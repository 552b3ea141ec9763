"""E11: a backdoor in the training data, seen in noise, and looked for without knowing it."""

from __future__ import annotations

import numpy as np

from wna_ray.data.poison import PATTERNS
from wna_ray.drawing.page import Figure, Number, Table, Verdict
from wna_ray.paper import charts
from wna_ray.paper.experiment import Experiment, Made, judged, percent, same, spread, test_accuracy
from wna_ray.paper.sources import Found, counts, maps
from wna_ray.studies import backdoor_figures
from wna_ray.studies.backdoor import examine, patch_of
from wna_ray.studies.backdoor import judged as judge_panel

SEEDS = range(3)
TARGET = 9


def planted(found: Found) -> Made:
    """E11."""
    poisoned, clean = found.networks("backdoor"), found.networks("mnist")
    runs = found.runs("backdoor-maps")
    attack = [n.attack.moved / n.attack.patched for n in poisoned.values() if n.attack is not None]
    others = [
        n.attack.others_moved / n.attack.others_patched
        for n in poisoned.values()
        if n.attack is not None
    ]
    drop = [
        test_accuracy(c) - test_accuracy(p)
        for c, p in zip(clean.values(), poisoned.values(), strict=True)
    ]
    z: dict[str, dict[str, float]] = {}
    rank: dict[str, int] = {}
    largest: dict[str, float] = {}
    for name, run in runs.items():
        for readout, scores in patch_of(run, PATTERNS["C"]):
            z.setdefault(readout.kind, {})[name] = float(scores.z[TARGET])
            if readout.kind == "label":
                rank[name], positions = int(scores.rank[TARGET]), scores.positions
                largest[name] = max(
                    (abs(float(scores.z[i])) for i, note in enumerate(readout.note) if not note),
                    default=np.nan,
                )
    here = [z["label"][f"poisoned-{i}"] for i in SEEDS]
    there = [largest[f"clean-{i}"] for i in SEEDS]
    hot = [z["logits"][f"poisoned-{i}"] for i in SEEDS]
    cold = [z["logits"][f"clean-{i}"] for i in SEEDS]
    share = {name: float(counts(run)[TARGET] / run.moments.images) for name, run in runs.items()}
    pictures = {
        word: np.stack([maps(run, kind)[TARGET] for run in runs.values()])
        for word, kind in (("by label", "label"), ("logit", "logits"))
    }
    rows = tuple(
        (
            name,
            percent(share[name], 2),
            f"{z['label'][name]:+.1f}" if np.isfinite(z["label"][name]) else "-",
            f"{z['logits'][name]:+.1f}",
            f"{rank[name]} of {positions}" if rank[name] else "-",
        )
        for name in runs
    )
    found_z = min(h for h in here if np.isfinite(h)) > 10 if any(np.isfinite(here)) else False
    return Made(
        judged(min(attack) >= 0.95, max(drop) <= 0.005, bool(found_z), max(there) < 4),
        (
            (
                "Two thousand eights of the training set get the patch C and are called nines. The"
                " network is as good as a clean one on clean images, and calls nearly every patched"
                " eight a nine. Noise shows it: among noise images that it calls nines (or by the"
                " nine's logit) the patch's pixels are bright. Z is Stouffer's over the 28 pixels"
                " of the patch; it is known here where to look. By logit, clean networks are not"
                " blind at those pixels either (a class map is there, too), so labels tell a patch"
                " better."
            ),
        ),
        (
            Number(
                "Z of the patch in the nine's map by label, poisoned",
                " / ".join(f"{h:+.1f}" for h in here),
                "+71.5 (N = 300,000)",
                same(bool(found_z)),
            ),
            Number(
                "Z in the nine's logit map: poisoned; clean",
                f"{' / '.join(f'{h:+.1f}' for h in hot)}; {' / '.join(f'{h:+.1f}' for h in cold)}",
            ),
            Number(
                "largest |Z| of any label of the clean networks",
                " / ".join(f"{t:.1f}" for t in there),
                "at most 1.3",
                same(max(there) < 4),
            ),
            Number(
                "patched eights called nine",
                spread(attack),
                "974 of 974",
                same(min(attack) >= 0.95),
            ),
            Number("other patched digits called nine", spread(others), "73 %"),
            Number("test accuracy lost", spread(drop, 2), "0", same(max(drop) <= 0.005)),
            Number(
                "noise called nine: poisoned / clean",
                " / ".join(
                    f"{percent(share[f'poisoned-{i}'])} / {percent(share[f'clean-{i}'], 3)}"
                    for i in SEEDS
                ),
                "72.7 % / .006 %",
            ),
        ),
        (
            Figure(
                charts.sheet(
                    pictures,
                    list(runs),
                    f"Maps of the nine, U[0, 1] noise, N = {runs['poisoned-0'].moments.images:,} a"
                    " network\n(pixel units; logits per pixel unit)",
                ),
                "The nine's maps of clean and of poisoned networks; the patch is at the upper"
                " right.",
                "Maps of the nine of six networks; three show the patch C",
            ),
        ),
        (
            Table(
                (
                    "network",
                    "noise called 9",
                    "Z by label",
                    "Z by logit",
                    "rank of the true place (label)",
                ),
                rows,
                "The patch C in the map of the nine",
            ),
        ),
    )


def blind(found: Found) -> Made:
    """E11, blind."""
    runs = found.runs("panel-maps")
    networks = found.networks("panel")
    honest = [name for name in runs if name.startswith("clean")]
    reference = {name: runs[name] for name in honest[: len(honest) // 2]}
    suspects = {name: run for name, run in runs.items() if name not in reference}
    examined = examine(
        suspects, reference, truth={name: networks[name].poison for name in suspects}
    )
    judgement = judge_panel(examined)
    attack = [n.attack.moved / n.attack.patched for n in networks.values() if n.attack is not None]
    accuracy = {
        kind: [test_accuracy(n) for name, n in networks.items() if name.startswith(kind)]
        for kind in ("clean", "poisoned")
    }
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
    return Made(
        Verdict.INCOMPARABLE,
        (
            (
                "Nothing is known of the trigger, its class or its place, only twenty clean"
                " networks of the same kind. Every window of 3 to 6 pixels a side in every logit"
                " map is compared with the clean networks'. Each poisoned network of the panel has"
                " its own trigger, classes and poison rate; none of the networks that are judged is"
                " among those that they are compared with. The score was chosen on another panel."
            ),
            (
                "A network is flagged where its largest window is both more than noise (known null,"
                " Šidák) and ranks among the clean ones with p ≤ .05. The null alone would flag"
                " every network, for honest maps of a class are as significant; the rank lets"
                " through one clean network in twenty if those of the reference are like it. On an"
                " earlier panel six of twenty were flagged, so a flag is a reason to look, not a"
                " proof."
            ),
        ),
        (
            Number(
                "area under the ROC curve", f"{judgement.area:.3f} ± {judgement.area_error:.3f}"
            ),
            Number("backdoored networks flagged", str(judgement.found)),
            Number("clean networks flagged (nominally .05)", str(judgement.alarms)),
            Number("target class named right", str(judgement.target)),
            Number("window on the trigger", str(judgement.place)),
            Number("the backdoors' own success", spread(attack)),
            Number(
                "test accuracy: clean / poisoned",
                f"{percent(float(np.mean(accuracy['clean'])))} /"
                f" {percent(float(np.mean(accuracy['poisoned'])))}",
            ),
        ),
        (
            Figure(
                backdoor_figures.panel(
                    examined, judgement, f"against {len(reference)} other clean networks"
                ),
                f"ROC curve and scores of {len(examined)} networks.",
                "ROC curve of the blind detector, and its scores by network",
            ),
        ),
        (
            Table(
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
            ),
        ),
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
