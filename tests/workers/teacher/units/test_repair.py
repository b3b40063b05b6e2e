"""A damaged unit recomputed by a replica: the same unit, as the next revision. The engine is real, in-process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.commit_processes import entry_of
from support.comparing.tolerances import in_float64

from cluster.lease import Fence
from cluster.storage import LocalStorage
from workers.channels.board import Reporter
from workers.manifest import write_manifest
from workers.targets.commits.damage import DamagedStore
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.generation.detokenize import split, texts_and_ends
from workers.teacher.groups.fault_tolerant_group import Answer
from workers.teacher.units.answers import AnswerRules
from workers.teacher.units.unit_runner import UnitRunner
from workers.units import Prompt, Unit, UnitPlan

V = 300


class OneProcess:
    """Makes texts in this process, with no worker group; in float64, so that what else is in a batch changes none."""

    def __init__(self, model: Path) -> None:
        self._engine = TransformersEngine(TeacherConfig(model=str(model)))
        in_float64(self._engine.model)

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        return self._engine.run(requests, spec)

    def capture(
        self, unit: str, requests: list[TextRequest], spec: CaptureSpec, then: Sequence[TextRequest] = ()
    ) -> Answer:
        return Answer(self._engine.run(requests, spec, texts=False))

    def detokenize(self, targets: UnitTargets) -> None:
        targets.texts, targets.ends = texts_and_ends(self._engine.tokenizer, split(targets.tokens, targets.lengths))


@pytest.fixture
def store(local: LocalStorage) -> TargetStore:
    """The empty store of a run with three units, two of them generated."""
    rng = np.random.default_rng(0)
    blocks = [
        [
            Prompt(f"u{u}.{i}", ("a",), "t", 2, 1.0, 1.0, 6, rng.integers(3, V, 4).tolist(), [5, 6] if u == 1 else None)
            for i in range(3)
        ]
        for u in range(3)
    ]
    plan = UnitPlan("train", tuple(Unit(u, ("a",), "t", 3, 36, u != 1) for u in range(3)))
    write_manifest(local, plan, blocks)
    store = TargetStore(local, "train")
    store.create(StoreHeader("systematic", 21, "answer", "float32", V, "tokenizer", "template", 7))
    return store


def teacher_of(run: LocalStorage, model: Path) -> UnitRunner:
    maker, fence = OneProcess(model), Fence(run, 1)
    return UnitRunner(run, maker, fence, Reporter(""), teacher="t", fingerprint="fingerprint", rules=AnswerRules())


@pytest.fixture
def capture(store: TargetStore, local: LocalStorage, tiny_moe: Path) -> Callable[..., list[bool]]:
    """A replica's work on rows (unit, repair)."""
    teacher = teacher_of(local, tiny_moe)
    return lambda *rows: teacher.capture([("train", *row) for row in rows])


def part(store: TargetStore, local: LocalStorage, unit: int) -> Path:
    return local.root / newest(store, unit).parts[0].key


def newest(store: TargetStore, unit: int) -> Entry:
    store.log.look_for_repairs()
    entry = store.log.entry(unit)
    assert entry is not None
    return entry


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_unit_is_recomputed_with_the_same_contents(
    store: TargetStore, local: LocalStorage, capture: Callable[..., list[bool]]
) -> None:
    assert capture((0, 0), (1, 0), (2, 0)) == [True] * 3
    before = store.log.entries()
    flip(part(store, local, 0))
    part(store, local, 1).unlink()
    assert capture((0, 1), (1, 1)) == [True, True]
    after = store.log.entries()
    assert [e.revision for e in after] == [1, 1, 0] and after[2] == before[2]
    for old, new in zip(before[:2], after[:2], strict=True):
        assert new.supersedes == old.parts[0].key != new.parts[0].key
        assert new.content_hash == new.supersedes_content_hash == old.content_hash and not new.content_changed
        assert store.read_unit(new).content_hash() == old.content_hash
    assert [store.log.entry(u, 0) for u in range(3)] == before  # what was committed stays as it was


