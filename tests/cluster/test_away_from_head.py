"""Processes that take much stay off the head of a cluster that has another node for them; those that take nothing stay
off nodes that others ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.inventory import cluster_nodes
from cluster.placement import away_from, away_from_head
from cluster.resources import MEMORY, ResourceRequest, group_request, infeasible_reason

GB = 10**9


def request(cpus: float, memory: int) -> ResourceRequest:
    asked = group_request(1, cpus, 0, "PACK", {})
    return ResourceRequest(({**asked.bundles[0], MEMORY: memory},), asked.strategy, asked.labels)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head of two CPUs and 2 GB, to which this process is connected."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "memory": 2 * GB})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@ray.remote
class Where:
    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


def placed(asked: ResourceRequest) -> str:
    """The id of the node that a process of these resources is on."""
    actor: Any = Where.options(**away_from_head(asked)).remote()  # type: ignore[attr-defined]
    found: str = ray.get(actor.node.remote())
    ray.kill(actor)
    return found


def test_where_large_processes_are_placed(cluster: Cluster) -> None:
    """Alone, the head has to do; then another node does, but for what it has not."""
    head = cluster.head_node.node_id
    assert placed(request(1, GB)) == head
    other = cluster.add_node(num_cpus=1, memory=GB, resources={"more": 1})
    cluster.wait_for_nodes()
    assert placed(request(1, GB)) == other.node_id
    assert placed(request(0, GB // 2)) == other.node_id
    assert placed(request(2, GB)) == head and placed(request(1, 2 * GB)) == head
    assert infeasible_reason(request(1, 3 * GB), cluster_nodes()) == (
        "one process wants 3.0 GB of memory, the largest node has 2.0 GB"
    )


def test_what_reserves_nothing_stays_off_nodes_that_others_ask_for(cluster: Cluster) -> None:
    teacher = cluster.add_node(num_cpus=1, labels={"stillhouse-role": "teacher"})
    cluster.wait_for_nodes()
    options = away_from([{"stillhouse-role": "teacher"}, {"stillhouse-role": "in(student, spot)"}, {}])
    where = [Where.options(num_cpus=0, scheduling_strategy="SPREAD", **options).remote() for _ in range(6)]  # type: ignore[attr-defined]
    found = set(ray.get([one.node.remote() for one in where]))
    assert found and teacher.node_id not in found
    for one in where:
        ray.kill(one)
    ids = ",".join(node.labels["ray.io/node-id"] for node in cluster_nodes())
    assert away_from([{"ray.io/node-id": f"in({ids})"}]) == {}, "there is no other node"
    cluster.remove_node(teacher)
