"""Groups of nodes are sized by what the run wants: replicas, ranks, workers, specialists at once; and labels agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.clusters.rendered import Clinic, clinic, documents, launcher, limits, worker_groups

from cluster.resources import infeasible_reason, matches
from orchestrator.config.loading import validate
from orchestrator.launch.manifests.groups import slug
from orchestrator.launch.manifests.planning import inventory_for
from orchestrator.launch.manifests.rendering import Rendered, Target
from orchestrator.launch.manifests.views import cluster_name
from workers.student.training.resources import resource_request as student_request
from workers.teacher.groups.resources import resource_request as teacher_request

LAUNCHERS: list[Target] = ["aws", "gcp"]


def rendered_config(rendered: Rendered, target: Target = "kuberay") -> Any:
    if target == "kuberay":
        return validate(yaml.safe_load(documents(rendered)["ConfigMap"]["data"]["run.yaml"]))
    return validate(yaml.safe_load(rendered.files[f"{target}-run.yaml"]))


# How many -------------------------------------------------------------------------------------------------------


def test_a_replica_a_node_and_a_specialist_a_pod(clinic_folder: Clinic) -> None:
    groups = worker_groups(clinic_folder.render("kuberay", clinic()))
    assert set(groups) == {"teacher", "student", "cpu"}
    assert (groups["teacher"]["maxReplicas"], groups["teacher"]["numOfHosts"]) == (2, 1)
    assert limits(groups["teacher"])["nvidia.com/gpu"] == "8" and limits(groups["student"])["nvidia.com/gpu"] == "2"
    assert groups["student"]["maxReplicas"] == 2 and "nvidia.com/gpu" not in limits(groups["cpu"])


@pytest.mark.parametrize(
    ("changes", "teacher", "student"),
    [
        ({"teacher__replicas": [1, 5]}, 5, 2),
        ({"teacher__ep_size": 4}, 1, 2),  # two replicas on one node
        ({"teacher__ep_size": 4, "teacher__replicas": [3, 3]}, 2, 2),
        ({"defaults__train__workers": 4}, 2, 4),  # two pods for each specialist
        ({"defaults__train__workers": [1, 4]}, 2, 4),
        ({"defaults__train__workers": 1}, 2, 1),  # two specialists in one pod
        ({"fan_out__at_once": 1}, 2, 1),
        ({"specialists": {name: {} for name in ("a", "b", "c", "d", "e")}}, 2, 5),
        ({"defaults__train": {"workers": 1, "gpus_per_worker": 0.5}}, 2, 1),
        ({"evaluate__baselines": ["generalist"]}, 2, 3),
    ],
)
def test_counts_follow_the_run(clinic_folder: Clinic, changes: dict[str, Any], teacher: int, student: int) -> None:
    groups = worker_groups(clinic_folder.render("kuberay", clinic(**changes)))
    assert (groups["teacher"]["maxReplicas"], groups["student"]["maxReplicas"]) == (teacher, student)


def test_the_largest_specialists_are_those_at_once(clinic_folder: Clinic) -> None:
    data = clinic(fan_out__at_once=1, specialists__medical={"train": {"workers": 8}})
    assert worker_groups(clinic_folder.render("kuberay", data))["student"]["maxReplicas"] == 4


def test_a_replica_that_no_node_holds_takes_several(clinic_folder: Clinic) -> None:
    data = clinic(teacher__ep_size=16)
    teacher = worker_groups(clinic_folder.render("kuberay", data))["teacher"]
    assert (teacher["numOfHosts"], teacher["maxReplicas"]) == (2, 2)
    types = launcher(clinic_folder.render("aws", data), "aws")["available_node_types"]
    assert types["teacher"]["max_workers"] == 4


@pytest.mark.parametrize("target", LAUNCHERS)
def test_specialists_take_spot_nodes_first(clinic_folder: Clinic, target: Target) -> None:
    config = launcher(clinic_folder.render(target, clinic()), target)
    types = config["available_node_types"]
    spot, other = types["student-spot"], types["student-on-demand"]
    assert spot["priority"] > other["priority"] and spot["resources"] == other["resources"]
    assert spot["max_workers"] == other["max_workers"] and spot["labels"] == other["labels"]
    assert spot["node_config"] != other["node_config"]
    assert "priority" not in types["teacher"] and types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert config["max_workers"] == sum(types[n]["max_workers"] for n in ("teacher", "student-spot", "cpu"))


@pytest.mark.parametrize("where", ["eks", "karpenter", "gke"])
def test_on_a_known_kubernetes_too(clinic_folder: Clinic, where: str) -> None:
    groups = worker_groups(clinic_folder.render("kuberay", clinic(), kubernetes=where))
    spot, other = groups["student-spot"], groups["student-on-demand"]
    assert spot["priority"] > other["priority"] and limits(spot) == limits(other)
    selectors = [group["template"]["spec"]["nodeSelector"] for group in (spot, other)]
    assert selectors[0].items() > selectors[1].items()


def test_fabric_adapters_only_where_processes_span_nodes_of_ec2(clinic_folder: Clinic) -> None:
    def adapters(data: dict[str, Any], **more: Any) -> dict[str, str]:
        groups = worker_groups(clinic_folder.render("kuberay", data, **more))
        return {name: n for name, g in groups.items() if (n := limits(g).get("vpc.amazonaws.com/efa"))}

    assert adapters(clinic(teacher__ep_size=16), kubernetes="eks") == {"teacher": "32"}
    assert adapters(clinic(teacher__ep_size=16)) == adapters(clinic(teacher__ep_size=16), kubernetes="gke") == {}
    assert adapters(clinic(), kubernetes="eks") == {}
    many = {"workers": 16, "gpus_per_worker": 1}
    assert adapters(clinic(defaults__train=many), nodes="h100:8", kubernetes="eks") == {
        "student-spot": "32",
        "student-on-demand": "32",
    }
    file = clinic_folder.render("kuberay", clinic(teacher__ep_size=16), kubernetes="eks").files["Dockerfile"]
    assert "efa_installer" in file
    assert "efa_installer" not in clinic_folder.render("kuberay", clinic(), kubernetes="eks").files["Dockerfile"]


def test_a_run_without_gpus_names_no_nodes(clinic_folder: Clinic) -> None:
    data = clinic(teacher={"model": "acme/teacher"}, defaults={"model": "acme/student"}, evaluate={})
    groups = worker_groups(clinic_folder.render("kuberay", data, nodes=""))
    assert all("nvidia.com/gpu" not in limits(group) for group in groups.values())
    types = launcher(clinic_folder.render("aws", data, nodes=""), "aws")["available_node_types"]
    assert all("GPU" not in node["resources"] for node in types.values())


def test_the_node_without_gpus_holds_what_initial_weights_take(clinic_folder: Clinic) -> None:
    def cpu(**changes: Any) -> int:
        types = launcher(clinic_folder.render("aws", clinic(**changes)), "aws")["available_node_types"]
        return int(types["cpu"]["resources"]["memory"])

    assert 17e9 < cpu() < cpu(initial={"memory": "100G"})
    assert cpu(initial={"memory": "100G"}) > 100e9


def test_evaluators_without_gpus_have_nodes(clinic_folder: Clinic) -> None:
    data = clinic(evaluate={"workers": 6, "cpus": 8})
    rendered = clinic_folder.render("kuberay", data)
    cpu = worker_groups(rendered)["cpu"]
    assert cpu["maxReplicas"] * (int(limits(cpu)["cpu"]) // 8) >= 6


# Labels ----------------------------------------------------------------------------------------------------------

SELECTORS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "none": ({}, {}),
    "the usual": ({"stillhouse-role": "teacher"}, {"stillhouse-role": "student"}),
    "others": ({"pool": "big", "team": "in(a, b)"}, {"pool": "small"}),
    "negated": ({"stillhouse-role": "!student"}, {"stillhouse-role": "!in(teacher, cpu)"}),
    "of Ray": ({"ray.io/accelerator-type": "in(A100, H100)"}, {"ray.io/accelerator-type": "!H100"}),
    "one only": ({}, {"pool": "small"}),
}


@pytest.mark.parametrize("target", ["kuberay", "aws", "gcp"])
@pytest.mark.parametrize("selectors", SELECTORS.values(), ids=SELECTORS)
def test_parts_find_their_group_and_no_other(
    clinic_folder: Clinic, selectors: tuple[dict[str, str], dict[str, str]], target: Target
) -> None:
    data = clinic(teacher__label_selector=selectors[0], defaults__train__label_selector=selectors[1])
    rendered = clinic_folder.render(target, data)
    config, nodes = rendered_config(rendered, target), inventory_for(rendered.groups).members
    asked = {
        "teacher": teacher_request(config.teachers["teacher"]),
        "student": student_request(config.specialists["legal"].train),
    }
    for role, request in asked.items():
        assert request.labels and infeasible_reason(request, nodes) is None
        [group] = [group for group in rendered.groups if group.role == role]
        assert all(matches(node.labels, request.labels) for node in group.nodes(0))
    [cpu] = [group for group in rendered.groups if group.role == "cpu"]
    if "!" not in str(selectors):
        assert not matches(cpu.labels, asked["teacher"].labels)
    if target == "kuberay":
        assert {n: g["labels"] for n, g in worker_groups(rendered).items()} == {
            group.name: dict(group.labels) for group in rendered.groups
        }


def test_specialists_that_ask_for_different_labels_have_groups_of_their_own(clinic_folder: Clinic) -> None:
    data = clinic(specialists__legal={"train": {"label_selector": {"pool": "law"}}})
    groups = worker_groups(clinic_folder.render("kuberay", data))
    assert {frozenset(g["labels"].items()) for n, g in groups.items() if n.startswith("student")} == {
        frozenset({("stillhouse-role", "student")}),
        frozenset({("stillhouse-role", "student"), ("pool", "law")}),
    }


def test_two_teachers_have_a_group_each(clinic_folder: Clinic) -> None:
    data = clinic(teachers={"Big one": {**clinic()["teacher"]}, "small": {"model": "acme/b", "gpus_per_rank": 1}})
    del data["teacher"]
    groups = worker_groups(clinic_folder.render("kuberay", data))
    assert {"teacher-big-one", "teacher-small"} <= set(groups)
    assert groups["teacher-small"]["maxReplicas"] == 1


def test_a_type_of_accelerator_is_known_to_the_autoscaler(clinic_folder: Clinic) -> None:
    data = clinic(teacher__accelerator_type="H100")
    assert worker_groups(clinic_folder.render("kuberay", data))["teacher"]["resources"] == {
        "accelerator_type:H100": "1"
    }
    types = launcher(clinic_folder.render("aws", data), "aws")["available_node_types"]
    assert types["teacher"]["resources"]["accelerator_type:H100"] == 1


# SkyPilot: all nodes alike, and there for the whole run ------------------------------------------------------------


def test_a_task_has_as_many_nodes_as_all_want_at_once(clinic_folder: Clinic) -> None:
    task = launcher(clinic_folder.render("skypilot", clinic()), "skypilot")
    assert task["num_nodes"] == 3 and task["resources"]["accelerators"] == {"H100": 8}  # 2 x 8 and 2 x 2 GPUs
    many = clinic(specialists={name: {} for name in "abcdefgh"})
    assert launcher(clinic_folder.render("skypilot", many), "skypilot")["num_nodes"] == 4


def test_its_ray_keeps_off_the_ports_of_skypilots_own(clinic_folder: Clinic) -> None:
    task = launcher(clinic_folder.render("skypilot", clinic()), "skypilot")
    commands = task["run"] + task.get("setup", "")
    assert "ray stop" not in commands and not {"6380", "8266", "52365"} & set(commands.replace("=", " ").split())
    assert commands.count("--dashboard-agent-listen-port=52366") == 1 and "--port=6379" in commands


def test_labels_split_its_nodes(clinic_folder: Clinic) -> None:
    data = clinic(teacher__label_selector={"pool": "t"}, defaults__train__label_selector={"pool": "s"})
    rendered = clinic_folder.render("skypilot", data)
    task = launcher(rendered, "skypilot")
    assert task["num_nodes"] == sum(group.most for group in rendered.groups) == 3
    assert "-lt 2 ]; then labels=" in task["run"] and "pool=t" in task["run"] and "pool=s" in task["run"]
    assert rendered_config(rendered, "skypilot").teachers["teacher"].label_selector == {"pool": "t"}


def test_no_selector_is_added_where_no_node_has_a_label(clinic_folder: Clinic) -> None:
    rendered = clinic_folder.render("skypilot", clinic())
    assert not rendered_config(rendered, "skypilot").teachers["teacher"].label_selector
    assert "--labels" not in launcher(rendered, "skypilot")["run"]


# Names ------------------------------------------------------------------------------------------------------------


def test_names_of_clusters_are_short_and_of_one_run() -> None:
    names = ["clinic", "Clinic", "clinic_1", "clinic-1", "1", "a" * 100, "a" * 99, "_" * 3 + "x"]
    made = [cluster_name(name) for name in names]
    assert len(set(made)) == len(made) and made[0] == "stillhouse-clinic"
    assert all(len(name) <= 47 and name == slug(name) for name in made)


# Kinds of one's own ------------------------------------------------------------------------------------------------


def test_the_kind_in_the_readme_is_one_to_render_for(clinic_folder: Clinic) -> None:
    texts = (Path(__file__).parents[3] / "README.md").read_text().split("```yaml\n")[1:]
    shown = [yaml.safe_load(text.split("```")[0]) for text in texts]
    [cluster] = [data["cluster"] for data in shown if "gpu_product" in str(data)]
    data = clinic(cluster=cluster, teacher__ep_size=4)
    student = worker_groups(clinic_folder.render("kuberay", data, "rig:4"))["student"]
    assert student["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    types = launcher(clinic_folder.render("aws", data, "rig:4"), "aws")["available_node_types"]
    assert types["teacher"]["node_config"]["InstanceType"] == "g5.12xlarge"
