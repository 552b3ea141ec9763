"""Noise made on a device: plain torch, and the Triton kernel under its interpreter, against the
golden file, Python integers and NumPy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import philox
import pytest
import torch
from places import GOLDEN_FOLDER, TESTS

from wna_ray import run
from wna_ray.cuda import noise as device_noise
from wna_ray.cuda.noise import blocks, by_torch, grid
from wna_ray.noise.stream import KINDS, Kind, Noise
from wna_ray.specs.run import Spec
from wna_ray.stimuli.pictures import Source
from wna_ray.stimuli.stimulus import make_stimulus

GOLDEN = json.loads((GOLDEN_FOLDER / "noise.json").read_text())
DENSITY: dict[str, float | None] = {
    "gaussian": None,
    "uniform": None,
    "binary": None,
    "sparse": 0.1,
}
CASES: list[tuple[Kind, tuple[int, int, int], int, int, int]] = [
    *(
        (kind, (1, 3, 7), GOLDEN["values"][kind]["seed"], GOLDEN["values"][kind]["index"], 1)
        for kind in KINDS
    ),
    ("gaussian", (1, 28, 28), 1, 0, 9),  # more blocks than a program has threads
    ("uniform", (3, 5, 7), (1 << 64) - 1, 1 << 40, 4),
    ("sparse", (1, 3, 3), 1 << 63, 3, 40),
    ("binary", (2, 16, 16), 0, (1 << 48) - 2, 2),
    ("gaussian", (1, 4, 4), 5, 7, 0),
]
GREY = {"mean": [0.4], "std": [0.3]}
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

INTERPRETED = """
import json, sys
import numpy as np
from wna_ray.cuda.noise import by_kernel
from wna_ray.noise.stream import Noise

for kind, shape, seed, start, images, density in json.loads(sys.argv[1]):
    made = by_kernel(Noise(kind, tuple(shape), seed, density), start, start + images, "cpu")
    assert made.shape == (images, *shape), made.shape
    print(json.dumps(made.reshape(-1).tolist()))
"""

FED = """
import json, sys
import torch
from prepared import prepared
from wna_ray.cuda import moments as device_moments
from wna_ray.cuda import noise as device_noise
from wna_ray.shards import shard
from wna_ray.shards.feed import Feed
from wna_ray.cuda.noise import by_kernel
from wna_ray.specs.run import Spec

changes = json.loads(sys.argv[1])
job, network = prepared(Spec.parse(changes))
plain, _ = shard.run_shard(job, network, 0, job.spec.samples)
grid = job.stimulus.noise.grid(5, 5 + job.spec.numerics.batch)
expected = network.feed.ready(job.stimulus.images(grid))
found = device_noise.fed(torch.from_numpy(grid), network.feed.levels(job.stimulus), job.stimulus)
assert found.dtype == expected.dtype == getattr(torch, job.spec.numerics.dtype)
assert found.shape == expected.shape
assert found.stride() == expected.stride(), (found.stride(), expected.stride())
assert torch.equal(found, expected) and found.float().std() > 0
made = []


def counted(source, a, b, device):
    made.append(b - a)
    return by_kernel(source, a, b, device)


