"""Noise in the space of a decoder's codes: maps whose truth is known, their pictures, and what
is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import made_up_digits
import networks_for_tests
import numpy as np
import pytest
import torch
from prepared import prepared, read
from typer.testing import CliRunner

from wna_ray.canonical import canonical, sha256
from wna_ray.cli import app
from wna_ray.errors import ModelError, RunError, SpecError
from wna_ray.kinds.average.extent import check_described
from wna_ray.kinds.average.job import run
from wna_ray.kinds.average.memory import needs
from wna_ray.kinds.average.run import open_run
from wna_ray.kinds.covariance.job import run_stc
from wna_ray.kinds.trials.job import run_trials
from wna_ray.moments.moments import Partial
from wna_ray.shards.loading import load_network
from wna_ray.shards.resolve import check_canary
from wna_ray.shards.shard import run_shard
from wna_ray.specs.covariance import StcSpec
from wna_ray.specs.run import Spec
from wna_ray.specs.trials import TrialSpec
from wna_ray.statistics import classifier
from wna_ray.storage.bounds import NPY_BYTES
from wna_ray.training.job import train
from wna_ray.training.spec import TrainSpec

PICTURES = "python:networks_for_tests:pictures"
W = networks_for_tests.weights().numpy().astype(np.float64)
D = networks_for_tests.weights(16, 6, 9).numpy().astype(np.float64)
HALF = {"mean": [0.25], "std": [2.0]}
SLOPES = W @ D / 2  # logits of pictures that are divided by 2


@pytest.fixture
def make(make_spec: Callable[..., Spec]) -> Callable[..., Spec]:
    """A linear decoder before a linear model, on codes of six numbers, whatever a test changes."""

    def build(**changes: Any) -> Spec:
        return make_spec(
            **{"decoder": PICTURES, "normalise": HALF, "stimulus": {"shape": [1, 1, 6]}} | changes
        )

    return build


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that kept its responses; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    spec: dict[str, Any] = {
        "model": "python:networks_for_tests:linear",
        "decoder": PICTURES,
        "normalise": HALF,
        "stimulus": {
            "kind": "gaussian",
            "shape": [1, 1, 6],
            "space": "input",
            "scale": 1.0,
            "offset": 0.25,
        },
        "samples": 4_000,
        "numerics": {"batch": 64},
        "keep_responses": True,
    }
    run(Spec.parse(spec), str(out), executor="local")
    return out


def test_maps_of_a_linear_decoder_and_model_are_their_product(make: Callable[..., Spec]) -> None:
    """Mean gradients are ``W D`` itself; those of the noise within five standard errors, sd(y)
    / sqrt(N) of unit noise.
    """
    asked = make(estimator="gradient", responses=["logits"], samples=256)
    made, network = prepared(asked)
    exact = read(made, run_shard(made, network, 0, 256)[0])[0].bias
    assert (
        np.abs(exact - SLOPES).max() < 1e-2 * np.abs(SLOPES).max()
    )  # gradients are summed in steps of 2^-8 of their size
    made, network = prepared(make())
    found = next(r for r in read(made, run_shard(made, network, 0, 2000)[0]) if r.kind == "logits")
    error = np.linalg.norm(SLOPES, axis=1, keepdims=True) / np.sqrt(2000)
    assert np.abs((found.bias - SLOPES) / error).max() < 5
    assert (made.decoder and made.decoder.shape, made.normalise and made.normalise.mean) == (
        (1, 4, 4),
        (0.25,),
    )


def test_mean_codes_are_decoded_and_answered(finished: Path) -> None:
    """By hand: offset plus map for labels, a step of one sd for logits; pictures, outputs and
    names follow from the codes.
    """
    got = open_run(str(finished))
    label, logits = got.readouts
    sd = got.stimulus.sd
    steps = logits.bias / np.sqrt(np.square(logits.bias).mean(axis=1, keepdims=True)) * sd
    codes = 0.25 + np.concatenate([label.bias, steps])
    pictures = codes @ D.T + 0.5
    assert got.decoded_maps is not None
    np.testing.assert_allclose(got.decoded_maps.reshape(6, 16), pictures, atol=1e-5)
    np.testing.assert_allclose(got.map_outputs, (pictures - 0.25) / 2 @ W.T, atol=1e-5)
    assert got.classes["self_label"].to_pylist() == [str(i) for i in got.map_outputs.argmax(axis=1)]
    noise = got.stimulus.noise.grid(0, 4000).reshape(4000, 6) * got.stimulus.unit + 0.25
    answers = ((noise @ D.T + 0.25) / 2 @ W.T).argmax(axis=1)
    for i in range(3):
        assert label.count[i] == (answers == i).sum()
        np.testing.assert_allclose(
            codes[i] - noise[answers == i].mean(axis=0), 0.25 - noise.mean(axis=0), atol=1e-6
        )


def test_a_report_is_the_result_again(finished: Path) -> None:
    got = open_run(str(finished))
    made = got.derive()
    assert "result/decoded_maps.npy" in made
    assert "result/figures/decoded_maps.png" in made
    for name, data in made.items():
        assert data == (finished / name).read_bytes(), name
    assert CliRunner().invoke(app, ["verify", str(finished)]).exit_code == 0


def test_any_cut_gives_the_same_bytes_on_any_worker(
    make: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convolutional decoder; the last batch is filled up; another network passes the canary,
    one with other weights does not.
    """
    asked = make(
        decoder="python:networks_for_tests:grown",
        stimulus={"shape": [3, 2, 2]},
        moments={"halves": True},
    )
    made, network = prepared(asked)
    whole = Partial(0, 2000, run_shard(made, network, 0, 2000)[0])
    monkeypatch.setattr("wna_ray.shards.shard.PENDING_VALUES", 1)
    other = load_network(asked, "cpu")
    check_canary(made, other)
    parts = [
        Partial(a, b, run_shard(made, n, a, b)[0])
        for a, b, n in ((0, 64, other), (64, 1024, network), (1024, 2000, other))
    ]
    one, two = (p.moments.arrays() for p in (whole, reduce(Partial.merge, parts)))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
    codes = torch.from_numpy(
        np.random.default_rng(0).standard_normal((64, 3, 2, 2)).astype(np.float32)
    )
    assert np.array_equal(network.pictures(codes)[:3], other.pictures(codes[:3])), (
        "fewer are filled up to a batch"
    )


