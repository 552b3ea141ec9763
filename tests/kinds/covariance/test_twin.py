"""Average Hessians by gradients: closed forms, a naive loop, the covariance of answers, the
null; cut, stopped, misled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks_for_tests
import numpy as np
import pytest
from prepared import prepared
from scipy.stats import binom, norm

from wna_ray import StcSpec, open_run, run, run_stc
from wna_ray.errors import RunError, SpecError
from wna_ray.events import Event, ShardDone
from wna_ray.kinds.average.run import Run
from wna_ray.kinds.covariance.hessian import Bend, TwinPass, hessians, run_twin_pass
from wna_ray.kinds.covariance.passes import null_seeds
from wna_ray.specs.run import Spec
from wna_ray.statistics.covariance import nested_axes

MakeSpec = Callable[..., Spec]
QUADRATIC = "python:networks_for_tests:quadratic"
RELUS = "python:networks_for_tests:relus"


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """2,000 gradients of the quadratic form, d = 16."""
    stimulus = {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0}
    asked = {
        "model": QUADRATIC,
        "stimulus": stimulus,
        "responses": ["activation"],
        "estimator": "gradient",
        "samples": 2000,
        "seed": 3,
    }
    return run(
        Spec.parse(asked | {"numerics": {"batch": 64}}),
        str(tmp_path_factory.mktemp("quadratic") / "run"),
        executor="local",
    )


def test_sums_against_a_naive_loop(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Image by image: the gradient by torch, rounded as the run rounds it, without its mean,
    times x; and times noise of another seed.
    """
    spec = make_spec(model=RELUS, estimator="gradient", responses=["activation"], samples=400)
    finished, (job, network) = run(spec, str(tmp_path / "run"), executor="local"), prepared(spec)
    bends = tuple(Bend.of(finished, "activation", row, linear=True) for row in range(2))
    asked = TwinPass("", "activation", bends, job, seeds=(11,))
    sums, _ = run_twin_pass(asked, network, 64, 200)
    assert (sums.images, sums.out_of_range) == (136, 0)
    fresh = replace(job.stimulus, seed=11)
    for i, stimulus in enumerate((job.stimulus, fresh)):
        total = np.zeros((2, 16, 16), dtype=np.int64)
        for index in range(64, 200):
            x = job.stimulus.images(job.stimulus.noise.grid(index, index + 1)).requires_grad_()
            partner = stimulus.noise.grid(index, index + 1).ravel().astype(np.int64)
            for row, bend in enumerate(bends):
                x.grad = None
                network.model.module(x)[0, row].backward()
                assert x.grad is not None
                g = (
                    np.rint(np.ldexp(x.grad.numpy().ravel().astype(float), -bend.exponent))
                    - bend.slope
                )
                total[row] += np.outer(g.astype(np.int64), partner)
        # one gradient in a thousand may round the other way: a step times the noise's largest value
        assert np.abs(sums.sums["rxx"][:, i] - total).max() <= 127
    whole, _ = run_twin_pass(asked, network, 0, 400)
    parts = [run_twin_pass(asked, network, a, b)[0] for a, b in ((0, 64), (64, 192), (192, 400))]
    joined = parts[0].merge(parts[1]).merge(parts[2])
    assert {k: v.tolist() for k, v in joined.arrays().items()} == {
        k: v.tolist() for k, v in whole.arrays().items()
    }


def test_axes_of_a_quadratic_form(quadratic: Run, tmp_path: Path) -> None:
    """Eigenvalues 2 / sd and -1.4 / sd with sd^2 = 2 + 0.98; 2,000 gradients do what the test of
    answers takes 20,000 for.

    Along an axis the eigenvalue is a mean of 2 p^2 / sd with p standard normal: 6 standard errors
    are 6 * 2 * sqrt(2 / N) / sd = 0.22.
    """
    found = run_stc(
        StcSpec(run=quadratic.directory.url, model=QUADRATIC, fresh=39, axes=4),
        str(tmp_path / "stc"),
        executor="local",
    )
    rows, truth, sd = (
        found.axes.to_pylist(),
        networks_for_tests.quadratic_axes(16).numpy(),
        math.sqrt(2.98),
    )
    allowed = 12 * math.sqrt(2 / 2000) / sd
    assert abs(rows[0]["eigenvalue"] - 2 / sd) < allowed
    assert abs(rows[1]["eigenvalue"] + 1.4 / sd) < allowed
    assert [row["p_value"] <= 0.05 for row in rows] == [True, True, False, False]
    assert rows[0]["low_edge"] < 0 < rows[0]["high_edge"] < rows[0]["eigenvalue"]
    pictures = found.pictures.reshape(4, 16)
    assert (np.abs((pictures[:2] * truth[:2]).sum(axis=1)) > 0.99).all()
    assert found.directory.verify() == []
    along = {
        axis: [r for r in found.profiles.to_pylist() if r["axis"] == axis and r["count"] >= 30]
        for axis in (None, 0)
    }
    for axis, shape in (
        (None, lambda t: 2 * t + 0.3),
        (0, lambda t: t**2 - 0.7),
    ):  # along the linear axis, and along the first
        for r in along[axis]:
            flat = 0.25**2 / 12  # of the bin, in which t^2 is larger than in its middle
            assert abs(r["response"] - shape(r["projection"])) < 6 * r["standard_error"] + flat, (
                axis,
                r,
            )
    assert sorted(found.directory.store.list("result/figures")) == [
        "result/figures/axes.png",
        "result/figures/profiles.png",
        "result/figures/spectra.png",
    ]


