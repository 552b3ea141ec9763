"""The proof that a change of layout changed nothing: what it must notice, and what it must not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import same
from same_compare import Difference, Unreasoned, differences, judge, read_expected, told
from same_jobs import JOBS, Job, chosen, run, wna
from same_objects import compared, objects
from same_paper import small_run, small_training
from same_specs import write_specs
from same_texts import RULES, without_circumstances
from same_tree import Side, Unfit, lay_out_commit, lay_out_folder, require_package

ROOT = Path(__file__).parents[1]
OBJECTS = {"demo/result/z.npy": "1", "demo/spec.json": "2", "texts/demo-1-run.out": "all well\n"}


def test_the_same_is_the_same() -> None:
    assert differences(OBJECTS, dict(OBJECTS)) == []
    assert judge([], []).unexpected == ()


def test_a_changed_byte_is_named(tmp_path: Path) -> None:
    for name, data in (("a", b"\x00\x01"), ("b", b"\x00\x02")):
        (tmp_path / name / "demo").mkdir(parents=True)
        (tmp_path / name / "demo" / "z.npy").write_bytes(data)
    one, other = (dict(objects(tmp_path / name)) for name in ("a", "b"))
    assert differences(one, other) == [Difference("demo/z.npy", "differs")]


def test_missing_and_new_objects_are_named() -> None:
    fewer = {name: digest for name, digest in OBJECTS.items() if name != "demo/spec.json"}
    assert differences(OBJECTS, fewer) == [Difference("demo/spec.json", "is missing here")]
    assert differences(fewer, OBJECTS) == [Difference("demo/spec.json", "is new here")]


def test_a_new_property_of_a_reader_is_no_difference() -> None:
    before = {"readings/run/names": "1"}
    assert differences(before, before | {"readings/run/images": "2"}) == []
    assert differences(before | {"readings/run/images": "2"}, before) == [
        Difference("readings/run/images", "is missing here")
    ]


EXPECTED = "# how to write them\n\ndemo/*.npy  # rounded otherwise\n"


def test_an_expected_difference_passes() -> None:
    found = [Difference("demo/result/z.npy", "differs"), Difference("demo/spec.json", "differs")]
    verdict = judge(found, read_expected(EXPECTED))
    assert verdict.unexpected == (found[1],)
    assert (verdict.excused, verdict.stale) == (1, ())


def test_an_expected_difference_that_is_none_fails() -> None:
    verdict = judge([Difference("demo/spec.json", "differs")], read_expected(EXPECTED))
    assert [e.line for e in verdict.stale] == [3]
    assert "expected.txt, line 3: nothing that demo/*.npy names differs" in "\n".join(told(verdict))


@pytest.mark.parametrize("line", ["demo/*.npy", "demo/*.npy  #", "demo/*.npy  #  "])
def test_an_expected_difference_needs_a_reason(line: str) -> None:
    with pytest.raises(Unreasoned, match=r"line 1: demo/\*\.npy has no reason"):
        read_expected(line)


def test_the_file_of_expected_differences_can_be_read() -> None:
    read_expected((ROOT / "tools" / "same" / "expected.txt").read_text())


def test_many_differences_are_told_by_their_folders() -> None:
    found = [Difference(f"demo/{i:02d}", "differs") for i in range(20)]
    lines = list(told(judge([*found, Difference("texts/a", "is new here")], [])))
    assert lines[:2] == ["demo: 20 differ", "  demo/00 differs"]
    assert lines[-3:] == ["  and 8 more", "texts: 1 differ", "  texts/a is new here"]


def network(**changes: object) -> bytes:
    """Make a description of a trained network."""
    return json.dumps({"seed": 0, "seconds": 1.25} | changes).encode()


def training(digest: str, weights: str = "w") -> bytes:
    """Make the manifest of a training."""
    listed = {"seed-0/network.json": {"sha256": digest}, "seed-0/weights": {"sha256": weights}}
    return json.dumps({"networks": {}, "objects": listed}).encode()


def test_of_a_training_all_but_its_seconds_is_compared() -> None:
    name = "nets/seed-0/network.json"
    assert compared(name, network()) == compared(name, network(seconds=7.5))
    assert compared(name, network()) != compared(name, network(seed=1))
    name = "nets/MANIFEST.json"
    assert compared(name, training("a")) == compared(name, training("b"))
    assert compared(name, training("a")) != compared(name, training("a", "v"))


def test_the_manifest_of_a_run_is_compared_as_it_is() -> None:
    for data in (b'{"objects": {"network.json": 1}}', b'{ "objects": {} }'):
        assert compared("demo/MANIFEST.json", data) == data


def test_of_events_the_names_and_fields_are_compared(tmp_path: Path) -> None:
    def written(*lines: dict[str, object]) -> dict[str, str]:
        folder = tmp_path / "demo" / "events"
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps({"event": "ShardDone"} | line) + "\n" for line in lines)
        (folder / "000001-00000.jsonl").write_text(text)
        return dict(objects(tmp_path))

    once = written({"time": 1, "seconds": {"noise": 0.1}})
    assert once == {"demo/events: names and fields": "ShardDone(time, seconds, seconds.noise)"}
    later = {"time": 2, "seconds": {"noise": 0.2}}
    assert written(later, later) == once
    assert written(later | {"host": "a"}) != once


def test_who_drove_a_run_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "demo" / "drivers").mkdir(parents=True)
    (tmp_path / "demo" / "drivers" / "000001.json").write_text("{}")
    assert dict(objects(tmp_path)) == {}


PRINTED = {
    "512 of 2,048 images, 7,377 images/s, 91 % forward": ("run", ""),
    "run 2aa43a402747 in demo: 512 images": ("run", "run 2aa43a402747 in demo: 512 images\n"),
    "a: begins on node-7": ("run", "a: begins on <host>\n"),
    "a: done, 64 images in 2 s; 1 of 4 members done, 255 images/s, 6 s left": (
        "run",
        "a: done, 64 images in <time>; 1 of 4 members done, <rate>\n",
    ),
    "figures: /tmp/ref/runs/demo": ("run", "figures: <home>/runs/demo\n"),
    "seed-0: loss 2.1500, accuracy 25.00 % (0.3 s)": (
        "train",
        "seed-0: loss 2.1500, accuracy 25.00 % (<seconds>)\n",
    ),
    "  seed-0     2   57.50     0  ": ("train", "  seed-0     2   57.50 <seconds>\n"),
    "  clean-00     2   57.50   4": ("backdoor", "  clean-00     2   57.50   4\n"),
    "  driver 1: process 4711 on node-7 finished 3 s ago": (
        "status",
        "  driver 1: process <number> on <host> finished <time> ago\n",
    ),
    "  96 images done, 7 images/s lately; 0 shards retried": (
        "status",
        "  96 images done, <rate> lately; 0 shards retried\n",
    ),
    "  worker time: noise 4 %, forward 96 %": ("status", ""),
    "━━ 100 % 6.8/6.8 kB 18.0 MB/s 0:00:00": ("fetch", "━━ 100 % 6.8/6.8 kB <rate> <time>\n"),
    "━━ 100 % 12/12 bytes ? 0:00:00": ("fetch", "━━ 100 % 12/12 bytes <rate> <time>\n"),
    "    3 s  nets/mnist: done in 3 s": ("paper", "<time>  nets/mnist: done in <time>\n"),
    "time      7,377 images/s for one worker here, 8 s for 1": ("plan", ""),
}


@pytest.mark.parametrize("line", PRINTED)
def test_texts_are_compared_without_clock_machine_and_folder(line: str) -> None:
    command, shown = PRINTED[line]
    assert without_circumstances(command, line, {"/tmp/ref": "<home>"}) == shown


def test_every_exception_has_a_reason() -> None:
    assert all(rule.reason for rule in RULES)


def test_jobs_bring_those_that_they_need() -> None:
    assert [job.name for job in chosen(["fetched"])] == ["resumed", "fetched"]
    for job in JOBS:
        assert {*job.needs} <= {before.name for before in JOBS[: JOBS.index(job)]}, job.name


def test_the_paper_in_small() -> None:
    asked = {
        "sweep": {"network": {"clean-00": {"samples": 9000}, "clean-39": {}}},
        "full": {"samples": 10**6},
        "samples": 10**5,
        "stimulus": {"basis": {"components": 250}},
    }
    small = small_run(asked)
    assert small["sweep"] == {"network": {"clean-00": {"samples": 64}}}
    assert (small["samples"], small["stimulus"]["basis"]["components"]) == (64, 20)
    assert "full" not in small
    assert small_training({"epochs": 9, "panel": {}, "poison": {"to": 1}})["poison"]["images"] == 5


def test_a_commit_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ref, why in (("", "REF is missing"), ("no-such", "no such commit"), ("--all", "missing")):
        with pytest.raises(Unfit, match=why):
            lay_out_commit(ROOT, ref, tmp_path)
    assert same.main([""]) == same.UNUSABLE
    assert "same: REF is missing: make same REF=COMMIT" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["HEAD", "--only", "nothing"], ["HEAD", "--keep", str(ROOT)]])
def test_what_cannot_be_done_is_said(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert same.main(args) == same.UNUSABLE
    assert capsys.readouterr().err.startswith(f"same: {' '.join(args[1:])}: ")


def test_a_folder_without_the_package(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=r"has no wna_ray/__init__\.py"):
        require_package(tmp_path, str(tmp_path))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Side, Side]:
    """Make two copies of the package, ready for jobs."""
    write_specs(tmp_path / "given")
    found = Side(tmp_path / "ref", tmp_path / "data"), Side(tmp_path / "now", tmp_path / "data")
    for side in found:
        lay_out_folder(ROOT, side.tree)
        side.prepare(tmp_path / "given")
    return found


def change(tree: Path, old: str, new: str) -> None:
    """Change the one line of a tree that has a text."""
    (path,) = (path for path in tree.rglob("*.py") if old in path.read_text())
    path.write_text(path.read_text().replace(old, new))


TINY = Job("tiny", (run("one", "tiny", "--set samples=128"),))


def test_a_changed_constant_is_seen_where_it_counts(two: tuple[Side, Side]) -> None:
    """Maps are shown to the network at another contrast, so only its answers to them change."""
    change(two[1].tree, "MAP_CONTRAST = 0.25", "MAP_CONTRAST = 0.26")
    same.both(two, [TINY])
    assert [side.faults for side in two] == [[], []]
    found = {d.name for d in differences(*(side.found() for side in two))}
    table, answers = "tiny/result/classes.parquet", "tiny/result/map_outputs.npy"
    assert found == {table, answers, "tiny/MANIFEST.json", "texts/tiny-1-run.out"}


def test_another_exit_code_and_nothing_to_lose_are_faults(two: tuple[Side, Side]) -> None:
    two[0].do([Job("none", (wna("status nowhere").losing("none/*.npy"),))])
    lost, code = two[0].faults
    assert lost == "none-1-status: no none/*.npy to delete before"
    assert code.startswith("none-1-status: exit code 1, not 0 (wna: no run at 'nowhere'")


def test_modules_of_another_tree_are_a_fault(two: tuple[Side, Side]) -> None:
    """Without a package of its own, a tree would be served by whatever is installed."""
    shutil.rmtree(two[0].tree)
    two[0].do([Job("none", (wna("--version"),))])
    assert any("imports modules of another tree" in fault for fault in two[0].faults), two[0].faults
