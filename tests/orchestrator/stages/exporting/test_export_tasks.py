"""Exports on Ray: off the head where another node has the room, and told where none has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from support.small_configuration import clinic

from cluster.placement import away_from_head
from cluster.storage import open_storage
from orchestrator.stages.export_tasks import ExportTasks
from workers.evaluation.config import EvaluateConfig
from workers.export.artefact import Artefact
from workers.export.job import ExportJob, artefact_at
from workers.export.resources import resource_request

PLAIN = {"format": "safetensors", "measure": 0}


@dataclass
class Asked:
    """What of an attempt exports ask for."""

    config: Any


def tasks(deadline_s: float = 60, **evaluate: Any) -> ExportTasks:
    config = clinic()
    changed = {
        "evaluate": EvaluateConfig.model_validate(evaluate),
        "cluster": config.cluster.model_copy(update={"placement_deadline_s": deadline_s}),
    }
    return ExportTasks(Asked(config.model_copy(update=changed)), lambda: None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a node of one CPU each, to which this process is connected."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def job(tmp_path: Path) -> ExportJob:
    """A run whose model is copied: a folder that says what it is, and weights."""
    import torch
    from safetensors.torch import save_file

    model = tmp_path / "run" / "students" / "a" / "final"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "float32"}))
    save_file({"weight": torch.ones(3)}, model / "model.safetensors")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "tokenizer.json").write_text("{}")
    teacher = str(tmp_path / "teacher")
    return ExportJob(str(tmp_path / "run"), "students/a/final", "exports/a", teacher, "a", PLAIN, "# a\n", domain="a")


def test_files_are_written_by_tasks(cluster: Cluster, job: ExportJob) -> None:
    """Of three, the one that is wrong keeps no other from it; each has its own outcome."""
    jobs = [job, replace(job, source="students/b/final", target="exports/b"), replace(job, target="exports/c")]
    found = {made.target: outcome for made, outcome in tasks(workers=2)(jobs)}
    storage = open_storage(job.store)
    assert found["exports/a"] == artefact_at(storage, "exports/a")
    assert isinstance(found["exports/c"], Artefact) and found["exports/c"].format == "safetensors float32"
    assert "there is no model at" in str(found["exports/b"])


def test_they_keep_off_the_head(cluster: Cluster) -> None:
    """The evaluator's CPUs, and no GPU of its: files are measured on CPUs."""
    request = resource_request(EvaluateConfig(cpus=1, gpus=1))
    assert dict(request.bundles[0]) == {"CPU": 1}
    assert away_from_head(request)["label_selector"] == {"ray.io/node-id": f"!{cluster.head_node.node_id}"}


def test_what_finds_no_place_is_told(cluster: Cluster, job: ExportJob) -> None:
    jobs = [job, replace(job, target="exports/c")]
    found = {made.target: outcome for made, outcome in tasks(1.5, cpus=4)(jobs)}
    assert found.keys() == {"exports/a", "exports/c"}
    for why in found.values():
        assert "an export wants 1 x 4 CPU" in str(why) and "the largest node has 1" in str(why)
    assert not open_storage(job.store).exists("exports/a/config.json")
