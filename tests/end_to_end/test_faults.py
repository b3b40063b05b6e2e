"""Series of faults at random moments: nothing is lost, nothing is there twice, and weights are those of a run that met
none. The seed is printed: STILLHOUSE_FAULTS_SEED=N repeats a series, as far as moments can be.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from end_to_end.faults import Fault, Faults, assert_same
from end_to_end.small_job import Job
from ray.cluster_utils import Cluster
from support.servers.faulty_s3 import faulty
from support.servers.s3_servers import reached_at

from cluster.storage import join

pytestmark = pytest.mark.long

SEED = int(os.environ.get("STILLHOUSE_FAULTS_SEED", random.SystemRandom().randrange(1000)))
PROCESSES = ["driver", "SIGTERM", "supervisor", "pool", "leader", "rank", "trainer worker", "board"]
MOST = 20


def small_job(folder: Path, teacher: Path, **settings: object) -> Job:
    job = Job(folder, teacher)
    job.config |= settings
    job.config["defaults"]["train"]["max_failures"] = 10
    (job.folder / "job.yaml").write_text(json.dumps(job.config))
    return job


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = small_job(tmp_path_factory.mktemp("undisturbed"), teacher)
    job.run("run")
    return job


def tell(series: str, done: list[Fault]) -> None:
    """What a series cost, by kind."""
    print(f"\n{series}, seed {SEED}: {len(done)} faults")
    for kind in sorted({fault.kind for fault in done}):
        outages = [fault.outage_s for fault in done if fault.kind == kind]
        print(f"  {kind:15} {len(outages):3} times, longest outage {max(outages):6.1f} s")


def test_processes_of_every_kind_are_killed(undisturbed: Job, teacher: Path, tmp_path: Path) -> None:
    done: list[Fault] = []
    for number in range(MOST):
        had = {fault.kind for fault in done}
        kinds = [kind for kind in PROCESSES if kind not in had] or PROCESSES
        faults = Faults(small_job(tmp_path / f"hit-{number}", teacher), kinds, SEED + number)
        faults.run(MOST - len(done))
        done += faults.done
        assert_same(str(faults.job.folder / "runs" / "job"), undisturbed, tmp_path / f"weights-{number}")
        assert "ActorDiedError" not in faults.output() and "common causes" not in faults.output()
        if len(done) >= MOST:
            break
    tell("processes", done)
    assert len(done) == MOST and {fault.kind for fault in done} == set(PROCESSES)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_nodes_are_lost(undisturbed: Job, teacher: Path, tmp_path: Path, cluster: Cluster) -> None:
    """Their raylets are killed, with all that runs on them; others come instead."""
    chance = random.Random(SEED)

    def lose_one() -> None:
        cluster.remove_node(chance.choice(sorted(cluster.worker_nodes, key=lambda n: n.node_id)), allow_graceful=False)
        cluster.add_node(num_cpus=1)

    job = small_job(tmp_path / "hit", teacher, cluster={"address": cluster.address})
    faults = Faults(job, ["node"], SEED, {"node": lose_one})
    faults.run(3)
    tell("nodes", faults.done)
    assert_same(str(job.folder / "runs" / "job"), undisturbed, tmp_path / "weights")


def test_the_storage_is_busy_and_then_gone(undisturbed: Job, teacher: Path, tmp_path: Path, moto_endpoint: str) -> None:
    """A third of its answers are 503 for ten seconds; then all, for twenty."""
    with faulty(moto_endpoint, SEED) as (endpoint, server), reached_at(endpoint) as shelf:
        place = join(shelf, f"faults-{SEED}")

        well = threading.Timer(0, lambda: None)

        def busy(share: float, seconds: float) -> None:
            nonlocal well
            well.cancel()  # else the end of an earlier fault would be that of this one
            server.busy, well = share, threading.Timer(seconds, lambda: setattr(server, "busy", 0.0))
            well.start()

        others = {"busy": lambda: busy(0.3, 10), "gone": lambda: busy(1.0, 20)}
        job = small_job(tmp_path / "hit", teacher, storage=place)
        faults = Faults(job, list(others), SEED, others, where=f"{place}/job")
        faults.run(2)
        tell("storage", faults.done)
        assert server.faults["busy"] > 0
        assert_same(f"{place}/job", undisturbed, tmp_path / "weights")
