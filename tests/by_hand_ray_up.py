"""A real ``ray up`` from ``cluster-onprem.yaml``: two machines with sshd, a job, ``ray down``. Run
by hand, as root, on Linux:

    sudo .venv/bin/python tests/by_hand_ray_up.py [--samples 200000] [--source DIR]

Three namespaced hosts (the operator's, the head, a worker) with home directories and /tmp of their
own. The operator does what docs/clusters.md says, with the file as it is but for hosts, user and
key. Needs openssh-server, rsync and iproute2; nothing remains afterwards. The packages are not
installed again: ~/wna-env of the machines is this checkout's environment, so pip finds that all is
there. About three minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from hosts import Host, Hosts, missing
from raycluster import BIN
from servers import spawn, wait_until

ROOT = Path(__file__).resolve().parents[1]
MOUNTS = """
set -e
for path in $VISIBLE; do mkdir -p "$PRIVATE$path"; mount --bind "$path" "$PRIVATE$path"; done
for place in "$HOME" /tmp; do
    mkdir -p "$PRIVATE$place"; mount --rbind "$PRIVATE$place" "$place"
done
mount -t tmpfs -o size=8g tmpfs /dev/shm
"""
SSHD = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument(
        "--source", type=Path, default=ROOT, help="the working directory that is submitted"
    )
    parser.add_argument("--as-operator", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_operator:
        operate(args.as_operator, args.source, args.samples)
        return
    absent = [
        program
        for program in ("rsync", "ssh-keygen", "/usr/sbin/sshd")
        if not shutil.which(program)
    ]
    if why := missing() or (f"needs {', '.join(absent)}" if absent else None):
        raise SystemExit(why)
    folder = Path(tempfile.mkdtemp(prefix="wna-ray-up-", dir="/var/tmp"))
    try:
        with Hosts(3, folder) as hosts:
            end = rehearse(
                hosts,
                folder,
                args.source,
                ["--source", str(args.source), "--samples", str(args.samples)],
            )
    finally:
        shutil.rmtree(folder)
    raise SystemExit(end)


def rehearse(hosts: Hosts, folder: Path, source: Path, args: Sequence[str]) -> int:
    """Set the scene, let the operator act, and pass on what it says; its exit code."""
    operator, head, worker = hosts
    for key in ("key", "host_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True
        )
    Path("/run/sshd").mkdir(exist_ok=True)
    for host in hosts:
        host.boot()
        move_in(host, folder / f"{host.name}-root", source)
    for host in (head, worker):
        (folder / f"{host.name}.conf").write_text(SSHD.format(address=host.address, folder=folder))
        host.popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / f"{host.name}.conf")])
    config = yaml.safe_load((ROOT / "cluster-onprem.yaml").read_text())
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    config["auth"] |= {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(config))

    shown = operator.log.stat().st_size
    acting = operator.popen([sys.executable, __file__, "--as-operator", str(folder), *args])
    while acting.poll() is None or shown < operator.log.stat().st_size:
        text = operator.log.read_bytes()[shown:]
        shown += len(text)
        print(text.decode(errors="replace"), end="", flush=True)
        time.sleep(0.2)
    return int(acting.returncode)


def move_in(host: Host, private: Path, source: Path) -> None:
    """Give a host its own home directory and /tmp, in which only this checkout and its
    interpreter are to be seen.
    """
    home = Path.home()
    (private / home.relative_to("/")).mkdir(parents=True)
    (private / home.relative_to("/") / ".bashrc").touch()
    (private / home.relative_to("/") / "wna-env").symlink_to(BIN.parent)
    visible = [
        str(path)
        for path in {ROOT, source, Path(sys.base_prefix)}
        if path.is_relative_to(home) or path.is_relative_to("/tmp")
    ]
    done = host.run(
        ["bash", "-c", MOUNTS],
        {"PRIVATE": str(private), "VISIBLE": " ".join(visible), "HOME": str(home)},
    )
    check(done.returncode == 0, "mounts", done.stderr)


def operate(folder: Path, source: Path, samples: int) -> None:
    """What an operator does, from the token to ``ray down``."""
    os.chdir(Path.home())
    os.environ |= {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
    }
    config, run, key = str(folder / "cluster.yaml"), str(folder / "run"), str(folder / "key")
    provider = yaml.safe_load(Path(config).read_text())["provider"]
    machines = [provider["head_ip"], *provider["worker_ips"]]
    wait_until(
        lambda: all(on(machine, key, "true").returncode == 0 for machine in machines), 30, "sshd"
    )
    timed(
        "token",
        "sh",
        "-c",
        "ray get-auth-token --generate >/dev/null && chmod 600 ~/.ray/auth_token",
    )
    timed("ray up", "ray", "up", "-y", config)
    tunnel = spawn(["ray", "dashboard", config], folder / "tunnel.log", os.environ)
    wait_until(
        lambda: subprocess.run(["ray", "job", "list"], capture_output=True).returncode == 0,
        60,
        "tunnel",
        needs=tunnel,
    )
    refuse_strangers()
    wait_until(lambda: nodes(config) == len(machines), 120, "all machines")
    say("all machines have joined")
    submit_jobs(source, run, samples)
    timed("wna verify", "wna", "verify", run)
    timed("ray down", "ray", "down", "-y", config)
    check(not ray_runs(machines[0], key), "Ray is left on the head", "")
    wait_until(
        lambda: not any(ray_runs(machine, key) for machine in machines),
        120,
        "the workers end themselves",
    )
    say("no Ray process is left")
    tunnel.kill()


def refuse_strangers() -> None:
    """Without the token nobody reads or submits a job."""
    stranger = os.environ | {"HOME": "/nowhere", "RAY_AUTH_MODE": ""}
    for attempt in (["ray", "job", "list"], ["ray", "job", "submit", "--", "true"]):
        refused = subprocess.run(attempt, capture_output=True, text=True, env=stranger)
        check(
            refused.returncode != 0 and "Missing authentication token" in refused.stderr,
            "a stranger got in",
            str(refused),
        )
    say("without the token: can neither read nor submit")


def submit_jobs(source: Path, run: str, samples: int) -> None:
    """The demo twice, and a small job of the installed package."""
    job = [
        "python",
        "-m",
        "wna_ray",
        "run",
        "jobs/demo.yaml",
        "--set",
        f"samples={samples}",
        "--out",
        run,
    ]
    timed("job", "ray", "job", "submit", "--working-dir", str(source), "--", *job)
    timed(
        "the same command again", "ray", "job", "submit", "--working-dir", str(source), "--", *job
    )
    installed = [
        "wna",
        "run",
        str(source / "jobs/demo.yaml"),
        "--set",
        "samples=20000",
        "--out",
        f"{run}-installed",
    ]
    timed(
        "a small job of the installed package, without a working directory",
        "ray",
        "job",
        "submit",
        "--",
        *installed,
    )


def timed(what: str, *command: str) -> None:
    begin = time.monotonic()
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    check(done.returncode == 0, f"{what}: code {done.returncode}", done.stdout)
    say(f"{what}: {time.monotonic() - begin:.1f} s")


def say(what: str, begun: float = time.monotonic()) -> None:
    print(f"{time.monotonic() - begun:6.1f} s  {what}", flush=True)


def check(true: bool, else_what: str, evidence: str) -> None:
    if not true:
        raise SystemExit(f"{else_what}:\n{evidence}")


def on(machine: str, key: str, command: str) -> subprocess.CompletedProcess[str]:
    options = [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
        "-i",
        key,
    ]
    return subprocess.run(
        ["ssh", *options, f"root@{machine}", command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def ray_runs(machine: str, key: str) -> bool:
    return (
        re.search("raylet|gcs_server|dashboard", on(machine, key, "ps -e -o args").stdout)
        is not None
    )


def nodes(config: str) -> int:
    """Machines that `ray status` shows as active."""
    status = subprocess.run(
        ["ray", "exec", config, "ray status"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    ).stdout
    active = status.partition("Active:")[2].partition("Pending:")[0]
    return sum(int(count) for count in re.findall(r"^ *(\d+) local\.cluster\.node", active, re.M))


if __name__ == "__main__":
    main()