def test_what_is_in_the_fingerprint(
    make: Callable[..., Spec], make_spec: Callable[..., Spec]
) -> None:
    plain = prepared(make_spec())[0]
    assert "decoder" not in plain.identity
    one, other = (prepared(make(decoder=f"{PICTURES}?seed={seed}"))[0] for seed in (9, 8))
    assert one.identity["decoder"] == {
        "source": f"{PICTURES}?seed=9",
        "digest": one.decoder and one.decoder.digest,
        "shape": [1, 4, 4],
    }
    assert one.fingerprint != other.fingerprint
    assert other.decoder
    assert one.identity["decoder"]["digest"] != other.decoder.digest
    assert (
        needs(one, 7, 2).driver - needs(plain, 7, 2).driver
        == 12 * 6 * 16 + (2 * 7 + 5 * 6) * (6 - 16) * 8
    )


def test_units_inside_the_model_have_codes(make: Callable[..., Spec]) -> None:
    """The middle unit of a convolution of the picture: its true filter is ``D' w``, and noise
    finds it.
    """
    target = {"layer": "maps", "position": [0, 0], "evaluate": "image"}
    model = "python:networks_for_tests:layered"
    made, network = prepared(
        make(
            model=model, target=target, responses=["activation"], estimator="gradient", samples=128
        )
    )
    found = read(made, run_shard(made, network, 0, 128)[0])[0].bias
    w = networks_for_tests.layered().get_submodule("maps").weight.detach().numpy()
    padded = np.zeros((3, 4, 4))
    padded[:, :3, :3] = w[:, 0]
    truth = padded.reshape(3, 16) @ D / 2
    assert np.abs(found - truth).max() < 1e-2 * np.abs(truth).max()


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "pixels": (
        {"stimulus": {"shape": [1, 1, 6], "space": "pixel"}},
        SpecError,
        "decoder: the noise is what it is fed, .*space: input",
    ),
    "a window": (
        {"target": {"layer": "w"}, "responses": ["activation"]},
        SpecError,
        "decoder: it takes whole codes only; give target.evaluate: image",
    ),
    "scheme": ({"decoder": "nets/vae"}, ModelError, "^decoder: 'nets/vae' is not SCHEME:NAME"),
    "codes": (
        {"stimulus": {"shape": [1, 1, 7]}},
        ModelError,
        (
            r"^decoder: .*pictures does not take codes \(1, 1, 7\) \(RuntimeError: .*see"
            r" stimulus.shape"
        ),
    ),
    "no pictures": (
        {"decoder": "python:networks_for_tests:flat_pictures"},
        ModelError,
        r"^decoder: .* gave \(64, 16\) for 64 codes; expected pictures \(n, C, H, W\)",
    ),
    "model": (
        {"model": "bundled:mnist-cnn"},
        ModelError,
        (
            r"^decoder: .*pictures gives pictures \(1, 4, 4\), but bundled:mnist-cnn takes \(1, 28,"
            r" 28\)"
        ),
    ),
    "normalisation": (
        {"normalise": None},
        ModelError,
        "^decoder: it makes pictures in pixels, but .* declares no normalisation",
    ),
    "channels": (
        {"normalise": {"mean": [0, 0, 0], "std": [1]}},
        ModelError,
        "3 means and 1 stds for 1 channels",
    ),
    "its answers": ({"model": "python:networks_for_tests:linear?k=x"}, ModelError, "^model: "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, make: Callable[..., Spec]) -> None:
    changes, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        prepared(make(**changes))


