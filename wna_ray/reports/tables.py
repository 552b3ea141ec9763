"""Tables of finished runs of any kind, and of the members of a sweep."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from wna_ray.drawing.tables import MOST_ROWS
from wna_ray.kinds.any import views_of
from wna_ray.runs.finished import Finished
from wna_ray.sweeps.finished import Sweep


def tables_of(finished: Finished) -> list[Table]:
    """The tables of a finished run of any kind; long ones end after `MOST_ROWS` rows, and say
    so.
    """
    return views_of(finished).tables(finished)


def members_table(sweep: Sweep) -> Table:
    """One row a member: what it is, and of runs of noise how reliable their maps are."""
    table = Table(
        box=SIMPLE, title=f"{sweep.url}: {len(sweep.members):,} members", title_justify="left"
    )
    for column in ("member", "kind", "images", "responses", "median reliability", "fingerprint"):
        table.add_column(
            column,
            justify="right" if column in ("images", "median reliability") else "left",
            no_wrap=True,
        )
    for name, member in list(sweep.members.items())[:MOST_ROWS]:
        views = views_of(member)
        responses, reliability = views.headline(member)
        table.add_row(
            name, views.noun, f"{member.images:,}", responses, reliability, member.fingerprint[:12]
        )
    if len(sweep.members) > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {len(sweep.members):,} members"
    return table
