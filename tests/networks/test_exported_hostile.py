"""Hostile exported programs: none runs anything, and a refusal says why.

They are those of `crafted_exports`. Some of them are first shown to torch's own reader, in another
process, where they do their harm; so it is known that they are real.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted_exports import Crafted, crafted
from crafted_exports.hidden import TRAP, trap
from crafted_exports.honest import Honest
from exported_examples import by_torch, same

from wna_ray.networks.exported.archive import Refused
from wna_ray.networks.exported.reader import load_exported

ANYTHING = (Exception,)  # whatever a reader or a program raises, but for what ends a process
GROUPS = (
    *("members", "twins", "foreign", "archives", "treespecs", "sizes", "names", "conditions"),
    *("targets", "arguments", "pickles", "metadata", "versions", "texts", "weights", "struck"),
)


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
def hostile(bases: dict[str, Honest], tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    """All crafted archives; the module that some of them would import can be imported."""
    folder = tmp_path_factory.mktemp("crafted")
    marker = folder / "marker"
    (folder / f"{TRAP}.py").write_text(trap(str(marker)))
    cases = tuple(crafted(bases, marker))
    honest = {base.data: base.outputs(by_torch(base)) for base in bases.values()}
    return Hostile(cases, marker, honest)


@pytest.fixture
def open_trap(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> Hostile:
    """The module that makes the marker is at hand, and the marker is not there."""
    monkeypatch.syspath_prepend(str(hostile.marker.parent))
    sys.modules.pop(TRAP, None)
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
        assert TRAP not in sys.modules, f"{case.name}: a module was imported"
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
    command = [sys.executable, "-c", SHOWN_TO_TORCH, str(folder), TRAP]
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
