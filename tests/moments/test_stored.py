"""Kept responses: the moments can be made again from them and the noise alone; damaged files
are found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wna_ray import run
from wna_ray.canonical import sha256
from wna_ray.errors import RunError
from wna_ray.kinds.average.run import Run
from wna_ray.moments.kept import Stored, most_bytes, unpack
from wna_ray.moments.moments import Moments
from wna_ray.moments.responses import Dense, Response, Selected
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.fetch import fetch
from wna_ray.specs.run import Spec

MakeSpec = Callable[..., Spec]
ALL = ["label", "confidence", "logits", "probabilities"]


def again(finished: Run) -> Moments:
    """The moments of a run, from its stored responses and regenerated noise."""
    spec, stimulus = finished.spec, finished.stimulus
    total = Moments.identity(stimulus.pixels, [r.kind for r in spec.responses], spec.moments.second)
    for start, stored in finished.stored():
        grid = stimulus.noise.grid(start, start + len(stored.counted))[stored.counted]
        responses: dict[str, Response] = {}
        for kind, values in stored.values.items():
            some = values[stored.counted].astype(np.int64)
            if kind == "label":
                responses[kind] = Selected(some[:, 0], np.ones(len(some), dtype=np.int64))
            elif kind == "confidence":
                responses[kind] = Selected(some[:, 0], some[:, 1])
            else:
                responses[kind] = Dense(some.reshape(len(some) * stimulus.patches_an_image, -1))
        total = total.update(stimulus.keep(grid), responses, stimulus.patches_an_image)
    left_out = finished.moments
    return total.skip(nonfinite=left_out.nonfinite, out_of_range=left_out.out_of_range)


@pytest.mark.parametrize(
    "changes",
    [
        {"responses": ALL},
        {
            "model": "python:networks_for_tests:sometimes_nan",
            "responses": ALL,
            "moments": {"second": True},
        },
        {
            "model": "python:networks_for_tests:padded",
            "stimulus": {"shape": [2, 20, 24]},
            "target": {"layer": "second", "position": "pooled"},
            "responses": ["rectified", "spikes"],
            "samples": 256,
        },
    ],
)
def test_moments_can_be_made_again_without_the_network(
    make_spec: MakeSpec, tmp_path: Path, changes: dict[str, Any]
) -> None:
    finished = run(
        make_spec(keep_responses=True, **changes), str(tmp_path / "run"), executor="local"
    )
    expected = finished.moments.arrays()
    assert {name: array.tolist() for name, array in again(finished).arrays().items()} == {
        k: v.tolist() for k, v in expected.items()
    }
    assert finished.directory.verify() == []


def test_rows_do_not_depend_on_how_the_run_is_cut(make_spec: MakeSpec, tmp_path: Path) -> None:
    found = []
    for segments, shard in ((1, 64), (5, 256)):
        spec = make_spec(
            keep_responses=True, responses=ALL, execution={"segments": segments, "shard": shard}
        )
        parts = list(run(spec, str(tmp_path / f"{segments}"), executor="local").stored())
        assert len(parts) == segments
        found.append(Stored.join([stored for _, stored in parts]))
    assert found[0].counted.all()
    for kind in ALL:
        assert np.array_equal(found[0].values[kind], found[1].values[kind])


def test_keeping_changes_no_result_but_is_another_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    plain = run(make_spec(), str(tmp_path / "plain"), executor="local")
    kept = run(make_spec(keep_responses=True), str(tmp_path / "kept"), executor="local")
    assert np.array_equal(plain.bias_maps, kept.bias_maps, equal_nan=True)
    with pytest.raises(RunError, match=r"keep_responses: null -> true"):
        run(make_spec(keep_responses=True), str(tmp_path / "plain"), executor="local")
    with pytest.raises(
        RunError, match="has no responses of single images; run its spec with keep_responses: true"
    ):
        list(plain.stored())


def test_any_table_reader_reads_them(make_spec: MakeSpec, tmp_path: Path) -> None:
    finished = run(make_spec(keep_responses=True), str(tmp_path / "run"), executor="local")
    table = pq.read_table(tmp_path / "run" / "responses")
    assert table.column_names == ["image", "counted", "label", "logits"]
    assert sorted(table["image"].to_pylist()) == list(range(2000))
    labels = np.array([row[0] for row in table["label"].to_pylist()])
    assert np.bincount(labels, minlength=3).tolist() == finished.readouts[0].count.tolist()


def test_a_damaged_file_is_found(make_spec: MakeSpec, tmp_path: Path) -> None:
    run(make_spec(keep_responses=True), str(tmp_path / "run"), executor="local")
    copy = fetch(str(tmp_path / "run"), tmp_path / "copy").folder
    assert RunDirectory(str(copy)).verify() == []
    victim = sorted((copy / "responses").iterdir())[1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert [fault.split(":")[0] for fault in RunDirectory(str(copy)).verify()] == [
        f"responses/{victim.name} is damaged"
    ]
    with pytest.raises(RunError, match=r"parquet is damaged: it is not what the manifest lists"):
        list(Run(str(copy)).stored())
    victim.unlink()
    assert RunDirectory(str(copy)).verify() == [f"responses/{victim.name} is missing"]


def test_a_shard_in_which_nothing_counts(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Pooled units that are NaN wherever the first pixel is not far above its mean: whole
    shards are left out, and kept as such.
    """
    base = {
        "model": "python:networks_for_tests:seldom",
        "stimulus": {"shape": [1, 6, 6]},
        "execution": {"shard": 16, "segments": 4},
    }
    target = {"layer": "conv", "position": "pooled"}
    spec = make_spec(
        **base,
        target=target,
        responses=["activation"],
        keep_responses=True,
        samples=256,
        numerics={"batch": 16},
    )
    finished = run(spec, str(tmp_path / "run"), executor="local")
    counted = Stored.join([stored for _, stored in finished.stored()]).counted
    assert 0 < counted.sum() == finished.moments.images < 20
    assert not counted.reshape(-1, 16).any(axis=1).all(), "some shards count nothing"
    assert {k: v.tolist() for k, v in again(finished).arrays().items()} == {
        k: v.tolist() for k, v in finished.moments.arrays().items()
    }


