"""What a network gives is read for what it is, or refused with the way out."""

from __future__ import annotations

from typing import Any

import foreign_networks as foreign
import pytest
import torch

from wna_ray.errors import ModelError
from wna_ray.networks.outputs import (
    check_rows,
    choose_field,
    describe,
    layer_that_gives,
    read_kind,
    rows_of,
    tensor_at,
)
from wna_ray.networks.reading import Kind, Reading

N, IMAGES = 16, torch.randn(16, 3, foreign.SIDE, foreign.SIDE, generator=torch.manual_seed(0))


def output_of(name: str) -> Any:
    """What a network gives for the images."""
    with torch.inference_mode():
        return foreign.NETWORKS[name]().eval()(IMAGES)


def scores() -> torch.Tensor:
    """What the plain network gives, which most others have inside."""
    y: torch.Tensor = output_of("Body")
    return y


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Body", ""),
        ("InMapping", "logits"),
        ("InDataclass", "logits"),
        ("WithMaps", "1"),
    ],
)
def test_the_obvious_tensor_is_taken(name: str, field: str) -> None:
    output = output_of(name)
    assert choose_field(output, N, None, "net") == field
    torch.testing.assert_close(tensor_at(output, field), scores(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("Pair", "tuple of 0 (16, 10), 1 (16, 8); output: NAME chooses one"),
        ("InNamedTuple", "Named of scores (16, 10), aux (16, 8); output: NAME chooses one"),
        ("Nested", "dict of heads.color (16, 10), heads.size (16, 8); output: NAME chooses one"),
        ("Boxes", "list of 0.boxes (1, 4), 0.scores (1,), 1.boxes (1, 4)"),
    ],
)
def test_fields_are_listed_where_none_is_obvious(name: str, listed: str) -> None:
    with pytest.raises(ModelError) as error:
        choose_field(output_of(name), N, None, "net")
    assert f"net gives {listed}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Pair", "0"),
        ("InNamedTuple", "scores"),
        ("InNamedTuple", "0"),
        ("Nested", "heads.color"),
    ],
)
def test_a_field_is_chosen_by_name(name: str, field: str) -> None:
    output = output_of(name)
    assert choose_field(output, N, field, "net") == field
    torch.testing.assert_close(tensor_at(output, field), scores(), rtol=0, atol=0)


@pytest.mark.parametrize("field", ["2", "heads", "logits", "0.0"])
def test_a_field_that_is_not_there(field: str) -> None:
    with pytest.raises(ModelError, match=rf"output: net gives no tensor '{field}', but tuple of 0"):
        choose_field(output_of("Pair"), N, field, "net")


def test_a_name_with_dots_is_found_before_a_path() -> None:
    output = {"a.b": scores(), "a": {"b": torch.zeros(N, 2)}}
    assert tensor_at(output, "a.b") is output["a.b"]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.zeros(N, 2, 5, 5), r"gives maps \(16, 2, 5, 5\).*layer: NAME, position: centre"),
        (torch.zeros(N, 7, 5), r"gives maps \(16, 7, 5\)"),
        (torch.zeros(N, dtype=torch.int64), r"gives whole numbers \(int64, \(16,\)\).*argmax"),
        (torch.zeros(N, 3, dtype=torch.bool), r"gives whole numbers \(bool"),
        (torch.zeros(N + 1, 3), r"gave \(17, 3\); expected one row of outputs for each of 16"),
        (torch.zeros(N, 0), r"gave \(16, 0\); expected one row"),
        (torch.zeros(()), r"gave \(\); expected one row"),
        (None, "gave NoneType; expected one row"),
    ],
)
def test_what_is_no_row_of_numbers_is_refused(y: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check_rows(y, N, "net")


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 4), (N, 4, 1, 1)])
def test_rows_are_rows(shape: tuple[int, ...]) -> None:
    y = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    rows = rows_of(Reading(), check_rows(y, N, "net"))
    assert rows.shape == (N, y.numel() // N)
    assert rows.flatten().tolist() == y.flatten().tolist()


@pytest.mark.parametrize(
    ("name", "read", "labelled", "kind"),
    [
        ("Body", "auto", True, "scores"),
        ("Softmaxed", "auto", True, "probabilities"),
        ("Softmaxed", "values", True, "scores"),
        ("Softmaxed", "logits", True, "scores"),
        ("OneLogit", "auto", True, "one logit"),
        ("OneLogit", "auto", False, "scores"),
        ("OneProbability", "auto", True, "one probability"),
        ("OneProbability", "logits", True, "one logit"),
        ("OneProbability", "values", True, "scores"),
        ("OneProbability", "probabilities", False, "one probability"),
    ],
)
def test_what_rows_are(name: str, read: Any, labelled: bool, kind: Kind) -> None:
    y = output_of(name).reshape(N, -1)
    assert read_kind(read, y, labelled, torch.float32) == kind


def test_shares_that_do_not_add_up_are_no_probabilities() -> None:
    """Several independent probabilities are scores, unless a spec insists, which is refused."""
    y = torch.sigmoid(scores())
    assert read_kind("auto", y, True, torch.float32) == "scores"
    with pytest.raises(ModelError, match="outputs add up to 1 only within"):
        read_kind("probabilities", y, True, torch.float32)
    with pytest.raises(ModelError, match=r"outputs leave \[0, 1\]"):
        read_kind("probabilities", scores(), True, torch.float32)


def test_a_softmax_is_not_taken_twice() -> None:
    """The softmax of what is read is what the network gave; and its labels are the same."""
    y = output_of("Softmaxed")
    rows = rows_of(Reading(kind="probabilities"), y)
    torch.testing.assert_close(rows.softmax(1), y, rtol=1e-6, atol=0)
    centred = rows - rows.mean(1, keepdim=True)
    expected = scores() - scores().mean(1, keepdim=True)
    torch.testing.assert_close(centred, expected, rtol=0, atol=1e-5)


def test_one_logit_has_two_labels() -> None:
    z = output_of("OneLogit")
    rows = rows_of(Reading(kind="one logit"), z)
    assert rows.argmax(1).tolist() == (z > 0).int().tolist()
    assert 0 < int((z > 0).sum()) < N, "both are there"
    torch.testing.assert_close(rows.softmax(1)[:, 1], z.sigmoid(), rtol=1e-6, atol=0)


def test_one_probability_has_two_labels() -> None:
    p = output_of("OneProbability")
    rows = rows_of(Reading(kind="one probability"), p)
    torch.testing.assert_close(rows.softmax(1)[:, 1], p[:, 0], rtol=1e-6, atol=0)
    assert rows.argmax(1).tolist() == (p[:, 0] > 0.5).int().tolist()


def test_certain_probabilities_stay_finite() -> None:
    sure = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert rows_of(Reading(kind="probabilities"), sure).isfinite().all()
    assert rows_of(Reading(kind="one probability"), sure[:, :1]).isfinite().all()


def test_the_layer_that_gives_maps_is_named() -> None:
    network = foreign.ForEveryPixel().eval()
    assert layer_that_gives(network, IMAGES, "") == "last"
    assert layer_that_gives(network, IMAGES, "") == "last", "the hooks are gone"
    assert layer_that_gives(foreign.Softmaxed().eval(), IMAGES, "") == ""


def test_a_description_is_short() -> None:
    many = {f"field{i}": torch.zeros(1) for i in range(100)}
    assert describe(many).endswith("field11 (1,), and 88 more")
    assert describe(torch.zeros(2, 3)) == "a tensor (2, 3)"
    assert describe([1, "a"]) == "list"
