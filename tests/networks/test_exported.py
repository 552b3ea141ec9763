"""Exported programs: honest ones give bit for bit what torch gives, hostile ones run nothing.

The hostile ones are those of `crafted_exports`. Some of them are first shown to torch's own
reader, in another process, where they do their harm; so it is known that they are real.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crafted_exports
import pytest
import torch
import torch.nn.functional as F
import torchvision
from crafted_exports import Crafted, Honest, altered, exported
from torch import nn

from wna_ray.networks.exported.archive import Refused
from wna_ray.networks.exported.operators import OPERATORS, find_overload
from wna_ray.networks.exported.reader import load_exported

FREE = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
ANYTHING = (Exception,)  # whatever a reader or a program raises, but for what ends a process
GROUPS = (
    *("members", "twins", "foreign", "archives", "treespecs", "sizes", "names", "conditions"),
    *("targets", "arguments", "pickles", "metadata", "versions", "texts", "weights", "struck"),
)


# Honest programs.


class Classifier(nn.Module):
    """Convolution, normalisation, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 4)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(self.body(x), 2).mean((2, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.drop(self.features(x)))


class Several(Classifier):
    """A dictionary of a tuple, a list, an ordered dictionary and what torch returns of topk."""

    def forward(self, x: torch.Tensor) -> Any:
        y = self.head(self.features(x))
        first, *rest = y.split([1, 2, 1], 1)
        return {"a": (y, None), "b": rest, "c": OrderedDict(top=y.topk(2), first=first)}


class Attention(nn.Module):
    """A transformer of patches with a class token."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, activation="gelu")
        self.patches, self.encoder = nn.Conv2d(3, 16, 4, stride=4), nn.TransformerEncoder(layer, 1)
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.token.expand(x.shape[0], -1, -1), t], 1)
        return self.head(self.encoder(t)[:, 0])


class Recurrent(nn.Module):
    """Rows of an image one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 6, 2, batch_first=True, bidirectional=True)
        self.gru, self.head = nn.GRU(12, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(x.transpose(1, 2).flatten(2))
        return self.head(self.gru(y.transpose(0, 1))[0][-1])


class Constants(nn.Module):
    """Buffers of all kinds, tied weights, constants, and operators with words."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("passing", torch.rand(3, 1, 1), persistent=False)
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.fixed = torch.rand(3).double()

    def forward(self, x: torch.Tensor, scale: float = 1.5, mask: Any = None) -> torch.Tensor:
        x = F.interpolate((x - self.mean.float()) * self.passing, scale_factor=2.0, mode="bilinear")
        y = torch.einsum("nchw,dc->ndhw", F.gelu(x, approximate="tanh"), self.second.weight)
        y = F.pad(y, (1, 1, 2, 2), mode="reflect").mean((2, 3)) * scale + self.fixed.float()
        return self.first(y).div(torch.tensor([0.5]), rounding_mode="floor")


class Parts(Classifier):
    """Parts without gradients and in mixed precision, and sizes that are computed with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.features(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.head(y)
        return torch.cat([z.float().reshape(x.shape[0] * 2, 2), y.reshape(-1, 2)])


class Counting(nn.Module):
    """Changes a buffer and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        x.mul_(2)
        return x.sum((1, 2, 3)) + self.seen


class Finding(nn.Module):
    """Computes with sizes that depend on the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = (x > 1).nonzero()
        return x.sum((1, 2, 3)) * found.shape[0] + x[0, 0, 0, 0].item()


@dataclass(frozen=True)
class Example:
    """A network, how it is exported, and what it is given besides an image."""

    make: Callable[[], nn.Module]
    options: Mapping[str, Any] | None = None
    size: int = 8
    mode: str = "eval"
    more: Mapping[str, Any] | None = None


EXAMPLES = {
    "classifier": Example(Classifier),
    "any batch": Example(Classifier, FREE),
    "train mode": Example(Classifier, mode="train"),
    "half precision": Example(Classifier, mode="half"),
    "core operators": Example(Classifier, mode="core"),
    "core operators in train mode": Example(Classifier, mode="core train"),
    "several outputs": Example(Several),
    "transformer": Example(Attention),
    "transformer, any batch": Example(Attention, FREE),
    "recurrent": Example(Recurrent),
    "constants": Example(Constants, more={"scale": 1.25}),
    "parts": Example(Parts, FREE),
    "counting": Example(Counting),
    "counting in core operators": Example(Counting, mode="core"),
    "finding": Example(Finding),
    "finding, any batch": Example(Finding, FREE),
    "resnet18": Example(lambda: torchvision.models.resnet18(weights=None), size=32),
    "mobilenet_v2": Example(lambda: torchvision.models.mobilenet_v2(weights=None), size=32),
}


def saved(example: Example) -> Honest:
    """A network as `torch.export.save` writes it."""
    torch.manual_seed(3)
    network, x = example.make(), torch.randn(4, 3, example.size, example.size)
    network.train("train" in example.mode)
    if example.mode == "half":
        network, x = network.half(), x.half()
    if "core" not in example.mode:
        return exported(network, x, example.more, **(example.options or {}))
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (x,)).run_decompositions(), buffer)
    return Honest(buffer.getvalue(), x)


