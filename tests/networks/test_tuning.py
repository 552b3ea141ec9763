"""Compiled networks and batches chosen by timing: what they change (numerics), and what they
must not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import prepared
from typer.testing import CliRunner

from wna_ray import run
from wna_ray.cli import app
from wna_ray.errors import ModelError, RunError, SpecError
from wna_ray.kinds.average.pilot import Pilot, pilot
from wna_ray.networks import tuning
from wna_ray.networks.tuning import CANDIDATES, Tuned, choose_batch
from wna_ray.shards import resolve as shard_resolve
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import resolve
from wna_ray.shards.shard import run_shard
from wna_ray.specs.run import Spec
from wna_ray.specs.trials import TrialSpec

MakeSpec = Callable[..., Spec]


class Machine:
    """A clock that runs on as its batches do."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds, self.now, self.asked = seconds, 0.0, list[int]()

    def prepared(self, batch: int) -> Callable[[], None]:
        self.asked.append(batch)

        def forward() -> None:
            self.now += self._seconds(batch)

        return forward

    def __call__(self) -> float:
        return self.now


# --- the batch


@pytest.mark.parametrize(
    "seconds, batch, largest",
    [
        (
            lambda n: 0.001 + 0.001 * n,
            32,
            1024,
        ),  # of each pass a fixed part: 32 images have 97 % of what 1024 have, 16 do not
        (
            lambda n: 0.01 * n,
            4,
            128,
        ),  # as fast in any batch; one of 128 takes longer than a second, so 256 are not tried
        (lambda n: 0.001 * n if n <= 64 else 0.002 * n, 4, 512),  # slower beyond a cache
        (lambda n: 3.0, 4, 4),
    ],
)
def test_the_smallest_batch_that_is_as_fast(
    seconds: Callable[[int], float], batch: int, largest: int
) -> None:
    """Rates are known to the last digit, so the choice can be worked out: the first n with n /
    seconds(n) >= 0.97 of the best.
    """
    machine = Machine(seconds)
    found = choose_batch(machine.prepared, machine)
    rates = {n: n / seconds(n) for n in CANDIDATES if n <= largest}
    assert (
        found.batch
        == batch
        == next(n for n, rate in rates.items() if rate >= 0.97 * max(rates.values()))
    )
    assert found.images_per_second == pytest.approx(rates)
    assert max(machine.asked) == largest
    assert found.seconds == pytest.approx(machine.now)


def test_a_disturbed_round_does_not_count() -> None:
    """The fastest of three rounds does: here the machine is busy for the first two thirds of
    all passes of 64 images.
    """
    passes = 0

    def seconds(n: int) -> float:
        nonlocal passes
        passes += n == 64
        return n * (0.01 if n == 64 and passes < 4 else 0.001 if n == 64 else 0.002)

    machine = Machine(seconds)
    found = choose_batch(machine.prepared, machine)
    assert found.batch == 64
    assert found.images_per_second[64] == pytest.approx(1000)


def test_what_does_not_fit_on_a_device_is_left_out() -> None:
    machine = Machine(lambda n: 0.001)

    def prepared(n: int) -> Callable[[], None]:
        if n > room:
            raise torch.cuda.OutOfMemoryError("no room")
        return machine.prepared(n)

    room = 256
    found = choose_batch(prepared, machine)
    assert (found.batch, max(found.images_per_second)) == (256, 256)
    room = 3
    with pytest.raises(torch.cuda.OutOfMemoryError):
        choose_batch(prepared, machine)


