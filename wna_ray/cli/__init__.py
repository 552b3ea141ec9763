"""The command line: one file a group of commands, on top of every other room.

Its public names are `app`, the Typer application with all commands, and `main`, the entry point of
``wna``. It may import every room, and it alone imports late: when a command is called.
"""

from __future__ import annotations

from wna_ray.cli.main import main
from wna_ray.cli.shared import app

__all__ = ["app", "main"]
