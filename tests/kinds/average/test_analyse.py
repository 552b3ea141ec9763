"""Runs of a module that is in memory: the numbers, and that everything is as it was before."""

from __future__ import annotations

import copy
import doctest
import io
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from live_networks import STATES, Locked, Small, described, parametrised
from networks_for_tests import Linear
from started import result, start
from torch import nn

from wna_ray import Run, Spec, analyse, open_run, run
from wna_ray.errors import ModelError, NumericsError, RunError, ShardError, SpecError, Stopped
from wna_ray.events import Event, RunFinished, RunStarted, ShardDone, Stage
from wna_ray.execution.progress import OneLine
from wna_ray.kinds.average import analyse as module
from wna_ray.networks.architectures import mnist_cnn
from wna_ray.networks.live import unwrapped
from wna_ray.reports.html import written
from wna_ray.specs.stimulus import StimulusSpec

SHAPE = (1, 8, 8)
SAMPLES = 700  # five batches of 128 and a part


def quiet(net: nn.Module, **changes: Any) -> Run:
    """A short run that says nothing."""
    options: dict[str, Any] = {"samples": SAMPLES, "progress": False} | changes
    return analyse(net, SHAPE, **options)


def labels(run: Run, net: nn.Module) -> np.ndarray[Any, Any]:
    """How often a copy of a network in eval mode says each label, by a loop over the batches."""
    with torch.no_grad():
        plain = copy.deepcopy(net).eval().to(memory_format=torch.channels_last)
        dtype = next(plain.parameters()).dtype
        answers = []
        for a in range(0, SAMPLES, 128):
            x = run.stimulus.images(run.stimulus.noise.grid(a, a + 128), torch.device("cpu"))
            answers.append(plain(x.to(dtype, memory_format=torch.channels_last)).float())
    return np.bincount(torch.cat(answers)[:SAMPLES].argmax(dim=1).numpy(), minlength=4)


@pytest.mark.parametrize("state", STATES)
def test_the_module_is_left_as_it_was_and_answers_as_in_eval_mode(state: str) -> None:
    net = STATES[state]()
    before, modes = described(net), [part.training for part in net.modules()]
    finished = quiet(net)
    assert described(net) == before
    assert [part.training for part in net.modules()] == modes
    # What Python cannot copy for the oracle is the plain network itself, but for one.
    if state != "old spectral norm":
        plain = Small() if state in ("compiled inside", "remembering") else unwrapped(net)
        rows = [r for r in finished.classes.to_pylist() if r["kind"] == "label"]
        assert [r["count"] for r in rows] == labels(finished, plain).tolist()


def test_it_is_the_run_of_the_same_network_by_name(tmp_path: Path) -> None:
    """Exact sums, maps and statistics are those of ``python:`` with the same spec."""
    data = {
        "model": "python:networks_for_tests:linear",
        "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0},
        "samples": 2_000,
        "seed": 3,
    }
    named = run(Spec.parse(data), str(tmp_path), executor="local")
    ours = analyse(Linear(), (1, 4, 4), samples=2_000, seed=3, progress=False)
    again = run(Spec.parse(data), model=Linear())
    for other in (ours, again):
        assert np.array_equal(other.bias_maps, named.bias_maps)
        assert np.array_equal(other.z_maps, named.z_maps)
        assert other.classes.equals(named.classes)
        assert other.spec == named.spec.model_copy(update={"model": "live:Linear"})
        assert other.fingerprint == ours.fingerprint != named.fingerprint


def test_the_example_of_the_docstring_runs() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(analyse, "analyse")
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(0, 5)


