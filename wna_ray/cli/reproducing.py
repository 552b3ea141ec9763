"""The work of ``wna paper``."""

from __future__ import annotations

from pathlib import Path

from wna_ray.cli.shared import ExecutionOptions
from wna_ray.errors import RunError
from wna_ray.paper.make import make_paper
from wna_ray.terminal import say


def reproduce_paper(out: Path, jobs: Path, full: bool, options: ExecutionOptions) -> None:
    """Do the whole paper again; `RunError` where jobs failed or experiments are missing.

    Parameters
    ----------
    out
        Local directory.
    jobs
        Folder of the job files.
    full
        Whether at the paper's size.
    options
        Which workers do it.
    """
    done = make_paper(out, jobs=jobs, full=full, say=say, **options.keywords())
    say(f"written to {out}/report.html")
    missing = [name for name, verdict in done.verdicts.items() if verdict is None]
    if done.failed or missing:
        reasons = "\n".join(
            f"  {name}: {reason.splitlines()[0]}" for name, reason in done.failed.items()
        )
        raise RunError(
            f"{len(done.failed)} jobs failed, and {len(missing)} of {len(done.verdicts)}"
            f" experiments could not be made:\n{reasons}\nMend the cause and run the same command"
            " again: only what is missing is done"
        )
