"""The work of ``wna backdoor``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wna_ray.errors import SpecError
from wna_ray.kinds.average.run import Run
from wna_ray.storage.arrays import to_parquet
from wna_ray.storage.folder import write_files
from wna_ray.storage.store import Place
from wna_ray.studies import backdoor_figures
from wna_ray.studies.backdoor import (
    examine,
    examined_table,
    judged,
    patch_of,
    patch_pixels,
    patch_table,
    poison_of,
    runs_in,
)
from wna_ray.studies.tables import patch_scores, suspects
from wna_ray.terminal import say, show
from wna_ray.text import plain


@dataclass(frozen=True)
class Search:
    """What is searched for a backdoor, and how.

    Attributes
    ----------
    run
        Of the suspect; None where there is a panel.
    panel
        Folder of runs on which the search is judged.
    networks
        Folder of the networks that these runs are of.
    clean
        Runs of clean networks, or folders of such runs.
    patch
        A known patch.
    kind
        Of response; None: logits, where there are any.
    endpoint
        Of the S3 server, where it is not AWS.
    """

    run: str | None
    panel: str | None
    networks: str | None
    clean: tuple[str, ...]
    patch: str | None
    kind: str | None
    endpoint: str | None

    def place(self, url: str) -> Place:
        """A URL with the server."""
        return Place(url, self.endpoint)


def search_backdoor(search: Search, to: Path) -> None:
    """Look for a backdoor; write tables and figures, and print the verdicts.

    Raises
    ------
    SpecError
        The arguments do not fit together.
    """
    clean = {name: run for url in search.clean for name, run in runs_in(search.place(url)).items()}
    if search.panel is not None and search.run is None:
        files = _judge_panel(search, search.panel, clean)
    elif search.run is not None and search.panel is None:
        files = _examine_run(search, search.run, clean)
    else:
        raise SpecError("backdoor: expected either the RUN of a suspect, or --panel FOLDER")
    write_files(to, files, "--to")
    say(f"written to {to}/")


def _judge_panel(search: Search, panel: str, clean: Mapping[str, Run]) -> dict[str, bytes]:
    """Print how well the search tells the poisoned networks of a panel from the clean ones;
    returns the files.
    """
    if search.patch is not None:
        raise SpecError("--patch: of one run; leave out --panel, and name the RUN")
    if search.networks is None:
        raise SpecError(
            "--networks: which networks of a panel are poisoned stands in the folder that wna"
            " train has made, --networks FOLDER. (Its runs name that folder, too, but a run may"
            " be anybody's, so nothing is opened because it says so)"
        )
    runs = runs_in(search.place(panel))
    networks = search.place(search.networks)
    truth = {name: poison_of(run, networks) for name, run in runs.items()}
    reference = clean or {name: run for name, run in runs.items() if truth[name] is None}
    examined = examine(runs, reference, search.kind, truth)
    judgement, table = judged(examined), examined_table(examined)
    scored = (
        f"scored against {len(clean)} other clean networks"
        if clean
        else "each scored against the other clean ones"
    )
    files = {
        "networks.parquet": to_parquet(table),
        "panel.png": backdoor_figures.panel(examined, judgement, scored),
    }
    show(suspects(table))
    say(f"area under the ROC curve  {judgement.area_text}; {scored}")
    say(f"poisoned, flagged         {judgement.found}")
    say(f"clean, flagged            {judgement.alarms}")
    say(f"target named              {judgement.target}")
    say(f"window on the trigger     {judgement.place}")
    return files


def _examine_run(search: Search, url: str, clean: Mapping[str, Run]) -> dict[str, bytes]:
    """Print what a known patch, and the comparison with clean networks, say of a suspect; returns
    the files.
    """
    if search.networks is not None:
        raise SpecError("--networks: of a panel; leave it out, or give --panel FOLDER")
    if search.patch is None and not clean:
        raise SpecError(
            "--clean: every honest network has significant strokes, so an unknown patch is"
            " looked for against clean networks; give --clean, or --patch for a known one"
        )
    run = Run(search.place(url))
    files: dict[str, bytes] = {}
    if search.patch is not None:
        scores = patch_table(patch_of(run, patch_pixels(search.patch)))
        files["patch.parquet"] = to_parquet(scores)
        show(patch_scores(scores, f"Patch {plain(search.patch, 40)} in {plain(url, 60)}"))
    if clean:
        name = run.directory.url.rpartition("/")[2]
        examined = examine({name: run}, clean, search.kind)
        table = examined_table(examined)
        title = plain(name, 40).replace("$", r"\$")
        files |= {
            "suspicion.parquet": to_parquet(table),
            "suspicion.png": backdoor_figures.suspect(examined[0], title),
        }
        show(suspects(table))
        say(f"{name}: {examined[0].verdict}")
    return files
