"""Whole runs: the same bytes from every executor, after every failure, and honest stops."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import GOLDEN_FOLDER
from started import result

from wna_ray import open_run, run
from wna_ray.errors import NumericsError, RunError, ShardError, SpecError
from wna_ray.events import Event, RunStarted, ShardDone, ShardFailed, ShardRetried
from wna_ray.execution.local import InProcessExecutor
from wna_ray.kinds.average.job import execute
from wna_ray.kinds.average.pilot import pilot
from wna_ray.moments.moments import Moments
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]
EXECUTORS = [
    pytest.param("local", id="local"),
    pytest.param("ray", id="ray", marks=pytest.mark.ray),
]
FAULTY = "python:networks_for_tests:faulty?at=1000"


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Any:
    """Every executor; Ray's cluster is started once for the session."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return request.param


def shard_count(events: list[Event]) -> int:
    return sum(isinstance(e, ShardDone) for e in events)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "execution", [{"shard": 64, "segments": 7}, {"shard": 700, "segments": 1}, {}]
)
def test_ray_gives_the_bytes_of_the_reference(
    tmp_path: Path,
    make_spec: MakeSpec,
    reference: Any,
    ray_cluster: None,
    workers: int,
    execution: dict[str, int],
) -> None:
    spec = make_spec(
        execution=execution,
        responses=["label", "confidence", "logits", "probabilities"],
        moments={"second": True},
    )
    run(spec, str(tmp_path / "run"), executor="ray", workers=workers)
    assert result(tmp_path / "run") == reference(spec)
    assert RunDirectory(str(tmp_path / "run")).verify() == []


@pytest.mark.ray
def test_a_real_network_gives_the_same_bytes_on_ray(
    tmp_path: Path, reference: Any, ray_cluster: None
) -> None:
    """The bundled CNN, labels and logits, in float32 and in bfloat16: convolutions in other
    processes, other shards.
    """
    for dtype in ("float32", "bfloat16"):
        stimulus = {"kind": "uniform", "shape": [1, 28, 28], "offset": 0.5, "scale": 0.5}
        numerics = {"dtype": dtype, "batch": 64}
        spec = Spec.parse(
            {
                "model": "bundled:mnist-cnn",
                "stimulus": stimulus,
                "samples": 3000,
                "numerics": numerics,
                "execution": {"shard": 640},
            }
        )
        run(spec, str(tmp_path / dtype), executor="ray", workers=2)
        assert result(tmp_path / dtype) == reference(spec)


def test_an_error_is_tried_again(
    tmp_path: Path, make_spec: MakeSpec, reference: Any, executor: Any, fault: Path
) -> None:
    fault.write_text("raise once")
    events: list[Event] = []
    spec = make_spec(model=FAULTY)
    run(spec, str(tmp_path / "run"), executor=executor, callbacks=[events.append])
    assert [(e.start, e.stop, e.attempt) for e in events if isinstance(e, ShardRetried)] == [
        (768, 1024, 1)
    ]
    assert result(tmp_path / "run") == reference(spec)


def test_a_poison_shard_is_named_and_the_rest_goes_on(
    tmp_path: Path, make_spec: MakeSpec, reference: Any, executor: Any, fault: Path
) -> None:
    fault.write_text("raise always")
    spec, out = (
        make_spec(model=FAULTY, execution={"shard": 256, "segments": 1, "attempts": 2}),
        str(tmp_path / "run"),
    )
    with pytest.raises(
        ShardError,
        match=r"(?s)1 of 8 shards failed 2 times.*images \[768, 1024\): MemoryError: planted",
    ):
        run(spec, out, executor=executor)
    assert RunDirectory(out).gaps(2000) == [(768, 1024)]
    fault.unlink()
    events: list[Event] = []
    run(spec, out, executor=executor, callbacks=[events.append])
    assert shard_count(events) == 1, "only what was missing is computed"
    assert result(tmp_path / "run") == reference(spec)
    assert RunDirectory(out).verify() == []


