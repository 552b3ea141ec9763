"""The run directory: what it accepts, what it refuses, and that every damage is found."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wna_ray.errors import RunError
from wna_ray.job import run
from wna_ray.moments import Moments, Partial
from wna_ray.rundir import RunDirectory, pack, pack_moments, segment_name, unpack, unpack_moments
from wna_ray.spec import Spec

MakeSpec = Callable[..., Spec]


@pytest.fixture
def finished(tmp_path: Path, make_spec: MakeSpec) -> Path:
    """A finished run of 2,000 images in four segments, with a few images left out."""
    run(make_spec(model="python:networks_for_tests:sometimes_nan"), str(tmp_path / "run"), executor="local")
    return tmp_path / "run"


def partial(start: int = 0, images: int = 5) -> Partial:
    return Partial(start, start + images, Moments.identity(3, ["label"]).skip(nonfinite=images))


def objects(run: Path) -> dict[str, bytes]:
    """All files of a run but what its drivers wrote about themselves."""
    found = {f.relative_to(run).as_posix(): f.read_bytes() for f in run.rglob("*") if f.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(("drivers/", "events/"))}


def test_packing_is_deterministic_and_complete() -> None:
    arrays = {"a": np.arange(4), "b/c": np.ones((2, 3))}
    data = pack({"k": 1}, arrays)
    assert data == pack({"k": 1}, {"b/c": arrays["b/c"], "a": arrays["a"]} | arrays)
    header, back = unpack(data, "here")
    assert header == {"k": 1}
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


def test_every_flipped_bit_of_a_segment_is_found() -> None:
    """One bit in every byte of the object: read back as it was (unused archive bytes), or refused; never other moments."""
    data = pack_moments(partial(), "f" * 64)
    refused = 0
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        try:
            got = unpack_moments(bytes(broken), "f" * 64, "segment")
        except RunError:
            refused += 1
        else:
            assert pack_moments(got, "f" * 64) == data, f"byte {at}"
    assert refused > 0.7 * len(data), f"{refused} of {len(data)} refused"


def test_every_truncation_of_a_segment_is_found() -> None:
    data = pack_moments(partial(), "f" * 64)
    for length in range(0, len(data), 7):
        with pytest.raises(RunError, match="segment is damaged"):
            unpack_moments(data[:length], "f" * 64, "segment")


def test_another_number_in_a_sound_archive_is_found() -> None:
    """Written anew by NumPy, so that the archive's own checksums are right: only the digest in the header can tell."""
    data = pack_moments(partial(), "f" * 64)
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    arrays["counts"][1] += 1
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(RunError, match="its digest does not match"):
        unpack_moments(buffer.getvalue(), "f" * 64, "segment")


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", header=np.array([{"x": 1}], dtype=object))
    with pytest.raises(RunError, match="damaged or not a segment"):
        unpack((tmp_path / "evil.npz").read_bytes(), "evil.npz")


def test_gaps_and_overlaps(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    assert directory.gaps(20) == [(0, 20)]
    for start in (5, 15):
        directory.commit(partial(start), "f")
    assert directory.gaps(30) == [(0, 5), (10, 15), (20, 30)]
    assert directory.gaps(20) == [(0, 5), (10, 15)]
    with pytest.raises(RunError, match="reach image 20, but the run has 12"):
        directory.gaps(12)
    directory.commit(partial(7), "f")
    with pytest.raises(RunError, match=r"overlap.*delete one"):
        directory.gaps(30)


def test_a_segment_is_committed_once(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    directory.commit(partial(), "f")
    directory.commit(partial(), "f")
    with pytest.raises(RunError, match="exists with other content"):
        directory.commit(partial(), "g")


def test_a_finished_run_is_whole(finished: Path) -> None:
    directory = RunDirectory(str(finished))
    assert directory.verify() == []
    manifest = directory.manifest()
    assert manifest is not None
    assert sum(manifest["counts"].values()) == 2000
    assert manifest["counts"]["nonfinite"] > 0
    assert objects(finished).keys() == set(manifest["objects"]) | {s["name"] for s in manifest["segments"]} | {"MANIFEST.json"}


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
    assert RunDirectory(str(finished)).verify() == ["segments/notes.txt is foreign: the manifest does not list it"]
    with pytest.raises(RunError, match=r"notes\.txt is no segment of this run; move it away"):
        RunDirectory(str(finished)).segments()


def test_a_forged_manifest_is_found(finished: Path) -> None:
    """Sizes and digests may be forged to match: the segments must still add up to the result, and the ranges must tile."""
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


def test_a_segment_of_another_run_is_refused(finished: Path, tmp_path: Path, make_spec: MakeSpec) -> None:
    other = tmp_path / "other"
    run(make_spec(seed=8), str(other), executor="local")
    (other / "MANIFEST.json").unlink()
    name = segment_name(0, 512)
    (other / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(RunError, match=r"belongs to another run.*move it away"):
        run(make_spec(seed=8), str(other), executor="local")


def test_a_renamed_segment_is_refused(finished: Path) -> None:
    fingerprint = RunDirectory(str(finished)).spec()["fingerprint"]
    (finished / segment_name(0, 512)).rename(finished / segment_name(2048, 2560))
    with pytest.raises(RunError, match=r"holds images \[0, 512\): it was renamed"):
        RunDirectory(str(finished)).read_segment(segment_name(2048, 2560), fingerprint)


@pytest.mark.parametrize("damage", ["zeros", "truncate", "empty"])
def test_a_damaged_segment_is_named_and_only_it_is_computed_again(finished: Path, make_spec: MakeSpec, damage: str) -> None:
    spec = make_spec(model="python:networks_for_tests:sometimes_nan")
    before = objects(finished)
    (finished / "MANIFEST.json").unlink()
    segment = finished / segment_name(512, 1024)
    data = segment.read_bytes()
    middle = bytearray(data)
    middle[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    segment.write_bytes({"zeros": bytes(middle), "truncate": data[:-20], "empty": b""}[damage])
    with pytest.raises(RunError, match=r"000000000000512-000000000001024\.npz is damaged.*delete it and run the same command again"):
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
        r'model\.source: ".*sometimes_nan" -> ".*linear"': {"model": "python:networks_for_tests:linear"},
    }
    for message, change in cases.items():
        with pytest.raises(RunError, match=rf"(?s)another spec.*{message}") as caught:
            run(make_spec(**({"model": model} | change)), str(finished), executor="local")
        assert "canary" not in str(caught.value)


def test_paths_and_execution_may_change(finished: Path, make_spec: MakeSpec) -> None:
    """What does not change a result may change: the finished run is simply opened."""
    spec = make_spec(model="python:networks_for_tests:sometimes_nan", execution={"shard": 64, "attempts": 1})
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
