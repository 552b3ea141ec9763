"""What a worker refuses to do, and what it sets for its process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.backends import cudnn

from wna_ray.errors import NumericsError
from wna_ray.execution import worker as worker_module
from wna_ray.execution.process import Settings, set_up_process
from wna_ray.execution.worker import Worker
from wna_ray.kinds.average.work import NoiseWork
from wna_ray.specs.run import Spec


def test_a_worker_with_other_arithmetic_computes_nothing(make_spec: Callable[..., Spec]) -> None:
    """A fresh worker checks the canary of the run before its first shard, and before it answers
    to maps.
    """
    _, introduction = Worker(make_spec(), "cpu").introduce()
    stranger = replace(introduction.job, canary="0" * 64)
    worker = Worker(make_spec(), "cpu")
    with pytest.raises(NumericsError, match="other bits than the run has on record"):
        worker.shard(NoiseWork(stranger), 0, 64)
    with pytest.raises(NumericsError, match="other bits than the run has on record"):
        worker.answer(NoiseWork(stranger), np.zeros((1, 1, 4, 4), np.float32))
    partial, seconds = worker.shard(NoiseWork(introduction.job), 0, 64)
    assert partial.moments.images == 64
    assert set(seconds) == {"noise", "forward", "responses", "moments"}


def test_more_maps_than_a_batch_are_answered(make_spec: Callable[..., Spec]) -> None:
    worker = Worker(make_spec(), "cpu")
    _, introduction = worker.introduce()
    images = np.random.default_rng(0).standard_normal((150, 1, 4, 4)).astype(np.float32)
    work = NoiseWork(introduction.job)
    _, outputs = worker.answer(work, images)
    one_by_one = np.concatenate([worker.answer(work, image[None])[1] for image in images])
    assert np.array_equal(outputs, one_by_one)


def test_what_a_worker_sets_for_its_process() -> None:
    """Threads everywhere; on CUDA kernels that repeat themselves, and all bits of float32."""
    threads, before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    try:
        with cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            torch.backends.cuda.matmul.allow_tf32 = True
            set_up_process("cpu", threads + 1)
            assert torch.get_num_threads() == threads + 1
            assert cudnn.benchmark
            assert cudnn.allow_tf32
            set_up_process("cuda", threads)
            assert torch.get_num_threads() == threads
            assert cudnn.deterministic
            assert not cudnn.benchmark
            assert not cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = before


def test_what_was_set_is_put_back() -> None:
    """Whatever the flags were: each is the other way round once."""
    matmul, threads = torch.backends.cuda.matmul, torch.get_num_threads()
    own = Settings.of("cuda")
    try:
        for flag in (True, False):
            cudnn.benchmark = cudnn.deterministic = flag
            cudnn.allow_tf32 = matmul.allow_tf32 = not flag
            before = Settings.of("cuda")
            set_up_process("cuda", threads + 1)
            before.restore()
            assert torch.get_num_threads() == threads
            assert cudnn.benchmark == cudnn.deterministic == flag
            assert cudnn.allow_tf32 == matmul.allow_tf32 == (not flag)
    finally:
        own.restore()


def test_a_worker_sets_up_its_process_when_it_starts(
    make_spec: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, whatever it does then."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(worker_module, "set_up_process", lambda *given: calls.append(given))
    worker = Worker(make_spec(numerics={"batch": 64, "threads": 2}), "cpu")
    assert calls == [("cpu", 2)]
    work = NoiseWork(worker.introduce()[1].job)
    worker.shard(work, 0, 64)
    assert len(calls) == 1


def test_memory_of_a_worker_is_flat() -> None:
    """Over 200 shards, in a process of its own: what is resident grows by less than a third of what
    180 of their moments would take.

    The allocator takes steps of up to 3 MB when it pleases; moments that are kept by mistake would
    be 24 MB.
    """
    code = """
import torch
from prepared import prepared
from pathlib import Path
from wna_ray.specs.run import Spec
from wna_ray.execution.worker import Worker
from wna_ray.kinds.average.work import NoiseWork

torch.set_num_threads(1)
spec = Spec.parse({
    "model": "python:networks_for_tests:slow",
    "stimulus": {"kind": "gaussian", "shape": [1, 28, 28], "space": "input", "scale": 1.0},
    "responses": ["label", "logits"],
    "samples": 200 * 256,
    "keep_responses": True,
    "evaluation": "none",
})
worker = Worker(spec, "cpu")
work = NoiseWork(worker.introduce()[1].job)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

for i in range(200):
    partial, _ = worker.shard(work, i * 256, (i + 1) * 256)
    if i == 19:
        before = resident()
size = sum(array.nbytes for array in partial.moments.arrays().values())
print(resident() - before, size)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    grown, size = map(int, done.stdout.split())
    assert size > 100_000
    assert grown < 180 * size / 3
