"""What a run leaves on the nodes of a cluster that others may take away: nothing, as an autoscaler takes no node away
that a process is on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from cluster.inventory import cluster_nodes
from cluster.nodes.kinds import ROLE
from cluster.placement import on_node, this_node
from cluster.resources import infeasible_reason
from orchestrator.stages import evaluation
from orchestrator.stages.preparing.freezing_pool import pool_led_on
from workers.evaluation.config import EvaluateConfig
from workers.evaluation.resources import resource_request


class Double:
    """Work for a pool."""

    done = "numbers doubled"

    def __call__(self, item: Any, /) -> Any:
        if item < 0:
            raise ValueError(f"{item} is below 0")
        return 2 * item


@ray.remote(num_cpus=0)
def doubled(home: str, items: list[int]) -> list[int]:
    """As a process that freezes prompts does, wherever it is."""
    return sorted(pool_led_on(home)(Double(), items))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_what_ray_data_leaves_is_beside_the_driver(cluster: Cluster) -> None:
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    elsewhere = doubled.options(scheduling_strategy=on_node(other.node_id))
    assert ray.get(elsewhere.remote(this_node(), [3, 1, 2])) == [2, 4, 6]
    with pytest.raises(ray.exceptions.RayTaskError, match="-1 is below 0"):
        ray.get(elsewhere.remote(this_node(), [3, -1, 2]))
    left = [a["Address"]["NodeID"] for a in actors().values() if a["State"] == "ALIVE"]
    assert left, "Ray Data leaves none any more: this and pool_led_on have no use then"
    assert set(left) == {cluster.head_node.node_id}


def where(job: Any, tasks: Any) -> str:
    """In place of scoring: the node that it would be done on."""
    return str(ray.get_runtime_context().get_node_id())


def test_scores_are_made_where_a_selector_says(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nowhere else: an evaluator on a teacher's node would keep it."""
    nodes = {role: cluster.add_node(num_cpus=1, labels={ROLE: role}) for role in ("teacher", "student")}
    cluster.wait_for_nodes()
    monkeypatch.setattr(evaluation, "_score_all", where)
    for role, node in nodes.items():
        settings = EvaluateConfig(label_selector={ROLE: role})
        assert infeasible_reason(resource_request(settings), cluster_nodes()) is None
        assert ray.get(evaluation.begin(None, [None], settings), timeout=60) == node.node_id  # type: ignore[arg-type, list-item]
    assert infeasible_reason(resource_request(EvaluateConfig(label_selector={ROLE: "none"})), cluster_nodes())