@pytest.mark.ray
def test_a_killed_worker_costs_nothing(
    tmp_path: Path, make_spec: MakeSpec, reference: Any, ray_cluster: None, fault: Path
) -> None:
    """The worker kills itself with SIGKILL in the middle of a shard, once."""
    fault.write_text("kill once")
    events: list[Event] = []
    spec = make_spec(model=FAULTY)
    run(spec, str(tmp_path / "run"), executor="ray", workers=2, callbacks=[events.append])
    retried = [e for e in events if isinstance(e, ShardRetried)]
    assert (768, 1024, 1) in [(e.start, e.stop, e.attempt) for e in retried]
    assert all(e.attempt == 0 for e in retried if e.start != 768), (
        "a shard that only waited there is not blamed"
    )
    assert result(tmp_path / "run") == reference(spec)


@pytest.mark.ray
def test_a_shard_that_kills_every_worker_is_named(
    tmp_path: Path, make_spec: MakeSpec, ray_cluster: None, fault: Path
) -> None:
    fault.write_text("kill always")
    events: list[Event] = []
    spec = make_spec(model=FAULTY, execution={"shard": 256, "segments": 4, "attempts": 2})
    with pytest.raises(ShardError, match=r"images \[768, 1024\)"):
        run(spec, str(tmp_path / "run"), executor="ray", workers=2, callbacks=[events.append])
    assert [(e.start, e.stop) for e in events if isinstance(e, ShardFailed)] == [(768, 1024)]
    assert RunDirectory(str(tmp_path / "run")).gaps(2000) == [(768, 1024)]


def test_errors_that_networks_really_raise_are_poison_too(
    tmp_path: Path, make_spec: MakeSpec, executor: Any, fault: Path
) -> None:
    """A RuntimeError in a later batch is a shard's failure, not a model that does not fit; the
    rest of the run goes on.
    """
    fault.write_text("break always")
    with pytest.raises(ShardError, match=r"images \[768, 1024\): RuntimeError: planted"):
        run(make_spec(model=FAULTY), str(tmp_path / "run"), executor=executor)
    assert RunDirectory(str(tmp_path / "run")).gaps(2000) == [(768, 1024)]


@pytest.mark.ray
def test_a_worker_killed_while_it_looks_at_the_model(
    tmp_path: Path, make_spec: MakeSpec, reference: Any, ray_cluster: None, fault: Path
) -> None:
    fault.write_text("kill once")
    spec = make_spec(model="python:networks_for_tests:faulty?at=10")  # in the very first batch
    run(spec, str(tmp_path / "run"), executor="ray", workers=1)
    assert result(tmp_path / "run") == reference(spec)


