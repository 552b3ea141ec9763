"""``python -m wna_ray`` is ``wna``."""

from wna_ray.cli import main

if __name__ == "__main__":
    main()
