"""Freezing sources that come in many shards: the same bytes, however they are cut and whoever does it when."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.project import Project

from cluster.storage import LocalStorage, open_storage
from orchestrator.prompts.freezing import shards
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.prompts.freezing.work import told
from orchestrator.prompts.sources import screen_all
from orchestrator.runs.folder import RunFolder
from workers.manifest import Manifest, read_plan
from workers.splits import HELDOUT, TRAIN

WORDS = ("the", "fever", "is", "high", "rest", "a", "rule", "~", "")


def rows(count: int, seed: int, domain: str) -> list[Any]:
    """Rows of every kind: repeats of texts and ids, given answers, held-out ones, two domains, broken ones."""
    random_ = random.Random(seed)
    found: list[Any] = []
    for i in range(count):
        text = " ".join(random_.choice(WORDS) for _ in range(random_.randint(1, 12)))
        row: dict[str, Any] = {"prompt": text, "id": f"{domain}{random_.randint(0, 2 * count)}"}
        if random_.random() < 0.3:
            row["answer"] = "high rest " * random_.randint(0, 3)
        if random_.random() < 0.1:
            row["split"] = random_.choice(["train", "heldout", "neither"])
        if random_.random() < 0.2:
            row["domain"] = ["medical", "legal"]
        found.append(row if random_.random() > 0.05 else i)
    return found


def in_any_order(seed: int) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]:
    def spread(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        for item in random.Random(seed).sample(list(items), len(items)):
            yield work(item)

    return spread


def frozen(project: Project, name: str, **how: Any) -> dict[str, bytes]:
    """What is written of the prompts of a run, by key."""
    project.set("name", name)
    config = project.load().located()
    storage = open_storage(RunFolder.of(config).uri)
    if how.pop("screened", False):
        how["screened"] = screen_all(config)
    freeze(config, storage.uri, **how)
    return {stored.key: storage.read(stored.key) for stored in storage.listing("prompts")}


@pytest.fixture
def large(project: Project) -> Project:
    """Sources of several kinds, of which each is many shards once these are small."""
    lines = [json.dumps(row) for row in rows(300, 1, "m")]
    lines[5:5] = ["", "{not json", "  "]
    (project.folder / "medical.jsonl").write_text("\n".join(lines))
    (project.folder / "laws").mkdir()
    for n in range(3):
        (project.folder / f"laws/{n}.jsonl").write_text("".join(json.dumps(r) + "\r\n" for r in rows(60, n, "l")))
    table = pa.Table.from_pylist([r for r in rows(200, 9, "p") if isinstance(r, dict)])
    pq.write_table(table, project.folder / "table.parquet", row_group_size=7)
    sources = {"medical": "medical.jsonl", "legal": "laws/*.jsonl", "table": "table.parquet"}
    project.set("prompts", {name: {"path": path} for name, path in sources.items()})
    project.set("prompts.table.duplicates", "keep")
    project.set("evaluate.heldout", {"share": 0.2, "max_texts": 40, "max_tokens": 300})
    project.set("targets.prompts_per_unit", 5)
    return project


def test_the_bytes_hang_on_rows_and_settings_alone(large: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frozen(large, "whole")
    assert frozen(large, "screened", screened=True) == whole
    for size, groups in ((700, 10), (4000, 50)):
        monkeypatch.setattr(shards, "SHARD_BYTES", size)
        monkeypatch.setattr(shards, "SHARD_ROWS", groups)
        assert len(shards.shards_of(large.load().located())) > 8
        assert frozen(large, f"parts-{size}", spread=in_any_order(size)) == whole


def test_prompts_of_several_manifest_shards(large: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frozen(large, "whole")
    monkeypatch.setattr("orchestrator.prompts.freezing.blocks.SHARD_PROMPTS", 20)
    parts = frozen(large, "parts", spread=in_any_order(3))
    assert len([key for key in parts if key.endswith(".units")]) > 5 and whole.keys() < parts.keys()
    one, many = (LocalStorage(large.folder / "runs" / name) for name in ("whole", "parts"))
    for split in (TRAIN, HELDOUT):
        plan, manifests = read_plan(one, split), [Manifest(storage, split) for storage in (one, many)]
        assert plan == read_plan(many, split)
        for unit in plan.units:
            first, second = (manifest.prompts(unit.index) for manifest in manifests)
            assert first == second and len(first) == unit.prompts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_every_line_is_in_one_shard_wherever_the_cuts_fall(
    project: Project, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    text = '\n{"prompt": "a"}\r\n\n  \n{"prompt": "é"}\n7\n{"prompt": "b"}'
    (project.folder / "medical.jsonl").write_bytes(text.encode())
    monkeypatch.setattr(shards, "SHARD_BYTES", size)
    config = project.load().located()
    own = [s for s in shards.shards_of(config) if s.source == "medical"]
    found = [row for shard in own for row in shard.rows(config)]
    assert [getattr(row, "prompt", None) for row in found] == ["a", "é", None, "b"]
    assert len(own) == max(1, -(-len(text.encode()) // size))


def test_rows_that_cannot_be_used_say_where_they_are(large: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 900)
    said = [
        json.loads(line)
        for line in frozen(large, "parts", spread=in_any_order(1))["prompts/rejected.jsonl"].splitlines()
    ]
    broken = [(r["file"], r["row"]) for r in said if r["reason"] == "is int, not an object" and r["source"] == "legal"]
    files = sorted((large.folder / "laws").glob("*.jsonl"))
    wanted = [
        (str(path), i)
        for path in files
        for i, line in enumerate(path.read_text().splitlines())
        if isinstance(json.loads(line), int)
    ]
    assert broken == wanted and len(wanted) > 5
    assert [r["row"] for r in said if r["reason"] == "is not JSON"] == [5]


def test_an_array_of_json_is_one_shard(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"prompt": f"the {i}"} for i in range(50)]
    (project.folder / "medical.jsonl").write_text(json.dumps(items, indent=1))
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    config = project.load().located()
    [shard] = [s for s in shards.shards_of(config) if s.source == "medical"]
    assert sum(1 for _ in shard.rows(config)) == 50


def test_nothing_is_left_of_what_failed(large: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 900)
    large.set("evaluate.heldout", {"share": 0.2, "max_tokens": 1})
    with pytest.raises(ValueError, match="max_tokens"):
        frozen(large, "parts", spread=in_any_order(1))
    assert LocalStorage(large.folder / "runs" / "parts").listing("prompts") == []


def test_it_is_told_how_far_it_is(large: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)
    said: list[str] = []
    frozen(large, "parts", spread=told(in_any_order(0), said.append))
    count = len(shards.shards_of(large.load().located()))
    assert said[0] == f"0 of {count} parts of the sources read and tokenized"
    assert said[-1] == "1 of 1 parts of the manifest written"
