"""Tables of finished runs, as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE
from rich.table import Table

from wna_ray.analysis import entropy
from wna_ray.opened import AnyRun
from wna_ray.results import Run
from wna_ray.rundir import RESULT
from wna_ray.stc_results import Stc
from wna_ray.sweep import Sweep
from wna_ray.text import plain
from wna_ray.trial_results import Trials

MOST_ROWS = 40  # of a printed table


def tables_of(finished: AnyRun) -> list[Table]:
    """The tables of a finished run of any kind; long ones end after `MOST_ROWS` rows, and say so."""
    if isinstance(finished, Stc):
        return [_axes(finished)]
    if isinstance(finished, Trials):
        return [_conditions(finished), *([_detection(finished.detection)] if finished.spec.moments else [])]
    return [_classes(finished)]


def members_table(sweep: Sweep) -> Table:
    """One row a member: what it is, and of runs of noise how reliable their maps are."""
    table = Table(box=SIMPLE, title=f"{sweep.url}: {len(sweep.members):,} members", title_justify="left")
    for column in ("member", "kind", "images", "responses", "median reliability", "fingerprint"):
        table.add_column(column, justify="right" if column in ("images", "median reliability") else "left", no_wrap=True)
    for name, member in list(sweep.members.items())[:MOST_ROWS]:
        images = f"{(member.moments if isinstance(member, Run) else member.sums).images:,}"
        reliable = "-"
        if isinstance(member, Run):
            kind, responses = "noise", ", ".join(r.kind for r in member.spec.responses)
            medians = [np.nanmedian(r.reliability) for r in member.readouts if np.isfinite(r.reliability).any()]
            reliable = ", ".join(f"{median:.3f}" for median in medians) or "-"
        else:
            kind, responses = ("covariance", str(member.spec.response or "-")) if isinstance(member, Stc) else ("trials", "label")
        table.add_row(name, kind, images, responses, reliable, member.fingerprint[:12])
    if len(sweep.members) > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {len(sweep.members):,} members"
    return table


def pairs_table(mean: pa.Table) -> Table:
    """Correlations of maps, one row a pair of networks (see `wna_ray.compare.mean_correlations`)."""
    table = Table(box=SIMPLE, title="Correlation of maps, mean over classes", title_justify="left")
    forms: dict[str, Callable[[Any], str]] = {"a": str, "b": str, "classes": str} | dict.fromkeys(("r", "corrected"), _form("+.3f"))
    forms |= {"corrected_classes": str} | dict.fromkeys(("standard_error", "lift"), _form(".3f"))
    if mean.num_rows > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {mean.num_rows:,} pairs; all are in mean_correlations.parquet"
    _fill(table, mean, forms, mean.slice(0, MOST_ROWS).to_pylist())
    return table


def images_table(needed: pa.Table) -> Table:
    """Images that maps take, one row a run (see `wna_ray.compare.images_needed`)."""
    table = Table(box=SIMPLE, title="Images for the median map (between quartiles) to be so reliable", title_justify="left")
    looked = [r for r in ("0.5", "0.9") if needed[f"look_{r}"].null_count < needed.num_rows]
    for column in ("run", "noise", "d", "rows", "N", "reliability", "N for 0.5", "N for 0.9", *(f"look at {r}" for r in looked)):
        table.add_column(column, justify="left" if column in ("run", "noise") else "right", no_wrap=column != "noise")
    for row in needed.slice(0, MOST_ROWS).to_pylist():
        spans = ["-" if row[f"images_{r}"] is None else _span(row, f"images_{r}") for r in ("0.5", "0.9")]
        looks = ["-" if row[f"look_{r}"] is None else f"{row[f'look_{r}']:,}" for r in looked]
        counts = (f"{row[name]:,}" for name in ("d", "rows", "samples"))
        table.add_row(row["run"], row["noise"], *counts, f"{row['reliability']:.3f}", *spans, *looks)
    if needed.num_rows > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {needed.num_rows:,} runs; all are in images.parquet"
    return table


def _span(row: Mapping[str, Any], name: str) -> str:
    low, middle, high = (row[f"{name}{part}"] for part in ("_low", "", "_high"))
    return f"{_short(middle)} ({_short(low)} to {'-' if high is None else _short(high)})"


def _short(images: float) -> str:
    """Three digits are more than is known."""
    return f"{float(f'{images:.3g}'):,.0f}"


def _axes(finished: Stc) -> Table:
    """One row an axis."""
    table = Table(box=SIMPLE, title=f"Axes of the covariance, {finished.sums.images:,} images", title_justify="left")
    _fill(
        table,
        finished.axes,
        {
            "unit": plain,
            "axis": str,
            "eigenvalue": _form("+.4f"),
            "standard_error": _form(".4f"),
            "distance": _form(".1f"),
            "p_value": p_form(".2g"),
            "explained": _form(".4f"),
            "low_edge": _form("+.4f"),
            "high_edge": _form("+.4f"),
        },
        finished.axes.to_pylist()[:MOST_ROWS],
    )
    return table


def _conditions(finished: Trials) -> Table:
    """Conditions, pooled over targets and classes."""
    pooled = finished.pooled
    rows = pooled.to_pylist()
    trials = finished.answers[0].sum()
    table = Table(box=SIMPLE, title=f"{finished.spec.model}: {trials:,} trials in each of {len(finished.conditions):,} conditions")
    table.title_justify, table.min_width = "left", 80
    if len(rows) > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {len(rows)} rows; all conditions are in {RESULT}/trials.parquet"
    forms: dict[str, Callable[[Any], str]] = dict.fromkeys(("transform", "attack", "layer", "profile"), plain)
    forms |= dict.fromkeys(("gamma", "weight", "strength"), _form("g")) | dict.fromkeys(("correct", "moved", "kept"), _form(".4f"))
    _fill(table, pooled, {name: forms[name] for name in pooled.column_names}, rows[:MOST_ROWS])
    return table


def _detection(detection: pa.Table) -> Table:
    """Sensitivity and criterion by signal weight, of responses that name a class; of the first weights where there are many."""
    forms: dict[str, Callable[[Any], str]] = {"gamma": _form("g"), "response": plain, "hits": _form(","), "false_alarms": _form(",")}
    forms |= dict.fromkeys(("d_prime", "d_prime_error", "criterion", "criterion_error"), _form(".3f"))
    forms |= dict.fromkeys(("reliability", "steadiness"), _form(".3f")) | {"note": str}
    rows = [row for row in detection.to_pylist() if row["d_prime"] is not None]
    table = Table(box=SIMPLE, title="Each class against the others, and the classification image of its answer", title_justify="left")
    if len(rows) > MOST_ROWS:
        table.caption = f"the first {MOST_ROWS} of {len(rows)} rows; all are in {RESULT}/detection.parquet"
    _fill(table, detection, forms, rows[:MOST_ROWS])
    return table


def _classes(finished: Run) -> Table:
    """One row a response."""
    moments, spec = finished.moments, finished.spec
    apart = (
        f", {moments.nonfinite:,} not finite and {moments.out_of_range:,} out of range left out" if moments.seen > moments.images else ""
    )
    table = Table(box=SIMPLE, title=f"{spec.model}: N = {moments.images:,} images{apart}", title_justify="left")
    print_classes(finished.classes, table)
    if labels := _labels(finished):
        table.caption = f"{table.caption}. {labels}" if table.caption else labels
    return table


def classifier_table(evaluation: Mapping[str, Any]) -> Table:
    """How well maps classify images, as ``evaluation/classifier.json`` has it: one row a template set and score."""
    ranked = any(entry.get("top5") for entry in evaluation["templates"].values())
    title = (
        f"As classifiers of {evaluation['dataset']}: {evaluation['images']:,} {evaluation['split']} images, "
        f"chance {evaluation['chance']:.3g}, majority class {evaluation['majority_class']:.3g}"
    )
    if ranked and (rank := evaluation.get("chance_rank")):
        title += f", mean rank by chance {rank['mean']:.1f} ± {rank['standard_error']:.1f}"
    table = Table(box=SIMPLE, title=title, title_justify="left")
    for column in (
        "templates",
        "score",
        "accuracy",
        "95 % interval",
        "p-value",
        "shuffled maps",
        *(("top 5", "mean rank") if ranked else ()),
    ):
        table.add_column(column, justify="left" if column in ("templates", "score") else "right", no_wrap=True)
    digits = 4 if ranked else 3
    for kind, entry in evaluation["templates"].items():
        for score, accuracy in entry["accuracy"].items():
            interval, control = entry.get("interval", {}).get(score), entry.get("control", {}).get(score)
            cells = [kind, score, f"{accuracy:.{digits}f}"]
            cells.append("-" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}")
            cells.append(_maybe(entry, "p_value", score, p_form(".1e")))
            cells.append("-" if control is None else f"{control['mean']:.{digits}f} ± {control['sd']:.{digits}f}")
            if ranked:
                cells += [_maybe(entry, "top5", score, _form(".4f")), _maybe(entry, "mean_rank", score, _form(".1f"))]
            table.add_row(*cells)
    notes = [f"scaled to [0, 1], {s['own']} of {s['maps']} {kind} averages get their own label" for kind, s in evaluation["self"].items()]
    notes += [evaluation["note"]] if evaluation["note"] else []
    table.caption = ". ".join(notes) or None
    return table


def _maybe(entry: Mapping[str, Any], name: str, score: str, form: Callable[[Any], str]) -> str:
    value = entry.get(name, {}).get(score)
    return "-" if value is None else form(value)


def _labels(finished: Run) -> str:
    """What labels the noise was given: how many, how evenly, and the most frequent ones; "" where labels were not asked for."""
    readout = next((r for r in finished.readouts if r.kind in ("label", "confidence")), None)
    if readout is None:
        return ""
    shares, k = np.nan_to_num(readout.share), len(readout.names)
    first = ", ".join(f"{readout.names[i]} {100 * shares[i]:.3g} %" for i in np.argsort(-shares, kind="stable")[:3] if shares[i] > 0)
    reached = int((readout.count > 0).sum())
    text = f"{reached:,} of {k:,} labels reached, entropy {entropy(shares):.2f} of {np.log2(k):.2f} bits"
    return text + (f"; most frequent: {first}" if first else "")


def print_classes(classes: pa.Table, table: Table, most: int = MOST_ROWS) -> None:
    """Fill a table with one row a response; only the most reliable ones where there are many, and no columns that are empty."""
    forms: dict[str, Callable[[Any], str]] = {
        "kind": str,
        "name": str,
        "count": _form(","),
        "share": _form(".4f"),
        "rho2": _form(".2e"),
        "p_value": p_form(".1e"),
        "reliability": _form(".3f"),
        "split_half": _form(".3f"),
        "filter_cosine": _form(".4f"),
        "self_label": str,
        "self_confidence": _form(".2f"),
        "note": str,
    }
    rows = classes.to_pylist()
    if len(rows) > most:
        rows = sorted(rows, key=lambda r: -(r["reliability"] or -1.0))[:most]
        table.caption = f"the {most} most reliable of {classes.num_rows} rows; all are in {RESULT}/classes.parquet"
    _fill(table, classes, forms, rows)


def patch_scores(scores: pa.Table, title: str) -> Table:
    """One row a response: how sensitive it is at the pixels of a patch."""
    table = Table(box=SIMPLE, title=title, title_justify="left")
    forms: dict[str, Callable[[Any], str]] = {"kind": str, "class": plain, "z": _form("+.2f"), "p_value": p_form(".1e")}
    rows = scores.to_pylist()
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda r: -(r["z"] if r["z"] is not None else -np.inf))[:MOST_ROWS]
        table.caption = f"the {MOST_ROWS} largest of {scores.num_rows} rows"
    _fill(table, scores, forms | {"rank": str, "positions": str, "note": str}, rows)
    return table


def suspects(networks: pa.Table) -> Table:
    """One row a network: its most suspicious class and window, and the truth where it is known."""
    table = Table(box=SIMPLE, title="The most suspicious window of each network", title_justify="left")
    forms: dict[str, Callable[[Any], str]] = dict.fromkeys(("network", "class"), plain) | dict.fromkeys(
        ("row", "column", "height", "width"), str
    )
    forms |= {"score": _form(".2f"), "z": _form("+.1f"), "null_p": p_form(".1e"), "panel_p": _form(".3f"), "clean": str}
    if any(networks["poisoned"].to_pylist()):
        forms |= {"source": plain, "target": plain, "overlaps": lambda yes: "yes" if yes else "no"}
    _fill(table, networks, forms, networks.to_pylist())
    return table


def _fill(table: Table, values: pa.Table, forms: Mapping[str, Callable[[Any], str]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Fill a table with rows, each column in its form; without the columns that are empty."""
    shown = {column: form for column, form in forms.items() if values[column].null_count < values.num_rows}
    for column in shown:
        side: Literal["left", "right"] = "left" if column in ("kind", "name", "note", "unit", "a", "b", "network") else "right"
        table.add_column(column, justify=side, no_wrap=True, max_width=18 if column in ("name", "self_label", "unit") else None)
    for row in rows:
        table.add_row(*("-" if row[column] is None else form(row[column]) for column, form in shown.items()))


def p_form(form: str) -> Callable[[Any], str]:
    """Of p-values: the smallest are bounds."""
    return lambda p: "<1e-300" if p < 1e-300 else format(p, form)


def _form(form: str) -> Callable[[Any], str]:
    return lambda value: format(value, form)
