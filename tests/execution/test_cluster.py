"""Launcher files, job manifest and runtime environment, by Ray's own checks and against the
project's versions (nothing is started).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from wna_ray.specs.run import Spec

LAUNCHER_FILES = ("cluster.yaml", "cluster-onprem.yaml")
S3_PACKAGES = {
    "aiobotocore",
    "botocore",
}  # not ours to name, but without their pins pip backtracks for minutes


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def manifest() -> dict[str, dict[str, Any]]:
    """The documents of the KubeRay manifest by kind."""
    return {
        document["kind"]: document
        for document in yaml.safe_load_all((ROOT / "jobs/rayjob.yaml").read_text())
    }


def pins(text: str) -> dict[str, str]:
    return {
        name.lower(): version
        for name, version in re.findall(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", text)
    }


def needed() -> set[str]:
    """Packages that a node needs, by the names in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        re.split(r"[\[><=]", requirement)[0].lower() for requirement in project["dependencies"]
    } | S3_PACKAGES


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_file_is_valid(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_file_keeps_the_cluster_closed(name: str) -> None:
    config = load(name)
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    for node in ("head", "worker"):
        [start] = [
            command for command in config[f"{node}_start_ray_commands"] if "ray start" in command
        ]
        assert "RAY_AUTH_MODE=token" in start.partition("ray start")[0]
        assert ("--dashboard-host=127.0.0.1" in start) == (node == "head")
        assert "0.0.0.0" not in start


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_no_actor_sits_on_the_head(name: str) -> None:
    assert "--num-cpus=0" in " ".join(load(name)["head_start_ray_commands"])


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_file_installs_what_the_package_needs(name: str) -> None:
    assert pins(" ".join(load(name)["setup_commands"])).keys() == needed()


@pytest.mark.parametrize("name", [*LAUNCHER_FILES, "jobs/runtime_env.yaml", "jobs/rayjob.yaml"])
def test_versions_are_those_of_the_constraints(name: str) -> None:
    text = (ROOT / name).read_text()
    named = set(re.findall(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", text))
    named |= set(re.findall(r"\b(ray|torch)(\d+\.\d+\.\d+)", text)) | set(
        re.findall(r'(ray)Version: "([\d.]+)"', text)
    )  # images
    constraints = dict(
        re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.M)
    )
    assert named, "no version found"
    assert named <= constraints.items(), named - constraints.items()


def test_aws_workers_are_spot_instances_that_come_and_go() -> None:
    config = load("cluster.yaml")
    head, worker = (config["available_node_types"][kind] for kind in ("head", "gpu_worker"))
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert worker["resources"]["GPU"] == 1
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    assert "RAY_gcs_storage=rocksdb" in " ".join(config["head_start_ray_commands"])


def test_aws_launches_into_the_given_security_group_and_roles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray's provider against a mock of EC2: it must leave a group that exists as it is, and ask
    for what the file says.
    """
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "none")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes a key pair to ~/.ssh
    moto = pytest.importorskip("moto")
    config = load("cluster.yaml")
    region = config["provider"]["region"]
    with moto.mock_aws():
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.util import prepare_config

        ec2, iam = boto3.client("ec2", region), boto3.client("iam", region)
        for role in ("wna-ray-head", "wna-ray-worker"):
            iam.create_instance_profile(InstanceProfileName=role)
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="wna-ray", Description="closed", VpcId=vpc)[
            "GroupId"
        ]
        ssh = {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "IpRanges": [{"CidrIp": "203.0.113.7/32"}],
        }
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])

        ready = bootstrap_aws(prepare_config(config))
        provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
        provider.create_node(
            dict(ready["available_node_types"]["gpu_worker"]["node_config"]),
            {"ray-node-name": "worker"},
            1,
        )

        [rule] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0][
            "IpPermissions"
        ]
        assert rule["IpRanges"] == ssh["IpRanges"]
        [instance] = ec2.describe_instances()["Reservations"][0]["Instances"]
        assert instance["InstanceLifecycle"] == "spot"
        assert instance["IamInstanceProfile"]["Arn"].endswith("/wna-ray-worker")
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert [g["GroupId"] for g in instance["SecurityGroups"]] == [group]


def test_own_machines_are_started_by_the_autoscaler_that_does_it() -> None:
    """Ray's newer one, the default, never starts the workers of provider local."""
    config = load("cluster-onprem.yaml")
    assert config["provider"]["type"] == "local"
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "RAY_enable_autoscaler_v2=0" in start.partition("ray start")[0]


def test_runtime_env_brings_all_but_ray() -> None:
    from ray.runtime_env import RuntimeEnv

    described = load("jobs/runtime_env.yaml")
    assert RuntimeEnv(**described).pip_config()["packages"] == described["pip"]["packages"]
    assert pins(" ".join(described["pip"]["packages"])).keys() == needed() - {"ray"}


def test_rayjob_runs_the_spec_that_it_brings() -> None:
    job, config = manifest()["RayJob"], manifest()["ConfigMap"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    [mount] = head["containers"][0]["volumeMounts"]
    [volume] = head["volumes"]
    assert (volume["name"], volume["configMap"]["name"]) == (
        mount["name"],
        config["metadata"]["name"],
    )
    [(file, text)] = config["data"].items()
    words = job["spec"]["entrypoint"].split()
    assert words[:5] == ["python", "-m", "wna_ray", "run", f"{mount['mountPath']}/{file}"]
    assert Spec.model_validate(yaml.safe_load(text)).numerics.device == "cuda"
    [group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert int(words[words.index("--workers") + 1]) == group["maxReplicas"]


def test_rayjob_scales_from_nothing_and_goes_away() -> None:
    job = manifest()["RayJob"]
    assert (job["apiVersion"], job["spec"]["submissionMode"]) == ("ray.io/v1", "K8sJobMode")
    assert job["spec"]["backoffLimit"] > 0  # each retry goes on
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    [group] = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["terminationGracePeriodSeconds"] > 30  # for which Ray drains a node after SIGTERM


def test_rayjob_is_closed() -> None:
    cluster = manifest()["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "wna-ray-token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "enableIngress" not in cluster["headGroupSpec"]
    for pod in (
        cluster["headGroupSpec"]["template"]["spec"],
        cluster["workerGroupSpecs"][0]["template"]["spec"],
    ):
        assert pod["serviceAccountName"] == manifest()["ServiceAccount"]["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert "hostNetwork" not in pod
        [container] = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