def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer images; what they give has the shapes that the page says."""
    page = Path(__file__).parents[3] / "docs" / "python.md"
    blocks = [block.split("```")[0] for block in page.read_text().split("```python\n")[1:]]
    few = {"samples": 300, "progress": False}
    monkeypatch.setattr(
        "wna_ray.analyse", lambda net, shape, **given: analyse(net, shape, **given | few)
    )
    demo = str(page.parents[1] / "jobs" / "demo.yaml")
    smaller = blocks[2].replace('{"', '{"samples": 300, "').replace("jobs/demo.yaml", demo)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"net": mnist_cnn()}
    exec("\n".join(blocks[:2]), names)
    assert names["run"].bias_maps.shape == (20, 1, 28, 28)
    assert names["run"].spec.stimulus.offset == 0.5
    assert names["run"].classes["name"].to_pylist() == [*"0123456789"] * 2
    assert names["units"].classes["name"].to_pylist() == ["0", "7", "12"]
    exec(smaller, names)
    assert names["kept"].spec.model == "live:Sequential"
    assert names["kept"].samples == 300
    exec(blocks[3], names)
    assert "begin with  stimulus:" in capsys.readouterr().out
    assert open_run("runs/mine").fingerprint == names["kept"].fingerprint


def settings() -> list[Any]:
    """What torch and Python keep for a whole process."""
    cudnn = torch.backends.cudnn
    return [
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
        random.getstate(),
    ]


class Failing(Small):
    """Raises whatever it is given, from its fifth pass on."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.passes = error, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        torch.rand(3)
        if self.passes > 8:  # in a shard: a first look takes a few
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("error", "raised"),
    [(None, None), (ValueError("broken"), ShardError), (KeyboardInterrupt(), Stopped)],
)
def test_torch_and_the_module_are_as_before_whatever_happens(
    error: BaseException | None, raised: type[Exception] | None, threads: int
) -> None:
    net = (Small() if error is None else Failing(error)).train()
    own = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        before, state = described(net), settings()
        if raised is None:
            quiet(net, threads=2)
        else:
            with pytest.raises(raised):
                quiet(net, threads=2)
        assert settings() == state
        assert described(net) == before
    finally:
        torch.set_num_threads(own)


def test_what_is_on_around_a_call_changes_no_bit() -> None:
    net, plain = Small(), quiet(Small())
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert quiet(net).classes.equals(plain.classes)
        assert torch.is_autocast_enabled("cpu")
    with torch.no_grad():
        assert quiet(net).fingerprint == plain.fingerprint
    with torch.device("meta"):
        assert quiet(net).classes.equals(plain.classes)
    torch.set_default_dtype(torch.float64)
    try:
        assert quiet(net).classes.equals(plain.classes)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_network_that_draws_is_refused() -> None:
    class Drawing(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.randn_like(x))

    with pytest.raises(NumericsError, match=r"live:.*Drawing answers the same batch differently"):
        quiet(Drawing())


def test_names_of_classes() -> None:
    finished = quiet(Small(), classes=["a", "b", "c", "d"])
    assert finished.classes["name"].to_pylist() == list("abcd") * 2
    with pytest.raises(SpecError, match="classes: 3 names, but live:Small has 4 outputs"):
        quiet(Small(), classes=["a", "b", "c"])
    with pytest.raises(SpecError, match=r"classes: names of the network's outputs, but layer="):
        quiet(Small(), classes=["a", "b"], layer="conv")


def test_units_of_a_layer() -> None:
    """Maps of a linear layer are its own filters."""
    net = Small()
    finished = quiet(net, layer="conv", units=[1, 4], samples=40_000)
    assert finished.spec.target is not None
    assert finished.spec.target.units == (1, 4)
    assert finished.classes["name"].to_pylist() == ["1", "4"]
    for got, unit in zip(finished.bias_maps, (1, 4), strict=True):
        truth = net.conv.weight.detach().numpy()[unit]
        assert got.shape == truth.shape
        # Each value is off by sd(y) / sqrt(N), sd(y) being the norm of the filter: five of these.
        assert np.abs(got - truth).max() < 5 * np.linalg.norm(truth) / np.sqrt(40_000)
    with pytest.raises(SpecError, match=r"units: of which layer\? Give layer="):
        quiet(net, units=3)
    with pytest.raises(ModelError, match=r"no layer 'cnov'; near it are conv"):
        quiet(net, layer="cnov")


