"""What only a cluster can do to a run: a whole node goes, and its worker can never be replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOSE_A_NODE = """
import sys
import ray
from ray.cluster_utils import Cluster
from wna_ray.events import ShardDone
from wna_ray.job import execute
from wna_ray.ray_executor import RayExecutor
from wna_ray.rundir import RunDirectory
from wna_ray.spec import Spec

fast = dict(health_check_initial_delay_ms=500, health_check_period_ms=500, health_check_timeout_ms=1000, health_check_failure_threshold=3)
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False, _system_config=fast))
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
    if isinstance(event, ShardDone) and not gone and sum(a.node is not None for a in executor._pool) == 2:
        gone = True
        cluster.remove_node(second, allow_graceful=False)

execute(spec, RunDirectory(sys.argv[1]), executor, callback)
print("gone:", gone, "faults:", RunDirectory(sys.argv[1]).verify(), "started:", sum(a.node is not None for a in executor._pool), flush=True)
executor.close()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
def test_a_lost_node_leaves_the_work_to_the_other(tmp_path: Path) -> None:
    """Two nodes of one CPU each; one is removed mid-run. Its replacement finds no place and must not be given any call."""
    command = [sys.executable, "-c", LOSE_A_NODE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "gone: True faults: [] started: 1" in done.stdout
