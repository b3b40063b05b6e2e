"""The process that makes initial weights, on a real cluster: its place, what it reserves, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from support.captured_run import give_weights
from support.project import Project

from orchestrator.driver.pipeline import freeze_prompts
from orchestrator.driver.session import open_session
from orchestrator.preflight.place import Needs
from orchestrator.runs.errors import RunFailed
from orchestrator.stages.preparing.preparation import Preparation
from workers.layout import StudentLayout
from workers.student.models.resources import initial_bytes

GB = 10**9


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head, and a node with as much."""
    node = {"num_cpus": 4, "memory": 8 * GB, "object_store_memory": GB // 10}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def made_of_models(capture_project: Project, cluster: Cluster) -> Project:
    """Three specialists: two made of one mixture, one of a base in bfloat16."""
    project = capture_project
    project.model("mixture", head_dim=16, num_key_value_heads=2, moe_intermediate_size=16, num_experts_per_tok=2)
    give_weights(project.folder / "mixture")
    project.model("base", experts=0, head_dim=16, num_key_value_heads=2, dtype="bfloat16")
    give_weights(project.folder / "base")
    merged = {"merge_experts": "mixture", "merge": "average", "config": None}
    project.set("specialists", {"medical": {"model": merged}, "legal": {"model": merged}})
    project.set("specialists.other", {"model": {"base": "base", "config": None}, "mix": {"legal": 1}})
    project.set("cluster", {"address": cluster.address})
    return project


def test_initial_weights_are_made_off_the_head_with_their_memory_reserved(
    made_of_models: Project, cluster: Cluster
) -> None:
    file, said = made_of_models.load(), []
    with (
        open_session(file, [], Needs(students=True)) as session,
        Preparation(session.ctx, initials=True) as preparation,
    ):
        declared = freeze_prompts(session, preparation)
        size = initial_bytes([s.model for s in session.ctx.config.specialists.values()], session.ctx.config.initial)
        (other,) = (n for n in ray.nodes() if "node:__internal_head__" not in n["Resources"])
        free = ray._private.state.available_resources_per_node()
        assert free[other["NodeID"]]["memory"] == 8 * GB - size and free[other["NodeID"]]["CPU"] == 3
        said += preparation.initial(declared.vocabulary)
        run = session.ctx.run
        config = {
            n: json.loads(run.storage.read(f"{StudentLayout(n).initial}/config.json")) for n in ("legal", "other")
        }
        again = list(preparation.initial(declared.vocabulary))
    assert sorted(name for name, _ in said) == ["legal", "medical", "other"] and dict(again) == dict(said)
    assert "4 experts made 16 neurons by average" in dict(said)["legal"]
    assert (config["legal"]["model_type"], config["legal"]["dtype"]) == ("qwen3", "float32")
    assert config["other"]["dtype"] == "bfloat16"


def test_more_than_any_node_has_ends_the_run(made_of_models: Project) -> None:
    made_of_models.set("cluster.placement_deadline_s", 1)
    made_of_models.set("initial", {"cpus": 5})
    with open_session(made_of_models.load(), [], Needs(students=True)) as session:
        preparation: Any = Preparation(session.ctx, initials=True)
        with pytest.raises(RunFailed, match=r"`initial`.*one process wants 5 CPU, the largest node has 4"), preparation:
            freeze_prompts(session, preparation)
