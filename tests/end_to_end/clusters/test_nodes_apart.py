"""A teacher's worker group over two nodes, students on a third, and a store that all reach by S3 alone."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from end_to_end.faults import assert_same
from end_to_end.small_job import CHECKOUT, Job
from ray._private.state import actors
from ray.cluster_utils import Cluster
from support.servers.s3_servers import reached_at

from cluster.storage import join, open_storage
from orchestrator.runs.events import read_events
from workers.channels.events import NodeJoined, NodeLeft, ReplicaReady
from workers.targets.store import TargetStore

pytestmark = pytest.mark.long

ROLE = "stillhouse-role"
TEACHER: dict[str, Any] = {"num_cpus": 1, "labels": {ROLE: "teacher"}}


@pytest.fixture
def shelf(seaweed_endpoint: str) -> Iterator[str]:
    """A place on a real S3 server, which all processes that are started meanwhile find."""
    with reached_at(seaweed_endpoint) as shelf:
        yield join(shelf, f"apart-{time.time_ns()}")


@pytest.fixture
def cluster(shelf: str) -> Iterator[Cluster]:
    """A head that evaluates, two nodes of one CPU for a teacher, and one of two for students."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for node in (TEACHER, TEACHER, {"num_cpus": 2, "labels": {ROLE: "student"}}):
        cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_weights_are_those_of_one_machine_though_a_node_is_lost(
    teacher: Path, tmp_path: Path, cluster: Cluster, shelf: str
) -> None:
    alone, job = Job(tmp_path / "alone", teacher), Job(tmp_path / "apart", teacher)
    job.config["teacher"] |= {"cpus_per_rank": 1, "placement": "STRICT_SPREAD", "label_selector": {ROLE: "teacher"}}
    job.config["defaults"]["train"] |= {"cpus_per_worker": 1, "label_selector": {ROLE: "student"}}
    job.config |= {"storage": shelf, "cluster": {"address": cluster.address}}
    (job.folder / "job.yaml").write_text(json.dumps(job.config))
    with (job.folder / "said.log").open("w") as said:
        driver = subprocess.Popen(job.command("run"), cwd=CHECKOUT, env=os.environ, stdout=said, stderr=said)
    storage, began = open_storage(f"{shelf}/job"), time.monotonic()
    while committed(storage) < 2:
        assert driver.poll() is None and time.monotonic() - began < 300, (job.folder / "said.log").read_text()[-4000:]
        time.sleep(0.1)
    leaders = [a["Address"]["NodeID"] for a in actors().values() if "Replica" in a["ActorClassName"]]
    assert leaders == [cluster.head_node.node_id], "a leader would hold a node of teachers or students"
    lost = next(n for n in cluster.worker_nodes if is_of_teachers(n.node_id))
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(**TEACHER)
    assert driver.wait(500) == 0, (job.folder / "said.log").read_text()[-4000:]
    events = list(read_events(storage))
    assert {len(e.weights_held) for e in events if isinstance(e, ReplicaReady)} == {2}, "a group of two ranks"
    roles = [event.role for event in events if isinstance(event, NodeJoined)]
    assert sorted(roles) == ["head", "student", "teacher", "teacher", "teacher"]
    assert [event.node for event in events if isinstance(event, NodeLeft)] == [lost.node_id]
    alone.run("run")
    assert_same(f"{shelf}/job", alone, tmp_path / "weights")


def committed(storage: Any) -> int:
    """Units of the training store."""
    try:
        return len(TargetStore(storage, "train").log.committed())
    except (FileNotFoundError, ValueError):
        return 0


def is_of_teachers(node: str) -> bool:
    """Whether a node is for the teacher, of which each holds a rank."""
    (there,) = (n for n in ray.nodes() if n["NodeID"] == node)
    return bool((there.get("Labels") or {}).get(ROLE) == "teacher")
