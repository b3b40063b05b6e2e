"""A control that learns from given answers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from support.small_students import MIX, V, life, live, make_student, student_job

from cluster.storage import LocalStorage
from workers.manifest import write_manifest
from workers.targets.reader import Cursor
from workers.targets.store import TargetStore
from workers.units import Prompt, UnitSize, build_units


def test_it_reads_no_text_that_a_teacher_wrote(
    tmp_path: Path, make_header: Any, make_targets: Any, commit: Any
) -> None:
    """Units that a teacher would answer are not even there: who waited for one would never end."""
    storage, rng = LocalStorage(tmp_path), np.random.default_rng(0)
    store = TargetStore(storage, "train")
    store.create(make_header(vocabulary=V))
    given = [Prompt(f"given{d}{i}", (d,), "t", 1, 1.0, 1.0, 8, [3], [4]) for d in MIX for i in range(6)]
    asked = [Prompt(f"asked{d}{i}", (d,), "t", 1, 1.0, 1.0, 8, [3], None) for d in MIX for i in range(6)]
    plan, blocks = build_units([*given, *asked], MIX, {"t": UnitSize(2)}, 0, "train")
    write_manifest(storage, plan, blocks)
    for unit in plan.given().units:
        names = [p.id for p in blocks[unit.index]]
        assert commit(store, unit.index, make_targets(store.header, rng, names, rng.integers(2, 25, len(names))))
    make_student(tmp_path)
    train = {"tokens": 400, "batch_tokens": 50, "lr": 1e-3}
    live(tmp_path, [life(student_job(tmp_path, "m.given_answers", {"kl": 0, "ce": 1}, train, given_only=True), 1)])
    assert json.loads(storage.read("students/m.given_answers/done.json"))["tokens"] >= 400
    pointer = json.loads(storage.read(storage.keys("students/m.given_answers/log")[-1]))
    cursor = Cursor.from_dict(pointer["cursor"])
    assert all(position.epoch > 0 for position in cursor.domains.values()), "of few texts it begins again"
