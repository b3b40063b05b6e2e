"""The teacher pool: it grows into a cluster that grows, frees what it no longer needs, and shares it with others."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from end_to_end.small_job import CHECKOUT, Job
from ray.cluster_utils import Cluster

from cluster.storage import open_storage
from workers.manifest import read_plan
from workers.targets.commits.log import Entry
from workers.targets.store import TargetStore

pytestmark = pytest.mark.long

ONE_CPU = {"ep_size": 1, "cpus_per_rank": 1}
"""A replica of one rank that fills a node of one CPU."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of one node with one CPU, to which this process is connected.

    The first of its processes that comes to its third commit stands there for a minute.
    """
    monkeypatch.setenv("STILLHOUSE_PAUSE_AT", "before-entry:3")
    monkeypatch.setenv("STILLHOUSE_PAUSE_DIR", str(tmp_path))
    monkeypatch.setenv("STILLHOUSE_PAUSE_S", "60")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def changed(job: Job, **changes: Any) -> Job:
    """The job with other settings at the top level, in its file."""
    job.config |= changes
    (job.folder / "job.yaml").write_text(json.dumps(job.config))  # JSON is YAML
    return job


def entries(job: Job, split: str = "train") -> list[Entry]:
    try:
        return TargetStore(open_storage(str(job.folder / "runs" / "job")), split).log.entries()
    except FileNotFoundError:
        return []


def whole(job: Job) -> dict[tuple[str, int], str]:
    """Contents by split and unit; every planned unit is there, and once."""
    found = {}
    for split in ("train", "heldout"):
        planned = read_plan(open_storage(str(job.folder / "runs" / "job")), split).units
        assert [e.unit for e in entries(job, split)] == [unit.index for unit in planned] != []
        found |= {(split, e.unit): e.content_hash for e in entries(job, split)}
    return found


def free_slots() -> list[str]:
    """States of the worker groups' groups."""
    return sorted(g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: {free_slots()}"
        time.sleep(0.2)


def test_the_pool_grows_with_the_cluster_and_frees_idle_places_while_others_work(
    cluster: Cluster, teacher: Path, tmp_path: Path
) -> None:
    job = changed(
        Job(tmp_path / "grows", teacher),
        teacher={"model": str(teacher), **ONE_CPU, "replicas": [1, 2], "sampling": {"max_new_tokens": 12}},
        cluster={"address": cluster.address, "placement_deadline_s": 5},
    )
    command = job.command("capture")
    driver = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: (tmp_path / "before-entry").exists() or driver.poll() is not None, "a replica is at work")
    assert driver.poll() is None, driver.communicate()[0][-3000:]
    # The first replica stands before its third commit. The second finds no room, for longer than its deadline.
    wait_until(lambda: free_slots() == ["CREATED", "PENDING"], "a second replica asks for a place")
    time.sleep(8)
    assert free_slots() == ["CREATED", "PENDING"] and driver.poll() is None
    cluster.add_node(num_cpus=1)
    wait_until(lambda: free_slots() == ["CREATED", "CREATED"], "the second replica takes the new node")
    # The second captures all that is left but what the first holds; then its place is free although the first works on.
    wait_until(lambda: free_slots() == ["CREATED"], "the idle replica's place is freed")
    assert driver.poll() is None
    wait_until(lambda: ray.available_resources().get("CPU", 0) >= 1, "the CPU of the idle replica is free")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output[-3000:]
    assert free_slots() == []
    assert len(whole(job)) > 4  # more than the first replica held when it stood