device_noise.grid = counted
shard.stays_on_device = lambda job, device: True
Feed.looks_up = lambda self, stimulus: True
device_moments.multiplies = lambda device: True
again, _ = shard.run_shard(job, network, 0, job.spec.samples)
assert sum(made) >= job.spec.samples
one, other = plain.arrays(), again.arrays()
assert set(one) == set(other) and all((one[name] == other[name]).all() for name in one)
print(int(one["counts"][0]))
"""

COMPILED = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from wna_ray.cuda.kernels import FEW
from wna_ray.cuda.kernels import PRODUCT
from wna_ray.cuda.kernels import SHOWN_IMAGES
from wna_ray.cuda.kernels import SHOWN_VALUES
from wna_ray.cuda.kernels import add_product
from wna_ray.cuda.kernels import look_up
from wna_ray.cuda.kernels import philox_grid

BY_16 = [["tt.divisibility", 16]]
target = GPUTarget("cuda", int(sys.argv[1]), 32)


def specialized(kernel, name):  # whether Triton may know that 16 divides a number
    return name not in kernel.do_not_specialize


kinds = {"out": "*i8", "values": "*i8", "seed": "i64", "first": "i64"}
kinds |= {"images": "i32", "per_image": "i32", "BLOCK": "constexpr"}
source = ASTSource(philox_grid, kinds, {"BLOCK": 128}, {(i,): BY_16 for i in (0, 1, 4)})

made = triton.compile(source, target=target)
sizes = ("images", "each", "value_step", "channels", "rows", "columns", "width", "cell")
given = {"out": "*bf16", "grid": "*i8", "levels": "*bf16", "step": "constexpr"}
given |= dict.fromkeys(sizes, "i32")
tiles = {"step": 1, "VALUES": SHOWN_VALUES, "IMAGES": SHOWN_IMAGES}
kinds = {name: given.get(name, "constexpr") for name in look_up.arg_names}
whole = ("out", "grid", "levels", "images", "each", "value_step")
aligned = {
    (i,): BY_16 for i, name in enumerate(kinds) if name in whole and specialized(look_up, name)
}
looks = triton.compile(ASTSource(look_up, kinds, tiles, aligned), target=target)
for access in ("ld.global.v4.b32", "st.global.v4.b32"):
    assert access in looks.asm["ptx"], "16 bytes at a time"
sizes, memory = ("rows", "values", "images", "width"), []
for scale, whole in (("i32", True), ("i64", False)):
    kinds = {"sums": "*i64", "slots": "*i64", "left": "*i8", "right": "*i8"}
    kinds |= {**dict.fromkeys(sizes, "i32"), "scale": scale}
    aligned = {(i,): BY_16 for i, name in enumerate(kinds) if specialized(add_product, name)}
    for options in (PRODUCT, FEW):
        tiles = {name: size for name, size in options.items() if name.isupper()} | {"WHOLE": whole}
        source = ASTSource(add_product, kinds | dict.fromkeys(tiles, "constexpr"), tiles, aligned)
        options = {name: size for name, size in options.items() if name not in tiles}
        multiplies = triton.compile(source, target=target, options=options)
        assert ".s32.s8.s8" in multiplies.asm["ptx"], "tensor cores"
        for access in ("ld.global.v2.b64", "st.global.v2.b64"):
            assert access in multiplies.asm["ptx"], "16 bytes at a time"
        memory.append(multiplies.metadata.shared)
print(max(memory))
code = made.asm["ptx"]
print(len(made.asm["cubin"]), code.count("st.global.v4.b32"), code.count("mul.hi.u64") > 0)
"""


def script(text: str, *args: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text, *args],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "seed, first",
    [
        (0, 1),
        (1, 1),
        ((1 << 64) - 1, (1 << 63) - 3),
        (12345678901234567, 1 << 40),
        (1 << 63, (1 << 64) - 7),
    ],
)
def test_blocks_are_philox(seed: int, first: int) -> None:
    """Words by int64 arithmetic that wraps, against Python's integers; at the ends of the
    range, too.
    """
    found = blocks(seed, first, 7, "cpu")
    assert [[int(word) % (1 << 64) for word in block] for block in found] == [
        philox.block((seed, 0), first + i) for i in range(7)
    ]


