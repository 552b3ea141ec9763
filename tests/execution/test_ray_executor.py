"""What only a cluster can do to a run: nodes come and go, a lost worker cannot be replaced,
metrics are asked for.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import wna_ray
from wna_ray.errors import WnaError
from wna_ray.events import (
    Committed,
    RunStarted,
    SegmentCommitted,
    ShardDone,
    ShardRetried,
    WorkersChanged,
)
from wna_ray.execution.executor import PayloadLost
from wna_ray.execution.ray import connect
from wna_ray.execution.ray_calls import Actor, Call, Calls

LOSE_A_NODE = """
import sys
import ray
from ray.cluster_utils import Cluster
from wna_ray.events import ShardDone
from wna_ray.kinds.average.job import execute
from wna_ray.execution.ray import RayExecutor
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec

fast = dict(
    health_check_initial_delay_ms=500,
    health_check_period_ms=500,
    health_check_timeout_ms=1000,
    health_check_failure_threshold=3,
)
head = dict(num_cpus=1, include_dashboard=False, _system_config=fast)
cluster = Cluster(initialize_head=True, head_node_args=head)
second = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
spec = Spec.parse({
    "model": "bundled:mnist-cnn",
    "stimulus": {"kind": "gaussian", "shape": [1, 28, 28], "scale": 1.0},
    "samples": 80_000,
    "execution": {"shard": 1280, "segments": 8},
})
executor = RayExecutor(spec, workers=2)
gone = False

def callback(event):
    global gone
    if isinstance(event, ShardDone) and not gone and executor.workers == 2:
        gone = True
        cluster.remove_node(second, allow_graceful=False)

execute(spec, RunDirectory(sys.argv[1]), executor, callback)
faults = RunDirectory(sys.argv[1]).verify()
print("gone:", gone, "faults:", faults, "started:", executor.workers, flush=True)
executor.close()
ray.shutdown()
cluster.shutdown()
"""


FOLLOW = """
import os, sys
os.environ["WNA_TEST_SLEEP"] = "0.05"
import ray
from ray.cluster_utils import Cluster
from wna_ray.errors import WnaError
from wna_ray.events import ShardDone
from wna_ray.events import WorkersChanged
from wna_ray.kinds.average.job import execute
from wna_ray.execution.ray import RayExecutor
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec

def say(*words):
    print(*words, flush=True)

def asked(patience):
    return Spec.parse({
        "model": "python:networks_for_tests:elsewhere",
        "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0},
        "samples": 64 * 280,
        "numerics": {"batch": 64, "device": "cpu"},
        "execution": {"shard": 128, "segments": 4, "patience": patience},
    })

spec = asked(120)  # a busy machine takes its time to start a worker
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False))
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

executor = RayExecutor(asked(5))
try:
    execute(asked(5), RunDirectory(sys.argv[1] + "/nobody"), executor, print)
except WnaError as error:
    say("nobody:", error)
executor.close()

first = cluster.add_node(num_cpus=1)
executor = RayExecutor(spec)
come = []

def callback(event):
    if isinstance(event, ShardDone) and not come:
        come.append(cluster.add_node(num_cpus=1))
    if isinstance(event, WorkersChanged):
        say("workers:", event.workers, "of", event.wanted)
        if event.workers == 2:
            cluster.remove_node(come[0])

execute(spec, RunDirectory(sys.argv[1] + "/follow"), executor, callback)
say("follow:", RunDirectory(sys.argv[1] + "/follow").verify(), executor.workers)
executor.close()

other = cluster.add_node(num_cpus=1, env_vars={"WNA_TEST_ARITHMETIC": "1"})
executor = RayExecutor(spec, workers=2)
done = []

def notice(event):
    if isinstance(event, ShardDone):
        done.append(len(executor.unfit))
    if len(done) == 20 and not executor.unfit:
        say("nobody was found unfit")

execute(spec, RunDirectory(sys.argv[1] + "/unfit"), executor, notice)
used, unfit = {actor.node for actor in executor.pool if actor.node}, executor.unfit
faults = RunDirectory(sys.argv[1] + "/unfit").verify()
say("unfit:", faults, len(unfit), len(used), used.isdisjoint(unfit))
executor.close()
ray.shutdown()
cluster.shutdown()
"""

PORTS = """
import json, os, time
import ray
import psutil  # Ray's own, found once Ray is imported
from wna_ray.execution.ray import connect

connect(None, 1, 1, False)

