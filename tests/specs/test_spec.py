"""Specs: what is read, what is filled in, and how each fault is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import JOBS_FOLDER
from pydantic import ValidationError

from wna_ray.canonical import canonical
from wna_ray.errors import SpecError
from wna_ray.specs.numerics import ExecutionSpec, NormaliseSpec, NumericsSpec
from wna_ray.specs.parse import read_spec
from wna_ray.specs.response import MomentsSpec, ResponseSpec
from wna_ray.specs.run import EvaluationSpec, Spec
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.specs.sweep import SweepSpec, read_asked
from wna_ray.training.spec import TrainSpec

JOBS = JOBS_FOLDER
EXAMPLE = """
model: bundled:mnist-cnn
stimulus: {kind: gaussian, shape: [1, 28, 28], offset: 0.1307, scale: 0.3}
responses: [label, logits]
samples: 1_000_000
seed: 1
numerics: {dtype: float32, batch: 512}
"""
FULL = """
model: python:net:make?depth=3
stimulus:
  {kind: sparse, shape: [3, 8, 9], offset: mean.npy, scale: 1.5, cell: 2, density: 0.25,
   space: input}
responses: [confidence, {kind: logits, centred: true}, probabilities]
samples: 7
seed: 18446744073709551615
moments: {second: true}
numerics: {dtype: bfloat16, batch: 3, threads: 2, device: cuda}
normalise: {mean: [0.1, 0.2, 0.3], std: [1, 2, 3]}
evaluation: fashion-mnist
execution: {shard: 100, segments: 5, attempts: 1}
"""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    return path


def fault(path: Path, changes: dict[str, Any] | None = None) -> list[str]:
    """Lines of the `SpecError` of a file."""
    with pytest.raises(SpecError) as caught:
        Spec.load(path, changes)
    return str(caught.value).splitlines()


def test_the_example_says_what_it_says(example: Path) -> None:
    assert Spec.load(example) == Spec(
        model="bundled:mnist-cnn",
        stimulus=StimulusSpec(
            kind="gaussian",
            shape=(1, 28, 28),
            offset=0.1307,
            scale=0.3,
            cell=1,
            density=None,
            space="pixel",
        ),
        responses=(
            ResponseSpec(kind="label", centred=True),
            ResponseSpec(kind="logits"),
        ),
        samples=1_000_000,
        seed=1,
        moments=MomentsSpec(second=False),
        numerics=NumericsSpec(dtype="float32", batch=512, threads=1, device="auto"),
        normalise=None,
        evaluation=None,
        execution=ExecutionSpec(shard=None, segments=None, attempts=4),
    )


def test_the_least_spec_fills_in_the_rest() -> None:
    spec = Spec.parse(
        {"model": "m", "stimulus": {"kind": "binary", "shape": [1, 2, 3], "scale": 1}, "samples": 1}
    )
    assert [(r.kind, r.centred) for r in spec.responses] == [("label", True), ("logits", False)]
    assert (spec.seed, spec.stimulus.offset, spec.numerics.batch, spec.numerics.dtype) == (
        0,
        0.0,
        128,
        "float32",
    )


@pytest.mark.parametrize(
    "path",
    sorted(set(JOBS.glob("*.yaml")) - {JOBS / "rayjob.yaml", JOBS / "runtime_env.yaml"}),
    ids=lambda p: p.name,
)
def test_jobs_are_specs(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    spec = TrainSpec.load(path) if "network" in data else read_asked(path)
    if isinstance(spec, SweepSpec):
        full = read_asked(path, full=True) if "full" in data else spec
        assert isinstance(full, SweepSpec)
        assert list(full.members) == list(spec.members)
        return
    asked = spec.model_dump(
        include={"model", "samples", "run", "network", "dataset"}, exclude_none=True
    )
    assert asked == {key: data[key] for key in asked}


def test_a_training_job_is_not_run() -> None:
    path = JOBS / "train-mnist.yaml"
    with pytest.raises(
        SpecError, match=rf"train-mnist.yaml: a training job .*wna train {re.escape(str(path))}$"
    ):
        read_spec(path)


@pytest.mark.parametrize("text", [EXAMPLE, FULL], ids=["example", "full"])
def test_round_trip(text: str) -> None:
    """Through plain values, through JSON, and through YAML again."""
    spec = Spec.parse(yaml.safe_load(text))
    assert Spec.parse(spec.model_dump()) == spec
    assert Spec.parse(spec.model_dump(mode="json")) == spec
    assert Spec.parse(yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))) == spec


def test_the_full_spec_keeps_every_value() -> None:
    spec = Spec.parse(yaml.safe_load(FULL))
    assert spec.seed == 2**64 - 1
    assert (
        spec.stimulus.offset,
        spec.stimulus.cell,
        spec.stimulus.density,
        spec.stimulus.space,
    ) == ("mean.npy", 2, 0.25, "input")
    assert [(r.kind, r.centred) for r in spec.responses] == [
        ("confidence", True),
        ("logits", True),
        ("probabilities", True),
    ]
    assert spec.normalise == NormaliseSpec(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert (spec.moments.second, spec.evaluation, spec.execution.shard) == (
        True,
        EvaluationSpec(dataset="fashion-mnist"),
        100,
    )


def test_dotted_changes(example: Path) -> None:
    changes = {
        "samples": 64,
        "stimulus.scale": 0.5,
        "stimulus.offset": "bundled:mnist-mean",
        "execution.shard": 32,
    }
    spec, plain = Spec.load(example, changes), Spec.load(example)
    assert (spec.samples, spec.stimulus.scale, spec.stimulus.offset) == (
        64,
        0.5,
        "bundled:mnist-mean",
    )
    assert spec.execution == ExecutionSpec(shard=32)  # `execution` does not stand in the file
    assert (
        spec.model_copy(update={k: getattr(plain, k) for k in ("samples", "stimulus", "execution")})
        == plain
    )


def test_specs_are_frozen(example: Path) -> None:
    spec = Spec.load(example)
    with pytest.raises(ValidationError, match="frozen"):
        spec.samples = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        spec.stimulus.scale = 3.0  # type: ignore[misc]
    assert len({spec, Spec.load(example)}) == 1  # equal and hashable


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("sampels", 3, ("sampels: unknown key", "samples", "stimulus")),
        (
            "stimulus.sd",
            0.3,
            (
                "stimulus.sd: unknown key",
                (
                    "kind, shape, offset, scale, cell, density, spectrum, basis, dataset, split,"
                    " classes, space"
                ),
            ),
        ),
        (
            "numerics.precision",
            "high",
            ("numerics.precision: unknown key", "dtype, batch, threads, device"),
        ),
        ("moments.third", True, ("moments.third: unknown key", "known here are second")),
        ("execution.workers", 3, ("execution.workers: unknown key", "shard, segments, attempts")),
        (
            "responses",
            ["label", {"kind": "logits", "center": True}],
            ("responses.1.center: unknown key", "kind, centred"),
        ),
        (
            "responses",
            ["label", "logit"],
            (
                "responses.1.kind",
                (
                    "'label', 'confidence', 'logits', 'probabilities', 'activation', 'rectified' or"
                    " 'spikes'"
                ),
            ),
        ),
        (
            "responses",
            ["label", "logits", "label"],
            ("responses: each kind may stand once", "label, logits, label"),
        ),
        ("responses", [], ("responses", "at least 1")),
        ("responses", "label", ("responses",)),
        ("stimulus.kind", "pink", ("stimulus.kind", "gaussian", "sparse")),
        ("stimulus.shape", [28, 28], ("stimulus.shape",)),
        ("stimulus.shape", [1, 0, 28], ("stimulus.shape.1", "greater than or equal to 1")),
        ("stimulus.scale", 0, ("stimulus.scale", "greater than 0")),
        ("stimulus.scale", float("inf"), ("stimulus.scale", "less than")),
        ("stimulus.cell", 29, ("stimulus: cell", "29", "28 x 28")),
        ("stimulus.density", 0.5, ("density", "sparse")),
        ("stimulus.space", "fourier", ("stimulus.space", "'pixel' or 'input'")),
        ("samples", 0, ("samples", "greater than or equal to 1")),
        ("samples", "many", ("samples", "integer")),
        ("samples", 2**40 + 1, ("samples", str(2**40))),
        ("seed", -1, ("seed", "greater than or equal to 0")),
        ("seed", 2**64, ("seed", str(2**64))),
        ("numerics.dtype", "float64", ("numerics.dtype", "'float32', 'bfloat16' or 'float16'")),
        ("numerics.batch", 0, ("numerics.batch", "1")),
        ("normalise", {"mean": [0.1]}, ("normalise.std", "required")),
        ("normalise", {"mean": [0.1], "std": [0]}, ("normalise.std.0", "greater than 0")),
        (
            "evaluation",
            "imagenet",
            (
                "evaluation.dataset",
                "'mnist', 'fashion-mnist', 'cifar-10', 'imagenet-sample' or 'none'",
            ),
        ),
        ("execution.attempts", 0, ("execution.attempts", "1")),
    ],
)
def test_a_fault_names_file_key_and_choices(
    example: Path, key: str, value: object, words: tuple[str, ...]
) -> None:
    lines = fault(example, {key: value})
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{example}: "), lines
    assert [word for word in words if word not in lines[0]] == [], lines


def test_every_fault_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("model: m\nstimulus: {kind: gaussian, scale: -1}\nseed: -1\nsampels: 3\n")
    lines = fault(path)
    assert all(line.startswith(f"{path}: ") for line in lines), lines
    keys = sorted(line.removeprefix(f"{path}: ").split(":")[0] for line in lines)
    assert keys == ["sampels", "samples", "seed", "stimulus.scale", "stimulus.shape"]


@pytest.mark.parametrize("missing", ["model", "stimulus", "samples"])
def test_missing_fields(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        yaml.safe_dump({k: v for k, v in yaml.safe_load(EXAMPLE).items() if k != missing})
    )
    assert fault(path) == [f"{path}: {missing}: Field required"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"model: [1, 2", "not valid YAML"),
        (b"a: b: c\n", "not valid YAML"),
        (b"- model\n- samples\n", "expected a mapping.*got list"),
        (b"", "expected a mapping.*got NoneType"),
        (b"just words\n", "expected a mapping.*got str"),
        (b"model: \xff\xfe\n", "cannot be read as text"),
    ],
)
def test_files_that_are_no_specs(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    (line,) = fault(path)
    assert re.fullmatch(f"{re.escape(str(path))}: {words}.*", line), line


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert fault(tmp_path / "none.yaml") == [
        f"{tmp_path / 'none.yaml'}: no such file; give a YAML spec such as those in jobs/"
    ]
    (line,) = fault(tmp_path)
    assert line.startswith(f"{tmp_path}: cannot be read"), line


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"model: !!python/object/apply:builtins.open ['{tmp_path / 'marker'}', 'w']\n")
    assert "not valid YAML" in fault(path)[0]
    assert not (tmp_path / "marker").exists()


def test_changes_below_something_that_is_no_mapping(example: Path) -> None:
    (line,) = fault(example, {"samples.most": 3})
    assert "--set samples.most" in line, line
    assert "'samples' is not a mapping" in line, line
    (line,) = fault(example, {"responses.0.kind": "label"})
    assert "'responses' is not a mapping" in line, line


def test_changes_below_something_that_is_no_mapping_name_the_file(example: Path) -> None:
    (line,) = fault(example, {"samples.most": 3})
    assert str(example) in line, line


def test_one_faulty_response_is_one_fault(example: Path) -> None:
    lines = fault(example, {"responses": ["lables"]})
    assert len(lines) == 1, lines


@pytest.mark.parametrize("key", ["stimulus.offset", "normalise.mean", "normalise.std"])
def test_numbers_are_finite(example: Path, key: str) -> None:
    normalise = {"mean": [0.0], "std": [1.0]}
    bad = float("inf") if key == "stimulus.offset" else [float("inf")]
    (line,) = fault(example, {"normalise": normalise, key: bad})
    assert key.split(".")[0] in line, line
    assert "finite" in line, line


def test_canonical_is_one_text_for_one_meaning() -> None:
    assert (
        canonical({"b": [1, 0.1], "a": {"d": None, "c": True}})
        == '{"a":{"c":true,"d":null},"b":[1,0.1]}'
    )
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"a": float("nan")})
