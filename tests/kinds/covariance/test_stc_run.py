"""Covariances of finished runs: cut, resumed, damaged; and questions that have no answer."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from started import start

from wna_ray import StcSpec, open_run, open_stc, run, run_stc
from wna_ray.canonical import canonical, sha256
from wna_ray.errors import RunError, SpecError
from wna_ray.events import Event, RunStarted, ShardDone, Stage
from wna_ray.kinds.average.run import Run
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.parse import read_spec
from wna_ray.specs.run import Spec
from wna_ray.storage.arrays import to_npy
from wna_ray.storage.store import Place

MakeSpec = Callable[..., Spec]


@pytest.mark.ray
def test_ray_and_this_process_give_the_same_bytes(quadratic: Run, tmp_path: Path) -> None:
    for method in ("dense", "matrix-free"):
        spec = StcSpec(
            run=quadratic.directory.url,
            method=method,
            fresh=3,
            axes=2,
            passes=2,
            execution={"shard": 640, "segments": 5},
        )  # type: ignore[arg-type]
        here = run_stc(spec, str(tmp_path / f"local-{method}"), executor="local")
        there = run_stc(spec, str(tmp_path / f"ray-{method}"), executor="ray", workers=2)
        a, b = (
            {k: v.sha256 for k, v in one.manifest.objects.items() if k.startswith("result/")}
            for one in (here, there)
        )
        assert a == b


def test_a_stopped_covariance_goes_on(quadratic: Run, tmp_path: Path) -> None:
    """Segments that are there are not computed again; the result is that of an undisturbed one."""
    spec = StcSpec(run=quadratic.directory.url, fresh=3, execution={"shard": 640, "segments": 10})  # type: ignore[arg-type]
    whole = run_stc(spec, str(tmp_path / "whole"), executor="local")
    run_stc(spec, str(tmp_path / "cut"), executor="local")
    (tmp_path / "cut" / "MANIFEST.json").unlink()
    for victim in sorted((tmp_path / "cut" / "segments").iterdir())[3:7]:
        victim.unlink()
    events: list[Event] = []
    again = run_stc(spec, str(tmp_path / "cut"), executor="local", callbacks=[events.append])
    assert sum(e.stop - e.start for e in events if isinstance(e, ShardDone)) == 4 * 2048 < 20_000
    assert again.manifest == whole.manifest
    with pytest.raises(
        RunError, match=r"holds a run of another spec; what differs.*\n  fresh: 3 -> 4"
    ):
        run_stc(spec.model_copy(update={"fresh": 4}), str(tmp_path / "cut"), executor="local")


def test_a_killed_driver_of_a_covariance(quadratic: Run, tmp_path: Path) -> None:
    """kill -9 in the middle of it; the same command goes on to the same result."""
    spec = StcSpec(
        run=quadratic.directory.url, fresh=400, axes=1, execution={"shard": 64, "segments": 60}
    )  # type: ignore[arg-type]
    process = start(tmp_path, spec, "--executor", "local")  # type: ignore[arg-type]
    while len(list((tmp_path / "run" / "segments").glob("*.npz"))) < 3:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    events: list[Event] = []
    found = run_stc(spec, str(tmp_path / "run"), executor="local", callbacks=[events.append])
    started = next(e for e in events if isinstance(e, RunStarted))
    assert 0 < started.done < 20_000
    assert found.directory.verify() == []
    assert found.axes["p_value"][0].as_py() == 2 / 401


def test_damage_is_found(quadratic: Run, tmp_path: Path) -> None:
    run_stc(
        StcSpec(run=quadratic.directory.url, fresh=1, axes=1),
        str(tmp_path / "stc"),
        executor="local",
    )
    victim = tmp_path / "stc" / "result" / "axes.npy"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    assert [fault.split(":")[0] for fault in RunDirectory(str(tmp_path / "stc")).verify()] == [
        "result/axes.npy is damaged"
    ]
    with pytest.raises(RunError, match=r"axes\.npy is damaged: it is not what the manifest lists"):
        _ = open_stc(str(tmp_path / "stc")).pictures
    with pytest.raises(
        RunError, match=r"is a covariance, not a run; open it with wna_ray\.open_stc"
    ):
        open_run(str(tmp_path / "stc"))
    with pytest.raises(RunError, match="is a run, not a covariance"):
        open_stc(quadratic.directory.url)


MATRIX_FREE = {"method": "matrix-free", "axes": 2, "passes": 1}
OBJECTS = {"spec.json", "environment.json", "result/moments.npz"}
OF_ALL = OBJECTS | {"result/axes.npy", "result/axes.parquet", "result/profiles.parquet"}


@pytest.mark.parametrize(
    "ask, own",
    [({"fresh": 1, "axes": 1}, "result/spectra.npy"), (MATRIX_FREE, "block.npy")],
    ids=["dense", "matrix-free"],
)
def test_a_covariance_must_list_what_it_has(
    quadratic: Run, tmp_path: Path, ask: dict[str, Any], own: str
) -> None:
    out = tmp_path / "stc"
    run_stc(StcSpec.parse({"run": quadratic.directory.url} | ask), str(out), executor="local")
    for folder, names in ((out, OF_ALL | {own}), (out / "profile", OBJECTS)):
        directory = RunDirectory(str(folder))
        manifest = directory.manifest()
        assert manifest is not None
        assert {name for name in manifest.objects if "figures" not in name} == names
        assert directory.verify() == []
        for name in names:
            written = manifest.written()
            written["objects"].pop(name)
            (folder / "MANIFEST.json").write_text(json.dumps(written))
            assert any(f"does not list {name}" in fault for fault in directory.verify()), name


def forge(out: Path, name: str, data: bytes) -> None:
    """Other bytes under a name, and their digest in the manifest."""
    (out / name).write_bytes(data)
    manifest = json.loads((out / "MANIFEST.json").read_text())
    manifest["objects"][name] = {"bytes": len(data), "sha256": sha256(data)}
    (out / "MANIFEST.json").write_text(json.dumps(manifest))


def test_a_block_must_fit_the_sums(quadratic: Run, tmp_path: Path) -> None:
    out = tmp_path / "stc"
    run_stc(
        StcSpec.parse({"run": quadratic.directory.url} | MATRIX_FREE), str(out), executor="local"
    )
    forge(out, "block.npy", to_npy(np.zeros((16, 3))))
    assert RunDirectory(str(out)).verify() == ["block.npy is not the block that spec.json tells of"]


@pytest.mark.parametrize("shape", [(1 << 40, 0), (16,), (2, 1, 4, 4)])
def test_pictures_that_are_none_are_refused(
    quadratic: Run, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    out = tmp_path / "stc"
    run_stc(StcSpec(run=quadratic.directory.url, fresh=1, axes=1), str(out), executor="local")
    forge(out, "result/axes.npy", to_npy(np.zeros(shape, np.float32)))
    with pytest.raises(
        RunError, match=r"axes.npy is damaged \(float32 of shape .*, not 1 pictures of float32\)"
    ):
        _ = open_stc(str(out)).pictures


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda spec: spec.pop("spec"), "spec: Field required"),
        (
            lambda spec: spec["spec"].update(linear=False),
            "its spec and its identity differ in method",
        ),
        (lambda spec: spec["spec"].update(seed=5), "its spec and its identity differ in seed"),
        (lambda spec: spec["identity"].pop("run"), "its spec and its identity differ in run"),
        (lambda spec: spec.update(names=["a", "b"]), "it names 2 units, not 1"),
    ],
    ids=["no spec", "linear", "seed", "run", "names"],
)
def test_a_spec_of_a_covariance_is_looked_at(
    quadratic: Run, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    out = tmp_path / "stc"
    run_stc(StcSpec(run=quadratic.directory.url, fresh=1, axes=1), str(out), executor="local")
    spec = json.loads((out / "spec.json").read_text())
    spec.pop("digest")
    change(spec)
    spec["fingerprint"] = sha256(canonical(spec["identity"]).encode())
    forge(
        out, "spec.json", json.dumps(spec | {"digest": sha256(canonical(spec).encode())}).encode()
    )
    for call in (RunDirectory(str(out)).verify, lambda: open_stc(str(out))):
        with pytest.raises(RunError, match=words):
            call()


@pytest.mark.parametrize(
    "ask, words",
    [
        ({"response": "logits"}, "has no logits; it has activation"),
        ({"units": ["7"]}, "has no '7'; it has 0"),
        ({"run": "/nowhere"}, "no run at '/nowhere'"),
    ],
)
def test_questions_that_have_no_answer(
    quadratic: Run, tmp_path: Path, ask: dict[str, Any], words: str
) -> None:
    with pytest.raises((SpecError, RunError)) as caught:
        run_stc(
            StcSpec.parse({"run": quadratic.directory.url, **ask}),
            str(tmp_path / "stc"),
            executor="local",
        )
    assert words in str(caught.value)


def test_runs_that_cannot_be_asked(make_spec: MakeSpec, tmp_path: Path) -> None:
    def ask(name: str, spec: Spec, **how: Any) -> str:
        finished = run(spec, str(tmp_path / name), executor="local")
        with pytest.raises((SpecError, RunError)) as caught:
            run_stc(
                StcSpec.parse({"run": finished.directory.url, **how}),
                str(tmp_path / f"{name}-stc"),
                executor="local",
            )
        assert not (tmp_path / f"{name}-stc").exists()
        return str(caught.value)

    assert "run its spec with keep_responses: true" in ask("none", make_spec())
    kept = {"keep_responses": True, "samples": 128}
    assert "matrix-free takes one unit at a time, got 3" in ask(
        "many", make_spec(**kept, responses=["logits"]), method="matrix-free"
    )
    large = make_spec(
        **kept,
        stimulus={"shape": [1, 65, 65]},
        model="python:networks_for_tests:slow?d=4225",
        responses=["logits"],
    )
    assert "dense is for up to 4,096 values an image" in ask("large", large)
    padded = {"model": "python:networks_for_tests:padded", "stimulus": {"shape": [2, 20, 24]}}
    pooled = make_spec(
        **kept, **padded, target={"layer": "second", "position": "pooled"}, responses=["activation"]
    )
    assert "pools positions whose patches overlap" in ask("pooled", pooled)
    silent = make_spec(**kept, **padded, target={"layer": "silent"}, responses=["activation"])
    assert "the activation of '0' never varied" in ask("silent", silent)
    many = make_spec(
        **kept,
        stimulus={"shape": [1, 60, 60]},
        model="python:networks_for_tests:slow?d=3600",
        responses=["logits"],
    )
    assert "take fewer units, fewer fresh streams, or method: matrix-free" in ask(
        "memory", many, fresh=1000
    )


def test_other_noise_is_warned_of(make_spec: MakeSpec, tmp_path: Path) -> None:
    finished = run(
        make_spec(stimulus={"kind": "binary"}, keep_responses=True),
        str(tmp_path / "run"),
        executor="local",
    )
    events: list[Event] = []
    spec = StcSpec(run=finished.directory.url, response="logits", fresh=1, axes=1)
    found = run_stc(spec, str(tmp_path / "stc"), executor="local", callbacks=[events.append])
    (told,) = [e.name for e in events if isinstance(e, Stage) and "not Gaussian" in e.name]
    assert "binary noise is not Gaussian: its kurtosis makes axes along single values" in told
    assert found.axes["explained"].null_count == len(found.axes)


def test_a_file_that_names_a_run_asks_for_its_covariance(tmp_path: Path) -> None:
    path = tmp_path / "stc.yaml"
    path.write_text("run: s3://bucket/run\nunits: [3, x]\nfresh: 19\n")
    spec = read_spec(path, {"axes": 3})
    assert isinstance(spec, StcSpec)
    assert (spec.units, spec.fresh, spec.axes) == (("3", "x"), 19, 3)
    path.write_text("run: x\nfres: 19\n")
    with pytest.raises(
        SpecError, match="fres: unknown key; known here are run, model, response, units"
    ):
        read_spec(path)


def test_a_pass_lies_where_its_parent_does(quadratic: Run, tmp_path: Path) -> None:
    spec = StcSpec(run=quadratic.directory.url, method="matrix-free", axes=2, passes=1)
    run_stc(spec, f"{tmp_path}/stc/", executor="local", single_writer=True)
    assert sorted(p.name for p in (tmp_path / "stc").iterdir() if p.is_dir()) == [
        "drivers",
        "events",
        "pass-01",
        "profile",
        "result",
        "segments",
    ]
    assert Place(f"{tmp_path}/stc") is not None
