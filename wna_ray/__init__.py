"""White-noise analysis of neural networks as a distributed batch job.

>>> from wna_ray import Spec, run, open_run
>>> run(Spec.load("jobs/demo.yaml"), out="runs/demo")
>>> open_run("runs/demo").bias_maps

Importing this package imports neither Ray nor matplotlib.
"""

import sys

# ``python -m wna_ray`` looks for modules in the working directory first. That may be the folder of a run that a stranger
# has sent, with a numpy.py in it, so it is left out before anything else is imported (``__future__``, too).
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and {"wna_ray", "wna_ray.cli"} & {arg.removeprefix("-m") for arg in sys.orig_argv[1:]}
):
    sys.path = sys.path[1:]

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Run",
    "Spec",
    "Stc",
    "StcSpec",
    "Sweep",
    "SweepSpec",
    "TrialSpec",
    "Trials",
    "WnaError",
    "__version__",
    "open_run",
    "open_stc",
    "open_sweep",
    "open_trials",
    "run",
    "run_stc",
    "run_sweep",
    "run_trials",
]

if TYPE_CHECKING:
    from wna_ray.errors import WnaError
    from wna_ray.job import run
    from wna_ray.results import Run, open_run
    from wna_ray.spec import Spec, StcSpec
    from wna_ray.stc_results import Stc, open_stc
    from wna_ray.stc_run import run_stc
    from wna_ray.sweep import Sweep, open_sweep
    from wna_ray.sweep_run import run_sweep
    from wna_ray.sweep_spec import SweepSpec
    from wna_ray.trial_results import Trials, open_trials
    from wna_ray.trial_run import run_trials
    from wna_ray.trial_spec import TrialSpec

_HOMES = {
    "Run": "wna_ray.results",
    "Spec": "wna_ray.spec",
    "Stc": "wna_ray.stc_results",
    "StcSpec": "wna_ray.spec",
    "Sweep": "wna_ray.sweep",
    "SweepSpec": "wna_ray.sweep_spec",
    "TrialSpec": "wna_ray.trial_spec",
    "Trials": "wna_ray.trial_results",
    "WnaError": "wna_ray.errors",
    "open_run": "wna_ray.results",
    "open_stc": "wna_ray.stc_results",
    "open_sweep": "wna_ray.sweep",
    "open_trials": "wna_ray.trial_results",
    "run": "wna_ray.job",
    "run_stc": "wna_ray.stc_run",
    "run_sweep": "wna_ray.sweep_run",
    "run_trials": "wna_ray.trial_run",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wna_ray' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