def test_rectifiers_have_a_hessian(make_spec: MakeSpec, tmp_path: Path) -> None:
    """``sum a phi(b / |w|) / |w| w w'`` though each rectifier's own is zero: 272 entries within 6
    standard errors of 20 parts of the run (t with 19 degrees of freedom: a chance of 0.003 for
    all). The test of answers has ten times the images.
    """
    spec = make_spec(model=RELUS, responses=["activation"], estimator="gradient", samples=6400)
    finished, (job, network) = run(spec, str(tmp_path / "run"), executor="local"), prepared(spec)
    w, b, a = (t.numpy().astype(float) for t in networks_for_tests.relu_parts())
    size = np.linalg.norm(w, axis=1)
    truth = np.einsum("kj,jd,je->kde", a * norm.pdf(b / size) / size, w, w)
    bends = tuple(Bend.of(finished, "activation", row, linear=True) for row in range(2))
    asked = TwinPass("", "activation", bends, job)
    parts = [run_twin_pass(asked, network, low, low + 320)[0] for low in range(0, 6400, 320)]
    for row, bend in enumerate(bends):
        maps = (
            np.array([hessians(part, row, bend, job.stimulus.unit)[0] * bend.sd for part in parts])
            / job.stimulus.sd**2
        )
        assert np.array_equal(maps, maps.swapaxes(1, 2)), (
            "a Hessian is symmetric, as sums of g x' are not"
        )
        mean, error = maps.mean(axis=0), maps.std(axis=0, ddof=1) / math.sqrt(len(maps))
        assert (np.abs(mean - truth[row]) / error).max() < 6, row
        assert np.linalg.norm(mean - truth[row]) < 0.1 * np.linalg.norm(truth[row])


