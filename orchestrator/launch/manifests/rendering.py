"""The files of a cluster for one run: `stillhouse cluster render`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.nodes.kinds import ROLE
from cluster.nodes.offers import Where, head_offer
from orchestrator.config.loading import UniqueKeys
from orchestrator.config.schema import RunConfig
from orchestrator.launch.manifests.groups import Group, all_alike, groups_of
from orchestrator.launch.manifests.local_files import CONFIG_NAME
from orchestrator.launch.manifests.nodes import parse_nodes
from orchestrator.launch.manifests.planning import place_problems, plan_problems
from orchestrator.launch.manifests.run_file import RunFile, run_file
from orchestrator.launch.manifests.views import Image, Kubernetes, cluster_name, image_of, launcher_groups, pod_groups
from orchestrator.launch.manifests.yaml_text import Written, filled

Target = Literal["kuberay", "aws", "gcp", "skypilot"]

_WHERE: dict[Target, Where] = {"kuberay": "kubernetes", "aws": "aws", "gcp": "gcp", "skypilot": "skypilot"}

FILES: dict[Target, str] = {
    "kuberay": "kuberay-rayjob.yaml",
    "aws": "aws.yaml",
    "gcp": "gcp.yaml",
    "skypilot": "skypilot.yaml",
}
"""What is written for each."""

RUN_FILES: dict[Target, str] = {target: f"{target}-run.yaml" for target in FILES if target != "kuberay"}
"""The run's configuration, where it is not part of that."""

_HEAD_BYTES, _SPECIALIST_BYTES = 16 << 30, 200 << 20
"""What a head holds, and for each specialist that trains or looks for a place (fan_out.pending says so)."""


@dataclass(frozen=True)
class Request:
    """What is to be rendered."""

    target: Target
    config: Path
    settings: list[str]
    nodes: list[str]
    image: str | None = None
    kubernetes: Kubernetes | None = None
    planned: bool = True
    """Whether prompts, models and storage are looked at."""


@dataclass(frozen=True)
class Rendered:
    """Texts by file name, notes for who asked, and the groups."""

    files: dict[str, str]
    notes: list[str]
    groups: list[Group]


def render(request: Request) -> Rendered:
    """The files for a target. Raises ValueError, a line for each fault, for what cannot be there, is not known, or does
    not fit: then nothing is rendered."""
    target = request.target
    run = run_file(request.config, request.settings, select=target != "skypilot")
    shapes = parse_nodes(request.nodes, run.config, _WHERE[target])
    image = image_of(run.config, request.image)
    groups = (all_alike if target == "skypilot" else groups_of)(run.config, shapes)
    notes: list[str] = []
    problems = place_problems(run.config, groups)
    if request.planned and not problems:
        problems, notes = plan_problems(run.file, groups)
    if problems:
        raise ValueError("\n".join(problems))
    values = {
        "command": _command(request),
        "name": cluster_name(run.config.name),
        "ray": version("ray"),
        "role_label": ROLE,
        "file_name": FILES[target],
    }
    make: dict[Target, Callable[..., dict[str, str]]] = {
        "kuberay": _kuberay,
        "aws": _launcher,
        "gcp": _launcher,
        "skypilot": _skypilot,
    }
    return Rendered(make[target](request, run, groups, image, values), notes, groups)


def _kuberay(
    request: Request, run: RunFile, groups: list[Group], image: Image, values: dict[str, Any]
) -> dict[str, str]:
    files = {CONFIG_NAME: run.text, **run.beside}
    views = pod_groups(groups, request.kubernetes)
    text = filled(
        "kuberay-rayjob.yaml.j2",
        **values,
        files=files,
        selected=run.selected,
        config_name=CONFIG_NAME,
        spot=any(view["spot"] for view in views),
        image=image.name,
        change_image=Written("" if image.given else " # CHANGE: put your registry in front, here and below"),
        head={"cpu": "4", "memory": f"{-(-_head_bytes(run.config) >> 30)}Gi"},
        groups=views,
    )
    config_map = next(d for d in yaml.load_all(text, UniqueKeys) if d["kind"] == "ConfigMap")
    assert config_map["data"] == files, "the manifest does not give back the run's files"
    written = {FILES["kuberay"]: text}
    if image.given is None:
        efa = any(view["efa"] for view in views)
        wheel = image.wheel("/tmp/stillhouse")
        written["Dockerfile"] = filled("Dockerfile.j2", image=image.name, base=image.base("gpu"), wheel=wheel, efa=efa)
    return written


def _launcher(
    request: Request, run: RunFile, groups: list[Group], image: Image, values: dict[str, Any]
) -> dict[str, str]:
    install = f"pip install -c /home/ray/stillhouse/constraints.txt {image.wheel('/home/ray/stillhouse')}"
    text = filled(
        f"{request.target}.yaml.j2",
        **values,
        config_name=RUN_FILES[request.target],
        max_workers=sum(group.most for group in groups),
        images={device: image.given or image.base(device) for device in ("cpu", "gpu")},
        install=None if image.given else install,
        head=head_offer(_WHERE[request.target], _head_bytes(run.config)),
        groups=launcher_groups(groups),
    )
    return {FILES[request.target]: _checked(text), **_config_files(request.target, run)}


def _skypilot(
    request: Request, run: RunFile, groups: list[Group], image: Image, values: dict[str, Any]
) -> dict[str, str]:
    shape, count = groups[0].shape, sum(group.most for group in groups)
    labelled, below = [], 0
    for group in groups if any(group.labels for group in groups) else ():
        below += group.most
        labelled.append({"below": below, "text": ",".join(f"{k}={v}" for k, v in group.labels.items())})
    config_files = _config_files(request.target, run)
    text = filled(
        "skypilot.yaml.j2",
        **values,
        config_name=RUN_FILES[request.target],
        nodes=count,
        why="; ".join(group.why for group in groups),
        accelerators={shape.offer.name: shape.gpus} if shape.gpus else None,
        cpus=f"{shape.offer.cpus}+",
        memory=f"{shape.offer.memory >> 30}+",
        disk=1000,
        image=image.given,
        spans=any(group.hosts > 1 for group in groups),
        files=list(config_files),
        install=None if image.given else image.wheel("~/stillhouse/dist"),
        labelled=labelled,
        labels_option=Written(" ${labels:+--labels=$labels}" if labelled else ""),
    )
    return {FILES["skypilot"]: _checked(text), **config_files}


def _config_files(target: Target, run: RunFile) -> dict[str, str]:
    return {RUN_FILES[target]: run.text, **run.beside}


def _head_bytes(config: RunConfig) -> int:
    return _HEAD_BYTES + _SPECIALIST_BYTES * min(len(config.specialists), config.fan_out.pending)


def _checked(text: str) -> str:
    assert isinstance(yaml.load(text, UniqueKeys), dict), "what was rendered is no mapping"
    return text


def _command(request: Request) -> str:
    """The command that renders the same again."""
    words = ["stillhouse", "cluster", "render", request.target, request.config.name]
    words += _repeated("--nodes", request.nodes) + _repeated("--set", request.settings)
    words += ["--image", request.image] if request.image else []
    words += ["--on", request.kubernetes] if request.kubernetes else []
    return shlex.join(words)


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
