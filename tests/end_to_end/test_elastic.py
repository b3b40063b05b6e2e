"""A specialist with a range of workers: a node it loses, and one that comes, cost it time and change nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from end_to_end.small_job import CHECKOUT, Job
from ray.cluster_utils import Cluster
from support.comparing.tolerances import LOSSES

pytestmark = pytest.mark.long

NODE = {"num_cpus": 1, "labels": {"role": "student"}}
STANDS_AT = "step-done:6"
"""The last checkpoint is then that of step 4."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with room, but none for students, to which this process is connected."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def captured(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job whose one specialist was trained by one worker, from first to last."""
    job = Job(tmp_path_factory.mktemp("captured"), teacher)
    del job.config["specialists"]["legal"]
    job.config["evaluate"]["baselines"] = []
    settle(job, workers=1)
    job.run("capture")
    job.run("train")
    return job


def settle(job: Job, **train: Any) -> None:
    """Write the job's file, with other settings of training."""
    job.config["defaults"]["train"] |= train | {"cpus_per_worker": 1}
    job.config["specialists"]["medical"]["train"] = {"zero": 1}
    (job.folder / "job.yaml").write_text(json.dumps(job.config))


def elastic(captured: Job, cluster: Cluster, folder: Path, teacher: Path) -> Job:
    """A job with the same targets, whose specialist is to be trained by one or two workers of the cluster."""
    job = Job(folder, teacher)
    job.config = json.loads(json.dumps(captured.config))
    job.config["storage"] = str(folder / "runs")
    job.config["cluster"] = {"address": cluster.address}
    settle(job, workers=[1, 2], label_selector={"role": "student"}, resize_s=2)
    for part in ("prompts", "targets"):
        shutil.copytree(*(j.folder / "runs" / "job" / part for j in (captured, job)))
    return job


def stand(marks: Path, seconds: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers on nodes that start from now on stand at the point for so long; one leaves a file in `marks`."""
    marks.mkdir()
    for name, value in {"AT": STANDS_AT, "DIR": str(marks), "S": str(seconds)}.items():
        monkeypatch.setenv(f"STILLHOUSE_PAUSE_{name}", value)
    return marks


def start(job: Job, marks: Path) -> subprocess.Popen[str]:
    """Start training; return when a worker stands at the point, and the checkpoint before it has been uploaded."""
    driver = subprocess.Popen(
        job.command("train"), cwd=CHECKOUT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 240
    while not any(marks.iterdir()) or not checkpoints(job):
        assert driver.poll() is None, f"the command ended\n{driver.communicate()[0][-3000:]}"
        assert time.monotonic() < deadline, "no worker came to the point"
        time.sleep(0.1)
    return driver


def done(job: Job) -> dict[str, Any]:
    return json.loads((job.folder / "runs" / "job" / "students" / "medical" / "done.json").read_text())


def checkpoints(job: Job) -> dict[int, int]:
    """How many workers wrote the checkpoint of each step that is there."""
    log = job.folder / "runs" / "job" / "students" / "medical" / "log"
    pointers = [json.loads(file.read_text()) for file in sorted(log.glob("*.json"))]
    return {p["step"]: p["world"] for p in pointers}


def same_training(job: Job, captured: Job) -> None:
    ours, theirs = done(job), done(captured)
    assert [s["step"] for s in ours["history"]] == [s["step"] for s in theirs["history"]]
    losses = [[s["loss"] for s in found["history"]] for found in (ours, theirs)]
    assert max(losses[1]) - min(losses[1]) > 0.01
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=LOSSES)


def test_a_lost_node_leaves_the_others_to_go_on_from_the_last_checkpoint(
    captured: Job, cluster: Cluster, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, marks = elastic(captured, cluster, tmp_path / "job", teacher), stand(tmp_path / "marks", 20, monkeypatch)
    doomed = [cluster.add_node(**NODE) for _ in range(2)][1]
    driver = start(job, marks)
    assert checkpoints(job) == {4: 2}
    cluster.remove_node(doomed, allow_graceful=False)
    output, _ = driver.communicate(timeout=400)
    print(output)
    assert driver.returncode == 0, output[-3000:]
    assert "medical: a worker died, or its node was lost: " in output
    assert "started again from its last checkpoint (1 of 3 times" in output
    assert done(job)["workers"] == 1 and set(checkpoints(job).values()) == {1}
    same_training(job, captured)


def test_a_new_node_is_taken_in(
    captured: Job, cluster: Cluster, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, marks = elastic(captured, cluster, tmp_path / "job", teacher), stand(tmp_path / "marks", 120, monkeypatch)
    cluster.add_node(**NODE)
    driver = start(job, marks)
    assert checkpoints(job) == {4: 1}
    cluster.add_node(**NODE)
    output, _ = driver.communicate(timeout=400)
    print(output)
    assert driver.returncode == 0, output[-3000:]
    assert done(job)["workers"] == 2 and set(checkpoints(job).values()) == {2}
    same_training(job, captured)
