"""White-noise analysis of neural networks as a distributed batch job.

>>> from wna_ray import Spec, analyse, run, open_run
>>> run(Spec.load("jobs/demo.yaml"), out="runs/demo")
>>> open_run("runs/demo").bias_maps

or, of a network that is in memory:

>>> analyse(net, (1, 28, 28)).bias_maps

Importing this package imports neither Ray nor matplotlib.
"""

import sys

# ``python -m wna_ray`` looks for modules in the working directory first. That may be the folder of
# a run that a stranger has sent, with a numpy.py in it, so it is left out before anything else is
# imported (``__future__``, too).
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and {"wna_ray", "wna_ray.cli"} & {arg.removeprefix("-m") for arg in sys.orig_argv[1:]}
):
    sys.path = sys.path[1:]

from typing import TYPE_CHECKING, Any

from wna_ray.version import __version__

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
    "analyse",
    "check",
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
    from wna_ray.kinds.average.analyse import analyse
    from wna_ray.kinds.average.checkup import check
    from wna_ray.kinds.average.job import run
    from wna_ray.kinds.average.run import Run, open_run
    from wna_ray.kinds.covariance.job import run_stc
    from wna_ray.kinds.covariance.result import Stc, open_stc
    from wna_ray.kinds.trials.job import run_trials
    from wna_ray.kinds.trials.result import Trials, open_trials
    from wna_ray.specs.covariance import StcSpec
    from wna_ray.specs.run import Spec
    from wna_ray.specs.sweep import SweepSpec
    from wna_ray.specs.trials import TrialSpec
    from wna_ray.sweeps.finished import Sweep, open_sweep
    from wna_ray.sweeps.job import run_sweep

_HOMES = {
    "Run": "wna_ray.kinds.average.run",
    "Spec": "wna_ray.specs.run",
    "Stc": "wna_ray.kinds.covariance.result",
    "StcSpec": "wna_ray.specs.covariance",
    "Sweep": "wna_ray.sweeps.finished",
    "SweepSpec": "wna_ray.specs.sweep",
    "TrialSpec": "wna_ray.specs.trials",
    "Trials": "wna_ray.kinds.trials.result",
    "WnaError": "wna_ray.errors",
    "analyse": "wna_ray.kinds.average.analyse",
    "check": "wna_ray.kinds.average.checkup",
    "open_run": "wna_ray.kinds.average.run",
    "open_stc": "wna_ray.kinds.covariance.result",
    "open_sweep": "wna_ray.sweeps.finished",
    "open_trials": "wna_ray.kinds.trials.result",
    "run": "wna_ray.kinds.average.job",
    "run_stc": "wna_ray.kinds.covariance.job",
    "run_sweep": "wna_ray.sweeps.job",
    "run_trials": "wna_ray.kinds.trials.job",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wna_ray' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
