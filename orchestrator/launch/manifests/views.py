"""What templates are told of groups of nodes, and of the image that runs on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

from cluster.resources import ACCELERATOR
from orchestrator.config.schema import RunConfig
from orchestrator.config.trackers import PACKAGES
from orchestrator.launch.manifests.groups import Group, slug
from orchestrator.launch.manifests.yaml_text import Written

Kubernetes = Literal["eks", "karpenter", "gke"]

PYTHON = "311"
"""Of the images: the oldest that this package allows, so that what runs there runs everywhere."""

_LONGEST_NAME = 47
"""Characters of a RayJob's name."""

_SPOT: dict[str, tuple[dict[str, str], list[dict[str, str]]]] = {
    "eks": ({"eks.amazonaws.com/capacityType": "SPOT"}, []),
    "karpenter": ({"karpenter.sh/capacity-type": "spot"}, []),
    "gke": (
        {"cloud.google.com/gke-spot": "true"},
        [{"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}],
    ),
}
"""Labels of spot nodes, and what pods on them tolerate, by who makes the nodes."""

_EFA_ENV = {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "NCCL_SOCKET_IFNAME": "^lo,docker"}
_HUGE_PAGES = "5120Mi"

_DISKS = {"teacher": 1000, "student": 300, "cpu": 200}
"""GB of a launcher's node."""

_FIRST, _THEN = 10, 0
"""Priorities of spot nodes and of those that are taken when there are none."""


@dataclass(frozen=True)
class Image:
    """What the nodes run."""

    given: str | None
    extras: tuple[str, ...]

    @property
    def name(self) -> str:
        """The one that the Dockerfile makes, unless one is given."""
        return self.given or f"stillhouse:ray-{version('ray')}"

    def base(self, device: Literal["cpu", "gpu"]) -> str:
        """Ray's own image, of the Ray that is installed here."""
        return f"rayproject/ray:{version('ray')}-py{PYTHON}-{device}"

    def wheel(self, folder: str) -> str:
        """What pip installs from a folder with this package's wheel, in a shell's words."""
        wheel = f"{folder}/stillhouse-*.whl"
        return f'"$(echo {wheel})[{",".join(self.extras)}]"' if self.extras else wheel


def image_of(config: RunConfig, given: str | None) -> Image:
    """The image with the extras that a run needs. Raises ValueError for one that the Dockerfile cannot make."""
    for name, teacher in config.teachers.items():
        if teacher.engine == "vllm" and given is None:
            raise ValueError(
                f"--image: {config.teacher_key(name)}.engine is vllm, which the Dockerfile written here has not; build "
                "an image with vLLM in an environment of its own (constraints-vllm.txt), and name it with --image"
            )
    formats = {export.format for export in config.export}
    paths = [*(source.path for source in config.prompts.values()), *(t.path for t in config.evaluate.tasks.values())]
    trackers = {name for name, _ in config.trackers.named()}
    wanted = {
        "hub": any("://" not in path for path in paths),  # no path of this machine is left
        "harness": config.evaluate.harness is not None,
        "lora": any(s.model.lora is not None for s in config.specialists.values()),
        "gguf": "gguf" in formats,
        "llama-cpp": any(e.format == "gguf" and (e.measure or e.by_runtime) for e in config.export),
        "compressed-tensors": "compressed-tensors" in formats,
        **{name: name in trackers for name in PACKAGES},
    }
    return Image(given, tuple(name for name, is_wanted in wanted.items() if is_wanted))


def cluster_name(run: str) -> str:
    """A name for a run's cluster, which another run's has not: letters, digits and -, as short as a RayJob's."""
    plain = slug(run)
    room = _LONGEST_NAME - len("stillhouse-")
    if plain != run or len(plain) > room:
        plain = f"{plain[: room - 7].rstrip('-')}-{hashlib.sha256(run.encode()).hexdigest()[:6]}"
    return f"stillhouse-{plain}"


def with_spot(groups: Sequence[Group]) -> list[tuple[Group, bool, int | None]]:
    """The groups with whether they are of spot nodes, and their priority: students, who survive the loss of a node,
    twice."""
    doubled: list[tuple[Group, bool, int | None]] = []
    for group in groups:
        if group.role == "student":
            doubled.append((replace(group, name=f"{group.name}-spot"), True, _FIRST))
            doubled.append((replace(group, name=f"{group.name}-on-demand"), False, _THEN))
        else:
            doubled.append((group, False, None))
    return doubled


def launcher_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What the templates of Ray's cluster launcher are told."""
    views, hinted = [], False
    for group, spot, priority in with_spot(groups):
        shape = group.shape
        resources = {"CPU": shape.offer.cpus} | ({"GPU": shape.gpus} if shape.gpus else {})
        resources |= {"memory": group.ray_memory} | {ACCELERATOR + name: 1 for name in group.accelerators}
        first, hinted = not hinted, True
        views.append(
            {
                **_common(group, spot, priority),
                "type": shape.offer.name,
                "gpu_hint": Written(" # its GPUs come with it" if shape.gpus else ""),
                "resources": resources,
                "disk": _DISKS[group.role],
                "change_profile": Written(" # CHANGE: read and write on the bucket, nothing else" if first else ""),
                "change_disk": Written(" # CHANGE: GB, here and below" if first else ""),
            }
        )
    return views


def pod_groups(groups: Sequence[Group], kubernetes: Kubernetes | None) -> list[dict[str, Any]]:
    """What the template for KubeRay is told; without `kubernetes`, there is no saying which nodes are spot nodes."""
    doubled = with_spot(groups) if kubernetes is not None else [(group, False, None) for group in groups]
    return [_pod_group(group, spot, priority, kubernetes) for group, spot, priority in doubled]


def _pod_group(group: Group, spot: bool, priority: int | None, kubernetes: Kubernetes | None) -> dict[str, Any]:
    offer, gpus = group.shape.offer, group.shape.gpus
    efa = offer.efa if group.hosts > 1 and kubernetes in ("eks", "karpenter") else 0
    pod = {"cpu": str(offer.cpus), "memory": f"{offer.memory >> 30}Gi"} | (
        {"nvidia.com/gpu": str(gpus)} if gpus else {}
    )
    if efa:
        pod |= {"vpc.amazonaws.com/efa": str(efa), "hugepages-2Mi": _HUGE_PAGES}
    labels, tolerated = _SPOT[kubernetes] if spot and kubernetes is not None else ({}, [])
    selector = {"nvidia.com/gpu.product": offer.name} if gpus else {}
    on_gpus = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if gpus else []
    # The autoscaler counts replicas of `numOfHosts` nodes where one replica of a teacher takes several.
    together = group.role == "teacher"
    view = _common(group, spot, priority)
    if group.role == "student" and kubernetes is None:
        view["note"] = "`--on eks`, `karpenter` or `gke` makes two groups of it: spot nodes first, and on-demand ones."
    return {
        **view,
        "pod": pod,
        "efa": efa,
        "env": _EFA_ENV if efa else {},
        "hosts": group.hosts if together else 1,
        "most": group.most // group.hosts if together else group.most,
        "resources": {ACCELERATOR + name: "1" for name in group.accelerators},
        "selector": selector | labels,
        "tolerations": [*on_gpus, *tolerated],
    }


def _common(group: Group, spot: bool, priority: int | None) -> dict[str, Any]:
    notes = {
        True: "Spot nodes come first: specialists survive the loss of one (checkpoint, cursor).",
        False: "Taken when spot nodes cannot be had: the lower priority. Without the fallback, remove this group.",
    }
    return {
        **{name: getattr(group, name) for name in ("name", "role", "labels", "hosts", "least", "most", "why")},
        "gpus": group.shape.gpus,
        "spans": group.hosts > 1,
        "spot": spot,
        "priority": priority,
        "note": notes[spot] if priority is not None else "",
    }