def test_a_file_of_other_bytes_stops_a_commit(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(keep_responses=True)
    run(spec, str(tmp_path / "run"), executor="local")
    (tmp_path / "run" / "MANIFEST.json").unlink()
    segment = sorted((tmp_path / "run" / "segments").iterdir())[0]
    segment.unlink()
    (tmp_path / "run" / "responses" / segment.with_suffix(".parquet").name).write_bytes(b"else")
    with pytest.raises(
        Exception, match=r"parquet exists with other content \(of another version\?\); delete it"
    ):
        run(spec, str(tmp_path / "run"), executor="local")


def stored(n: int = 200) -> Stored:
    random = np.random.default_rng(0)
    counted = random.random(n) < 0.9
    k = int(counted.sum())
    logits = random.integers(-(1 << 23), 1 << 23, (k, 3))
    return Stored.of(
        counted,
        {
            "label": Selected(random.integers(0, 3, k), np.ones(k, dtype=np.int64)),
            "logits": Dense(logits),
        },
    )


def test_a_file_holds_what_was_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wna_ray.moments.kept.GROUP_BYTES", 1000)  # many row groups
    one = stored()
    data = one.pack(1000)
    assert data == one.pack(1000)
    two = unpack(data, 1000, 1200, {"label": 1, "logits": 3})
    assert np.array_equal(one.counted, two.counted)
    assert all(np.array_equal(one.values[k], two.values[k]) for k in ("label", "logits"))
    assert (two.values["logits"][~two.counted] == 0).all()


@pytest.mark.parametrize("n", [1, 1000, 300_000])
def test_the_bound_of_a_files_size_holds(n: int) -> None:
    one = Stored(np.ones(n, dtype=bool), {"spikes": np.ones((n, 20), dtype=np.int32)})
    assert n * 80 < len(one.pack(1 << 40)) <= most_bytes(n, [20]) < 2 * n * 90 + (1 << 17)


def table(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    options = {"compression": "none", "use_dictionary": False} | columns.pop("options", {})
    pq.write_table(pa.table(columns), sink, **options)
    return bytes(sink.getvalue())


IMAGE, COUNTED = pa.array([0, 1], pa.int64()), pa.array([True, True])
LIST = pa.FixedSizeListArray.from_arrays(pa.array([1, 2], pa.int32()), 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PAR1PAR1",
        table(image=IMAGE, counted=COUNTED),
        table(image=IMAGE, counted=COUNTED, label=pa.array([1, 2], pa.int32())),
        table(image=pa.array([0, 2], pa.int64()), counted=COUNTED, label=LIST),
        table(image=IMAGE, counted=pa.array([True, None]), label=LIST),
        table(image=IMAGE, counted=COUNTED, label=pa.array([[1], None], pa.list_(pa.int32(), 1))),
        table(image=IMAGE, counted=COUNTED, label=pa.array([[1], [None]], pa.list_(pa.int32(), 1))),
        table(image=IMAGE, counted=COUNTED, label=LIST, options={"compression": "zstd"}),
        table(image=IMAGE[:1], counted=COUNTED[:1], label=LIST[:1]),
    ],
)
def test_what_is_no_file_of_responses(data: bytes) -> None:
    good = table(image=IMAGE, counted=COUNTED, label=LIST)
    assert unpack(good, 0, 2, {"label": 1}).values["label"].tolist() == [[1], [2]]
    with pytest.raises((ValueError, OSError, pa.ArrowException)):
        unpack(data, 0, 2, {"label": 1})


def test_a_manifest_names_every_file(make_spec: MakeSpec, tmp_path: Path) -> None:
    finished = run(make_spec(keep_responses=True), str(tmp_path / "run"), executor="local")
    files = {
        f"responses/{f.name}": sha256(f.read_bytes())
        for f in (tmp_path / "run" / "responses").iterdir()
    }
    listed = {
        name: entry.sha256
        for name, entry in finished.manifest.objects.items()
        if name.startswith("responses/")
    }
    assert listed == files
