"""Runs of networks whose outputs are not one tensor of scores of classes that depend on the image:
the right value, or the right sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks as foreign
import numpy as np
import pytest
import torch
from scipy.special import softmax

from wna_ray import Run, Spec, open_run, run
from wna_ray.errors import ModelError, SpecError
from wna_ray.events import Stage
from wna_ray.statistics.maps import cosine

MakeSpec = Callable[..., Spec]
SIDE = foreign.SIDE


@pytest.fixture
def answer(make_spec: MakeSpec, tmp_path: Path) -> Callable[..., tuple[Run, list[str]]]:
    """Runs one of the networks; also gives the lines that are said."""

    def start(name: str, samples: int = 512, **more: Any) -> tuple[Run, list[str]]:
        said = list[str]()
        stimulus = {"shape": [3, SIDE, SIDE]} | more.pop("stimulus", {})
        spec = make_spec(
            model=f"python:foreign_networks:make?name={name}",
            stimulus=stimulus,
            samples=samples,
            **{"responses": ["label", "logits"], **more},
        )
        callbacks = (lambda e: said.append(e.name) if isinstance(e, Stage) else None,)
        return run(spec, str(tmp_path / name), executor="local", callbacks=callbacks), said

    return start


def images_of(done: Run, samples: int) -> torch.Tensor:
    """What the network was shown."""
    return done.stimulus.images(done.stimulus.noise.grid(0, samples))


@pytest.mark.parametrize(("name", "field"), [("InMapping", "logits"), ("InDataclass", "logits")])
def test_a_field_counts_as_the_scores_themselves(
    answer: Callable[..., tuple[Run, list[str]]], name: str, field: str
) -> None:
    (plain, _), (done, said) = answer("Body"), answer(name)
    assert f"of what the network gives, the field '{field}' is read" in said
    np.testing.assert_array_equal(done.bias_maps, plain.bias_maps)
    assert done.described.identity["output"] == {"field": field}
    assert "output" not in plain.described.identity
    assert set(plain.classes["note"].to_pylist()) & {"field logits"} == set()
    assert all("field logits" in note for note in done.classes["note"].to_pylist())
    assert (
        open_run(done.directory.url).derive()["result/classes.parquet"]
        == (Path(done.directory.url) / "result/classes.parquet").read_bytes()
    )


def test_a_chosen_field(answer: Callable[..., tuple[Run, list[str]]]) -> None:
    with pytest.raises(ModelError, match=r"tuple of 0 \(64, 10\), 1 \(64, 8\); output: NAME"):
        answer("Pair")
    (plain, _), (done, said) = answer("Body"), answer("Pair", output=0)
    np.testing.assert_array_equal(done.bias_maps, plain.bias_maps)
    assert said == [line for line in said if "field" not in line], "it was asked for"


def test_one_logit_gives_two_labels(answer: Callable[..., tuple[Run, list[str]]]) -> None:
    """Counts of my own, and the map of the logit by a plain covariance."""
    n = 512
    done, said = answer("OneLogit", n, responses=["label", "logits", "probabilities"])
    x = images_of(done, n)
    with torch.inference_mode():
        z = foreign.OneLogit().eval()(x).numpy().astype(np.float64)
    rows = {(row["kind"], row["name"]): row for row in done.classes.to_pylist()}
    assert rows["label", "1"]["count"] == int((z > 0).sum())
    assert rows["label", "0"]["count"] == int((z <= 0).sum())
    assert 50 < rows["label", "1"]["count"] < n - 50
    assert rows["probabilities", "1"]["share"] == pytest.approx((1 / (1 + np.exp(-z))).mean(), 1e-6)
    assert rows["logits", "0"]["note"] == "constant; of one logit"
    flat = x.numpy().reshape(n, -1).astype(np.float64)
    expected = ((z - z.mean())[:, None] * flat).mean(0)
    logit = next(r for r in done.readouts if r.kind == "logits").bias[1]
    assert np.abs(logit - expected).max() < _rounding(z.std(), n)
    assert any("read as the logit of class 1" in line for line in said)


def test_one_number_as_it_is(answer: Callable[..., tuple[Run, list[str]]]) -> None:
    """Without labels a single output is a value like any other; and where a spec says so."""
    assert answer("OneLogit", responses=["logits"])[0].names == ["0"]
    done, said = answer("OneProbability", output={"read": "values"})
    assert done.names == ["0"]
    assert not [line for line in said if "class 1" in line]


def test_probabilities_get_no_second_softmax(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    n = 256
    done, said = answer("Softmaxed", n, responses=["label", "confidence", "probabilities"])
    with torch.inference_mode():
        p = foreign.Softmaxed().eval()(images_of(done, n)).numpy().astype(np.float64)
    shares = next(r for r in done.readouts if r.kind == "probabilities").share
    np.testing.assert_allclose(shares, p.mean(axis=0), atol=1e-6)
    outputs = np.asarray(done.map_outputs, dtype=np.float64)
    known = np.isfinite(outputs).all(axis=1)
    confidence = np.array(done.classes["self_confidence"].to_pylist(), dtype=object)[known]
    maps = torch.from_numpy(_shown(done))[torch.from_numpy(known)]
    with torch.inference_mode():
        own = foreign.Softmaxed().eval()(maps).numpy().max(axis=1)
    np.testing.assert_allclose(confidence.astype(float), own, atol=1e-5)
    np.testing.assert_allclose(softmax(outputs[known], axis=1).sum(axis=1), 1, atol=1e-6)
    assert any("no second softmax" in line for line in said)


def _rounding(sd: float, n: int) -> float:
    """How far a map may be off: a step is at most sd / 4,096, its rounding has 1 / sqrt(12) of
    that as its standard deviation, and the mean over n images of noise of sd 1 is 6 errors off.
    """
    return 6 * sd / 4096 / np.sqrt(12 * n)


def _shown(done: Run) -> np.ndarray[Any, np.dtype[np.float32]]:
    from wna_ray.kinds.average.result import map_images

    return map_images(done.stimulus, done.readouts, done.moments)


@pytest.mark.parametrize("centred", [False, True])
def test_independent_outputs(answer: Callable[..., tuple[Run, list[str]]], centred: bool) -> None:
    """Blind outputs are constant, whatever centring does; of those that see, the weights come
    back where they are not mixed with each other.
    """
    side = foreign.HEADS_SIDE
    done, _ = answer(
        "Heads",
        8192,
        stimulus={"shape": [3, side, side]},
        responses=[{"kind": "logits", "centred": centred}],
    )
    (readout,) = done.readouts
    assert readout.note == ("", "", "constant")
    assert np.isnan(readout.p_value[2])
    weights = foreign.Heads().w.detach().numpy().astype(np.float64)
    expected = weights - centred * weights.mean(axis=0)
    reliable = cosine(readout.bias[:2], expected[:2])
    # d = 192 values and N = 8,192: the squared cosine is N / (N + d) = .977 on average, so that
    # the cosine is .9885, with a standard error of .0012 (the noise's energy has one of 10 %).
    assert (reliable > 0.98).all(), reliable
    # 1 / sqrt(N) of noise in each value, relative to the response's sd over the noise's.
    error = np.linalg.norm(expected[:2], axis=1) / np.sqrt(8192)
    assert (np.abs(readout.bias[:2] - expected[:2]).max(axis=1) < 5 * error).all()
    if centred:
        assert done.described.identity["fixed_point"]["logits"]["uncentred"] == [2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Decided", "gives whole numbers"),
        ("ForEveryPixel", r"gives maps \(64, 2, 12, 12\).*layer: last, position: centre"),
        ("Masked", r"outputs 5, 6, 7, 8, 9 of 10 are never finite in the first 64 images"),
        ("NeverWhole", r"outputs 0, 1, .* of 10 are not finite for some"),
        ("Boxes", "gives list of"),
        ("BatchNormed", "answers an image otherwise when its neighbours in the batch change"),
        ("BatchCentred", "answers an image otherwise when its neighbours"),
        ("Branching", "answers an image otherwise when its neighbours"),
    ],
)
def test_what_cannot_be_read_is_refused(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        answer(name)
    assert not (tmp_path / name / "MANIFEST.json").exists()


def test_a_network_that_refuses_nan_has_means_of_units(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    """What units see is found by NaN; a mean over all positions needs no such thing."""
    units = {"target": {"layer": "conv"}, "responses": ["activation"]}
    with pytest.raises(ModelError, match=r"images with NaN .* refuses .*position: mean"):
        answer("NoNan", **units)
    units["target"] = {"layer": "conv", "position": "mean"}
    assert len(answer("NoNan", **units)[0].names) == 8


def test_maps_have_units_at_a_position(answer: Callable[..., tuple[Run, list[str]]]) -> None:
    """What the refusal says to do works: two units, each with a field of 5 x 5 pixels."""
    done, _ = answer(
        "ForEveryPixel",
        target={"layer": "last", "position": "centre"},
        responses=["activation"],
    )
    assert done.names == ["0", "1"]
    assert done.stimulus.patches is not None
    assert (done.stimulus.patches.first.height, done.stimulus.patches.first.width) == (5, 5)


@pytest.mark.parametrize("name", ["SelfCentred", "Choosy"])
def test_what_depends_on_the_image_alone_runs(
    answer: Callable[..., tuple[Run, list[str]]], name: str
) -> None:
    done, said = answer(name)
    assert done.moments.images == 512
    assert not [line for line in said if "neighbours" in line]


def test_a_batch_of_one_has_no_neighbours(answer: Callable[..., tuple[Run, list[str]]]) -> None:
    assert answer("Branching", 64, numerics={"batch": 1})[0].moments.images == 64


def test_view_after_a_convolution(answer: Callable[..., tuple[Run, list[str]]]) -> None:
    """Plain PyTorch runs it on contiguous images, and so does a run, which says so."""
    n = 256
    done, said = answer("Viewed", n)
    x = images_of(done, n)
    with torch.inference_mode():
        y = foreign.Viewed().eval()(x).numpy().astype(np.float64)
    flat = x.numpy().reshape(n, -1).astype(np.float64)
    expected = (y - y.mean(axis=0)).T @ flat / n
    bias = next(r for r in done.readouts if r.kind == "logits").bias
    assert np.abs(bias - expected).max() < _rounding(y.std(axis=0).max(), n)
    assert any("fed contiguous" in line for line in said)
    assert done.described.identity["numerics"]["memory_format"] == "contiguous"


def test_memory_formats_are_chosen_or_given(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    plain, said = answer("Body")
    assert "memory_format" not in plain.described.identity["numerics"]
    assert not [line for line in said if "contiguous" in line]
    with pytest.raises(ModelError, match="view size is not compatible"):
        answer("Viewed", numerics={"batch": 64, "memory_format": "channels_last"})


def test_networks_of_three_dimensions(answer: Callable[..., tuple[Run, list[str]]]) -> None:
    """Weights of five dimensions have no such memory format, which was a traceback once."""
    done, _ = answer("Movies", 128, stimulus={"shape": [24, 6, 6]})
    assert done.names == [str(i) for i in range(5)]


def test_names_of_outputs(answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path) -> None:
    listed, _ = answer("OneLogit", 128, classes=["cat", "dog"])
    assert listed.names == ["cat", "dog"]
    names = [f"class {i}" for i in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    assert answer("Body", 128, classes=str(tmp_path / "names.txt"))[0].names == names
    (tmp_path / "names.json").write_text(json.dumps(names))
    done, _ = answer("InMapping", 128, classes=str(tmp_path / "names.json"))
    assert done.names == names
    with pytest.raises(SpecError, match=r"classes: 2 names, but .* has 10 outputs"):
        answer("InDataclass", classes=["cat", "dog"])
    with pytest.raises(SpecError, match="classes: '1' stands twice"):
        answer("InDataclass", classes=[1] * 10)
    (tmp_path / "names.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="is no text of names"):
        answer("InDataclass", classes=str(tmp_path / "names.bin"))


def test_names_are_no_part_of_a_fingerprint(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    plain, named = answer("Body", 128)[0], answer("InMapping", 128, classes=list("abcdefghij"))[0]
    again, _ = answer("Softmaxed", 128, output={"read": "values"}, classes=list("abcdefghij"))
    assert len({plain.fingerprint, named.fingerprint, again.fingerprint}) == 3
    assert named.described.identity.keys() - plain.described.identity.keys() == {"output"}
