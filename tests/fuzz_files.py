"""Files that specs name, made to do harm: offsets, weights, programs, trained networks, specs.

A name is all that decides a file. ``broken-17-net.pt2`` is an honest ``net.pt2`` with one random
change.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import fuzz_mutations as mutations
import networks_for_tests
import numpy as np
import safetensors.torch
import torch
from crafted_runs import PICKLED, Bomb, header, members, npy, sparse, zipped

from wna_ray.training.job import train
from wna_ray.training.spec import TrainSpec

SHAPE = (1, 4, 4)
HUGE = 100 << 30  # bytes, of zeros that take no place
BOMB = 3 << 30  # bytes, of zeros that are packed a thousandfold
F4 = "'<f4'"
TRAINED: dict[str, Any] = {"network": "logistic", "dataset": "mnist", "epochs": 1, "images": 5}
TRAINED |= {"validation": 10, "batch": 16}


def _save(**options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.full(SHAPE, **options), allow_pickle=True)

    return make


def _bytes(data: bytes, size: int = 0) -> Callable[[Path], None]:
    """A file with these bytes, and zeros up to a size."""

    def make(path: Path) -> None:
        path.write_bytes(data)
        if size:
            os.truncate(path, size)

    return make


def _bomb(member: str) -> Callable[[Path], None]:
    """An archive of gigabytes of zeros in one packed member."""

    def make(path: Path) -> None:
        block, press = bytes(1 << 24), zlib.compressobj(9, zlib.DEFLATED, -15)
        part, crc = press.compress(block) + press.flush(zlib.Z_FULL_FLUSH), 0
        for _ in range(BOMB >> 24):
            crc = zlib.crc32(block, crc)
        data = part * (BOMB >> 24) + press.flush()
        name = member.encode()
        said = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, crc, len(data), BOMB, len(name), 0)
        central = b"PK\1\2" + struct.pack("<H", 20) + said + bytes(14) + name
        start = 30 + len(name) + len(data)
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), start, 0)
        path.write_bytes(b"PK\3\4" + said + name + data + central + end)

    return make


def _tensors(head: Any, rest: bytes = b"") -> bytes:
    """A safetensors file with such a header."""
    text = head if isinstance(head, bytes) else mutations.dumps(head)
    return struct.pack("<Q", len(text)) + text + rest


def _state() -> dict[str, torch.Tensor]:
    """Honest weights."""
    return networks_for_tests.layered().state_dict()


def _columns(path: Path) -> None:
    """An honest offset, its columns one after the other."""
    np.save(path, np.asfortranarray(np.arange(16, dtype="f4").reshape(SHAPE)))


def _pickled_weights(path: Path) -> None:
    """Weights in torch's format that import something."""
    torch.save({"maps.weight": Bomb()}, path)


