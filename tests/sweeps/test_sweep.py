"""A sweep on disk: opened, verified, and refused where it is damaged, foreign or leads
elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wna_ray import open_run, open_sweep
from wna_ray.errors import RunError, StoreError, WnaError
from wna_ray.kinds.average import figures
from wna_ray.kinds.average.run import Run
from wna_ray.specs.run import Spec
from wna_ray.specs.sweep import SweepSpec
from wna_ray.sweeps.directory import SweepDirectory, is_sweep
from wna_ray.sweeps.job import run_sweep


@pytest.fixture
def sweep(make_spec: Callable[..., Spec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks, one noise."""
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {"maps.png": b"a figure"})
    base = make_spec(samples=640).model_dump(mode="json", exclude_unset=True)
    axes = {
        "network": {"a": None, "b": {"model": "python:networks_for_tests:linear?seed=1"}},
        "noise": {"n.1": None},
    }
    run_sweep(SweepSpec.parse({"sweep": axes} | base), str(tmp_path / "out"), executor="local")
    return tmp_path / "out"


def test_what_lies_on_disk(sweep: Path) -> None:
    whole = json.loads((sweep / "SWEEP.json").read_text())
    assert whole["axes"] == [
        {"name": "network", "values": ["a", "b"]},
        {"name": "noise", "values": ["n.1"]},
    ]
    assert whole["spec"] == hashlib.sha256((sweep / "spec.json").read_bytes()).hexdigest()
    for name, member in zip(("a/n.1", "b/n.1"), whole["members"], strict=True):
        manifest = (sweep / name / "MANIFEST.json").read_bytes()
        assert member == {
            "name": name,
            "fingerprint": json.loads(manifest)["fingerprint"],
            "samples": 640,
            "manifest": hashlib.sha256(manifest).hexdigest(),
        }
    assert sorted(p.name for p in sweep.iterdir()) == ["SWEEP.json", "a", "b", "spec.json"]


def test_open(sweep: Path) -> None:
    found = open_sweep(str(sweep))
    assert found.axes == {"network": ("a", "b"), "noise": ("n.1",)}
    assert list(found.members) == ["a/n.1", "b/n.1"]
    one = found.members["b/n.1"]
    assert isinstance(one, Run)
    assert (one.bias_maps == open_run(str(sweep / "b" / "n.1")).bias_maps).all()
    assert SweepDirectory(str(sweep)).verify() == {"": [], "a/n.1": [], "b/n.1": []}
    assert (
        is_sweep(str(sweep)),
        is_sweep(str(sweep / "a" / "n.1")),
        is_sweep(str(sweep / "a")),
    ) == (True, False, False)


def test_a_run_is_no_sweep_and_a_sweep_no_run(sweep: Path) -> None:
    with pytest.raises(RunError, match=r"SWEEP.json: the sweep is not finished"):
        open_sweep(str(sweep / "a" / "n.1"))
    with pytest.raises(RunError, match=r"spec.json is not of a sweep"):
        SweepDirectory(str(sweep / "a" / "n.1")).describe()
    with pytest.raises(WnaError, match="wna-sweep/1"):
        open_run(str(sweep))


def damage(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def renamed(name: str) -> Callable[[Any], Any]:
    return lambda whole: (
        whole | {"members": [whole["members"][0] | {"name": name}, *whole["members"][1:]]}
    )


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another manifest": (
        lambda f: damage(f, "a/n.1/MANIFEST.json", lambda m: m | {"more": 1}),
        "a/n.1/MANIFEST.json is not what SWEEP.json lists",
    ),
    "no manifest": (
        lambda f: (f / "a/n.1/MANIFEST.json").unlink(),
        "this member is not finished, or was deleted",
    ),
    "members exchanged": (
        lambda f: [(f / "a").rename(f / "c"), (f / "b").rename(f / "a"), (f / "c").rename(f / "b")],
        "is not what SWEEP.json lists",
    ),
    "a link": (
        lambda f: [(f / "a").rename(f.parent / "a"), (f / "a").symlink_to(f.parent / "a")],
        "out/a' is a symbolic link",
    ),
    "a way out": (
        lambda f: damage(f, "SWEEP.json", renamed("../../a")),
        "members are not the product of its axes",
    ),
    "a value that leads out": (
        lambda f: damage(
            f,
            "SWEEP.json",
            lambda w: w | {"axes": [{"name": "x", "values": [".."]}], "members": w["members"][:1]},
        ),
        "axes.0.values.0: String should match pattern",
    ),
    "millions of members": (
        lambda f: damage(
            f, "SWEEP.json", lambda w: w | {"axes": [{"name": "x", "values": ["a"] * 50}] * 50}
        ),
        "more than 2000 members",
    ),
    "no JSON": (lambda f: (f / "SWEEP.json").write_text("{"), "SWEEP.json is damaged"),
    "words for numbers": (
        lambda f: damage(
            f,
            "SWEEP.json",
            lambda w: w | {"members": [m | {"samples": "many"} for m in w["members"]]},
        ),
        "samples: Input should be a valid integer",
    ),
}


