"""Trials against a naive loop; cut in any way; refused with the reason."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks_for_tests
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from wna_ray.canonical import canonical, sha256
from wna_ray.data.datasets import Split
from wna_ray.errors import RunError, SpecError
from wna_ray.execution.drive import make_executor
from wna_ray.execution.executor import call
from wna_ray.kinds.trials import job as trial_run
from wna_ray.kinds.trials.conditions import Condition, conditions
from wna_ray.kinds.trials.job import TrialQuestion, resolve_trials, run_trials
from wna_ray.kinds.trials.result import Trials, open_trials, summary
from wna_ray.kinds.trials.shard import TrialJob
from wna_ray.kinds.trials.shard import run_trials as shard
from wna_ray.runs.directory import RunDirectory
from wna_ray.shards.fed_network import FedNetwork
from wna_ray.shards.loading import load_network
from wna_ray.specs.parse import read_spec
from wna_ray.specs.trials import TrialSpec

NOISE = {"kind": "gaussian", "shape": [1, 4, 4], "offset": 0.5, "scale": 0.5}


def spec(**changes: Any) -> TrialSpec:
    base: dict[str, Any] = {
        "model": "python:networks_for_tests:layered",
        "normalise": {"mean": [0], "std": [1]},
        "signals": {"dataset": "mnist"},
        "noise": NOISE,
        "gammas": [0, 0.5, 1],
        "repeats": 30,
        "seed": 3,
        "numerics": {"batch": 32},
        "execution": {"shard": 64, "segments": 4},
    }
    return TrialSpec.parse(base | changes)


def split(n: int, seed: int) -> Split:
    """`n` images of three classes: 8-bit pixels."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (n, 1, 4, 4)).astype(np.float32) / np.float32(255)
    return Split(pixels, np.arange(n) % 3)