def test_a_repair_that_was_made_is_not_made_twice(
    store: TargetStore, local: LocalStorage, capture: Callable[..., list[bool]]
) -> None:
    capture((0, 0))
    flip(part(store, local, 0))
    assert capture((0, 1)) == [True]
    first = newest(store, 0)
    assert capture((0, 1), (0, 0)) == [False, False]
    assert newest(store, 0) == first and len(list(store.log.every_revision())) == 2


def test_a_repair_that_is_damaged_too_is_repaired(
    store: TargetStore, local: LocalStorage, capture: Callable[..., list[bool]]
) -> None:
    capture((2, 0))
    for revision in (1, 2):
        flip(part(store, local, 2))
        assert capture((2, revision)) == [True]
    assert newest(store, 2).revision == 2 and newest(store, 2).supersedes_content_hash == newest(store, 2).content_hash


def test_a_marked_unit_that_reads_fine_is_left_alone(
    store: TargetStore, local: LocalStorage, capture: Callable[..., list[bool]]
) -> None:
    capture((0, 0))
    entry = newest(store, 0)
    store.log.mark_damaged(0, 0, entry.parts[0].key, "seen on another machine", "medical")
    assert capture((0, 1)) == [False]
    assert newest(store, 0) == entry and store.log.damaged() == []


def test_a_repair_with_other_contents_says_so(
    store: TargetStore, local: LocalStorage, capture: Callable[..., list[bool]]
) -> None:
    """As where the hardware changed and a last bit flipped: here the unit was first captured with other prompts."""
    capture((0, 0), (1, 0))
    other = store.read_unit(newest(store, 1))
    store.storage.delete("targets/train/log/g0000/00000000.json")
    store.log.commit(entry_of(store, 0, other))
    part(store, local, 0).unlink()
    assert capture((0, 1)) == [True]
    repaired = newest(store, 0)
    assert repaired.content_changed and repaired.supersedes_content_hash == other.content_hash()


def test_a_lost_table_of_ranks_is_not_made_anew(
    store: TargetStore, local: LocalStorage, tiny_moe: Path, capture: Callable[..., list[bool]]
) -> None:
    """A replica that starts after it was lost: with another table, shards that are there would say something else."""
    capture((0, 0))
    for key in store.vocab_order_files.keys:
        local.delete(key)
    again = teacher_of(local, tiny_moe)
    with pytest.raises(DamagedStore, match="put one back from a backup"):
        again.capture([("train", 1, 0)])
    assert not local.exists("targets/train/vocab_order.parquet")


def test_units_made_together_are_those_made_one_by_one(
    store: TargetStore, local: LocalStorage, capture: Callable[..., list[bool]], tmp_path: Path, tiny_moe: Path
) -> None:
    """Each with its own texts, whatever else was in their batches; one that is committed already is left alone."""
    assert capture((1, 0)) == [True]
    assert capture((2, 0), (1, 0), (0, 0)) == [True, False, True]
    together = [store.read_unit(e) for e in store.log.entries()]
    assert [u.rows for u in together] == [6, 3, 6]
    fresh = LocalStorage(tmp_path / "alone")
    shutil.copytree(local.root, fresh.root, ignore=shutil.ignore_patterns("log", "parts"))
    alone = teacher_of(fresh, tiny_moe)
    for unit, made in enumerate(together):
        assert alone.capture([("train", unit, 0)]) == [True]
        entry = TargetStore(fresh, "train").log.entry(unit)
        assert entry is not None
        other = TargetStore(fresh, "train").read_unit(entry)
        assert (made.prompt_uids, made.texts) == (other.prompt_uids, other.texts)
        assert made.tokens.tolist() == other.tokens.tolist() and made.samples.tolist() == other.samples.tolist()
