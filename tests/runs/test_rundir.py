"""The run directory: what it accepts, what it refuses, and that every damage is found."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wna_ray.canonical import canonical
from wna_ray.errors import RunError, StoreError
from wna_ray.kinds.average.job import run
from wna_ray.kinds.average.run import open_run
from wna_ray.runs.directory import Description, RunDirectory
from wna_ray.runs.fetch import fetch
from wna_ray.runs.segments import segment_name
from wna_ray.specs.covariance import StcSpec
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]


@pytest.fixture
def finished(tmp_path: Path, make_spec: MakeSpec) -> Path:
    """A finished run of 2,000 images in four segments, with a few images left out."""
    run(
        make_spec(model="python:networks_for_tests:sometimes_nan"),
        str(tmp_path / "run"),
        executor="local",
    )
    return tmp_path / "run"


def objects(run: Path) -> dict[str, bytes]:
    """All files of a run but what its drivers wrote about themselves."""
    found = {f.relative_to(run).as_posix(): f.read_bytes() for f in run.rglob("*") if f.is_file()}
    return {
        name: data for name, data in found.items() if not name.startswith(("drivers/", "events/"))
    }


def test_a_finished_run_is_whole(finished: Path) -> None:
    directory = RunDirectory(str(finished))
    assert directory.verify() == []
    manifest = directory.manifest()
    assert manifest is not None
    assert sum(manifest.counts.model_dump().values()) == 2000
    assert manifest.counts.nonfinite > 0
    assert objects(finished).keys() == manifest.listed.keys() | {"MANIFEST.json"}


def test_every_object_is_guarded(finished: Path) -> None:
    """Flip one bit of each object in turn, then remove it: verify names it."""
    directory = RunDirectory(str(finished))
    for name, data in objects(finished).items():
        path = finished / name
        if name in ("MANIFEST.json", "spec.json"):
            continue
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert any(fault.startswith(f"{name} is damaged") for fault in directory.verify()), name
        path.unlink()
        assert f"{name} is missing" in directory.verify()
        path.write_bytes(data)
    assert directory.verify() == []


def test_a_foreign_file_is_named(finished: Path) -> None:
    (finished / "segments" / "notes.txt").write_text("hello")
    assert RunDirectory(str(finished)).verify() == [
        "segments/notes.txt is foreign: the manifest does not list it"
    ]
    with pytest.raises(RunError, match=r"notes\.txt is no segment of this run; move it away"):
        RunDirectory(str(finished)).segments()


def test_a_forged_manifest_is_found(finished: Path) -> None:
    """Sizes and digests may be forged to match: the segments must still add up to the result,
    and the ranges must tile.
    """
    path = finished / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    forged = json.loads(path.read_text())
    forged["segments"] = forged["segments"][1:]
    path.write_text(json.dumps(forged))
    assert any("counted never" in fault for fault in RunDirectory(str(finished)).verify())
    manifest["segments"][0]["images"] += 1
    manifest["segments"][0]["nonfinite"] -= 1
    manifest["counts"]["images"] += 1
    manifest["counts"]["nonfinite"] -= 1
    path.write_text(json.dumps(manifest))
    assert any("its header says" in fault for fault in RunDirectory(str(finished)).verify())


def forge(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest, and make sizes and digests in it those of the files that are there."""
    manifest = json.loads((run / "MANIFEST.json").read_text())
    change(manifest)
    for name, entry in manifest["objects"].items():
        if (run / name).is_file():
            data = (run / name).read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (run / "MANIFEST.json").write_text(json.dumps(manifest))


def refused(run: Path) -> str:
    """What verify says of a run that is not whole; and nothing of it may be fetched."""
    directory = RunDirectory(str(run))
    try:
        said = "\n".join(directory.verify())
    except RunError as error:
        said = str(error)
    with pytest.raises(RunError):
        fetch(str(run), run.parent / "copy")
    assert not (run.parent / "copy" / "MANIFEST.json").exists()
    return said


COUNTS: dict[str, tuple[dict[str, Any], str]] = {
    "exchanged": (
        {"images": 40, "nonfinite": 1960, "out_of_range": 0},
        "those of the segments add up to",
    ),
    "others": (
        {"images": 2000, "nonfinite": 0, "out_of_range": 0},
        "the count 'images' is 2,000, but",
    ),
    "unknown keys": ({"images": 0, "nonfinite": 0, "out_of_range": 0, "all": 2000}, "counts.all"),
    "text": ({"images": "2000", "nonfinite": 0, "out_of_range": 0}, "counts.images"),
    "a text beside": (
        {"images": 1960, "nonfinite": 40, "out_of_range": 0, "note": "x"},
        "counts.note",
    ),
    "a truth value": ({"images": 1999, "nonfinite": True, "out_of_range": 0}, "counts.nonfinite"),
    "one missing": ({"images": 2000, "nonfinite": 0}, "counts.out_of_range"),
}