def test_a_lost_node_costs_its_worker_groups_another_place(
    cluster: Cluster, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker group is on a node of its own, which is taken away and later replaced."""
    monkeypatch.delenv("STILLHOUSE_PAUSE_AT")
    doomed = cluster.add_node(num_cpus=1, labels={"role": "teacher"})
    job = changed(
        Job(tmp_path / "lost", teacher),
        teacher={"model": str(teacher), **ONE_CPU, "label_selector": {"role": "teacher"}},
        cluster={"address": cluster.address, "placement_deadline_s": 120},
    )
    command = job.command("capture")
    driver = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: len(entries(job)) > 2 or driver.poll() is not None, "some units are captured")
    cluster.remove_node(doomed, allow_graceful=False)
    time.sleep(3)
    cluster.add_node(num_cpus=1, labels={"role": "teacher"})
    output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output[-3000:]
    whole(job)


def test_teachers_that_find_room_only_one_after_the_other_both_capture(teacher: Path, tmp_path: Path) -> None:
    sampling = {"max_new_tokens": 12}
    apart = changed(
        Job(tmp_path / "two", teacher),
        teachers={n: {"model": str(teacher), **ONE_CPU, "sampling": sampling} for n in ("first", "second")},
        prompts={
            "medical": {"path": "medical.jsonl", "teacher": "first"},
            "legal": {"path": "legal.jsonl", "teacher": "second"},
        },
        cluster={"cpus": 1, "placement_deadline_s": 4},
    )
    del apart.config["teacher"]
    changed(apart).run("capture")
    assert {e.teacher for e in entries(apart)} == {"first", "second"}
    whole(apart)


def test_a_least_replica_without_a_place_stops_the_run_and_says_what_it_wants(
    cluster: Cluster, teacher: Path, tmp_path: Path
) -> None:
    job = changed(
        Job(tmp_path / "large", teacher),
        teacher={"model": str(teacher), "ep_size": 2, "cpus_per_rank": 1, "placement": "STRICT_PACK"},
        cluster={"address": cluster.address, "placement_deadline_s": 2},
    )
    output = job.run("capture", expect=1)
    assert "failed: the teacher stopped: a replica of teacher teacher wants 2 x 1 CPU (STRICT_PACK)" in output
    assert "2 CPU are wanted on one node, the largest node has 1" in output and "1 of 1 CPU free" in output


POINTS = ["rank-start", "rank-forward:1", "rank-forward:6", "part-written:2", "after-entry:3"]
"""Starting, scoring, generating, and two steps of the leader's write."""


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def undisturbed(request: pytest.FixtureRequest, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A captured run whose worker groups have one rank, or two."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), teacher)
    job.config["teacher"]["ep_size"] = request.param
    changed(job).run("capture")
    return job


@pytest.mark.parametrize("point", POINTS)
def test_a_rank_killed_at_any_moment_loses_and_doubles_nothing(
    undisturbed: Job, point: str, teacher: Path, tmp_path: Path
) -> None:
    job = changed(Job(tmp_path / "killed", teacher), teacher=undisturbed.config["teacher"])
    output = job.kill_rank_at(point, "capture")
    assert "died" in output and ("run again" in output or "did not start, once more" in output)
    assert whole(job) == whole(undisturbed)
    assert {e.epoch for e in entries(job)} == {1}


@pytest.mark.parametrize("point", ["rank-start", "rank-forward:6", "part-written:2"])
def test_a_killed_replicas_actor_is_started_again(undisturbed: Job, point: str, teacher: Path, tmp_path: Path) -> None:
    job = changed(Job(tmp_path / "leader", teacher), teacher=undisturbed.config["teacher"])
    output = job.kill_rank_at(point, "capture", process="MapWorker")
    assert "the process that leads a replica of teacher teacher died and was started again" in output
    assert whole(job) == whole(undisturbed)


def test_a_poison_prompt_is_rejected_in_its_entry(undisturbed: Job, teacher: Path, tmp_path: Path) -> None:
    job = changed(Job(tmp_path / "poison", teacher), teacher=undisturbed.config["teacher"])
    job.run("capture", STILLHOUSE_FAIL_AT="legal/3")
    aside = [s for split in ("train", "heldout") for e in entries(job, split) for s in e.rejected]
    (row,) = aside
    assert row["id"] == "legal/3" and "RuntimeError" in row["reason"]
    store, before = (
        {
            i
            for e in entries(j)
            for i in TargetStore(open_storage(str(j.folder / "runs" / "job")), "train").read_unit(e).prompt_uids
        }
        for j in (job, undisturbed)
    )
    assert before - store <= {"legal/3"} and store <= before


def test_a_teacher_that_always_fails_stops_the_run_with_the_first_cause(teacher: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "always", teacher)
    everything = ",".join(f"{d}/{i}" for d in ("medical", "legal") for i in range(24))
    output = job.run("capture", expect=1, STILLHOUSE_FAIL_AT=everything)
    assert "failed: the teacher stopped: unit " in output and "RuntimeError: '" in output
    assert "has captured nothing, so its prompts are not blamed" in output
    assert entries(job) == []
