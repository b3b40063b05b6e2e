"""Freezing in a pool of processes on a real Ray: the bytes are those of one process, and errors keep their words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
from support.project import Project

from cluster.storage import open_storage
from orchestrator.prompts.freezing import shards
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.preparing.freezing_pool import in_pool


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_the_bytes_are_those_of_one_process(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"the fever is {i % 190}", "id": i % 270} for i in range(300)]
    project.rows("medical.jsonl", *rows, "{", *rows[:3])
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)
    written = []
    for name in ("alone", "pool"):
        project.set("name", name)
        config = project.load().located()
        run = RunFolder.of(config)
        freeze(config, run.uri, **({"spread": in_pool} if name == "pool" else {}))
        storage = open_storage(run.uri)
        written.append({stored.key: storage.read(stored.key) for stored in storage.listing("prompts")})
    assert written[0] == written[1] and len(shards.shards_of(config)) > 4


def test_what_is_wrong_is_said_in_its_own_words(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"the {i}"} for i in range(40)]
    project.rows("medical.jsonl", *rows, {"prompt": "the", "messages": [{"role": "user", "content": "a rule"}]})
    monkeypatch.setattr(shards, "SHARD_BYTES", 200)
    config = project.load().located()
    with pytest.raises(ValueError, match=r"^prompts\.medical: rows can be read as"):
        freeze(config, RunFolder.of(config).uri, spread=in_pool)
