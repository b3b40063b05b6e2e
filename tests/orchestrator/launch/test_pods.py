"""What KubeRay hands on to Kubernetes is what Kubernetes itself reads: the ConfigMap, the account, the pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes_validate import ValidationError, validate
from support.clusters.rendered import Clinic, Edit, at, clinic, documents

from orchestrator.launch.manifests.rendering import Rendered

VERSION = "1.34"

RUNS: dict[str, tuple[dict[str, Any], str | None]] = {
    "as it is": (clinic(), None),
    "on EKS, over several nodes": (clinic(teacher__ep_size=16), "eks"),
    "on GKE": (clinic(teacher__accelerator_type="H100"), "gke"),
}


def checked(manifest: dict[str, Any]) -> None:
    """Raises where Kubernetes knows no such field, or no such value of it."""
    validate(manifest, VERSION, strict=True)


def pods(rendered: Rendered) -> Iterator[dict[str, Any]]:
    """The pods of the head and of each group, as KubeRay would make them."""
    cluster = at(documents(rendered)["RayJob"], "spec", "rayClusterSpec")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}


@pytest.mark.parametrize(("data", "where"), RUNS.values(), ids=RUNS)
def test_kubernetes_reads_them(clinic_folder: Clinic, data: dict[str, Any], where: str | None) -> None:
    rendered = clinic_folder.render("kuberay", data, kubernetes=where)
    found = documents(rendered)
    checked(found["ConfigMap"])
    checked(found["ServiceAccount"])
    assert len([checked(pod) for pod in pods(rendered)]) == (4 if where is None else 5)


MISTAKES: dict[str, Edit] = {
    "a mount without a path": lambda pod: at(pod, "spec", "containers", 0, "volumeMounts", 0).pop("mountPath"),
    "toleration": lambda pod: pod["spec"].update(toleration=[]),
    "a selector that is no text": lambda pod: pod["spec"].update(nodeSelector={"gpu": True}),
    "volume": lambda pod: pod["spec"].update(volume=[]),
    "a container without a name": lambda pod: at(pod, "spec", "containers", 0).pop("name"),
    "a port as text": lambda pod: at(pod, "spec", "containers", 0).update(ports=[{"containerPort": "gcs"}]),
    "time as text": lambda pod: pod["spec"].update(terminationGracePeriodSeconds="120s"),
}


@pytest.mark.parametrize("edit", MISTAKES.values(), ids=MISTAKES)
def test_planted_mistakes_are_caught(clinic_folder: Clinic, edit: Edit) -> None:
    _, pod, *_ = pods(clinic_folder.render("kuberay", clinic()))
    checked(pod)
    edit(pod)
    with pytest.raises(ValidationError):
        checked(pod)
