"""The work of ``wna compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wna_ray.kinds.any import open_any
from wna_ray.kinds.average.run import Run, as_run
from wna_ray.runs.finished import Finished
from wna_ray.storage.arrays import to_parquet
from wna_ray.storage.folder import write_files
from wna_ray.storage.store import Place
from wna_ray.studies import compare_figures
from wna_ray.studies.compare import (
    Measured,
    correlations,
    images_needed,
    mean_correlations,
    shares_noise,
)
from wna_ray.studies.tables import images_table, pairs_table
from wna_ray.sweeps.directory import is_sweep
from wna_ray.sweeps.finished import Sweep
from wna_ray.terminal import say, show, tell
from wna_ray.text import plain, redacted


def write_comparison(
    urls: Sequence[str], kind: str, to: Path, only_convergence: bool, endpoint: str | None
) -> None:
    """Compare the maps of several networks; write tables and figures, and print the tables.

    Parameters
    ----------
    urls, endpoint
        Finished runs, or sweeps, and the S3 server where it is not AWS.
    kind
        Of response.
    to
        Local folder.
    only_convergence
        Whether correlations between networks are left out.
    """
    measured = [Measured.of(run, label, kind) for label, run in _labelled(urls, endpoint)]
    needed = images_needed(measured)
    files = {
        "images.parquet": to_parquet(needed),
        "convergence.png": compare_figures.convergence(measured),
    }
    tables = [images_table(needed)]
    if not only_convergence:
        pairs = correlations(measured)
        mean = mean_correlations(pairs)
        files |= {
            "correlations.parquet": to_parquet(pairs),
            "mean_correlations.parquet": to_parquet(mean),
            "correlations.png": compare_figures.matrix(measured, mean),
        }
        tables.insert(0, pairs_table(mean))
        _warn_of_shared_noise(measured)
    write_files(to, files, "--to")
    for table in tables:
        show(table)
    say(f"written to {to}/")


def _warn_of_shared_noise(measured: Sequence[Measured]) -> None:
    """Say which networks saw the same noise, where some did."""
    if shared := shares_noise(measured):
        tell(
            f"wna: {', '.join(shared[:6])}{', ...' * (len(shared) > 6)} saw the same noise (one"
            " seed), so the errors of their maps correlate where their responses do;"
            " correlations between them are not corrected, and 'lift' is the most that this"
            " may have added. Give each network a seed of its own (in a sweep: a: {model:"
            " ..., seed: 1}, b: {model: ..., seed: 2})",
        )


def _labelled(urls: Sequence[str], endpoint: str | None) -> list[tuple[str, Run]]:
    """Runs, and all members of sweeps, each with a name that is as short as it can be."""
    opened = dict[str, Finished]()
    for url in urls:
        place, name = Place(url, endpoint), url.rstrip("/")
        if is_sweep(place):
            opened |= {f"{name}/{member}": run for member, run in Sweep(place).members.items()}
        else:
            opened[name] = open_any(place)
    parts = [redacted(name).split("/") for name in opened]
    same = 0
    while len(parts) > 1 and all(len(p) > same + 1 and p[same] == parts[0][same] for p in parts):
        same += 1
    runs = list[tuple[str, Run]]()
    for (name, run), path in zip(opened.items(), parts, strict=True):
        label = plain("/".join(path[same:]) if len(parts) > 1 else path[-1], 80)
        otherwise = f"'{name}' is no run of noise, so it has no bias maps to compare"
        runs.append((label, as_run(run, otherwise)))
    return runs