def test_responses_and_noise_are_those_of_a_spec() -> None:
    lines: list[Event] = []
    finished = quiet(Small(), responses="logits", noise={"kind": "uniform"}, progress=lines.append)
    assert [r.kind for r in finished.spec.responses] == ["logits"]
    stimulus = StimulusSpec(kind="uniform", shape=SHAPE, scale=1.0, space="input")
    assert finished.spec.stimulus == stimulus
    assert lines[0] == Stage("uniform noise, offset 0.0, scale 1, fed to the network as it is")
    same = quiet(Small(), responses=["logits"], noise=stimulus)
    assert same.fingerprint == finished.fingerprint
    with pytest.raises(SpecError, match=r"noise.shape: \[1, 9, 9\], but shape is \[1, 8, 8\]"):
        quiet(Small(), noise={"shape": [1, 9, 9]})
    with pytest.raises(SpecError, match=r"analyse: stimulus: scael: unknown key|stimulus.scael"):
        quiet(Small(), noise={"scael": 2})
    with pytest.raises(SpecError, match="noise: str; expected keys of stimulus:"):
        quiet(Small(), noise="uniform")
    with pytest.raises(ModelError, match=r"does not take a float32 batch of shape .*1, 5, 5"):
        analyse(Small(), (1, 5, 5), samples=100, progress=False)


def test_the_same_call_goes_on_and_other_weights_are_refused(tmp_path: Path) -> None:
    """A stopped run ends with the bytes of one that was not."""
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    quiet(Small(), out=whole, samples=20_000)
    committed: list[Event] = []

    def stop(event: Event) -> None:
        committed.append(event)
        if sum(isinstance(e, ShardDone) for e in committed) == 2:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        quiet(Small(), out=parts, samples=20_000, progress=stop)
    events: list[Event] = []
    quiet(Small(), out=parts, samples=20_000, progress=events.append)
    assert sum(isinstance(e, RunStarted) and e.done > 0 for e in events) == 1
    assert result(Path(parts)) == result(Path(whole))
    with pytest.raises(RunError, match=r"model.digest: "):
        quiet(Small(seed=1), out=parts, samples=20_000)
    with pytest.raises(RunError, match=r"other names \(classes: 0 -> a\)"):
        quiet(Small(), out=parts, samples=20_000, classes=["a", "b", "c", "d"])


def test_a_run_in_memory_goes_on_where_the_message_says() -> None:
    def stop(event: Event) -> None:
        if isinstance(event, ShardDone):
            raise KeyboardInterrupt

    with pytest.raises(Stopped, match=r"give out='memory://wna-\w+' to go on") as stopped:
        quiet(Small(), progress=stop)
    out = str(stopped.value).split("'")[1]
    assert out.startswith("memory://wna-")
    assert quiet(Small(), out=out).classes.equals(quiet(Small()).classes)


def test_a_run_in_memory_can_do_everything() -> None:
    first, second = quiet(Small()), quiet(Small())
    assert first.directory.url.startswith("memory://wna-")
    assert first.directory.url != second.directory.url
    assert first.fingerprint == second.fingerprint
    assert first.bias_maps.shape == (8, *SHAPE)
    assert first.clusters("logits", "0").map.shape == SHAPE
    assert b"live:Small" in written(first)
    assert first.directory.verify() == []
    assert np.array_equal(open_run(first.directory.url).z_maps, first.z_maps, equal_nan=True)


