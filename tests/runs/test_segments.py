"""Segments: how sums are packed, that every damage of them is found, and what ranges they cover."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from wna_ray.errors import RunError
from wna_ray.moments.moments import Moments, Partial
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.segments import pack_moments, unpack_moments
from wna_ray.storage.arrays import pack, unpack


def partial(start: int = 0, images: int = 5) -> Partial:
    return Partial(start, start + images, Moments.identity(3, ["label"]).skip(nonfinite=images))


def test_packing_is_deterministic_and_complete() -> None:
    arrays = {"a": np.arange(4), "b/c": np.ones((2, 3))}
    data = pack({"k": 1}, arrays)
    assert data == pack({"k": 1}, {"b/c": arrays["b/c"], "a": arrays["a"]} | arrays)
    header, back = unpack(data, "here")
    assert header == {"k": 1}
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


def test_every_flipped_bit_of_a_segment_is_found() -> None:
    """One bit in every byte of the object: read back as it was (unused archive bytes), or
    refused; never other moments.
    """
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
    """Written anew by NumPy, so that the archive's own checksums are right: only the digest in
    the header can tell.
    """
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
