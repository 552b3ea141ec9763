"""The command line, on top of every other room.

`plan`, `run`, `inspect` and `studies` hold the commands with their options and help texts. Each
command imports the module that does its work when it is called (`planning`, `running`,
`inspecting`, ...), so ``wna --help`` loads no room. The exit codes are in `shared`.

Public: `app`, the Typer application with all commands, and `main`, the entry point of ``wna``.
May import: every room, and it alone imports late.
"""

from __future__ import annotations

from wna_ray.cli.main import main
from wna_ray.cli.shared import app

__all__ = ["app", "main"]
