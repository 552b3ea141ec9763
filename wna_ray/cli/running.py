"""The work of ``wna run``."""

from __future__ import annotations

from wna_ray.cli.reading import read_spec
from wna_ray.cli.reporting import print_result, print_sweep
from wna_ray.cli.shared import ExecutionOptions, SpecFile
from wna_ray.execution.progress import ProgressPrinter
from wna_ray.kinds.any import run_any
from wna_ray.specs.sweep import SweepSpec
from wna_ray.sweeps.job import SweepPrinter, run_sweep


def run_spec(file: SpecFile, out: str, options: ExecutionOptions, one_by_one: bool) -> None:
    """Run a spec, or go on with it, and print its tables.

    Parameters
    ----------
    file
        The spec: of one run, or of a sweep.
    out
        Directory of the run.
    options
        Which workers do it.
    one_by_one
        Whether each member of a sweep in turn is given all workers.
    """
    spec = read_spec(file)
    printer = ProgressPrinter()
    try:
        if isinstance(spec, SweepSpec):
            sweep = run_sweep(
                spec,
                out,
                one_by_one=one_by_one,
                callbacks=[SweepPrinter()],
                member_callbacks=[printer] if one_by_one else [],
                **options.keywords(),
            )
            print_sweep(sweep)
            return
        finished = run_any(spec, out, callbacks=[printer], **options.keywords())
    finally:
        printer.close()
    print_result(finished)
