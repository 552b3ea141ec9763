"""Tell from where a process imports `wna_ray`.

Python runs this file at its start wherever its folder is in ``PYTHONPATH``. An editable install, or
one in site-packages, can serve modules of another tree in silence: all of them, or only those that
a tree lacks. So every process of `same`, workers of Ray included, writes a line when it imports the
package, and one for each of its modules that does not come from the tree it should. What is found,
and imported, stays as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

Path = Sequence[str] | None
Target = ModuleType | None

PACKAGE = "wna_ray"
TREE, LEDGER = os.environ.get("SAME_TREE"), os.environ.get("SAME_LEDGER")


class Witness:
    """Ask the other finders, before Python does, and note what they say."""

    @classmethod
    def find_spec(cls, name: str, path: Path = None, target: Target = None) -> ModuleSpec | None:
        """Return what another finder finds, for modules of the package; for others nothing."""
        if name.partition(".")[0] != PACKAGE:
            return None
        others = [finder for finder in sys.meta_path if finder is not cls]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None:
            note(name, os.path.realpath(spec.origin or ""))
        return spec


def note(name: str, origin: str) -> None:
    """Write down the package itself, and every module that is not the tree's own."""
    own = origin.startswith(f"{os.path.realpath(TREE or '')}/{PACKAGE}/")
    if name == PACKAGE or not own:
        line = f"{os.getpid()}\t{'own' if own else 'foreign'}\t{name}\t{origin}\n"
        with open(LEDGER or os.devnull, "a") as ledger:
            ledger.write(line)


if TREE and LEDGER:
    sys.meta_path.insert(0, Witness)