def by_torch(base: Honest) -> nn.Module:
    """The module that torch's own reader gives."""
    return torch.export.load(io.BytesIO(base.data)).module()


def same(found: list[Any], wanted: list[Any]) -> bool:
    """Whether outputs are alike, bit for bit."""
    return len(found) == len(wanted) and all(map(alike, found, wanted))


def alike(found: Any, wanted: Any) -> bool:
    """Whether two values are alike, bit for bit."""
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    return found is wanted


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
        again = crafted_exports.archive(base, {})
        assert same(base.outputs(load_exported(again)), base.outputs(by_torch(base)))


# Hostile programs.


@dataclass(frozen=True)
class Hostile:
    """All crafted archives, the file that each would make, and what the honest programs give."""

    cases: tuple[Crafted, ...]
    marker: Path
    honest: Mapping[str, list[Any]]

    def of(self, group: str) -> list[Crafted]:
        """Those of one kind."""
        return [case for case in self.cases if case.name.startswith(f"{group}: ")]

    def named(self, name: str) -> Crafted:
        """The one of this name."""
        (found,) = (case for case in self.cases if case.name == name)
        return found


@pytest.fixture(scope="session")
def bases() -> dict[str, Honest]:
    """The honest programs that the hostile ones are made of."""
    return crafted_exports.bases()