def test_gradients_and_answers_agree_on_a_real_network(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Stein's identity on two rectified units of the digit network: the strongest axis, by 30,000
    answers and 3,840 gradients, twice.

    What axes of the two kinds agree in must be what axes of one kind do. Of 1 - cosine, a sum over
    d = 196 values, the standard error is sqrt(2 / d) = 0.1 of it, and 1 - cosine is about 0.06: 5
    of them are 0.03. Eigenvalues of answers: within sqrt(60 / N).
    """
    base = {
        "model": "bundled:mnist-cnn",
        "stimulus": {
            "shape": [1, 28, 28],
            "offset": "bundled:mnist-mean",
            "scale": 0.3,
            "space": "pixel",
        },
        "target": {"layer": "conv2", "units": [4, 13]},
        "responses": ["rectified"],
        "numerics": {"batch": 128},
    }
    kinds: dict[str, dict[str, Any]] = {
        "answers": {"samples": 30_000, "keep_responses": True},
        "gradients": {"samples": 3840, "estimator": "gradient"},
    }
    found = {}
    for (name, more), seed in itertools.product(kinds.items(), (1, 2)):
        run(make_spec(**base, **more, seed=seed), str(tmp_path / f"{name}{seed}"), executor="local")
        model = base["model"] if name == "gradients" else None
        asked = StcSpec(run=str(tmp_path / f"{name}{seed}"), model=model, fresh=9, axes=1)
        found[name, seed] = run_stc(asked, str(tmp_path / f"stc-{name}{seed}"), executor="local")
    for unit in range(2):
        axis = {key: one.pictures[unit].ravel() for key, one in found.items()}
        agreement = {
            (a, b): abs(float(axis[a] @ axis[b])) for a, b in itertools.combinations(axis, 2)
        }
        own = math.sqrt(math.prod(c for (a, b), c in agreement.items() if a[0] == b[0]))
        other = np.mean([c for (a, b), c in agreement.items() if a[0] != b[0]])
        assert own > 0.9
        assert abs(other - own) < 0.03, agreement
        value = {
            name: np.mean([found[name, seed].axes["eigenvalue"][unit].as_py() for seed in (1, 2)])
            for name in kinds
        }
        assert abs(value["answers"] - value["gradients"]) < 6 * math.sqrt(60 / 60_000), value
        assert all(one.axes["distance"][unit].as_py() > 10 for one in found.values())


def test_the_nested_test_is_true_for_gradients(make_spec: MakeSpec) -> None:
    """Two waves of 250 seeds each: p <= 0.1 in at most 10 % of 500 runs, within the 1e-4 quantile
    of the binomial (the two units of a run see the same noise, but other waves of it).
    """
    rejected, spec = (
        0,
        make_spec(
            model="python:networks_for_tests:ripples",
            responses=["activation"],
            estimator="gradient",
            samples=256,
        ),
    )
    first, network = prepared(spec)
    for seed in range(250):
        job = replace(first, spec=spec.model_copy(update={"seed": seed}))
        bends = tuple(
            Bend(row, np.zeros(16), job.gradients["activation"][row], 1.0) for row in range(2)
        )
        asked = TwinPass("", "activation", bends, job, seeds=null_seeds("", seed, 19))
        sums, _ = run_twin_pass(asked, network, 0, 256)
        for row, bend in enumerate(bends):
            rejected += bool(
                nested_axes(hessians(sums, row, bend, job.stimulus.unit), 1).p_value[0] <= 0.1
            )
    assert binom.ppf(1e-4, 500, 0.1) <= rejected <= binom.ppf(1 - 1e-4, 500, 0.1), rejected


@pytest.mark.ray
def test_ray_a_stop_and_this_process_give_the_same_bytes(quadratic: Run, tmp_path: Path) -> None:
    spec = StcSpec.parse(
        {
            "run": quadratic.directory.url,
            "model": QUADRATIC,
            "fresh": 3,
            "axes": 2,
            "execution": {"shard": 128, "segments": 4},
        }
    )
    here = run_stc(spec, str(tmp_path / "here"), executor="local")
    there = run_stc(spec, str(tmp_path / "there"), executor="ray", workers=2)

    def stop(event: Event, seen: list[int] = []) -> None:  # noqa: B006
        seen.append(isinstance(event, ShardDone))
        if sum(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="stopped"):
        run_stc(spec, str(tmp_path / "stopped"), executor="local", callbacks=[stop])
    resumed = run_stc(spec, str(tmp_path / "stopped"), executor="local")
    for other in (there, resumed):
        assert other.fingerprint == here.fingerprint
        for name in here.directory.store.list("result"):
            assert other.directory.store.read(name) == here.directory.store.read(name), name


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            {},
            (
                r"made by gradients, so its covariance needs the network once more; give model:"
                r" python:networks_for_tests:quadratic"
            ),
        ),
        ({"model": QUADRATIC, "method": "matrix-free"}, "matrix-free works on kept responses"),
        ({"model": QUADRATIC, "response": "logits"}, "has no logits"),
    ],
)
def test_questions_that_have_no_answer(
    quadratic: Run, tmp_path: Path, ask: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        run_stc(
            StcSpec.parse({"run": quadratic.directory.url} | ask),
            str(tmp_path / "stc"),
            executor="local",
        )


def test_other_networks_are_refused(quadratic: Run, make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not, bit for bit, the network that"):
        run_stc(
            StcSpec(run=quadratic.directory.url, model="python:networks_for_tests:direction"),
            str(tmp_path / "a"),
            executor="local",
        )
    run(
        make_spec(keep_responses=True, responses=["logits"]),
        str(tmp_path / "answers"),
        executor="local",
    )
    with pytest.raises(SpecError, match="only runs with estimator: gradient need their model"):
        run_stc(
            StcSpec(run=str(tmp_path / "answers"), model=QUADRATIC),
            str(tmp_path / "b"),
            executor="local",
        )
    spec = make_spec(
        model="python:networks_for_tests:direction",
        responses=["activation"],
        estimator="gradient",
        samples=256,
    )
    run(spec, str(tmp_path / "linear"), executor="local")
    with pytest.raises(RunError, match="linear in the noise, or never varied"):
        run_stc(
            StcSpec(run=str(tmp_path / "linear"), model=spec.model),
            str(tmp_path / "c"),
            executor="local",
        )


def test_istac_needs_answers(quadratic: Run, tmp_path: Path) -> None:
    asked = StcSpec(run=quadratic.directory.url, model=QUADRATIC, fresh=0, axes=1, linear=False)
    found = run_stc(asked, str(tmp_path / "stc"), executor="local")
    assert found.axes["p_value"].null_count == 1
    with pytest.raises(RunError, match="by gradients"):
        found.informative_axes(open_run(quadratic.directory.url), "0", 1)
