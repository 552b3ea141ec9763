"""``python -m wna_ray.cli`` is ``wna``."""

from __future__ import annotations

from wna_ray.cli import main

if __name__ == "__main__":
    main()
