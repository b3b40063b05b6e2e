"""Which nodes a real cluster has, as they come and leave."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.nodes.members import MemberWatch, role_of


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_nodes_are_seen_to_come_and_leave(cluster: Cluster) -> None:
    watch, before = MemberWatch(), time.time()
    (head,) = watch.look().joined
    assert (head.role, head.id) == ("head", cluster.head_node.node_id) and head.resources["CPU"] == 1
    assert before - 120 < head.joined <= before
    added = cluster.add_node(num_cpus=2, labels={"stillhouse-role": "teacher"})
    cluster.wait_for_nodes()
    assert watch.look().joined == (), "it is not time to look"
    (came,) = watch.look(now=True).joined
    assert (came.id, came.role, came.labels["stillhouse-role"]) == (added.node_id, "teacher", "teacher")
    assert head.joined < came.joined <= time.time() + 1 and came.left is None
    cluster.remove_node(added)
    deadline, changes = time.monotonic() + 60, watch.look(now=True)
    while not changes.left and time.monotonic() < deadline:
        time.sleep(0.2)
        changes = watch.look(now=True)
    (left,) = changes.left
    assert left.id == came.id and left.left is not None and left.left > came.joined and left.reason
    assert [node.id for node in watch.here] == [head.id] and watch.look(now=True).joined == ()


@pytest.mark.parametrize(
    ("labels", "resources", "head", "role"),
    [
        ({"stillhouse-role": "spot"}, {"CPU": 1}, True, "spot"),
        ({}, {"GPU": 8}, True, "head"),
        ({"zone": "a"}, {"CPU": 64, "memory": 1e9}, False, "cpu"),
        ({}, {"CPU": 64, "GPU": 8, "accelerator_type:H100": 1}, False, "h100:8"),
        ({}, {"GPU": 1}, False, "gpu:1"),
    ],
)
def test_what_a_node_is_for(labels: dict[str, str], resources: dict[str, float], head: bool, role: str) -> None:
    assert role_of(labels, resources, head=head) == role