def test_a_trained_decoder(
    make: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its codes' shape is known, and told; its place is no part of the fingerprint; its maps
    are scored as pictures.
    """
    made_up_digits.install(monkeypatch)
    base = {"dataset": "mnist", "epochs": 1, "validation": 80}
    train(
        TrainSpec.parse(base | {"network": "vae", "options": {"code": 6}}),
        str(tmp_path / "vae"),
        executor="local",
    )
    train(TrainSpec.parse(base | {"network": "logistic"}), str(tmp_path / "net"), executor="local")
    uris = {
        "decoder": f"trained:{tmp_path}/vae/seed-0",
        "model": f"trained:{tmp_path}/net/seed-0",
        "normalise": None,
    }
    with pytest.raises(
        ModelError,
        match=r"^stimulus.shape: \(1, 1, 7\), but trained:.*/vae/seed-0 takes codes \(1, 1, 6\)",
    ):
        prepared(make(**uris, stimulus={"shape": [1, 1, 7]}))
    with pytest.raises(
        ModelError, match=r"^decoder: '.*' has no part 'decoder'; logistic is no autoencoder"
    ):
        prepared(make(**uris | {"decoder": uris["model"]}))
    got = run(
        make(**uris, responses=["label"], evaluation="mnist"),
        str(tmp_path / "run"),
        executor="local",
    )
    assert got.decoded_maps is not None
    assert got.decoded_maps.shape == (10, 1, 28, 28)
    scored = json.loads((tmp_path / "run" / "evaluation" / "classifier.json").read_text())[
        "templates"
    ]
    expected = classifier.classify(
        got.decoded_maps.astype(np.float64), made_up_digits.split(False), "correlation"
    ).accuracy
    assert scored["label"]["accuracy"]["correlation"] == expected
    (tmp_path / "vae").rename(tmp_path / "moved")
    moved = prepared(
        make(**uris | {"decoder": f"trained:{tmp_path}/moved/seed-0"}, responses=["label"])
    )[0]
    assert moved.fingerprint == got.fingerprint


def test_later_passes_and_commands(
    finished: Path, make: Callable[..., Spec], tmp_path: Path
) -> None:
    """A covariance of codes; plan and page name the decoder; a Hessian through it and an attack
    with its maps are refused.
    """
    stc = run_stc(
        StcSpec.parse({"run": str(finished), "response": "logits", "fresh": 3}),
        str(tmp_path / "stc"),
        executor="local",
    )
    assert stc.axes.num_rows > 0
    path = tmp_path / "spec.json"
    path.write_text(make().model_dump_json())
    told = CliRunner().invoke(app, ["plan", str(path), "--pilot", "256"])
    assert f"decoder   {PICTURES} makes pictures (1, 4, 4) of it" in told.output, told.output
    page = CliRunner().invoke(
        app, ["report", str(finished), "--html", "--to", str(tmp_path / "page")]
    )
    assert page.exit_code == 0, page.output
    assert f"decoder: {PICTURES}" in (tmp_path / "page" / "report.html").read_text()
    run(
        make(estimator="gradient", responses=["logits"], samples=128),
        str(tmp_path / "gradient"),
        executor="local",
    )
    asked = StcSpec.parse(
        {"run": str(tmp_path / "gradient"), "model": "python:networks_for_tests:linear"}
    )
    with pytest.raises(SpecError, match="made by gradients through a decoder"):
        run_stc(asked, str(tmp_path / "hessian"), executor="local")


def test_codes_attack_no_images(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    signals = made_up_digits.split(False)
    monkeypatch.setattr("wna_ray.data.datasets.load", lambda *_args, **_options: signals)
    monkeypatch.setattr(
        "wna_ray.kinds.trials.job.load", lambda *_args, **_options: signals, raising=False
    )
    model = "python:networks_for_tests:slow"
    attack = {"by": ["map"], "run": str(finished), "form": "l2", "weights": [0, 1]}
    spec = {
        "model": model,
        "signals": {"dataset": "mnist", "images": 2},
        "attack": attack,
        "normalise": {"mean": [0], "std": [1]},
    }
    with pytest.raises(
        SpecError, match="has maps of a decoder's codes, which cannot be added to images"
    ):
        run_trials(TrialSpec.parse(spec), str(tmp_path / "attack"), executor="local")


def _reforge(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Other words in ``spec.json``, with digest and fingerprint to match."""
    path = folder / "spec.json"
    spec = json.loads(path.read_text())
    spec.pop("digest")
    change(spec)
    spec["fingerprint"] = sha256(canonical(spec["identity"]).encode())
    path.write_text(json.dumps(spec | {"digest": sha256(canonical(spec).encode())}))


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no decoder in the identity": (lambda s: s["identity"].pop("decoder"), "differ in decoder"),
    "none in the spec": (lambda s: s["spec"].pop("decoder"), "differ in decoder"),
    "huge pictures": (
        lambda s: s["identity"]["decoder"].update(shape=[1, 1 << 40, 4]),
        "identity.decoder.shape.1",
    ),
    "flat pictures": (
        lambda s: s["identity"]["decoder"].update(shape=[16]),
        "identity.decoder.shape",
    ),
    "empty pictures": (
        lambda s: s["identity"]["decoder"].update(shape=[1, 0, 4]),
        "identity.decoder.shape.1",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_run_that_says_otherwise_is_refused(what: str, finished: Path, tmp_path: Path) -> None:
    change, words = HOSTILE[what]
    for name in ("spec.json", "MANIFEST.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    _reforge(tmp_path, change)
    with pytest.raises(RunError, match=words):
        open_run(str(tmp_path))


def test_pictures_of_another_size_are_refused(finished: Path, tmp_path: Path) -> None:
    """Where identity and array differ; and no file is read that is larger than the identity's
    pictures.
    """
    for path in finished.rglob("*"):
        target = tmp_path / path.relative_to(finished)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    _reforge(tmp_path, lambda s: s["identity"]["decoder"].update(shape=[1, 5, 5]))
    manifest, spec = (
        json.loads((tmp_path / name).read_text()) for name in ("MANIFEST.json", "spec.json")
    )
    data = (tmp_path / "spec.json").read_bytes()
    manifest["fingerprint"], manifest["objects"]["spec.json"] = (
        spec["fingerprint"],
        {"bytes": len(data), "sha256": sha256(data)},
    )
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(
        RunError,
        match=(
            r"decoded_maps.npy is damaged \(float32 of shape \(6, 1, 4, 4\), not float32 of shape"
            r" \(6, 1, 5, 5\)"
        ),
    ):
        _ = open_run(str(tmp_path)).decoded_maps
    described = json.loads((finished / "spec.json").read_text())
    assert (
        check_described(described, "spec.json").most("result/decoded_maps.npy")
        == 4 * 6 * 16 + NPY_BYTES
    )
