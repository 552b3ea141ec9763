"""What cannot fit is refused before it starts, with the number to change; what fits is let
through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from prepared import prepared

from wna_ray.errors import SpecError
from wna_ray.execution.local import InProcessExecutor
from wna_ray.execution.plan import fan_in
from wna_ray.execution.worker import Worker
from wna_ray.kinds.average.job import execute, row_bytes
from wna_ray.kinds.average.memory import check, expected_rows, needs
from wna_ray.machine import Machine, available
from wna_ray.runs.directory import RunDirectory
from wna_ray.shards.job import Job
from wna_ray.specs.run import Spec
from wna_ray.text import size

GB = 10**9
MakeSpec = Callable[..., Spec]


@pytest.fixture
def imagenet(make_spec: MakeSpec) -> Job:
    """1,000 outputs, 150,528 values an image: the job of a real ImageNet network, without the
    network.
    """
    _, introduction = Worker(make_spec(), "cpu").introduce()
    spec = make_spec(stimulus={"shape": [3, 224, 224]}, responses=["label", "logits"])
    return replace(
        introduction.job,
        spec=spec,
        names=tuple(str(i) for i in range(1000)),
        offset=np.zeros((1, 1, 1), np.float32),
    )


def test_the_rows_that_are_expected(imagenet: Job) -> None:
    """Logits keep all 1,000 rows, labels those that noise reaches: 6 in the first batch may
    become 28. And one row of sums.
    """
    assert expected_rows(imagenet, {"label": 6}) == 1 + 28 + 1000
    assert expected_rows(imagenet, {"label": 900}) == 1 + 1000 + 1000
    assert expected_rows(imagenet, {}) == 2001


def test_needs_of_an_imagenet_run(imagenet: Job) -> None:
    """k = 1,000 and d = 150,528 as int64: 1.2 GB a partial, twice what the float32 of the issue
    takes.
    """
    rows = expected_rows(imagenet, {"label": 6})
    need = needs(imagenet, rows, fan_in(rows * row_bytes(imagenet)))
    assert need.partial == 1029 * 150_528 * 8
    assert size(need.partial) == "1.24 GB"
    assert 4 * need.partial < need.worker < 4 * need.partial + 2 * GB
    assert need.store == 3 * need.partial, "two that are merged, and the sum"


@pytest.mark.parametrize(
    "machines, driver, words",
    [
        (
            [Machine("10.0.0.7", 4 * GB, 100 * GB, 1)],
            None,
            r"a worker needs .* GB .*10\.0\.0\.7 has 4 GB.* for 1 worker, which is enough for 0",
        ),
        (
            [Machine("10.0.0.7", 100 * GB, 3 * GB, 1)],
            None,
            r"and 3\.7\d GB of object store .* 3 GB of object store",
        ),
        (
            [Machine("10.0.0.7", 14 * GB, 50 * GB, 4)],
            None,
            r"for 4 workers, which is enough for 2; change numerics\.threads",
        ),
        ([], 3 * GB, r"the driver needs .* has 3 GB"),
    ],
)
def test_what_does_not_fit_names_the_numbers_to_change(
    imagenet: Job, machines: list[Machine], driver: int | None, words: str
) -> None:
    rows = expected_rows(imagenet, {"label": 6})
    need = needs(imagenet, rows, 2)
    with pytest.raises(SpecError, match=words) as told:
        check(imagenet, rows, need, machines, driver)
    assert "responses: without logits (each keeps a row for all 1,000 outputs)" in str(told.value)
    cell = re.search(r"stimulus\.cell: (\d+) instead of 1", str(told.value))
    assert cell is not None
    smaller = replace(
        imagenet,
        spec=imagenet.spec.model_copy(
            update={"stimulus": imagenet.spec.stimulus.model_copy(update={"cell": 3})}
        ),
    )
    check(
        smaller, rows, needs(smaller, rows, 2), machines, driver
    )  # a change of the kind that was named helps


def test_what_fits_is_let_through(imagenet: Job) -> None:
    rows = expected_rows(imagenet, {"label": 6})
    check(
        imagenet,
        rows,
        needs(imagenet, rows, 2),
        [Machine("a", 64 * GB, 30 * GB, 4), Machine("b", 8 * GB, 8 * GB, 1)],
        16 * GB,
    )


def test_a_segment_is_one_object(imagenet: Job) -> None:
    with pytest.raises(SpecError, match=r"6\.02 GB, but a segment is one object of at most 5 GB"):
        check(imagenet, 5000, needs(imagenet, 5000, 2), [], None)


def test_a_run_is_refused_before_it_computes_or_writes(
    tmp_path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    executor = InProcessExecutor(spec)
    monkeypatch.setattr(executor, "machines", lambda: [Machine("tiny", 10**6, None, 1)])
    with pytest.raises(SpecError, match="tiny has 1 MB for 1 worker"):
        execute(spec, RunDirectory(str(tmp_path / "run")), executor, lambda _: None)
    assert not (tmp_path / "run").exists()


def test_free_memory_is_about_what_the_system_says() -> None:
    free = available()
    assert free is not None
    assert 50 << 20 < free < 1 << 46


def test_answers_to_all_maps_are_counted(make_spec: MakeSpec) -> None:
    """Of 20,000 outputs: a row of 20,000 numbers for each of 20,000 maps, and once more as a file,
    whatever the pixels are; refused before anything is computed, and pixels are not blamed.
    """
    spec = make_spec(
        model="python:networks_for_tests:linear?k=20000", responses=["label"], samples=64
    )
    job, _ = prepared(spec)
    need = needs(job, 30, 2)
    assert need.answers == 2 * 4 * 20_000**2
    assert need.driver > need.answers
    with pytest.raises(
        SpecError, match=r"20,000 outputs for each of 20,000 maps .* fewer outputs"
    ) as e:
        check(job, 30, need, [], 2 * GB)
    assert "cell" not in str(e.value)
