"""The examples for clusters, which `stillhouse cluster render` wrote, checked without one: closed schemas, one Ray
version, roles, and no secrets.

`schemas/rayjob.json` is written by hand and lists what our manifest uses. That KubeRay has those fields is
told by its CustomResourceDefinition, 1.4 MB and not ours to keep: point STILLHOUSE_RAYJOB_CRD to a copy of it
(`kubectl get crd rayjobs.ray.io -o yaml`), and two more tests run.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "examples" / "cluster"
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / "rayjob.json").read_text())
CRD = os.environ.get("STILLHOUSE_RAYJOB_CRD", "")
RAY = version("ray")
ROLE = "stillhouse-role"
ROLES = {"teacher", "student", "cpu"}

Edit = Callable[[dict[str, Any]], Any]


def documents() -> dict[str, dict[str, Any]]:
    text = (EXAMPLES / "kuberay-rayjob.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def rayjob() -> dict[str, Any]:
    return documents()["RayJob"]


def aws() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((EXAMPLES / "aws.yaml").read_text())
    return config


def cluster(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["rayClusterSpec"]
    return spec


def groups() -> Iterator[dict[str, Any]]:
    yield cluster(rayjob())["headGroupSpec"]
    yield from cluster(rayjob())["workerGroupSpecs"]


def rename(mapping: dict[str, Any], old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


# KubeRay ----------------------------------------------------------------------------------------------------

TYPOS: dict[str, Edit] = {
    "enableIntreeAutoscaling": lambda job: rename(cluster(job), "enableInTreeAutoscaling", "enableIntreeAutoscaling"),
    "autoscaler v3": lambda job: cluster(job)["autoscalerOptions"].update(version="v3"),
    "auth mode none": lambda job: cluster(job)["authOptions"].update(mode="none"),
    "num-cpus without quotes": lambda job: cluster(job)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "maxReplica": lambda job: rename(cluster(job)["workerGroupSpecs"][0], "maxReplicas", "maxReplica"),
    "toleration": lambda job: rename(
        cluster(job)["workerGroupSpecs"][0]["template"]["spec"], "tolerations", "toleration"
    ),
    "ttl in the cluster": lambda job: cluster(job).update(ttlSecondsAfterFinished=5),
}


def test_rayjob_fits_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(rayjob(), SCHEMA)


@pytest.mark.parametrize("edit", TYPOS.values(), ids=TYPOS)
def test_the_schema_refuses_typos(edit: Edit) -> None:
    job = copy.deepcopy(rayjob())
    edit(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


@cache
def crd_schema() -> dict[str, Any]:
    """The schema of RayJob v1, closed: Kubernetes would drop an unknown field without a word."""
    definition = yaml.load(Path(CRD).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [schema] = [v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1"]
    # CRDs say nothing about metadata, which Kubernetes checks by itself.
    schema["properties"]["metadata"] = {"type": "object"}
    close(schema)
    return dict(schema)


def close(schema: Any) -> None:
    if isinstance(schema, list):
        for item in schema:
            close(item)
    elif isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("type", None)
        for item in schema.values():
            close(item)


@pytest.mark.skipif(not CRD, reason="STILLHOUSE_RAYJOB_CRD names no file")
def test_rayjob_fits_the_definition_of_kuberay() -> None:
    schema = crd_schema()
    jsonschema.validate(rayjob(), schema)
    for name, edit in TYPOS.items():
        job = copy.deepcopy(rayjob())
        edit(job)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(job, schema)
            pytest.fail(f"{name} was accepted")


@pytest.mark.skipif(not CRD, reason="STILLHOUSE_RAYJOB_CRD names no file")
def test_our_schema_names_only_fields_that_kuberay_has() -> None:
    definition = crd_schema()

    def compare(ours: dict[str, Any], theirs: dict[str, Any], where: str) -> None:
        if "$ref" in ours:
            ours = SCHEMA["$defs"][ours["$ref"].rpartition("/")[2]]
        if isinstance(ours.get("type"), str) and "type" in theirs:
            assert ours["type"] == theirs["type"], where
        if "enum" in theirs and "enum" in ours:
            assert set(ours["enum"]) <= set(theirs["enum"]), where
        needed = set(theirs.get("required", [])) & set(ours.get("properties", {}))
        assert needed <= set(ours.get("required", [])), f"{where} needs {needed}"
        for name, field in ours.get("properties", {}).items():
            assert name in theirs["properties"], f"{where}.{name}"
            compare(field, theirs["properties"][name], f"{where}.{name}")
        if "items" in ours:
            compare(ours["items"], theirs["items"], f"{where}[]")

    compare(SCHEMA["properties"]["spec"], definition["properties"]["spec"], "spec")


def test_rayjob_scales_and_keeps_its_head_free() -> None:
    job, spec = rayjob()["spec"], cluster(rayjob())
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert not [name for name in job if name.startswith("entrypointNum")]
    assert job["shutdownAfterJobFinishes"] and job["ttlSecondsAfterFinished"] > 0
    for group in spec["workerGroupSpecs"]:
        assert group["labels"] == {ROLE: group["groupName"]}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "restartPolicy" not in group["template"]["spec"]  # autoscaler v2 allows none but Never
    assert {group["groupName"] for group in spec["workerGroupSpecs"]} == ROLES


def test_rayjob_finds_what_it_names() -> None:
    found = documents()
    for group in groups():
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
        [container] = pod["containers"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.get("volumes", [])}
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]  # Ray counts limits, Kubernetes places by requests
    assert len({container["image"] for group in groups() for container in group["template"]["spec"]["containers"]}) == 1
    head = cluster(rayjob())["headGroupSpec"]["template"]["spec"]
    [run] = [volume for volume in head["volumes"] if volume["name"] == "run"]
    assert run["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    [mount] = head["containers"][0]["volumeMounts"]
    [file] = found["ConfigMap"]["data"]
    assert rayjob()["spec"]["entrypoint"] == f"stillhouse run {mount['mountPath']}/{file}"


def test_the_run_fits_its_nodes() -> None:
    run = yaml.safe_load(documents()["ConfigMap"]["data"]["run.yaml"])
    by_name = {group["groupName"]: group for group in cluster(rayjob())["workerGroupSpecs"]}

    def gpus(name: str) -> int:
        limits = by_name[name]["template"]["spec"]["containers"][0]["resources"]["limits"]
        return int(limits["nvidia.com/gpu"]) * int(by_name[name]["numOfHosts"])

    assert run["teacher"]["ep_size"] == gpus("teacher")
    assert run["teacher"]["replicas"][1] == by_name["teacher"]["maxReplicas"]
    assert run["defaults"]["train"]["workers"] == gpus("student")
    assert len(run["specialists"]) <= by_name["student"]["maxReplicas"]


# AWS --------------------------------------------------------------------------------------------------------

AWS_TYPOS: dict[str, Edit] = {
    "max_worker": lambda config: rename(config, "max_workers", "max_worker"),
    "label in a node type": lambda config: rename(config["available_node_types"]["teacher"], "labels", "label"),
    "head type that is not there": lambda config: config.update(head_node_type="heads"),
    "half a GPU": lambda config: config["available_node_types"]["teacher"]["resources"].update(GPU=0.5),
    "ssh_users": lambda config: rename(config["auth"], "ssh_user", "ssh_users"),
}


def test_aws_is_a_cluster_for_the_launcher() -> None:
    validate_config(prepare_config(aws()))


@pytest.mark.parametrize("edit", AWS_TYPOS.values(), ids=AWS_TYPOS)
def test_the_launcher_refuses_typos(edit: Edit) -> None:
    config = aws()
    edit(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(config))


def test_aws_roles_spot_and_token() -> None:
    config = aws()
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert {node["labels"][ROLE] for node in types.values()} == ROLES
    spot, other = types["student-spot"], types["student-on-demand"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in other["node_config"] and spot["priority"] > other["priority"]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    [install] = config["setup_commands"]
    [folder] = [remote for remote, local in config["file_mounts"].items() if local == "dist"]
    assert f"-c {folder}/constraints.txt {folder}/stillhouse-*.whl" in install


# All of them ------------------------------------------------------------------------------------------------


RUN_FILES = {"run.yaml", "aws-run.yaml", "gcp-run.yaml", "skypilot-run.yaml", "skypilot.yaml"}
"""Which name no Ray: SkyPilot's nodes install the one of constraints.txt."""


@pytest.mark.parametrize(
    "path", sorted(p for p in EXAMPLES.iterdir() if p.name not in RUN_FILES), ids=lambda path: path.name
)
def test_every_ray_version_is_the_installed_one(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"(?:/ray:|ray-|ray\[default\]==|rayVersion: \"|in Ray )(\d+\.\d+(?:\.\d+)?)", text)
    assert named and all(name == RAY or RAY.startswith(f"{name}.") for name in named), named
    images = re.findall(r"(?:image: |FROM )(\S+)", text)
    assert all(re.search(rf":(ray-)?{re.escape(RAY)}(-|$)", image) for image in images), images
    python = re.findall(r"-py(\d+)-", text)
    assert set(python) <= {"311"}  # the oldest that pyproject.toml allows: what runs there runs everywhere


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_no_secret_and_no_machine_is_written_down(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{10}|BEGIN [A-Z ]*PRIVATE KEY", text)
    assert not re.search(r"(?<!memory: )\b\d{12}\b", text), "the number of an account"
    assert not re.search(r"/(?:root|work|Users)/", text)
    if path.suffix == ".yaml":
        assert not re.search(r"(?i)(secret_access_key|hf_token|auth_token): *(?!null$)[^ #~]", text, re.M)
