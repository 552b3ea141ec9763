"""The page of a finished run: made from its directory alone, and the spec on it is the run's
own.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import browser
import crafted_runs
import pyarrow as pa
import pytest
import yaml

from wna_ray import Spec, open_run, run
from wna_ray.reports.html import written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two responses."""
    place = tmp_path_factory.mktemp("report") / "run"
    spec = Spec.parse(
        {
            "model": "python:networks_for_tests:linear",
            "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "scale": 0.5, "space": "input"},
            "responses": ["label", "logits"],
            "samples": 2000,
            "seed": 4,
        }
    )
    run(spec, out=str(place), executor="local")
    return place


def test_page_shows_every_picture_and_every_row(folder: Path) -> None:
    page, finished = written(open_run(str(folder))).decode(), open_run(str(folder))
    assert page.count("data:image/png;base64,") == len(
        list((folder / "result" / "figures").iterdir())
    )
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    assert body.count("<tr>") == finished.classes.num_rows
    for text in ("2,000", finished.fingerprint, "python:networks_for_tests:linear"):
        assert text in page


def test_page_shows_tables_made_from_the_sums(folder: Path, tmp_path: Path) -> None:
    """A table whose digest the manifest lists may still be somebody else's."""
    forged = tmp_path / "run"
    shutil.copytree(folder, forged)
    high = [0.9876] * open_run(str(folder)).classes.num_rows
    crafted_runs.parquet(
        forged, lambda table: crafted_runs.column(table, "reliability", pa.array(high))
    )
    opened = open_run(str(forged))
    assert opened.classes["reliability"].to_pylist() == high
    assert "0.988" not in written(opened).decode()
    assert opened.classes["reliability"].to_pylist() == high, "a report changes no run"


def test_spec_on_the_page_is_the_runs(folder: Path) -> None:
    page = written(open_run(str(folder))).decode()
    (text,) = re.findall(r"<code>(.*?)</code>", page, flags=re.S)
    assert Spec.parse(yaml.safe_load(html.unescape(text))) == open_run(str(folder)).spec


def test_page_in_a_browser(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes(written(open_run(str(folder))))
    question = (
        "[document.documentElement.scrollWidth, [...document.images].every(i => i.naturalWidth >"
        " 0), document.title]"
    )
    with browser.chromium(tmp_path / "profile") as running:
        found, said = running.ask(tmp_path / "report.html", question, 360)
    assert found[0] <= 360
    assert found[1:] == [True, "White-noise analysis of python:networks_for_tests:linear"]
    assert said == []
