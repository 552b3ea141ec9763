"""Enough: a run ends at the first look of its schedule at which the maps are reliable, whoever
computes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wna_ray import open_run, run
from wna_ray.errors import RunError, SpecError
from wna_ray.events import Event, RunStarted, ShardDone, Stage
from wna_ray.kinds.average.run import Run
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.fetch import fetch
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]
# rho^2 of the weakest of three linear logits is about 0.3 or more, d = 16: reliability 0.98
# takes some 2,500 images
ENOUGH = {"stop": {"reliability": 0.98, "first": 500}, "samples": 20_000, "responses": ["logits"]}


def results(finished: Run) -> dict[str, str]:
    return {
        name: entry.sha256
        for name, entry in finished.manifest.objects.items()
        if name.startswith("result/")
    }


def test_the_schedule_follows_from_the_spec(make_spec: MakeSpec) -> None:
    assert make_spec(**ENOUGH).looks == (
        512,
        1024,
        2048,
        4096,
        8192,
        16_384,
        20_000,
    )  # whole batches of 64, doubled
    assert make_spec(**ENOUGH | {"samples": 1024}).looks == (512, 1024)
    assert make_spec(**ENOUGH | {"samples": 100}).looks == (100,)
    assert make_spec().looks == (2000,)


def test_a_run_ends_at_the_first_look_that_is_enough(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The same moments as a plain run of that many images, and the curve is that of plain runs."""
    events: list[Event] = []
    finished = run(
        make_spec(**ENOUGH), str(tmp_path / "run"), executor="local", callbacks=[events.append]
    )
    n = finished.samples
    assert n in (1024, 2048, 4096, 8192)
    looks = [look for look in make_spec(**ENOUGH).looks if look <= n]
    assert [e.samples for e in events if isinstance(e, RunStarted)] == looks
    assert sum(e.stop - e.start for e in events if isinstance(e, ShardDone)) == n, (
        "every image once, over all looks"
    )
    assert finished.curve is not None
    rows = finished.curve.to_pylist()
    for look in looks:
        plain = run(
            make_spec(responses=["logits"], samples=look),
            str(tmp_path / f"{look}"),
            executor="local",
        )
        assert [r["reliability"] for r in rows if r["samples"] == look] == plain.classes[
            "reliability"
        ].to_pylist()
        assert (min(plain.classes["reliability"].to_pylist()) >= 0.98) == (look == n)
    assert plain.fingerprint == finished.fingerprint
    assert plain.moments.arrays().keys() == finished.moments.arrays().keys()
    assert results(plain)["result/moments.npz"] == results(finished)["result/moments.npz"]
    told = [e.name for e in events if isinstance(e, Stage) and "of the maps have" in e.name]
    assert told[-1] == f"{n:,} images: 100 % of the maps have a reliability of 0.98"
    assert finished.directory.verify() == []


def test_where_it_is_never_enough_it_goes_to_the_end(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(
        **ENOUGH
        | {
            "stop": {"reliability": 0.9, "first": 256},
            "model": "python:networks_for_tests:deaf",
            "samples": 1000,
        }
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    assert finished.samples == 1000
    assert finished.directory.verify() == []


def test_a_share_of_one_response_can_be_enough(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Labels need more images than logits, and only a third of the rows is asked for."""
    both = {"responses": ["label", {"kind": "logits", "centred": True}], "samples": 20_000}
    strict, logits, some = (
        run(
            make_spec(**both, stop={"reliability": 0.97, "first": 64} | how),
            str(tmp_path / f"{i}"),
            executor="local",
        ).samples
        for i, how in enumerate(({}, {"response": "logits"}, {"response": "logits", "share": 0.3}))
    )
    assert some < logits < strict


def test_what_was_stopped_in_the_middle_ends_at_the_same_look(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Some segments of the last look are gone, and the manifest: only they are computed again,
    to the same bytes.
    """
    whole = run(make_spec(**ENOUGH), str(tmp_path / "whole"), executor="local")
    cut = run(make_spec(**ENOUGH), str(tmp_path / "cut"), executor="local")
    (tmp_path / "cut" / "MANIFEST.json").unlink()
    segments = sorted((tmp_path / "cut" / "segments").iterdir())
    for victim in segments[-2:]:
        victim.unlink()
    events: list[Event] = []
    again = run(
        make_spec(**ENOUGH), str(tmp_path / "cut"), executor="local", callbacks=[events.append]
    )
    assert 0 < sum(e.stop - e.start for e in events if isinstance(e, ShardDone)) < cut.samples
    assert results(again) == results(whole)
    with pytest.raises(RunError, match=r"what differs.*\n  stop\.reliability: 0\.98 -> 0\.97"):
        run(
            make_spec(**ENOUGH | {"stop": {"reliability": 0.97, "first": 500}}),
            str(tmp_path / "cut"),
            executor="local",
        )


@pytest.mark.ray
def test_workers_do_not_decide_where_it_ends(make_spec: MakeSpec, tmp_path: Path) -> None:
    here = run(make_spec(**ENOUGH), str(tmp_path / "local"), executor="local")
    there = run(
        make_spec(**ENOUGH | {"execution": {"shard": 64, "segments": 3}}),
        str(tmp_path / "ray"),
        executor="ray",
        workers=2,
    )
    assert (here.samples, results(here)) == (there.samples, results(there))


def test_fetched_and_reported(make_spec: MakeSpec, tmp_path: Path) -> None:
    finished = run(make_spec(**ENOUGH), str(tmp_path / "run"), executor="local")
    copy = fetch(str(tmp_path / "run"), tmp_path / "copy").folder
    again = open_run(str(copy))
    made = again.derive()
    assert {name: finished.directory.store.read(name) for name in made} == made
    assert "result/figures/reliability.png" in made
    assert "result/reliability.parquet" in made


def test_a_manifest_of_another_look_is_damaged(make_spec: MakeSpec, tmp_path: Path) -> None:
    run(make_spec(**ENOUGH), str(tmp_path / "run"), executor="local")
    path = tmp_path / "run" / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["samples"] = 777
    path.write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"MANIFEST\.json is damaged: it says 777 samples"):
        RunDirectory(str(tmp_path / "run")).verify()


@pytest.mark.parametrize(
    "stop, words",
    [
        ({"reliability": 1.0}, "stop.reliability: Input should be less than 1"),
        (
            {"reliability": 0.9, "response": "label"},
            "stop.response: label is none of the responses (logits)",
        ),
        (
            {"reliability": 0.9, "max": 3},
            "unknown key; known here are reliability, share, response, first",
        ),
    ],
)
def test_stops_that_make_no_sense(make_spec: MakeSpec, stop: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(**ENOUGH | {"stop": stop})
    assert words in str(caught.value)