@pytest.mark.parametrize("counts, words", COUNTS.values(), ids=COUNTS.keys())
def test_counts_are_those_of_the_segments(
    finished: Path, counts: dict[str, Any], words: str
) -> None:
    forge(finished, lambda manifest: manifest.update(counts=counts))
    assert words in refused(finished)


# what a spec asks for, and objects that its runs alone have
KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "label": ({"responses": ["label"]}, set()),
    "second": ({"moments": {"second": True}}, {"result/variance_maps.npy"}),
    "logits": ({"responses": ["logits"], "moments": {"second": True}}, set()),
    "gradient": ({"estimator": "gradient", "responses": ["logits"]}, set()),
    "spectrum": ({"stimulus": {"spectrum": 1.0}}, {"result/whitened_maps.npy"}),
    "stop": ({"stop": {"reliability": 0.5, "first": 512}}, {"result/reliability.parquet"}),
    "basis": (
        {"stimulus": {"kind": "uniform", "basis": {"kind": "stripes"}}},
        {"basis.npy", "result/whitened_maps.npy"},
    ),
    "kept": (
        {"keep_responses": True, "execution": {"segments": 2}},
        {
            "responses/000000000000000-000000000001024.parquet",
            "responses/000000000001024-000000000002000.parquet",
        },
    ),
}
ALWAYS = {"spec.json", "environment.json", "result/moments.npz", "result/classes.parquet"}
ALWAYS |= {f"result/{name}.npy" for name in ("bias_maps", "z_maps", "map_outputs")}


@pytest.mark.parametrize("changes, own", KINDS.values(), ids=KINDS.keys())
def test_a_run_of_every_kind_has_what_its_spec_implies(
    tmp_path: Path, make_spec: MakeSpec, changes: dict[str, Any], own: set[str]
) -> None:
    """No more, but for figures; and no less: each object that is left out of the list is missed."""
    run(make_spec(**changes), str(tmp_path / "run"), executor="local")
    directory = RunDirectory(str(tmp_path / "run"))
    manifest = directory.manifest()
    assert manifest is not None
    assert {name for name in manifest.objects if "figures" not in name} == ALWAYS | own
    assert directory.verify() == []
    for name in ALWAYS | own:
        written = manifest.written()
        written["objects"].pop(name)
        (tmp_path / "run" / "MANIFEST.json").write_text(json.dumps(written))
        assert any(f"does not list {name}" in fault for fault in directory.verify()), name


FOREIGN = [
    *(
        "block.npy",
        "basis.npy",
        "offset.npy",
        "result/axes.npy",
        "result/filters.npy",
        "result/more.npy",
    ),
    *(
        "responses/000000000000000-000000000000512.parquet",
        "result/figures/x.svg",
        "evaluation/classifier.json",
    ),
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_no_such_run_has_is_not_certified(finished: Path, name: str) -> None:
    (finished / name).parent.mkdir(exist_ok=True)
    (finished / name).write_bytes(b"x")
    forge(finished, lambda manifest: manifest["objects"].update({name: {"bytes": 1, "sha256": ""}}))
    assert f"it lists {name}, which no run of this spec has" in refused(finished)


def test_a_stray_array_does_not_get_into_the_manifest(tmp_path: Path, make_spec: MakeSpec) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "block.npy").write_bytes(b"mine")
    run(make_spec(samples=640), str(tmp_path / "run"), executor="local")
    assert RunDirectory(str(tmp_path / "run")).verify() == []
    assert (tmp_path / "run" / "block.npy").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["offset", "basis"])
def test_an_array_of_the_stimulus_must_be_the_one_that_the_identity_names(
    tmp_path: Path, make_spec: MakeSpec, kind: str
) -> None:
    np.save(tmp_path / "image.npy", np.full((1, 4, 4), 0.5, np.float32))
    asked = (
        {"basis": {"kind": "stripes"}, "kind": "uniform"}
        if kind == "basis"
        else {"offset": str(tmp_path / "image.npy")}
    )
    run(make_spec(samples=640, stimulus=asked), str(tmp_path / "run"), executor="local")
    path = tmp_path / "run" / f"{kind}.npy"
    array = np.load(path)
    np.save(path, np.roll(array, 1, axis=-1) + array)
    forge(tmp_path / "run", lambda manifest: None)
    assert RunDirectory(str(tmp_path / "run")).verify() == [
        f"{kind}.npy is not the {kind} that spec.json tells of"
    ]
    with pytest.raises(RunError, match=f"{kind}.npy is not the {kind} that its spec.json tells of"):
        _ = open_run(str(tmp_path / "run")).stimulus


