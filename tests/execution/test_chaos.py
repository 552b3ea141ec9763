"""A cluster that dies: three Ray hosts, a real S3 server, jobs submitted as people do; the bytes of
an undisturbed run every time.

Each fault strikes when a fifth of the run is committed. What it cost is printed, and written to
``WNA_CHAOS_REPORT`` where that names a file.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts
import pytest
import yaml
from hosts import Hosts
from places import TESTS
from raycluster import RAYLET, RayCluster
from servers import Rgw, S3Server

from wna_ray import run
from wna_ray.runs.directory import RunDirectory
from wna_ray.runs.driver import latest
from wna_ray.specs.run import Spec
from wna_ray.storage.store import Place

pytestmark = pytest.mark.chaos

WORKER, DRIVER = (
    "ray::RayWorker",
    r"^\S*python\S* -m wna_ray run",
)  # the latter not the shell around it
SPEC: dict[str, Any] = {
    "model": "python:networks_for_tests:slow",
    "stimulus": {"kind": "gaussian", "shape": [1, 28, 28], "space": "input", "scale": 1.0},
    "responses": ["label", "logits"],
    "samples": 64_000,
    "seed": 3,
    "numerics": {"batch": 64, "device": "cpu"},
    "execution": {"shard": 1280, "segments": 20, "patience": 120, "attempts": 8},
}
SLEEP = 0.02  # seconds a batch: 10 s for two workers


class World:
    """Cluster, storage, and the jobs on them."""

    def __init__(
        self, machines: Hosts, cluster: RayCluster, server: S3Server, folder: Path
    ) -> None:
        self.hosts, self.cluster, self.server, self.folder = machines, cluster, server, folder
        self.env = server.env(machines.gateway) | {
            "WNA_TEST_SLEEP": str(SLEEP),
            "PYTHONPATH": str(TESTS),
        }
        self.jobs = 0
        self.undisturbed = 0.0

    def submit(self, out: str, samples: int = SPEC["samples"]) -> str:
        self.jobs += 1
        spec = self.folder / f"spec-{samples}.yaml"
        spec.write_text(yaml.safe_dump(SPEC | {"samples": samples}))
        name = f"job-{os.getpid()}-{self.jobs}"
        self.cluster.submit(
            ["python", "-m", "wna_ray", "run", str(spec), "--out", f"s3://runs/{out}"],
            self.env,
            name,
        )
        return name

    def directory(self, out: str) -> RunDirectory:
        return RunDirectory(Place(f"s3://runs/{out}", self.server.endpoint))

    def wait_committed(self, out: str, segments: int, seconds: float = 90) -> None:
        directory, until = self.directory(out), time.monotonic() + seconds
        while len(directory.store.list("segments")) < segments:
            assert time.monotonic() < until, (
                f"{segments} segments were not committed; driver: {latest(directory)}"
            )
            time.sleep(0.2)

    def check(self, out: str, reference: dict[str, bytes]) -> None:
        """The run is whole, every image was counted once, and its bytes are those of the
        undisturbed run.
        """
        directory = self.directory(out)
        assert directory.verify() == []
        manifest = directory.manifest()
        assert manifest is not None
        assert manifest.counts.images == manifest.samples
        assert result(directory) == reference

    def heal(self) -> None:
        """All hosts up, all nodes there, storage answering."""
        if not self.server.answers():
            self.server.kill()
            self.server.restart()
        self.cluster.heal()

    def log(self, name: str) -> str:
        return str(self.cluster.client().get_job_logs(name))[-4000:]


def result(directory: RunDirectory) -> dict[str, bytes]:
    return {name: directory.store.read(name) or b"" for name in directory.store.list("result")}


def reference_of(samples: int, folder: Path) -> dict[str, bytes]:
    """Result of the run in one process, undisturbed (and not slowed down)."""
    out = folder / f"reference-{samples}"
    run(Spec.parse(SPEC | {"samples": samples}), str(out), executor="local")
    return result(RunDirectory(str(out)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if reason := hosts.missing() or Rgw.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("chaos")
    with (
        Rgw(folder / "rgw", host="0.0.0.0") as server,
        Hosts(3, folder) as machines,
        RayCluster(machines) as cluster,
    ):
        server.make_bucket("runs")
        cluster.start()
        yield World(machines, cluster, server, folder)


@pytest.fixture
def keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.server.env().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return reference_of(SPEC["samples"], tmp_path_factory.mktemp("reference"))


def report(name: str, **numbers: float) -> None:
    text = f"{name}: " + ", ".join(f"{key} {value:.1f} s" for key, value in numbers.items())
    print(text)
    if path := os.environ.get("WNA_CHAOS_REPORT"):
        with Path(path).open("a") as file:
            file.write(text + "\n")


def test_undisturbed(world: World, reference: dict[str, bytes], keys: None) -> None:
    """Twice: the first also reads Python's libraries from the disk, so faults are compared with
    the second.
    """
    for out in ("undisturbed", "again"):
        begin = time.monotonic()
        name = world.submit(out)
        assert world.cluster.wait_job(name, 180) == "SUCCEEDED", world.log(name)
        world.undisturbed = time.monotonic() - begin
        world.check(out, reference)
        report("undisturbed", whole=world.undisturbed)


def kill_worker(world: World) -> None:
    world.hosts[1].kill_process(WORKER)


def kill_raylet(world: World) -> None:
    world.hosts[2].kill_process(RAYLET)
    world.cluster.heal()


def kill_host(world: World) -> None:
    world.hosts[1].kill()


def kill_host_for_a_while(world: World) -> None:
    world.hosts[2].kill()
    time.sleep(4)
    world.cluster.start_node(2)


def freeze_host(world: World) -> None:
    world.hosts[1].freeze()


def cut_link(world: World) -> None:
    world.hosts[2].cut()


def kill_storage(world: World) -> None:
    world.server.kill()
    time.sleep(5)
    world.server.restart()


FAULTS: dict[str, Callable[[World], None]] = {
    "kill -9 of a worker": kill_worker,
    "kill -9 of a raylet": kill_raylet,
    "power cut of a host": kill_host,
    "power cut of a host, back after 4 s": kill_host_for_a_while,
    "a host freezes": freeze_host,
    "a link is cut": cut_link,
    "power cut of the S3 server": kill_storage,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault(world: World, reference: dict[str, bytes], keys: None, fault: str) -> None:
    out = fault.replace(" ", "-").replace(",", "")
    begin = time.monotonic()
    name = world.submit(out)
    try:
        world.wait_committed(out, 4)
        struck = time.monotonic()
        FAULTS[fault](world)
        healed = time.monotonic()
        assert world.cluster.wait_job(name, 240) == "SUCCEEDED", world.log(name)
        report(fault, extra=time.monotonic() - begin - world.undisturbed, fault=healed - struck)
        world.check(out, reference)
    finally:
        world.heal()


def test_the_driver_is_killed_and_the_run_resumed(
    world: World, reference: dict[str, bytes], keys: None
) -> None:
    name = world.submit("driver")
    world.wait_committed("driver", 4)
    world.hosts[0].kill_process(DRIVER)
    assert world.cluster.wait_job(name, 60) == "FAILED"
    done = len(world.directory("driver").store.list("segments"))
    assert done < 20
    begin = time.monotonic()
    again = world.submit("driver")
    assert world.cluster.wait_job(again, 180) == "SUCCEEDED", world.log(again)
    report("kill -9 of the driver, resumed", rest=time.monotonic() - begin)
    world.check("driver", reference)
    assert latest(world.directory("driver"))[0] == 2


def test_stopping_a_job_takes_less_than_three_seconds_and_says_how_to_go_on(
    world: World, keys: None
) -> None:
    """SIGTERM, and SIGKILL three seconds later, is what `ray job stop` does; the driver's last
    words must be in the log by then.
    """
    name = world.submit("stopped")
    world.wait_committed("stopped", 2)
    client = world.cluster.client()
    begin = time.monotonic()
    client.stop_job(name)
    assert world.cluster.wait_job(name, 20) == "STOPPED"
    seconds = time.monotonic() - begin
    assert "The same command goes on from there" in world.log(name)
    _, driver = latest(world.directory("stopped"))
    assert driver is not None
    assert driver.state == "stopped", "it had time to say so"
    report("ray job stop", took=seconds)


STORM_SAMPLES, STORM_FAULTS = 512_000, 20


def test_a_storm(world: World, keys: None, tmp_path: Path) -> None:
    """Twenty seeded random faults in one run, some at once, with a driver that is killed and
    resumed among them.
    """
    rng, out = random.Random(20), "storm"
    name, began = world.submit(out, STORM_SAMPLES), time.monotonic()
    world.wait_committed(out, 1)
    struck: list[str] = []

    def resume() -> None:
        nonlocal name
        if world.cluster.client().get_job_status(name).is_terminal():
            name = world.submit(out, STORM_SAMPLES)

    def kill_driver() -> None:
        world.hosts[0].kill_process(DRIVER)
        world.cluster.wait_job(name, 60)

    def one_of(action: Callable[[World, int], None]) -> Callable[[], None]:
        return lambda: action(world, rng.choice([1, 2]))

    actions: dict[str, Callable[[], Any]] = {
        "worker": one_of(
            lambda w, i: w.hosts[i].kill_process(WORKER) if w.hosts[i].pids(WORKER) else None
        ),
        "raylet": one_of(
            lambda w, i: w.hosts[i].kill_process(RAYLET) if w.hosts[i].pids(RAYLET) else None
        ),
        "host": one_of(lambda w, i: w.hosts[i].kill()),
        "freeze": one_of(lambda w, i: w.hosts[i].freeze()),
        "cut": one_of(lambda w, i: w.hosts[i].cut()),
        "storage": world.server.kill,
        "driver": kill_driver,
    }
    while len(struck) < STORM_FAULTS:
        for kind in rng.sample(sorted(actions), rng.choice([1, 1, 2])):
            actions[kind]()
            struck.append(kind)
            time.sleep(rng.uniform(0.5, 3))
        world.heal()
        assert world.directory(out).manifest() is None, f"the run ended before its storm: {struck}"
        resume()
        time.sleep(rng.uniform(1, 4))
    over = time.monotonic()
    while world.cluster.wait_job(name, 600) != "SUCCEEDED":
        log = world.log(name)
        assert "wna: " in log, log  # it gave up with a reason; a person would start it again
        resume()
    report(f"storm of {len(struck)} faults", storm=over - began, whole=time.monotonic() - began)
    print(json.dumps(struck))
    world.check(out, reference_of(STORM_SAMPLES, tmp_path))
