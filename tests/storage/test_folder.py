"""Files written into a folder that may have come with a stranger's run: no link is followed, no
file written through.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wna_ray.errors import StoreError
from wna_ray.storage.folder import write_files


def test_files_are_written_with_their_folders_and_replace_older_ones(tmp_path: Path) -> None:
    write_files(tmp_path / "a/b", {"x": b"1", "figures/y": b"2"}, "--to")
    write_files(tmp_path / "a/b", {"x": b"3"}, "--to")
    assert (tmp_path / "a/b/x").read_bytes() == b"3"
    assert (tmp_path / "a/b/figures/y").read_bytes() == b"2"
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["figures", "x"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/soft").symlink_to(tmp_path / "precious")
    os.link(tmp_path / "precious", tmp_path / "to/hard")
    (tmp_path / "to/dangling").symlink_to(tmp_path / "made-by-a-link")
    write_files(tmp_path / "to", {"soft": b"1", "hard": b"2", "dangling": b"3"}, "--to")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "made-by-a-link").exists()
    assert [(tmp_path / "to" / name).read_bytes() for name in ("soft", "hard", "dangling")] == [
        b"1",
        b"2",
        b"3",
    ]


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_what_stands_in_the_place_of_a_folder_is_named_and_left_alone(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "to").mkdir()
    at = tmp_path / "to/figures"
    (
        at.write_text("mine")
        if kind == "file"
        else at.symlink_to(tmp_path / ("victim" if kind == "link" else "nowhere"))
    )
    with pytest.raises(
        StoreError,
        match=r"cannot write to '.*to': a symbolic link, or something else.*give another --to",
    ):
        write_files(tmp_path / "to", {"figures/maps.png": b"1"}, "--to")
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_folder_that_nobody_named_may_be_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "report-run").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="a symbolic link"):
        write_files(tmp_path / "report-run", {"x": b"1"}, "--to", chosen=False)
    assert list((tmp_path / "victim").iterdir()) == []
    write_files(tmp_path / "report-run", {"x": b"1"}, "--to")
    assert (tmp_path / "victim/x").read_bytes() == b"1"


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"x": b"old"}, "--to")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StoreError, match=r"No space left on device.*give another --to"):
        write_files(tmp_path, {"x": b"new"}, "--to")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]
