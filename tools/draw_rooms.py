"""Draw the rooms of the package from its imports: ``python tools/draw_rooms.py [TO.png]``.

Layers are those of the contract in ``.importlinter.toml``, the words those of each folder's
docstring, and the numbers those of the imports as they are: how many modules of the rooms below a
room imports. `make rooms` writes ``docs/rooms.png``.
"""

from __future__ import annotations

import ast
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grimp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "wna_ray"
GROUND = ("registry", "files", "terminal", "canonical", "machine", "errors", "events", "text")
GROUND += ("geometry", "processes", "version")
WIDTH, STEP, GAP, HEIGHT = 20.0, 1.5, 0.25, 1.28
WIDE = 125  # letters of a line in a box as wide as the picture
MOST_TITLE = 3  # words before a colon that only repeat the name


@dataclass(frozen=True)
class Room:
    """A room, or the ground: what it is for, how large it is, and how much of lower rooms it uses.

    Attributes
    ----------
    name, purpose
        Of its folder, and the first sentence of its docstring.
    modules
        In it.
    below
        Modules of lower rooms that it imports.
    """

    name: str
    purpose: str
    modules: int
    below: int


def layers(root: Path = ROOT) -> list[list[str]]:
    """Rooms side by side, from the top, as the contract has them; the ground is one room."""
    contract = tomllib.loads((root / ".importlinter.toml").read_text())["tool"]["importlinter"]
    rows: list[list[str]] = []
    for line in contract["contracts"][0]["layers"]:
        rooms = [room for room in line.split(" | ") if room not in GROUND]
        rows += [rooms] if rooms else []
    return [*rows, ["ground"]]


def purpose_of(name: str, root: Path = ROOT) -> str:
    """The first sentence of a room's docstring."""
    if name == "ground":
        return f"What everything stands on, one file each: {', '.join(sorted(GROUND))}"
    text = ast.get_docstring(ast.parse((root / PACKAGE / name / "__init__.py").read_text())) or ""
    sentence = " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    title, _, rest = sentence.replace("`", "").partition(": ")
    short = rest if len(title.split()) < MOST_TITLE and rest else f"{title}: {rest}".rstrip(": ")
    return short[0].upper() + short[1:]


def rooms(root: Path = ROOT) -> dict[str, Room]:
    """Every room by its name, with what it imports."""
    graph = grimp.build_graph(PACKAGE)
    found = {}
    for name in (room for row in layers(root) for room in row):
        heads = GROUND if name == "ground" else (name,)
        inside = {m for m in graph.modules if m.split(".")[1:2] and m.split(".")[1] in heads}
        used = {u for m in inside for u in graph.find_modules_directly_imported_by(m)} - inside
        below = {u for u in used if u.startswith(f"{PACKAGE}.")}
        found[name] = Room(name, purpose_of(name, root), len(inside), len(below))
    return found


def boxes(root: Path = ROOT) -> Iterator[tuple[Room, float, float, float]]:
    """Each room with the left, bottom and width of its box."""
    known, rows = rooms(root), layers(root)
    for i, row in enumerate(rows):
        width = (WIDTH - GAP * (len(row) - 1)) / len(row)
        for j, name in enumerate(row):
            yield known[name], j * (width + GAP), (len(rows) - 1 - i) * STEP, width


def draw(axes: Axes, room: Room, left: float, bottom: float, width: float) -> None:
    """One box: the name, the size and the purpose of a room."""
    style = "round,pad=0,rounding_size=0.12"
    colour = "0.93" if room.name == "ground" else "#e8eef6"
    box = FancyBboxPatch(
        (left, bottom), width, HEIGHT, boxstyle=style, fc=colour, ec="0.55", lw=0.8
    )
    axes.add_patch(box)
    top = bottom + HEIGHT - 0.16
    axes.text(left + 0.22, top, room.name, fontsize=12, weight="bold", va="top")
    size = f"{room.modules} modules" + (f", use {room.below} below" if room.below else "")
    axes.text(left + width - 0.22, top, size, fontsize=8, color="0.4", va="top", ha="right")
    letters = int(WIDE * width / WIDTH)
    lines = textwrap.wrap(room.purpose, letters, max_lines=2, placeholder=" ...")
    axes.text(left + 0.22, top - 0.46, "\n".join(lines), fontsize=9, linespacing=1.25, va="top")


def picture(root: Path = ROOT) -> Figure:
    """All rooms; whoever stands higher may import what stands lower."""
    height = len(layers(root)) * STEP
    figure = Figure(figsize=(11, 11 * (height + 0.4) / (WIDTH + 0.9)), layout="constrained")
    axes = figure.subplots()
    for room, left, bottom, width in boxes(root):
        draw(axes, room, left, bottom, width)
    arrow = {"arrowstyle": "-|>", "color": "0.5", "lw": 1.2}
    axes.annotate("", (-0.45, 0.1), (-0.45, height - 0.35), arrowprops=arrow)
    axes.text(-0.6, height / 2, "may import", rotation=90, va="center", ha="right", color="0.4")
    axes.set_xlim(-1.0, WIDTH + 0.1)
    axes.set_ylim(-0.1, height)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure


def main() -> None:
    """Write the picture."""
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "rooms.png"
    picture().savefig(to, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
