"""Nodes that are there: what `plan --connect` says, and a run refuses, of GPUs that do not hold a worker."""

from __future__ import annotations

import re

import pytest
from support.project import Project

from cluster.inventory import Inventory
from cluster.nodes.kinds import KINDS, kind_of
from cluster.resources import ACCELERATOR, MEMORY, Node
from orchestrator.preflight.checks import check
from orchestrator.preflight.plan import make_plan
from orchestrator.preflight.planning.students import check_students_fit


def node(accelerator: str, gpus: int = 8) -> Node:
    """As Ray tells of one."""
    total = {"CPU": 96.0, "GPU": float(gpus), MEMORY: 1e12, ACCELERATOR + accelerator: 1.0}
    return Node(f"a node with {accelerator}", total, total, {"ray.io/accelerator-type": accelerator})


CPUS = Node("a node without", {"CPU": 96.0, MEMORY: 1e12}, {"CPU": 96.0, MEMORY: 1e12}, {})


def problems(project: Project, nodes: list[Node]) -> list[str]:
    """Of the plan; a run refuses the first one of a student, in the same words."""
    file = project.load()
    config, found = file.located(), check(file)
    inventory = Inventory("the Ray cluster", len(nodes), 1000, 100, 10**13, 10**13, tuple(nodes))
    said = [p for p in make_plan(config, found, inventory).problems if "on its GPU" in p]
    of_students, given = (
        [p for p in said if p.startswith("specialists.")],
        (found.teacher_folders["teacher"], found.longest),
    )
    if of_students:
        with pytest.raises(ValueError, match=re.escape(of_students[0])):
            check_students_fit(config, list(config.specialists), *given, nodes)
    else:
        check_students_fit(config, list(config.specialists), *given, nodes)
    return said


def test_a_student_that_no_gpu_there_holds_is_refused_with_what_makes_it_fit(large: Project) -> None:
    nodes = [CPUS, node("L4"), node("L4")]
    medical, legal = problems(large, nodes)
    assert medical.startswith("specialists.medical.train: a process holds ") and "22.8 GB (l4, 95% of 1 GPU)" in medical
    assert "zero: 3 over workers: " in medical and "nodes of " in medical
    found = re.search(r"zero: 3 over workers: (\d+)", legal)
    assert found is not None
    large.set("defaults.train", {**large.data["defaults"]["train"], "zero": 3, "workers": int(found[1])})
    assert problems(large, nodes) == []


def test_gpus_that_hold_it_and_gpus_that_nobody_knows_are_no_problem(large: Project) -> None:
    assert problems(large, [node("H100")]) == []
    assert problems(large, [node("L4"), node("H100")]) == [], "which of them Ray takes is for the plan of known nodes"
    assert problems(large, [node("L4"), node("X9000")]) == []
    assert problems(large, [CPUS]) == [], "others may come"


def test_only_nodes_where_ray_may_put_it_count(large: Project) -> None:
    labels = {"ray.io/accelerator-type": "L4"}
    large.set("defaults.train", {**large.data["defaults"]["train"], "label_selector": labels})
    assert len(problems(large, [node("L4"), node("H100")])) == 2


def test_a_kind_of_the_settings_counts(large: Project) -> None:
    sizes = {"gpu_memory": "14G", "host_memory": "1T", "cpus": 96, "accelerator_type": "X9000"}
    large.set("cluster", {"node_kinds": {"own": sizes}})
    assert any("(own, 95% of 1 GPU)" in problem for problem in problems(large, [node("X9000")]))


def test_of_two_kinds_with_one_type_the_larger_counts() -> None:
    found = kind_of(node("A100"), KINDS)
    assert found is not None and found.name == "a100-80" and kind_of(CPUS, KINDS) is None
