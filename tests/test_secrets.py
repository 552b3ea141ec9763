"""A secret planted in every place where a URL can stand is nowhere to be read: stored, printed,
in a page, in a traceback.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from wna_ray.canonical import canonical, sha256
from wna_ray.cli import app
from wna_ray.runs.directory import RunDirectory
from wna_ray.storage import store

SECRETS = ("PWSECRET", "SIGSECRET", "ENDSECRET", "OPTSECRET")
LINEAR = "python:networks_for_tests:linear"
NOISE = {"kind": "gaussian", "shape": [1, 28, 28], "offset": 0.5, "scale": 0.3}


class Guarded(http.server.SimpleHTTPRequestHandler):
    """Files for whoever logs in."""

    wanted = "Basic " + base64.b64encode(b"user:PWSECRET").decode()

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != self.wanted:
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``user:PWSECRET@HOST:PORT`` of a server that has the bundled weights, and they are given
    to nobody else.
    """
    folder = tmp_path_factory.mktemp("served")
    (folder / "w.safetensors").write_bytes(
        files("wna_ray").joinpath("bundled", "mnist-cnn.safetensors").read_bytes()
    )
    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Guarded, directory=str(folder))
    )
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"user:PWSECRET@127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 0.5)  # servers that are not there stay away


def wna(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def told(result: Result) -> str:
    """All that a command has said, its exception's text included."""
    return result.output + result.stderr + repr(result.exception)


def readable(*folders: Path) -> str:
    """All bytes of all files below some folders, with text in base64 left as it is."""
    return "".join(
        path.read_bytes().decode("latin-1")
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def hidden(text: str) -> bool:
    return not any(
        secret in text or base64.b64encode(secret.encode()).decode().rstrip("=") in text
        for secret in SECRETS
    )


@pytest.fixture
def asked(server: str) -> dict[str, Any]:
    """A spec with a secret in its weights, and another in its endpoint."""
    return {
        "model": (
            f"bundled:mnist-cnn?weights=http://{server}/w.safetensors%3FX-Amz-Signature%3DSIGSECRET"
        ),
        "stimulus": NOISE,
        "samples": 200,
        "numerics": {"batch": 50},
        "execution": {"endpoint": "http://AKIA:ENDSECRET@s3.example.org"},
    }


def test_a_run_whose_weights_lie_behind_a_password(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(asked))
    out = tmp_path / "out"
    run = ("run", tmp_path / "spec.yaml", "--executor", "local", "--out", out)
    said = [
        wna(*run),
        wna(*run),
        wna("plan", tmp_path / "spec.yaml", "--pilot", "50"),
        wna("status", out),
        wna("verify", out),
    ]
    said += [
        wna("report", out, "--to", tmp_path / "report"),
        wna("report", out, "--html", "--to", tmp_path / "page"),
    ]
    said += [
        wna("fetch", out, tmp_path / "copy"),
        wna("compare", out, out, "--kind", "logits", "--to", tmp_path / "compared"),
    ]
    assert [s.exit_code for s in said[:8]] == [0] * 8, [told(s) for s in said]
    assert all(hidden(told(s)) for s in said)
    assert hidden(readable(out, *(tmp_path / name for name in ("report", "page", "copy"))))
    stored = json.loads((out / "spec.json").read_text())["spec"]
    assert stored["model"].startswith("bundled:mnist-cnn?weights=http://***@127.0.0.1:")
    assert stored["execution"]["endpoint"] == "http://***@s3.example.org"
    assert (tmp_path / "page/report.html").read_text().count("***@127.0.0.1") >= 2


def test_a_sweep_whose_weights_lie_behind_a_password(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        yaml.safe_dump({"sweep": {"n": {"a": {"seed": 1}, "b": {"seed": 2}}}} | asked)
    )
    out = tmp_path / "out"
    run = ("run", tmp_path / "spec.yaml", "--executor", "local", "--out", out)
    said = [
        wna(*run),
        wna(*run),
        wna("plan", tmp_path / "spec.yaml"),
        wna("status", out),
        wna("verify", out),
    ]
    said += [
        wna("report", out, "--html", "--to", tmp_path / "page"),
        wna("fetch", out, tmp_path / "copy"),
    ]
    assert [s.exit_code for s in said] == [0] * 7, [told(s) for s in said]
    assert all(hidden(told(s)) for s in said)
    assert hidden(readable(out, tmp_path / "page", tmp_path / "copy"))


def test_a_run_of_an_earlier_version_that_has_stored_a_secret_does_not_show_it(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    plain = asked | {"model": "bundled:mnist-cnn", "execution": {}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(plain))
    out = tmp_path / "out"
    assert wna("run", tmp_path / "spec.yaml", "--executor", "local", "--out", out).exit_code == 0
    stored = json.loads((out / "spec.json").read_text())
    del stored["digest"]
    stored["spec"] |= {"model": asked["model"]}
    stored["spec"]["execution"] |= asked["execution"]
    (out / "spec.json").write_text(
        json.dumps(stored | {"digest": sha256(canonical(stored).encode())})
    )
    manifest = json.loads((out / "MANIFEST.json").read_text())
    data = (out / "spec.json").read_bytes()
    manifest["objects"]["spec.json"] = {"bytes": len(data), "sha256": sha256(data)}
    (out / "MANIFEST.json").write_text(json.dumps(manifest))
    said = [wna("verify", out), wna("status", out), wna("report", out, "--to", tmp_path / "report")]
    said += [
        wna("report", out, "--html", "--to", tmp_path / "page"),
        wna("compare", out, out, "--kind", "logits", "--to", tmp_path / "compared"),
    ]
    assert [s.exit_code for s in said[:4]] == [0] * 4, [told(s) for s in said]
    assert all(hidden(told(s)) for s in said)
    assert hidden(readable(tmp_path / "report", tmp_path / "page"))
    assert hidden(json.dumps(RunDirectory(str(out)).spec().model_dump()))


FAILING: dict[
    str, dict[str, Any]
] = {  # what of a spec holds the secret; each fails, and says so without it
    "weights, no such file": {"model": "bundled:mnist-cnn?weights=http://{server}/nowhere.pt"},
    "weights, nobody there": {
        "model": (
            "bundled:mnist-cnn?weights=http://user:PWSECRET@127.0.0.1:9/w.pt%3Fsig%3DSIGSECRET"
        )
    },
    "weights, a bare query": {
        "model": (
            "bundled:mnist-cnn?weights=http://user:PWSECRET@127.0.0.1:9/w.pt?a=1&sig=SIGSECRET"
        )
    },
    "weights, keys of S3": {"model": "bundled:mnist-cnn?weights=s3://AKIA:PW/PWSECRET@bucket/w.pt"},
    "weights, chained": {
        "model": "bundled:mnist-cnn?weights=simplecache::http://user:PWSECRET@127.0.0.1:9/w.pt"
    },
    "export": {"model": "export:http://{server}/nowhere.pt2"},
    "trained": {"model": "trained:http://{server}/nowhere"},
    "decoder": {
        "model": "bundled:mnist-cnn",
        "decoder": "trained:http://{server}/nowhere",
        "stimulus": NOISE | {"space": "input"},
    },
    "offset": {"stimulus": NOISE | {"offset": "http://{server}/x.npy?sig=SIGSECRET"}},
    "offset of S3": {"stimulus": NOISE | {"offset": "s3://AKIA:PWSECRET@bucket/x.npy"}},
    "endpoint that is none": {"execution": {"endpoint": "ftp://AKIA:ENDSECRET@s3.example.org"}},
    "dataset": {"evaluation": "http://user:PWSECRET@host/data"},
    "layer": {"target": {"layer": "http://user:PWSECRET@host/layer"}},
    "an unknown key": {"http://user:PWSECRET@host/key": 1},
    "factory that fails": {
        "model": (
            "python:networks_for_secrets:fails?address=http://user:PWSECRET@host/x?sig=OPTSECRET"
        )
    },
    "forward that fails": {
        "model": "python:networks_for_secrets:fails_later?address=http://user:PWSECRET@host/x"
    },
    "forward that fails in a shard": {
        "model": (
            "python:networks_for_secrets:fails_in_a_shard?address=http://user:PWSECRET@host/x"
        )
    },
}
NETWORKS = """
import torch

class Failing(torch.nn.Module):
    def __init__(self, address, calls):
        super().__init__()
        self.address, self.calls = address, calls

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError(f"cannot reach {self.address} \\x1b[2J")
        return x.flatten(1)[:, :3]

def fails(address):
    raise ValueError(f"cannot reach {address}")

def fails_later(address):
    return Failing(address, 0)

def fails_in_a_shard(address):
    return Failing(address, 8)
"""


@pytest.mark.parametrize("what", FAILING)
def test_errors_tell_no_secret(
    what: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks_for_secrets.py").write_text(NETWORKS)
    asked = {
        "model": "bundled:mnist-cnn",
        "stimulus": NOISE,
        "samples": 200,
        "numerics": {"batch": 50},
    }
    (tmp_path / "spec.yaml").write_text(
        yaml.safe_dump(asked | FAILING[what]).replace("{server}", server)
    )
    got = wna("run", "spec.yaml", "--executor", "local", "--out", "out")
    assert got.exit_code in (1, 2), told(got)
    assert hidden(told(got)), told(got)
    assert "\x1b" not in told(got)
    assert hidden(readable(tmp_path / "out"))


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:PWSECRET@bucket/run",
        "gs://user:PWSECRET@bucket/run",
        "http://user:PWSECRET@127.0.0.1:9/run?sig=SIGSECRET",
    ],
)
@pytest.mark.parametrize(
    "command",
    ["run", "status", "verify", "report", "fetch", "compare", "contrast", "backdoor", "train"],
)
def test_places_of_runs_tell_no_secret(
    command: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(
        yaml.safe_dump({"model": "bundled:mnist-cnn", "stimulus": NOISE, "samples": 10})
    )
    Path("train.yaml").write_text(
        yaml.safe_dump({"network": "logistic", "dataset": "mnist", "epochs": 1})
    )
    arguments: dict[str, tuple[object, ...]] = {
        "run": ("spec.yaml", "--executor", "local", "--out", url),
        "train": ("train.yaml", "--executor", "local", "--out", url),
        "fetch": (url, "copy"),
        "compare": (url, url, "--kind", "logits"),
        "contrast": (url, url, "--kind", "logits", "--name", "1"),
        "backdoor": ("--panel", url, "--networks", url),
    }
    got = wna(command, *arguments.get(command, (url,)))
    assert got.exit_code in (1, 2), told(got)
    assert hidden(told(got)), told(got)
    if url.startswith(("s3", "gs")):
        assert "AWS_ACCESS_KEY_ID" in got.stderr


def test_a_server_named_by_the_environment_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://AKIA:ENDSECRET@127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "PWSECRET")
    got = wna("status", "s3://bucket/run")
    assert got.exit_code == 1
    assert "127.0.0.1:9" in told(got)
    assert hidden(told(got)), told(got)
    assert hidden(repr(os.listdir(tmp_path)))
