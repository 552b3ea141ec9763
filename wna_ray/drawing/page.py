"""Reports as one HTML file: pictures inside, no script, nothing from the network.

    page = Page(
        "What a digit network expects to see", "A million images of noise.", (Section("maps", "Bias
        maps", figures=(Figure(png, "Ten bias maps, N = 1,000,000", "ten maps, most look like
        digits"),)),),
    )
    Path("report.html").write_bytes(render(page))

All text is escaped, whoever wrote it. Where there is more than one section, a table of contents
stands first, with their verdicts.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from rich.table import Table as RichTable

from wna_ray.version import __version__

PNG = b"\x89PNG\r\n\x1a\n"
NUMBER = re.compile(r"[-+−±<>]?\s?\d[\d.,]*(e[-+]?\d+)?\s?%?|[-–]|")


class Verdict(Enum):
    """Whether a published result was found again; `value` is what a reader sees."""

    REPRODUCED = "reproduced"
    PARTLY = "reproduced in part"
    NOT = "not reproduced"
    INCOMPARABLE = "not comparable"

    @property
    def style(self) -> str:
        """Class in the style sheet."""
        return self.name.lower()

    @property
    def sign(self) -> str:
        """Beside the word, for the eye."""
        return {"REPRODUCED": "\u2713", "PARTLY": "\u25d0", "NOT": "\u2717"}.get(
            self.name, "\u25cb"
        )


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes
    ----------
    png
        The bytes of a PNG file.
    caption
        What it shows: scale, units, N.
    alt
        The same for whoever does not see it.
    """

    png: bytes
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not self.png.startswith(PNG) or len(self.png) < 24:
            raise ValueError(f"png: expected the bytes of a PNG file, got {self.png[:8]!r}")

    @property
    def encoded(self) -> str:
        """The bytes in base64."""
        return base64.b64encode(self.png).decode()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels: half of the picture's own, so that it is sharp on a
        fine screen, but at least 480 wide.
        """
        width, height = (int.from_bytes(self.png[at : at + 4]) for at in (16, 20))
        scale = max(0.5, min(1.0, 480 / max(width, 1)))
        return round(width * scale), round(height * scale)

    @property
    def wide(self) -> bool:
        """Whether it is too wide to be read on a phone, where it is scrolled instead of shrunk."""
        return self.size[0] > 1.4 * self.size[1]


@dataclass(frozen=True)
class Table:
    """A table of words and numbers as they are to be read; a column whose cells are all numbers
    is set to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"rows: expected {len(self.columns)} cells each, got {wrong[0]}")

    @cached_property
    def _numbers(self) -> tuple[bool, ...]:
        return tuple(
            bool(self.rows) and all(NUMBER.fullmatch(row[i]) for row in self.rows)
            for i in range(len(self.columns))
        )

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return self._numbers[column]


@dataclass(frozen=True)
class Number:
    """One number here, beside the published one ("" where there is none)."""

    name: str
    ours: str
    theirs: str = ""
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Section:
    """A part of a report; the first of its numbers stands in the table of contents.

    Attributes
    ----------
    id
        Of its anchor: small letters, digits and dashes.
    title, question
        Its heading, and what it asks.
    verdict
        Whether the published result was found again.
    text
        Paragraphs.
    numbers, figures, tables
        What was found.
    facts
        Names and values: N, noise, significance, fingerprint.
    specs
        Names and texts to run it again, folded up.
    """

    id: str
    title: str
    question: str = ""
    verdict: Verdict | None = None
    text: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    specs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.id) or self.id in ("content", "contents"):
            raise ValueError(
                "id: expected small letters, digits and dashes (and not 'content' or 'contents'),"
                f" got {self.id!r}"
            )


@dataclass(frozen=True)
class Page:
    """A report: its title, what it is in a sentence or two, its sections, and the heading of
    their list.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    contents: str = "Contents"

    def __post_init__(self) -> None:
        twice = [
            name for name, n in Counter(section.id for section in self.sections).items() if n > 1
        ]
        if twice:
            raise ValueError(f"sections: the id {twice[0]!r} stands twice")


def render(page: Page) -> bytes:
    """The page as one HTML file, UTF-8; a function of what it shows."""
    source = files("wna_ray").joinpath("bundled", "page.html").read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).from_string(source)
    judged = any(section.verdict for section in page.sections)
    return template.render(page=page, judged=judged, version=__version__).encode()


def section_table(table: RichTable) -> Table:
    """A table of a terminal as one of a page."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    caption = ". ".join(str(text) for text in (table.title, table.caption) if text)
    return Table(
        tuple(str(column.header).replace("_", " ") for column in table.columns),
        tuple(zip(*columns, strict=True)),
        caption,
    )