@pytest.fixture(scope="session")
def hostile(bases: dict[str, Honest], tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    """All crafted archives; the module that some of them would import can be imported."""
    folder = tmp_path_factory.mktemp("crafted")
    marker = folder / "marker"
    (folder / f"{crafted_exports.TRAP}.py").write_text(crafted_exports.trap(str(marker)))
    cases = tuple(crafted_exports.crafted(bases, marker))
    honest = {base.data: base.outputs(by_torch(base)) for base in bases.values()}
    return Hostile(cases, marker, honest)


@pytest.fixture
def open_trap(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> Hostile:
    """The module that makes the marker is at hand, and the marker is not there."""
    monkeypatch.syspath_prepend(str(hostile.marker.parent))
    sys.modules.pop(crafted_exports.TRAP, None)
    hostile.marker.unlink(missing_ok=True)
    return hostile


def outcome(case: Crafted, honest: Mapping[bytes, list[Any]]) -> str:
    """What becomes of a crafted archive: what was raised, or that its harm was left out."""
    try:
        module = load_exported(case.data)
    except ANYTHING as error:
        return type(error).__name__
    try:
        found = case.base.outputs(module)
    except ANYTHING as error:
        return f"run: {type(error).__name__}"
    assert same(found, honest[case.base.data]), f"{case.name}: other outputs"
    return "harmless"


def test_there_are_hundreds_of_crafted_archives_of_each_kind(hostile: Hostile) -> None:
    kinds = Counter(case.name.partition(":")[0] for case in hostile.cases)
    assert set(kinds) == set(GROUPS)
    assert len({case.data for case in hostile.cases}) >= 1000
    assert len({case.name for case in hostile.cases}) == len(hostile.cases)


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_that_is_hidden_in_a_program_runs(group: str, open_trap: Hostile) -> None:
    found = Counter[str]()
    for case in open_trap.of(group):
        found[outcome(case, open_trap.honest)] += 1
        assert not open_trap.marker.exists(), f"{case.name}: its payload ran"
        assert crafted_exports.TRAP not in sys.modules, f"{case.name}: a module was imported"
    raised = ("TypeError", "ValueError", "RuntimeError")
    known = {"Refused", "BadZipFile", "harmless", *(f"run: {name}" for name in raised)}
    assert set(found) <= known, found
    assert found["Refused"] or group == "metadata", found


REAL = {
    "members": ("size in models/'model.xson'", "size in models/'m.json', complete"),
    "twins": (
        "models/model.json, hostile last",
        "data/constants/model_constants_config.json, hostile first",
        "data/sample_inputs/model.pt, hostile last",
    ),
    "foreign": ("data/weights/model.pt", "data/constants/model.pt", "the layout of 2.7"),
    "archives": ("a hostile member compressed", "another name inside"),
    "treespecs": (
        "a key that is an enum, as the arguments",
        "a tuple with an enum, among the arguments",
        "a default that is imported, among the keywords",
    ),
    "sizes": (
        "0 in sizes of x",
        "1 in strides of gelu",
        "5 in sym_int_values as sym_size_int_1",
        "0 inside a part",
    ),
    "names": ("0 for x", "1 for gelu", "6 for submod_1", "6 for head.weight"),
    "conditions": ("0 in a guard, fixed", "1 in a guard, free", "0 in a word", "3 in a word"),
    "targets": ("torch.ops.aten.from_file.default -> ['as_tensor']",),
    "pickles": (
        "weight_0 in data/weights, 2, True",
        "opaque_obj_0 in data/constants, 2, True",
        "one more in data/constants",
        "sample inputs: a payload",
        "sample inputs: an old bare pickle",
    ),
}
SHOWN_TO_TORCH = """
import io, logging, sys, warnings
from pathlib import Path
import torch

logging.disable(logging.CRITICAL), warnings.simplefilter("ignore"), torch.set_num_threads(1)
folder, trap = Path(sys.argv[1]), sys.argv[2]
inputs = torch.load(folder / "inputs.pt")
for path in sorted(folder.glob("*.pt2")):
    (folder / "marker").unlink(missing_ok=True)
    sys.modules.pop(trap, None)
    try:
        x, more = inputs[path.stem]
        torch.export.load(io.BytesIO(path.read_bytes())).module()(x, **more)
    except Exception:
        pass
    print(path.stem, (folder / "marker").exists())
"""


def test_what_is_hidden_does_run_in_torchs_own_reader(hostile: Hostile) -> None:
    """Else the test above would show nothing."""
    wanted = [f"{group}: {name}" for group, names in REAL.items() for name in names]
    folder, inputs = hostile.marker.parent, {}
    for place, name in enumerate(wanted):
        case = hostile.named(name)
        (folder / f"{place:03}.pt2").write_bytes(case.data)
        inputs[f"{place:03}"] = (case.base.x, dict(case.base.more))
    torch.save(inputs, folder / "inputs.pt")
    command = [sys.executable, "-c", SHOWN_TO_TORCH, str(folder), crafted_exports.TRAP]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert shown.returncode == 0, shown.stderr[-2000:]
    sprung = dict(line.split() for line in shown.stdout.splitlines() if " " in line)
    assert [name for place, name in enumerate(wanted) if sprung[f"{place:03}"] != "True"] == []


@pytest.mark.parametrize(
    "name, words",
    [
        ("members: size in models/'model.xson'", "models/model.xson', which is no part"),
        ("twins: models/model.json, hostile first", "twice"),
        ("foreign: data/constants/opaque_obj_0", "without custom objects"),
        ("foreign: the layout of 2.7", "export it again"),
        ("archives: compressed", "is compressed"),
        ("archives: encrypted", "is encrypted"),
        ("archives: bytes before it", "something lies"),
        ("archives: a damaged member", "is damaged"),
        ("treespecs: a class, given", "'trap_of_exports.Trap', which torch would import"),
        ("sizes: 0 in sizes of x", "with static sizes"),
        ("conditions: 0 in a guard, free", "guards.*with static sizes"),
        ("targets: torch.os.system -> []", "'torch.os.system', which is not on the list; load"),
        ("targets: torch.ops.aten.from_file.default -> ['as_tensor']", "from_file.*python:MODULE"),
        ("pickles: weight_0 in data/weights, 2, True", "would unpickle 'conv.weight'"),
        ("pickles: sample inputs: a payload", "sample inputs are a pickle of more than tensors"),
        ("versions: {'verifiers': ['EDGE']}", "another runtime"),
        ("versions: without data/weights/model_weights_config.json", "lacks data/weights"),
        ("texts: depth as models/model.json", "nested deeper"),
        ("weights: a thousand times 1 GB", "overlap, and would take 1,073,741,8"),
        ("weights: 79 bytes", "'head.weight' in it has less numbers than it should"),
    ],
)
def test_a_refusal_says_what_was_found_and_what_would_do(
    name: str,
    words: str,
    hostile: Hostile,
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        load_exported(hostile.named(name).data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


# Bounds.


@pytest.mark.parametrize(
    "name",
    [
        "archives: a bomb",
        "archives: bombs",
        "archives: a bomb of 4 GB that lies",
        "archives: a member half as large as told",
        "texts: depth that ends as models/model.json",
        "texts: depth in a field as models/model.json",
        "texts: depth of objects as data/weights/model_weights_config.json",
        "texts: quotes as models/model.json",
        "texts: a number as models/model.json",
        "weights: a thousand times 1 GB",
        "treespecs: depth, given",
    ],
)
def test_what_would_fill_memory_is_refused_at_once(name: str, hostile: Hostile) -> None:
    data = hostile.named(name).data
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(Refused):
        load_exported(data)
    taken, (_, most) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2
    assert most < 16 * len(data) + (16 << 20)


def test_weights_that_share_bytes_may_not_take_much_more_than_the_file() -> None:
    """Else a number repeated a thousand million times would, as soon as its type is changed."""
    base = exported(nn.Linear(4, 3), torch.randn(2, 4))
    told = json.loads(base.members()[crafted_exports.WEIGHTS])
    meta = told["config"]["weight"]["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 1 << 28}, {"as_int": 4}], [{"as_int": 0}] * 2
    data = crafted_exports.archive(base, {crafted_exports.WEIGHTS: json.dumps(told).encode()})
    with pytest.raises(Refused, match="overlap, and would take 4,294,967,"):
        load_exported(data)


def test_too_little_memory_for_weights_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    data = exported(nn.Linear(4, 3), torch.randn(2, 4)).data

    def empty(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(MemoryError, match="bytes of weights"):
        load_exported(data)


def test_damaged_bytes_are_noticed_or_do_not_matter(bases: Mapping[str, Honest]) -> None:
    base, chance = bases["fixed"], random.Random(7)
    wanted, found = base.outputs(by_torch(base)), Counter[str]()
    for _ in range(200):
        data = bytearray(base.data)
        for _ in range(chance.choice((1, 1, 8))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        found[outcome(Crafted("damage", bytes(data), base), {base.data: wanted})] += 1
    assert found["Refused"] > 100
    assert set(found) <= {"Refused", "BadZipFile", "harmless"}, found


@pytest.mark.parametrize("data", [b"", b"PK", b"this is no program\n", bytes(1000)])
def test_what_is_no_archive_is_no_program(data: bytes) -> None:
    with pytest.raises(zipfile.BadZipFile):
        load_exported(data)


# What runs.


def count(program: dict[str, Any], target: str, *values: int) -> None:
    """Replace the arithmetic on the batch by other arithmetic on it."""
    nodes = program["graph_module"]["graph"]["nodes"]
    node = next(node for node in nodes if node["target"] == "_operator.mul")
    rest = [{"name": "b", "arg": {"as_int": value}, "kind": 1} for value in values]
    node.update(target=target, inputs=[*node["inputs"][:1], *rest])


@pytest.mark.parametrize(
    "target, value",
    [("_operator.pow", 1 << 62), ("_operator.lshift", 1 << 62), ("_operator.mul", 1 << 62)],
)
def test_sizes_do_not_grow_without_end(
    target: str,
    value: int,
    bases: Mapping[str, Honest],
) -> None:
    base = bases["free"]
    module = load_exported(altered(base, lambda program: count(program, target, value)))
    with pytest.raises(OverflowError, match="more than 64 bits"):
        module(torch.zeros(1 << 4, 3, 6, 6))


def rewire(program: dict[str, Any], target: str, argument: str, value: dict[str, Any]) -> None:
    """Give an operator another argument."""
    nodes = program["graph_module"]["graph"]["nodes"]
    node = next(node for node in nodes if node["target"] == target)
    next(given for given in node["inputs"] if given["name"] == argument)["arg"] = value


@pytest.mark.parametrize(
    "example, target, argument, value",
    [
        (
            "core operators",
            "torch.ops.aten._native_batch_norm_legit_no_training.default",
            "running_mean",
            {"as_tensor": {"name": "p_head_bias"}},
        ),
        (
            "recurrent",
            "torch.ops.aten.lstm.input",
            "batch_first",
            {"as_bool": False},
        ),
        ("recurrent", "torch.ops.aten.lstm.input", "num_layers", {"as_int": 1 << 60}),
        ("recurrent", "torch.ops.aten.gru.input", "bidirectional", {"as_bool": True}),
        (
            "transformer",
            "torch.ops.aten.scaled_dot_product_attention.default",
            "value",
            {"as_tensor": {"name": "p_head_weight"}},
        ),
    ],
)
def test_operators_that_trust_their_callers_are_given_what_fits(
    example: str,
    target: str,
    argument: str,
    value: dict[str, Any],
) -> None:
    """Torch itself reads, and some of them write, beyond the memory of such tensors."""
    base = saved(EXAMPLES[example])
    module = load_exported(altered(base, lambda p: rewire(p, target, argument, value)))
    with pytest.raises(ValueError, match="was given tensors that do not fit together"):
        base.outputs(module)


def test_no_operator_on_the_list_takes_a_file_a_pointer_or_a_function() -> None:
    """Whatever words torch's operators take, they are of these arguments."""
    worded = set[str]()
    for name in sorted(OPERATORS | {f"{name}_" for name in OPERATORS}):
        packet = getattr(torch.ops.aten, name, None)
        for overload in () if packet is None else packet.overloads():
            with suppress(Refused):
                schema = find_overload(f"torch.ops.aten.{packet.__name__}.{overload}")._schema
                worded |= {a.name for a in schema.arguments if "str" in str(a.type)}
    assert worded <= {
        *("approximate", "assert_msg", "driver", "equation", "indexing", "interpolation", "mode"),
        *("ord", "padding", "reduce", "rounding_mode", "side", "UPLO"),
    }, worded


def test_every_operator_on_the_list_is_one_of_torch() -> None:
    assert [name for name in sorted(OPERATORS) if not hasattr(torch.ops.aten, name)] == []