@pytest.mark.parametrize(
    "case", GOLDEN["words"], ids=lambda c: f"seed{c['seed']}-image{c['index']}"
)
def test_words_are_golden(case: dict[str, Any]) -> None:
    per_image = -(-len(case["words"]) // 16)
    words = (
        blocks(case["seed"], case["index"] * per_image + 1, per_image, "cpu").reshape(-1).tolist()
    )
    assert [(word >> 16 * m) & 0xFFFF for word in words for m in range(4)][
        : len(case["words"])
    ] == case["words"]


def test_plain_torch_makes_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NumPy does; the cut into chunks changes nothing."""
    for chunk in (1 << 18, 60):
        monkeypatch.setattr(device_noise, "CHUNK_BLOCKS", chunk)
        for kind, shape, seed, start, images in CASES:
            noise = Noise(kind, shape, seed, DENSITY[kind])
            assert np.array_equal(
                by_torch(noise, start, start + images, "cpu").numpy(),
                noise.grid(start, start + images),
            )


@needs_triton
def test_the_kernel_makes_the_stream() -> None:
    cases = [(*case, DENSITY[case[0]]) for case in CASES]
    lines = script(INTERPRETED, json.dumps(cases), TRITON_INTERPRET="1").splitlines()
    assert len(lines) == len(CASES)
    for line, (kind, shape, seed, start, images) in zip(lines, CASES, strict=True):
        assert (
            json.loads(line)
            == Noise(kind, shape, seed, DENSITY[kind])
            .grid(start, start + images)
            .reshape(-1)
            .tolist()
        )
    for line, kind in zip(lines, KINDS, strict=False):
        assert json.loads(line) == GOLDEN["values"][kind]["values"]


@needs_triton
@pytest.mark.parametrize(
    "changes",
    [
        {"numerics": {"batch": 8}},
        {"numerics": {"batch": 8, "dtype": "bfloat16"}},
        {"numerics": {"batch": 8, "dtype": "float16"}, "stimulus": {"cell": 3}},
        {
            "numerics": {"batch": 8},
            "stimulus": {"shape": [1, 4, 4]},
            "model": "python:networks_for_tests:linear",
            "normalise": GREY,
        },
    ],
    ids=["float32", "bfloat16", "float16-cells", "one-channel"],
)
def test_a_shard_by_kernels_alone(changes: dict[str, Any]) -> None:
    """What the network is fed, bit for bit and in the same memory format; then the moments of a
    shard whose noise, images and sums are made as on a CUDA device: those of the plain way.
    """
    stimulus = {
        "kind": "gaussian",
        "shape": [3, 11, 7],
        "offset": 0.45,
        "scale": 0.2,
    } | changes.get("stimulus", {})
    spec = {
        "model": "python:networks_for_tests:coloured",
        "normalise": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "responses": ["label", "logits"],
        "samples": 100,
        "evaluation": "none",
    }
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    asked = spec | changes | {"stimulus": stimulus}
    assert script(FED, json.dumps(asked), TRITON_INTERPRET="1", PYTHONPATH=path).split() == ["100"]


@needs_triton
@pytest.mark.parametrize("capability, memory", [("80", 163), ("86", 99), ("90", 227)])
def test_the_kernels_compile_for_real_devices(capability: str, memory: int) -> None:
    """For an A100, an A10 and an H100, without one: machine code, 16 bytes a store, whole 64-bit
    products; products of 8-bit numbers by tensor cores, with as much shared memory (kB) as a block
    can have there (CUDA C++ Programming Guide, "Compute Capabilities").
    """
    shared, size, stores, products = script(COMPILED, capability, TRITON_INTERPRET="0").split()
    assert 0 < int(shared) <= memory * 1024
    assert int(size) > 0
    assert int(stores) > 0
    assert products == "True"


@pytest.mark.parametrize("make", [by_torch, device_noise.by_kernel])
def test_counters_beyond_64_bits_are_refused(make: Any) -> None:
    if make is device_noise.by_kernel:
        pytest.importorskip("triton")
    with pytest.raises(ValueError, match="do not fit in 64 bits; take fewer or smaller images"):
        make(Noise("binary", (3, 1 << 10, 1 << 10), 0), (1 << 48) - 1, 1 << 48, "cpu")


def test_a_run_on_a_device_that_makes_its_own_noise(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same moments and images, wherever the noise was made (plain torch here, as on a CUDA
    device without Triton).
    """
    spec: Spec = make_spec(samples=3000, stimulus={"kind": "gaussian", "cell": 2})
    plain = run(spec, str(tmp_path / "plain"), executor="local")
    made: list[int] = []

    def here(source: Source, start: int, stop: int, device: torch.device) -> torch.Tensor:
        assert isinstance(source, Noise)
        made.append(stop - start)
        return by_torch(source, start, stop, device)

    monkeypatch.setattr(device_noise, "grid", here)
    other = run(spec, str(tmp_path / "other"), executor="local")
    assert sum(made) >= 3000
    for name, array in plain.moments.arrays().items():
        assert np.array_equal(array, other.moments.arrays()[name]), name
    assert np.array_equal(plain.bias_maps, other.bias_maps)


def test_noise_for_the_cpu_is_made_by_numpy(make_spec: Any) -> None:
    spec: Spec = make_spec()
    stimulus = make_stimulus(spec.stimulus, spec.seed, np.zeros((1, 1, 1), np.float32))
    assert np.array_equal(grid(stimulus.noise, 3, 9, "cpu").numpy(), stimulus.noise.grid(3, 9))
    images = stimulus.images(stimulus.noise.grid(3, 9))
    assert torch.equal(stimulus.images(grid(stimulus.noise, 3, 9, "cpu")), images)
