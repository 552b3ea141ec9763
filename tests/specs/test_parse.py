"""YAML without surprises: what people and programs read differently, and what fills the memory,
is one sentence.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import yaml

from wna_ray.errors import SpecError
from wna_ray.specs.run import Spec
from wna_ray.specs.yaml_text import MOST_TEXT, parse_yaml, read_text

SPEC = """
model: bundled:mnist-cnn
stimulus: {kind: gaussian, shape: [1, 28, 28], offset: 0.5, scale: 0.3}
"""
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
)
MERGES = "z0: &z0 {a: 1}\n" + "".join(
    f"z{i + 1}: &z{i + 1} {{<<: [{', '.join([f'*z{i}'] * 9)}]}}\n" for i in range(9)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(2000))

REFUSED = {
    "a key twice": ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' stands twice"),
    "a key twice, in quotes": ("a: 1\n'a': 2", "line 2: the key 'a' stands twice"),
    "base 60": ("a: 1:30:00", "1:30:00 would be a number in base 60; put it in quotes"),
    "base 60 with a fraction": ("a: 1:30.5", "in base 60"),
    "octal": ("a: 010", "010 would be an octal number"),
    "a negative octal": ("a: -010", "would be an octal number"),
    "five thousand digits": ("a: " + "9" * 5000, "a number of 5,000 digits"),
    "a float of five thousand digits": ("a: 0." + "9" * 5000, "a number of 5,002 digits"),
    "a bomb of aliases": (
        LAUGHS,
        "more than 100,000 values on 64 levels, its aliases (*) written out",
    ),
    "a bomb of merges": (MERGES, "merge keys (<<) that stand for too many values"),
    "a chain of aliases": (
        CHAIN,
        "more than 100,000 values on 64 levels, its aliases (*) written out",
    ),
    "a quarter of a million values": ("a: [" + "1," * 250_000 + "1]", "more than 100,000 values"),
    "a list in itself": ("x: &x [*x]", "its aliases (*) written out"),
    "a mapping in itself": ("x: &x {a: *x}", "its aliases (*) written out"),
    "brackets": ("x: " + "[" * 100_000, "nested deeper than 64 levels"),
    "braces": ("{a: " * 3000, "nested deeper than 64 levels"),
    "a call": (
        "a: !!python/object/apply:os.system ['touch x']",
        "could not determine a constructor",
    ),
    "a set": ("a: !!set {x, y}", "could not determine a constructor"),
    "binary": ("a: !!binary aGk=", "could not determine a constructor"),
    "no number": ("a: !!int x", "not valid YAML"),
    "a terminal's command": ("a: \x1b[2J", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "an unknown alias": ("a: *b", "undefined alias"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_be_misread_is_one_sentence_at_once(what: str) -> None:
    text, words = REFUSED[what]
    begin = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "spec.yaml")
    assert time.process_time() - begin < 5
    assert str(caught.value).startswith("spec.yaml: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        (
            "a: 1\nb: [1.5, 2.0e+3, .inf, true, yes, null, ~, text, 'it', 0x10, 10_000, -3, 0, 0.0,"
            " 1e3]"
        ),
        "x: &x {a: 1}\ny: {<<: *x, b: 2}\nz: {<<: [*x, {c: 3}], a: 5}",
        "a: &a [1, 2]\nb: *a",
        "a: |\n  two\n  lines\nb: >\n  folded",
        "'1:30': '010'",
        "",
    ],
)
def test_everything_else_is_read_as_pyyaml_does(text: str) -> None:
    assert parse_yaml(text, "x") == yaml.safe_load(text)


def test_a_date_is_a_word() -> None:
    assert parse_yaml("a: 2026-11-27", "x") == {"a": "2026-11-27"}


@pytest.mark.parametrize("value", ["yes", "true", "off"])
@pytest.mark.parametrize(
    "key", ["samples", "seed", "stimulus.scale", "stimulus.shape", "numerics.batch"]
)
def test_truth_values_are_no_numbers(key: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC + "samples: 10\n")
    changed = parse_yaml(value if key != "stimulus.shape" else f"[{value}, 28, 28]", "x")
    with pytest.raises(SpecError, match=rf"{key.rpartition('.')[2]}: expected no truth value"):
        Spec.load(tmp_path / "spec.yaml", {key: changed})


def test_lists_in_lists_are_refused_however_deep() -> None:
    deep: object = 1
    for _ in range(900):
        deep = [deep]
    with pytest.raises(SpecError, match="samples: Input should be a valid integer"):
        Spec.parse(
            {
                "model": "x",
                "samples": deep,
                "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "scale": 1},
            }
        )


def test_truth_values_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        SPEC + "samples: 10\nkeep_responses: yes\nresponses: [{kind: logits, centred: no}]\n"
    )
    spec = Spec.load(tmp_path / "spec.yaml")
    assert spec.keep_responses
    assert not spec.responses[0].centred


def test_thousands_of_faults_are_a_dozen_lines(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        SPEC + "samples: 10\n" + "".join(f"k{i}: 1\n" for i in range(5000))
    )
    with pytest.raises(SpecError) as caught:
        Spec.load(tmp_path / "spec.yaml")
    assert str(caught.value).count("\n") == 12
    assert str(caught.value).endswith("and 4,988 more faults")


def test_files_that_are_no_specs(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("#" * (MOST_TEXT + 1))
    (tmp_path / "latin.yaml").write_bytes(b"model: \xff")
    os.mkfifo(tmp_path / "nobody-writes")
    for path, words in (
        (tmp_path / "large.yaml", "has more than 1,048,576 bytes"),
        (tmp_path / "latin.yaml", "cannot be read as text"),
        (tmp_path, "it is no file"),
        (Path("/dev/zero"), "it is no file"),
        (tmp_path / "nowhere.yaml", "no such file"),
    ):
        with pytest.raises(SpecError, match=words):
            read_text(path)
    assert read_text(tmp_path / "nobody-writes") == ""


def test_a_pipe_that_somebody_writes_to_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader, writer = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), os.open(pipe, os.O_WRONLY)

    def write() -> None:
        time.sleep(0.2)
        os.write(writer, b"samples: 1\n")
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    assert read_text(pipe) == "samples: 1\n"
    thread.join()
    os.close(reader)