@pytest.mark.ray
def test_relative_paths_and_memory_on_ray(
    tmp_path: Path,
    make_spec: MakeSpec,
    reference: Any,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers were started in another folder: a relative --out must mean the driver's."""
    monkeypatch.chdir(tmp_path)
    run(make_spec(), "here", executor="ray", workers=1)
    assert result(tmp_path / "here") == reference(make_spec())
    with pytest.raises(SpecError, match="in this process's memory"):
        run(make_spec(), "memory://x/run", executor="ray", workers=1)


def test_two_drivers_one_wins_and_the_other_says_so(
    tmp_path: Path, make_spec: MakeSpec, reference: Any
) -> None:
    """A second job, started while the first is half done, leaves it alone."""
    spec = make_spec(execution={"shard": 64, "segments": 8})
    said: list[str] = []

    def start_rival(event: Event) -> None:
        if isinstance(event, ShardDone) and event.start >= 960 and not said:
            with pytest.raises(
                RunError, match=r"another driver is at work in .*: process \d+ on "
            ) as told:
                run(spec, str(tmp_path / "run"), executor="local")
            said.append(str(told.value))

    run(spec, str(tmp_path / "run"), executor="local", callbacks=[start_rival])
    assert said
    assert result(tmp_path / "run") == reference(spec)


def test_two_drivers_that_do_not_know_of_each_other_end_in_one_run(
    tmp_path: Path, make_spec: MakeSpec, reference: Any
) -> None:
    """Should claims ever fail: both cut the same segments, whatever their shards, and segments
    are committed once.
    """
    spec = make_spec(execution={"shard": 64, "segments": 8})
    rival = make_spec(execution={"shard": 320, "segments": 8})
    directory, began = RunDirectory(str(tmp_path / "run")), False

    def start_rival(event: Event) -> None:
        nonlocal began
        if isinstance(event, ShardDone) and event.start >= 960 and not began:
            began = True
            execute(rival, directory, InProcessExecutor(rival), lambda _: None)

    execute(spec, directory, InProcessExecutor(spec), start_rival)
    assert began
    assert result(tmp_path / "run") == reference(spec)
    assert directory.verify() == []


def test_a_random_network_is_refused(tmp_path: Path, make_spec: MakeSpec) -> None:
    with pytest.raises(NumericsError, match="answers the same batch differently each time"):
        run(
            make_spec(model="python:networks_for_tests:random"),
            str(tmp_path / "run"),
            executor="local",
        )


@pytest.mark.ray
def test_errors_of_workers_reach_the_user_as_they_are(
    tmp_path: Path, make_spec: MakeSpec, ray_cluster: None
) -> None:
    run(make_spec(), str(tmp_path / "run"), executor="local")
    with pytest.raises(RunError, match="another spec"):
        run(make_spec(seed=8), str(tmp_path / "run"), executor="ray", workers=1)
    with pytest.raises(NumericsError, match="differently each time"):
        run(
            make_spec(model="python:networks_for_tests:random"),
            str(tmp_path / "r2"),
            executor="ray",
            workers=1,
        )
    with pytest.raises(SpecError, match="workers: 0 is not a number of workers"):
        run(make_spec(), str(tmp_path / "r3"), executor="ray", workers=0)


def test_not_finite_images_are_reported(tmp_path: Path, make_spec: MakeSpec) -> None:
    got = run(
        make_spec(model="python:networks_for_tests:sometimes_nan"),
        str(tmp_path / "run"),
        executor="local",
    )
    assert got.moments.nonfinite > 100
    assert got.moments.seen == 2000
    assert np.isfinite(got.bias_maps).all()


def test_a_finished_run_reads_back(tmp_path: Path, make_spec: MakeSpec) -> None:
    done = run(
        make_spec(moments={"second": True}, stimulus={"cell": 3, "offset": 0.25}),
        str(tmp_path / "run"),
        executor="local",
    )
    got = open_run(str(tmp_path / "run"))
    assert got.bias_maps.shape == got.z_maps.shape == (6, 1, 4, 4)
    assert got.bias_maps.dtype == np.float32
    assert got.variance_maps.shape == (3, 1, 4, 4)
    assert got.map_outputs.shape == (6, 3)
    table = got.classes
    assert table.column_names == [
        *(
            "response",
            "name",
            "kind",
            "count",
            "share",
            "rho2",
            "standard_error",
            "p_value",
            "reliability",
            "split_half",
        ),
        *("filter_cosine", "self_label", "self_confidence", "note"),
    ]
    assert table["kind"].to_pylist() == ["label"] * 3 + ["logits"] * 3
    assert sum(table["count"].to_pylist()[:3]) == 2000
    assert got.derive() == {name: data for name, data in result(tmp_path / "run").items()}
    assert got.fingerprint == done.fingerprint


def test_the_network_recognises_the_maps_of_a_linear_network(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    """A linear network must call each of its own logit maps by its name: w_k - mean w has the
    largest product with w_k.
    """
    got = run(make_spec(samples=20_000), str(tmp_path / "run"), executor="local")
    assert got.classes["self_label"].to_pylist()[3:] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "name, words",
    [("result/bias_maps.npy", "bias_maps.npy is damaged"), ("spec.json", "digest does not match")],
)
def test_a_damaged_result_is_not_read(
    tmp_path: Path, make_spec: MakeSpec, name: str, words: str
) -> None:
    run(make_spec(), str(tmp_path / "run"), executor="local")
    path = tmp_path / "run" / name
    data = path.read_bytes()
    path.write_bytes(
        b'"scale": 9.0'.join(data.rsplit(b'"scale": 1.0', 1))
        if name == "spec.json"
        else data[:-1] + b"x"
    )
    with pytest.raises(RunError, match=words):
        _ = open_run(str(tmp_path / "run")).bias_maps


def test_a_foreign_offset_is_refused(tmp_path: Path, make_spec: MakeSpec) -> None:
    np.save(tmp_path / "mine.npy", np.full((1, 4, 4), 0.5, np.float32))
    (tmp_path / "run").mkdir()
    np.save(tmp_path / "run" / "offset.npy", np.full((1, 4, 4), 7.0, np.float32))
    with pytest.raises(RunError, match=r"offset\.npy is not this run's offset"):
        run(
            make_spec(stimulus={"offset": str(tmp_path / "mine.npy")}),
            str(tmp_path / "run"),
            executor="local",
        )


def test_memory_urls_work(make_spec: MakeSpec) -> None:
    got = run(make_spec(), "memory://wna-test/run", executor="local")
    assert got.directory.verify() == []


def test_pilot_writes_nothing_and_plans(
    tmp_path: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = pilot(make_spec(samples=10**6), 1000, workers=2)
    assert found.images == 1024
    assert sum(b - a for a, b in found.plan.segments) == 10**6
    assert [r.kind for r in found.readouts] == ["label", "logits"]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(
    tmp_path: Path, make_spec: MakeSpec, reference: Any
) -> None:
    """On a file system with room for some of the segments only; after making room the same call
    goes on.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs ({mounted.stderr.strip()})")
    try:
        spec, events = make_spec(execution={"shard": 64, "segments": 32}), list[Event]()
        with pytest.raises(
            Exception,
            match=(
                r"cannot write .*No space left on device; free some space.*committed before is safe"
            ),
        ):
            run(spec, str(disk / "run"), executor="local")
        left = sum(b - a for a, b in RunDirectory(str(disk / "run")).gaps(2000))
        assert 0 < left < 2000, "some segments were committed"
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        run(spec, str(disk / "run"), executor="local", callbacks=[events.append])
        assert sum(e.stop - e.start for e in events if isinstance(e, ShardDone)) == left
        assert result(disk / "run") == reference(spec)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_golden_run(tmp_path: Path, make_spec: MakeSpec) -> None:
    """The moments of one tiny run, number by number, and what is stored, byte by byte. Its
    arithmetic is exact in float32, so every machine must agree, and no optimisation may change it.

    If this turns red, published results change: see "Reproducibility impact" in CHANGELOG.md before
    touching the file.
    """
    stimulus = {"kind": "uniform", "scale": 127 / 8, "cell": 2}
    got = run(
        make_spec(
            stimulus=stimulus,
            responses=["label", {"kind": "logits", "centred": True}],
            samples=300,
            moments={"second": True},
        ),
        str(tmp_path / "run"),
        executor="local",
    )
    golden = json.loads((GOLDEN_FOLDER / "run.json").read_text())
    assert {name: array.tolist() for name, array in got.moments.arrays().items()} == golden[
        "moments"
    ]
    assert Moments.from_arrays(got.moments.arrays()).seen == 300
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["identity"] == golden["identity"]
    assert got.fingerprint == golden["fingerprint"]
    files = {name: (tmp_path / "run" / name).read_bytes() for name in golden["sha256"]}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == golden[
        "sha256"
    ]


def test_started_event_tells_what_will_happen(tmp_path: Path, make_spec: MakeSpec) -> None:
    events: list[Event] = []
    run(make_spec(), str(tmp_path / "run"), executor="local", callbacks=[events.append])
    (started,) = [e for e in events if isinstance(e, RunStarted)]
    assert (started.samples, started.done, started.shards, started.workers, started.device) == (
        2000,
        0,
        8,
        1,
        "cpu",
    )
    assert sum(e.stop - e.start for e in events if isinstance(e, ShardDone)) == 2000