@ray.remote
class Actor:
    def there(self):
        return True

actor = Actor.remote()
ray.get(actor.there.remote())
(node,) = ray.nodes()
wanted = {node[key] for key in ("NodeManagerPort", "ObjectManagerPort", "MetricsExportPort")}
wanted |= {int(os.environ[key]) for key in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")}
me, until, found = psutil.Process(), time.monotonic() + 60, []
while not wanted <= {port for _, _, port in found} and time.monotonic() < until:
    time.sleep(0.5)  # Ray's helpers open their ports some time after ray.init
    found = []
    for process in [me, *me.children(recursive=True)]:
        try:
            sockets = process.net_connections("tcp")
        except psutil.Error:  # it has ended
            continue
        found += [(process.name(), *c.laddr) for c in sockets if c.status == psutil.CONN_LISTEN]
print(json.dumps({"wanted": sorted(wanted), "found": found}))
ray.shutdown()
"""


SEARCHED = """
import json, os, sys
import ray
from wna_ray.execution.ray import connect

connect(None, 1, 1, code=sys.argv[1] == "code")

@ray.remote
def searched():
    import wna_ray
    return sys.path, wna_ray.__file__

path, package = ray.get(searched.remote())
print(json.dumps({"here": os.getcwd() in path, "package": package}))
ray.shutdown()
"""


def outside(address: str) -> bool:
    """Whether a socket bound to this address can be reached from another machine."""
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return not (mapped or ip).is_loopback


@pytest.mark.parametrize(
    ("address", "open_"),
    [
        ("0.0.0.0", True),
        ("::", True),
        ("192.0.2.1", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:192.0.2.1", True),
    ],
)
def test_which_addresses_are_seen_from_outside(address: str, open_: bool) -> None:
    assert outside(address) == open_


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't tell whose a socket is")
def test_a_local_cluster_listens_on_loopback_only() -> None:
    """Driver, GCS, raylet, agents, metrics and workers: Ray itself would use all interfaces."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    for key in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"):
        with socket.create_server(("", 0)) as free:  # another Ray here may have the usual ones
            env[key] = str(free.getsockname()[1])
    command = [sys.executable, "-c", PORTS]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["wanted"]) <= {port for _, _, port in told["found"]}, told
    assert {"gcs_server", "raylet", "ray::Actor"} <= {name for name, _, _ in told["found"]}, told
    assert [entry for entry in told["found"] if outside(entry[1])] == []


