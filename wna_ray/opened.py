"""Open a finished run directory of any kind."""

from __future__ import annotations

from wna_ray.checks import PassExtent, TrialExtent
from wna_ray.results import Run
from wna_ray.rundir import RunDirectory
from wna_ray.stc_results import Stc
from wna_ray.store import Place
from wna_ray.trial_results import Trials

AnyRun = Run | Stc | Trials


def open_any(url: Place | str) -> AnyRun:
    """A run of noise, a covariance, or a run of trials: whichever is there.

    Raises
    ------
    RunError
        There is none, it is not finished, or something in it is damaged.
    """
    _, _, extent = RunDirectory(url).finished()
    if isinstance(extent, TrialExtent):
        return Trials(url)
    return Stc(url) if isinstance(extent, PassExtent) else Run(url)
