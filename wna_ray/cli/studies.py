"""``wna contrast | compare | backdoor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from wna_ray.cli.shared import Endpoint, RunURL, app, exiting
from wna_ray.drawing.tables import p_form
from wna_ray.errors import SpecError
from wna_ray.kinds.any import open_any
from wna_ray.kinds.average.run import Run, as_run
from wna_ray.runs.finished import Finished
from wna_ray.storage.arrays import to_npy, to_parquet
from wna_ray.storage.folder import write_files
from wna_ray.storage.store import Place
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
from wna_ray.studies.compare import (
    Measured,
    correlations,
    images_needed,
    mean_correlations,
    shares_noise,
)
from wna_ray.studies.contrast import contrast as paired
from wna_ray.studies.tables import images_table, pairs_table, patch_scores, suspects
from wna_ray.sweeps.directory import Sweep, is_sweep
from wna_ray.terminal import say, show, tell
from wna_ray.text import plain, redacted


@app.command()
@exiting
def contrast(
    a: RunURL,
    b: RunURL,
    kind: Annotated[str, typer.Option(help="kind of response, such as logits")],
    name: Annotated[str, typer.Option(help="class or unit of the first run")],
    other: Annotated[
        str | None, typer.Option(help="class or unit of the second run; default: the same name")
    ] = None,
    to: Annotated[Path, typer.Option(help="local folder for z-map and figure")] = Path("contrast"),
    endpoint: Endpoint = None,
) -> None:
    """Compare two responses to the same noise, paired image by image: two models, two
    checkpoints, or two classes.
    """
    from wna_ray.studies import contrast_figures  # matplotlib, only where something is drawn

    one, two = Run(Place(a, endpoint)), Run(Place(b, endpoint))
    found = paired(one, two, kind, name, other)  # type: ignore[arg-type]  # an unknown kind is refused there
    title = (
        f"{kind}: {plain(name, 30)} in {plain(a, 40)} minus {plain(other or name, 30)} in"
        f" {plain(b, 40)}, N = {found.images:,} images"
    )
    picture = contrast_figures.contrast(
        one.stimulus, found.z, found.unpaired, title.replace("$", r"\$"), found.correlation
    )
    write_files(to, {"contrast.png": picture, "z_map.npy": to_npy(found.z)}, "--to")
    say(title)
    say(
        f"correlation {found.correlation:.4f}: pairing divides errors by"
        f" {1 / np.sqrt(1 - found.correlation):.2f}; p {p_form('.1e')(found.p_value)}, reliability"
        f" {found.reliability:.3f}, rho2 {found.rho2:.2e}"
    )
    say(f"written to {to}/")


@app.command()
@exiting
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="URL...", help="finished runs, or sweeps: all their members", show_default=False
        ),
    ],
    kind: Annotated[str, typer.Option(help="kind of response, such as logits")],
    to: Annotated[Path, typer.Option(help="local folder for tables and figures")] = Path(
        "comparison"
    ),
    only_convergence: Annotated[
        bool,
        typer.Option(
            "--only-convergence",
            help="reliability by images alone, of runs over other images or classes, too",
        ),
    ] = False,
    endpoint: Endpoint = None,
) -> None:
    """Compare the maps of several networks: how they correlate, corrected for reliability, and
    how many images they take.
    """
    from wna_ray.studies import compare_figures  # matplotlib, only where something is drawn

    measured = [Measured.of(run, label, kind) for label, run in _labelled(runs, endpoint)]
    needed = images_needed(measured)
    made = {
        "images.parquet": to_parquet(needed),
        "convergence.png": compare_figures.convergence(measured),
    }
    tables = [images_table(needed)]
    if not only_convergence:
        pairs = correlations(measured)
        mean = mean_correlations(pairs)
        made |= {
            "correlations.parquet": to_parquet(pairs),
            "mean_correlations.parquet": to_parquet(mean),
        }
        made["correlations.png"] = compare_figures.matrix(measured, mean)
        tables.insert(0, pairs_table(mean))
        if shared := shares_noise(measured):
            tell(
                f"wna: {', '.join(shared[:6])}{', ...' * (len(shared) > 6)} saw the same noise (one"
                " seed), so the errors of their maps correlate where their responses do;"
                " correlations between them are not corrected, and 'lift' is the most that this"
                " may have added. Give each network a seed of its own (in a sweep: a: {model:"
                " ..., seed: 1}, b: {model: ..., seed: 2})",
            )
    write_files(to, made, "--to")
    for table in tables:
        show(table)
    say(f"written to {to}/")


def _labelled(urls: list[str], endpoint: str | None) -> list[tuple[str, Run]]:
    """Runs, and all members of sweeps, each with a name that is as short as it can be."""
    found = dict[str, Finished]()
    for url in urls:
        place, name = Place(url, endpoint), url.rstrip("/")
        found |= (
            {f"{name}/{m}": run for m, run in Sweep(place).members.items()}
            if is_sweep(place)
            else {name: open_any(place)}
        )
    parts = [redacted(name).split("/") for name in found]
    same = 0
    while len(parts) > 1 and all(len(p) > same + 1 and p[same] == parts[0][same] for p in parts):
        same += 1
    runs = list[tuple[str, Run]]()
    for (name, run), path in zip(found.items(), parts, strict=True):
        label = plain("/".join(path[same:]) if len(parts) > 1 else path[-1], 80)
        runs.append(
            (label, as_run(run, f"'{name}' is no run of noise, so it has no bias maps to compare"))
        )
    return runs


@app.command()
@exiting
def backdoor(
    run_url: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="run of the suspect; none with --panel", show_default=False
        ),
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="run of a clean network, or a folder of such runs; may be repeated"
        ),
    ] = None,
    patch: Annotated[
        str | None,
        typer.Option(metavar="PATCH", help="a known patch: C, X, or ROW,COLUMN,HEIGHT,WIDTH"),
    ] = None,
    panel: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="judge the search on runs of networks of wna train, clean and poisoned",
        ),
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help=(
                "with --panel: the networks of wna train that its runs are of; it knows which are"
                " poisoned"
            ),
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="kind of response that is searched; default: logits, if the run has them"
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="local folder for tables and figures")] = Path(
        "backdoor"
    ),
    endpoint: Endpoint = None,
) -> None:
    """Look for a backdoor in a network's maps: of a known patch, or, against clean networks, of
    any. Exit code 0 whatever is found.
    """
    from wna_ray.studies import backdoor_figures  # matplotlib, only where something is drawn

    honest = {
        name: run for url in clean or [] for name, run in runs_in(Place(url, endpoint)).items()
    }
    made: dict[str, bytes] = {}
    if (panel is None) == (run_url is None):
        raise SpecError("backdoor: expected either the RUN of a suspect, or --panel FOLDER")
    if panel is not None:
        if patch is not None:
            raise SpecError("--patch: of one run; leave out --panel, and name the RUN")
        if networks is None:
            raise SpecError(
                "--networks: which networks of a panel are poisoned stands in the folder that wna"
                " train has made, --networks FOLDER. (Its runs name that folder, too, but a run may"
                " be anybody's, so nothing is opened because it says so)"
            )
        runs = runs_in(Place(panel, endpoint))
        truth = {name: poison_of(run, Place(networks, endpoint)) for name, run in runs.items()}
        found = examine(
            runs,
            honest or {name: run for name, run in runs.items() if truth[name] is None},
            kind,
            truth,
        )
        judgement, table = judged(found), examined_table(found)
        reference = (
            f"scored against {len(honest)} other clean networks"
            if honest
            else "each scored against the other clean ones"
        )
        made |= {
            "networks.parquet": to_parquet(table),
            "panel.png": backdoor_figures.panel(found, judgement, reference),
        }
        show(suspects(table))
        say(f"area under the ROC curve  {judgement.area_text}; {reference}")
        say(f"poisoned, flagged         {judgement.found}")
        say(f"clean, flagged            {judgement.alarms}")
        say(f"target named              {judgement.target}")
        say(f"window on the trigger     {judgement.place}")
    elif run_url is not None:
        if networks is not None:
            raise SpecError("--networks: of a panel; leave it out, or give --panel FOLDER")
        if patch is None and not honest:
            raise SpecError(
                "--clean: every honest network has significant strokes, so an unknown patch is"
                " looked for against clean networks; give --clean, or --patch for a known one"
            )
        run = Run(Place(run_url, endpoint))
        name = run.directory.url.rpartition("/")[2]
        if patch is not None:
            scored = patch_table(patch_of(run, patch_pixels(patch)))
            made["patch.parquet"] = to_parquet(scored)
            show(patch_scores(scored, f"Patch {plain(patch, 40)} in {plain(run_url, 60)}"))
        if honest:
            found = examine({name: run}, honest, kind)
            table = examined_table(found)
            made |= {
                "suspicion.parquet": to_parquet(table),
                "suspicion.png": backdoor_figures.suspect(
                    found[0], plain(name, 40).replace("$", r"\$")
                ),
            }
            show(suspects(table))
            say(f"{name}: {found[0].verdict}")
    write_files(to, made, "--to")
    say(f"written to {to}/")
