"""A finished run as one HTML page: its pictures and tables, how sure they are, and how to make
it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from wna_ray.drawing.page import Figure, Page, Section, render, section_table
from wna_ray.errors import RunError
from wna_ray.kinds.any import views_of
from wna_ray.reports.tables import tables_of
from wna_ray.runs.finished import Finished
from wna_ray.text import plain, redacted, redacted_tree


def written(finished: Finished) -> bytes:
    """The page of a finished run, from its directory alone: no Ray, no model, no data set.

    Raises
    ------
    RunError
        Something in the run is damaged.
    """
    finished = finished.remade()
    pictures = {
        PurePosixPath(name).stem: data
        for name, data in finished.objects.items()
        if name.endswith(".png")
    }
    views, images = views_of(finished), finished.images
    model, kind = plain(redacted(views.model(finished)), 120), views.title
    figures = tuple(
        _figure(name, data, f"{kind} of {model}", images, views.captions)
        for name, data in pictures.items()
    )
    spec = redacted_tree(
        finished.spec.model_dump(
            mode="json", by_alias=True, exclude_defaults=True, exclude={"execution"}
        )
    )
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=False)
    sections = (
        Section(
            "numbers",
            "Numbers",
            tables=tuple(section_table(table) for table in tables_of(finished)),
        ),
        Section("pictures", "Pictures", figures=figures),
        *views.sections(finished),
        Section(
            "proof",
            "Proof",
            text=(PROOF,),
            facts=_facts(finished, views.facts(finished)),
            specs=((AGAIN, text),),
        ),
    )
    return render(Page(f"{kind} of {model}", f"{images:,} {views.counted}. {views.lead}", sections))


AGAIN = (
    "The spec, to run it again: wna run spec.yaml. A spec is to be trusted like a script: a model"
    " of python: is code. With --no-code such a model is refused. Passwords and signatures of URLs"
    " stand here as ***."
)
PROOF = (
    "All that is shown here was made from exact sums whose SHA-256 digests are those of the run's"
    " manifest. The same spec gives the same bytes, on the same kind of device with the same"
    " library versions; wna verify adds all parts up again."
)


def _figure(name: str, data: bytes, title: str, images: int, captions: Mapping[str, str]) -> Figure:
    caption = captions.get(name, plain(name).replace("_", " "))
    try:
        return Figure(data, f"{caption} N = {images:,}.", f"{title}: {caption}")
    except ValueError as error:
        raise RunError(f"figures/{plain(name)}.png is damaged ({error})") from None


def _facts(finished: Finished, own: Sequence[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, Any]] = [("N", f"{finished.images:,} counted in"), *own]
    facts.append(("fingerprint", finished.fingerprint))
    facts += [
        (plain(str(name), 40), plain(str(value), 100))
        for name, value in sorted(finished.environment.items())[:20]
    ]
    return tuple((name, str(value)) for name, value in facts)
