"""A finished run as one HTML page: its pictures and tables, how sure they are, and how to make it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml
from rich.table import Table as RichTable

from wna_ray.checks import EVALUATION, safe
from wna_ray.errors import RunError
from wna_ray.evaluation import picture_name, usual_score
from wna_ray.opened import AnyRun
from wna_ray.page import Figure, Page, Section, Table, render
from wna_ray.results import Run
from wna_ray.stc_results import Stc
from wna_ray.tables import classifier_table, tables_of
from wna_ray.text import plain, redacted, redacted_tree
from wna_ray.trial_results import Trials

MOST_PICTURE = 16 << 20  # bytes of a figure that has no digest
CAPTIONS = {
    "bias_maps": "Bias maps: where light makes the response more likely or larger (red), or less (blue).",
    "z_maps": "The same maps in standard errors, outlined where a single value is significant.",
    "whitened_maps": "Bias maps freed of the correlations of the noise.",
    "decoded_maps": "The decoder's pictures of the mean code of each response, and of steps along the maps that are slopes.",
    "label_frequencies": "How often each label was given to noise.",
    "filters": "True filters of linear units, and what noise found of them.",
    "reliability": "How reliable the maps had become at each look.",
    "axes": "Directions of the noise along which a response changes without regard to sign.",
    "spectra": "Eigenvalues of each unit's covariance, beside those of fresh noise.",
    "profiles": "Mean response along each axis.",
    "attack": "How often an attack of growing weight gives the target's label.",
    "microstimulation": "How answers change while units are stimulated.",
    "psychometric": "How answers change with the weight of the signal in the noise.",
    "transforms": "Right answers to transformed signals.",
    "sensitivity": "Sensitivity and criterion of each answer by the weight of the signal.",
    "classification_images": "Which noise makes the network give each answer.",
}


def written(finished: AnyRun) -> bytes:
    """The page of a finished run, from its directory alone: no Ray, no model, no data set.

    Raises
    ------
    RunError
        Something in the run is damaged.
    """
    made = finished.derive()
    pictures = {PurePosixPath(name).stem: data for name, data in made.items() if name.endswith(".png")}
    model = plain(redacted(_model(finished)), 120)
    kind = {Run: "White-noise analysis", Stc: "Covariance", Trials: "Trials"}[type(finished)]
    images = _images(finished)
    figures = tuple(_figure(name, data, f"{kind} of {model}", images) for name, data in pictures.items())
    spec = redacted_tree(finished.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"execution"}))
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=False)
    sections = (
        Section("numbers", "Numbers", tables=tuple(_table(table) for table in tables_of(finished))),
        Section("pictures", "Pictures", figures=figures),
        *_classifier(finished),
        Section("proof", "Proof", text=(PROOF,), facts=_facts(finished, images), specs=((AGAIN, text),)),
    )
    return render(
        Page(f"{kind} of {model}", f"{images:,} {'trials' if isinstance(finished, Trials) else 'images'}. {_lead(finished)}", sections)
    )


def _classifier(finished: AnyRun) -> Iterator[Section]:
    """What ``evaluation/`` holds of maps as classifiers, where there is something."""
    scored = finished.directory.read_json(EVALUATION) if isinstance(finished, Run) else None
    if scored is None:
        return
    figures = []
    for kind, entry in scored["templates"].items():
        name = picture_name(kind)
        data = finished.directory.store.read(name, most=MOST_PICTURE) if safe(name) else None
        if data is not None:
            caption = f"{kind} as classifier of {scored['dataset']}, by {usual_score(kind, entry)}."
            try:
                figures.append(Figure(data, caption, caption))
            except ValueError as error:
                raise RunError(f"{name} is damaged ({error}), and no part of the result; remove it") from None
    yield Section(
        "classifier", "Maps as classifiers", text=(CLASSIFIER,), figures=tuple(figures), tables=(_table(classifier_table(scored)),)
    )


CLASSIFIER = (
    "Each map is a template: an image gets the class whose map has the largest score with it. Shuffled maps have the same values in other "
    "places. P-values: as many right by the share of the most frequent class. The authors take averages with cosine; maps of logits are "
    "the improved way, with correlation, or centred: with images less the mean of the noise. The mean training image of each class is the "
    "ceiling of such templates, and no map. This part depends on which images were at hand, so no digest proves it."
)
AGAIN = (
    "The spec, to run it again: wna run spec.yaml. A spec is to be trusted like a script: a model of python: is code. "
    "With --no-code such a model is refused. Passwords and signatures of URLs stand here as ***."
)
PROOF = (
    "All that is shown here was made from exact sums whose SHA-256 digests are those of the run's manifest. The same spec gives the same "
    "bytes, on the same kind of device with the same library versions; wna verify adds all parts up again."
)


def _model(finished: AnyRun) -> str:
    model = finished.spec.model
    return model if model is not None else f"the run {finished.spec.run}" if isinstance(finished, Stc) else ""


def _images(finished: AnyRun) -> int:
    return finished.moments.images if isinstance(finished, Run) else finished.sums.images


def _lead(finished: AnyRun) -> str:
    if isinstance(finished, Run):
        return (
            "Each map is the average of the noise by the network's answers. The p-value is a test of the whole map against a response that "
            "ignores the noise; the reliability is its expected squared cosine with the map that infinitely many images would give."
        )
    if isinstance(finished, Trials):
        return "Every condition shows the same signals in the same noise, so that differences between conditions are theirs."
    return "Axes are the directions of the noise along which a response changes without regard to sign, tested against fresh noise."


def _figure(name: str, data: bytes, title: str, images: int) -> Figure:
    caption = CAPTIONS.get(name, plain(name).replace("_", " "))
    try:
        return Figure(data, f"{caption} N = {images:,}.", f"{title}: {caption}")
    except ValueError as error:
        raise RunError(f"figures/{plain(name)}.png is damaged ({error})") from None


def _table(table: RichTable) -> Table:
    """The same table on a page."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    caption = ". ".join(str(text) for text in (table.title, table.caption) if text)
    return Table(tuple(str(column.header).replace("_", " ") for column in table.columns), tuple(zip(*columns, strict=True)), caption)


def _facts(finished: AnyRun, images: int) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, Any]] = [("N", f"{images:,} counted in")]
    if isinstance(finished, Run):
        left = finished.moments.seen - images
        facts += [("left out", f"{left:,} (not finite, or out of range)"), ("noise seed", finished.spec.seed)]
    elif isinstance(finished, Trials):
        facts.append(("noise seed", finished.spec.seed))
    facts.append(("fingerprint", finished.fingerprint))
    facts += [(plain(str(name), 40), plain(str(value), 100)) for name, value in sorted(finished.environment.items())[:20]]
    return tuple((name, str(value)) for name, value in facts)
