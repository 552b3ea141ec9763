"""Reading the objects of a finished run: what is damaged, and what only this reader cannot read."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wna_ray.canonical import sha256
from wna_ray.errors import RunError, StoreError, WnaError
from wna_ray.kinds.average.job import run
from wna_ray.kinds.average.run import Run, open_run
from wna_ray.specs.run import Spec
from wna_ray.storage import arrays as archive
from wna_ray.storage.arrays import pack, unpack

MakeSpec = Callable[..., Spec]


@pytest.fixture
def finished(tmp_path: Path, make_spec: MakeSpec) -> Run:
    return run(
        make_spec(samples=640, keep_responses=True, execution={"segments": 1}),
        str(tmp_path / "run"),
        executor="local",
    )


# what a reader raises, and what is said of it
FAULTS: dict[str, tuple[Exception, type[WnaError], str]] = {
    "memory": (
        MemoryError(),
        StoreError,
        "does not fit into the memory that is free.*take a larger machine",
    ),
    "Arrow's memory": (
        pa.ArrowMemoryError("malloc of size 64 failed"),
        StoreError,
        "does not fit into the memory",
    ),
    "a codec": (
        pa.ArrowNotImplementedError("Support for codec 'snappy' not built"),
        RunError,
        (
            r"cannot be read by this pyarrow \(Support for codec 'snappy' not built\); install one"
            r" with that codec"
        ),
    ),
    "a disk": (
        OSError(errno.EIO, "x"),
        StoreError,
        r"cannot be read now \(Input/output error\); run the same command again",
    ),
    "Thrift": (
        OSError("Couldn't deserialize thrift"),
        RunError,
        r"is damaged \(Couldn't deserialize thrift\)",
    ),
    "values": (ValueError("more rows"), RunError, r"is damaged \(more rows\)"),
}


@pytest.mark.parametrize("fault, kind, words", FAULTS.values(), ids=FAULTS.keys())
def test_only_damage_is_called_damage(
    finished: Run,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    kind: type[WnaError],
    words: str,
) -> None:
    def fail(*_args: object, **_options: object) -> Any:
        raise fault

    finished = open_run(finished.directory.url)
    monkeypatch.setattr(pq, "ParquetFile", fail)
    for read in (lambda: finished.classes, lambda: next(finished.stored())):
        with pytest.raises(kind, match=words) as told:
            read()
        assert ("damaged" in str(told.value)) == ("damaged" in words)
        assert getattr(told.value, "passing", False) == (kind is StoreError), (
            "another machine may have what lacks here"
        )


@pytest.mark.parametrize("fault", [MemoryError(), OSError(errno.EMFILE, "x")])
def test_sound_moments_are_not_to_be_deleted(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    data = pack({}, {})

    def fail(*_: object) -> Any:
        raise fault

    monkeypatch.setattr(archive, "from_npy", fail)
    with pytest.raises(
        StoreError, match=r"here .*(larger machine|run the same command again)"
    ) as told:
        unpack(data, "here")
    assert "delete" not in str(told.value)


def test_a_bug_of_a_reader_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(archive, "from_npy", fail)
    with pytest.raises(AssertionError):
        unpack(pack({}, {}), "here")


def forge(folder: Path, data: bytes) -> None:
    """Another ``environment.json``, and its digest in the manifest."""
    (folder / "environment.json").write_bytes(data)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["objects"]["environment.json"] = {"bytes": len(data), "sha256": sha256(data)}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def test_the_environment_is_what_the_manifest_lists(finished: Run) -> None:
    folder = Path(finished.directory.url)
    written = (folder / "environment.json").read_bytes()
    assert open_run(str(folder)).environment == json.loads(written)
    (folder / "environment.json").write_bytes(written.replace(b'"cpu"', b'"gpu"'))
    with pytest.raises(
        RunError, match=r"environment\.json is damaged: it is not what the manifest lists"
    ):
        _ = open_run(str(folder)).environment
    forge(folder, b'{"seen": "http://me:hunter2@host/x"}')
    assert open_run(str(folder)).environment == {"seen": "http://***@host/x"}


@pytest.mark.parametrize("data", ["[]", "{", '{"a": NaN}', '{"a":' + "[" * 100_000])
def test_an_environment_that_is_none_is_refused(finished: Run, data: str) -> None:
    forge(Path(finished.directory.url), data.encode())
    with pytest.raises(RunError, match=r"environment\.json is damaged"):
        _ = open_run(finished.directory.url).environment
