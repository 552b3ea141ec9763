"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Moto, Rclone, Rgw, S3Server

from wna_ray.specs.run import Spec

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are taken by the other processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)  # for `python:networks_for_tests`

# A shell's background job ignores Ctrl-C, and would hand that on to the drivers that the tests
# interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Workers are started once and keep their environment, so the place for planted faults is chosen
# before.
os.environ["WNA_TEST_FAULT"] = str(Path(tempfile.mkdtemp(prefix="wna-fault-")) / "fault")


# Tests of these files start clusters, or measure how long something takes: one at a time. Chaos
# tests have hosts of their own.
ALONE = {"test_job", "test_ray_executor", "test_stop", "test_cluster"}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For ``--dist loadgroup``: tests with a cluster share it, in one process; of the others,
    those of a file share their fixtures.
    """
    for item in items:
        cluster = item.path.stem in ALONE or "ray_cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("cluster" if cluster else item.path.stem))


@pytest.fixture
def fault() -> Iterator[Path]:
    """File that tells `networks_for_tests.Faulty` what to do (``raise``, ``kill``; with ``
    once``: only the first time).
    """
    path = Path(os.environ["WNA_TEST_FAULT"])
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def make_spec() -> Callable[..., Spec]:
    """A small spec (linear network on 1 x 4 x 4 images, 2,000 images) with whatever a test
    changes.
    """

    def make(**changes: Any) -> Spec:
        stimulus = {
            "kind": "gaussian",
            "shape": [1, 4, 4],
            "space": "input",
            "scale": 1.0,
        } | changes.pop("stimulus", {})
        base: dict[str, Any] = {
            "model": "python:networks_for_tests:linear",
            "stimulus": stimulus,
            "responses": ["label", "logits"],
            "samples": 2_000,
            "seed": 7,
            "numerics": {"batch": 64},
            "execution": {"shard": 256, "segments": 4},
        }
        return Spec.parse(base | changes)

    return make


@pytest.fixture(scope="session")
def wna_data() -> Path:
    """Folder of real data sets; the test skips where there is none."""
    root = os.environ.get("WNA_DATA")
    if not root or not (Path(root) / "MNIST" / "raw").is_dir():
        pytest.skip("needs real data: set WNA_DATA to a folder that holds MNIST/raw")
    return Path(root)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray of two CPUs for the whole session."""
    import ray

    ray.init(
        "local", include_dashboard=False, num_cpus=2, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests meet the servers they start, never an account that somebody has configured here."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    if s3fs := sys.modules.get("s3fs"):
        s3fs.S3FileSystem.clear_instance_cache()  # clients of an earlier test, with its keys


def _server(kind: type[S3Server], factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if reason := kind.missing():
        pytest.skip(reason)
    with kind(factory.mktemp(kind.__name__.lower())) as server:
        server.make_bucket("runs")
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A quick S3 server with a bucket ``runs``, for the whole session."""
    yield from _server(Moto, tmp_path_factory)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that ignores conditions, with a bucket ``runs``."""
    yield from _server(Rclone, tmp_path_factory)


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with a bucket ``runs``."""
    yield from _server(Rgw, tmp_path_factory)
