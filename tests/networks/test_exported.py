"""Exported programs: honest ones give bit for bit what torch gives."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping

import pytest
import torch
from crafted_exports.archives import archive
from crafted_exports.honest import Honest, exported
from exported_examples import EXAMPLES, FREE, Classifier, by_torch, same, saved
from torch import nn

from wna_ray.networks.exported.reader import load_exported


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_program_gives_bit_for_bit_what_torch_gives(name: str) -> None:
    """Twice, since it may change its buffers; and it has the same weights by the same names."""
    base = saved(EXAMPLES[name])
    ours, theirs = load_exported(base.data), by_torch(base)
    for _ in range(2):
        torch.manual_seed(4)
        wanted = base.outputs(theirs)
        torch.manual_seed(4)
        assert same(base.outputs(ours), wanted)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert same(list(ours.state_dict().values()), list(theirs.state_dict().values()))
    mine, other = ({n: p.requires_grad for n, p in m.named_parameters()} for m in (ours, theirs))
    assert mine == other


def test_outputs_are_packed_as_the_network_packs_them() -> None:
    base = saved(EXAMPLES["several outputs"])
    found, wanted = load_exported(base.data)(base.x), by_torch(base)(base.x)
    assert (list(found), type(found["b"]), type(found["c"])) == (["a", "b", "c"], list, OrderedDict)
    assert isinstance(found["a"], tuple)
    assert found["a"][1] is wanted["a"][1] is None
    assert torch.equal(found["c"]["top"][1], wanted["c"]["top"].indices)


def test_gradients_are_those_of_torch() -> None:
    base = saved(EXAMPLES["transformer"])
    found, wanted = (x.clone().requires_grad_() for x in (base.x, base.x))
    load_exported(base.data)(found).square().sum().backward()
    by_torch(base)(wanted).square().sum().backward()
    assert torch.equal(found.grad, wanted.grad)


@pytest.mark.parametrize("name", ["half precision", "constants", "core operators"])
def test_in_another_arithmetic_it_still_gives_what_torch_gives(name: str) -> None:
    """Weights change their type, constants do not."""
    base = saved(EXAMPLES[name])
    ours, theirs = load_exported(base.data).float(), by_torch(base).float()
    fed = Honest(base.data, base.x.float(), base.more)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert same(fed.outputs(ours), fed.outputs(theirs))


def test_constants_go_where_the_weights_go(bases: Mapping[str, Honest]) -> None:
    """To a device without memory, since there may be no other here."""
    base = bases["fixed"]
    module = load_exported(base.data).to("meta")
    found = module(base.x.to("meta"))
    assert (found["first"].device.type, found["first"].shape) == ("meta", (2, 5))


def test_a_program_of_any_batch_takes_any_batch() -> None:
    torch.manual_seed(3)
    network = Classifier().eval()
    module = load_exported(exported(network, torch.randn(4, 3, 8, 8), **FREE).data)
    for n in (1, 2, 7, 64):
        x = torch.randn(n, 3, 8, 8)
        assert torch.equal(module(x), network(x))


@pytest.mark.parametrize(
    "shape, words",
    [
        ((4, 3, 8, 9), r"'x' is \(4, 3, 8, 9\); exported for \(4, 3, 8, 8\)"),
        ((5, 3, 8, 8), r"'x' is \(5, 3, 8, 8\); exported for \(4, 3, 8, 8\)"),
        ((4, 3, 8), r"'x' is \(4, 3, 8\)"),
    ],
)
def test_an_input_of_another_size_is_refused(shape: tuple[int, ...], words: str) -> None:
    module = load_exported(saved(EXAMPLES["classifier"]).data)
    with pytest.raises(ValueError, match=words):
        module(torch.zeros(shape))


def test_a_batch_outside_the_range_is_refused() -> None:
    free = {"dynamic_shapes": ({0: torch.export.Dim("n", min=3, max=6)},)}
    module = load_exported(exported(Classifier().eval(), torch.randn(4, 3, 8, 8), **free).data)
    assert module(torch.zeros(6, 3, 8, 8)).shape == (6, 4)
    for n in (2, 7):
        with pytest.raises(ValueError, match=r"exported for \(any, 3, 8, 8\)"):
            module(torch.zeros(n, 3, 8, 8))


def test_other_arguments_than_those_of_the_export_are_refused() -> None:
    base = saved(EXAMPLES["constants"])
    module = load_exported(base.data)
    assert isinstance(module(base.x, scale=1.25), torch.Tensor)
    for arguments, more in (((base.x,), {}), ((base.x, 1.25), {}), ((), {"x": base.x})):
        with pytest.raises(TypeError, match="exported for"):
            module(*arguments, **more)
    with pytest.raises(ValueError, match=r"'scale' was exported as 1\.25"):
        module(base.x, scale=1.5)
    with pytest.raises(TypeError, match="must be a tensor, not a list"):
        module([1.0], scale=1.25)


def test_files_beside_the_program_are_let_be() -> None:
    network, buffer = Classifier().eval(), io.BytesIO()
    program = torch.export.export(network, (torch.randn(4, 3, 8, 8),))
    torch.export.save(program, buffer, extra_files={"notes/labels.txt": "cat\ndog"})
    assert isinstance(load_exported(buffer.getvalue()), nn.Module)


def test_an_archive_written_by_another_writer_is_the_same(bases: Mapping[str, Honest]) -> None:
    for base in bases.values():
        again = archive(base, {})
        assert same(base.outputs(load_exported(again)), base.outputs(by_torch(base)))