def respecified(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change ``spec.json``, its identity aside, and forge all digests of it."""
    spec = json.loads((run / "spec.json").read_text())
    spec.pop("digest")
    change(spec["spec"])
    digest = hashlib.sha256(canonical(spec).encode()).hexdigest()
    (run / "spec.json").write_text(json.dumps(spec | {"digest": digest}))
    forge(run, lambda manifest: None)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda spec: spec["stimulus"].update(offset=0.25), "stimulus.offset"),
        (lambda spec: spec["numerics"].update(batch=32), "numerics"),
    ],
    ids=["offset", "batch"],
)
def test_a_spec_that_is_unlike_its_identity_is_found(
    finished: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    respecified(finished, change)
    assert f"its spec and its identity differ in {words}" in refused(finished)


def test_kept_responses_are_those_that_the_segment_names(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    """Other responses under their name, and a manifest that has their digest: the segment still
    has that of the old ones.
    """
    out = tmp_path / "run"
    run(
        make_spec(samples=640, keep_responses=True, execution={"segments": 1}),
        str(out),
        executor="local",
    )
    name = "responses/000000000000000-000000000000640.parquet"
    (out / name).write_bytes((out / name).read_bytes() + b"x")
    forge(out, lambda manifest: None)
    assert f"{name} is not listed with the digest that its segment has" in refused(out)


def test_a_segment_of_another_run_is_refused(
    finished: Path, tmp_path: Path, make_spec: MakeSpec
) -> None:
    other = tmp_path / "other"
    run(make_spec(seed=8), str(other), executor="local")
    (other / "MANIFEST.json").unlink()
    name = segment_name(0, 512)
    (other / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(RunError, match=r"belongs to another run.*move it away"):
        run(make_spec(seed=8), str(other), executor="local")


def test_a_renamed_segment_is_refused(finished: Path) -> None:
    fingerprint = RunDirectory(str(finished)).spec().fingerprint
    (finished / segment_name(0, 512)).rename(finished / segment_name(2048, 2560))
    with pytest.raises(RunError, match=r"holds images \[0, 512\): it was renamed"):
        RunDirectory(str(finished)).read_segment(segment_name(2048, 2560), fingerprint)


@pytest.mark.parametrize("damage", ["zeros", "truncate", "empty"])
def test_a_damaged_segment_is_named_and_only_it_is_computed_again(
    finished: Path, make_spec: MakeSpec, damage: str
) -> None:
    spec = make_spec(model="python:networks_for_tests:sometimes_nan")
    before = objects(finished)
    (finished / "MANIFEST.json").unlink()
    segment = finished / segment_name(512, 1024)
    data = segment.read_bytes()
    middle = bytearray(data)
    middle[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    segment.write_bytes({"zeros": bytes(middle), "truncate": data[:-20], "empty": b""}[damage])
    with pytest.raises(
        RunError,
        match=(
            r"000000000000512-000000000001024\.npz is damaged.*delete it and run the same command"
            r" again"
        ),
    ):
        run(spec, str(finished), executor="local")
    segment.unlink()
    run(spec, str(finished), executor="local")
    assert objects(finished) == before


def test_a_changed_spec_is_refused_with_the_difference(finished: Path, make_spec: MakeSpec) -> None:
    model = "python:networks_for_tests:sometimes_nan"
    cases = {
        r"stimulus\.scale: 1\.0 -> 2\.0": {"stimulus": {"scale": 2.0}},
        r"seed: 7 -> 8": {"seed": 8},
        r"samples: 2000 -> 3000": {"samples": 3000},
        r"numerics\.batch: 64 -> 32": {"numerics": {"batch": 32}},
        r'responses: \[.*"logits"\}\] -> ': {"responses": ["label"]},
        r'model\.source: ".*sometimes_nan" -> ".*linear"': {
            "model": "python:networks_for_tests:linear"
        },
    }
    for message, change in cases.items():
        with pytest.raises(RunError, match=rf"(?s)another spec.*{message}") as caught:
            run(make_spec(**({"model": model} | change)), str(finished), executor="local")
        assert "canary" not in str(caught.value)


def test_paths_and_execution_may_change(finished: Path, make_spec: MakeSpec) -> None:
    """What does not change a result may change: the finished run is simply opened."""
    spec = make_spec(
        model="python:networks_for_tests:sometimes_nan", execution={"shard": 64, "attempts": 1}
    )
    before = (finished / "MANIFEST.json").read_bytes()
    assert run(spec, str(finished), executor="local").moments.seen == 2000
    assert (finished / "MANIFEST.json").read_bytes() == before


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run at .*give the --out of a run"):
        RunDirectory(str(tmp_path)).verify()
    (tmp_path / "spec.json").write_text('{"format": "wna-run/9"}')
    with pytest.raises(RunError, match=r"format 'wna-run/9', but this version reads 'wna-run/1'"):
        RunDirectory(str(tmp_path)).verify()
    (tmp_path / "spec.json").write_text("{")
    with pytest.raises(RunError, match=r"spec\.json is damaged"):
        RunDirectory(str(tmp_path)).verify()


def test_a_forged_spec_is_found(finished: Path) -> None:
    spec = json.loads((finished / "spec.json").read_text())
    spec["identity"]["seed"] = 99
    (finished / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(RunError, match="its fingerprint does not match its identity"):
        RunDirectory(str(finished)).verify()


def test_an_unfinished_run_is_not_verified(finished: Path) -> None:
    (finished / "MANIFEST.json").unlink()
    with pytest.raises(RunError, match="not finished; run the same command again to go on"):
        RunDirectory(str(finished)).verify()


def test_secrets_of_urls_are_not_stored_and_the_same_run_goes_on(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    identity = {"of": "f" * 64, "shape": {"units": 1, "d": 4, "null": 0, "columns": 1}}
    spec = StcSpec(run="http://me:hunter2@host/run?sig=hunter2").model_dump(mode="json")
    environment = {"seen": ["https://me:hunter2@host"]}
    for _ in "ab":
        directory.begin(Description("wna-pass/1", identity, 100, ["a"], spec, environment))
    assert directory.spec().spec["run"] == "http://***@host/run?sig=***"
    assert not any(b"hunter2" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_run_of_a_version_that_stored_secrets_goes_on(
    finished: Path, make_spec: MakeSpec
) -> None:
    respecified(
        finished,
        lambda spec: spec.update(model="torchvision:resnet18?weights=http://me:hunter2@host/w"),
    )
    before = (finished / "spec.json").read_bytes()
    run(make_spec(model="python:networks_for_tests:sometimes_nan"), str(finished), executor="local")
    assert (finished / "spec.json").read_bytes() == before


def test_what_a_killed_writer_left_goes_when_a_finished_run_is_opened_to_go_on(
    finished: Path, make_spec: MakeSpec
) -> None:
    left = finished / "result" / ".tmp-old"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    run(make_spec(model="python:networks_for_tests:sometimes_nan"), str(finished), executor="local")
    assert not left.exists()
    assert RunDirectory(str(finished)).verify() == []


@pytest.mark.parametrize("folder", ["segments", "result", "result/figures"])
def test_a_link_in_place_of_a_folder_is_neither_read_nor_written_through(
    finished: Path, make_spec: MakeSpec, folder: str
) -> None:
    outside = finished.parent / "outside"
    (finished / folder).rename(outside)
    (finished / folder).symlink_to(outside)
    before = objects(outside)
    calls = [
        RunDirectory(str(finished)).verify,
        lambda: open_run(str(finished)),
        lambda: fetch(str(finished), finished.parent / "copy"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=f"run/{folder}' is a symbolic link"):
            call()
    (finished / "MANIFEST.json").unlink()
    (outside / next(iter(before))).unlink()
    with pytest.raises(StoreError, match=f"run/{folder}' is a symbolic link"):
        run(
            make_spec(model="python:networks_for_tests:sometimes_nan"),
            str(finished),
            executor="local",
        )
    assert len(objects(outside)) == len(before) - 1


def test_segments_that_cannot_be_listed_are_not_computed_again(
    finished: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "MANIFEST.json").unlink()
    scandir = os.scandir

    def fail(path: str) -> Any:
        if str(path).endswith("segments"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    for call in (
        lambda: RunDirectory(str(finished)).gaps(2000),
        lambda: run(
            make_spec(model="python:networks_for_tests:sometimes_nan"),
            str(finished),
            executor="local",
        ),
    ):
        with pytest.raises(StoreError, match=r"cannot list .*run/segments': Stale file handle"):
            call()


def test_the_run_itself_may_be_a_link(finished: Path) -> None:
    """Whoever gave its name has asked for it."""
    link = finished.parent / "link"
    link.symlink_to(finished)
    assert RunDirectory(str(link)).verify() == []
    assert open_run(str(link)).classes.num_rows > 0
    assert fetch(str(link), finished.parent / "copy").kept == 0
