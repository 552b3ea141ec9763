"""A crash at every single storage operation of a run: the same command goes on, and gives the bytes
of a run that never crashed.

One process with everything imported forks a child a run. In the child a counter stands before every
operation on the storage (each file that is opened, flushed, linked, renamed, removed or listed;
each request to S3); at number k the child dies as by kill -9. What a file holds that was not
flushed yet may be lost in a power cut, so half of it is cut off first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from servers import S3Server

from wna_ray.kinds.average import figures
from wna_ray.kinds.average.job import run
from wna_ray.runs.directory import RunDirectory
from wna_ray.specs.run import Spec

pytestmark = pytest.mark.chaos

DIED = 137
SPEC: dict[str, Any] = {
    "model": "python:networks_for_tests:sometimes_nan",
    "stimulus": {"kind": "gaussian", "shape": [1, 4, 4], "space": "input", "scale": 1.0},
    "responses": ["label"],
    "keep_responses": True,
    "samples": 1500,
    "seed": 7,
    "numerics": {"batch": 64},
    "execution": {"shard": 256, "segments": 3},
}
PICTURES = {f"{name}.png": "drawn" for name in ("bias_maps", "z_maps", "label_frequencies")}
"""Instead of figures, whose drawing would take most of the time; how they are stored is what
matters here.
"""

NURSERY = """
import json, os, sys, tempfile
import s3fs
import torch
import wna_ray.storage.store
from wna_ray.kinds.average import figures
from wna_ray.kinds.average.job import run
from wna_ray.specs.run import Spec
from aiobotocore.httpsession import AIOHTTPSession

DIED = 137
FILES = {"open", "os.link", "os.rename", "os.remove"}
FILES |= {"os.mkdir", "os.rmdir", "os.scandir", "os.listdir"}
torch.set_num_threads(1)
pictures = json.loads(sys.argv[1])
figures.draw = lambda *_, **__: {name: text.encode() for name, text in pictures.items()}

class Counter:
    def __init__(self, folder, k):
        self.folder, self.k, self.n, self.names = folder, k, 0, []

    def step(self, name, before_death=lambda: None):
        self.n += 1
        self.names.append(name)
        if self.n == self.k:
            before_death()
            os._exit(DIED)

    def audit(self, event, args):
        named = event in FILES and isinstance(args[0], (str, os.PathLike))
        if named and os.fspath(args[0]).startswith(self.folder):
            self.step(event + " " + os.path.basename(os.fspath(args[0]))[:9])

    def fsync(self, fd, fsync=os.fsync):
        self.step("fsync", lambda: tear(fd))
        return fsync(fd)

def tear(fd):
    try:
        os.ftruncate(fd, os.fstat(fd).st_size // 2)
    except OSError:
        pass  # a folder

def child(spec, url, k, log):
    counter = Counter(url, k)
    if "://" in url:
        send = AIOHTTPSession.send
        async def counted(self, request):
            counter.step(request.method)
            return await send(self, request)
        AIOHTTPSession.send = counted
    else:
        os.fsync = counter.fsync
        sys.addaudithook(counter.audit)
    try:
        run(Spec.parse(spec), url, executor="local")
    except BaseException as error:
        counter.names.append(repr(error))
        code = 1
    else:
        code = 0
    counter.folder = "\\0"
    with open(log, "w") as file:
        json.dump([counter.n, counter.names], file)
    os._exit(code)

# This imports what a run imports on its way, which else each child would do.
with tempfile.TemporaryDirectory() as folder:
    run(Spec.parse(json.loads(sys.argv[2])), folder + "/warm", executor="local")

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        child(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Nursery:
    """Runs the job in children; `k` is the operation before which the child dies, 0 for none."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._log = folder / f"{uuid.uuid4().hex}.json"
        environment = os.environ | env
        command = [sys.executable, "-c", NURSERY, json.dumps(PICTURES), json.dumps(SPEC)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, url: str, k: int) -> tuple[int, int, list[str]]:
        """Exit code, operations, and their names (with what was raised, last)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._log.unlink(missing_ok=True)
        print(json.dumps([SPEC, url, k, str(self._log)]), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        n, names = json.loads(self._log.read_text()) if self._log.exists() else (k, [])
        return code, n, names

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            figures,
            "draw",
            lambda *_, **__: {name: text.encode() for name, text in PICTURES.items()},
        )
        run(Spec.parse(SPEC), str(out), executor="local")
    return objects(RunDirectory(str(out)))


def objects(directory: RunDirectory) -> dict[str, bytes]:
    """All objects of a run but what its drivers wrote about themselves and the storage."""
    names = [
        name
        for name in directory.store.list("")
        if not name.startswith(("drivers/", "events/", "probe"))
    ]
    return {name: directory.store.read(name) or b"" for name in names}


@pytest.fixture
def nurseries(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sequence[Nursery]]:
    env = request.getfixturevalue("moto").env() if request.param == "s3" else {}
    found = [Nursery(tmp_path, env) for _ in range(2)]
    yield found
    for nursery in found:
        nursery.close()


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "files":
        return str(tmp_path)
    server: S3Server = request.getfixturevalue("moto")
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    return f"s3://runs/crash-{uuid.uuid4().hex}"


@pytest.mark.parametrize(
    ("nurseries", "root", "least"),
    [("files", "files", 100), ("s3", "s3", 50)],
    ids=["files", "s3"],
    indirect=["nurseries", "root"],
)
def test_a_crash_at_any_operation_costs_nothing(
    nurseries: Sequence[Nursery], root: str, least: int, reference: dict[str, bytes]
) -> None:
    code, operations, names = nurseries[0].run(f"{root}/undisturbed", 0)
    assert code == 0, names[-1]
    assert operations >= least, names
    free: SimpleQueue[Nursery] = SimpleQueue()
    for nursery in nurseries:
        free.put(nursery)

    def crash(k: int) -> str:
        url, nursery = f"{root}/{k}", free.get()
        try:
            died, _, _ = nursery.run(url, k)
            resumed, _, told = nursery.run(url, 0)
        finally:
            free.put(nursery)
        directory, at = RunDirectory(url), f"operation {k} ({names[k - 1]})"
        if died != DIED or resumed != 0:
            return f"{at}: exit codes {died}, {resumed}; {told[-1:]}"
        found = objects(directory)
        if found != reference:
            every = found.keys() | reference
            other = sorted(n for n in every if found.get(n) != reference.get(n))
            return f"{at}: not the same: {other}"
        return "\n".join(f"{at}: {fault}" for fault in directory.verify())

    with ThreadPoolExecutor(len(nurseries)) as pool:
        failures = [failure for failure in pool.map(crash, range(1, operations + 1)) if failure]
    assert not failures, "\n".join(failures)
    print(f"{operations} crashes: {', '.join(names)}")