@pytest.mark.parametrize("harm, words", HARMS.values(), ids=HARMS.keys())
def test_harm_is_refused(sweep: Path, harm: Callable[[Path], Any], words: str) -> None:
    harm(sweep)
    with pytest.raises(WnaError) as caught:
        _ = open_sweep(str(sweep)).members
    assert words in str(caught.value)


def test_verify_names_the_member(sweep: Path) -> None:
    (sweep / "b/n.1/result/bias_maps.npy").write_bytes(b"")
    (sweep / "a/n.1/MANIFEST.json").unlink()
    damage(sweep, "spec.json", lambda spec: spec | {"more": 1})
    found = SweepDirectory(str(sweep)).verify()
    assert found[""] == ["spec.json is not what SWEEP.json lists"]
    assert "not finished, or was deleted" in found["a/n.1"][0]
    assert found["b/n.1"][0].startswith("result/bias_maps.npy is damaged")


def test_a_link_in_place_of_a_member_is_neither_read_nor_written_through(sweep: Path) -> None:
    (sweep / "a" / "n.1").rename(sweep.parent / "n.1")
    (sweep / "a" / "n.1").symlink_to(sweep.parent / "n.1")
    directory = SweepDirectory(str(sweep))
    for call in (directory.member, directory.state):
        with pytest.raises(StoreError, match=r"a/n\.1' is a symbolic link"):
            call("a/n.1")
    found = directory.verify()
    assert "is a symbolic link" in found["a/n.1"][0]
    assert found["b/n.1"] == []


def reseal(sweep: Path) -> None:
    """Make ``SWEEP.json`` the one of what is there."""

    def change(whole: Any) -> Any:
        for member in whole["members"]:
            member["manifest"] = hashlib.sha256(
                (sweep / member["name"] / "MANIFEST.json").read_bytes()
            ).hexdigest()
        return whole | {"spec": hashlib.sha256((sweep / "spec.json").read_bytes()).hexdigest()}

    damage(sweep, "SWEEP.json", change)


def test_a_published_sweep_has_all_members_that_were_asked_for(sweep: Path) -> None:
    def fewer(whole: Any) -> Any:
        return whole | {
            "axes": [{"name": "network", "values": ["a"]}, whole["axes"][1]],
            "members": whole["members"][:1],
        }

    damage(sweep, "SWEEP.json", fewer)
    assert SweepDirectory(str(sweep)).verify() == {
        "": ["SWEEP.json has other axes than spec.json"],
        "a/n.1": [],
    }


def test_a_member_is_the_run_that_was_asked_for(sweep: Path) -> None:
    """Whole by itself, and listed with its digest; but the sweep asked for another one."""
    spec = json.loads((sweep / "spec.json").read_text())
    spec["members"][1]["spec"]["seed"] = 99
    (sweep / "spec.json").write_text(json.dumps(spec))
    reseal(sweep)
    found = SweepDirectory(str(sweep)).verify()
    assert found == {
        "": [],
        "a/n.1": [],
        "b/n.1": ["its spec is not the one that the sweep's spec.json has for it"],
    }


def test_a_member_that_chose_its_batch_is_the_one_that_was_asked_for(
    make_spec: Callable[..., Spec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {})
    base = make_spec(samples=640, numerics={"batch": 64, "tune": True}).model_dump(
        mode="json", exclude_unset=True
    )
    run_sweep(
        SweepSpec.parse({"sweep": {"x": {"a": None}}} | base),
        str(tmp_path / "out"),
        executor="local",
    )
    assert SweepDirectory(str(tmp_path / "out")).verify() == {"": [], "a": []}


def test_secrets_of_urls_are_not_stored_and_the_same_sweep_goes_on(
    make_spec: Callable[..., Spec], tmp_path: Path
) -> None:
    base = make_spec().model_dump(mode="json", exclude_unset=True)
    base["model"] = "torchvision:resnet18?weights=http://me:hunter2@host/w.safetensors?sig=hunter2"
    asked = {"sweep": {"seed": {"a": {"seed": 1}, "b": {"seed": 2}}}} | base
    directory = SweepDirectory(str(tmp_path / "out"))
    for _ in "ab":
        directory.begin(SweepSpec.parse(asked))
    assert "hunter2" not in (tmp_path / "out" / "spec.json").read_text()
    damage(
        tmp_path / "out",
        "spec.json",
        lambda spec: json.loads(json.dumps(spec).replace("***", "hunter2")),
    )
    directory.begin(SweepSpec.parse(asked))  # as an earlier version has stored it
    with pytest.raises(RunError, match=r"weights=http://\*\*\*@host/v.safetensors") as told:
        directory.begin(SweepSpec.parse(asked | {"model": base["model"].replace("/w.", "/v.")}))
    assert "hunter2" not in str(told.value)


def test_what_a_killed_writer_left_goes_when_a_finished_sweep_is_opened_to_go_on(
    sweep: Path, make_spec: Callable[..., Spec]
) -> None:
    left = sweep / "a" / "n.1" / ".tmp-old"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    base = make_spec(samples=640).model_dump(mode="json", exclude_unset=True)
    axes = {
        "network": {"a": None, "b": {"model": "python:networks_for_tests:linear?seed=1"}},
        "noise": {"n.1": None},
    }
    run_sweep(SweepSpec.parse({"sweep": axes} | base), str(sweep), executor="local")
    assert not left.exists()