def _folder(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        path.mkdir()
        make(path / name)

    return made


def _export(path: Path) -> None:
    program = torch.export.export(networks_for_tests.layered().eval(), (torch.zeros(50, *SHAPE),))
    torch.export.save(program, path)


def _trained(path: Path) -> None:
    """A folder as ``wna train`` writes it."""
    out = path.with_suffix(".out")
    train(TrainSpec.parse(TRAINED), str(out), executor="local")
    (out / "seed-0").rename(path)
    shutil.rmtree(out)


LIE = {"maps.bias": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
NESTED = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
FILES: dict[str, Callable[[Path], Any]] = {
    "offset.npy": _save(fill_value=0.5, dtype="f4"),
    "weights.safetensors": lambda path: safetensors.torch.save_file(_state(), path),
    "weights.pt": lambda path: torch.save(_state(), path),
    "net.pt2": _export,
    "trained": _trained,
    "pipe": os.mkfifo,
    "folder.npy": Path.mkdir,
    "nowhere.npy": lambda path: path.symlink_to("nowhere"),
    "itself.npy": lambda path: path.symlink_to(path),
    "empty.npy": _bytes(b""),
    "objects.npy": _save(fill_value={"a": 1}, dtype=object),
    "pickle.npy": _bytes(PICKLED),
    "whole-pickle.npy": _bytes(pickle.dumps(Bomb())),
    "nan.npy": _save(fill_value=np.nan, dtype="f4"),
    "infinite.npy": _save(fill_value=np.inf, dtype="f8"),
    "other-end.npy": _save(fill_value=0.5, dtype=">f4"),
    "complex.npy": _save(fill_value=0.5, dtype="c8"),
    "text.npy": _save(fill_value="a"),
    "columns.npy": _columns,
    "huge.npy": _save(fill_value=1e38, dtype="f4"),
    "beyond.npy": _save(fill_value=1e300, dtype="f8"),
    "whole.npy": _save(fill_value=2**62, dtype="i8"),
    "true.npy": _save(fill_value=True),
    "times.npy": _save(fill_value=np.datetime64("2026-01-01"), dtype="M8[s]"),
    "sparse.npy": _bytes(header(F4, str(SHAPE)), HUGE),
    "said.npy": _bytes(header(F4, "(100000, 1000000)", b"x" * 100)),
    "said-sparse.npy": _bytes(header(F4, "(100000, 250000)"), HUGE),
    "no-values.npy": _bytes(header(F4, f"({10**18}, 0)")),
    "deep.npy": _bytes(header("(" * 400, "(1,)")),
    "code.npy": _bytes(npy(b"__import__('trap_for_tests')")),
    "bomb.npy": _bomb("a.npy"),
    "sparse.safetensors": _bytes(struct.pack("<Q", 1 << 40), HUGE),
    "sparse-header.safetensors": _bytes(struct.pack("<Q", 90 << 30), HUGE),
    "lie.safetensors": _bytes(_tensors(LIE)),
    "deep.safetensors": _bytes(_tensors(NESTED)),
    "sparse.pt": _bytes(b"PK\3\4", HUGE),
    "bomb.pt": _bomb("archive/data.pkl"),
    "pickle.pt": _pickled_weights,
    "whole-pickle.pt": _bytes(pickle.dumps(Bomb())),
    "bomb.pt2": _bomb("net/models/model.json"),
    "deep.pt2": _bytes(zipped([("net/models/model.json", b"[" * 300_000)])),
    "sparse.pt2": _bytes(b"PK\3\4", HUGE),
    "trained-pipe": _folder("network.json", os.mkfifo),
    "trained-sparse": _folder("network.json", lambda path: sparse(path)),
    "trained-deep": _folder("network.json", _bytes(NESTED)),
    "trained-zero": _folder("network.json", lambda path: path.symlink_to("/dev/zero")),
    "zero.yaml": lambda path: path.symlink_to("/dev/zero"),
    "sparse.yaml": _bytes(b"model: x\n", HUGE),
    "folder.yaml": Path.mkdir,
}


def make(name: str, folder: Path) -> Path:
    """The file of a name, in a folder where all of them are; made where it is not there yet."""
    path = folder / name
    if not path.exists() and not path.is_symlink():
        if name.startswith("broken-"):
            _, number, original = name.split("-", 2)
            broken(Random(number), make(original, folder), path)
        else:
            FILES[name](path)
    return path


def broken(rng: Random, honest: Path, path: Path) -> None:
    """A copy of an honest file, or of a folder of such, with one random change."""
    if honest.is_dir():
        shutil.copytree(honest, path)
        part = rng.choice(sorted(p for p in honest.iterdir() if p.suffix in CHANGES))
        (path / part.name).unlink()
        broken(rng, part, path / part.name)
        return
    data, change = honest.read_bytes(), CHANGES.get(honest.suffix)
    if change is None or rng.random() < 0.3:
        path.write_bytes(mutations.flipped(rng, data))
    else:
        path.write_bytes(change(rng, data, honest))


def _json(rng: Random, data: bytes, _: Path) -> bytes:
    value = json.loads(data)
    mutations.change(rng, value)
    return mutations.dumps(value)


def _array(rng: Random, data: bytes, _: Path) -> bytes:
    return mutations.array(rng, data)[0]


def _safetensors(rng: Random, data: bytes, path: Path) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    return _tensors(_json(rng, data[8 : 8 + length], path), data[8 + length :])


def _zip(rng: Random, _: bytes, path: Path) -> bytes:
    """One member changed, all others as they are; each stored, its sum forged."""
    found = members(path)
    told = [name for name in sorted(found) if name.endswith(("json", "pkl"))]
    name = rng.choice(told if rng.random() < 0.7 else sorted(found))
    change = _json if name.endswith("json") else lambda rng, data, _: mutations.flipped(rng, data)
    return zipped(list((found | {name: change(rng, found[name], path)}).items()))


CHANGES: dict[str, Callable[[Random, bytes, Path], bytes]] = {
    ".json": _json,
    ".npy": _array,
    ".safetensors": _safetensors,
    ".pt": _zip,
    ".pt2": _zip,
}
