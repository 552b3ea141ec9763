"""Files that a spec names: regular ones of a fitting size are read, all others are one sentence."""

from __future__ import annotations

import io
import os
import socket
import struct
import tracemalloc
import zipfile
from pathlib import Path

import fsspec
import pytest
import torch

from wna_ray.errors import ModelError, SpecError, StoreError
from wna_ray.files import expanded, read_file
from wna_ray.networks.models import load
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli.offsets import load_offset
from wna_ray.storage.store import Store


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind that is none of ours."""
    os.mkfifo(tmp_path / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(100 << 30)
    return {
        "a named pipe": tmp_path / "fifo",
        "a socket": tmp_path / "socket",
        "a device": Path("/dev/zero"),
        "a folder": tmp_path,
        "more than": tmp_path / "sparse",
    }


KINDS = ["a named pipe", "a socket", "a device", "a folder", "more than"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}", "simplecache::file://{}"])
def test_only_regular_files_of_a_fitting_size_are_read(
    kind: str, form: str, odd: dict[str, Path]
) -> None:
    with pytest.raises(ModelError, match=f"^weights: '.*' (is|has) {kind}"):
        read_file(form.format(odd[kind]), "weights of a network", 1000, "weights")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("uri", ["bundled:mnist-cnn?weights={}", "export:{}", "trained:{}"])
def test_models_name_what_they_are_refused_for(
    uri: str, kind: str, odd: dict[str, Path], tmp_path: Path
) -> None:
    if uri.startswith("trained"):
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "network.json").symlink_to(odd[kind])
        odd = {kind: tmp_path / "net"}
    elif uri.startswith("export") and kind == "more than":
        kind, odd = "(memory|more than)", {"(memory|more than)": odd[kind]}
    with pytest.raises(ModelError, match=kind) as caught:
        load(uri.format(odd[kind]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_name_what_they_are_refused_for(kind: str, odd: dict[str, Path]) -> None:
    spec = StimulusSpec(kind="gaussian", shape=(1, 4, 4), offset=str(odd[kind]), scale=1.0)
    with pytest.raises(SpecError, match=f"^stimulus.offset: '.*' (is|has) {kind}"):
        load_offset(spec)


def test_remote_objects_are_read_up_to_what_is_needed() -> None:
    with fsspec.open("memory://files/weights", "wb") as file:
        file.write(b"x" * 100)
    assert read_file("memory://files/weights", "weights", 100) == b"x" * 100
    with pytest.raises(
        ModelError, match="'memory://files/weights' has more than the 99 bytes of weights"
    ):
        read_file("memory://files/weights", "weights", 99)
    with pytest.raises(ModelError, match="no file 'memory://files/other'; expected weights"):
        read_file("memory://files/other", "weights", 99)


def test_reading_takes_no_memory_for_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 1000)
    tracemalloc.start()
    assert len(read_file(str(tmp_path / "small"), "an exported program", 16 << 30)) == 1000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("scheme", ["s3", "s3a", "gs", "abfs"])
def test_keys_in_the_url_of_an_object_store_are_refused(scheme: str) -> None:
    with pytest.raises(ModelError, match=r"holds credentials.*AWS_PROFILE") as caught:
        read_file(f"{scheme}://AKIA42:SE/CR37@bucket/w", "weights", 10)
    assert "AKIA42" not in str(caught.value)
    assert "CR37" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "reference::file:///tmp/x.json",
        "reference://x",
        "jupyter://host/x",
        "simplecache::reference::x",
    ],
)
def test_storages_that_lead_elsewhere_are_refused(address: str) -> None:
    with pytest.raises(
        ModelError, match="leads to other files, or to programs elsewhere; name the file itself"
    ):
        read_file(address, "weights", 10)
    with pytest.raises(StoreError, match="leads to other files"):
        Store(address)


@pytest.mark.parametrize("name", ["reference", "dir", "generic", "s3"])
def test_a_local_file_may_have_the_name_of_a_storage(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"weights")
    assert read_file(name, "weights", 10) == b"weights"
    Path(name).unlink()
    Store(name).replace("probe", b"x")
    assert (tmp_path / name / "probe").read_bytes() == b"x"


@pytest.mark.parametrize(
    "path",
    [
        "http://host/$TOP_SECRET.pt",
        "http://${TOP_SECRET}.host/w.pt",
        "https://host/w?x=$TOP_SECRET",
        "http://u:$TOP_SECRET@host/w",
        "s3://bucket/$TOP_SECRET/w",
        "simplecache::http://host/$TOP_SECRET",
        "$A_URL/$TOP_SECRET",
        "$A_URL/w.pt",
    ],
)
def test_no_variable_is_sent_to_another_machine(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOP_SECRET", "hidden-value")
    monkeypatch.setenv("A_URL", "http://host")
    with pytest.raises(
        ModelError, match=r"would send the value of a variable to another machine.*\$WEIGHTS_URL"
    ) as caught:
        expanded(path)
    assert "hidden-value" not in str(caught.value)


def test_variables_in_local_paths_and_whole_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/some/folder")
    monkeypatch.setenv("WEIGHTS_URL", "http://me:pw@host/w?sig=a$b")
    assert expanded("$HERE/w.pt") == "/some/folder/w.pt"
    assert expanded("${HERE}/w.pt") == "/some/folder/w.pt"
    assert expanded("$WEIGHTS_URL") == "http://me:pw@host/w?sig=a$b"
    assert expanded("price$/w.pt") == "price$/w.pt"
    with pytest.raises(ModelError, match=r"\$NO_SUCH_VARIABLE is not set"):
        expanded("$NO_SUCH_VARIABLE")


def state(method: int, extra: int = 0) -> bytes:
    """Weights of the bundled network as torch saves them, packed anew, with a member of so many
    zeros.
    """
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save(load("bundled:mnist-cnn").module.state_dict(), buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        if extra:
            new.writestr("archive/data/99", bytes(extra))
    return packed.getvalue()


def test_archives_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(state(zipfile.ZIP_DEFLATED, 300_000_000))
    with pytest.raises(ModelError, match=r"unpacked it has 30.*bytes, more than"):
        load(f"bundled:mnist-cnn?weights={path}")
    path.write_bytes(state(zipfile.ZIP_STORED) + b"PK\5\6" + bytes(17) + b"\1")
    with pytest.raises(ModelError, match="something stands behind its archive"):
        load(f"bundled:mnist-cnn?weights={path}")
    path.write_bytes(state(zipfile.ZIP_STORED))
    assert load(f"bundled:mnist-cnn?weights={path}").digest == load("bundled:mnist-cnn").digest


def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for header in (
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}',
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(ModelError, match="are neither safetensors nor a state dict"):
            load(f"bundled:mnist-cnn?weights={path}")


def test_out_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(state(zipfile.ZIP_STORED))

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        load(f"bundled:mnist-cnn?weights={path}")