def test_a_spec_alone_cannot_load_the_module_again(tmp_path: Path) -> None:
    finished = quiet(Small(), out=str(tmp_path / "run"))
    with pytest.raises(ModelError, match=r"'live:Small' was a module .* run\(spec, model=net\)"):
        run(finished.spec, str(tmp_path / "other"), executor="local")
    assert (
        run(finished.spec, str(tmp_path / "run"), model=Small()).fingerprint == finished.fingerprint
    )
    with pytest.raises(SpecError, match="out: missing; only a run with model="):
        run(finished.spec)
    with pytest.raises(SpecError, match="executor: 'dask' is unknown; use ray or local"):
        quiet(Small(), executor="dask")
    with pytest.raises(SpecError, match=r"out: missing, but Ray's workers .*executor='local'"):
        run(finished.spec, model=Small(), executor="ray")


@pytest.mark.ray
def test_by_ray_come_the_same_bytes(tmp_path: Path, ray_cluster: None) -> None:
    """From one and two workers; the class is known to nobody else, and has a hook."""

    class Unknown(Small):
        pass

    net = Unknown().train()
    net.conv.register_forward_hook(lambda _module, _inputs, output: output * 2)
    before = described(net)
    spec = quiet(net, out=str(tmp_path / "local"), samples=3_000).spec
    cut = spec.model_copy(update={"execution": spec.execution.model_copy(update={"shard": 256})})
    names = ["local", "1", "2", "analyse"]
    for workers in (1, 2):
        run(cut, str(tmp_path / str(workers)), model=net, executor="ray", workers=workers)
    quiet(net, out=str(tmp_path / "analyse"), samples=3_000, executor="ray")
    assert described(net) == before
    for name in ("moments.npz", "classes.parquet"):
        data = {(tmp_path / place / "result" / name).read_bytes() for place in names}
        assert len(data) == 1, name


def test_the_command_line_says_what_to_do(tmp_path: Path) -> None:
    """At once: no cluster is started for it."""
    finished = quiet(Small(), out=str(tmp_path / "first"))
    process = start(tmp_path, finished.spec)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.count("\n") == 1
    assert "'live:Small' was a module in the memory of a Python process" in said


@pytest.mark.ray
def test_a_worker_without_the_code_says_so(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that can be imported here, and nowhere else."""
    ghost = ModuleType("ghost")
    ghost.Net = type("Net", (Small,), {"__module__": "ghost"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ghost", ghost)
    with pytest.raises(ModelError, match=r"lacks its code .*No module named 'ghost'.*python:"):
        quiet(ghost.Net(), out=str(tmp_path / "run"), executor="ray")


@pytest.mark.ray
def test_what_cannot_travel_is_refused(tmp_path: Path, ray_cluster: None) -> None:
    with pytest.raises(ModelError, match=r"live:Small cannot be sent to workers .*'local', or"):
        quiet(parametrised(), out=str(tmp_path), executor="ray")
    with pytest.raises(ModelError, match=r"live:Locked cannot be copied .*model: python:"):
        quiet(Locked(), out=str(tmp_path), executor="ray")
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(module.sys, "stderr", stream)
    finished = quiet(Small(), progress=None)
    first, second, end = stream.getvalue().split("\n")
    assert first == "\rgaussian noise, offset 0.0, scale 1, fed to the network as it is"
    assert second.split("\r")[1].startswith("0 of 700 images")
    assert second.split("\r")[-1].startswith("700 of 700 images")
    assert finished.directory.url in second
    assert end == ""


def test_progress_is_silent_or_a_persons_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet(Small(), progress=None)  # standard error is no terminal here
    monkeypatch.setattr(module.sys, "stderr", Terminal())
    quiet(Small(), progress=False)
    assert module.sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
    events: list[Event] = []
    finished = quiet(Small(), progress=events.append)
    assert events[-1] == RunFinished(finished.directory.url)
    with pytest.raises(SpecError, match="progress: 'bar'; expected None, False or a function"):
        quiet(Small(), progress="bar")
    assert capfd.readouterr() == ("", "")


def test_a_notebooks_stream_is_written_over() -> None:
    notebook: Callable[[], io.StringIO] = type("OutStream", (io.StringIO,), {})
    notebook.__module__ = "ipykernel.iostream"
    assert OneLine.fits(notebook())
    assert not OneLine.fits(io.StringIO())
