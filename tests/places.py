"""Where the tests find what lies beside them."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
JOBS_FOLDER = ROOT / "jobs"
GOLDEN_FOLDER = TESTS / "golden"