def test_a_network_that_takes_no_other_batch(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(numerics={"tune": True})
    network = load_network(spec, "cpu")

    def only_64(x: torch.Tensor) -> torch.Tensor:
        if len(x) != 64:
            raise RuntimeError("made for 64")
        return x.flatten(1)

    monkeypatch.setattr(network.module, "forward", only_64)
    told = (
        r"does not take batches of 4 images and more of \(1, 4, 4\) here \(RuntimeError: made for"
        r" 64\); give numerics.batch instead"
    )
    with pytest.raises(ModelError, match=told):
        resolve(spec, network)


def test_a_run_keeps_the_batch_that_it_chose(
    tmp_path: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of a spec that asks for this batch, byte for byte; when it goes on, nothing is
    timed, and another choice is not taken.
    """
    asked, out = make_spec(numerics={"tune": True}), str(tmp_path / "tuned")
    monkeypatch.setattr(
        shard_resolve,
        "choose_batch",
        lambda prepared: prepared(32)() or Tuned(32, {16: 1.0, 32: 2.0}, 0.5),
    )
    tuned = run(asked, out, executor="local")
    plain = run(make_spec(numerics={"batch": 32}), str(tmp_path / "plain"), executor="local")
    assert tuned.fingerprint == plain.fingerprint
    assert (tmp_path / "tuned/result/moments.npz").read_bytes() == (
        tmp_path / "plain/result/moments.npz"
    ).read_bytes()
    assert tuned.spec.numerics.batch == 32
    recorded = json.loads((tmp_path / "tuned/environment.json").read_text())
    assert recorded["tune"] == {
        "batch": 32,
        "images_per_second": {"16": 1.0, "32": 2.0},
        "seconds": 0.5,
    }
    assert (
        "tune" not in json.loads((tmp_path / "tuned/spec.json").read_text())["identity"]["numerics"]
    )

    def never(_prepared: object) -> Tuned:
        raise AssertionError("timed again")

    monkeypatch.setattr(shard_resolve, "choose_batch", never)
    assert run(asked, out, executor="local").fingerprint == tuned.fingerprint
    assert (
        run(make_spec(numerics={"batch": 32}), out, executor="local").fingerprint
        == tuned.fingerprint
    )
    with pytest.raises(RunError, match=r"numerics\.batch: 32 -> 64"):
        run(make_spec(), out, executor="local")


def test_a_batch_is_really_chosen(make_spec: MakeSpec) -> None:
    spec = make_spec(numerics={"tune": True})
    resolved = resolve(spec, load_network(spec, "cpu"))
    job, network, tuned = resolved.job, resolved.network, resolved.tuned
    assert tuned is not None
    assert job.spec.numerics.batch == network.batch == tuned.batch
    assert tuned.batch in CANDIDATES
    assert not job.spec.numerics.tune
    moments, _ = run_shard(job, network, 0, 1000)
    assert moments.seen == 1000


def test_gradients_are_not_timed(make_spec: MakeSpec) -> None:
    with pytest.raises(
        SpecError,
        match=r"numerics.tune: times forward passes, but estimator: gradient goes backward, too",
    ):
        make_spec(estimator="gradient", responses=["logits"], numerics={"tune": True})


def test_an_exported_program_has_its_batch_built_in(make_spec: MakeSpec) -> None:
    with pytest.raises(
        SpecError, match=r"numerics.tune: a program saved by torch.export has its batch built in"
    ):
        make_spec(model="export:some.pt2", numerics={"tune": True})


@pytest.mark.usefixtures("ray_cluster")
def test_workers_take_the_batch_that_the_first_one_chose(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    """All of them, or their first answers would not be the ones on record."""
    found = run(
        make_spec(numerics={"tune": True, "batch": 37}, samples=20_000),
        str(tmp_path / "run"),
        workers=2,
    )
    batch = found.spec.numerics.batch
    assert batch in CANDIDATES, "none of which is 37"
    again = run(
        make_spec(numerics={"batch": batch}, samples=20_000),
        str(tmp_path / "again"),
        executor="local",
    )
    assert again.fingerprint == found.fingerprint
    assert (tmp_path / "run/result/moments.npz").read_bytes() == (
        tmp_path / "again/result/moments.npz"
    ).read_bytes()


# --- compiling


def test_a_compiled_network(make_spec: MakeSpec) -> None:
    """The same function as the plain one to float32's rounding, once compiled; part of the
    fingerprint; moments of both agree as far.
    """
    changes = {"model": "python:networks_for_tests:smooth", "responses": ["logits"]}
    job, network = prepared(make_spec(**changes))
    other, compiled = prepared(make_spec(**changes, numerics={"batch": 64, "compile": "default"}))
    x = job.stimulus.images(job.stimulus.noise.grid(0, 50))
    plain, found = network(x), compiled(x)
    assert found.shape == plain.shape
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())
    again = compiled(x)
    assert np.array_equal(again, found)
    assert "compile" not in job.identity["numerics"]
    assert other.identity["numerics"] == job.identity["numerics"] | {"compile": "default"}
    assert other.fingerprint != job.fingerprint
    one, two = (run_shard(j, n, 0, 640)[0] for j, n in ((job, network), (other, compiled)))
    sums, others = one.responses["logits"].sum_yx, two.responses["logits"].sum_yx
    assert (
        np.abs(sums - others).max() <= 1e-5 * np.abs(sums).max() + 640 * 128
    )  # half a step of the fixed point an image, times 128


def test_a_network_that_cannot_be_compiled(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: object, **how: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler\nand more")

        return call

    monkeypatch.setattr(tuning.torch, "compile", broken)
    told = (
        r"numerics.compile: torch.compile fails on python:networks_for_tests:linear here"
        r" \(RuntimeError: no C\+\+ compiler\); .* leave"
    )
    with pytest.raises(ModelError, match=told):
        prepared(make_spec(numerics={"compile": "default"}))


@pytest.mark.parametrize(
    "changes, told",
    [
        (
            {
                "model": "python:networks_for_tests:layered",
                "responses": ["activation"],
                "target": {"layer": "maps"},
            },
            "target looks inside",
        ),
        ({"estimator": "gradient", "responses": ["logits"]}, "estimator: gradient looks inside"),
    ],
)
def test_what_looks_inside_is_not_compiled(
    changes: dict[str, Any], told: str, make_spec: MakeSpec
) -> None:
    with pytest.raises(SpecError, match=rf"numerics.compile: .* but {told}; leave one out"):
        make_spec(**changes, numerics={"compile": "default"})


def test_layers_are_not_compiled(make_spec: MakeSpec) -> None:
    with pytest.raises(
        ModelError, match=r"numerics.compile: .* layer= looks inside; leave one out"
    ):
        load_network(
            make_spec(
                model="bundled:mnist-cnn?layer=conv1",
                numerics={"compile": "default"},
                stimulus={"shape": [1, 28, 28]},
            ),
            "cpu",
        )


@pytest.mark.parametrize("which", [{"compile": "default"}, {"tune": True}])
def test_trials_are_neither_compiled_nor_tuned(which: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"numerics.{next(iter(which))}: is for runs"):
        TrialSpec.parse(
            {"model": "bundled:mnist-cnn", "signals": {"dataset": "mnist"}, "numerics": which}
        )


# --- what the plan says


def test_when_compiling_pays(make_spec: MakeSpec) -> None:
    """30 s more at the start, 2 ms an image instead of 3: after 30,000 images; never where it
    is slower; at once where it took nothing.
    """
    found = pilot(make_spec(), 64, 1)

    def like(rate: float, start: float) -> Pilot:
        return Pilot(found.introduction, found.plan, found.images, rate, start, found.readouts)

    plain = like(1000 / 3, 4.0)
    assert like(500.0, 34.0).pays_after(plain) == pytest.approx(30_000)
    assert like(300.0, 34.0).pays_after(plain) == math.inf
    assert like(500.0, 3.0).pays_after(plain) == 0


def test_the_plan_tells_both(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = tmp_path / "spec.yaml"
    asked = make_spec(
        model="python:networks_for_tests:smooth",
        responses=["logits"],
        numerics={"compile": "default", "tune": True},
    )
    spec.write_text(json.dumps(asked.model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(app, ["plan", str(spec), "--pilot", "2000"])
    assert done.exit_code == 0, done.output
    batch = next(line for line in done.output.splitlines() if line.startswith("batch "))
    assert all(f" {n} " in batch for n in CANDIDATES[:4])
    told = next(line for line in done.output.splitlines() if line.startswith("compile "))
    assert "images/s instead of" in told
    assert "it pays for runs of more than" in told or "it does not pay here" in told