@pytest.fixture(autouse=True)
def small_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten test images and 30 training images of three classes, instead of MNIST."""
    monkeypatch.setattr(
        trial_run, "load", lambda name, train, download: split(30, 1) if train else split(10, 2)
    )
    return


def resolved(asked: TrialSpec) -> tuple[TrialJob, FedNetwork]:
    question = TrialQuestion.of(asked)
    executor = make_executor(question.held, "local")
    introduction = call(executor, 1, "introduce")
    job = resolve_trials(
        question, introduction.job, lambda *args: call(executor, 1, "activity", *args)
    )
    return job, load_network(question.held, "cpu")


def expected(job: TrialJob, images: torch.Tensor) -> NDArray[np.int64]:
    """Labels of the plain network."""
    return networks_for_tests.layered().eval()(images).argmax(dim=1).numpy()


def test_counts_and_sums_against_a_naive_loop() -> None:
    job, network = resolved(spec(moments=True))
    sums, _ = shard(job, network, 0, 300)
    answers, noise = np.zeros((3, 3, 3), np.int64), np.zeros((3, 3, 3, 16), np.int64)
    by_signal = np.zeros((3, 10, 3), np.int64)
    data = split(10, 2)
    for i in range(300):
        grid = job.job.stimulus.noise.grid(i, i + 1)
        for g, gamma in enumerate((0.0, 0.5, 1.0)):
            stimulus = (1 - gamma) * job.job.stimulus.images(grid) + gamma * torch.from_numpy(
                data.images[i % 10]
            )
            label, s = expected(job, stimulus)[0], data.labels[i % 10]
            answers[g, s, label] += 1
            noise[g, s, label] += grid.reshape(16)
            by_signal[g, i % 10, label] += 1
    assert sums.images == 300
    for name, value in (("answers", answers), ("noise", noise), ("by_signal", by_signal)):
        np.testing.assert_array_equal(sums.sums[name], value)


def test_any_cut_gives_the_same_sums() -> None:
    job, network = resolved(spec(moments=True))
    whole, _ = shard(job, network, 0, 290)
    parts = [shard(job, network, a, b)[0] for a, b in ((0, 32), (32, 224), (224, 290))]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert all(np.array_equal(whole.sums[name], merged.sums[name]) for name in whole.sums)


def test_every_condition_is_what_it_says() -> None:
    """Attack and microstimulation together, condition by condition, by hand: templates,
    profiles and hooks are tested elsewhere.
    """
    asked = spec(
        attack={"by": ["mean", "random"], "form": "linf", "weights": [0, 0.2], "targets": [1, 2]},
        stimulate={"layers": "hidden", "strengths": [0, 1], "classes": ["2"]},
        transforms=["none", "rotate-180"],
        gammas=[1, 0.5],
    )
    job, network = resolved(asked)
    sums, _ = shard(job, network, 0, 40)
    grid = job.job.stimulus.noise.grid(0, 40)
    signals = torch.from_numpy(split(10, 2).images[np.arange(40) % 10])
    noise, net = job.job.stimulus.images(grid), networks_for_tests.layered().eval()
    order = itertools.product(
        (1, 0.5), ("none", "rotate-180"), ("mean", "random"), (1, 2), (0, 0.2), (0, 1)
    )
    for (gamma, transform, source, target, weight, strength), c, counts in zip(
        order, job.conditions, sums.sums["answers"], strict=True
    ):
        assert c == Condition(
            gamma, transform, source, target, weight, "hidden", "class-mean", 2, strength
        )  # type: ignore[arg-type]
        x = (1 - gamma) * noise + gamma * (signals if transform == "none" else signals.flip(2, 3))
        x = (
            x
            if weight == 0
            else (x + weight * torch.from_numpy(job.templates[source][target])).clamp(0, 1)
        )
        hidden = (
            net[:4](x)
            + strength * torch.from_numpy(job.profiles["hidden", "class-mean", 2]).float()
        )
        labels = net.logits(hidden).argmax(dim=1).numpy()
        table = np.zeros((3, 3), np.int64)
        np.add.at(table, (split(10, 2).labels[np.arange(40) % 10], labels), 1)
        np.testing.assert_array_equal(counts, table)


def test_white_box_attacks_aim_where_they_say() -> None:
    """Small steps along the gradient raise the target's share, and untargeted ones lower that
    of right answers.
    """
    asked = spec(
        model="python:networks_for_tests:linear",
        attack={"by": ["fgsm", "fgsm-untargeted"], "form": "linf", "weights": [0, 0.3]},
        gammas=1,
        noise=None,
        repeats=1,
    )
    job, network = resolved(asked)
    sums, _ = shard(job, network, 0, 10)
    rows = summary(job.conditions, job.job.names, job.correct, sums.sums["answers"]).to_pylist()
    moved = {
        w: sum(r["moved"] for r in rows if r["attack"] == "fgsm" and r["weight"] == w)
        for w in (0, 0.3)
    }
    right = {
        w: sum(r["correct"] for r in rows if r["attack"] == "fgsm-untargeted" and r["weight"] == w)
        for w in (0, 0.3)
    }
    assert moved[0.3] > moved[0]
    assert right[0.3] < right[0]


def test_trials_that_are_not_finite_are_counted_apart() -> None:
    job, network = resolved(spec(model="python:networks_for_tests:sometimes_nan", gammas=[0, 1]))
    sums, _ = shard(job, network, 0, 300)
    first = job.job.stimulus.images(job.job.stimulus.noise.grid(0, 300)).flatten(1)[:, 0].numpy()
    assert sums.nonfinite == int(((first > 1) | (first < -1.5)).sum()) > 0
    assert (sums.sums["answers"].sum(axis=(1, 2)) == sums.images).all()
    assert sums.seen == 300


def test_summary_against_a_naive_loop() -> None:
    asked = spec(attack={"by": "random", "weights": [0.1]}, gammas=1)
    counts = np.random.default_rng(0).integers(0, 9, (3, 2, 3))
    correct = np.array([1, 0])
    for row, condition, table in zip(
        summary(conditions(asked, "abc"), "abc", correct, counts).to_pylist(),
        conditions(asked, "abc"),
        counts,
        strict=True,
    ):
        target = condition.target
        assert row["correct"] == table[0, 1] + table[1, 0]
        own = [s for s in (0, 1) if correct[s] == target]
        others = [s for s in (0, 1) if correct[s] != target]
        assert (row["own"], row["kept"]) == (table[own].sum(), table[own, target].sum())
        assert (row["others"], row["moved"]) == (table[others].sum(), table[others, target].sum())
        assert row["target"] == "abc"[target or 0]


def test_a_run_and_its_directory(tmp_path: Path) -> None:
    """Finished, verified, opened; the same command changes nothing; another spec there is
    refused.
    """
    asked = spec(moments=True)
    done = run_trials(asked, str(tmp_path / "run"), executor="local")
    assert RunDirectory(str(tmp_path / "run")).verify() == []
    job, network = resolved(asked)
    np.testing.assert_array_equal(done.answers, shard(job, network, 0, 300)[0].sums["answers"])
    assert open_trials(str(tmp_path / "run")).table.equals(done.table)
    assert done.classes == ["0", "1", "2"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert isinstance(run_trials(asked, str(tmp_path / "run"), executor="local"), Trials)
    changed = {p.relative_to(tmp_path) for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert {str(p) for p in changed} <= {"run/environment.json"}
    with pytest.raises(RunError, match=r"gammas: \[0.0,0.5,1.0\] -> \[0.0,0.25\]"):
        run_trials(spec(moments=True, gammas=[0, 0.25]), str(tmp_path / "run"), executor="local")


ALWAYS = {"spec.json", "environment.json", "result/moments.npz", "result/trials.parquet"}
OF_MOMENTS = {
    f"result/{name}"
    for name in ("detection.parquet", "classification_images.npy", "classification_z_maps.npy")
}


@pytest.mark.parametrize("moments", [True, False])
def test_a_run_must_list_what_it_has(tmp_path: Path, moments: bool) -> None:
    run_trials(spec(moments=moments), str(tmp_path / "run"), executor="local")
    directory = RunDirectory(str(tmp_path / "run"))
    manifest, names = directory.manifest(), ALWAYS | (OF_MOMENTS if moments else set())
    assert manifest is not None
    assert {name for name in manifest.objects if "figures" not in name} == names
    for name in names:
        written = manifest.written()
        written["objects"].pop(name)
        (tmp_path / "run" / "MANIFEST.json").write_text(json.dumps(written))
        assert any(f"does not list {name}" in fault for fault in directory.verify()), name


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s["identity"]["shape"].update(d=3), "differ in moments"),
        (lambda s: s["identity"]["shape"].update(signals=3), "differ in moments"),
        (lambda s: s["identity"]["signals"].update(count=11), "differ in moments, samples"),
        (lambda s: s.update(samples=299), "differ in samples"),
        (lambda s: s["spec"].update(gammas=[0, 0.4, 1]), "differ in what was shown"),
        (lambda s: s["spec"]["signals"].update(classes=[1]), "differ in classes"),
        (lambda s: s["identity"].update(attack={"by": ["mean"]}), "differ in attack"),
    ],
    ids=["d", "signals", "count", "samples", "gammas", "classes", "attack"],
)
def test_a_spec_that_is_unlike_its_identity_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    run_trials(spec(moments=True), str(tmp_path / "run"), executor="local")
    found = json.loads((tmp_path / "run" / "spec.json").read_text())
    found.pop("digest")
    change(found)
    found["fingerprint"] = sha256(canonical(found["identity"]).encode())
    (tmp_path / "run" / "spec.json").write_text(
        json.dumps(found | {"digest": sha256(canonical(found).encode())})
    )
    for read in (
        RunDirectory(str(tmp_path / "run")).verify,
        lambda: open_trials(str(tmp_path / "run")),
    ):
        with pytest.raises(RunError, match=f"its spec and its identity {words}$"):
            read()


def test_classification_images_of_a_run(tmp_path: Path) -> None:
    """The stored objects are those of the stored sums, and can be made again from the run
    alone, to the byte.
    """
    done = run_trials(
        spec(model="python:networks_for_tests:linear", moments=True, gammas=[0.2, 0]),
        str(tmp_path / "run"),
        executor="local",
    )
    images, noise, counts = (
        done.classification_images(),
        done.sums.sums["noise"][0],
        done.answers[0],
    )
    yes, no = counts.astype(float), counts.sum(axis=1, keepdims=True) - counts.astype(float)
    share = (yes + 0.5) / (yes + no + 1)
    weight = np.where((yes > 0) & (no > 0), (yes + no) * norm.pdf(norm.ppf(share)), 0)
    naive = np.zeros((3, 16))
    for k in range(3):
        for s in range(3):
            if weight[s, k]:
                rest = noise[s].sum(axis=0) - noise[s, k]
                naive[k] += (
                    weight[s, k] / weight[:, k].sum() * (noise[s, k] / yes[s, k] - rest / no[s, k])
                )
    np.testing.assert_allclose(images[0].reshape(3, 16), naive * done.stimulus.unit, atol=1e-12)
    rows = done.detection.to_pylist()
    assert [(row["gamma"], row["response"], row["signal"]) for row in rows] == [
        (g, k, k) for g in (0.2, 0) for k in "012"
    ]
    assert [row["hits"] for row in rows] == done.answers.diagonal(axis1=1, axis2=2).ravel().tolist()
    assert [row["steadiness"] for row in rows[:3]] == pytest.approx([1, 1, 1])
    stored = {
        f"result/{p.relative_to(tmp_path / 'run' / 'result')}": p
        for p in (tmp_path / "run" / "result").rglob("*.*")
    }
    assert {name: p.read_bytes() for name, p in stored.items()} == open_trials(
        str(tmp_path / "run")
    ).derive()
    assert "result/figures/classification_images.png" in stored
    without = run_trials(spec(), str(tmp_path / "plain"), executor="local")
    with pytest.raises(RunError, match="does not say moments: true"):
        _ = without.detected


def test_what_is_committed_is_not_computed_again(tmp_path: Path) -> None:
    """A run cut short by hand goes on to the same bytes."""
    asked, place = spec(), tmp_path / "run"
    run_trials(asked, str(place), executor="local")
    objects = {
        p: p.read_bytes()
        for p in place.rglob("*")
        if p.is_file() and "drivers" not in p.parts and "events" not in p.parts
    }
    segments = sorted((place / "segments").iterdir())
    for path in (place / "MANIFEST.json", segments[1], *(place / "result").rglob("*.*")):
        path.unlink()
    kept = segments[0].stat().st_mtime_ns
    run_trials(asked, str(place), executor="local")
    assert segments[0].stat().st_mtime_ns == kept
    assert {p: p.read_bytes() for p in objects} == objects


@pytest.mark.ray
def test_workers_change_no_byte(tmp_path: Path, ray_cluster: None) -> None:
    asked = spec(
        stimulate={
            "layers": ["hidden", "maps"],
            "by": ["class-mean", "sta", "sham"],
            "strengths": [-1, 0, 1],
        }
    )
    results = []
    for name, how in (("local", {"executor": "local"}), ("two", {"executor": "ray", "workers": 2})):
        run_trials(asked, str(tmp_path / name), **how)  # type: ignore[arg-type]
        results.append(
            {
                p.name: p.read_bytes()
                for p in (tmp_path / name).rglob("*")
                if "result" in p.parts and p.is_file()
            }
        )
    assert results[0] == results[1]
    assert len(results[0]) == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noise": None}, r"noise: gamma 0 shows noise; say which"),
        ({"noise": NOISE | {"space": "input"}}, r"noise.space: signals are pixels in \[0, 1\]"),
        ({"gammas": [0.5, 0.5]}, r"gammas: each may stand once, got 0.5, 0.5"),
        ({"gammas": 2}, r"gammas.0: Input should be less than or equal to 1"),
        ({"transforms": "spin"}, r"transforms.0: Input should be 'none'"),
        (
            {"moments": True, "attack": {"by": "random", "weights": 1}},
            r"moments: are kept of signals in noise alone",
        ),
        (
            {"attack": {"by": "map", "weights": 1}},
            r"attack: run: map needs the bias maps of a finished run",
        ),
        (
            {"attack": {"by": "random", "weights": 1, "run": "x"}},
            r"attack: run: only map and permuted use a run",
        ),
        (
            {"attack": {"by": "fgsm", "weights": 1, "form": "mix"}},
            r"attack: form: fgsm has no template to mix in",
        ),
        (
            {"attack": {"by": "random", "weights": 2, "form": "mix"}},
            r"attack: weights: 2 is no share",
        ),
        (
            {"attack": {"by": "random", "weights": 1, "aim": 3}},
            r"attack.aim: unknown key; known here are by, run, response, form",
        ),
        (
            {"stimulate": {"layers": "x", "strengths": 1, "unit": "max", "mode": "scale"}},
            r"stimulate: unit: only added activity has one",
        ),
        (
            {"stimulate": {"layers": "x", "strengths": 1, "unit": "activity", "by": "sta"}},
            r"stimulate: unit: activity is that of class means",
        ),
    ],
)
def test_specs_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(**changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"signals": {"dataset": "mnist", "classes": [1, 7]}},
            r"signals.classes: mnist has no class 7; it has 0 to 2",
        ),
        (
            {"attack": {"by": "random", "weights": 1, "targets": ["9"]}},
            r"attack.targets: the network has no answer '9'; near it are 0, 1, 2",
        ),
        (
            {"stimulate": {"layers": "hidden", "strengths": 1, "classes": ["x"]}},
            r"stimulate.classes: the network has no answer 'x'",
        ),
        (
            {"attack": {"by": "random", "weights": list(range(50_000))}},
            r"450,000 conditions \(3 x 1 x 1 x 3 x 50000\) are more than 100,000",
        ),
    ],
)
def test_specs_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolved(spec(**changes))


def test_classes_are_found_by_name_and_otherwise_by_number() -> None:
    question = TrialQuestion.of(spec())
    assert question.rows(np.array([0, 5, 6]), ("5", "6")).tolist() == [-1, 0, 1]
    assert question.rows(np.array([0, 5]), [f"digit {i}" for i in range(10)]).tolist() == [0, 5]
    assert question.rows(np.array([0, 5]), ["yes", "no"]).tolist() == [-1, -1]


def test_a_yaml_file_of_trials(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "model: bundled:mnist-cnn\nsignals: {dataset: mnist}\nnoise: {kind: uniform, offset: 0.5,"
        " scale: 0.5}\ngammas: 0\n"
    )
    found = read_spec(tmp_path / "a.yaml")
    assert isinstance(found, TrialSpec)
    assert found.noise is not None
    assert found.noise.shape == (1, 28, 28)  # the signals'
