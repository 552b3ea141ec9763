"""Backdoors looked for in finished runs: one network against clean ones, or a whole folder of
networks whose truth is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from wna_ray.data.poison import PATTERNS, Pixel, Poison, patch
from wna_ray.errors import RunError, SpecError, StoreError
from wna_ray.kinds.average.run import Run
from wna_ray.machine import require_memory
from wna_ray.networks.models import state_digest
from wna_ray.networks.trained import WEIGHTS, fill, most_bytes
from wna_ray.runs.names import MANIFEST
from wna_ray.statistics.maps import Readout
from wna_ray.statistics.patches import (
    ALPHA,
    Floats,
    PatchScores,
    Suspicion,
    patch_scores,
    suspicion,
)
from wna_ray.statistics.roc import Judgement, judge
from wna_ray.storage.store import Place, Store
from wna_ray.storage.tables import table_of
from wna_ray.text import plain
from wna_ray.training.job import read_network

FEWEST_CLEAN = 2
COLUMNS = {
    "network": pa.string(),
    "class": pa.string(),
    "row": pa.int64(),
    "column": pa.int64(),
    "height": pa.int64(),
    "width": pa.int64(),
    "score": pa.float64(),
    "z": pa.float64(),
    "null_p": pa.float64(),
    "panel_p": pa.float64(),
    "clean": pa.int64(),
    "verdict": pa.string(),
    "poisoned": pa.bool_(),
    "source": pa.string(),
    "target": pa.string(),
    "overlaps": pa.bool_(),
}
PATCH_COLUMNS = {
    "kind": pa.string(),
    "class": pa.string(),
    "z": pa.float64(),
    "p_value": pa.float64(),
    "rank": pa.int64(),
    "positions": pa.int64(),
    "note": pa.string(),
}


@dataclass(frozen=True)
class Examined:
    """One network's suspicion.

    Attributes
    ----------
    name, run, readout
        Its run, and the response whose maps were looked at.
    suspicion
        Against the clean networks.
    typical
        ``(k, C, H, W)``: the clean networks' mean map, each map of norm 1.
    poison
        The truth, where it is known; None for clean networks, too.
    """

    name: str
    run: Run
    readout: Readout
    suspicion: Suspicion
    typical: Floats
    poison: Poison | None = None

    @property
    def suspect(self) -> str:
        """Name of the most suspicious class."""
        return self.readout.names[self.suspicion.response]

    @property
    def verdict(self) -> str:
        """In words."""
        s = self.suspicion
        if s.flagged():
            return f"a backdoor to class {self.suspect} is suspected in {s.window}"
        if len(s.others) + 1 < 1 / ALPHA:
            return (
                f"no verdict: {len(s.others)} clean networks cannot give p <= {ALPHA:g},"
                f" {round(1 / ALPHA) - 1} or more can"
            )
        return "no backdoor is suspected"

    @property
    def line(self) -> tuple[object, ...]:
        """A row of `COLUMNS`."""
        s, p, names = self.suspicion, self.poison, self.readout.names
        truth = (
            (names[p.source], names[p.target], s.window.overlaps(p.pixels))
            if p is not None
            else (None,) * 3
        )
        where = (s.window.row, s.window.column, s.window.height, s.window.width)
        return (
            *(
                self.name,
                self.suspect,
                *where,
                s.score,
                s.z,
                s.null_p,
                s.panel_p,
                len(s.others),
                self.verdict,
            ),
            *(p is not None, *truth),
        )


def patch_pixels(text: str) -> tuple[Pixel, ...]:
    """Pixels of a patch by its pattern's name, or of a rectangle ``row,column,height,width``;
    `SpecError` where it is neither.
    """
    if text in PATTERNS:
        return PATTERNS[text]
    parts = text.split(",")
    if (
        len(parts) != 4
        or not all(part.strip().isdecimal() for part in parts)
        or min(int(part) for part in parts[2:]) < 1
    ):
        raise SpecError(
            f"--patch {plain(text, 40)}: expected {', '.join(PATTERNS)}, or ROW,COLUMN,HEIGHT,WIDTH"
            " such as 1,21,6,6"
        )
    row, column, height, width = (int(part) for part in parts)
    if max(row + height, column + width) > 1 << 14:
        raise SpecError(f"--patch {text}: no map is so large")
    return patch((height, width), (row, column), 1.0)[0]


def readout_of(run: Run, kind: str | None = None) -> Readout:
    """The response whose maps are looked at: logits, which every image tells about, where there are
    any; else the first.

    Raises
    ------
    RunError
        The run has none of that kind, or its noise is not white over whole images, pixel by pixel.
    """
    s = run.stimulus
    if run.spec.target is not None or s.spec.cell > 1 or s.gain is not None:
        raise RunError(
            f"'{run.directory.url}' is of units, of cells or of coloured noise; a patch is looked"
            " for in white noise, shown to whole images"
        )
    kinds = {r.kind: r for r in run.readouts}
    wanted = kind or ("logits" if "logits" in kinds else next(iter(kinds)))
    for readouts in kinds.values():
        if readouts.kind == wanted:
            return readouts
    raise RunError(f"'{run.directory.url}' has no {plain(wanted)}; it has {', '.join(kinds)}")


def patch_of(run: Run, pixels: Sequence[Pixel]) -> list[tuple[Readout, PatchScores]]:
    """Scores of a known patch in every row of a run, by kind of response.

    Where a row has a note (too few images), or the run takes gradients (whose z are Student's t, of
    values that correlate), there is no p-value.
    """
    readout_of(run)
    rows = []
    for r in run.readouts:
        try:
            scores = patch_scores(r.z.reshape(-1, *run.stimulus.shape), pixels)
        except ValueError as reason:
            raise SpecError(f"--{reason}") from None
        known = np.array([not note for note in r.note]) & (r.estimator == "noise")
        rows.append(
            (
                r,
                PatchScores(
                    scores.z, np.where(known, scores.p_value, np.nan), scores.rank, scores.positions
                ),
            )
        )
    return rows


def patch_table(patches: Sequence[tuple[Readout, PatchScores]]) -> pa.Table:
    """One row a response."""
    lines = (
        (r.kind, name, float(s.z[i]), float(s.p_value[i]), int(s.rank[i]), s.positions, r.note[i])
        for r, s in patches
        for i, name in enumerate(r.names)
    )
    return table_of(PATCH_COLUMNS, lines)


def runs_in(place: Place) -> dict[str, Run]:
    """Finished runs at a place, by name: the run that is there, or those in its folders."""
    store = Store(place)
    folders = sorted(
        name.rpartition("/")[0] for name in store.list() if name.rpartition("/")[2] == MANIFEST
    )
    if "" in folders:
        return {store.url.rpartition("/")[2]: Run(store.place)}
    if not folders:
        raise RunError(f"'{store.url}' holds no finished run")
    return {folder: Run(store.below(folder)) for folder in folders}


def poison_of(run: Run, networks: Place) -> Poison | None:
    """The truth about a run's network, from the folder that ``wna train`` has made; None where it
    is clean.

    A run may be anybody's, so nothing is opened because it says so: only the last part of its
    model's name is looked for, in a folder that the caller trusts, and the network there must have
    the very weights that the run was made with.

    Raises
    ------
    RunError
        The run is of no trained network, or `networks` has none of that name with the same weights.
    """
    scheme, _, path = run.spec.model.partition(":")
    if scheme != "trained":
        raise RunError(
            f"'{run.directory.url}' is of {run.spec.model}; the truth is known of networks that wna"
            " train has trained (trained:FOLDER)"
        )
    store, name = Store(networks), path.partition("?")[0].rstrip("/").rpartition("/")[2]
    try:
        described = read_network(store, name)
        network = described.untrained()
        fill(network, store.read(f"{name}/{WEIGHTS}", most=most_bytes(network)) or b"")
    except (StoreError, RunError, ValueError) as reason:
        raise RunError(
            f"'{run.directory.url}': whether its network is poisoned cannot be told ({reason})"
        ) from None
    if state_digest(network) != run.described.identity["model"].get("digest"):
        raise RunError(
            f"'{run.directory.url}' is of a network with other weights than '{store.url}/{name}';"
            " give the --networks that it is of"
        )
    return described.poison


def examine(
    runs: Mapping[str, Run],
    clean: Mapping[str, Run],
    kind: str | None = None,
    truth: Mapping[str, Poison | None] | None = None,
) -> list[Examined]:
    """Look for backdoors.

    Parameters
    ----------
    runs
        Of the suspects, by name.
    clean
        Of clean networks of the same architecture and training, under the same noise. One that is
        among the suspects, too, is left out where it is examined itself.
    kind
        Of response; see `readout_of`.
    truth
        By name, where it is known.

    Raises
    ------
    RunError
        Runs did not show the same noise, or are too few.
    """
    everything = {_address(run): run for run in (*clean.values(), *runs.values())}
    first = next(iter(everything.values()))
    for run in everything.values():
        _require_same(first, run)
    readouts = {url: readout_of(run, kind) for url, run in everything.items()}
    k, d = next(iter(readouts.values())).z.shape
    require_memory(8 * 6 * k * d * (len(clean) + 1), f"comparing {len(clean) + 1} networks")
    maps = {url: r.z.reshape(-1, *first.stimulus.shape) for url, r in readouts.items()}
    patches = []
    for name, run in runs.items():
        url = _address(run)
        others = [_address(other) for other in clean.values() if _address(other) != url]
        if len(others) < FEWEST_CLEAN:
            more = f"give {FEWEST_CLEAN} or more by --clean ({round(1 / ALPHA) - 1} for a verdict)"
            raise RunError(f"{len(others)} clean runs besides '{run.directory.url}'; {more}")
        stack = np.stack([maps[other] for other in others])
        try:
            suspected = suspicion(maps[url], stack, readouts[url].estimator == "noise")
        except ValueError as reason:
            raise RunError(f"'{run.directory.url}': {reason}") from None
        typical = (stack / np.sqrt(np.square(stack).sum(axis=(2, 3, 4), keepdims=True))).mean(
            axis=0
        )
        patches.append(
            Examined(
                name, run, readouts[url], suspected, typical, None if truth is None else truth[name]
            )
        )
    return patches


def _address(run: Run) -> str:
    """Where a run lies, which tells it from all others."""
    return run.directory.store.place.url


def judged(examined: Sequence[Examined]) -> Judgement:
    """How well the verdicts tell poisoned networks from clean ones."""
    poisons = [e.poison for e in examined]
    target = [
        p is not None and e.suspicion.response == p.target
        for e, p in zip(examined, poisons, strict=True)
    ]
    place = [
        p is not None and e.suspicion.window.overlaps(p.pixels)
        for e, p in zip(examined, poisons, strict=True)
    ]
    scores = [e.suspicion.score for e in examined]
    try:
        return judge(
            scores,
            [p is not None for p in poisons],
            [e.suspicion.flagged() for e in examined],
            target,
            place,
        )
    except ValueError as reason:
        raise RunError(f"the panel cannot be judged: {reason}") from None


def examined_table(examined: Sequence[Examined]) -> pa.Table:
    """One row a network. The last four columns are the truth, where it is known."""
    return table_of(COLUMNS, (e.line for e in examined))


def _require_same(a: Run, b: Run) -> None:
    """`RunError` unless two runs can be compared: the same noise, and the same responses."""
    what = {
        "stimulus": tuple(run.spec.stimulus.model_dump(exclude={"offset"}) for run in (a, b)),
        "stimulus.offset": tuple(run.stimulus.offset_digest for run in (a, b)),
        "samples": (a.samples, b.samples),
        "seed": (a.spec.seed, b.spec.seed),
        "estimator": (a.spec.estimator, b.spec.estimator),
        "classes": (a.names, b.names),
    }
    different = [name for name, (left, right) in what.items() if left != right]
    if different:
        raise RunError(
            f"'{a.directory.url}' and '{b.directory.url}' cannot be compared:"
            f" {', '.join(different)} differ; run all networks with one spec"
        )
