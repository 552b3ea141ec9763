"""The command line: ``wna check | plan | run | train | paper | status | fetch | verify | report |
contrast | compare | backdoor``.
"""

from __future__ import annotations

import logging
import sys

from wna_ray.cli import inspect, plan, run, studies
from wna_ray.cli.shared import app
from wna_ray.terminal import Forgiving, PrintableFormatter, prepare, traceback_text

COMMANDS = (plan, run, inspect, studies)  # importing them adds their commands to the application


def main() -> None:
    """Entry point of the console script."""
    prepare()
    handler = logging.StreamHandler(Forgiving(sys.stderr))
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.getLogger("wna_ray").addHandler(handler)
    try:
        app()
    except Exception:  # a bug: its traceback is wanted, the secrets in it are not
        print(traceback_text(), file=Forgiving(sys.stderr), flush=True)
        sys.exit(1)