def test_only_a_cluster_started_here_is_kept_to_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one that is joined; and Ray is as it was afterwards, also where it did not start."""
    from ray._private import ray_constants

    clusters: list[tuple[str, bool]] = []

    def init(address: str, **_: Any) -> None:
        clusters.append((address, ray_constants.ENABLE_RAY_CLUSTER))
        if len(clusters) == 4:
            raise RuntimeError("no")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    for address in (None, "local", "auto"):
        assert connect(address, 1, 1, False)
        assert ray_constants.ENABLE_RAY_CLUSTER is True
    with pytest.raises(WnaError, match="cannot reach Ray at a local cluster"):
        connect(None, 1, 1, False)
    assert clusters == [("local", False), ("local", False), ("auto", True), ("local", False)]
    assert ray_constants.ENABLE_RAY_CLUSTER is True
    assert not caplog.records
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "192.0.2.1")  # of some Ray to come
    connect(None, 1, 1, False)
    assert "does not keep to this machine" in caplog.text


@pytest.mark.ray
@pytest.mark.parametrize("asked", ["code", "no code"])
def test_workers_search_the_working_directory_only_for_code_that_was_asked_for(
    asked: str, tmp_path: Path
) -> None:
    """It may be the folder of a stranger's run; Ray alone would have every worker look there
    first.
    """
    (tmp_path / "torch.py").write_text("raise SystemExit('a module of the folder was run')")
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    (tmp_path.parent / f"{asked}.py").write_text(SEARCHED)
    command = [sys.executable, "-P", str(tmp_path.parent / f"{asked}.py"), asked]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"here": asked == "code", "package": str(Path(wna_ray.__file__))}


@pytest.mark.ray
def test_workers_come_and_go_with_the_cluster(tmp_path: Path) -> None:
    """On one cluster: nobody comes, and the job stops; one works, another joins and leaves; one
    calculates otherwise and is not used.
    """
    command = [sys.executable, "-c", FOLLOW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    (nobody,) = [line for line in done.stdout.splitlines() if line.startswith("nobody")]
    assert (
        "(execution.patience): the cluster has no room for an actor with 1 CPU. What was committed"
        " stays" in nobody
    )
    changes = [line for line in done.stdout.splitlines() if line.startswith("workers:")]
    assert changes[0] == "workers: 2 of 2"
    assert changes[1].startswith("workers: 1 of ")
    assert "follow: [] 1" in done.stdout
    assert "unfit: [] 1 1 True" in done.stdout


def test_a_copy_may_go_where_the_first_has_ended() -> None:
    """Or it would wait for ever, where that is the only worker left."""
    only = Actor(None, None, "node")
    pool = [only]
    calls = Calls(pool)
    first = Call("merge", (), (), actor=only)
    only.calls.append(first)
    copy = Call("merge", (), (), avoid=first)
    assert calls.place(copy) is None
    other = Actor(None, None, "node")
    pool.append(other)
    assert calls.place(copy) is other, "the same machine, where there is no other"
    pool.append(Actor(None, None, "another"))
    assert calls.place(copy) is pool[-1]
    del pool[1:]
    only.calls.remove(first)
    assert calls.place(copy) is only


def test_what_only_a_lost_machine_had_is_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself takes 10 to 18 s more to tell a merge that its partial will not come."""
    cancelled = []
    monkeypatch.setattr("ray.cancel", cancelled.append)
    lost, living = Actor(None, None, "lost"), Actor(None, None, "living")
    calls = Calls([lost, living])
    partials = [Call("shard", (), (), actor=actor) for actor in (lost, living)]
    flying = [
        Call("merge", (partial,), (), actor=living, report=f"{partial.actor.node} report")
        for partial in partials
        if partial.actor
    ]
    living.calls += flying
    waiting = Call("merge", tuple(partials), ())
    calls.add(waiting)
    calls.note_gone({"lost"})
    living.calls.clear()  # room for one more
    calls.dispatch()
    ended = calls.take_ended()
    assert ended == [flying[0], waiting]
    assert cancelled == ["lost report"]
    for call in ended:
        with pytest.raises(PayloadLost, match="the machine that had it is gone"):
            call.result()


@pytest.mark.ray
def test_metrics_reach_the_port_of_the_node(ray_cluster: None) -> None:
    import ray

    from wna_ray.execution.metrics import RayMetrics

    tell = RayMetrics()
    for event in (
        RunStarted("runs/x", "0123456789abcdef", 1000, 0, 2, 3, "cpu"),
        ShardDone(0, 600, {"forward": 1.5, "noise": 0.25}),
        ShardDone(600, 1000, {"forward": 0.5}),
        ShardRetried(0, 600, 1, "x"),
        SegmentCommitted(0, 1000, Committed(2.0, 4096, 3)),
        WorkersChanged(2, 3),
    ):
        tell(event)
    wanted = {
        "ray_wna_images": 1000.0,
        'ray_wna_shards{state="done"}': 2.0,
        'ray_wna_shards{state="retried"}': 1.0,
        'ray_wna_seconds{phase="forward"}': 2.0,
        'ray_wna_seconds{phase="noise"}': 0.25,
        'ray_wna_seconds{phase="commit"}': 2.0,
        "ray_wna_committed_bytes": 4096.0,
        "ray_wna_storage_retries": 3.0,
        "ray_wna_workers": 2.0,
    }
    (node,) = ray.nodes()
    until = time.monotonic() + 60
    while (
        found := exported(
            f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        )
    ) != wanted:
        assert time.monotonic() < until, found
        time.sleep(1)


def exported(url: str) -> dict[str, float]:
    """Our metrics there, by name and the tags that matter."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            url, timeout=5
        ) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        if match := re.fullmatch(r"(ray_wna_\w+?)(?:_total)?\{(.*)\} (\S+)", line):
            tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            if tags["run"] != "0123456789ab":
                continue  # of another test on this cluster
            kept = ",".join(f'{key}="{tags[key]}"' for key in ("state", "phase") if key in tags)
            found[match[1] + (f"{{{kept}}}" if kept else "")] = float(match[3])
    return found


@pytest.mark.ray
def test_a_lost_node_leaves_the_work_to_the_other(tmp_path: Path) -> None:
    """Two nodes of one CPU each; one is removed mid-run. Its replacement finds no place and
    must not be given any call.
    """
    command = [sys.executable, "-c", LOSE_A_NODE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "gone: True faults: [] started: 1" in done.stdout
