"""Hostile runs: which commands refuse each, with which words, and how an honest run is made
hostile.
"""

from __future__ import annotations

from crafted_runs import Harm
from hostile_objects import OBJECTS
from hostile_records import RECORDS

CASES: dict[str, tuple[str, str, Harm]] = RECORDS | OBJECTS
"""Which commands refuse it (the others must not mind), with which words the last of them does, and
how it is made.
"""
